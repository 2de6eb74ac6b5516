"""Nodes find each other by multicast DNS between two network namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicdist.cli.exit_codes import ExitCode
from tests.nat.two_homes import why_not
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.io

CALC = "from quicdist import export\n\n\n@export\ndef add(a, b):\n    return a + b\n"

HOSTILE = """
import asyncio, sys
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SERVICE = "_quicdist._udp.local."
RECORDS = [
    {"node": "\\x1b[31mevil@h", "name": "\\x1b[2J"},
    {"node": b"\\xff\\xfe"},
    {"node": "no-host"},
    {},
]

async def main():
    zc = AsyncZeroconf()
    for number, properties in enumerate(RECORDS):
        info = AsyncServiceInfo(
            SERVICE, f"bad {number}.{SERVICE}", port=9, properties=properties,
            server="bad.local.", parsed_addresses=["10.5.0.1"],
        )
        await (await zc.async_register_service(info))
    print("announced", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Lan:
    """Two hosts on one cable, with the addresses 1 and 2 of a network."""

    def __init__(self, home: Path, network: str = "10.5.0.{}/24") -> None:
        self._home = home
        self._network = network
        self._prefix = f"ql{os.getpid() % 100_000}"
        self._running: list[subprocess.Popen[str]] = []

    def quicdist(self, host: int, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            self._argv(host, "-m", "quicdist", *words),
            capture_output=True,
            text=True,
            env=self._env(host),
            timeout=PATIENCE,
            check=False,
        )

    def listing(self, host: int, *words: str, until: str) -> str:
        """Lists the nodes until the output has this text, and returns it."""

        def read() -> str:
            text = self.quicdist(host, "names", "--lan", *words).stdout
            return text if until in text else ""

        return wait_until(read)

    def ended(self, host: int, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Runs a command until it ends with this exit code: a slow host may be found later."""

        def run() -> list[subprocess.CompletedProcess[str]]:
            done = self.quicdist(host, *words)
            assert done.returncode in (code, ExitCode.UNREACHABLE), done.stderr
            return [done] if done.returncode == code else []

        return wait_until(run)[0]

    def start(self, host: int, *words: str, until: str) -> None:
        """Starts a Python program; returns when it has printed a line with `until`."""
        process = subprocess.Popen(
            self._argv(host, *words),
            stdout=-1,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._env(host),
            cwd=self._home,
        )
        self._running.append(process)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if until in line:
                return
        raise AssertionError("".join(lines))

    def open(self) -> None:
        for host in (1, 2):
            _ip("netns", "add", self._space(host))
            for name in ("all", "default"):  # duplicate address detection takes a second
                setting = f"net.ipv6.conf.{name}.accept_dad=0"
                _run("ip", "netns", "exec", self._space(host), "sysctl", "-qw", setting)
        link = ("link", "add", "eth0", "netns", self._space(1), "type", "veth", "peer", "name")
        _ip(*link, "eth0", "netns", self._space(2))
        for host in (1, 2):
            inside = ("-n", self._space(host))
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "addr", "add", self._network.format(host), "dev", "eth0")
            _ip(*inside, "link", "set", "eth0", "up")

    def readdress(self, host: int, old: str, new: str) -> None:
        """Replaces the address of a host."""
        for what, address in (("del", old), ("add", new)):
            _ip("-n", self._space(host), "addr", what, address, "dev", "eth0")

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()
        for host in (1, 2):
            subprocess.run(["ip", "netns", "del", self._space(host)], check=False)

    def _space(self, host: int) -> str:
        return f"{self._prefix}{host}"

    def _argv(self, host: int, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self._space(host), sys.executable, *words]

    def _env(self, host: int) -> dict[str, str]:
        home = self._home / str(host)
        home.mkdir(exist_ok=True)
        return {**os.environ, "HOME": str(home), "QUICDIST_COOKIE": "c", "PYTHONUNBUFFERED": "1"}


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    with opened(Lan(tmp_path)) as network:
        yield network


@contextlib.contextmanager
def opened(network: Lan) -> Iterator[Lan]:
    if why := why_not():
        pytest.skip(f"no bad networks on this machine: {why}")
    try:
        network.open()
        yield network
    finally:
        network.close()


def run_calc(lan: Lan, tmp_path: Path) -> None:
    (tmp_path / "calc.py").write_text(CALC)
    words = ("run", "4433@robot.local", "calc.py", "--listen", "0.0.0.0:4433", "--lan", "app")
    lan.start(1, "-m", "quicdist", *words, "-v", until="is announced")


def test_a_node_is_listed_and_called(lan: Lan, tmp_path: Path) -> None:
    run_calc(lan, tmp_path)
    assert lan.listing(2, until="robot") == "4433@robot.local 10.5.0.1 4433 app\n"
    told = json.loads(lan.listing(2, "--json", until="robot"))
    assert told == {
        "nodes": [
            {"node": "4433@robot.local", "name": "app", "addresses": ["10.5.0.1"], "port": 4433}
        ]
    }
    for node in ("app", "4433@robot.local"):
        called = lan.ended(2, "call", node, "calc:add", "[1, 2]", "--lookup", "lan")
        assert called.stdout == "3\n"


def test_a_node_at_a_relay_is_announced_at_its_own_address(lan: Lan, tmp_path: Path) -> None:
    """Its name leads to the relay, the short name to the node name."""
    lan.start(1, "-m", "quicdist", "relay", "10.5.0.1:4433", until="its key is")
    (tmp_path / "calc.py").write_text(CALC)
    words = ("run", "--via", "4433@10.5.0.1", "calc.py", "--lan", "app")
    lan.start(2, "-m", "quicdist", *words, "-v", until="is announced")
    node, address, _, name = lan.listing(1, until="app").split()
    assert node.endswith("@10.5.0.1")
    assert (address, name) == ("10.5.0.2", "app")
    for each in ("app", node):
        called = lan.ended(1, "call", each, "calc:add", "[1, 2]", "--lookup", "lan")
        assert called.stdout == "3\n"


def test_a_network_without_ipv4(tmp_path: Path) -> None:
    with opened(Lan(tmp_path, "fd00:5::{}/64")) as lan:
        (tmp_path / "calc.py").write_text(CALC)
        words = ("run", "4433@robot.local", "calc.py", "--listen", "[::]:4433", "--lan", "app")
        lan.start(1, "-m", "quicdist", *words, "-v", until="is announced")
        for node in ("app", "4433@robot.local"):
            called = lan.ended(2, "call", node, "calc:add", "[1, 2]", "--lookup", "lan")
            assert called.stdout == "3\n"


def test_an_announcement_follows_the_addresses_of_the_host(lan: Lan, tmp_path: Path) -> None:
    run_calc(lan, tmp_path)
    lan.listing(2, until="10.5.0.1")
    lan.readdress(1, "10.5.0.1/24", "10.5.0.9/24")
    lan.listing(2, until="10.5.0.9")
    lan.ended(2, "call", "4433@robot.local", "calc:add", "[1, 2]", "--lookup", "lan")


CALLS = """
import asyncio
from quicdist import Cause, Lan, NoConnection, Node

async def main():
    async with Node("4434@tool.local", listen="0.0.0.0:4434", cookie="c", lan=Lan()) as node:
        while not await node.ping("app"):
            pass
        assert await node.connect("app") == "4433@robot.local"
        assert node.nodes() == ["4433@robot.local"]
        assert await node.call("app", "calc", "add", [1, 2]) == 3
        assert await node.rpc("app", "calc", "add", [1, 2]) == 3
        await node.cast("app", "calc", "add", [1, 2])
        assert await node.multicall(["app", "app"], "calc", "add", [1, 2]) == [3, 3]
        assert node.disconnect("4433@robot.local")
        answers = [node.call("app", "calc", "add", [number, 0]) for number in range(20)]
        assert await asyncio.gather(*answers) == list(range(20))
        assert not await node.ping("nobody")
        await node.cast("nobody", "calc", "add", [1, 2])
        try:
            await node.connect("nobody")
        except NoConnection as error:
            assert error.cause is Cause.NOT_FOUND, error.cause
            print("well done:", error)

asyncio.run(main())
"""


def test_a_program_uses_short_names(lan: Lan, tmp_path: Path) -> None:
    run_calc(lan, tmp_path)
    lan.start(2, "-c", CALLS, until="well done: no connection to nobody: no node of the local")


def test_a_name_that_nobody_announces(lan: Lan) -> None:
    missing = lan.quicdist(2, "call", "app", "calc:add", "[1, 2]", "--lookup", "lan")
    assert missing.returncode == 3
    assert "no node of the local network is announced with the name 'app'" in missing.stderr


def test_hostile_records_are_ignored_or_escaped(lan: Lan, tmp_path: Path) -> None:
    lan.start(1, "-c", HOSTILE, until="announced")
    assert lan.listing(2, until="evil") == "?[31mevil@h 10.5.0.1 9\n"
    told = json.loads(lan.listing(2, "--json", until="evil"))
    assert [one["node"] for one in told["nodes"]] == ["\x1b[31mevil@h"]


FALSE = """
import asyncio
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
from quicdist.cluster.lan import SERVICE, label_of

async def main():
    zc = AsyncZeroconf()
    info = AsyncServiceInfo(
        SERVICE, f"{label_of('4433@bank.local')}.{SERVICE}", port=4433, server="false.local.",
        properties={"node": "4433@bank.local", "name": "bank"}, parsed_addresses=["10.5.0.1"],
    )
    await (await zc.async_register_service(info))
    print("announced", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_name_that_points_to_another_node_fails(lan: Lan, tmp_path: Path) -> None:
    """The node at the announced address says that it has another name."""
    run_calc(lan, tmp_path)
    lan.start(2, "-c", FALSE, until="announced")
    for node in ("bank", "4433@bank.local"):
        called = lan.ended(
            2, "call", node, "calc:add", "[1, 2]", "--lookup", "lan", code=ExitCode.REFUSED
        )
        assert not called.stdout


FLOOD = """
import itertools, os, socket, struct

def name(*labels):
    return b"".join(bytes([len(one)]) + one for one in labels) + bytes(1)

SERVICE = (b"_quicdist", b"_udp", b"local")

def record(owner, kind, data):
    return owner + struct.pack(">HHIH", kind, 1, 4500, len(data)) + data

def answer(number):
    instance = name(b"%d" % number, *SERVICE)
    host = name(b"h%d" % number, b"local")
    huge = b"".join(bytes([255]) + os.urandom(255) for _ in range(20))
    pairs = (b"node=%d@h.local" % (1024 + number), b"name=app")
    texts = b"".join(bytes([len(one)]) + one for one in pairs)
    records = [
        record(name(*SERVICE), 12, instance),
        record(instance, 33, struct.pack(">HHH", 0, 0, 9) + host),
        record(instance, 16, texts + huge),
        record(host, 1, bytes([10, 5, 0, 1])),
    ]
    return struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("10.5.0.1", 0))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.5.0.1"))
    print("floods", flush=True)
    for number in itertools.count():
        sock.sendto(answer(number % 60000), ("224.0.0.251", 5353))
        if number % 50 == 0:
            sock.sendto(os.urandom(1400), ("224.0.0.251", 5353))
"""


def test_a_flood_of_announcements_is_bounded(lan: Lan) -> None:
    lan.start(1, "-c", FLOOD, until="floods")
    listed = lan.quicdist(2, "names", "--lan", "--timeout", "3")
    assert listed.returncode == 0, listed.stderr
    assert len(listed.stdout.splitlines()) <= 256
    missing = lan.quicdist(2, "call", "app", "calc:add", "[1, 2]", "--lookup", "lan")
    assert missing.returncode == 3
    assert len(missing.stderr) < 1000


PING = """
import os, sys
os.execvp("erl", ["erl", "-noinput", "-sname", sys.argv[1], "-setcookie", "c",
    "-start_epmd", "false",
    "-epmd_module", "quicdist_epmd", "-pa", ".", "-kernel", "inet_dist_use_interface",
    "{127,0,0,1}", "-eval", sys.argv[2]])
"""
"""Runs a stock Erlang node beside its gateway."""


@pytest.mark.erlang
def test_two_erlang_nodes_behind_gateways(lan: Lan, tmp_path: Path) -> None:
    for host, name in ((1, "shop"), (2, "app")):
        words = (f"{name}@site{host}", "--listen", f"10.5.0.{host}:4433", "--lan", name)
        emit = ("--emit-module", "--module-dir", str(tmp_path))
        lan.start(host, "-m", "quicdist", "gateway", *words, *emit, "-v", until="is announced")
    lan.start(1, "-c", PING, "shop@site1", 'io:format("up~n").', until="up")
    ping = 'io:format("~p~n", [net_adm:ping(shop@site1)]).'
    lan.start(2, "-c", PING, "app@site2", ping, until="pong")


def test_an_announcement_is_not_trusted(lan: Lan, tmp_path: Path) -> None:
    """The node that answers at the announced address must have the cookie."""
    (tmp_path / "calc.py").write_text(CALC)
    words = ("run", "4433@robot.local", "calc.py", "--listen", "0.0.0.0:4433", "--lan", "app")
    lan.start(1, "-m", "quicdist", *words, "--cookie", "other", "-v", until="is announced")
    lan.ended(2, "call", "app", "calc:add", "[1, 2]", "--lookup", "lan", code=ExitCode.REFUSED)
