"""Pending calls: requests to a process or a node that wait for their answer.

A pending call is a reference that is also an alias, a monitor and a future. It is registered with
the node, so an answer never enters a mailbox. Only the node that was asked can answer: answers,
DOWN signals and spawn replies that arrive from another node are dropped and counted.

`GenCall` is `gen:call/4`. `ErpcCall` is the SPAWN_REQUEST that `erpc:call/5` sends, whose answer is
the exit reason of the spawned process. `SpawnCall` is `erlang:spawn_request/5`.

OTP, gen, erpc; ERTS manual, Distribution Protocol, "Protocol for Spawning".
"""

from __future__ import annotations

import asyncio
import logging
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.errors import (
    CallError,
    CallNotPossible,
    CallTimeout,
    ErrorClass,
    NoConnection,
    NoProcess,
    SpawnError,
)
from quicdist.etf import Atom, EtfEncodeError, ImproperList, Pid, Reference, Term
from quicdist.etf.notation import format_bounded
from quicdist.protocol import signals
from quicdist.runtime.aliases import AliasMode
from quicdist.runtime.backpressure import HERE, Source
from quicdist.runtime.process import NOCONNECTION, NOPROC

if TYPE_CHECKING:
    from quicdist.runtime.process import Process

logger = logging.getLogger("quicdist.node")
logger.addFilter(
    LogRateLimit("answer_refused", "answer_failed", "call_failed", "call_refused", "cleanup_failed")
)

MAX_TIMEOUT = 2**32 - 1
"""The largest timeout of Erlang in milliseconds."""

GEN_CALL = Atom("$gen_call")
ALIAS = Atom("alias")
SPAWN_REPLY = Atom("spawn_reply")

_ERPC = Atom("erpc")
_EXECUTE_CALL = Atom("execute_call")
_QUICDIST_CALL = Atom("quicdist_call")
_EXECUTE = Atom("execute")
_LINK = Atom("link")
_MONITOR = Atom("monitor")
_OK = Atom("ok")
_ERROR = Atom("error")
_SIGNAL = Atom("signal")
_NOTSUP = Atom("notsup")
_ABANDONED = Atom("abandoned")
DRAINING = Atom("draining")
"""The reason with which a draining node refuses new calls; see `Node.drain`."""


class CalledNode(Protocol):
    """The connection to the node that is called."""

    @property
    def can_spawn(self) -> bool:
        """Whether the node supports SPAWN_REQUEST (OTP 23)."""

    @property
    def takes_deadlines(self) -> bool:
        """Whether the node has `quicdist_call:execute/5`."""

    def call_begins(self, call: object, fail: Callable[[Exception], None]) -> None:
        """Registers a call. `fail` is called with the error if the connection ends."""

    def call_ends(self, call: object) -> None:
        """Removes a call that was answered or abandoned."""


class PendingCalls:
    """The pending calls of a node, by reference and by the node that was asked."""

    def __init__(self, node: Atom) -> None:
        self._node = node
        self._calls: dict[Reference, PendingCall] = {}
        self._of_node: dict[Atom, dict[Reference, PendingCall]] = {}
        self.refused = 0
        """The number of answers, DOWN signals and spawn replies from a node that was not asked."""

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[PendingCall]:
        return iter(self._calls.values())

    def add(self, call: PendingCall) -> None:
        """Registers a pending call."""
        self._calls[call.reference] = call
        self._of_node.setdefault(call.node, {})[call.reference] = call

    def discard(self, call: PendingCall) -> None:
        """Removes a call. Later answers to it are dropped."""
        if self._calls.pop(call.reference, None) is None:
            return
        of_node = self._of_node[call.node]
        del of_node[call.reference]
        if not of_node:
            del self._of_node[call.node]

    def answer_by_alias(self, alias: Reference, message: Term, source: Source) -> bool:
        """Handles a message sent to an alias.

        Returns False if the alias does not belong to a call.
        """
        call = self._calls.get(alias)
        if not isinstance(call, GenCall):
            return False
        if self._may_answer(call, source, "answer") and _is_answer(message, alias):
            call.answered(message[1])
        return True

    def answer_refused(self, alias: Reference, reason: Term, source: Source) -> bool:
        """Handles an answer whose payload cannot be decoded.

        Returns False if the alias does not belong to a call.
        """
        call = self._calls.get(alias)
        if not isinstance(call, GenCall):
            return False
        if self._may_answer(call, source, "answer"):
            call.fail(down_error(call.what, call.node, reason))
        return True

    def answer_by_pid(self, message: Term, source: Source) -> bool:
        """Handles an answer sent to the caller's pid, as OTP before 24 and C nodes send it.

        Returns False if the message is not an answer to a call.
        """
        if not isinstance(message, tuple) or len(message) != 2:
            return False
        alias = alias_of(message[0])
        return alias is not None and self.answer_by_alias(alias, message, source)

    def down(self, reference: Reference, reason: Term, source: Source) -> bool:
        """Handles a DOWN signal. Returns False if the monitor does not belong to a call."""
        call = self._calls.get(reference)
        if call is None:
            return False
        if self._may_answer(call, source, "DOWN signal"):
            call.down(reason)
        return True

    def spawn_replied(self, signal: signals.SpawnReply, source: Source) -> bool:
        """Handles a SPAWN_REPLY. Returns False if it does not belong to a call."""
        call = self._calls.get(signal.req_id)
        if call is None:
            return False
        if not self._may_answer(call, source, "spawn reply"):
            return True
        if isinstance(signal.result, Pid) and signal.result.node is not call.node:
            self.refuse("spawn reply", source)
            return True
        call.spawn_replied(signal, source)
        return True

    def is_from(self, node: Atom, source: Source) -> bool:
        """Returns whether `source` is the connection to `node`, or this node itself."""
        return node is (source.name or self._node)

    def refuse(self, what: str, source: Source) -> None:
        """Counts and logs a signal that only another node may send."""
        self.refused += 1
        text = "%s: dropped a forged %s that only another node may send"
        extra = {"event": "answer_refused", "node": str(self._node), "peer": str(source.name)}
        logger.warning(text, source.name or self._node, what, extra=extra)

    def node_lost(self, node: Atom) -> None:
        """Fails all pending calls to a node."""
        for call in list(self._of_node.get(node, {}).values()):
            call.node_lost()

    def _may_answer(self, call: PendingCall, source: Source, what: str) -> bool:
        if self.is_from(call.node, source):
            return True
        self.refuse(what, source)
        return False


class PendingCall:
    """One request, until it is answered, fails or is cancelled."""

    def __init__(self, caller: Process, node: Atom, what: str) -> None:
        """`what` describes the call in error texts."""
        self.caller = caller
        self.system = caller.system
        self.node = node
        self.what = what
        self.reference = caller.system.identifiers.reference()
        self.result: asyncio.Future[Term] = asyncio.get_running_loop().create_future()
        # Marks an exception as retrieved, since the result may never be read.
        self.result.add_done_callback(_look_at)
        self.is_sent = False
        self._callee: CalledNode | None = None

    @property
    def is_open(self) -> bool:
        """Whether the call is still pending."""
        return self.reference in self.caller.calls

    def begin(self) -> None:
        """Sends the request at once, or as soon as the connection is up.

        Raises EtfEncodeError. Any other failure becomes the result of the call.
        """
        self.caller.calls[self.reference] = self
        self.system.calls.add(self)
        try:
            if self.node is self.system.name:
                self._send()
            else:
                self.system.network.when_up(self.node, self._connected, self.fail)
        except Exception as error:
            self.fail(error)
        if self.result.done() and not self.result.cancelled():
            error_now = self.result.exception()
            if isinstance(error_now, EtfEncodeError):
                raise error_now

    async def wait(self, timeout: float | None) -> Term:
        """Waits for the answer and returns it.

        The call is cancelled after `timeout` seconds, or if the task is cancelled. Raises
        CallTimeout, NoConnection if no connection was established in time, and the error of the
        call.
        """
        timer = None
        if timeout is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(timeout, self.time_out, timeout)
        try:
            return await self.result
        finally:
            if timer is not None:
                timer.cancel()
            self.close()

    def time_out(self, timeout: float) -> None:
        """Called when the timeout has expired."""
        obstacle = self.system.network.obstacle(self.node)
        if obstacle is None:
            self.fail(CallTimeout(self.what, timeout))
        else:
            text = f"{obstacle.reason} (tried for {timeout:g} s)"
            self.fail(NoConnection(self.node, text, obstacle.cause))

    def fail(self, error: Exception) -> None:
        """Ends the call with an error."""
        if not self.result.done():
            self.result.set_exception(error)
        self.close()

    def finish(self, value: Term) -> None:
        """Ends the call with its result."""
        if not self.result.done():
            self.result.set_result(value)
        self.close()

    def close(self) -> None:
        """Ends the call and cancels it on the other node. Idempotent."""
        if self.caller.calls.pop(self.reference, None) is None:
            return
        if not self.result.done():
            self.result.cancel()
        callee, self._callee = self._callee, None
        if callee is not None:
            callee.call_ends(self.reference)
        if not (self.is_sent and self._take_back()):
            self.system.calls.discard(self)

    def node_lost(self) -> None:
        """Called when the connection is lost, so that no answer can arrive."""
        self.is_sent = False
        self.fail(NoConnection(self.node, "the connection was lost during a call"))
        self.system.calls.discard(self)

    def caller_ended(self) -> None:
        """Called when the calling process has ended."""
        error = self.caller.ended_error()
        self.fail(error)
        self.system.calls.discard(self)

    def _connected(self, callee: CalledNode) -> None:
        if self.result.done():
            return
        try:
            self._check(callee)
            callee.call_begins(self.reference, self.fail)
            self._callee = callee
            self._send()
        except Exception as error:
            self.fail(error)

    # -- overridden by subclasses --

    def _check(self, callee: CalledNode) -> None:
        """Raises if the node does not support the request."""

    def _send(self) -> None:
        raise NotImplementedError

    def _take_back(self) -> bool:
        """Cancels the request on the other node.

        Returns True if its reply must still be awaited.
        """
        return False

    def down(self, reason: Term) -> None:
        """Called when the monitor of the call fires."""

    def spawn_replied(self, signal: signals.SpawnReply, source: Source) -> None:
        """Called when the node replies to a spawn request."""


class GenCall(PendingCall):
    """`gen:call(To, Label, Request)`: monitors the server, which answers to the alias."""

    def __init__(
        self,
        caller: Process,
        to: Pid | tuple[Atom, Atom],
        request: Term,
        label: Atom = GEN_CALL,
        what: str | None = None,
    ) -> None:
        node = to.node if isinstance(to, Pid) else to[1]
        super().__init__(caller, node, what or f"a call of {format_bounded(to)}")
        self._to = to
        self._request = request
        self._label = label
        self._is_watching = False

    def answered(self, answer: Term) -> None:
        """Called when the server has answered."""
        self.finish(answer)

    def down(self, reason: Term) -> None:
        """Called when the server has ended or does not exist."""
        self._is_watching = False
        self.fail(down_error(self.what, self.node, reason))

    def _target(self) -> Pid | Atom:
        return self._to if isinstance(self._to, Pid) else self._to[0]

    def _send(self) -> None:
        me = self.caller.pid
        target = self._target()
        self.is_sent = self._is_watching = True
        self.system.emit(self.node, me, signals.Monitor(me, target, self.reference))
        if self.result.done():
            return
        message = (self._label, (me, ImproperList((ALIAS,), self.reference)), self._request)
        self.system.emit(self.node, me, signals.Message(me, target), message)

    def _take_back(self) -> bool:
        if self._is_watching:
            signal = signals.Demonitor(self.caller.pid, self._target(), self.reference)
            self.system.emit_if_connected(self.node, self.caller.pid, signal)
        return False


class _SpawnRequestCall(PendingCall):
    """A call made with SPAWN_REQUEST."""

    def __init__(
        self,
        caller: Process,
        node: Atom,
        what: str,
        mfa: tuple[Atom, Atom, int],
        args: list[Term],
        options: list[Term],
        group_leader: Pid,
    ) -> None:
        super().__init__(caller, node, what)
        self._mfa = mfa
        self._args = args
        self._options = options
        self._group_leader = group_leader
        self._is_replied = False

    def spawn_replied(self, signal: signals.SpawnReply, source: Source) -> None:
        """Called for the spawn reply.

        If the call is over, the link or monitor of the new process is removed.
        """
        self._is_replied = True
        if self.is_open:
            self._replied(signal, source)
        else:
            self.system.calls.discard(self)
            if isinstance(signal.result, Pid):
                self.system.release_spawned(signal, signal.result, _ABANDONED)

    def _check(self, callee: CalledNode) -> None:
        if not callee.can_spawn:
            raise self._refusal(_NOTSUP)

    def _send(self) -> None:
        me = self.caller.pid
        signal = signals.SpawnRequest(
            self.reference, me, self._group_leader, self._mfa, self._options
        )
        self.is_sent = True
        try:
            self.system.emit(self.node, me, signal, self._args)
        except EtfEncodeError:
            self.is_sent = False
            raise

    def _take_back(self) -> bool:
        return not self._is_replied

    def _replied(self, signal: signals.SpawnReply, source: Source) -> None:
        raise NotImplementedError

    def _refusal(self, reason: Term) -> Exception:
        """Returns the exception for a refused spawn request."""
        raise NotImplementedError


class ErpcCall(_SpawnRequestCall):
    """`erpc:call(Node, Module, Function, Args)`."""

    def __init__(
        self,
        caller: Process,
        node: Atom,
        module: Atom,
        function: Atom,
        args: list[Term],
        group_leader: Pid,
        timeout: float | None = None,
    ) -> None:
        """`timeout` is the time in seconds that the caller waits. A node of quicdist is told it."""
        self._timeout = timeout
        self._answer_tag = caller.system.identifiers.reference()
        what = f"{module}:{function}/{len(args)} on {node}"
        payload: list[Term] = [self._answer_tag, module, function, args]
        mfa = (_ERPC, _EXECUTE_CALL, 4)
        super().__init__(caller, node, what, mfa, payload, [_MONITOR], group_leader)
        self._server: Pid | None = None

    def _check(self, callee: CalledNode) -> None:
        super()._check(callee)
        if self._timeout is None or not callee.takes_deadlines:
            return
        milliseconds = self._timeout * 1000
        if milliseconds <= MAX_TIMEOUT:
            self._mfa = (_QUICDIST_CALL, _EXECUTE, 5)
            self._args = [*self._args, round(milliseconds)]

    def down(self, reason: Term) -> None:
        """Called when the spawned process has ended. Its exit reason is the answer."""
        self._server = None
        self._is_replied = True
        try:
            value = _erpc_result(self.what, self.node, self._answer_tag, reason)
        except Exception as error:
            self.fail(error)
        else:
            self.finish(value)

    def _replied(self, signal: signals.SpawnReply, source: Source) -> None:
        if isinstance(signal.result, Pid):
            self._server = signal.result
        else:
            self.fail(self._refusal(signal.result))

    def _take_back(self) -> bool:
        if self._server is not None:
            signal = signals.Demonitor(self.caller.pid, self._server, self.reference)
            self.system.emit_if_connected(self.node, self.caller.pid, signal)
        return super()._take_back()

    def _refusal(self, reason: Term) -> Exception:
        return CallNotPossible(self.what, reason)


@dataclass(frozen=True, slots=True)
class Spawned:
    """A spawned process, with the reference of its monitor or alias if one was requested."""

    pid: Pid
    reference: Reference | None


@dataclass(frozen=True, slots=True)
class Spawn:
    """The parameters of a spawn request."""

    node: Atom
    module: Atom
    function: Atom
    args: list[Term]
    link: bool
    monitor: bool
    alias: AliasMode | None
    group_leader: Pid


class SpawnCall(_SpawnRequestCall):
    """`erlang:spawn_request(Node, Module, Function, Args, Options)`.

    The link, the monitor and the alias take effect with the reply, so nothing remains without one.
    """

    def __init__(self, caller: Process, spawn: Spawn) -> None:
        what = f"{spawn.module}:{spawn.function}/{len(spawn.args)} on {spawn.node}"
        mfa = (spawn.module, spawn.function, len(spawn.args))
        options: list[Term] = [_LINK] if spawn.link else []
        if spawn.monitor:
            options.append(_MONITOR)
        super().__init__(caller, spawn.node, what, mfa, spawn.args, options, spawn.group_leader)
        self._spawn = spawn
        self.spawned: Spawned | None = None
        if spawn.alias is not None:
            caller.alias(self.reference, mode=spawn.alias)

    def fail(self, error: Exception) -> None:
        """Ends the call with an error and deactivates the alias."""
        self.caller.unalias(self.reference)
        super().fail(error)

    def close(self) -> None:
        """Ends the call. Without a reply the alias is deactivated."""
        if self.spawned is None:
            self.caller.unalias(self.reference)
        super().close()

    def _replied(self, signal: signals.SpawnReply, source: Source) -> None:
        child = signal.result
        if not isinstance(child, Pid):
            self.fail(self._refusal(child))
            return
        me = self.caller
        if signal.flags & (signals.SPAWN_LINKED | signals.SPAWN_MONITORED):
            self.system.tie(me, self.node)
        if signal.flags & signals.SPAWN_LINKED:
            me.links.link_received(child)
        if signal.flags & signals.SPAWN_MONITORED:
            me.monitoring[self.reference] = child
        is_tied = self._spawn.monitor or self._spawn.alias is not None
        self.spawned = Spawned(child, self.reference if is_tied else None)
        self.finish(child)

    def _refusal(self, reason: Term) -> Exception:
        return SpawnError(self.what, reason)


class SpawnMessage(SpawnCall):
    """A `SpawnCall` whose reply is a message to the caller.

    The message is (tag, reference, 'ok', pid) or (tag, reference, 'error', reason).
    """

    def __init__(self, caller: Process, spawn: Spawn, tag: Term) -> None:
        super().__init__(caller, spawn)
        self._tag = tag
        self._source = HERE

    def finish(self, value: Term) -> None:
        """Delivers the reply with the pid."""
        if self.is_open:
            self.caller.signalled((self._tag, self.reference, _OK, value), self._source)
        super().finish(value)

    def fail(self, error: Exception) -> None:
        """Delivers the error reply."""
        if self.is_open and self.caller.is_alive and not isinstance(error, EtfEncodeError):
            reason = error.reason if isinstance(error, SpawnError) else NOCONNECTION
            self.caller.signalled((self._tag, self.reference, _ERROR, reason), self._source)
        super().fail(error)

    def _replied(self, signal: signals.SpawnReply, source: Source) -> None:
        # A full mailbox pauses the node that sent the reply.
        self._source = source
        super()._replied(signal, source)


class CallRequest:
    """A call whose answer is received later.

    To handle many answers as they arrive, wait for `answered` of each. OTP: `erpc:send_request/4`,
    `gen_server:send_request/2`, `receive_response/2`, `wait_response/2`.
    """

    def __init__(self, call: PendingCall) -> None:
        """Sends the request. Raises EtfEncodeError."""
        self._call = call
        self._is_abandoned = False
        call.begin()

    def __str__(self) -> str:
        return self._call.what

    @property
    def is_answered(self) -> bool:
        """Whether `receive_response` returns without waiting."""
        return self._call.result.done()

    async def answered(self, timeout: float | None = None) -> bool:
        """Waits for an answer, at most `timeout` seconds. Returns whether there is one."""
        check_timeout(timeout)
        self._call.system.affinity.check()
        if not self.is_answered:
            await asyncio.wait([self._call.result], timeout=timeout)
        return self.is_answered and not self._is_abandoned

    async def receive_response(self, timeout: float | None = 5.0) -> Term:
        """Returns the answer, also repeatedly.

        Waits at most `timeout` seconds, or for ever if it is None. After a timeout the request is
        abandoned. Raises CallTimeout and the errors of the call.
        """
        if not await self.answered(timeout):
            was_open = self.abandon()
            what = str(self) if was_open else f"{self}, abandoned,"
            raise CallTimeout(what, timeout or 0)
        return self._call.result.result()

    def abandon(self) -> bool:
        """Abandons the request: a later answer is dropped.

        Returns True if no answer had arrived.
        """
        self._call.system.affinity.check()
        if self.is_answered:
            return False
        self._is_abandoned = True
        self._call.close()
        return True


async def gen_call(
    caller: Process,
    to: Pid | tuple[Atom, Atom],
    request: Term,
    timeout: float | None,
    *,
    label: Atom = GEN_CALL,
    what: str | None = None,
) -> Term:
    """Makes a call as `gen:call(To, Label, Request, Timeout)`. `what` describes it in error texts.

    Raises NoProcess, NoConnection, CallTimeout, CallError if the server ends during the call,
    MailboxFull, EtfEncodeError and TypeError.
    """
    check_timeout(timeout)
    call = GenCall(caller, to, request, label, what)
    call.begin()
    return await call.wait(timeout)


def server_of(to: Pid | str | tuple[str, str], here: Atom) -> Pid | tuple[Atom, Atom]:
    """Returns a server as a pid or a (name, node) tuple. Raises TypeError."""
    if isinstance(to, Pid):
        return to
    name, node = (to, here) if isinstance(to, str) else to
    return check_atom("name", name), check_atom("node", node)


def check_timeout(timeout: object) -> None:
    """Checks a timeout in seconds, or None.

    Raises TypeError if it is not a number, and ValueError if it is negative or NaN.
    """
    if timeout is None:
        return
    text = f"timeout must be a number of seconds or None, not {timeout!r:.100}"
    if not isinstance(timeout, numbers.Real) or isinstance(timeout, bool):
        raise TypeError(text)
    if not float(timeout) >= 0:
        raise ValueError(text)


def check_args(args: object) -> list[Term]:
    """Returns the arguments as a list.

    Raises TypeError for a str, bytes, a mapping, a set or a non-iterable, since `args="abc"` is
    most likely meant as `args=["abc"]`.
    """
    if isinstance(args, (str, bytes, bytearray, memoryview, Mapping, Set)) or not isinstance(
        args, Iterable
    ):
        raise TypeError(f"args must be a list of arguments, not {type(args).__name__}")
    return list(args)


def check_nodes(nodes: object) -> list[str]:
    """Returns node names as a list. Raises TypeError."""
    if isinstance(nodes, (str, bytes)) or not isinstance(nodes, Iterable):
        raise TypeError(f"nodes must be a list of node names, not {type(nodes).__name__}")
    return [check_atom("node", node) for node in nodes]


def check_atom(name: str, value: object) -> Atom:
    """Returns the argument `name` as an atom. Raises TypeError if it is not a str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return Atom(value)


def alias_of(tag: Term) -> Reference | None:
    """Returns the alias in the tag of a gen call: `[alias|Ref]`, or a list whose head is that."""
    if isinstance(tag, list) and tag:
        tag = tag[0]
    elif isinstance(tag, ImproperList) and isinstance(tag.items[0], ImproperList):
        tag = tag.items[0]
    if isinstance(tag, ImproperList) and tag.items == (ALIAS,) and isinstance(tag.tail, Reference):
        return tag.tail
    return None


def is_from(term: Term) -> bool:
    """Returns whether a term is the From of a gen call."""
    return isinstance(term, tuple) and len(term) == 2 and isinstance(term[0], Pid)


def is_call(message: Term) -> bool:
    """Returns whether a message is a call of a server: {Label, From, Request} (`gen:call/4`)."""
    return isinstance(message, tuple) and len(message) == 3 and is_from(message[1])


def fail_call(server: Process, to: Term, reason: Term) -> bool:
    """Fails a call: the caller's monitor fires with `reason`, as if the server had crashed.

    Returns False if the caller has no monitor and cannot be informed.
    """
    caller, tag = to
    reference = _monitor_of(tag, caller, server)
    watcher = None if reference is None else server.watchers.get(reference)
    if reference is None or watcher is None or watcher.pid.node is not caller.node:
        extra = {**server.fields("call_failed"), "sender": str(caller)}
        text = "%s: a call by %s failed, and the caller has no monitor: %s"
        logger.error(text, server, caller, format_bounded(reason, 500), extra=extra)
        return False
    del server.watchers[reference]
    server.system.watched_names.pop(reference, None)
    server.system.send_down(watcher, server.pid, reference, reason)
    return True


def _monitor_of(tag: Term, caller: Pid, server: Process) -> Reference | None:
    """Returns the monitor that belongs to the tag of a gen call."""
    match tag:
        case Reference():
            return tag
        case (Reference(), server.system.name):
            # `gen_server:multi_call/4` up to OTP 25: {Tag, Node}, where Tag is no monitor.
            return latest_monitor(server, caller)
        case ImproperList(items=(ImproperList(),), tail=Reference() as monitor):
            # `gen_server:multi_call/4` since OTP 26: [[alias|Alias]|Monitor].
            return monitor
    return alias_of(tag)


def latest_monitor(server: Process, watcher: Pid) -> Reference | None:
    """Returns the most recent monitor of `server` by a process."""
    monitors = reversed(server.watchers.items())
    return next((reference for reference, by in monitors if by.pid == watcher), None)


def down_error(what: str, node: str, reason: Term) -> Exception:
    """Returns the exception for a call whose server has ended with `reason`."""
    if reason is NOCONNECTION:
        return NoConnection(node, "the connection was lost during a call")
    if reason is NOPROC:
        return NoProcess(f"{what}: no such process")
    match reason:
        case (error, [(_, _, _, _), *_] as stack):
            return CallError(what, ErrorClass.EXIT, error, stack)
    return CallError(what, ErrorClass.EXIT, reason, ())


def _is_answer(message: Term, alias: Reference) -> bool:
    return isinstance(message, tuple) and len(message) == 2 and alias_of(message[0]) == alias


def _erpc_result(what: str, node: Atom, tag: Reference, reason: Term) -> Term:
    """Decodes the exit reason of `erpc:execute_call/4`. Raises CallError, NoConnection."""
    if isinstance(reason, tuple) and reason and reason[0] == tag:
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
    # Another process ended it: the {signal, Reason} of erpc.
    raise CallError(what, ErrorClass.EXIT, (_SIGNAL, reason), ())


def _look_at(result: asyncio.Future[Term]) -> None:
    if not result.cancelled():
        result.exception()
