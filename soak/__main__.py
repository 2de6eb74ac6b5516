"""`python -m soak --seconds 600`: runs the soak, prints figures, and fails if messages are lost."""

from __future__ import annotations

import argparse
import asyncio
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quicdist.gateway import emit_module, erl_arguments
from soak import report
from soak.processes import Kind, Member, python_command

COOKIE = "soaking"
SETTLING = 40.0
"""Seconds at the end without faults, in which all nodes must reconnect."""


class Soak:
    """All members and the random generator."""

    def __init__(self, arguments: argparse.Namespace, directory: Path) -> None:
        self.seconds: float = arguments.seconds
        self.pause: float = arguments.pause
        self.random = random.Random(arguments.seed)
        self.began = time.monotonic()
        self.directory = directory
        self.members: list[Member] = []
        pythons = _names(arguments.python)
        erlangs = _names(arguments.erlang) if shutil.which("erl") else []
        everyone = pythons + erlangs
        for number, name in enumerate(everyone):
            peers = [peer for peer in everyone if peer != name]
            settings = [str(float(arguments.rate)), str(arguments.seed)]
            if name in pythons:
                command = python_command("soak.python_node", name, COOKIE, *settings, *peers)
                self._add(Kind.PYTHON, name, command, may_die=number > 0)
                continue
            is_first = number == len(pythons)
            command = python_command("soak.gateway_node", name)
            self._add(Kind.GATEWAY, name, command, may_die=not is_first)
            erl = [
                *("erl", "-noshell", "-hidden", "-name", name, "-setcookie", COOKIE),
                *("-connect_all", "false", "-kernel", "net_ticktime", "8"),
                *("-kernel", "logger_level", "critical"),
                *erl_arguments(directory),
                *("-s", "soak", "-extra", *settings, *peers),
            ]
            self._add(Kind.ERLANG, name, erl, may_die=not is_first)

    def _add(self, kind: Kind, name: str, command: list[str], *, may_die: bool) -> None:
        member = Member(kind, name, command, self.began, may_die, self.directory)
        self.members.append(member)

    async def run(self) -> list[str]:
        """Returns the violations found."""
        for member in self.members:
            await member.start()
        end = self.began + self.seconds
        try:
            while (left := end - SETTLING - time.monotonic()) > 0:
                await asyncio.sleep(min(left, self.random.expovariate(1 / self.pause)))
                await self._happen()
            await asyncio.sleep(max(0.0, end - time.monotonic()))
            return report.wrong(self.members)
        finally:
            for member in self.members:
                member.is_wanted = False
                if member.process is not None and member.process.returncode is None:
                    member.process.kill()
                    await member.process.wait()

    async def _happen(self) -> None:
        """Injects one random fault."""
        kinds = ("kill", "kill", "rebind", "rebind", "away", "stop")
        kind = self.random.choice(kinds)
        if kind == "kill":
            member = self.random.choice([one for one in self.members if one.may_die])
            self._say(f"kill -9 {member}")
            await member.kill()
            await asyncio.sleep(self.random.uniform(0.1, 3))
            await member.start()
            return
        member = self.random.choice([one for one in self.members if one.kind is not Kind.ERLANG])
        self._say(f"{kind} {member}")
        if kind == "stop":
            member.stop(self.random.choice((0.5, 2, 12)))
            return
        member.moves += 1
        member.order(kind)
        if kind == "away":
            asyncio.get_running_loop().call_later(self.random.uniform(1, 8), member.order, "home")

    def _say(self, what: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s  {what}", file=sys.stderr, flush=True)


def _names(count: int) -> list[str]:
    """Returns UDP and TCP ports that are free on loopback."""
    names = []
    for _ in range(count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", 0))
            names.append(f"{udp.getsockname()[1]}@127.0.0.1")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--python", type=int, default=3, help="Python nodes")
    parser.add_argument("--erlang", type=int, default=2, help="Erlang nodes, each with a gateway")
    parser.add_argument("--rate", type=float, default=50, help="messages a second of each node")
    parser.add_argument("--pause", type=float, default=8, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a directory for the logs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quicdist-soak-") as made:
        directory = arguments.keep or Path(made)
        directory.mkdir(parents=True, exist_ok=True)
        emit_module(directory)
        if shutil.which("erlc"):
            source = Path(__file__).with_name("soak.erl")
            subprocess.run(["erlc", "-o", str(directory), str(source)], check=True)
        soak = Soak(arguments, directory)
        wrong = asyncio.run(soak.run())
    command = shlex.join(["python", "-m", "soak", *sys.argv[1:]])
    print(report.page(soak.members, command, arguments.pause))
    for line in wrong:
        print(line)
    verdict = "no losses, no unexpected exits, all nodes reconnected"
    if wrong:
        verdict = f"{len(wrong)} violations"
    print(f"{arguments.seconds:g} s, seed {arguments.seed}: {verdict}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
