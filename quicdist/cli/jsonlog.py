"""Log lines for programs: one JSON object for each record, with all its fields."""

from __future__ import annotations

import datetime
import json
import logging
import sys
import threading
from types import TracebackType

_OF_EVERY_RECORD = frozenset(
    vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}
)


def log_instead_of_printing() -> None:
    """Logs warnings and uncaught exceptions, which the interpreter prints as text."""
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(
        args.exc_type, args.exc_value, args.exc_traceback, getattr(args.thread, "name", "")
    )
    sys.unraisablehook = lambda args: _log_uncaught(
        args.exc_type, args.exc_value, args.exc_traceback, repr(args.object)
    )


def _log_uncaught(
    kind: type[BaseException],
    error: BaseException | None,
    trace: TracebackType | None,
    where: str = "",
) -> None:
    logging.getLogger("quicdist.cli").error(
        "uncaught %s: %s",
        kind.__name__,
        error,
        exc_info=(kind, error or kind(), trace),
        extra={"event": "uncaught", "where": where},
    )


def error_line(text: str) -> str:
    """The last line of a failed command: JSON with --log-json, otherwise plain text."""
    if "--log-json" not in sys.argv:
        return f"quicdist: {text}"
    fields = {"name": "quicdist.cli", "levelno": logging.ERROR, "levelname": "ERROR", "msg": text}
    return JsonFormatter().format(logging.makeLogRecord({**fields, "event": "failed"}))


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object, in which control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the JSON object."""
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
            shown["traceback"] = record.exc_text or self.formatException(record.exc_info)
        return json.dumps(shown, default=str)
