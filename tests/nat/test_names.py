"""Nodes behind NATs that are named by their private addresses, in network namespaces."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nat.two_homes import INSIDE, SERVER, TwoHomes, why_not

pytestmark = pytest.mark.io

HUB = f"4433@{SERVER}"
NATED = f"4433@{INSIDE}"

NODE = """
import asyncio, json, logging, sys
from pathlib import Path
from quicdist import NoConnection, Node, NodeLimits
from quicdist.carriers.trust import Identity, Trust

class Log(logging.Handler):
    def emit(self, record):
        say(event=getattr(record, "event", ""), cause=getattr(record, "cause", ""))

def say(**fields):
    print(json.dumps(fields), flush=True)

async def main(name, folder):
    logging.getLogger("quicdist").addHandler(Log())
    listen = name.partition("@")[2] + ":" + name.partition("@")[0]
    identity = Identity.kept([name.partition("@")[2]], folder)
    trust = Trust.first_use(Path(folder) / "known_nodes")
    # An attempt that is given up early does not take all of this time.
    limits = NodeLimits(connect_timeout=3600)
    async with Node(
        name, cookie="c", listen=listen, identity=identity, trust=trust, limits=limits
    ) as node:
        say(up=node.name)
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            try:
                await node.connect(line)
                say(connected=line)
            except NoConnection as error:
                say(cause=error.cause.value, text=error.reason)

asyncio.run(main(*sys.argv[1:]))
"""


class Program:
    """A node in a process of its own."""

    def __init__(self, lab: TwoHomes, space: str, name: str, folder: Path) -> None:
        folder.mkdir()
        self._process: subprocess.Popen[str] = lab.start(space, "-c", NODE, name, str(folder))
        self.events: list[tuple[str, str]] = []
        assert self._next("up")["up"] == name

    def connect(self, node: str) -> dict[str, object]:
        """Connects to a node and returns the outcome."""
        assert self._process.stdin is not None
        self._process.stdin.write(node + "\n")
        self._process.stdin.flush()
        return self._next("connected", "text")

    def logged(self, event: str) -> str:
        """Returns the cause of the next log record of this kind."""
        while (fields := self._next("event"))["event"] != event:
            pass
        return str(fields["cause"])

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _next(self, *keys: str) -> dict[str, object]:
        assert self._process.stdout is not None
        lines = []
        for line in self._process.stdout:
            lines.append(line)
            try:
                fields: dict[str, object] = json.loads(line)
            except ValueError:
                continue
            if any(key in fields for key in keys):
                return fields
        raise AssertionError("".join(lines))


@pytest.fixture
def lab() -> Iterator[TwoHomes]:
    if why := why_not():
        pytest.skip(f"no bad networks on this machine: {why}")
    with TwoHomes() as homes:
        yield homes


def test_two_nodes_with_the_same_private_address_raise_no_key_alarm(
    lab: TwoHomes, tmp_path: Path
) -> None:
    hub = Program(lab, "s", HUB, tmp_path / "s")
    first = Program(lab, "a", NATED, tmp_path / "a")
    second = Program(lab, "b", NATED, tmp_path / "b")
    assert first.connect(HUB) == {"connected": HUB}
    refused = second.connect(HUB)
    assert refused["cause"] == "not_allowed"
    assert "via" in str(refused["text"])
    assert NATED in str(refused["text"])
    assert hub.logged("not_believed") == "name_ambiguous"


def test_a_changed_key_at_the_same_address_raises_an_alarm(lab: TwoHomes, tmp_path: Path) -> None:
    hub = Program(lab, "s", HUB, tmp_path / "s")
    first = Program(lab, "na", "4433@203.0.113.21", tmp_path / "a")
    assert first.connect(HUB) == {"connected": HUB}
    first.stop()
    impostor = Program(lab, "na", "4433@203.0.113.21", tmp_path / "b")
    assert impostor.connect(HUB)["cause"] == "not_allowed"
    assert hub.logged("not_believed") == "key_changed"


@pytest.mark.parametrize(
    ("space", "name", "node"),
    [
        ("s", HUB, "4444@192.168.7.9"),
        ("s", HUB, "rabbit@192.168.7.9"),
        ("a", NATED, "4444@192.168.7.9"),
        ("a", NATED, "4444@100.64.0.9"),
    ],
)
def test_a_private_name_of_another_network_fails_early(
    lab: TwoHomes, tmp_path: Path, space: str, name: str, node: str
) -> None:
    failed = Program(lab, space, name, tmp_path / "x").connect(node)
    assert failed["cause"] == "behind_nat"
    assert "via" in str(failed["text"])


def test_a_node_that_connected_from_behind_a_nat_is_known_to_be_there(
    lab: TwoHomes, tmp_path: Path
) -> None:
    hub = Program(lab, "s", HUB, tmp_path / "s")
    first = Program(lab, "a", NATED, tmp_path / "a")
    assert first.connect(HUB) == {"connected": HUB}
    first.stop()
    hub.logged("peer_down")
    failed = hub.connect(NATED)
    assert failed["cause"] == "behind_nat"
    assert "203.0.113.21" in str(failed["text"])
