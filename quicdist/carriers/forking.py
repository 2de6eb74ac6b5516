"""Fork: sockets belong to the process that opened them.

A child process inherits every open file (fork(2)). While it holds a socket of its parent's, the
port stays taken after the parent has ended, EPMD keeps the parent's name, and peers see no end. So
the child replaces the sockets of all nodes at once, and uses of those nodes raise NotRunning.
`subprocess` closes inherited files itself and needs none of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Protocol


class FileOwner(Protocol):
    """What has open files that no other process is to hold."""

    def descriptors(self) -> Iterable[int]:
        """Of those that are open; negative ones are left out."""


_owners: weakref.WeakSet[FileOwner] = weakref.WeakSet()

generation = 0
"""How many forks lie between the first process and this one: what was made in another generation
belongs to another process."""


def keep_from_children(owner: FileOwner) -> None:
    """From now on, as long as `owner` lives, a forked child does not hold its files."""
    _owners.add(owner)


def descriptors_of(transport: asyncio.BaseTransport) -> Sequence[int]:
    """The open file of a transport, or of none."""
    sock = transport.get_extra_info("socket")
    return [] if sock is None else [sock.fileno()]


def _in_child() -> None:
    """Replaces the files. Their numbers stay taken, since objects that nobody uses any more close
    them."""
    global generation
    generation += 1
    nothing = os.open(os.devnull, os.O_RDWR)
    for owner in list(_owners):
        with contextlib.suppress(Exception):  # no exception may keep others from being replaced
            for number in owner.descriptors():
                if number >= 0:
                    os.dup2(nothing, number, inheritable=False)
    os.close(nothing)
    _owners.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
