"""Closes inherited sockets in forked child processes.

A child process inherits all open files (fork(2)). While it holds a socket of its parent, the port
stays in use after the parent has exited, EPMD keeps the parent's name, and peers see no close.
Therefore the child replaces the sockets of all nodes immediately after the fork, and calls on those
nodes raise NotRunning. `subprocess` closes inherited files itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Protocol


class FileOwner(Protocol):
    """An object with open files that a forked child must not keep open."""

    def descriptors(self) -> Iterable[int]:
        """Returns the open file descriptors; negative numbers are ignored."""


_owners: weakref.WeakSet[FileOwner] = weakref.WeakSet()

generation = 0
"""Number of forks between the first process and this one. An object of another generation belongs
to another process."""


def keep_from_children(owner: FileOwner) -> None:
    """Registers `owner`, by weak reference, to have its files replaced in forked children."""
    _owners.add(owner)


def descriptors_of(transport: asyncio.BaseTransport) -> Sequence[int]:
    """Returns the file descriptor of the transport's socket; empty if it has no socket."""
    sock = transport.get_extra_info("socket")
    return [] if sock is None else [sock.fileno()]


def _in_child() -> None:
    """Replaces the files with /dev/null.

    The descriptors stay open, because their owners may still close them by number.
    """
    global generation
    generation += 1
    nothing = os.open(os.devnull, os.O_RDWR)
    for owner in list(_owners):
        with contextlib.suppress(Exception):  # replace the other files in any case
            for number in owner.descriptors():
                if number >= 0:
                    os.dup2(nothing, number, inheritable=False)
    os.close(nothing)
    _owners.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
