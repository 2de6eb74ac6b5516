"""Calls to other nodes that wait for an answer: gen calls, ping, rpc and erpc.

One process makes them all. A call monitors its server, gives it an alias to answer to, and takes
both back when it is over, however that came: answered, timed out, or its task cancelled. So a
late answer reaches nobody.

OTP: gen, erpc:call/5; ERTS manual, Distribution Protocol, SPAWN_REQUEST.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from quicdist.dist import control as ctl
from quicdist.etf import Atom, ImproperList, Pid, Reference, Term
from quicdist.etf.notation import format_bounded
from quicdist.node.errors import (
    CallError,
    CallNotPossible,
    CallTimeout,
    ErrorClass,
    NoConnection,
    NodeError,
    NoProcess,
)
from quicdist.node.level import HERE, Source
from quicdist.node.net_kernel import NET_KERNEL, YES, is_auth_call
from quicdist.node.process import NOCONNECTION, NOPROC
from quicdist.node.service import ALIAS, GEN_CALL, Service, alias_of
from quicdist.node.system import Route, System

_ERPC = Atom("erpc")
_EXECUTE_CALL = Atom("execute_call")
_EXECUTE_CAST = Atom("execute_cast")
_MONITOR = Atom("monitor")
_CALL = Atom("call")
_REX = Atom("rex")
_USER = Atom("user")
_SIGNAL = Atom("signal")
_NOTSUP = Atom("notsup")


class Callee(Protocol):
    """The peer of a call."""

    @property
    def can_spawn(self) -> bool:
        """Whether its node takes SPAWN_REQUEST."""

    def call_begins(self, call: object, fail: Callable[[Exception], None]) -> None: ...

    def call_ends(self, call: object) -> None: ...


class _Pending:
    """One call that waits."""

    def __init__(self, what: str, node: Atom) -> None:
        self.what = what
        self.node = node
        self.result: asyncio.Future[Term] = asyncio.get_running_loop().create_future()
        self.server: Pid | None = None
        """The process spawned for an erpc call, once known."""

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)

    def answer(self, value: Term) -> None:
        if not self.result.done():
            self.result.set_result(value)


class Caller(Service):
    """The process that calls for Python code that is no process itself."""

    def __init__(
        self,
        system: System,
        connect: Callable[[Atom], Awaitable[Callee]],
        obstacle: Callable[[Atom], str | None],
        group_leader: Pid,
    ) -> None:
        super().__init__(system, _ignore)
        self._connect = connect
        self._obstacle = obstacle
        self._group_leader = group_leader
        self._pending: dict[Reference, _Pending] = {}
        self._abandoned: dict[Reference, Atom] = {}
        """Spawn requests given up before their reply came: its monitor is then taken back."""

    # -- what a node offers --

    async def ping(self, node: Atom, timeout: float | None) -> bool:
        """Whether the node answers, as `net_adm:ping`."""
        try:
            answer = await self.gen_call(
                (NET_KERNEL, node), is_auth_call(None, self.system.name)[2], timeout
            )
        except (NoConnection, NoProcess, CallError, CallTimeout):
            return False
        return answer is YES

    async def erpc(
        self, node: Atom, module: Atom, function: Atom, args: list[Term], timeout: float | None
    ) -> Term:
        """`erpc:call(Node, Module, Function, Args, Timeout)`."""
        what = f"{module}:{function}/{len(args)} on {node}"
        request = self.system.identifiers.reference()
        result = self.system.identifiers.reference()
        control = ctl.SpawnRequest(
            request, self.pid, self._group_leader, (_ERPC, _EXECUTE_CALL, 4), [_MONITOR]
        )
        payload = [result, module, function, args]
        pending = _Pending(what, node)
        self._pending[request] = pending
        try:
            reason = await self._call(request, pending, control, payload, timeout)
        finally:
            del self._pending[request]
            self._take_back(request, pending)
        return _erpc_result(what, node, result, reason)

    async def cast(self, node: Atom, module: Atom, function: Atom, args: list[Term]) -> None:
        """`erpc:cast(Node, Module, Function, Args)`."""
        request = self.system.identifiers.reference()
        mfa = (_ERPC, _EXECUTE_CAST, 3)
        control = ctl.SpawnRequest(request, self.pid, self._group_leader, mfa, [])
        await self._send(node, control, [module, function, args])

    async def rpc(
        self, node: Atom, module: Atom, function: Atom, args: list[Term], timeout: float | None
    ) -> Term:
        """What `rpc:call` did before OTP 23: asks `rex`, so it also works with old nodes."""
        what = f"{module}:{function}/{len(args)} on {node}"
        request = (_CALL, module, function, args, _USER)
        answer = await self.gen_call((_REX, node), request, timeout, what)
        match answer:
            case ("badrpc", ("EXIT", (reason, list(stack)))):
                raise CallError(what, ErrorClass.ERROR, reason, stack)
            case ("badrpc", ("EXIT", reason)):
                raise CallError(what, ErrorClass.EXIT, reason, ())
            case ("badrpc", reason):
                raise CallError(what, ErrorClass.ERROR, reason, ())
        return answer

    async def gen_call(
        self,
        to: Pid | tuple[Atom, Atom],
        request: Term,
        timeout: float | None,
        what: str | None = None,
    ) -> Term:
        """`gen_server:call(To, Request, Timeout)`.

        Raises NoConnection, NoProcess, CallTimeout, CallError when the server ends meanwhile.
        """
        node = to.node if isinstance(to, Pid) else to[1]
        pending = _Pending(what or f"a call of {format_bounded(to)}", node)
        reference = self.system.identifiers.reference()
        self._pending[reference] = pending
        self.monitoring[reference] = to
        self.system.tie(self, node)
        self.alias(reference)
        message = (GEN_CALL, (self.pid, ImproperList((ALIAS,), reference)), request)
        target = to if isinstance(to, Pid) else to[0]
        control = (
            ctl.SendSender(self.pid, to) if isinstance(to, Pid) else ctl.RegSend(self.pid, to[0])
        )
        watch = ctl.MonitorP(self.pid, target, reference)
        try:
            reason = await self._call(reference, pending, control, message, timeout, watch)
        finally:
            del self._pending[reference]
            self.unalias(reference)
            self.demonitor(reference)
        return reason

    def ask(self, node: Atom, name: Atom, message: Term) -> None:
        """Sends a message whose answer nobody waits for."""
        self.system.emit_if_connected(node, self.pid, ctl.RegSend(self.pid, name), message)

    async def _call(
        self,
        key: Reference,
        pending: _Pending,
        control: ctl.Control,
        payload: Term,
        timeout: float | None,
        watch: ctl.MonitorP | None = None,
    ) -> Term:
        """Connects, sends, waits. When that takes too long altogether, raises NoConnection where
        connecting has failed so far, and else CallTimeout."""
        loop = asyncio.get_running_loop()
        timer = None
        if timeout is not None:
            timer = loop.call_later(timeout, self._time_is_over, pending, timeout)
        sending = asyncio.ensure_future(self._begin(key, pending, control, payload, watch))
        sending.add_done_callback(lambda done: _pass_on(done, pending))
        callee: Callee | None = None
        try:
            return await pending.result
        finally:
            if timer is not None:
                timer.cancel()
            sending.cancel()
            if sending.done() and not sending.cancelled() and sending.exception() is None:
                callee = sending.result()
            if callee is not None:
                callee.call_ends(key)

    def _time_is_over(self, pending: _Pending, timeout: float) -> None:
        obstacle = self._obstacle(pending.node)
        if obstacle is None:
            pending.fail(CallTimeout(pending.what, timeout))
        else:
            pending.fail(NoConnection(pending.node, f"{obstacle} (tried for {timeout:g} s)"))

    async def _begin(
        self,
        key: Reference,
        pending: _Pending,
        control: ctl.Control,
        payload: Term,
        watch: ctl.MonitorP | None,
    ) -> Callee | None:
        callee = None
        if pending.node is not self.system.name:
            callee = await self._connect(pending.node)
            if isinstance(control, ctl.SpawnRequest) and not callee.can_spawn:
                raise CallNotPossible(pending.what, _NOTSUP)
            callee.call_begins(key, pending.fail)
        try:
            if watch is not None:
                self.system.emit(pending.node, self.pid, watch)
            await self._send(pending.node, control, payload)
        except BaseException:
            if callee is not None:
                callee.call_ends(key)
            raise
        return callee

    async def _send(self, node: Atom, control: ctl.Control, payload: Term) -> None:
        waits = self.system.send(Route(None, node, self.pid, control), payload)
        if waits is not None:
            await waits

    # -- what comes back --

    def deliver(self, message: Term, source: Source) -> None:
        """An answer, if somebody waits for it."""
        match message:
            case (tag, answer):
                reference = alias_of(tag)
                pending = self._pending.get(reference) if reference is not None else None
                if pending is not None:
                    pending.answer(answer)

    def monitor_fired(self, reference: Reference, reason: Term, source: Source = HERE) -> None:
        """The server of a call is gone; an erpc call is answered so."""
        watched = self.monitoring.pop(reference, None)
        pending = self._pending.get(reference)
        if pending is None:
            return
        if watched is None:
            pending.server = None
            pending.answer(reason)
        elif reason is NOCONNECTION:
            pending.fail(NoConnection(pending.node, "the connection was lost during a call"))
        elif reason is NOPROC:
            pending.fail(NoProcess(f"{pending.what}: there is no such process"))
        else:
            error, stack = _crash(reason)
            pending.fail(CallError(pending.what, ErrorClass.EXIT, error, stack))

    def spawn_replied(self, control: ctl.SpawnReply, source: Source) -> None:
        """An erpc call has begun over there, or cannot."""
        pending = self._pending.get(control.req_id)
        result = control.result
        if pending is None:
            node = self._abandoned.pop(control.req_id, None)
            if node is None:
                super().spawn_replied(control, source)
            elif isinstance(result, Pid):
                self._demonitor_spawned(result, control.req_id)
        elif isinstance(result, Pid):
            pending.server = result
        else:
            pending.fail(CallNotPossible(pending.what, result))

    def _take_back(self, request: Reference, pending: _Pending) -> None:
        """An erpc call is over without an answer: its process is not watched any more."""
        if pending.server is not None:
            self._demonitor_spawned(pending.server, request)
        elif pending.result.cancelled() or isinstance(pending.result.exception(), CallTimeout):
            self._abandoned[request] = pending.node
            self.system.tie(self, pending.node)

    def _demonitor_spawned(self, server: Pid, request: Reference) -> None:
        control = ctl.DemonitorP(self.pid, server, request)
        self.system.emit_if_connected(server.node, self.pid, control)

    def node_lost(self, node: Atom) -> None:
        """Nothing comes from there any more."""
        super().node_lost(node)
        for request in [one for one, where in self._abandoned.items() if where is node]:
            del self._abandoned[request]

    def fail_all(self, node: Atom, error: NodeError) -> None:
        """No connection could be made."""
        for pending in self._pending.values():
            if pending.node is node:
                pending.fail(error)


def _ignore(service: Service, message: Term, source: Source) -> None:
    """What is no answer is nothing."""


def _pass_on(sending: asyncio.Future[Callee | None], pending: _Pending) -> None:
    if not sending.cancelled():
        error = sending.exception()
        if isinstance(error, Exception):
            pending.fail(error)


def _erpc_result(what: str, node: Atom, result: Reference, reason: Term) -> Term:
    """What the exit reason of `erpc:execute_call/4` says."""
    if isinstance(reason, tuple) and reason and reason[0] == result:
        match reason[1:]:
            case ("return", value):
                return value
            case ("throw", value):
                raise CallError(what, ErrorClass.THROW, value, ())
            case ("exit", value):
                raise CallError(what, ErrorClass.EXIT, value, ())
            case ("error", value, list(stack)):
                raise CallError(what, ErrorClass.ERROR, value, stack)
            case ("error", value):
                raise CallError(what, ErrorClass.ERROR, value, ())
    if reason is NOCONNECTION:
        raise NoConnection(node, "the connection was lost during a call")
    # The process was ended from outside: erpc's {signal, Reason}.
    raise CallError(what, ErrorClass.EXIT, (_SIGNAL, reason), ())


def _crash(reason: Term) -> tuple[Term, list[Term]]:
    match reason:
        case (error, [(_, _, _, _), *_] as stack):
            return error, stack
    return reason, []
