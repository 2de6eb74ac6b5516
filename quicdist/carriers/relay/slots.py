"""Which of the nodes with one key this process is, so that each keeps its own port at a relay.

All nodes of a user share a key by default. The first process takes slot 0, the next one slot 1
while the first one runs. A lock on a file tells that a slot is taken; it ends with the process.

The file also holds the local UDP port of the node. With the same local port after a restart, most
NATs keep its mapping, and peers recognize its stateless resets (RFC 9000, 10.3).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from quicdist.carriers.trust import CertificateError, files

SLOTS = 1024
"""Slots above are those of nodes that ask for a port: the port is the slot."""


@dataclass(slots=True)
class Slot:
    """A slot that is taken until `release`."""

    number: int
    _file: int = -1

    @property
    def local_port(self) -> int:
        """The local UDP port that the node had last, or 0."""
        if self._file < 0:
            return 0
        text = os.pread(self._file, 16, 0)
        return int(text) if text.isdigit() and int(text) < 65536 else 0

    def keep(self, local_port: int) -> None:
        """Stores the local UDP port of the node."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, str(local_port).encode(), 0)

    def release(self) -> None:
        """Lets another process take it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def take(key: str, wanted: int = 0) -> Slot:
    """Takes the first free slot for a key (a fingerprint), or that of a port that is asked for.

    Without a writable state directory it is slot 0, whatever other processes do.
    """
    numbers = [wanted] if wanted else range(SLOTS)
    try:
        place = files.state_directory() / "relay"
        files.make_directory(place)
        for number in numbers:
            file = _locked(place / f"{key.removeprefix('sha256:')[:16]}-{number}")
            if file is not None:
                return Slot(number, file)
    except (OSError, CertificateError):
        pass
    return Slot(wanted)


def temporary() -> Slot:
    """Returns the slot of a node with a temporary port, which is not taken.

    It is the last one: a relay of an earlier version keeps a port for it.
    """
    return Slot(SLOTS - 1)


def _locked(path: Path) -> int | None:
    """Opens a file and locks it; None if another process has locked it. Raises OSError."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
