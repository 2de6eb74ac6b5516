"""Escapes unprintable characters in log records, so that each record is one line.

Log records contain names, reasons and messages from peers. A filter on each logger escapes them
before any handler or formatter of the program sees the record. A traceback keeps its lines, but the
text of an exception in it is one line.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from traceback import TracebackException
from types import TracebackType

LOGGERS = (
    "quicdist.access",
    "quicdist.audit",
    "quicdist.epmd",
    "quicdist.gateway",
    "quicdist.lan",
    "quicdist.node",
    "quicdist.otp",
    "quicdist.quic",
    "quicdist.relay",
    "quicdist.tls",
    "quicdist.trust",
)
"""The loggers whose records contain text from peers. `quicdist.io` is not one of them: it logs the
output of remote programs line by line."""


_FRAME = re.compile(r"[ |]*  File ")
"""The start of a part of a traceback that has several lines: a frame with its source line."""


class LogEscaping(logging.Filter):
    """Replaces control, bidirectional and other unprintable characters in records by escapes.

    Formatters of `logging` use `exc_text` if a record has it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Escapes the text of the record in place and returns True."""
        text = record.getMessage()
        if not text.isprintable():
            record.msg = escaped(text)
            record.args = None
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            record.exc_text = format_error(record.exc_info[1], record.exc_info[2])
        return True


def escaped(text: str) -> str:
    """Returns the text as one printable line."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def format_error(error: BaseException, trace: TracebackType | None) -> str:
    """Returns an exception with a traceback, in which each text of an exception is one line."""
    formatted = TracebackException(type(error), error, trace)
    for one in _chained(formatted):
        notes = getattr(one, "__notes__", None)
        if notes:
            one.__notes__ = [escaped(str(note)) for note in notes]
    return "\n".join(map(_escaped_part, formatted.format()))


def _escaped_part(part: str) -> str:
    lines = part.rstrip("\n").split("\n") if _FRAME.match(part) else [part.rstrip("\n")]
    return "\n".join(escaped(line) for line in lines)


def _chained(error: TracebackException) -> Iterator[TracebackException]:
    """Yields the formatted exception, its causes and contexts, and the members of a group."""
    waiting: list[TracebackException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None:
            yield one
            waiting += (one.__cause__, one.__context__, *(one.exceptions or ()))


def install() -> None:
    """Adds the filter to each logger. The filter of a logger does not apply to its children."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_ONE_LINE)


_ONE_LINE = LogEscaping()
