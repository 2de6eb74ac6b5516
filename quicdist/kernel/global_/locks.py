"""The locks of `global`: the locks on this node, and how to set one on many nodes.

A lock is a resource and a requester. Several processes can hold it for the same requester; it is
free when the last one has released it or ended. A lock on the cluster is set on every node. The
node with the greatest name, the boss, is asked first, so that concurrent requests fail early.

OTP, global: set_lock/3, del_lock/2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from quicdist.errors import NodeError
from quicdist.etf import Atom, Pid, Reference, Term
from quicdist.etf.maps import canonical
from quicdist.kernel.caller import Caller
from quicdist.runtime.process import Process

SERVER = Atom("global_name_server")
RESOURCE = Atom("global")
"""The resource that protects the global names."""


@dataclass(slots=True)
class _Held:
    """The requester and the holders of one resource."""

    requester: Term
    holders: dict[Pid, Reference] = field(default_factory=dict)


class Locks:
    """The locks on this node. `owner` monitors the holders."""

    def __init__(self, owner: Process) -> None:
        self._owner = owner
        self._held: dict[bytes, _Held] = {}
        self._watched: dict[Reference, tuple[bytes, Pid]] = {}
        self.is_fallen = False
        """Whether the last holder of the names lock ended without releasing it. Changes under
        that lock are then rejected."""

    def can_set(self, resource: Term, requester: Term) -> bool:
        """Returns whether no other requester has the lock."""
        held = self._held.get(key_of(resource))
        return held is None or same(held.requester, requester)

    def is_set(self, resource: Term) -> bool:
        """Returns whether the lock is set."""
        return key_of(resource) in self._held

    def set(self, resource: Term, requester: Term, holder: Pid) -> bool:
        """Adds a holder. Returns False if another requester has the lock."""
        if not self.can_set(resource, requester):
            return False
        key = key_of(resource)
        held = self._held.setdefault(key, _Held(requester))
        if holder not in held.holders:
            reference = self._owner.monitor(holder)
            held.holders[holder] = reference
            self._watched[reference] = key, holder
        return True

    def delete(self, resource: Term, requester: Term, holder: Pid) -> None:
        """Removes a holder."""
        key = key_of(resource)
        held = self._held.get(key)
        if held is None or not same(held.requester, requester):
            return
        reference = held.holders.get(holder)
        if reference is not None:
            self._owner.demonitor(reference)
            self._let_go(key, holder, reference, by_death=False)

    def holder_gone(self, reference: Reference) -> bool:
        """Handles a DOWN signal. Returns True if the process was a holder."""
        watched = self._watched.get(reference)
        if watched is None:
            return False
        self._let_go(*watched, reference, by_death=True)
        return True

    def node_gone(self, node: Atom) -> None:
        """Releases the locks of all holders on a node."""
        for reference, (key, holder) in list(self._watched.items()):
            if holder.node is node:
                self._owner.demonitor(reference)
                self._let_go(key, holder, reference, by_death=True)

    def allows(self, who: Pid | Term) -> bool:
        """Returns whether a process or requester may change names.

        It may if it has the names lock, or if the lock is free, unless the last holder ended
        without releasing it: the change then arrives too late.
        """
        held = self._held.get(key_of(RESOURCE))
        if held is None:
            return not self.is_fallen
        return who in held.holders if isinstance(who, Pid) else same(held.requester, who)

    def _let_go(self, key: bytes, holder: Pid, reference: Reference, *, by_death: bool) -> None:
        del self._watched[reference]
        held = self._held[key]
        del held.holders[holder]
        if not held.holders:
            del self._held[key]
            if key == key_of(RESOURCE):
                self.is_fallen = by_death


class LockManager:
    """A process that sets locks on many nodes: the locker or the registrar."""

    def __init__(self, caller: Caller, locks: Locks) -> None:
        self._caller = caller
        self._locks = locks
        self._here = caller.system.name

    @property
    def pid(self) -> Pid:
        """The holder of its locks."""
        return self._caller.pid

    async def ask(self, nodes: Iterable[Atom], request: Term) -> dict[Atom, Term]:
        """Returns the answers of the name servers on these nodes.

        Nodes that cannot be reached are omitted.
        """

        async def one(node: Atom) -> tuple[Term] | None:
            try:
                return (await self._caller.gen_call((SERVER, node), request, None),)
            except NodeError:
                return None

        asked = list(dict.fromkeys(nodes))
        answers = await asyncio.gather(*map(one, asked))
        return {
            node: answer[0]
            for node, answer in zip(asked, answers, strict=True)
            if answer is not None
        }

    async def set(self, lock: tuple[Term, Term], nodes: Sequence[Atom]) -> bool:
        """Sets a lock on all of these nodes, or on none.

        Nodes that cannot be reached are ignored.
        """
        if len(nodes) > 1 and self._here in nodes and not self._locks.can_set(*lock):
            return False
        answers = await self.ask(nodes, (Atom("set_lock"), lock))
        if all(answer is not False for answer in answers.values()):
            return True
        if len(answers) > 1:
            set_on = [node for node, answer in answers.items() if answer is True]
            await self.ask(set_on, (Atom("del_lock"), lock))
        return False

    async def delete(self, lock: tuple[Term, Term], nodes: Iterable[Atom]) -> None:
        """Releases a lock, on the boss last, where other requesters begin."""
        all_of_them = set(nodes)
        if not all_of_them:
            return
        boss = max(all_of_them)
        await self.ask(all_of_them - {boss}, (Atom("del_lock"), lock))
        await self.ask([boss], (Atom("del_lock"), lock))


def key_of(term: Term) -> bytes:
    """Returns a key that is equal for two terms if they are `=:=`."""
    return canonical(term)[0]


def same(one: Term, other: Term) -> bool:
    """Returns whether two terms are `=:=`."""
    return key_of(one) == key_of(other)
