"""Prints the output of called functions between the output of the command."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TextIO

from quicdist.cli.sanitize import sanitized

_QUIET = 0.3
"""Seconds without output after which an incomplete line above a prompt is ended."""


class RemoteOutput:
    """Prints text immediately. Call `end_line` before other output, which then starts a line."""

    def __init__(self, stream: Callable[[], TextIO]) -> None:
        """`stream` returns the stream for each write, because a prompt replaces it."""
        self._stream = stream
        self._is_amid_line = False
        self._is_above_prompt = False
        self._quiet: asyncio.TimerHandle | None = None

    def __call__(self, text: str) -> None:
        """Prints text of the called function. Control characters are replaced."""
        if not text:
            return
        self._follow()
        self._write(sanitized(text, keep="\n\t"))
        self._is_amid_line = not text.endswith("\n")
        if self._is_amid_line and self._is_above_prompt:
            self._quiet = asyncio.get_running_loop().call_later(_QUIET, self.end_line)

    def end_line(self) -> None:
        """Ends an incomplete line."""
        self._follow()
        if self._is_amid_line:
            self._is_amid_line = False
            self._write("\n")

    @contextlib.contextmanager
    def above_prompt(self) -> Iterator[None]:
        """Prints only complete lines while the body of the `with` runs."""
        self.end_line()
        self._is_above_prompt = True
        try:
            yield
        finally:
            self.end_line()
            self._is_above_prompt = False

    def _follow(self) -> None:
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None

    def _write(self, text: str) -> None:
        stream = self._stream()
        stream.write(text)
        if not self._is_above_prompt:
            stream.flush()
