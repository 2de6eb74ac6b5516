"""Files that matter: read whole, written whole or not at all, and looked at again when changed."""

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
"""Files and folders that were warned of, with the mode that they had."""

_LOCK_TIME = 1.0
"""Seconds for another process to be done with a file; it holds it for a few milliseconds."""


def state_directory() -> Path:
    """Where what must survive a restart is kept: QUICDIST_STATE_DIR, or XDG's place for it.

    Raises CertificateUnreadable where there is none.
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
            "keys cannot be kept: this user has no home directory; set QUICDIST_STATE_DIR"
        ) from None


def make_directory(path: Path) -> None:
    """For its owner alone, where it is new. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)


def read(path: Path) -> bytes:
    """Raises CertificateUnreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateUnreadable(f"{path}: {error.strerror or error}") from None


def write(path: Path, data: bytes, *, mode: int, replace: bool = True) -> None:
    """The whole file or none of it; an existing one stays unless it may be replaced, and whoever
    owned it goes on to, as far as we may say so.

    Raises OSError.
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
            # Another node that starts at the same time may have been first.
            with contextlib.suppress(FileExistsError):
                os.link(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _keep_owner(handle: int, path: Path) -> None:
    """An administrator who changes a service's file must not take it away from the service."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        found = path.stat()
        if found.st_uid != os.geteuid():
            os.fchown(handle, found.st_uid, found.st_gid)


def warn_of_exposed(path: Path) -> None:
    """Warns, as ssh does, of a file that others may write, or of a folder where they may put
    another in its place. Once for each file and state of it."""
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
            text = "%s has mode %04o: others may write it, and choose whom we believe: chmod go-w"
            _log.warning(text, place, stat.S_IMODE(found.st_mode), extra=extra)


def is_for_others(path: Path) -> bool:
    """Whether somebody besides its owner may read or write it."""
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False


def stamp(paths: Sequence[Path]) -> Stamp:
    """Differs once one of the files has changed, appeared or gone."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def append(path: Path, data: bytes, *, mode: int) -> None:
    """A whole line at the end of a file, which is made where there is none. Raises OSError."""
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        size = os.fstat(handle).st_size
        ends_open = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, b"\n" + data if ends_open else data)
    finally:
        os.close(handle)


def kept_secret(path: Path, length: int) -> bytes:
    """Random bytes in a file for its owner alone, made where there is none. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        found = path.read_bytes()
        if len(found) == length:
            return found
    make_directory(path.parent)
    write(path, os.urandom(length), mode=0o600, replace=path.exists())
    return path.read_bytes()


def is_on_event_loop() -> bool:
    """Whether this thread runs one, which must not wait."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else who asks changes that file meanwhile. Raises OSError, TimeoutError among it: at
    once on an event loop, else when the other has not finished in a second.

    The lock is a file of its own beside it, as the file itself is replaced, not written. A link
    in its place is refused: it may be another user's.
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
