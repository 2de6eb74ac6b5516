"""What an endpoint writes down of its connections, for Wireshark and qvis. Off by default.

Files are appended to, and opened for each write: they are whole after a crash, nobody need close
them, and several processes may share the key log. Only their owner may read them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger("quicdist.quic")

_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Tracing:
    """Where it goes. For debugging alone: it costs time and disk, without a bound."""

    key_log: Path | None = None
    """A file for the TLS secrets of every connection, in the format of SSLKEYLOGFILE (NSS Key
    Log). Whoever has it can read, in what was captured, all that these connections carried."""

    qlog: Path | None = None
    """A directory for a qlog file of each connection (draft-ietf-quic-qlog-main-schema): packets,
    frames, losses and congestion, not what was said."""

    def __bool__(self) -> bool:
        return self.key_log is not None or self.qlog is not None


class KeyLog:
    """A key log, as a QUIC library writes to it: a text file."""

    def __init__(self, path: Path) -> None:
        """Raises OSError for one that cannot be written."""
        self._file = _Appended(path)
        self._file.open_once("the key log")

    def write(self, text: str) -> int:
        """Appends."""
        self._file.append(text)
        return len(text)

    def flush(self) -> None:
        """It is written already."""


class QlogDirectory:
    """A qlog file for each connection."""

    def __init__(self, path: Path) -> None:
        """Makes it where it is not there. Raises OSError."""
        self._path = path
        with _named("the directory for qlog", path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(path, os.W_OK | os.X_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def file(self, connection_id: bytes, *, is_client: bool) -> QlogFile:
        """For the connection that a dialer began under this id."""
        vantage_point = "client" if is_client else "server"
        path = self._path / f"{connection_id.hex()}_{vantage_point}.sqlog"
        file = QlogFile(_Appended(path))
        file.write(
            [
                {
                    "qlog_format": "JSON-SEQ",
                    "qlog_version": "0.3",
                    "trace": {
                        "common_fields": {"ODCID": connection_id.hex()},
                        "vantage_point": {"name": "quicdist", "type": vantage_point},
                    },
                }
            ]
        )
        return file


class QlogFile:
    """One connection's events, a JSON text each (RFC 7464)."""

    def __init__(self, file: _Appended) -> None:
        self._file = file

    def write(self, records: Iterable[Mapping[str, object]]) -> None:
        """Appends."""
        self._file.append("".join(f"\x1e{json.dumps(record)}\n" for record in records))


class _Appended:
    """A file that is opened for each write. One that can't be written costs no connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._has_failed = False

    def open_once(self, what: str) -> None:
        """Raises OSError, which says what it is, where it cannot be had."""
        with _named(what, self._path):
            os.close(self._open())

    def append(self, text: str) -> None:
        try:
            file = self._open()
            try:
                os.write(file, text.encode())
            finally:
                os.close(file)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                extra = {"event": "trace_failed", "path": str(self._path), "reason": error.strerror}
                _log.error("%s cannot be written: %s", self._path, error.strerror, extra=extra)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self._path, flags, _MODE)
        try:
            if stat.S_ISREG(os.fstat(file).st_mode):
                os.fchmod(file, _MODE)
        except BaseException:
            os.close(file)
            raise
        return file


@contextlib.contextmanager
def _named(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{what}, {path}: {error.strerror}") from None
