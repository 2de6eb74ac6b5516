"""Files that matter: read whole, written whole or not at all, and looked at again when changed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from quicdist.carriers.trust.errors import CertificateUnreadable

Stamp: TypeAlias = tuple[tuple[int, int, int], ...]

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


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else who asks changes that file meanwhile. Raises OSError, TimeoutError among it.

    The lock is a file of its own beside it, as the file itself is replaced, not written.
    """
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(handle, path)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    # Whoever waits here may be an event loop: it must not wait for a process that hangs.
    give_up = time.monotonic() + _LOCK_TIME
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise TimeoutError(f"{path} is locked by another process") from None
            time.sleep(0.005)
        else:
            return
