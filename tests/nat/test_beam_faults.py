"""A relay that lies, and processes that are killed, while stock nodes transfer much.

Each transfer ends, with the exact bytes or with an error, and works again after a restart.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from quicdist.gateway import emit_module, erl_arguments
from tests.nat.conftest import Sites
from tests.nat.kinds import DOUBLE_SYMMETRIC, SYMMETRIC
from tests.nat.lab import CORE, Lab, Site
from tests.nat.namespaces import run
from tests.nat.processes import COOKIE, RELAY_PORT, Process, gateway
from tests.support.erlang import ERL, Erlang
from tests.support.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.erlang, pytest.mark.slow]

_RELAY = """
import asyncio, random, sys
from quicdist.carriers.relay.port import Port
forward, leaves = Port._forward, Port.leaves

def lie(send, data, *rest):
    chance, loop = random.random(), asyncio.get_running_loop()
    if chance < 0.02:
        return True
    if chance < 0.06:
        at = random.randrange(len(data) // 2, len(data))
        return send(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:], *rest)
    if chance < 0.1:
        loop.call_later(0.3, send, data, *rest)
    elif chance < 0.2:
        loop.call_later(0.01, send, data, *rest)
        return True
    return send(data, *rest)

if sys.argv.pop(1) == "lies":
    Port._budget = lambda *given: 0  # nothing passes beside the lie
    Port._forward = lambda port, client, data, size, now: lie(
        lambda data: forward(port, client, data, size, now), bytes(data))
    Port.leaves = lambda port, to, data, size, head, now: lie(
        lambda data: leaves(port, to, data, size, head, now), bytes(data))
from quicdist.cli import main
main()
"""

_TRANSFER = """
Peer = binary_to_atom(In), Bytes = crypto:strong_rand_bytes(SIZE), Digest = erlang:md5(Bytes),
case rpc:call(Peer, erlang, md5, [Bytes], TIMEOUT) of
    Digest -> "exact";
    {badrpc, nodedown} -> "nodedown";
    Other -> io_lib:format("~0p", [Other])
end.
"""


class Home:
    """A stock node behind a gateway. `kill` and `start` take the name of one of the two."""

    def __init__(self, site: Site, folder: Path, module_dir: Path) -> None:
        self._site, self._folder, self._module_dir = site, folder, module_dir
        self.name = ""

    def start(self, what: str) -> None:
        if what == "gateway":
            self._gateway = gateway(self._site.node, self._folder, self._module_dir)
            up = self._gateway.read()
            assert self.name in ("", up["gateway"])
            self.name, self._port = up["gateway"], str(up["epmd_port"])
            return
        words = [*erl_arguments(self._module_dir), "-epmd_port", self._port]
        settings = ["-kernel", "net_ticktime", "15"]
        with self._site.node.entered():
            self._erlang = Erlang(
                *("-name", self.name, "-setcookie", COOKIE, *words, *settings),
                env={"HOME": str(self._folder)},
            )
        self._erlang.eval("[].")

    def kill(self, what: str) -> None:
        if what == "gateway":
            self._gateway.kill()
            self._gateway.close()
        else:
            self._erlang.close()

    def close(self) -> None:
        self._erlang.close()
        self._gateway.kill()
        self._gateway.close()

    def transfer(self, to: Home, size: int = 64 << 20) -> str:
        """Transfers random bytes. Returns `exact`, or `nodedown` for an error."""
        source = _TRANSFER.replace("TIMEOUT", str(int(PATIENCE * 1000)))
        source = source.replace("SIZE", str(size))
        outcome = self._erlang.eval(source, to.name.encode()).decode()
        assert outcome in ("exact", "nodedown")
        return outcome

    def received(self) -> int:
        """Returns the bytes that the network device of the home has received."""
        words = ["cat", "/sys/class/net/eth0/statistics/rx_bytes"]
        return int(run(self._site.node.command(words)))


class Scene:
    """Two homes and a relay between them."""

    def __init__(self, lab: Lab, sites: Sites, folder: Path) -> None:
        emit_module(folder, erl=ERL)
        self._lab, self._folder = lab, folder
        kinds = (DOUBLE_SYMMETRIC, SYMMETRIC)
        self.one, self.other = (
            Home(sites(kind, side), folder / f"home{side}", folder)
            for side, kind in enumerate(kinds)
        )

    def start(self, what: str, how: str = "honest") -> None:
        if what != "relay":
            self.other.start(what)
            return
        words = [sys.executable, "-c", _RELAY, how, "relay", f"{CORE}:{RELAY_PORT}", "--log-json"]
        self._relay = Process(self._lab.core, words, self._folder / "relay")
        assert self._relay.read()["status"] == "up"

    def kill(self, what: str) -> None:
        if what == "relay":
            self._relay.kill()
            self._relay.close()
        else:
            self.other.kill(what)

    def close(self) -> None:
        self.one.close()
        self.other.close()
        self._relay.kill()
        self._relay.close()


Begin = Callable[[str], Scene]


@pytest.fixture
def begin(lab: Lab, sites: Sites, tmp_path: Path) -> Iterator[Begin]:
    """Starts a scene with a relay that is honest or lies."""
    with ExitStack() as stack:

        def started(how: str) -> Scene:
            scene = Scene(lab, sites, tmp_path)
            scene.start("relay", how)
            for home in (scene.one, scene.other):
                home.start("gateway")
                home.start("beam")
            stack.callback(scene.close)
            return scene

        yield started


def test_a_relay_that_lies_changes_no_byte(begin: Begin) -> None:
    scene = begin("lies")
    wait_until(lambda: scene.one.transfer(scene.other, 16 << 20) == "exact")


@pytest.mark.parametrize(
    "order",
    [
        ("gateway", "relay", "beam"),
        ("relay", "beam", "gateway"),
        ("beam", "gateway", "relay"),
    ],
    ids="-".join,
)
def test_a_transfer_ends_when_all_is_killed_and_works_again_after_that(
    begin: Begin, order: Sequence[str]
) -> None:
    scene = begin("honest")
    wait_until(lambda: scene.one.transfer(scene.other) == "exact")
    with ThreadPoolExecutor() as pool:
        before = scene.other.received()
        transfer = pool.submit(scene.one.transfer, scene.other)
        wait_until(lambda: transfer.done() or scene.other.received() > before + (4 << 20))
        for what in order:
            scene.kill(what)
        transfer.result(PATIENCE)
    for what in ("relay", "gateway", "beam"):
        scene.start(what)
    wait_until(lambda: scene.one.transfer(scene.other) == "exact")
