"""A log line stays one line, whatever a peer has put in it.

Names, reasons and messages of peers reach the log in many places. So it is seen to once, where a
record enters the log, for whatever handler and formatter the program has. Tracebacks keep their
lines: they are appended by the formatter.
"""

from __future__ import annotations

import logging

LOGGERS = (
    "quicdist.access",
    "quicdist.audit",
    "quicdist.epmd",
    "quicdist.gateway",
    "quicdist.node",
    "quicdist.otp",
    "quicdist.quic",
    "quicdist.tls",
    "quicdist.trust",
)
"""Those that write what a peer has said. `quicdist.io` is what programs print, by the line."""


class LogEscaping(logging.Filter):
    """Writes control, bidi and other unprintable characters of a record's text as escapes."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true."""
        text = record.getMessage()
        if not text.isprintable():
            record.msg = "".join(char if char.isprintable() else _escaped(char) for char in text)
            record.args = None
        return True


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def install() -> None:
    """Once for each of our loggers: a filter of a logger is not asked about its children's."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_ONE_LINE)


_ONE_LINE = LogEscaping()
