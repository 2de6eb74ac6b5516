"""A pseudo-terminal that runs a command, shows its screen and sends keys."""

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
    """Answers cursor position queries, as terminals do."""

    answer: Callable[[str], object]

    def write_process_input(self, data: str) -> None:
        self.answer(data)


class Terminal(Closing):
    """Runs a command in a terminal, by default 100 by 24; kills it at the end if it still runs."""

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
        # The first process to open it in a new session receives its Ctrl-C.
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
        """Returns the text on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def press(self, keys: str) -> None:
        """Sends keys."""
        os.write(self._master, keys.encode())

    def wait_for(self, shown: str | Callable[[str], bool], patience: float = PATIENCE) -> str:
        """Waits until the screen shows a text or satisfies a condition, and returns the screen."""
        is_right = shown if callable(shown) else lambda text: shown in text
        deadline = time.monotonic() + patience
        while not is_right(self.text):
            assert time.monotonic() < deadline, f"still not {shown!r}:\n{self.text}"
            if not self._read(0.2):
                assert is_right(self.text), f"ended without {shown!r}:\n{self.text}"
        return self.text

    def press_until(self, keys: str, shown: str) -> None:
        """Repeats keys until a text is shown, because early keys are lost."""
        deadline = time.monotonic() + PATIENCE
        while shown not in self.text:
            assert time.monotonic() < deadline, f"still not {shown!r}:\n{self.text}"
            self.press(keys)
            self._read(1.0)

    def end(self, keys: str = "") -> int:
        """Sends keys until the command exits and returns the exit code."""
        deadline = time.monotonic() + PATIENCE
        pressed = 0.0
        while self._read(0.2):
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
            if keys and time.monotonic() > pressed + 1:
                self.press(keys)
                pressed = time.monotonic()
        return self.process.wait(PATIENCE)

    def _read(self, seconds: float) -> bool:
        """Reads the terminal. Returns False after the command has closed it."""
        ready, _, _ = select.select([self._master], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux's error when the other end is closed
            return False
        self._let_go()
        self._stream.feed(data)
        return bool(data)

    def _let_go(self) -> None:
        """Closes the end of the command in this process, so that it closes with the command."""
        if self._slave is not None:
            os.close(self._slave)
            self._slave = None
