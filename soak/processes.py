"""Starts, watches, kills and restarts the processes of a soak."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

COUNTED = ("sent", "received", "bytes", "lost", "twice", "corrupt", "nodeup", "nodedown")


class Kind(enum.Enum):
    """The kind of a process."""

    PYTHON = "Python node"
    GATEWAY = "gateway"
    ERLANG = "Erlang node"


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of a process: seconds since the start of the soak, resident KiB, counters."""

    at: float
    memory: int
    blocks: int
    files: int
    tasks: int
    connected: int


@dataclass
class Member:
    """One process with all its incarnations."""

    kind: Kind
    name: str
    command: list[str]
    began: float
    may_die: bool = True
    directory: Path = Path()
    totals: Counter[str] = field(default_factory=Counter)
    """Counters of previous incarnations."""
    now: Counter[str] = field(default_factory=Counter)
    """Latest counters of the current incarnation."""
    samples: list[Sample] = field(default_factory=list)
    """Samples of the current incarnation."""
    kills: int = 0
    moves: int = 0
    deaths: int = 0
    """Number of unexpected exits."""
    process: asyncio.subprocess.Process | None = None
    is_wanted: bool = False

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}"

    async def start(self) -> None:
        """Runs the process until it is killed; counts an unexpected exit and restarts it."""
        log = (self.directory / f"{self.kind.name.lower()}-{self.name}.log").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**os.environ, "QUICDIST_STATE_DIR": str(self.directory / self.name)},
        )
        log.close()
        self.is_wanted = True
        self._reading = asyncio.create_task(self._read(self.process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            with contextlib.suppress(ValueError):
                self.now = Counter(json.loads(line))
                self._sample(process.pid)
        await process.wait()
        self.totals += Counter({key: self.now[key] for key in COUNTED})
        self.now = Counter()
        if self.is_wanted and process is self.process:
            self.deaths += 1
            await asyncio.sleep(1)
            await self.start()

    def _sample(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            _, is_there, rest = status.partition("VmRSS:")
            if not is_there:
                return  # killed at this moment
            memory = int(rest.split()[0])
            files = len(os.listdir(f"/proc/{pid}/fd"))
            at = time.monotonic() - self.began
            now = self.now
            counts = (now[key] for key in ("tasks", "connected"))
            self.samples.append(Sample(at, memory, now["blocks"], files, *counts))

    def order(self, order: str) -> None:
        """Writes one line to its standard input."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.write(order.encode() + b"\n")

    async def kill(self) -> None:
        """Sends SIGKILL."""
        self.is_wanted = False
        process = self.process
        if process is not None and process.returncode is None:
            self.kills += 1
            process.kill()
            await process.wait()
            await self._reading
        self.samples = []

    def stop(self, seconds: float) -> None:
        """Stops the process with SIGSTOP for `seconds`."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(seconds, self._go_on, process)

    @staticmethod
    def _go_on(process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)

    def count(self, key: str) -> int:
        """Returns the sum of a counter over all incarnations."""
        return self.totals[key] + self.now[key]


def python_command(module: str, *args: str) -> list[str]:
    """Returns the command of a Python process of the soak."""
    return [sys.executable, "-m", module, *args]
