"""The global names of a cluster, as known by one node."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from quicdist.etf import Atom, Pid, Reference, Term
from quicdist.etf.notation import format_bounded
from quicdist.kernel.global_.locks import key_of
from quicdist.runtime.process import Process

logger = logging.getLogger("quicdist.node")


@dataclass(frozen=True, slots=True)
class Entry:
    """A global name."""

    name: Term
    pid: Pid
    method: Term
    monitor: Reference
    registrant: Atom | None
    """The node that registered the name for a process outside the cluster, such as a C node."""


class Table:
    """The global names and their processes, which `owner` monitors."""

    def __init__(self, owner: Process) -> None:
        self._owner = owner
        self._entries: dict[bytes, Entry] = {}
        self._monitors: dict[Reference, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, name: Term) -> Entry | None:
        """Returns the entry of a name, or None."""
        return self._entries.get(key_of(name))

    def insert(
        self, name: Term, pid: Pid, method: Term, registrant: Atom | None, is_allowed: bool
    ) -> None:
        """Registers a name and replaces an existing entry.

        Without `is_allowed` the name is only removed.
        """
        self.remove(name)
        if not is_allowed:
            logger.debug("the global name %s arrived too late", format_bounded(name))
            return
        key = key_of(name)
        monitor = self._owner.monitor(pid)
        self._entries[key] = Entry(name, pid, method, monitor, registrant)
        self._monitors[monitor] = key

    def remove(self, name: Term) -> None:
        """Removes a name if it is registered."""
        entry = self._entries.pop(key_of(name), None)
        if entry is not None:
            del self._monitors[entry.monitor]
            self._owner.demonitor(entry.monitor)

    def holder_gone(self, monitor: Reference) -> None:
        """Removes the name of a process that has ended."""
        key = self._monitors.pop(monitor, None)
        if key is not None:
            del self._entries[key]

    def node_gone(self, node: Atom) -> None:
        """Removes the names of all processes of a node."""
        for entry in [one for one in self if one.pid.node is node]:
            self.remove(entry.name)

    def operate(self, ops: list[Term], external: list[Term], is_allowed: bool) -> None:
        """Applies the operations that two sides of a cluster have agreed on."""
        registrants = {
            (key_of(one[0]), one[1]): one[2]
            for one in external
            if isinstance(one, tuple) and len(one) == 3
        }
        for operation in ops:
            match operation:
                case ("insert", (name, Pid() as pid, method)):
                    registrant = registrants.get((key_of(name), pid))
                    self.insert(name, pid, method, registrant, is_allowed)
                case ("delete", name):
                    self.remove(name)

    def external(self) -> list[Term]:
        """Returns (name, pid, registering node) for each process outside the cluster."""
        return [(one.name, one.pid, one.registrant) for one in self if one.registrant is not None]
