"""Key logs and qlog files of QUIC connections, for Wireshark and qvis. Off by default.

Data is appended, and a file is opened for each write. Thus the files are complete after a crash,
and several processes can share a key log. The files have mode 0600.
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

from quicdist.setting_types import check_fields

_log = logging.getLogger("quicdist.quic")

_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Tracing:
    """Trace files of the connections, only for debugging: their size has no limit."""

    key_log: Path | None = None
    """File for the TLS secrets of all connections, in the SSLKEYLOGFILE (NSS Key Log) format.
    With it, captured traffic of these connections can be decrypted."""

    qlog: Path | None = None
    """Directory for one qlog file per connection (draft-ietf-quic-qlog-main-schema), with packets,
    frames, losses and congestion control, but without application data."""

    def __post_init__(self) -> None:
        """Raises TypeError."""
        check_fields(self)

    def __bool__(self) -> bool:
        return self.key_log is not None or self.qlog is not None


class KeyLog:
    """A key log with the text file methods that the QUIC libraries call."""

    def __init__(self, path: Path) -> None:
        """Opens `path` once. Raises OSError if it is not writable."""
        self._file = _Appended(path)
        self._file.open_once("the key log")

    def write(self, text: str) -> int:
        """Appends `text`; returns its length."""
        self._file.append(text)
        return len(text)

    def flush(self) -> None:
        """Does nothing: `write` is not buffered."""


class QlogDirectory:
    """A directory with one qlog file per connection."""

    def __init__(self, path: Path) -> None:
        """Creates the directory if it does not exist. Raises OSError if it is not writable."""
        self._path = path
        with _named("the directory for qlog", path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(path, os.W_OK | os.X_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def file(self, connection_id: bytes, *, is_client: bool) -> QlogFile:
        """Creates the file of the connection with this original destination connection ID."""
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
    """The qlog events of one connection, as a JSON text sequence (RFC 7464)."""

    def __init__(self, file: _Appended) -> None:
        self._file = file

    def append(self, text: str) -> None:
        """Appends encoded records."""
        self._file.append(text)

    def write(self, records: Iterable[Mapping[str, object]]) -> None:
        """Appends the records."""
        self.append("".join(f"\x1e{json.dumps(record)}\n" for record in records))


class _Appended:
    """A file that is opened for each write. A failed write is logged once and not raised."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._has_failed = False

    def open_once(self, what: str) -> None:
        """Opens and closes the file. Raises OSError with `what` in its text if that fails."""
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
