"""System messages: what `sys:get_state/1` and its kin ask of a process.

OTP, sys(3).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from quicdist.etf import Atom, Pid, Term
from quicdist.node.mailbox import Mailbox
from quicdist.node.service import reply

OK = Atom("ok")
_ERROR = Atom("error")
_STATUS = Atom("status")
_MODULE = Atom("module")
_NO_DEBUG = Atom("no_debug")


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
        and isinstance(message[1], tuple)
        and len(message[1]) == 2
    )


def handle(subject: Subject, message: Term) -> Terminate | None:
    """Deals with a system message, the answer included."""
    assert isinstance(message, tuple)
    _, sender, request = message
    ends: Terminate | None = None
    answer: Term
    match request:
        case "get_state":
            answer = subject.sys_state()
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
