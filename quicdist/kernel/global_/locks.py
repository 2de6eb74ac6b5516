"""The locks of `global`: who holds what on this node, and how one is set on many.

A lock is a resource and a requester; as many processes as like can hold it in the name of the same
requester, and it is free when the last has let go or died. To hold one in the cluster is to hold it
on every node: the greatest name, the boss, is asked first, so that of two who want the same lock
one fails early.

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
"""The resource that guards the names themselves."""


@dataclass(slots=True)
class _Held:
    """Who holds one resource, and for whom."""

    requester: Term
    holders: dict[Pid, Reference] = field(default_factory=dict)


class Locks:
    """The locks that are set on this node. Holders are watched by `owner`."""

    def __init__(self, owner: Process) -> None:
        self._owner = owner
        self._held: dict[bytes, _Held] = {}
        self._watched: dict[Reference, tuple[bytes, Pid]] = {}
        self.is_fallen = False
        """The lock of the names was last let go by a death: what was done under it is not over."""

    def can_set(self, resource: Term, requester: Term) -> bool:
        """Whether nobody else has it."""
        held = self._held.get(key_of(resource))
        return held is None or same(held.requester, requester)

    def is_set(self, resource: Term) -> bool:
        """Whether anybody has it."""
        return key_of(resource) in self._held

    def set(self, resource: Term, requester: Term, holder: Pid) -> bool:
        """One more holder. False when the resource is another requester's."""
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
        """One holder less."""
        key = key_of(resource)
        held = self._held.get(key)
        if held is None or not same(held.requester, requester):
            return
        reference = held.holders.get(holder)
        if reference is not None:
            self._owner.demonitor(reference)
            self._let_go(key, holder, reference, by_death=False)

    def holder_gone(self, reference: Reference) -> bool:
        """A monitor fired. True when it was of a holder."""
        watched = self._watched.get(reference)
        if watched is None:
            return False
        self._let_go(*watched, reference, by_death=True)
        return True

    def node_gone(self, node: Atom) -> None:
        """A node has no say here any more, whether or not it is connected."""
        for reference, (key, holder) in list(self._watched.items()):
            if holder.node is node:
                self._owner.demonitor(reference)
                self._let_go(key, holder, reference, by_death=True)

    def allows(self, who: Pid | Term) -> bool:
        """Whether names may be changed by a process that has locked them, or in the name of a
        requester; without a lock, unless its holder died: then what comes is too late."""
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
    """One process that sets locks on many nodes: the locker, the registrar."""

    def __init__(self, caller: Caller, locks: Locks) -> None:
        self._caller = caller
        self._locks = locks
        self._here = caller.system.name

    @property
    def pid(self) -> Pid:
        """The holder of what it sets."""
        return self._caller.pid

    async def ask(self, nodes: Iterable[Atom], request: Term) -> dict[Atom, Term]:
        """The answers of the servers on these nodes; without those of nodes that are lost."""

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
        """Sets a lock on all of these nodes, or on none. A node that is lost has no say."""
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
        """Lets a lock go, the boss's last: whoever waits for it begins there."""
        all_of_them = set(nodes)
        if not all_of_them:
            return
        boss = max(all_of_them)
        await self.ask(all_of_them - {boss}, (Atom("del_lock"), lock))
        await self.ask([boss], (Atom("del_lock"), lock))


def key_of(term: Term) -> bytes:
    """Equal for two terms exactly when they are `=:=`."""
    return canonical(term)[0]


def same(one: Term, other: Term) -> bool:
    """`=:=`."""
    return key_of(one) == key_of(other)
