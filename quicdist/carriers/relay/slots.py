"""Which of the nodes with one key this process is, so that each keeps its own port at a relay.

All nodes of a user share a key by default. The first process takes slot 0, the next one slot 1
while the first one runs. A lock on a file tells that a slot is taken; it ends with the process.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

from quicdist.carriers.trust import CertificateError, files

SLOTS = 1024
"""Slots above are those of nodes that ask for a port: the port is the slot."""


@dataclass(slots=True)
class Slot:
    """A slot that is taken until `release`."""

    number: int
    _file: int = -1

    def release(self) -> None:
        """Lets another process take it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def take(key: str) -> Slot:
    """Takes the first free slot for a key (a fingerprint).

    Without a writable state directory it is slot 0, whatever other processes do.
    """
    try:
        place = files.state_directory() / "relay"
        files.make_directory(place)
        for number in range(SLOTS):
            name = place / f"{key.removeprefix('sha256:')[:16]}-{number}"
            file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            return Slot(number, file)
    except (OSError, CertificateError):
        pass
    return Slot(0)
