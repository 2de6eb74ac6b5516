"""A `logging` handler that writes to the log of a BEAM node.

    handler = LoggerHandler(node, "5555@10.0.0.7")
    logging.getLogger().addHandler(handler)

Each record, from any thread, becomes a log event on that node, with level, text, traceback, time,
file and line, the process, and `extra` as metadata. Logging does not block: events are queued up
to a limit. Events beyond the limit are dropped and counted in a warning that is sent later.

OTP, logger(3). Events are sent as `logger` sends the events of processes with a remote group
leader.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import reprlib
import threading
from collections import deque

from quicdist.errors import NoConnection, NodeError
from quicdist.etf import Atom, EtfEncodeError, Limits, Options, Term, encode
from quicdist.etf.notation import format_bounded
from quicdist.node.node import Node
from quicdist.runtime.calls import check_timeout
from quicdist.runtime.local_spawn import current_process
from quicdist.setting_types import Positive, check_type

_LOG = Atom("log")
_PROXY = Atom("logger_proxy")
_LEVELS = (
    (logging.CRITICAL, Atom("critical")),
    (logging.ERROR, Atom("error")),
    (logging.WARNING, Atom("warning")),
    (25, Atom("notice")),
    (logging.INFO, Atom("info")),
)
_DEBUG = Atom("debug")
_WARNING = Atom("warning")
_OWN = ("quicdist", "quic")
"""Loggers whose records below INFO are not sent: sending them would produce more records."""

_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""The attributes of every record. Other attributes come from `extra`."""

_SHOWN = 4096
"""The maximum length, in characters, of a value that is not sent as a term."""

_SMALL = Options(limits=Limits(max_bytes=64 * 1024))
"""The maximum size, in bytes, of a value of `extra`. A larger value is sent as truncated text."""

_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxlong = _shortener.maxother = _SHOWN

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
"""Seconds before an unreachable node is tried again. The delay doubles with each failure."""


class LoggerHandler(logging.Handler):
    """Sends log records to the `logger` of a node. Create it in the event loop of the local node.

    `limit` is the maximum number of queued events. Records of the loggers `quicdist` and `quic`
    below INFO are not sent, because sending them would produce more records.
    """

    def __init__(
        self, node: Node, to: str, *, level: int = logging.NOTSET, limit: int = 1000
    ) -> None:
        check_type("to=", to, str)
        check_type("limit=", limit, Positive)
        super().__init__(level)
        self._node = node
        self._to = (_PROXY, Atom(to))
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._queue: deque[tuple[Atom, str, dict[Term, Term]]] = deque()
        self._dropped = 0
        self._is_closed = False
        self._is_planned = False
        self._task: asyncio.Task[None] | None = None
        self._sender = node.pid
        self._os_pid = os.getpid()

    @property
    def waiting(self) -> int:
        """The number of events that have not been sent yet."""
        return len(self._queue)

    def emit(self, record: logging.LogRecord) -> None:
        """Queues an event. Errors are passed to `logging.Handler.handleError`."""
        if record.levelno < logging.INFO and record.name.partition(".")[0] in _OWN:
            return
        if os.getpid() != self._os_pid:  # a forked child: the node belongs to the parent
            return
        try:
            event = _level(record.levelno), self.format(record), self._metadata(record)
        except Exception:
            self.handleError(record)
            return
        with self._lock:
            if len(self._queue) >= self._limit or self._is_closed:
                self._dropped += 1
                return
            self._queue.append(event)
            if self._is_planned:
                return
            self._is_planned = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._begin)

    async def drained(self, timeout: float | None = 5.0) -> bool:
        """Waits until all events are sent, at most `timeout` seconds.

        Call it before the node stops. Returns False if the timeout expired.
        """
        check_timeout(timeout)
        try:
            async with asyncio.timeout(timeout):
                while self._queue or self._task is not None:
                    self._begin()
                    if self._task is None:  # the handler is closed
                        break
                    await asyncio.wait({self._task})
        except TimeoutError:
            return False
        return not self._queue

    def close(self) -> None:
        """Closes the handler. Queued events are dropped."""
        with self._lock:
            self._is_closed = True
            self._queue.clear()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end)
        super().close()

    def _metadata(self, record: logging.LogRecord) -> dict[Term, Term]:
        process = current_process.get(None)
        metadata: dict[Term, Term] = {
            Atom("pid"): self._sender if process is None else process.pid,
            # Microseconds. There is no group leader, so that the event is local to that node, and
            # no domain: the default handler drops remote events and events of unknown domains.
            Atom("time"): int(record.created * 1_000_000),
            Atom("file"): list(record.pathname.encode(errors="replace")),
            Atom("line"): record.lineno,
            Atom("mfa"): (Atom(record.module[:255]), Atom(record.funcName[:255]), 0),
            Atom("logger"): _binary(record.name),
            Atom("thread"): _binary(record.threadName or ""),
        }
        for name, value in vars(record).items():
            if name not in _KNOWN:
                metadata.setdefault(Atom(name[:255]), _term(value))
        return metadata

    # -- in the event loop --

    def _begin(self) -> None:
        if self._task is None and not self._is_closed:
            self._task = self._loop.create_task(self._send_all(), name=f"log to {self._to[1]}")

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _send_all(self) -> None:
        await asyncio.sleep(0)  # the task may run before `create_task` has returned it
        pause = _FIRST_PAUSE
        try:
            while (event := self._next()) is not None:
                level, text, metadata = event
                message = (_LOG, level, _binary(text), metadata)
                try:
                    await self._node.send(self._to, message)
                    pause = _FIRST_PAUSE
                except EtfEncodeError:
                    self._dropped += 1
                except NoConnection:
                    with self._lock:
                        self._queue.appendleft(event)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except NodeError:
            # The node has stopped.
            self._is_closed = True
        finally:
            self._task = None

    def _next(self) -> tuple[Atom, str, dict[Term, Term]] | None:
        with self._lock:
            if self._dropped and len(self._queue) < self._limit:
                dropped, self._dropped = self._dropped, 0
                text = f"{dropped} log events of {self._node.name} were dropped: too many waited"
                return _WARNING, text, {Atom("pid"): self._sender}
            if self._queue:
                return self._queue.popleft()
            self._is_planned = False
            return None


def _level(number: int) -> Atom:
    for least, level in _LEVELS:
        if number >= least:
            return level
    return _DEBUG


def _binary(text: str) -> bytes:
    return text.encode(errors="replace")


def _term(value: object) -> Term:
    """Converts a value to a term, or to its `repr` if it is not one. Both are limited in size."""
    try:
        encode(value, _SMALL)
    except EtfEncodeError as error:
        return _binary(
            _shortener.repr(value) if error.limit is None else format_bounded(value, _SHOWN)
        )
    return value
