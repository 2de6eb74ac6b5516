"""What strangers can have written into the log, bounded: so many lines of a kind in a time."""

from __future__ import annotations

import logging
from dataclasses import dataclass

MOST = 10
"""Lines of one kind in one period."""

PERIOD = 10.0
"""Seconds."""


@dataclass(slots=True)
class _Period:
    begin: float
    lines: int = 0
    left_out: int = 0
    latest: str = ""


class LogRateLimit(logging.Filter):
    """A logger's filter that leaves out lines of these events beyond `MOST` in a `PERIOD`, and in
    that time a line that says what the one before it has said.

    How many were left out is said ahead of the next line of that event. Time is the records'.
    """

    def __init__(self, *events: str) -> None:
        super().__init__()
        self.events = frozenset(events)
        self._periods: dict[str, _Period] = {}

    def forget(self) -> None:
        """From now on as at the beginning."""
        self._periods.clear()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is written."""
        event = getattr(record, "event", "")
        if event not in self.events:
            return True
        now = record.created
        last = period = self._periods.get(event)
        if period is None or not 0 <= now - period.begin < PERIOD:
            self._periods[event] = period = _Period(now)
            if last is not None and last.left_out:
                _say_left_out(record, event, last)
        text = record.getMessage()
        if period.lines >= MOST or (period.lines and text == period.latest):
            period.left_out += 1
            return False
        period.lines += 1
        period.latest = text
        return True


def _say_left_out(record: logging.LogRecord, event: str, period: _Period) -> None:
    seconds = record.created - period.begin
    extra = {"event": "left_out", "what": event, "count": period.left_out}
    text = "%d more lines like the next one (%s) were left out in the last %.0f s"
    values = (period.left_out, event, seconds)
    logging.getLogger(record.name).log(record.levelno, text, *values, extra=extra)
