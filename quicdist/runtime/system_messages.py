"""System messages: the requests of `sys` to a process, and their answers.

OTP, sys(3).
"""

from __future__ import annotations

from quicdist.errors import CallError, CallTimeout, MailboxFull, NoConnection, NoProcess
from quicdist.etf import Atom, Pid, Term
from quicdist.runtime.calls import gen_call, is_from
from quicdist.runtime.process import Process

OK = Atom("ok")
ERROR = Atom("error")

_STATUS = Atom("status")
_MODULE = Atom("module")
_GET_STATE = Atom("get_state")
_SYSTEM = Atom("system")
_REX = Atom("rex")
_NO_DEBUG = Atom("no_debug")

_TIMEOUT = 2.0
"""Seconds that a node has to reveal its answer format."""

_MAX_FORMS = 1000
_forms: dict[tuple[Atom, int], bool] = {}
"""Whether each node incarnation expects a state as `{ok, State}`."""


def is_system(message: Term) -> bool:
    """Returns whether a message is a system message."""
    return (
        isinstance(message, tuple)
        and len(message) == 3
        and message[0] == "system"
        and is_from(message[1])
    )


def status(me: Process, module: Atom, mode: Atom, parent: Pid, misc: Term) -> Term:
    """Returns the answer to `sys:get_status`."""
    dictionary: list[Term] = [(Atom("$initial_call"), (module, Atom("init"), 1))]
    details: list[Term] = [dictionary, mode, parent, [], misc]
    return _STATUS, me.pid, (_MODULE, module), details


def debug_answer(what: Term) -> Term:
    """Returns the answer to `{debug, What}`.

    Debugging is not supported, so only disabling it succeeds.
    """
    return OK if what == _NO_DEBUG else Atom("unknown_debug")


def unknown_request(request: Term) -> Term:
    """Returns the answer to an unknown system message."""
    return ERROR, (Atom("unknown_system_msg"), request)


def known_form(me: Process, sender: Pid) -> bool | None:
    """Returns the cached result of `takes_ok`, or None if the node must be asked."""
    if sender.node is me.system.name:
        return True
    return _forms.get((sender.node, sender.creation))


async def takes_ok(me: Process, sender: Pid) -> bool:
    """Returns whether `sys` on the sender's node expects `{ok, State}`, as newer OTP releases do.

    The request does not contain that, so a server on that node is asked for its state once.
    """
    known = known_form(me, sender)
    if known is not None:
        return known
    try:
        # The state of rex is a map.
        shown = await gen_call(me, (_REX, sender.node), _GET_STATE, _TIMEOUT, label=_SYSTEM)
    except (CallError, CallTimeout, NoConnection, NoProcess, MailboxFull):
        return True
    known = isinstance(shown, tuple) and len(shown) == 2 and shown[0] == OK
    if len(_forms) >= _MAX_FORMS:
        _forms.clear()
    _forms[sender.node, sender.creation] = known
    return known
