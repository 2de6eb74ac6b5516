"""gen calls by a process that waits for nothing else meanwhile, as `gen:call/4` does it.

The call monitors its server and gives it the monitor as an alias to answer to; both end with the
call, and with them whatever would still come of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quicdist.dist import control as ctl
from quicdist.etf import Atom, ImproperList, Pid, Reference, Term
from quicdist.etf.notation import format_bounded
from quicdist.node.aliases import AliasMode
from quicdist.node.errors import (
    CallError,
    CallTimeout,
    ErrorClass,
    NoConnection,
    NoProcess,
    ReceiveTimeout,
)
from quicdist.node.process import NOCONNECTION, NOPROC
from quicdist.node.service import ALIAS, GEN_CALL

if TYPE_CHECKING:
    from quicdist.node.mailbox import Mailbox


async def call(
    me: Mailbox,
    to: Pid | str | tuple[str, str],
    request: Term,
    timeout: float | None,
    label: Atom = GEN_CALL,
) -> Term:
    """`gen:call(To, Label, Request, Timeout)`, by `me`. See `Mailbox.gen_call`."""
    sent = Request(me, to, request, label)
    try:
        return await sent.receive_response(timeout)
    finally:
        sent.abandon()


class Request:
    """A call whose answer comes to the mailbox of the process that has sent it, to be asked for
    by it later. OTP: `gen_server:send_request/2`, `receive_response/2`, `wait_response/2`."""

    def __init__(
        self,
        me: Mailbox,
        to: Pid | str | tuple[str, str],
        request: Term,
        label: Atom = GEN_CALL,
    ) -> None:
        """Sends it. Raises EtfEncodeError."""
        self._me = me
        self._what = f"a call of {format_bounded(to)}"
        self._mark = me.mark()
        self._reference = me.monitor(to, alias=AliasMode.DEMONITOR)
        self._tag = ImproperList((ALIAS,), self._reference)
        self._end: tuple[Term, ...] | None = None
        self._is_open = True
        # Posted, as one that waits for an answer adds no more: so the wait for it is the only one.
        self._node, control = _address(me, to)
        try:
            me.system.emit(self._node, me.pid, control, (label, (me.pid, self._tag), request))
        except BaseException:
            self.abandon()
            raise

    def __str__(self) -> str:
        return self._what

    async def answered(self, timeout: float | None = None) -> bool:
        """Waits until there is an answer, or so many seconds. Whether there is one."""
        if self._is_open:
            try:
                end = await self._me.receive(self._is_end, timeout, since=self._mark)
            except ReceiveTimeout:
                return False
            assert isinstance(end, tuple)
            self._end = end
            self.abandon()
        return self._end is not None

    async def receive_response(self, timeout: float | None = 5.0) -> Term:
        """The answer, as often as it is asked for. 5 s by default, None waits for ever; when they
        are over the request is abandoned.

        Raises CallTimeout, and what `Mailbox.gen_call` raises.
        """
        if not await self.answered(timeout):
            was_open = self.abandon()
            raise CallTimeout(self._what if was_open else f"{self._what}, abandoned,", timeout or 0)
        assert self._end is not None
        if len(self._end) == 2:
            return self._end[1]
        raise down_error(self._what, self._node, self._end[4])

    def abandon(self) -> bool:
        """No answer is wanted any more; one that comes is dropped. True when none had come."""
        was_open, self._is_open = self._is_open, False
        if was_open and self._me.is_alive:
            self._me.demonitor(self._reference)
            self._me.unalias(self._reference)
            self._me.drop(self._is_end, since=self._mark)
        return was_open and self._end is None

    def _is_end(self, message: Term) -> bool:
        match message:
            case (ImproperList() as its, _):
                return its == self._tag
            case ("DOWN", Reference() as its, _, _, _):
                return its == self._reference
        return False


def down_error(what: str, node: str, reason: Term) -> Exception:
    """What it means for a call that its server is down."""
    if reason is NOCONNECTION:
        return NoConnection(node, "there is none for a call, or it was lost")
    if reason is NOPROC:
        return NoProcess(f"{what}: there is no such process")
    match reason:
        case (error, [(_, _, _, _), *_] as stack):
            return CallError(what, ErrorClass.EXIT, error, stack)
    return CallError(what, ErrorClass.EXIT, reason, ())


def _address(me: Mailbox, to: Pid | str | tuple[str, str]) -> tuple[Atom, ctl.Control]:
    if isinstance(to, Pid):
        return to.node, ctl.SendSender(me.pid, to)
    name, node = (to, me.system.name) if isinstance(to, str) else to
    return Atom(node), ctl.RegSend(me.pid, Atom(name))
