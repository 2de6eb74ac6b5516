"""Servers: a state, and one request after the other.

    class Counter(GenServer):
        def __init__(self) -> None:
            self.count = 0

        async def handle_call(self, request, sender):
            self.count += 1
            return self.count

    async with Node(...) as node:
        await start(node, Counter(), name="counter")

is `gen_server:call({counter, Node}, Request)` to a BEAM, and `sys:get_state({counter, Node})` too.

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

logger = logging.getLogger("quicdist.otp")

From: TypeAlias = "tuple[Pid, Term]"
"""Who called, to answer to."""

TIMEOUT = Atom("timeout")
_FUNCTION_CLAUSE = Atom("function_clause")


class _NoReply(enum.Enum):
    NO_REPLY = "no reply"


NO_REPLY = _NoReply.NO_REPLY
"""What `handle_call` returns when it has answered, or something will later: `self.reply`."""


class Stop(QuicdistError):
    """Raise it in a handler to end the server with this reason; `terminate` runs.

    In `handle_call`, `answer` is what the caller gets; without one it sees the server end.
    """

    def __init__(self, reason: Term = NORMAL, *, answer: Term | _NoReply = NO_REPLY) -> None:
        super().__init__(f"stop: {format_bounded(reason)}")
        self.reason = reason
        self.answer = answer


class InitError(NodeError):
    """A server's `init` did not succeed; `reason` is the Erlang term."""

    def __init__(self, what: str, reason: Term) -> None:
        super().__init__(f"{what} could not be started: {format_bounded(reason)}")
        self.reason = reason


class GenServer:
    """Derive from it and override what is needed; the state is whatever `self` has.

    Handlers run one after the other, in the server's own process `self.me`. An error in one ends
    the server with the error as reason, after `terminate`, as in OTP.
    """

    me: Mailbox
    """The process that the server is; there from `init` on."""

    mode = sys.Mode.RUNNING

    trap_exit = False
    """True: exit signals of processes other than the parent come to `handle_info`, and one of
    the parent, or the node's stop, ends it by way of `terminate`."""

    _parent: Pid | None = None
    _idle: float | None = None
    _is_handling = False

    # -- to override --

    async def init(self) -> None:
        """Runs before anything else; `start` returns when it does. An error is InitError there."""

    async def handle_call(self, request: Term, sender: From) -> Term | _NoReply:
        """A call. What it returns is the answer."""
        raise ErlangError(_FUNCTION_CLAUSE)

    async def handle_cast(self, request: Term) -> None:
        """A cast."""
        raise ErlangError(_FUNCTION_CLAUSE)

    async def handle_info(self, message: Term) -> None:
        """Any other message: 'DOWN', 'EXIT', 'timeout', what is sent plainly."""
        extra = self.me.fields("message_ignored")
        text = format_bounded(message, 500)
        logger.warning("%s: unexpected message %s", self.me, text, extra=extra)

    async def terminate(self, reason: Term) -> None:
        """Runs last, when the server ends by itself or, trapping exits, by its parent."""

    def state(self) -> Term:
        """What `sys:get_state` shows: by default the public attributes, as a map."""
        return {
            Atom(name): value
            for name, value in vars(self).items()
            if not name.startswith("_") and name not in ("me", "mode", "trap_exit")
        }

    # -- for its handlers --

    def reply(self, sender: From, answer: Term) -> None:
        """Answers a call whose handler returned NO_REPLY; from any code, once for a call."""
        reply(self.me.system, self.me.pid, sender, answer)

    def timeout_in(self, seconds: float) -> None:
        """When no message comes for so long from now, `handle_info` gets 'timeout'. A message
        that comes takes it back, as the timeout in a `{reply, ...}` of OTP."""
        self._idle = seconds

    # -- for a remote sys --

    def sys_state(self) -> Term:
        """The state, as Python prints it where it is no Erlang term."""
        try:
            state = self.state()
        except Exception as error:
            return Atom("error"), exit_reason(error)
        try:
            encode(state)
        except EtfEncodeError:
            # Looking into a server whose state is no term costs it nothing.
            return repr(state).encode(errors="replace")
        return state

    def sys_module(self) -> Atom:
        """The class stands for the callback module."""
        return Atom(type(self).__name__)

    def sys_status(self) -> Term:
        """As gen_server shows it."""
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
        """Whoever started it; itself where that is no process."""
        return self._parent or self.me.pid

    # -- its life --

    async def run(self, me: Mailbox, ready: asyncio.Future[None]) -> None:
        """The body of its process. `ready` is told how `init` went."""
        self.me = me
        me.trap_exit = self.trap_exit
        try:
            await self.init()
        except BaseException as error:
            if not ready.done():
                reason = error.reason if isinstance(error, Stop) else exit_reason(error)
                ready.set_exception(InitError(str(me), reason))
                # It is told once, to whoever starts it.
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
                # `gen_event:call`, which is no call of a gen_server.
                fail_call(self.me, sender, Atom("notsup"))
            case ("EXIT", Pid() as other, reason) if other == self._parent:
                raise Stop(reason)
            case _:
                await self.handle_info(message)


async def start(
    node: Node, server: GenServer, *, name: str | None = None, link: bool = False
) -> Mailbox:
    """Starts a server as a process of the node, registered as `name`, and waits for its `init`.

    With `link` it is linked to the running process, which is then its parent: give it where
    servers are started by a process. Returns the process; `wait()` on it tells how it ends.

    Raises InitError, NameTaken.
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
