"""Every control message of the ERTS manual as raw tuples.

Tests send these tuples and use them as the oracle for `quicdist.protocol.wire`. Each message is a
frozen dataclass with the manual's name in CamelCase, its operation number as `OP`, and
`HAS_PAYLOAD` for whether a term follows.

Source: ERTS manual, Distribution Protocol, "Protocol between Connected Nodes".
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from quicdist.etf.terms import Atom, Pid, Reference, Term
from quicdist.protocol.channel import OutgoingMessage
from quicdist.protocol.session import Session
from quicdist.protocol.signals import NO_PAYLOAD, Payload, Signal
from quicdist.protocol.wire import (
    ALTACT_ALIAS,
    ALTACT_EXIT,
    ALTACT_NAME,
    ALTACT_PRIO,
    ALTACT_TOKEN,
    FOLLOWS,
    parse,
)

__all__ = ["ALTACT_ALIAS", "ALTACT_EXIT", "ALTACT_NAME", "ALTACT_PRIO", "ALTACT_TOKEN"]

EMPTY = Atom("")
"""The value of fields that the manual calls unused."""


@dataclass(frozen=True, slots=True)
class Control:
    """Base of all control messages."""

    OP: ClassVar[int] = 0
    HAS_PAYLOAD: ClassVar[bool] = False
    unused: ClassVar[Atom] = EMPTY
    _wire: ClassVar[operator.attrgetter[tuple[Any, ...]]]

    def to_tuple(self) -> tuple[Term, ...]:
        """Returns the control tuple, with the operation number first."""
        return self._wire(self)


_C = TypeVar("_C", bound=Control)
_CLASSES: list[type[Control]] = []


def _register(op: int, *elements: str, payload: bool = False) -> Callable[[type[_C]], type[_C]]:
    """Sets the operation number of a class and the order of its fields on the wire."""

    def decorate(cls: type[_C]) -> type[_C]:
        cls.OP = op
        cls.HAS_PAYLOAD = payload
        # An attrgetter is not a descriptor, so it is called with the message.
        cls._wire = operator.attrgetter("OP", *elements)
        _CLASSES.append(cls)
        return cls

    return decorate


def signal(control: Control) -> Signal:
    """Returns the signal of a control message."""
    return parse(control.to_tuple())[0]


def meaning(control: Control, payload: Payload = NO_PAYLOAD) -> tuple[Signal, Payload]:
    """Returns the signal and the term of a control message with its payload."""
    found, inline = parse(control.to_tuple())
    return found, payload if inline is FOLLOWS else inline


@_register(1, "from_pid", "to_pid")
@dataclass(frozen=True, slots=True)
class Link(Control):
    """LINK: `from_pid` links itself to `to_pid`."""

    from_pid: Pid
    to_pid: Pid


@_register(2, "unused", "to_pid", payload=True)
@dataclass(frozen=True, slots=True)
class Send(Control):
    """SEND: the payload is a message. SEND_SENDER replaces it if negotiated."""

    to_pid: Pid


@_register(3, "from_pid", "to_pid", "reason")
@dataclass(frozen=True, slots=True)
class Exit(Control):
    """EXIT: a link broke because `from_pid` ended."""

    from_pid: Pid
    to_pid: Pid
    reason: Term


@_register(4, "from_pid", "to_pid")
@dataclass(frozen=True, slots=True)
class Unlink(Control):
    """UNLINK: obsolete, UNLINK_ID has replaced it."""

    from_pid: Pid
    to_pid: Pid


@_register(5)
@dataclass(frozen=True, slots=True)
class NodeLink(Control):
    """NODE_LINK: obsolete."""

    def to_tuple(self) -> tuple[Term, ...]:
        return (self.OP,)


@_register(6, "from_pid", "unused", "to_name", payload=True)
@dataclass(frozen=True, slots=True)
class RegSend(Control):
    """REG_SEND: the payload is a message to a registered name."""

    from_pid: Pid
    to_name: Atom


@_register(7, "from_pid", "to_pid")
@dataclass(frozen=True, slots=True)
class GroupLeader(Control):
    """GROUP_LEADER: `from_pid` becomes the group leader of `to_pid`."""

    from_pid: Pid
    to_pid: Pid


@_register(8, "from_pid", "to_pid", "reason")
@dataclass(frozen=True, slots=True)
class Exit2(Control):
    """EXIT2: an exit signal sent by a call of exit/2."""

    from_pid: Pid
    to_pid: Pid
    reason: Term


@_register(12, "unused", "to_pid", "trace_token", payload=True)
@dataclass(frozen=True, slots=True)
class SendTT(Control):
    """SEND_TT: SEND with a trace token."""

    to_pid: Pid
    trace_token: Term


@_register(13, "from_pid", "to_pid", "trace_token", "reason")
@dataclass(frozen=True, slots=True)
class ExitTT(Control):
    """EXIT_TT: EXIT with a trace token."""

    from_pid: Pid
    to_pid: Pid
    trace_token: Term
    reason: Term


@_register(16, "from_pid", "unused", "to_name", "trace_token", payload=True)
@dataclass(frozen=True, slots=True)
class RegSendTT(Control):
    """REG_SEND_TT: REG_SEND with a trace token."""

    from_pid: Pid
    to_name: Atom
    trace_token: Term


@_register(18, "from_pid", "to_pid", "trace_token", "reason")
@dataclass(frozen=True, slots=True)
class Exit2TT(Control):
    """EXIT2_TT: EXIT2 with a trace token."""

    from_pid: Pid
    to_pid: Pid
    trace_token: Term
    reason: Term


@_register(19, "from_pid", "to_proc", "ref")
@dataclass(frozen=True, slots=True)
class MonitorP(Control):
    """MONITOR_P: `from_pid` monitors a pid or a registered name."""

    from_pid: Pid
    to_proc: Pid | Atom
    ref: Reference


@_register(20, "from_pid", "to_proc", "ref")
@dataclass(frozen=True, slots=True)
class DemonitorP(Control):
    """DEMONITOR_P: the monitor `ref` ends."""

    from_pid: Pid
    to_proc: Pid | Atom
    ref: Reference


@_register(21, "from_proc", "to_pid", "ref", "reason")
@dataclass(frozen=True, slots=True)
class MonitorPExit(Control):
    """MONITOR_P_EXIT: the monitored `from_proc` ended."""

    from_proc: Pid | Atom
    to_pid: Pid
    ref: Reference
    reason: Term


@_register(22, "from_pid", "to_pid", payload=True)
@dataclass(frozen=True, slots=True)
class SendSender(Control):
    """SEND_SENDER: SEND with the pid of the sender."""

    from_pid: Pid
    to_pid: Pid


@_register(23, "from_pid", "to_pid", "trace_token", payload=True)
@dataclass(frozen=True, slots=True)
class SendSenderTT(Control):
    """SEND_SENDER_TT: SEND_SENDER with a trace token."""

    from_pid: Pid
    to_pid: Pid
    trace_token: Term


@_register(24, "from_pid", "to_pid", payload=True)
@dataclass(frozen=True, slots=True)
class PayloadExit(Control):
    """PAYLOAD_EXIT: EXIT with the reason as payload."""

    from_pid: Pid
    to_pid: Pid


@_register(25, "from_pid", "to_pid", "trace_token", payload=True)
@dataclass(frozen=True, slots=True)
class PayloadExitTT(Control):
    """PAYLOAD_EXIT_TT: EXIT_TT with the reason as payload."""

    from_pid: Pid
    to_pid: Pid
    trace_token: Term


@_register(26, "from_pid", "to_pid", payload=True)
@dataclass(frozen=True, slots=True)
class PayloadExit2(Control):
    """PAYLOAD_EXIT2: EXIT2 with the reason as payload."""

    from_pid: Pid
    to_pid: Pid


@_register(27, "from_pid", "to_pid", "trace_token", payload=True)
@dataclass(frozen=True, slots=True)
class PayloadExit2TT(Control):
    """PAYLOAD_EXIT2_TT: EXIT2_TT with the reason as payload."""

    from_pid: Pid
    to_pid: Pid
    trace_token: Term


@_register(28, "from_proc", "to_pid", "ref", payload=True)
@dataclass(frozen=True, slots=True)
class PayloadMonitorPExit(Control):
    """PAYLOAD_MONITOR_P_EXIT: MONITOR_P_EXIT with the reason as payload."""

    from_proc: Pid | Atom
    to_pid: Pid
    ref: Reference


_SPAWN = ("req_id", "from_pid", "group_leader", "mfa", "opt_list")


@_register(29, *_SPAWN, payload=True)
@dataclass(frozen=True, slots=True)
class SpawnRequest(Control):
    """SPAWN_REQUEST: the payload is the argument list for `mfa`."""

    req_id: Reference
    from_pid: Pid
    group_leader: Pid
    mfa: tuple[Atom, Atom, int]
    opt_list: list[Term]


@_register(30, *_SPAWN, "trace_token", payload=True)
@dataclass(frozen=True, slots=True)
class SpawnRequestTT(Control):
    """SPAWN_REQUEST_TT: SPAWN_REQUEST with a trace token."""

    req_id: Reference
    from_pid: Pid
    group_leader: Pid
    mfa: tuple[Atom, Atom, int]
    opt_list: list[Term]
    trace_token: Term


_SPAWNED = ("req_id", "to_pid", "flags", "result")


@_register(31, *_SPAWNED)
@dataclass(frozen=True, slots=True)
class SpawnReply(Control):
    """SPAWN_REPLY: `result` is the new process, or an atom with the reason of the failure."""

    req_id: Reference
    to_pid: Pid
    flags: int
    result: Pid | Atom


@_register(32, *_SPAWNED, "trace_token")
@dataclass(frozen=True, slots=True)
class SpawnReplyTT(Control):
    """SPAWN_REPLY_TT: SPAWN_REPLY with a trace token."""

    req_id: Reference
    to_pid: Pid
    flags: int
    result: Pid | Atom
    trace_token: Term


@_register(33, "from_pid", "alias", payload=True)
@dataclass(frozen=True, slots=True)
class AliasSend(Control):
    """ALIAS_SEND: the payload is a message to a process alias."""

    from_pid: Pid
    alias: Reference


@_register(34, "from_pid", "alias", "trace_token", payload=True)
@dataclass(frozen=True, slots=True)
class AliasSendTT(Control):
    """ALIAS_SEND_TT: ALIAS_SEND with a trace token."""

    from_pid: Pid
    alias: Reference
    trace_token: Term


@_register(35, "id", "from_pid", "to_pid")
@dataclass(frozen=True, slots=True)
class UnlinkId(Control):
    """UNLINK_ID: removes a link. The answer is UNLINK_ID_ACK with the same id."""

    id: int
    from_pid: Pid
    to_pid: Pid


@_register(36, "id", "from_pid", "to_pid")
@dataclass(frozen=True, slots=True)
class UnlinkIdAck(Control):
    """UNLINK_ID_ACK: the answer to UNLINK_ID."""

    id: int
    from_pid: Pid
    to_pid: Pid


@dataclass(frozen=True, slots=True)
class AltactSigSend(Control):
    """ALTACT_SIG_SEND: a message or exit signal to a pid, name or alias, with optional priority.

    `flags` are ALTACT_* bits. ALIAS, NAME and EXIT define `to` and the payload. With
    TOKEN the tuple has `trace_token` as its fifth element.
    """

    OP: ClassVar[int] = 37
    HAS_PAYLOAD: ClassVar[bool] = True

    flags: int
    from_pid: Pid
    to: Pid | Atom | Reference
    trace_token: Term = field(default=EMPTY)

    def to_tuple(self) -> tuple[Term, ...]:
        if self.flags & ALTACT_TOKEN:
            return (self.OP, self.flags, self.from_pid, self.to, self.trace_token)
        return (self.OP, self.flags, self.from_pid, self.to)


ALL: tuple[type[Control], ...] = (*_CLASSES, AltactSigSend)
"""All known control messages by ascending operation number."""


def encode(
    session: Session, said: Control | Signal, payload: Payload = NO_PAYLOAD
) -> OutgoingMessage:
    """A signal, which the session encodes, or a control message, which is sent unchanged."""
    if isinstance(said, Signal):
        return session.encode(said, payload)
    head = session.channel._head(said.to_tuple())
    if payload is NO_PAYLOAD:
        return OutgoingMessage(head.control, (), head.atoms, len(head.control))
    return session.channel.enclose(head, payload)
