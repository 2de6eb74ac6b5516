"""How other nodes call exported functions: erpc and rpc, and gen_server calls to a module's name.

- `spawn(Node, Module, Function, Args)` and its kin start a process that runs an exported function.
- `erpc:call`, and `rpc:call` since OTP 23, ask our node to spawn `erpc:execute_call/4`: the
  answer is the exit reason of that process.
- Older nodes' `rpc:call` is a gen call to `rex`, and so is `rpc:block_call`.
- `gen_server:call({Module, Node}, {Function, Arg...})` (or the bare `Function`) calls a function
  of an exported module. Where it raises, that caller's monitor fires with the error as reason,
  as if the server had crashed and been restarted; the caller sees what `gen_server:call` makes
  of a crashed server.

OTP: erpc, rpc, gen; ERTS manual, Distribution Protocol, SPAWN_REQUEST.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from quicdist.dist import control as ctl
from quicdist.etf import Atom, Export, Pid, Term
from quicdist.etf.notation import format_bounded
from quicdist.node.access import Access
from quicdist.node.errors import ErlangError, ErlangExit, ErlangThrow
from quicdist.node.exports import Exports
from quicdist.node.level import Level, Source
from quicdist.node.mailbox import Mailbox
from quicdist.node.process import Watcher
from quicdist.node.reasons import error_reason, stack_of
from quicdist.node.service import Service, alias_of, is_from
from quicdist.node.spawn import Main, Spawner
from quicdist.node.system import System

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


class Serving:
    """Runs exported functions for other nodes, each call in a process of its own."""

    def __init__(
        self,
        system: System,
        spawner: Spawner,
        exports: Exports,
        access: Access,
        calls_at_once: int,
    ) -> None:
        self._system = system
        self._spawner = spawner
        self._exports = exports
        self._access = access
        self._calls_at_once = calls_at_once
        self._running: dict[Source, Level] = {}
        self._provided: dict[tuple[str, str], Callable[..., Awaitable[Term]]] = {}
        system.handlers[ctl.SpawnRequest] = self._on_spawn_request
        system.handlers[ctl.SpawnRequestTT] = self._on_spawn_request
        system.register(REX, Service(system, self._on_rex))
        for module in exports.modules:
            system.register(module, Service(system, self._on_module_call))

    def provide(self, module: str, name: str, function: Callable[..., Awaitable[Term]]) -> None:
        """A function of OTP's that other nodes' OTP calls here."""
        self._provided[module, name] = function

    # -- running ---------------------------------------------------------------------------------

    def _start(self, source: Source, main: Main) -> Mailbox:
        """A process for one call. A peer with too many of them is held back meanwhile."""
        level = self._running.get(source)
        if level is None:
            most = self._calls_at_once
            owner = "a peer's calls of exported functions"
            level = self._running[source] = Level(owner, most // 2, most, 4 * most, "calls")

        def over() -> None:
            level.take(1)
            if not level.size and self._running.get(source) is level:
                del self._running[source]

        level.size += 1
        me = self._spawner.spawn(main, over=over)
        if level.size > level.high:
            source.filled(level)
        return me

    async def _apply(self, source: Source, module: Term, name: Term, args: Term) -> Term:
        """Calls the function; raises what it raises, or `undef`."""
        module, name, args = _applied((module, name, _length(args)), args)
        args = _listed(args)
        exported = self._exports.find(module, name, len(args))
        if exported is None:
            provided = self._provided.get((str(module), str(name)))
            if provided is not None:
                return await provided(*args)
            raise _Undefined(module, name, args)
        caller = source.name
        if caller is not None and not self._access.may_call(caller, exported.module, exported.name):
            logger.warning(
                "%s wanted to call %s:%s, which it may not",
                caller,
                exported.module,
                exported.name,
                extra={
                    "event": "call_not_allowed",
                    "node": str(self._system.name),
                    "peer": str(caller),
                },
            )
            raise _Undefined(module, name, args)
        return await self._exports.run(exported, args)

    # -- erpc ------------------------------------------------------------------------------------

    def _on_spawn_request(self, control: ctl.SpawnRequest, args: Term, source: Source) -> None:
        caller = control.from_pid
        me = self._start(
            source, self._erpc_main(source, control.mfa, args) or self._main(source, control, args)
        )
        me.group_leader = control.group_leader
        flags = 0
        self._system.tie(me, caller.node)
        for option in control.opt_list:
            kind = option[0] if isinstance(option, tuple) and option else option
            if kind == "link":
                flags |= ctl.SPAWN_LINKED
                me.links.link_received(caller)
            elif kind == "monitor":
                flags |= ctl.SPAWN_MONITORED
                me.watchers[control.req_id] = Watcher(caller, me.pid)
        self._answer_spawn(ctl.SpawnReply(control.req_id, caller, flags, me.pid), me.pid)

    def _answer_spawn(self, answer: ctl.SpawnReply, sender: Pid) -> None:
        self._system.emit_if_connected(answer.to_pid.node, sender, answer)

    def _main(self, source: Source, control: ctl.SpawnRequest, args: Term) -> Main:
        """The process for `spawn(Node, M, F, Args)`: of an exported function, or one that ends
        with `undef` at once, as in OTP where there is no such function."""
        module, name, args = _applied(control.mfa, args)

        async def run(me: Mailbox) -> None:
            try:
                await self._apply(source, module, name, args)
            except _Undefined as error:
                logger.info(
                    "%s wanted to spawn %s here, which is not exported",
                    control.from_pid,
                    format_bounded((module, name, args)),
                    extra={
                        "event": "spawn_refused",
                        "node": str(self._system.name),
                        "sender": str(control.from_pid),
                    },
                )
                raise ErlangExit((_UNDEF, [error.frame])) from None

        return run

    def _erpc_main(self, source: Source, mfa: tuple[Atom, Atom, int], args: Term) -> Main | None:
        match mfa, args:
            case ("erpc", "execute_call", 4), [reference, module, name, call_args]:

                async def call(me: Mailbox) -> None:
                    # The answer is the exit reason: erpc:execute_call/4.
                    raise ErlangExit(
                        (reference, *await self._outcome(source, module, name, call_args))
                    )

                return call
            case ("erpc", "execute_cast", 3), [module, name, cast_args]:

                async def cast(me: Mailbox) -> None:
                    await self._apply(source, module, name, cast_args)

                return cast
        return None

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
            return _ERROR, error_reason(error), _stack(error, module, name, args)

    # -- rex -------------------------------------------------------------------------------------

    def _on_rex(self, rex: Service, message: Term, source: Source) -> None:
        match message:
            case ("$gen_call", to, ("call" | "block_call", module, name, args, leader)) if is_from(
                to
            ):
                self._rpc(rex, source, to[0], to, (module, name, args), leader)
            case ("$gen_cast", ("cast", module, name, args, leader)):
                self._cast(source, module, name, args, leader)
            case (Pid() as caller, ("call", module, name, args, leader)):
                # How C nodes call: the answer is {rex, Answer}.
                self._rpc(rex, source, caller, None, (module, name, args), leader)
            case (Pid() as caller, "features_request"):
                answer = (_FEATURES_REPLY, self._system.name, [_ERPC])
                self._system.post(rex.pid, caller, answer)
            case _:
                pass

    def _rpc(
        self,
        rex: Service,
        source: Source,
        caller: Pid,
        to: Term,
        mfa: tuple[Term, Term, Term],
        leader: Term,
    ) -> None:
        async def main(me: Mailbox) -> None:
            match await self._outcome(source, *mfa):
                case (("return" | "throw"), value):
                    answer = value
                case ("exit", reason):
                    answer = (_BADRPC, (_BIG_EXIT, reason))
                case (_, reason, stack):
                    answer = (_BADRPC, (_BIG_EXIT, (reason, stack)))
            if to is None:
                self._system.post(rex.pid, caller, (REX, answer))
            else:
                rex.reply(to, answer)

        _led_by(self._start(source, main), leader)

    # -- gen_server:call -------------------------------------------------------------------------

    def _on_module_call(self, server: Service, message: Term, source: Source) -> None:
        match message:
            case ("$gen_call", to, request) if is_from(to):
                self._gen_call(server, to, request, source)
            case ("$gen_cast", request):
                self._gen_cast(server, request, source)
            case _:
                text = "%s ignores a message: %s"
                extra = server.fields("message_ignored")
                logger.info(text, server, format_bounded(message), extra=extra)

    def _gen_call(self, server: Service, to: Term, request: Term, source: Source) -> None:
        name, args = _request(request)

        async def main(me: Mailbox) -> None:
            outcome = await self._outcome(source, server.name, name, args)
            if outcome[0] is _RETURN:
                server.reply(to, outcome[1])
            elif outcome[0] is _ERROR:
                self._crash_for(server, to, (outcome[1], outcome[2]))
            elif outcome[0] is _THROW:
                # A throw out of handle_call is its return value in OTP, and a bad one here.
                self._crash_for(server, to, (Atom("bad_return_value"), outcome[1]))
            else:
                self._crash_for(server, to, outcome[1])

        self._start(source, main)

    def _gen_cast(self, server: Service, request: Term, source: Source) -> None:
        name, args = _request(request)
        self._cast(source, server.name, name, args)

    def _cast(
        self, source: Source, module: Term, name: Term, args: Term, leader: Term = None
    ) -> None:
        async def main(me: Mailbox) -> None:
            await self._apply(source, module, name, args)

        _led_by(self._start(source, main), leader)

    def _crash_for(self, server: Service, to: Term, reason: Term) -> None:
        """To this caller the server has crashed."""
        caller, tag = to
        reference = alias_of(tag) or tag
        watcher = server.watchers.pop(reference, None)
        if watcher is None:
            text = "%s: a call by %s, which does not watch, failed: %s"
            extra = {**server.fields("call_failed"), "sender": str(caller)}
            logger.error(text, server, caller, format_bounded(reason), extra=extra)
            return
        self._system.watched_names.pop(reference, None)
        self._system.send_down(watcher, server.pid, reference, reason)


class _Undefined(ErlangError):
    """No such function is exported."""

    def __init__(self, module: Term, name: Term, args: Sequence[Term]) -> None:
        super().__init__(_UNDEF)
        self.frame: Term = (module, name, list(args), [])


def _applied(mfa: tuple[Term, Term, int], args: Term) -> tuple[Term, Term, Term]:
    """The function that is meant: `spawn(Node, fun M:F/N)` and proc_lib's spawns say it by way
    of functions of theirs."""
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


def _led_by(me: Mailbox, leader: Term) -> None:
    """What it prints goes where the caller's does."""
    if isinstance(leader, Pid):
        me.group_leader = leader


def _listed(args: Term) -> list[Term]:
    """Arguments; where `Options.strings` says so, a list of small integers was read as text."""
    if isinstance(args, (bytes, str)):
        return [one if isinstance(one, int) else ord(one) for one in args]
    if not isinstance(args, list):
        raise ErlangError(_BADARG)
    return args


def _length(args: Term) -> int:
    return len(args) if isinstance(args, (list, str, bytes)) else 0


def _stack(error: Exception, module: Term, name: Term, args: Term) -> list[Term]:
    """The stack as the caller sees it: it ends in the function that was called."""
    if isinstance(error, _Undefined):
        return [error.frame]
    arity = len(args) if isinstance(args, list) else args
    return [*stack_of(error), (module, name, arity, [])]


def _request(request: Term) -> tuple[Term, Term]:
    if isinstance(request, tuple) and request:
        return request[0], list(request[1:])
    return request, []
