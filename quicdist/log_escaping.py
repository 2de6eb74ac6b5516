"""Escapes unprintable characters in log records, so that each record is one line.

Log records contain names, reasons and messages from peers. A filter on each logger escapes them
before any handler or formatter of the program sees the record. Tracebacks keep their lines, because
the formatter appends them.
"""

from __future__ import annotations

import logging

LOGGERS = (
    "quicdist.access",
    "quicdist.audit",
    "quicdist.epmd",
    "quicdist.gateway",
    "quicdist.lan",
    "quicdist.node",
    "quicdist.otp",
    "quicdist.quic",
    "quicdist.tls",
    "quicdist.trust",
)
"""The loggers whose records contain text from peers. `quicdist.io` is not one of them: it logs the
output of remote programs line by line."""


class LogEscaping(logging.Filter):
    """Replaces control, bidirectional and other unprintable characters in records by escapes."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Escapes the text of the record in place and returns True."""
        text = record.getMessage()
        if not text.isprintable():
            record.msg = "".join(char if char.isprintable() else _escaped(char) for char in text)
            record.args = None
        return True


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def install() -> None:
    """Adds the filter to each logger. The filter of a logger does not apply to its children."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_ONE_LINE)


_ONE_LINE = LogEscaping()
