"""A relay, nodes and gateways in namespaces, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.nat.lab import CORE
from tests.nat.namespaces import Namespace
from tests.support.closing import Closing

COOKIE = "nat"
RELAY_PORT = 4433
VIA = f"{RELAY_PORT}@{CORE}"

_NODE = """
import asyncio, json, sys
from quicdist import Node
async def main(via, cookie):
    node = Node(via=via, cookie=cookie) if via else Node(sys.argv[3], cookie=cookie)
    async with node, node.mailbox("sink") as sink:
        print(json.dumps(node.name), flush=True)
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        await loop.connect_read_pipe(lambda: protocol, sys.stdin)
        while line := await reader.readline():
            what, *rest = json.loads(line)
            if what == "ping":
                answer = await node.ping(rest[0])
            elif what == "send":
                await node.send(("sink", rest[0]), bytes(rest[1]))
                answer = True
            elif what == "receive":
                answer = len(await sink.receive(timeout=60))
            elif what == "relay":
                status = node.relay
                answer = [status.way, status.observed, status.dropped, status.forged]
            elif what == "peers":
                answer = [peer.name for peer in node.stats().connections]
            elif what == "moves":
                answer = [peer.traffic.migrations for peer in node.stats().connections]
            print(json.dumps(answer), flush=True)
asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


class Process(Closing):
    """A process in a namespace that reads and writes JSON, one value in a line."""

    def __init__(self, space: Namespace, words: Sequence[str], state: Path) -> None:
        self._process = subprocess.Popen(
            space.command(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "QUICDIST_STATE_DIR": str(state), "HOME": str(state)},
        )

    def read(self) -> Any:
        """Returns the next value that it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process has ended"
        return json.loads(line)

    def ask(self, *what: object) -> Any:
        """Sends a request and returns the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self.read()

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Stops it as SIGTERM does."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def relay(space: Namespace, state: Path) -> Process:
    """A relay at 203.0.113.10, UDP 4433 and TCP 443, that is up."""
    words = [*_command("relay"), f"{CORE}:{RELAY_PORT}", "--tcp", "443", "--log-json"]
    process = Process(space, words, state)
    assert process.read()["status"] == "up"
    return process


class NodeProcess(Process):
    """A node that is up; `name` is its name."""

    def __init__(self, space: Namespace, state: Path, name: str = "") -> None:
        """Without a name the relay gives it one."""
        via = "" if name else VIA
        super().__init__(space, [sys.executable, "-c", _NODE, via, COOKIE, name], state)
        self.name: str = self.read()

    def ping(self, other: str) -> bool:
        """Whether the other node answers."""
        answer: bool = self.ask("ping", other)
        return answer


def gateway(space: Namespace, state: Path, module_dir: Path, name: str = "") -> Process:
    """A gateway; its first value tells its name and the command for the node.

    Without a name the relay gives it one.
    """
    named = [name] if name else ["--via", VIA]
    words = [*_command("gateway"), *named, "--json", "--module-dir", str(module_dir)]
    return Process(space, words, state)


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", "quicdist", name]
