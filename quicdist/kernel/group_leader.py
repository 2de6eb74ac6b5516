"""Group leaders: processes that receive the output of other processes.

Output requests are served in order. Input requests get `eof`. The arguments of `io:format` from a
BEAM node are formatted there by `io_lib`, so that the output is the same as in Erlang.

OTP, "The Erlang I/O Protocol".
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from quicdist.errors import NodeError
from quicdist.etf import Atom, ImproperList, Pid, Term, footprint
from quicdist.etf.notation import format_bounded
from quicdist.runtime.backpressure import Backpressure, Source
from quicdist.runtime.process_table import ProcessTable
from quicdist.runtime.system_process import SystemProcess, ignore

logger = logging.getLogger("quicdist.io")

Write: TypeAlias = Callable[[str], object]
"""Receives printed text, including newlines."""

Apply: TypeAlias = "Callable[[Atom, Atom, Atom, list[Term]], Awaitable[Term]]"
"""Calls a function on a node."""

_IO_REPLY = Atom("io_reply")
_OK = Atom("ok")
_ERROR = Atom("error")
_ENOTSUP = (_ERROR, Atom("enotsup"))
_EREQUEST = (_ERROR, Atom("request"))
_EOF = Atom("eof")
_SHOWN = 64 * 1024
"""The maximum number of characters of arguments that are printed unformatted."""

_INPUT = frozenset({"get_chars", "get_line", "get_until", "get_password"})
_MIB = 1024 * 1024
_QUIET = 0.5
"""Seconds after which an incomplete line is logged."""


class GroupLeader(SystemProcess):
    """A process that other processes print to. It ends with `close`, or with the node."""

    def __init__(self, system: ProcessTable, write: Write, apply: Apply | None = None) -> None:
        """`apply` calls `io_lib` on the sender's node to format output."""
        super().__init__(system, ignore)
        self.level = Backpressure(self, 4 * _MIB, 8 * _MIB, 16 * _MIB)
        self._write = write
        self._apply = apply
        self._queue: deque[tuple[Pid, Term, Term, int]] = deque()
        self._task: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return f"group leader {super().__str__()}"

    def deliver(self, message: Term, source: Source) -> None:
        """Queues an I/O request. Other messages are dropped."""
        match message:
            case ("io_request", Pid() as sender, reply_as, request):
                size = footprint(message)
                self._queue.append((sender, reply_as, request, size))
                self.level.size += size
                if self.level.size > self.level.high:
                    source.pause(self.level)
                if self._task is None:
                    self._task = asyncio.get_running_loop().create_task(self._serve())
            case _:
                super().deliver(message, source)

    def close(self) -> None:
        """Ends the process."""
        self.die(Atom("normal"))

    def stopped(self) -> None:
        """Drops queued requests when the process has ended."""
        self._queue.clear()
        self.level.size = 0
        self.level.resume_all()
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        await asyncio.sleep(0)  # eager tasks run before `create_task` returns
        while self._queue:
            sender, reply_as, request, size = self._queue.popleft()
            self.level.take(size)
            try:
                answer = await self._answer(sender, request)
            except Exception:
                extra = {**self.fields("print_failed"), "sender": str(sender)}
                text = "%s: writing the output of %s failed"
                logger.exception(text, self, sender, extra=extra)
                answer = (_ERROR, Atom("eio"))
            self.system.post(self.pid, sender, (_IO_REPLY, reply_as, answer))
        self._task = None

    async def _answer(self, sender: Pid, request: Term) -> Term:
        match request:
            case ("put_chars", encoding, chars):
                return self._put(_text(chars, encoding))
            case ("put_chars", chars):
                return self._put(_text(chars, Atom("latin1")))
            case ("put_chars", encoding, Atom() as module, Atom() as function, list(arguments)):
                try:
                    chars = await self._formatted(sender.node, module, function, arguments)
                except NodeError as error:
                    extra = {**self.fields("print_failed"), "sender": str(sender)}
                    text = "%s cannot be formatted: %s"
                    logger.info(text, format_bounded(request), error, extra=extra)
                    return _ERROR, (_ERROR, function)
                return self._put(_text(chars, encoding))
            case ("requests", list(requests)):
                answer: Term = _OK
                for one in requests:
                    answer = await self._answer(sender, one)
                    if isinstance(answer, tuple):
                        break
                return answer
            case (str(kind), *_) if kind in _INPUT:
                return _EOF
            case ("get_geometry", _) | ("setopts", _) | "getopts":
                return _ENOTSUP
            case _:
                return _EREQUEST

    def _put(self, text: str | None) -> Term:
        if text is None:
            return _ERROR, (_ERROR, Atom("put_chars"))
        self._write(text)
        return _OK

    async def _formatted(
        self, node: Atom, module: Atom, function: Atom, arguments: list[Term]
    ) -> Term:
        # Only `io_lib` is called: a request must not make this node call other functions.
        if node is self.system.name or self._apply is None or module != "io_lib":
            return f"{format_bounded(arguments, _SHOWN)}\n"
        return await self._apply(node, module, function, arguments)


class LogLines:
    """Writes lines to the log `quicdist.io`. An incomplete line is written after a pause."""

    def __init__(self) -> None:
        self._rest = ""
        self._quiet: asyncio.TimerHandle | None = None

    def __call__(self, text: str) -> None:
        """Logs the complete lines of the text, and stores the rest until the pause."""
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            _log_line(line)
        if len(self._rest) > _MIB:
            self.end()
        elif self._rest:
            self._quiet = asyncio.get_running_loop().call_later(_QUIET, self.end)

    def end(self) -> None:
        """Logs an incomplete line."""
        rest, self._rest = self._rest, ""
        if rest:
            _log_line(rest)


def _log_line(line: str) -> None:
    logger.info("%s", line, extra={"event": "printed"})


def _text(chars: Term, encoding: Term) -> str | None:
    """Converts a deep list of characters and binaries to text. Returns None if it is not one."""
    parts: list[str] = []
    codec = "latin-1" if encoding == "latin1" else "utf-8"
    stack = [chars]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack.extend(reversed(one))
        elif isinstance(one, ImproperList):
            stack.append(one.tail)
            stack.extend(reversed(one.items))
        elif isinstance(one, (bytes, memoryview)):
            parts.append(str(one, codec, "replace"))
        elif isinstance(one, str) and not isinstance(one, Atom):
            parts.append(one)
        elif type(one) is int and 0 <= one < 0x110000 and not 0xD800 <= one < 0xE000:
            parts.append(chr(one))
        else:
            return None
    return "".join(parts)
