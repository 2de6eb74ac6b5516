"""Spawn requests of one process: a function of another node becomes a process there.

What was asked for with the request (a link, a monitor, an alias) begins when the reply comes, so
that nothing of it is left behind where none comes.

ERTS manual, Distribution Protocol, "Protocol for Spawning"; `erlang:spawn_request/5`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quicdist.etf import Atom, Pid, Reference, Term
from quicdist.node.aliases import AliasMode
from quicdist.node.errors import NoConnection, SpawnError
from quicdist.node.level import HERE, Source
from quicdist.protocol import signals

if TYPE_CHECKING:
    from quicdist.node.process import Process

SPAWN_REPLY = Atom("spawn_reply")
_LINK = Atom("link")
_MONITOR = Atom("monitor")
_OK = Atom("ok")
_ERROR = Atom("error")
_NOCONNECTION = Atom("noconnection")
_ABANDONED = Atom("abandoned")


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process that was spawned, and the monitor of it (and alias) where one was asked for."""

    pid: Pid
    reference: Reference | None


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be spawned, and how it is tied to who spawns it."""

    node: Atom
    module: Atom
    function: Atom
    args: Sequence[Term]
    link: bool
    monitor: bool
    alias: AliasMode | None
    group_leader: Pid


class Spawning:
    """The requests of one process that wait for their reply."""

    __slots__ = ("_abandoned", "_process", "_waiting")

    def __init__(self, process: Process) -> None:
        self._process = process
        self._waiting: dict[Reference, tuple[Request, Term | asyncio.Future[Spawned]]] = {}
        self._abandoned: dict[Reference, Request] = {}

    def ask(self, request: Request, answer: Term | asyncio.Future[Spawned]) -> Reference:
        """Sends a request. `answer` is a future, or the tag of the message that the reply is.

        Raises EtfEncodeError.
        """
        process = self._process
        reference = process.system.identifiers.reference()
        if request.alias is not None:
            process.alias(reference, mode=request.alias)
        mfa = (request.module, request.function, len(request.args))
        options: list[Term] = []
        if request.link:
            options.append(_LINK)
        if request.monitor:
            options.append(_MONITOR)
        signal = signals.SpawnRequest(reference, process.pid, request.group_leader, mfa, options)
        self._waiting[reference] = (request, answer)
        process.system.tie(process, request.node)
        try:
            process.system.emit(request.node, process.pid, signal, list(request.args))
        except BaseException:
            del self._waiting[reference]
            process.unalias(reference)
            raise
        return reference

    def abandon(self, reference: Reference) -> bool:
        """Takes a request back whose reply has not come: a process spawned with a link is ended
        with reason `abandoned`, others go their way unwatched. True when there was one."""
        waiting = self._waiting.pop(reference, None)
        if waiting is None:
            return False
        self._abandoned[reference] = waiting[0]
        self._process.unalias(reference)
        return True

    def replied(self, signal: signals.SpawnReply, source: Source) -> None:
        """SPAWN_REPLY came."""
        result = signal.result
        abandoned = self._abandoned.pop(signal.req_id, None)
        if abandoned is not None:
            if isinstance(result, Pid):
                self._process.system.let_spawned_go(signal, result, _ABANDONED)
            return
        waiting = self._waiting.pop(signal.req_id, None)
        if waiting is None:
            return
        request, answer = waiting
        if not isinstance(result, Pid):
            self._failed(signal.req_id, request, answer, result, source)
            return
        if signal.flags & signals.SPAWN_LINKED:
            self._process.links.link_received(result)
        if signal.flags & signals.SPAWN_MONITORED:
            self._process.monitoring[signal.req_id] = result
        if isinstance(answer, asyncio.Future):
            if not answer.done():
                tied = request.monitor or request.alias is not None
                answer.set_result(Spawned(result, signal.req_id if tied else None))
        else:
            self._process.signalled((answer, signal.req_id, _OK, result), source)

    def node_lost(self, node: Atom) -> None:
        """No reply comes from there."""
        for reference in [one for one, request in self._abandoned.items() if request.node is node]:
            del self._abandoned[reference]
        lost = [one for one, (request, _) in self._waiting.items() if request.node is node]
        for reference in lost:
            request, answer = self._waiting.pop(reference)
            self._failed(reference, request, answer, _NOCONNECTION, HERE)

    def _failed(
        self,
        reference: Reference,
        request: Request,
        answer: Term | asyncio.Future[Spawned],
        reason: Atom,
        source: Source,
    ) -> None:
        self._process.unalias(reference)
        if not isinstance(answer, asyncio.Future):
            self._process.signalled((answer, reference, _ERROR, reason), source)
        elif not answer.done():
            what = f"{request.module}:{request.function}/{len(request.args)} on {request.node}"
            answer.set_exception(
                NoConnection(request.node, "the connection was lost during a spawn request")
                if reason is _NOCONNECTION
                else SpawnError(what, reason)
            )

    def ended(self) -> None:
        """The process has died."""
        waiting, self._waiting = self._waiting, {}
        for _, answer in waiting.values():
            if isinstance(answer, asyncio.Future) and not answer.done():
                answer.cancel()
