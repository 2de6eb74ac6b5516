"""Limits the rate of log lines that unauthenticated peers can cause."""

from __future__ import annotations

import logging
from dataclasses import dataclass

MOST = 10
"""Maximum number of lines of one event in one period."""

PERIOD = 10.0
"""Length of a period in seconds."""


@dataclass(slots=True)
class _Period:
    begin: float
    lines: int = 0
    left_out: int = 0
    latest: str = ""


class LogRateLimit(logging.Filter):
    """A logging filter that drops lines of the given events beyond `MOST` in a `PERIOD`.

    Within a period it also drops a line with the text of the line before. The number of dropped
    lines is logged before the next line of that event. Times are those of the log records.
    """

    def __init__(self, *events: str) -> None:
        super().__init__()
        self.events = frozenset(events)
        self._periods: dict[str, _Period] = {}

    def forget(self) -> None:
        """Resets all counters."""
        self._periods.clear()

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether the record is logged."""
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
    text = "%d more lines like the next one (%s) were dropped in the last %.0f s"
    values = (period.left_out, event, seconds)
    logging.getLogger(record.name).log(record.levelno, text, *values, extra=extra)
