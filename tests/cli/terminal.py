"""A terminal to run a command in: what it shows, and keys to press."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pyte

from tests.cli.conftest import PATIENCE


class Terminal:
    """80 by 24, or as told; the command is killed at the end if it still runs."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        columns: int = 100,
        lines: int = 24,
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**env, "TERM": "xterm", "COLUMNS": str(columns), "LINES": str(lines)},
            cwd=cwd,
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def text(self) -> str:
        """What is on it."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def press(self, keys: str) -> None:
        """As they come from a keyboard."""
        os.write(self._master, keys.encode())

    def wait_for(self, shown: str | Callable[[str], bool]) -> str:
        """Until that text is shown, or what is shown is found right; what is shown then."""
        is_right = shown if callable(shown) else lambda text: shown in text
        deadline = time.monotonic() + PATIENCE
        while not is_right(self.text):
            assert time.monotonic() < deadline, f"still not {shown!r}:\n{self.text}"
            if not self._read(0.2):
                assert is_right(self.text), f"ended without {shown!r}:\n{self.text}"
        return self.text

    def end(self) -> int:
        """Waits for the command to end; its exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(0.2):
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
        return self.process.wait(PATIENCE)

    def _read(self, seconds: float) -> bool:
        """False when the command has closed it."""
        ready, _, _ = select.select([self._master], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # what Linux says when nobody has the other end any more
            return False
        self._stream.feed(data)
        return bool(data)
