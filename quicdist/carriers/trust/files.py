"""Atomic reads and writes of key and certificate files, and detection of changes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from quicdist.carriers.trust.errors import CertificateUnreadable

Stamp: TypeAlias = tuple[tuple[int, int, int], ...]

_log = logging.getLogger("quicdist.trust")

_warned: dict[Path, int] = {}
"""Files and directories for which a warning was logged, with their mode at that time."""

_LOCK_TIME = 1.0
"""Maximum time in seconds to wait for a lock; processes hold it for a few milliseconds."""


def state_directory() -> Path:
    """Returns the directory for persistent state.

    This is QUICDIST_STATE_DIR if it is set, else `quicdist` in XDG_STATE_HOME, else
    `~/.local/state/quicdist`. Raises CertificateUnreadable if the user has no home directory.
    """
    chosen = os.environ.get("QUICDIST_STATE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME")
    if base:
        return Path(base) / "quicdist"
    try:
        return Path.home() / ".local" / "state" / "quicdist"
    except RuntimeError:  # no $HOME and no entry in the user database
        raise CertificateUnreadable(
            "cannot store keys: this user has no home directory; set QUICDIST_STATE_DIR"
        ) from None


def make_directory(path: Path) -> None:
    """Creates the directory with mode 0700 if it does not exist. Raises OSError on failure."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)


def read(path: Path) -> bytes:
    """Reads a file. Raises CertificateUnreadable if that fails."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateUnreadable(f"{path}: {error.strerror or error}") from None


def write(path: Path, data: bytes, *, mode: int, replace: bool = True) -> None:
    """Writes a file atomically.

    With `replace=False` an existing file is not changed. A replaced file keeps its owner, if this
    process has the permission to set it. Raises OSError if the write fails.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            _keep_owner(handle, path)
            file.write(data)
            file.flush()
            os.fsync(handle)
        if replace:
            os.replace(name, path)
        else:
            # Another node may have created the file at the same time.
            with contextlib.suppress(FileExistsError):
                os.link(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _keep_owner(handle: int, path: Path) -> None:
    """Gives the new file the owner of the old one.

    A service must keep access to its file after an administrator has changed it.
    """
    with contextlib.suppress(FileNotFoundError, PermissionError):
        found = path.stat()
        if found.st_uid != os.geteuid():
            os.fchown(handle, found.st_uid, found.st_gid)


def warn_of_exposed(path: Path) -> None:
    """Logs a warning, as ssh does, if other users can write to the file or its directory.

    The warning is repeated only after the mode has changed.
    """
    for place in (path, path.parent):
        try:
            found = place.stat()
        except OSError:
            continue
        is_sticky_folder = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        exposed = found.st_mode & 0o022
        if not exposed or is_sticky_folder:
            _warned.pop(place, None)
        elif _warned.get(place) != found.st_mode:
            _warned[place] = found.st_mode
            extra = {"event": "file_exposed", "path": str(place)}
            text = (
                "%s has mode %04o: other users can change which peers are trusted; run chmod go-w"
            )
            _log.warning(text, place, stat.S_IMODE(found.st_mode), extra=extra)


def is_credential(path: Path) -> bool:
    """Returns whether systemd passed the file to this unit in `CREDENTIALS_DIRECTORY`."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return directory != "" and path.absolute().parent == Path(directory)


def is_for_others(path: Path) -> bool:
    """Returns whether other users than the owner can read or write the file.

    Credentials of systemd (systemd.exec(5), LoadCredential=) belong to root. An access list, whose
    mask looks like the permissions of a group, gives them to the user of the unit alone.
    """
    if is_credential(path):
        return False
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False


def stamp(paths: Sequence[Path]) -> Stamp:
    """Returns a value that changes when one of the files is changed, created or deleted."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def append(path: Path, data: bytes, *, mode: int) -> None:
    """Appends a line to a file, which is created with `mode` if it does not exist.

    Raises OSError if that fails.
    """
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        size = os.fstat(handle).st_size
        ends_open = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, b"\n" + data if ends_open else data)
    finally:
        os.close(handle)


def kept_secret(path: Path, length: int) -> bytes:
    """Returns `length` random bytes from a file with mode 0600, which is created if necessary.

    Raises OSError if that fails.
    """
    with contextlib.suppress(FileNotFoundError):
        found = path.read_bytes()
        if len(found) == length:
            return found
    make_directory(path.parent)
    write(path, os.urandom(length), mode=0o600, replace=path.exists())
    return path.read_bytes()


def is_on_event_loop() -> bool:
    """Returns whether this thread runs an event loop, which must not block."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock for a file.

    Raises TimeoutError if another process holds the lock: immediately on an event loop, else after
    one second. Raises OSError if the lock cannot be created.

    The lock is a separate file in the same directory, because writes replace the file itself. A
    symbolic link in its place is rejected, because another user may have created it.
    """
    name = path.with_name(f".{path.name}.lock")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(name, flags, 0o600)
    try:
        _lock(handle, path)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    give_up = time.monotonic() + (0.0 if is_on_event_loop() else _LOCK_TIME)
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                raise TimeoutError(f"{path} is locked by another process") from None
            time.sleep(0.005)
        else:
            return
