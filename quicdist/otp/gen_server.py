"""Generic servers: processes with a state that handle one request at a time.

    class Counter(GenServer):
        def __init__(self) -> None:
            self.count = 0

        async def handle_call(self, request, sender):
            self.count += 1
            return self.count

    async with Node(...) as node:
        await start(node, Counter(), name="counter")

A BEAM node can run `gen_server:call({counter, Node}, Request)` and
`sys:get_state({counter, Node})`.

OTP, gen_server(3).
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import TypeAlias

from quicdist.errors import ErlangError, ErlangExit, NodeError, QuicdistError, ReceiveTimeout
from quicdist.etf import Atom, EtfEncodeError, Pid, Term, encode
from quicdist.etf.notation import format_bounded
from quicdist.node.node import Node
from quicdist.otp import sys
from quicdist.runtime.calls import fail_call, is_from
from quicdist.runtime.exit_reasons import exit_reason
from quicdist.runtime.local_spawn import current_process
from quicdist.runtime.mailbox import Mailbox
from quicdist.runtime.process import NORMAL, SHUTDOWN
from quicdist.runtime.system_process import reply
from quicdist.setting_types import Duration, check_type

logger = logging.getLogger("quicdist.otp")

From: TypeAlias = "tuple[Pid, Term]"
"""The caller of a request, as passed to `GenServer.reply`."""

TIMEOUT = Atom("timeout")
_FUNCTION_CLAUSE = Atom("function_clause")


class _NoReply(enum.Enum):
    NO_REPLY = "no reply"


NO_REPLY = _NoReply.NO_REPLY
"""Return value of `handle_call` if the reply is sent with `GenServer.reply`."""


class Stop(QuicdistError):
    """Ends the server with `reason` if a handler raises it. `terminate` is called.

    In `handle_call`, `answer` is the reply to the caller. Without it the call fails with the
    exit reason of the server.
    """

    def __init__(self, reason: Term = NORMAL, *, answer: Term | _NoReply = NO_REPLY) -> None:
        super().__init__(f"stop: {format_bounded(reason)}")
        self.reason = reason
        self.answer = answer


class InitError(NodeError):
    """The `init` of a server failed. `reason` is the Erlang term."""

    def __init__(self, what: str, reason: Term) -> None:
        super().__init__(f"{what} could not be started: {format_bounded(reason)}")
        self.reason = reason


class GenServer:
    """Base class of servers. The state is the attributes of the instance.

    Handlers run one at a time, in the process of the server, `self.me`. If a handler raises an
    exception, `terminate` is called and the server ends with the exception as its exit reason, as
    in OTP.
    """

    me: Mailbox
    """The process of the server. Set before `init` is called."""

    mode = sys.Mode.RUNNING

    trap_exit = False
    """If True, exit signals from processes other than the parent are passed to `handle_info`. An
    exit signal from the parent, or a stop of the node, calls `terminate` and ends the server."""

    _parent: Pid | None = None
    _idle: float | None = None
    _is_handling = False

    # -- to override --

    async def init(self) -> None:
        """Called first. `start` returns after it. An exception makes `start` raise InitError."""

    async def handle_call(self, request: Term, sender: From) -> Term | _NoReply:
        """Handles a call. The return value is the reply. See `NO_REPLY`."""
        raise ErlangError(_FUNCTION_CLAUSE)

    async def handle_cast(self, request: Term) -> None:
        """Handles a cast."""
        raise ErlangError(_FUNCTION_CLAUSE)

    async def handle_info(self, message: Term) -> None:
        """Handles any other message, such as 'DOWN', 'EXIT' and 'timeout' messages."""
        extra = self.me.fields("message_ignored")
        text = format_bounded(message, 500)
        logger.warning("%s: unexpected message %s", self.me, text, extra=extra)

    async def terminate(self, reason: Term) -> None:
        """Called last if the server stops, or if its parent ends it and it traps exits."""

    def state(self) -> Term:
        """Returns the state for `sys:get_state`: by default the public attributes, as a map."""
        return {
            Atom(name): value
            for name, value in vars(self).items()
            if not name.startswith("_") and name not in ("me", "mode", "trap_exit")
        }

    # -- for its handlers --

    def reply(self, sender: From, answer: Term) -> None:
        """Replies to a call whose handler returned NO_REPLY. Call it once for each call."""
        reply(self.me.system, self.me.pid, sender, answer)

    def timeout_in(self, seconds: float) -> None:
        """Passes 'timeout' to `handle_info` if no message arrives within `seconds`.

        A message cancels the timeout, as with the timeout in `{reply, ...}` in OTP.
        """
        check_type("seconds=", seconds, Duration)
        self._idle = seconds

    # -- for a remote sys --

    def sys_state(self) -> Term:
        """Returns the state as a term, or its `repr` if it cannot be encoded."""
        try:
            state = self.state()
        except Exception as error:
            return Atom("error"), exit_reason(error)
        try:
            encode(state)
        except EtfEncodeError:
            # A state that is not a term must not make the server fail.
            return repr(state).encode(errors="replace")
        return state

    def sys_module(self) -> Atom:
        """The callback module: the name of the class."""
        return Atom(type(self).__name__)

    def sys_status(self) -> Term:
        """The status, in the format of gen_server."""
        name = self.me.name or self.me.pid
        header = f"Status for generic server {name}"
        return [
            (Atom("header"), _chars(header)),
            (
                Atom("data"),
                [
                    (_chars("Status"), Atom(self.mode.value)),
                    (_chars("Parent"), self.sys_parent()),
                    (_chars("Logged events"), []),
                ],
            ),
            (Atom("data"), [(_chars("State"), self.sys_state())]),
        ]

    def sys_parent(self) -> Pid:
        """The parent process, or this process if it was not started by a process."""
        return self._parent or self.me.pid

    # -- its life --

    async def run(self, me: Mailbox, ready: asyncio.Future[None]) -> None:
        """Runs the server in its process. `ready` receives the result of `init`."""
        self.me = me
        me.trap_exit = self.trap_exit
        try:
            await self.init()
        except BaseException as error:
            if not ready.done():
                reason = error.reason if isinstance(error, Stop) else exit_reason(error)
                ready.set_exception(InitError(str(me), reason))
                # The error is reported once, to the caller of `start`.
                raise ErlangExit(reason) from None
            raise
        if not ready.done():
            ready.set_result(None)
        me.system.work[me] = lambda: me.message_count + self._is_handling
        try:
            await self._serve()
        except Stop as stop:
            await self.terminate(stop.reason)
            if stop.reason is not NORMAL:
                raise ErlangExit(stop.reason) from None
        except asyncio.CancelledError:
            if me.is_alive and self.trap_exit:
                await self.terminate(SHUTDOWN)
            raise
        except Exception as error:
            if me.is_alive:
                await self.terminate(exit_reason(error))
            raise
        finally:
            del me.system.work[me]
            me.system.work_done()

    async def _serve(self) -> None:
        me = self.me
        while True:
            idle, self._idle = self._idle, None
            match = sys.is_system if self.mode is sys.Mode.SUSPENDED else None
            try:
                message = await self.me.receive(match, idle if match is None else None)
            except ReceiveTimeout:
                message = TIMEOUT
            if sys.is_system(message):
                ends = await sys.handle(self, message)
                if ends is not None:
                    raise Stop(ends.reason)
                self._idle = idle
            else:
                self._is_handling = True
                try:
                    await self._handle(message)
                finally:
                    self._is_handling = False
                me.system.work_done()

    async def _handle(self, message: Term) -> None:
        match message:
            case ("$gen_call", sender, request) if is_from(sender):
                assert isinstance(sender, tuple)
                try:
                    answer = await self.handle_call(request, sender)
                except Stop as stop:
                    if not isinstance(stop.answer, _NoReply):
                        self.reply(sender, stop.answer)
                    raise
                if not isinstance(answer, _NoReply):
                    self.reply(sender, answer)
            case ("$gen_cast", request):
                await self.handle_cast(request)
            case (Pid(), sender, _) if is_from(sender):
                # A `gen_event:call`, which a gen_server does not handle.
                fail_call(self.me, sender, Atom("notsup"))
            case ("EXIT", Pid() as other, reason) if other == self._parent:
                raise Stop(reason)
            case _:
                await self.handle_info(message)


async def start(
    node: Node, server: GenServer, *, name: str | None = None, link: bool = False
) -> Mailbox:
    """Starts a server as a process of the node, and waits until its `init` has returned.

    The process is registered as `name`. With `link=True` it is linked to the current process,
    which becomes its parent. Use this to start a server from a process.

    Returns the mailbox of the server. Its `wait()` returns the exit reason.

    Raises InitError if `init` fails, NameTaken if `name` is registered, and RuntimeError if
    `link` is set outside a process.
    """
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    parent = current_process.get(None)

    async def main(me: Mailbox) -> None:
        await server.run(me, ready)

    if link:
        if parent is None:
            raise RuntimeError("start(link=True) is for code that runs in a process")
        server._parent = parent.pid
    me = node.spawn(main, name=name, link=parent if link else None)
    ended = asyncio.ensure_future(me.wait())
    try:
        await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
    if not ready.done():
        raise InitError(str(me), me.exit_reason)
    ready.result()
    return me


def _chars(text: str) -> Term:
    return [ord(one) for one in text]
