"""The server side of calls: erpc, rpc, and gen_server calls to the name of a module.

- `spawn(Node, Module, Function, Args)` and similar functions start a process that runs an exported
  function.
- `erpc:call`, and `rpc:call` since OTP 23, make this node spawn `erpc:execute_call/4`. The answer
  is the exit reason of that process.
- `rpc:call` of older nodes is a gen call to `rex`, and so is `rpc:block_call`. `rpc:cast`,
  `rpc:eval_everywhere` and `rpc:sbcast` are casts and messages to `rex`.
- `gen_server:call({Module, Node}, {Function, Arg...})` (or only `Function`) calls a function of an
  exported module. If the function raises, the caller's monitor fires with the error as the reason,
  as if the server had crashed and been restarted.
- `rpc:server_call(Node, Module, Module, Request)` and `rpc:multi_server_call` do the same.

A started call always ends with an answer or, if the caller has a monitor, with a DOWN signal, also
if the function is cancelled, its process is ended, or its result cannot be encoded.

OTP: erpc, rpc, gen; ERTS manual, Distribution Protocol, SPAWN_REQUEST.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from quicdist.cluster.access import AccessControl
from quicdist.cluster.access_rules import DISCONNECT, Pids
from quicdist.cluster.audit import Audit, Outcome, PeerIdentity
from quicdist.errors import ErlangError, ErlangExit, ErlangThrow, ProcessExited
from quicdist.etf import Atom, Export, Pid, Reference, Term
from quicdist.etf.notation import format_bounded
from quicdist.kernel.current_call import CurrentCall, current_call, set_current_call
from quicdist.kernel.exports import Exported, Exports
from quicdist.kernel.streams import messages as streams
from quicdist.kernel.streams.producer import Generation, Producer
from quicdist.protocol import signals
from quicdist.runtime.backpressure import HERE, Backpressure, Source
from quicdist.runtime.calls import (
    DRAINING,
    MAX_TIMEOUT,
    alias_of,
    fail_call,
    is_from,
    latest_monitor,
)
from quicdist.runtime.exit_reasons import CANCELLED, error_reason, exit_reason, log_info, stack_of
from quicdist.runtime.local_spawn import Main, Spawner, current_process
from quicdist.runtime.mailbox import Mailbox
from quicdist.runtime.process import Watcher
from quicdist.runtime.process_table import ProcessTable
from quicdist.runtime.rate_limit import RateLimits
from quicdist.runtime.system_process import SystemProcess, ignore, reply

logger = logging.getLogger("quicdist.node")

REX = Atom("rex")
_ERPC = Atom("erpc")
_RETURN = Atom("return")
_THROW = Atom("throw")
_EXIT = Atom("exit")
_ERROR = Atom("error")
_UNDEF = Atom("undef")
_ERLANG = Atom("erlang")
_APPLY = Atom("apply")
_BADRPC = Atom("badrpc")
_BIG_EXIT = Atom("EXIT")
_BADARG = Atom("badarg")
_FEATURES_REPLY = Atom("features_reply")
_SYSTEM_LIMIT = Atom("system_limit")
_NONEXISTING_NAME = Atom("nonexisting_name")


Provided: TypeAlias = Callable[[Atom | None, Sequence[Term]], Awaitable[Term]]
"""A function that takes the calling node (None for this one) and the arguments."""


RunExported: TypeAlias = Callable[[Exported, Sequence[Term]], Awaitable[Term]]
"""A function that calls an exported function."""


class RpcServer:
    """Runs exported functions for other nodes, each call in its own process."""

    def __init__(
        self,
        system: ProcessTable,
        spawner: Spawner,
        exports: Exports,
        access: AccessControl,
        calls_at_once: int,
        calls_per_second: float | None = None,
        audit: Audit | None = None,
    ) -> None:
        self._system = system
        self._spawner = spawner
        self._exports = exports
        self._access = access
        self._calls_at_once = calls_at_once
        self._rates = None if calls_per_second is None else RateLimits(calls_per_second)
        self._audit = audit
        self._running: dict[Source, Backpressure] = {}
        self._streaming: dict[Source, Backpressure] = {}
        """The streams of a peer. Too many are refused: a peer that is paused could not acknowledge
        items, and none of its streams would end."""
        self._provided: dict[tuple[str, str, int], Provided] = {}
        system.handlers[signals.SpawnRequest] = self._on_spawn_request
        system.register(REX, SystemProcess(system, self._on_rex))
        system.work[self] = lambda: self.running
        for module in exports.modules:
            system.register(module, SystemProcess(system, self._on_module_call))

    def provide(self, module: str, name: str, arity: int, function: Provided) -> None:
        """Adds a built-in function that other nodes can call.

        An exported function of the same module, name and arity takes precedence.
        """
        self._provided[module, name, arity] = function

    # -- running ---------------------------------------------------------------------------------

    def _start(
        self,
        source: Source,
        main: Main,
        *,
        before: Callable[[Mailbox], None] | None = None,
        call: _Call | None = None,
        asker: _Asker,
        levels: dict[Source, Backpressure] | None = None,
    ) -> None:
        """Starts a process for one call.

        A peer with too many calls is paused. A `call` that is not answered when the process ends
        fails with its exit reason.
        """
        node = source.name or self._system.name
        current = asker.call(node)
        # A peer chooses its references. It must not replace one of another peer.
        monitor = asker.monitor
        if monitor is not None and monitor.node is not node:
            monitor = None
        if levels is None:
            levels = self._running
        level = levels.get(source)
        if level is None:
            most = self._calls_at_once
            owner = "a peer's calls of exported functions"
            level = levels[source] = Backpressure(owner, most // 2, most, 4 * most, "calls")

        def over(me: Mailbox) -> None:
            level.take(1)
            if not level.size and levels.get(source) is level:
                del levels[source]
            if call is not None and not call.is_answered:
                call.fail(me.exit_reason)
            if monitor is not None:
                self._system.on_unwatched.pop(monitor, None)
            self._system.work_done()

        async def run(me: Mailbox) -> None:
            set_current_call(current)
            await main(me)

        level.size += 1
        if monitor is not None:
            self._system.on_unwatched[monitor] = current.cancel
        try:
            self._spawner.spawn(run, before=before, over=over)
        except Exception:
            level.take(1)
            raise
        if level.size > level.high:
            source.pause(level)
        self._count(source)

    def _count(self, source: Source) -> None:
        """Counts a call. A peer that exceeds its call rate is paused."""
        if self._rates is not None and source.name is not None:
            source.throttle(self._rates.take(source.name, asyncio.get_running_loop().time()))

    def _refuses(self, source: Source, module: Term, name: Term, args: Term) -> bool:
        """Returns whether a call is refused because the node is draining, and records that."""
        if not self._system.is_draining or source is HERE:
            return False
        if self._audit is not None and source.name is not None:
            module, name, args = _applied((module, name, _length(args)), args)
            caller = PeerIdentity(str(source.name), source.fingerprint)
            called = _described(module, name, args)
            self._audit.call(caller, called, Outcome.REFUSED, cause=str(DRAINING))
        return True

    def _with_group_leader(self, source: Source, leader: Term) -> Callable[[Mailbox], None]:
        """Sends the output of a process to the caller's group leader."""

        def before(me: Mailbox) -> None:
            if isinstance(leader, Pid):
                self._lead(me, source, leader)

        return before

    def _lead(self, me: Mailbox, source: Source, leader: Pid) -> None:
        """Sets the group leader of a process that runs for a peer.

        Nodes that the process calls print to it in the name of this node. A process of this node
        requires access to every pid; otherwise the default group leader stays.
        """
        is_ours = leader.node is self._system.name and source.name is not None
        if not is_ours or self._access.rules_for(str(source.name)).pids is Pids.ANY:
            me.group_leader = leader

    @property
    def running(self) -> int:
        """The number of calls of exported functions that have not ended."""
        levels = (*self._running.values(), *self._streaming.values())
        return sum(level.size for level in levels)

    async def _apply(
        self, source: Source, module: Term, name: Term, args: Term, run: RunExported | None = None
    ) -> Term:
        """Calls a function with `run` and writes the audit log.

        Raises what the function raises, or `undef`.
        """
        module, name, args = _applied((module, name, _length(args)), args)
        if self._audit is None or source.name is None:
            return await self._run_allowed(source, module, name, args, run)
        caller = PeerIdentity(str(source.name), source.fingerprint)
        function = _described(module, name, args)
        began = time.monotonic()
        outcome, cause = Outcome.RETURNED, ""
        try:
            return await self._run_allowed(source, module, name, args, run)
        except _Undefined as error:
            outcome, cause = Outcome.REFUSED, error.cause
            raise
        except BaseException as error:
            outcome, cause = Outcome.RAISED, type(error).__name__
            raise
        finally:
            took = time.monotonic() - began
            self._audit.call(caller, function, outcome, duration=took, cause=cause)

    async def _run_allowed(
        self, source: Source, module: Term, name: Term, args: Term, run: RunExported | None
    ) -> Term:
        args = _listed(args)
        exported = self._exports.find(module, name, len(args))
        provided = None
        if run is None:
            provided = self._provided.get((str(module), str(name), len(args)))
        if exported is None and provided is None:
            raise _Undefined(module, name, args, "not exported")
        if not self._may_call(source, str(module), str(name)):
            self._say_not_allowed(source, f"{module}:{name}")
            if not self._access.only_logs or f"{module}:{name}" == DISCONNECT:
                raise _Undefined(module, name, args, "access")
        if exported is not None:
            if exported.cancel_with_caller:
                current_call().end_with_caller(partial(current_process.get().die, CANCELLED))
            return await (run or self._exports.run)(exported, args)
        assert provided is not None
        return await provided(source.name, args)

    def _say_not_allowed(self, source: Source, function: str) -> None:
        caller = str(source.name)
        extra = {"event": "call_not_allowed", "node": str(self._system.name), "peer": caller}
        logger.warning("%s is not allowed to call %s", caller, function, extra=extra)

    def _may_call(self, source: Source, module: str, name: str) -> bool:
        return self.may_call(source.name, module, name)

    def may_call(self, caller: Atom | None, module: str, name: str) -> bool:
        """Returns whether a node may call a function. None is this node."""
        if caller is None:
            return True
        rules = self._access.rules_for(caller)
        if f"{module}:{name}" == DISCONNECT and (module, name, 1) in self._provided:
            return rules.may_disconnect()
        return rules.may_call(module, name)

    # -- erpc ------------------------------------------------------------------------------------

    def _on_spawn_request(self, signal: signals.SpawnRequest, args: Term, source: Source) -> None:
        caller = signal.sender
        if self._refuses(source, *_spawned(signal.mfa, args)):
            refusal = signals.SpawnReply(signal.req_id, caller, 0, DRAINING)
            self._system.emit_if_connected(caller.node, caller, refusal)
            return

        def before(me: Mailbox) -> None:
            self._lead(me, source, signal.group_leader)
            flags = 0
            self._system.tie(me, caller.node)
            for option in signal.options:
                kind = option[0] if isinstance(option, tuple) and option else option
                if kind == "link":
                    flags |= signals.SPAWN_LINKED
                    me.links.link_received(caller)
                elif kind == "monitor":
                    flags |= signals.SPAWN_MONITORED
                    me.watchers[signal.req_id] = Watcher(caller, me.pid)
            answer = signals.SpawnReply(signal.req_id, caller, flags, me.pid)
            self._system.emit_if_connected(caller.node, me.pid, answer)

        asker = _Asker.of_spawn(signal, args)
        stream = self._stream_main(source, signal.mfa, args)
        if stream is not None and self._has_all_streams(source):
            refusal = signals.SpawnReply(signal.req_id, caller, 0, _SYSTEM_LIMIT)
            self._system.emit_if_connected(caller.node, caller, refusal)
            return
        main = (
            stream or self._erpc_main(source, signal.mfa, args) or self._main(source, signal, args)
        )
        levels = self._running if stream is None else self._streaming
        try:
            self._start(source, main, before=before, asker=asker, levels=levels)
        except Exception:
            extra = {"event": "spawn_failed", "node": str(self._system.name)}
            logger.exception("starting a process for %s failed", caller, extra=extra)
            failure = signals.SpawnReply(signal.req_id, caller, 0, _SYSTEM_LIMIT)
            self._system.emit_if_connected(caller.node, caller, failure)

    def _main(self, source: Source, signal: signals.SpawnRequest, args: Term) -> Main:
        """Returns the main function for `spawn(Node, M, F, Args)`.

        It is an exported function, or a process that ends with `undef` immediately, as in OTP.
        """
        module, name, args = _applied(signal.mfa, args)

        async def run(me: Mailbox) -> None:
            with self._exits(source, module, name):
                try:
                    await self._apply(source, module, name, args)
                except _Undefined:
                    self._say_not_exported(signal.sender, (module, name, args))
                    raise

        return run

    def _say_not_exported(self, sender: Pid, function: tuple[Term, ...]) -> None:
        extra = {"event": "spawn_refused", "node": str(self._system.name), "sender": str(sender)}
        text = "%s requested to spawn %s, which is not exported"
        logger.info(text, sender, format_bounded(function), extra=extra)

    async def _apply_and_exit(self, source: Source, module: Term, name: Term, args: Term) -> None:
        """Runs the function of a cast, or a spawned one."""
        with self._exits(source, module, name):
            await self._apply(source, module, name, args)

    @contextlib.contextmanager
    def _exits(self, source: Source, module: Term, name: Term) -> Iterator[None]:
        """Logs what an exported function raises, and ends its process with the reason."""
        try:
            yield
        except _Undefined as error:
            raise ErlangExit((_UNDEF, [error.frame])) from None
        except (ErlangExit, ProcessExited):
            raise
        except Exception as error:
            if not current_process.get().is_alive:
                raise  # an error of the cleanup
            self._log_raised(source, module, name, error)
            raise ErlangExit(exit_reason(error)) from None

    def _erpc_main(self, source: Source, mfa: tuple[Atom, Atom, int], args: Term) -> Main | None:
        match mfa, args:
            case (("erpc", "execute_call", 4), [reference, module, name, call_args]) | (
                ("quicdist_call", "execute", 5),
                [reference, module, name, call_args, _],
            ):

                async def call(me: Mailbox) -> None:
                    # The answer is the exit reason: erpc:execute_call/4.
                    raise ErlangExit(
                        (reference, *await self._outcome(source, module, name, call_args))
                    )

                return call
            case ("erpc", "execute_cast", 3), [module, name, cast_args]:

                async def cast(me: Mailbox) -> None:
                    await self._apply_and_exit(source, module, name, cast_args)

                return cast
        return None

    def _stream_main(self, source: Source, mfa: tuple[Atom, Atom, int], args: Term) -> Main | None:
        """Returns the main function of the producer of a stream; see `kernel.streams.messages`."""
        if mfa != (streams.MODULE, streams.START, 6):
            return None

        async def produce(me: Mailbox) -> None:
            try:
                start = streams.Start.from_term(args)
            except ValueError:
                raise ErlangExit(_BADARG) from None
            if not self._may_consume(source, start):
                raise ErlangExit(_BADARG)

            async def run(exported: Exported, listed: Sequence[Term]) -> Term:
                producer = Producer(self._exports, me, start.consumer, start.tag, start.window)
                await producer.run(Generation.of_call(self._exports, exported, listed))
                return None

            with self._exits(source, start.module, start.function):
                await self._apply(source, start.module, start.function, start.args, run)

        return produce

    def _has_all_streams(self, source: Source) -> bool:
        """Returns whether a peer has as many streams as it may have at a time."""
        level = self._streaming.get(source)
        return source is not HERE and level is not None and level.size >= level.high

    def _may_consume(self, source: Source, start: streams.Start) -> bool:
        """Returns whether a stream may have this consumer: a process of the caller's node.

        Another process would get items that it did not ask for, in the name of this node.
        """
        if source.name is None or self._access.rules_for(str(source.name)).pids is Pids.ANY:
            return True
        return start.consumer.node is source.name and start.tag.node is source.name

    async def _outcome(
        self, source: Source, module: Term, name: Term, args: Term
    ) -> tuple[Term, ...]:
        try:
            return _RETURN, await self._apply(source, module, name, args)
        except ErlangThrow as error:
            return _THROW, error.reason
        except ErlangExit as error:
            return _EXIT, error.reason
        except Exception as error:
            self._log_raised(source, module, name, error)
            return _ERROR, error_reason(error), _stack(error, module, name, args)

    def _log_raised(self, source: Source, module: Term, name: Term, error: Exception) -> None:
        """Logs the complete error, since the caller may not receive it.

        An ErlangError is an intended answer.
        """
        if isinstance(error, ErlangError):
            return
        caller = str(source.name or self._system.name)
        extra = {"event": "call_raised", "node": str(self._system.name), "peer": caller}
        text = "%s:%s, called by %s, raised %s"
        kind = type(error).__name__
        logger.error(text, module, name, caller, kind, exc_info=log_info(error), extra=extra)

    # -- rex -------------------------------------------------------------------------------------

    def _on_rex(self, rex: SystemProcess, message: Term, source: Source) -> None:
        match message:
            case ("$gen_call", to, ("call" | "block_call", module, name, args, leader)) if is_from(
                to
            ):
                assert isinstance(to, tuple)
                self._rpc(_RexCall(rex, to), source, (module, name, args), leader)
            case ("$gen_cast", ("cast", module, name, args, leader)):
                self._cast(source, module, name, args, leader)
            case (Pid() as caller, ("call", module, name, args, leader)):
                # The form that C nodes send.
                self._rpc(_CNodeCall(rex, caller), source, (module, name, args), leader)
            case (Pid() as caller, ("sbcast", name, inner)):
                found = self._send_to_name(name, inner, source)
                answer = self._system.name if found else (_NONEXISTING_NAME, name)
                self._system.post(rex.pid, caller, (REX, self._system.name, answer))
            case (Pid() as caller, ("send", name, inner)):
                if not self._send_to_name(name, (caller, inner), source):
                    answer = (_NONEXISTING_NAME, name)
                    self._system.post(rex.pid, caller, (REX, self._system.name, answer))
            case (Pid() as caller, "features_request"):
                features = (_FEATURES_REPLY, self._system.name, [_ERPC])
                self._system.post(rex.pid, caller, features)
            case _:
                ignore(rex, message, source)

    def _send_to_name(self, name: Term, message: Term, source: Source) -> bool:
        """Sends `Name !

        Message` to a registered name of this node. Returns False if it does not exist.
        """
        process = self._system.names.get(name) if isinstance(name, Atom) else None
        if process is None:
            return False
        process.deliver(message, source)
        return True

    def _rpc(self, call: _Call, source: Source, mfa: tuple[Term, Term, Term], leader: Term) -> None:
        if self._refuses(source, *mfa):
            call.refuse()
            return

        async def main(me: Mailbox) -> None:
            match await self._outcome(source, *mfa):
                case (("return" | "throw"), value):
                    call.answer(value)
                case ("exit", reason):
                    call.fail(reason)
                case (_, reason, stack):
                    call.fail((reason, stack))

        self._start(
            source,
            main,
            before=self._with_group_leader(source, leader),
            call=call,
            asker=call.asker,
        )

    # -- gen_server:call -------------------------------------------------------------------------

    def _on_module_call(self, server: SystemProcess, message: Term, source: Source) -> None:
        match message:
            case ("$gen_call", to, request) if is_from(to):
                assert isinstance(to, tuple)
                self._gen_call(_ModuleCall(server, to), request, source)
            case ("$gen_cast", request):
                name, args = _request(request)
                self._cast(source, server.name, name, args)
            case (Pid() as caller, request) if not isinstance(request, Pid):
                # `rpc:server_call` and `rpc:multi_server_call`.
                self._gen_call(_ServerCall(server, caller), request, source)
            case _:
                text = "%s ignores a message: %s"
                extra = server.fields("message_ignored")
                logger.info(text, server, format_bounded(message), extra=extra)

    def _gen_call(self, call: _ServedCall, request: Term, source: Source) -> None:
        name, args = _request(request)
        if self._refuses(source, call.server.name, name, args):
            call.refuse()
            return

        async def main(me: Mailbox) -> None:
            outcome = await self._outcome(source, call.server.name, name, args)
            if outcome[0] is _RETURN:
                call.answer(outcome[1])
            elif outcome[0] is _ERROR:
                call.fail((outcome[1], outcome[2]))
            elif outcome[0] is _THROW:
                # In OTP a value thrown by handle_call is its return value, here an invalid one.
                call.fail((Atom("bad_return_value"), outcome[1]))
            else:
                call.fail(outcome[1])

        self._start(source, main, call=call, asker=call.asker)

    def _cast(
        self, source: Source, module: Term, name: Term, args: Term, leader: Term = None
    ) -> None:
        if self._refuses(source, module, name, args):
            text = "dropped a cast of %s:%s: the node is draining"
            extra = {"event": "call_refused", "node": str(self._system.name)}
            logger.info(text, format_bounded(module, 100), format_bounded(name, 100), extra=extra)
            return

        async def main(me: Mailbox) -> None:
            await self._apply_and_exit(source, module, name, args)

        self._start(source, main, before=self._with_group_leader(source, leader), asker=_Asker())


@dataclass(frozen=True, slots=True)
class _Asker:
    """The process that waits for the answer to a call."""

    pid: Pid | None = None
    monitor: Reference | None = None
    """Its monitor of the called process, which it removes when it gives up."""
    timeout: float | None = None
    """Seconds for which it waits, if it told so."""

    @classmethod
    def of_spawn(cls, signal: signals.SpawnRequest, args: Term) -> _Asker:
        match signal.mfa, args:
            case ("quicdist_call", "execute", 5), [*_, int(milliseconds)] if (
                not isinstance(milliseconds, bool) and 0 <= milliseconds <= MAX_TIMEOUT
            ):
                return cls(signal.sender, signal.req_id, milliseconds / 1000)
        return cls(signal.sender, signal.req_id)

    @classmethod
    def of_gen_call(cls, to: tuple[Pid, Term]) -> _Asker:
        """Of the From of a gen call. Its tag is the monitor, or has it as an alias."""
        pid, tag = to
        monitor = tag if isinstance(tag, Reference) else alias_of(tag)
        return cls(pid, monitor)

    def call(self, node: Atom) -> CurrentCall:
        """The call as `current_call` returns it."""
        deadline = None
        if self.timeout is not None:
            deadline = asyncio.get_running_loop().time() + self.timeout
        return CurrentCall(str(node), self.pid, deadline)


class _Call(ABC):
    """A call by another node that must get one answer."""

    is_answered = False

    def __init__(self, asker: _Asker) -> None:
        self.asker = asker

    def answer(self, value: Term) -> None:
        """Sends the result of the function. If it cannot be encoded, the call fails."""
        try:
            self._send(value)
        except Exception as error:
            self._failed(error)
            self.fail((error_reason(error), stack_of(error)))
        else:
            self.is_answered = True

    def fail(self, reason: Term) -> None:
        """Sends that the call has failed.

        A reason that cannot be encoded is replaced by the encoding error.
        """
        self.is_answered = True
        try:
            self._send_failure(reason)
        except Exception as error:
            self._failed(error)
            self._send_failure(error_reason(error))

    @abstractmethod
    def refuse(self) -> None:
        """Sends that the node is draining."""

    @abstractmethod
    def _send(self, value: Term) -> None: ...

    @abstractmethod
    def _send_failure(self, reason: Term) -> None: ...

    def _failed(self, error: Exception) -> None:
        extra = {"event": "answer_failed"}
        logger.error("the answer to a call cannot be sent: %s", error, extra=extra)


class _RexCall(_Call):
    """`rpc:call` of OTP before 23, and `rpc:block_call`."""

    def __init__(self, rex: SystemProcess, to: tuple[Pid, Term]) -> None:
        super().__init__(_Asker.of_gen_call(to))
        self._rex = rex
        self._to = to

    def refuse(self) -> None:
        """Answers `{badrpc, draining}`."""
        self._send((_BADRPC, DRAINING))

    def _send(self, value: Term) -> None:
        reply(self._rex.system, self._rex.pid, self._to, value)

    def _send_failure(self, reason: Term) -> None:
        self._send((_BADRPC, (_BIG_EXIT, reason)))


class _CNodeCall(_RexCall):
    """A call in the form of C nodes. The answer is `{rex, Answer}`."""

    def __init__(self, rex: SystemProcess, caller: Pid) -> None:
        super().__init__(rex, (caller, None))

    def _send(self, value: Term) -> None:
        self._rex.system.post(self._rex.pid, self._to[0], (REX, value))


class _ServedCall(_Call):
    """A call of an exported module as a server."""

    def __init__(self, server: SystemProcess, asker: _Asker) -> None:
        super().__init__(asker)
        self.server = server

    def refuse(self) -> None:
        """Makes the caller's monitor fire."""
        self._send_failure(DRAINING)


class _ModuleCall(_ServedCall):
    """`gen_server:call`. For the caller, a failed call looks like a crash of the server."""

    def __init__(self, server: SystemProcess, to: tuple[Pid, Term]) -> None:
        super().__init__(server, _Asker.of_gen_call(to))
        self._to = to

    def _send(self, value: Term) -> None:
        reply(self.server.system, self.server.pid, self._to, value)

    def _send_failure(self, reason: Term) -> None:
        fail_call(self.server, self._to, reason)


class _ServerCall(_ServedCall):
    """`rpc:server_call(Node, Module, Module, Request)`: the answer is `{Module, Node, Answer}`."""

    def __init__(self, server: SystemProcess, caller: Pid) -> None:
        super().__init__(server, _Asker(caller, latest_monitor(server, caller)))
        self._caller = caller

    def _send(self, value: Term) -> None:
        system = self.server.system
        system.post(self.server.pid, self._caller, (self.server.name, system.name, value))

    def _send_failure(self, reason: Term) -> None:
        fail_call(self.server, (self._caller, latest_monitor(self.server, self._caller)), reason)


class _Undefined(ErlangError):
    """The function is not exported."""

    def __init__(self, module: Term, name: Term, args: Sequence[Term], cause: str) -> None:
        super().__init__(_UNDEF)
        self.cause = cause
        self.frame: Term = (module, name, list(args), [])


def _applied(mfa: tuple[Term, Term, int], args: Term) -> tuple[Term, Term, Term]:
    """Returns the function that a spawn request runs.

    `spawn(Node, fun M:F/N)` and proc_lib wrap it in functions of their own.
    """
    match (*mfa, args):
        case ("proc_lib", "init_p", 5, [_, _, module, name, inner]):
            return _applied((module, name, _length(inner)), inner)
        case ("proc_lib", "init_p", 3, [_, _, function]):
            return _applied((_ERLANG, _APPLY, 2), [function, []])
        case ("erlang", "apply", 3, [module, name, inner]):
            return module, name, inner
        case ("erlang", "apply", 2, [Export(module, name, _), inner]):
            return module, name, inner
    return mfa[0], mfa[1], args


def _spawned(mfa: tuple[Atom, Atom, int], args: Term) -> tuple[Term, Term, Term]:
    """Returns the function that a spawn request runs, or that erpc calls in the process."""
    match mfa, args:
        case ("erpc", "execute_call", 4), [_, module, name, inner]:
            return module, name, inner
        case ("quicdist_call", "execute", 5), [_, module, name, inner, _]:
            return module, name, inner
        case ("quicdist_stream", "start", 6), [_, _, _, module, name, inner]:
            return module, name, inner
        case ("erpc", "execute_cast", 3), [module, name, inner]:
            return module, name, inner
    return mfa[0], mfa[1], args


def _listed(args: Term) -> list[Term]:
    """Returns the arguments as a list.

    With `Options.strings`, a list of small integers was decoded as text.
    """
    if isinstance(args, (bytes, str)):
        return [one if isinstance(one, int) else ord(one) for one in args]
    if not isinstance(args, list):
        raise ErlangError(_BADARG)
    return args


def _described(module: Term, name: Term, args: Term) -> str:
    """Returns `module:function/arity` for the audit log."""
    return f"{format_bounded(module, 100)}:{format_bounded(name, 100)}/{_length(args)}"


def _length(args: Term) -> int:
    return len(args) if isinstance(args, (list, str, bytes)) else 0


def _stack(error: Exception, module: Term, name: Term, args: Term) -> list[Term]:
    """Returns the stack for the caller. It ends with the called function."""
    if isinstance(error, _Undefined):
        return [error.frame]
    arity = len(args) if isinstance(args, list) else args
    return [*stack_of(error), (module, name, arity, [])]


def _request(request: Term) -> tuple[Term, Term]:
    if isinstance(request, tuple) and request:
        return request[0], list(request[1:])
    return request, []
