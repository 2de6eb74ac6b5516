"""gen calls by a process that waits for nothing else meanwhile, as `gen:call/4` does it.

The call monitors its server and gives it the monitor as an alias to answer to; both end with the
call, and with them whatever would still come of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quicdist.dist import control as ctl
from quicdist.etf import Atom, ImproperList, Pid, Reference, Term
from quicdist.etf.notation import format_term
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
    what = f"a call of {format_term(to)}"
    mark = me.mark()
    reference = me.monitor(to, alias=AliasMode.DEMONITOR)
    tag = ImproperList((ALIAS,), reference)

    def is_end(message: Term) -> bool:
        match message:
            case (ImproperList() as its, _):
                return its == tag
            case ("DOWN", Reference() as its, _, _, _):
                return its == reference
        return False

    try:
        # Posted, as one that waits for an answer adds no more: so the wait for it is the only one.
        node, control = _address(me, to)
        me.system.emit(node, me.pid, control, (label, (me.pid, tag), request))
        answer = await me.receive(is_end, timeout, since=mark)
    except ReceiveTimeout:
        raise CallTimeout(what, timeout or 0) from None
    finally:
        if me.is_alive:
            me.demonitor(reference)
            me.unalias(reference)
            me.drop(is_end, since=mark)
    assert isinstance(answer, tuple)
    if len(answer) == 2:
        return answer[1]
    raise down_error(what, node, answer[4])


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
