"""A public node calls a node behind a NAT that has forgotten its mapping, in network namespaces."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nat.two_homes import INSIDE, SERVER, TwoHomes, why_not
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.io

_FORGETS = 8
"""Seconds after which the NAT forgets an idle mapping. Keep-alive datagrams are a second apart."""

HUB = f"4433@{SERVER}"
NATED = f"4433@{INSIDE}"

NODE = """
import asyncio, json, sys, time, types
from pathlib import Path
from quicdist import CallTimeout, Identity, Node, Quic, Trust, export
from quicdist.limits import CarrierLimits, NodeLimits

calc = types.ModuleType("calc")

@export
def add(a, b):
    return a + b

add.__module__ = "calc"
calc.add = add

def say(**fields):
    print(json.dumps(fields), flush=True)

async def main(name, peer, folder, quic, **limits):
    ip = name.partition("@")[2]
    async with Node(
        name,
        cookie="c",
        listen=ip + ":4433",
        identity=Identity.kept([ip], folder),
        trust=Trust.first_use(Path(folder) / "known_nodes"),
        exports=[calc],
        carriers=[Quic(limits=CarrierLimits(**limits), **quic)],
        limits=NodeLimits(net_ticktime=240),
    ) as node:
        if peer:
            await node.connect(peer)
        say(up=name)
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            peer, timeout = line.split()
            try:
                say(result=await node.call(peer, "calc", "add", [1, 2], timeout=float(timeout)))
            except CallTimeout as error:
                say(result=str(error))

asyncio.run(main(**json.loads(sys.argv[1])))
"""


class Program:
    """A node in a process of its own, with ticks a minute apart."""

    def __init__(self, lab: TwoHomes, space: str, **settings: object) -> None:
        words = json.dumps(settings)
        self._process: subprocess.Popen[str] = lab.start(space, "-c", NODE, words)
        self._next("up")

    def call(self, node: str, timeout: float = PATIENCE) -> object:
        """Calls calc:add(1, 2) on a node. Returns the result, or the text of the error."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{node} {timeout}\n")
        self._process.stdin.flush()
        return self._next("result")

    def _next(self, key: str) -> object:
        assert self._process.stdout is not None
        lines = []
        for line in self._process.stdout:
            lines.append(line)
            if line.startswith("{") and key in (fields := json.loads(line)):
                return fields[key]
        raise AssertionError("".join(lines))


@pytest.fixture
def lab() -> Iterator[TwoHomes]:
    if why := why_not():
        pytest.skip(f"no bad networks on this machine: {why}")
    with TwoHomes() as homes:
        yield homes


def pair(lab: TwoHomes, tmp_path: Path, *, probe_silence: float, keep_alive: float) -> Program:
    """Starts a node behind the NAT that dials the hub; returns the hub."""
    programs = []
    for space, name, peer in (("s", HUB, ""), ("a", NATED, HUB)):
        folder = tmp_path / space
        folder.mkdir()
        programs.append(
            Program(
                lab,
                space,
                name=name,
                peer=peer,
                folder=str(folder),
                quic={"probe_silence": probe_silence},
                keep_alive=keep_alive,
            )
        )
    return programs[0]


def test_no_call_is_lost_when_the_nat_forgets_everything(lab: TwoHomes, tmp_path: Path) -> None:
    hub = pair(lab, tmp_path, probe_silence=0.75, keep_alive=20.0)
    assert hub.call(NATED) == 3
    for _ in range(3):
        lab.forget("na")
        assert hub.call(NATED) == 3


def test_an_idle_mapping_is_kept(lab: TwoHomes, tmp_path: Path) -> None:
    lab.forget_after("na", _FORGETS)
    hub = pair(lab, tmp_path, probe_silence=0.0, keep_alive=1.0)
    assert hub.call(NATED) == 3
    time.sleep(1.5 * _FORGETS)
    assert hub.call(NATED) == 3


def test_without_it_the_mapping_is_lost(lab: TwoHomes, tmp_path: Path) -> None:
    lab.forget_after("na", 2)
    hub = pair(lab, tmp_path, probe_silence=0.0, keep_alive=0.0)
    assert hub.call(NATED) == 3
    time.sleep(4)  # the kernel's timeout runs from the last datagram
    assert "was not answered" in str(hub.call(NATED, 3.0))
