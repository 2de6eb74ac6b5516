"""Log lines for programs: a JSON object each, with the fields that a record has."""

from __future__ import annotations

import datetime
import json
import logging

_OF_EVERY_RECORD = frozenset(
    vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}
)


class JsonFormatter(logging.Formatter):
    """One object a line; nothing in it steers a terminal, as JSON escapes what could."""

    def format(self, record: logging.LogRecord) -> str:
        """As one string."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        shown: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _OF_EVERY_RECORD:
                shown.setdefault(name, value)
        if record.exc_info:
            shown["traceback"] = self.formatException(record.exc_info)
        return json.dumps(shown, default=str)
