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

import pyte

from tests.support.closing import Closing
from tests.support.waiting import PATIENCE


class _Screen(pyte.Screen):
    """Says where the cursor is when it is asked, as terminals do."""

    answer: Callable[[str], object]

    def write_process_input(self, data: str) -> None:
        self.answer(data)


class Terminal(Closing):
    """100 by 24, or as told; the command is killed at the end if it still runs."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        columns: int = 100,
        lines: int = 24,
    ) -> None:
        self._master, slave = pty.openpty()
        name = os.ttyname(slave)
        self._slave: int | None = slave
        self.screen = _Screen(columns, lines)
        self.screen.answer = lambda data: os.write(self._master, data.encode())
        self._stream = pyte.ByteStream(self.screen)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        # Whoever opens it first in a new session is who its Ctrl-C interrupts.
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec "$0" "$@" <{name} >{name} 2>&1', *command],
            stdin=subprocess.DEVNULL,
            env={**env, "TERM": "xterm", "COLUMNS": str(columns), "LINES": str(lines)},
            cwd=cwd,
            start_new_session=True,
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        self._let_go()

    @property
    def text(self) -> str:
        """What is on it."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def press(self, keys: str) -> None:
        """As they come from a keyboard."""
        os.write(self._master, keys.encode())

    def wait_for(self, shown: str | Callable[[str], bool], patience: float = PATIENCE) -> str:
        """Until that text is shown, or what is shown is found right; what is shown then."""
        is_right = shown if callable(shown) else lambda text: shown in text
        deadline = time.monotonic() + patience
        while not is_right(self.text):
            assert time.monotonic() < deadline, f"still not {shown!r}:\n{self.text}"
            if not self._read(0.2):
                assert is_right(self.text), f"ended without {shown!r}:\n{self.text}"
        return self.text

    def press_until(self, keys: str, shown: str) -> None:
        """Again and again: what is pressed before somebody waits for it is lost."""
        deadline = time.monotonic() + PATIENCE
        while shown not in self.text:
            assert time.monotonic() < deadline, f"still not {shown!r}:\n{self.text}"
            self.press(keys)
            self._read(1.0)

    def end(self, keys: str = "") -> int:
        """Presses keys until the command ends; its exit code."""
        deadline = time.monotonic() + PATIENCE
        pressed = 0.0
        while self._read(0.2):
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
            if keys and time.monotonic() > pressed + 1:
                self.press(keys)
                pressed = time.monotonic()
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
        self._let_go()
        self._stream.feed(data)
        return bool(data)

    def _let_go(self) -> None:
        """The command has it open: from now on it closes with that."""
        if self._slave is not None:
            os.close(self._slave)
            self._slave = None
