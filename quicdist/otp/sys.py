"""System messages: the answers to `sys:get_state/1` and related functions.

OTP, sys(3).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from quicdist.etf import Atom, Pid, Term
from quicdist.runtime import system_messages
from quicdist.runtime.mailbox import Mailbox
from quicdist.runtime.system_messages import OK, is_system
from quicdist.runtime.system_process import reply

__all__ = ["OK", "Mode", "Subject", "Terminate", "handle", "is_system"]

_ERROR = Atom("error")


class Mode(enum.Enum):
    """How a process handles other messages."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    """Messages stay queued."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """The result of a request to end the process (`sys:terminate/2`)."""

    reason: Term


class Subject(Protocol):
    """A process that handles system messages."""

    me: Mailbox
    mode: Mode

    def sys_state(self) -> Term:
        """Returns the state, for `sys:get_state`."""

    def sys_module(self) -> Atom:
        """Returns the callback module."""

    def sys_status(self) -> Term:
        """Returns the last element of the result of `sys:get_status`."""

    def sys_parent(self) -> Pid:
        """Returns the parent process."""


async def handle(subject: Subject, message: Term) -> Terminate | None:
    """Handles a system message and sends the reply. Returns Terminate if the process must end."""
    assert isinstance(message, tuple)
    _, sender, request = message
    ends: Terminate | None = None
    answer: Term
    match request:
        case "get_state":
            answer = subject.sys_state()
            if await system_messages.takes_ok(subject.me, sender[0]):
                answer = (OK, answer)
        case "get_status":
            module, mode = subject.sys_module(), Atom(subject.mode.value)
            parent, misc = subject.sys_parent(), subject.sys_status()
            answer = system_messages.status(subject.me, module, mode, parent, misc)
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
            answer = system_messages.debug_answer(what)
        case ("replace_state", function):
            # Functions of `sys:replace_state` are BEAM code.
            reason = (Atom("callback_failed"), function, (_ERROR, Atom("undef")))
            answer = (_ERROR, reason)
        case _:
            answer = system_messages.unknown_request(request)
    reply(subject.me.system, subject.me.pid, sender, answer)
    return ends
