"""System messages: what `sys:get_state/1` and its kin ask of a process.

OTP, sys(3).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from quicdist.etf import Atom, Pid, Term
from quicdist.node.errors import CallError, CallTimeout, MailboxFull, NoConnection, NoProcess
from quicdist.node.mailbox import Mailbox
from quicdist.node.service import is_from, reply
from quicdist.runtime.calls import gen_call

OK = Atom("ok")
_ERROR = Atom("error")
_STATUS = Atom("status")
_MODULE = Atom("module")
_NO_DEBUG = Atom("no_debug")


_GET_STATE = Atom("get_state")
_SYSTEM = Atom("system")
_REX = Atom("rex")

_PATIENCE = 2.0
"""Seconds for a node to show its own form."""

_MOST_FORMS = 1000
_forms: dict[tuple[Atom, int], bool] = {}
"""What each node, in each of its lives, takes a state as."""


class Mode(enum.Enum):
    """What a process does with other messages."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    """They wait."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """`sys:terminate/2` wants it to end."""

    reason: Term


class Subject(Protocol):
    """A process that can be looked into."""

    me: Mailbox
    mode: Mode

    def sys_state(self) -> Term:
        """For `sys:get_state`."""

    def sys_module(self) -> Atom:
        """What stands for the callback module."""

    def sys_status(self) -> Term:
        """The last element of `sys:get_status`."""

    def sys_parent(self) -> Pid:
        """Who has started it."""


def is_system(message: Term) -> bool:
    """Whether a message is a system message."""
    return (
        isinstance(message, tuple)
        and len(message) == 3
        and message[0] == "system"
        and is_from(message[1])
    )


async def handle(subject: Subject, message: Term) -> Terminate | None:
    """Deals with a system message, the answer included."""
    assert isinstance(message, tuple)
    _, sender, request = message
    ends: Terminate | None = None
    answer: Term
    match request:
        case "get_state":
            answer = subject.sys_state()
            if await _wants_ok(subject.me, sender[0]):
                answer = (OK, answer)
        case "get_status":
            answer = _status(subject)
        case "suspend":
            subject.mode = Mode.SUSPENDED
            answer = OK
        case "resume":
            subject.mode = Mode.RUNNING
            answer = OK
        case ("terminate", reason):
            ends = Terminate(reason)
            answer = OK
        case ("debug", what):
            # Nothing of it is done, so that switching it off is the one thing that succeeds.
            answer = OK if what == _NO_DEBUG else Atom("unknown_debug")
        case ("replace_state", function):
            # A fun is BEAM code.
            reason = (Atom("callback_failed"), function, (_ERROR, Atom("undef")))
            answer = (_ERROR, reason)
        case _:
            answer = (_ERROR, (Atom("unknown_system_msg"), request))
    reply(subject.me.system, subject.me.pid, sender, answer)
    return ends


async def _wants_ok(me: Mailbox, sender: Pid) -> bool:
    """Whether `sys` of a node takes a state as `{ok, State}`, as it does in newer releases, or
    bare. The request does not tell: so a server of that node is asked the same, once."""
    if sender.node is me.system.name:
        return True
    peer = sender.node, sender.creation
    known = _forms.get(peer)
    if known is None:
        try:
            # The state of rex is a map.
            shown = await gen_call(me, (_REX, sender.node), _GET_STATE, _PATIENCE, label=_SYSTEM)
        except (CallError, CallTimeout, NoConnection, NoProcess, MailboxFull):
            return True
        known = isinstance(shown, tuple) and len(shown) == 2 and shown[0] == OK
        if len(_forms) >= _MOST_FORMS:
            _forms.clear()
        _forms[peer] = known
    return known


def _status(subject: Subject) -> Term:
    module = subject.sys_module()
    dictionary: list[Term] = [(Atom("$initial_call"), (module, Atom("init"), 1))]
    details: list[Term] = [
        dictionary,
        Atom(subject.mode.value),
        subject.sys_parent(),
        [],
        subject.sys_status(),
    ]
    return _STATUS, subject.me.pid, (_MODULE, module), details
