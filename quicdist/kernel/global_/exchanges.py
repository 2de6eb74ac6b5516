"""The meeting of two partitions of a cluster, and the locker of the local one."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from quicdist.etf import Atom, Pid, Term
from quicdist.kernel.global_.locks import RESOURCE, LockManager, Locks


class NameExchange:
    """The state of a meeting with one node, from the connection until both are in one cluster."""

    def __init__(self, node: Atom, tag: int) -> None:
        self.node = node
        self.tag = tag
        self.his_tag: Term = None
        self.version = 0
        """The common protocol version; 0 until the other node has sent its version."""
        self.locker: Pid | None = None
        self.lock: tuple[Term, Term] | None = None
        """The lock that both sides have set."""
        self.his_names: list[Term] | None = None
        self.operations: list[Term] | None = None
        self.resolved: tuple[list[Term], list[Term], list[Term]] | None = None
        self.resolver: asyncio.Task[None] | None = None
        self.verdict: asyncio.Future[bool] | None = None
        """Resolved when the other side's lock is known, after the local locker has set its lock."""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.before_unlock: Callable[[], None] | None = None
        """Called before the lock is released."""


class Side(Protocol):
    """The local side of the cluster, and its messages to the other side."""

    @property
    def known(self) -> dict[Atom, int]:
        """The nodes of the cluster without this node."""

    def candidates(self) -> list[NameExchange]:
        """Returns the meetings whose side can be locked now."""

    def lock_set(self, meeting: NameExchange, is_set: bool) -> None:
        """Reports to the other side whether the local side is locked."""

    def both_locked(self, meeting: NameExchange, lock: tuple[Term, Term]) -> None:
        """Called when both sides are locked."""


class Locker:
    """Locks the local side for one meeting at a time, until it is over.

    Both sides use the same requester, so that a node on both sides is locked once for both.
    """

    def __init__(self, here: Atom, side: Side, locks: Locks, locksmith: LockManager) -> None:
        self._side = side
        self._locks = locks
        self._smith = locksmith
        self._here = here
        self._asked: deque[NameExchange] = deque()
        """Meetings whose other side is locked and waits for the local one."""
        self._awake = asyncio.Event()

    @property
    def pid(self) -> Pid:
        """The locker, to other lockers."""
        return self._smith.pid

    def wake(self) -> None:
        """Notes that there is a new meeting."""
        self._awake.set()

    def told(self, meeting: NameExchange, is_set: bool) -> None:
        """Called with whether the other side is locked."""
        if meeting.verdict is not None:
            if not meeting.verdict.done():
                meeting.verdict.set_result(is_set)
        elif is_set:
            self._asked.append(meeting)
            self.wake()

    async def run(self) -> None:
        """Runs the exchanges until cancelled.

        Requests of other sides have priority. Otherwise, after a pause, this side sends a request.
        """
        has_just_met = False
        while True:
            if self._asked:
                has_just_met = await self._answer(self._asked.popleft())
                continue
            self._awake.clear()
            try:
                await asyncio.wait_for(self._awake.wait(), self._rest(has_just_met))
            except TimeoutError:
                has_just_met = await self._propose()
            else:
                has_just_met = False

    def _rest(self, has_just_met: bool) -> float | None:
        """Returns the pause before the next request.

        Other nodes of this side can send a request in that time.
        """
        if not self._side.candidates():
            return None
        if has_just_met:
            return 0.0
        size = len(self._side.known)
        return min(1 + size / 10, 3) if size else 0.2

    async def _propose(self) -> bool:
        """Locks the local side and asks the other side to lock too.

        Returns True if they have met.
        """
        candidates = self._side.candidates()
        if not candidates or self._locks.is_set(RESOURCE):
            return False
        meeting = random.choice(candidates)
        lock = self._lock(meeting)
        # The other node is locked as well, so that no node of its side can lock it independently.
        nodes = await self._lock_side(lock, [meeting.node])
        if nodes is None:
            return False
        meeting.verdict = asyncio.get_running_loop().create_future()
        if meeting in self._asked:
            self._asked.remove(meeting)
            meeting.verdict.set_result(True)
        if not meeting.over.done():
            self._side.lock_set(meeting, True)
        await asyncio.wait((meeting.verdict, meeting.over), return_when=asyncio.FIRST_COMPLETED)
        if not meeting.over.done() and meeting.verdict.result():
            return await self._hold(meeting, lock, [*nodes, meeting.node])
        meeting.verdict = None
        await self._smith.delete(lock, [*nodes, meeting.node])
        return False

    async def _answer(self, meeting: NameExchange) -> bool:
        """Answers a side that is already locked. Returns True if they have met."""
        if meeting.over.done():
            return False
        lock = self._lock(meeting)
        nodes = await self._lock_side(lock, [])
        self._side.lock_set(meeting, nodes is not None)
        if nodes is None:
            return False
        return await self._hold(meeting, lock, nodes)

    async def _hold(
        self, meeting: NameExchange, lock: tuple[Term, Term], nodes: Sequence[Atom]
    ) -> bool:
        """Holds the locks until the meeting is over."""
        if not meeting.over.done():
            self._side.both_locked(meeting, lock)
            await meeting.over
        if meeting.before_unlock is not None:
            meeting.before_unlock()
        await self._smith.delete(lock, nodes)
        return True

    async def _lock_side(
        self, lock: tuple[Term, Term], extra: Sequence[Atom]
    ) -> Sequence[Atom] | None:
        """Locks all nodes of the local side, or none. Returns the nodes."""
        first = max(self._here, *self._side.known)
        if first is not self._here and not self._locks.can_set(*lock):
            return None
        if not await self._smith.set(lock, [first]):
            return None
        known = list(self._side.known)
        done = [first]
        for part in ([self._here, *extra], known):
            missing = [node for node in part if node not in done]
            if not await self._smith.set(lock, missing):
                await self._smith.delete(lock, done)
                return None
            done.extend(missing)
        return [self._here, *known]

    def _lock(self, meeting: NameExchange) -> tuple[Term, Term]:
        assert meeting.locker is not None
        return RESOURCE, sorted((self.pid, meeting.locker))
