"""Control messages: the tuple in front of every message between connected nodes.

One frozen dataclass for each message of the ERTS manual (Distribution Protocol, "Protocol
between Connected Nodes"), with the manual's name in CamelCase and its operation number as
`OP`. `HAS_PAYLOAD` tells whether a term follows the control message. Fields the manual calls
unused are not kept: read and forgotten, written as the empty atom.

`parse` makes one of a decoded tuple, `to_tuple` the reverse.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, TypeVar

from quicdist.dist.errors import ProtocolError
from quicdist.etf.terms import Atom, Pid, Reference, Term

EMPTY = Atom("")
"""What is written where the manual says unused."""

ALTACT_PRIO = 1
"""ALTACT_SIG_SEND: a priority message."""
ALTACT_TOKEN = 2
"""ALTACT_SIG_SEND: a trace token is the fifth element."""
ALTACT_ALIAS = 4
"""ALTACT_SIG_SEND: the receiver is an alias, thus a reference."""
ALTACT_NAME = 8
"""ALTACT_SIG_SEND: the receiver is a registered name, thus an atom."""
ALTACT_EXIT = 16
"""ALTACT_SIG_SEND: an exit signal, the payload its reason; else a message."""

SPAWN_LINKED = 1
"""SPAWN_REPLY flag: a link was set up."""
SPAWN_MONITORED = 2
"""SPAWN_REPLY flag: a monitor was set up."""

_Values: TypeAlias = tuple[Any, ...]
_Kind: TypeAlias = frozenset[type] | None
"""The exact types an element may have; None is any term."""

_PID: _Kind = frozenset({Pid})
_ATOM: _Kind = frozenset({Atom})
_REF: _Kind = frozenset({Reference})
_INT: _Kind = frozenset({int})
_LIST: _Kind = frozenset({list})
_TUPLE: _Kind = frozenset({tuple})
_PID_OR_ATOM: _Kind = frozenset({Pid, Atom})
_TERM: _Kind = None


@dataclass(frozen=True, slots=True)
class Control:
    """Base of all control messages."""

    OP: ClassVar[int] = 0
    HAS_PAYLOAD: ClassVar[bool] = False
    unused: ClassVar[Atom] = EMPTY
    _wire: ClassVar[operator.attrgetter[_Values]]

    def to_tuple(self) -> tuple[Term, ...]:
        """The tuple as it goes into a frame, operation number first."""
        return self._wire(self)


@dataclass(frozen=True, slots=True)
class UnknownControl(Control):
    """An operation this version does not know; reported, and otherwise ignored."""

    op: int
    fields: tuple[Term, ...]

    def to_tuple(self) -> tuple[Term, ...]:
        return (self.op, *self.fields)


class _Layout:
    """How one class lies in its tuple: element kinds, which become fields, extra checks."""

    __slots__ = ("arity", "check", "cls", "kinds", "pick")

    def __init__(
        self,
        cls: type[Control],
        elements: list[tuple[str, _Kind]],
        check: Callable[[_Values], _Values] | None,
    ) -> None:
        self.cls = cls
        self.arity = len(elements) + 1
        self.kinds = [
            (index, kind) for index, (_, kind) in enumerate(elements, 1) if kind is not None
        ]
        kept = [index for index, (name, _) in enumerate(elements, 1) if name != "unused"]
        self.pick = _picker(kept)
        self.check = check

    def make(self, values: _Values) -> Control:
        """Raises ProtocolError when the elements are not of their kinds."""
        if len(values) != self.arity:
            raise self.wrong(values, f"{self.arity} elements expected")
        for index, kind in self.kinds:
            if type(values[index]) not in kind:
                values = self.mend(values, index, kind)
        if self.check is not None:
            try:
                values = self.check(values)
            except ValueError as error:
                raise self.wrong(values, str(error)) from None
        return self.cls(*self.pick(values))

    def mend(self, values: _Values, index: int, kind: frozenset[type]) -> _Values:
        """The atoms true and false decode to bool: where an atom is due, they are atoms again."""
        value = values[index]
        if type(value) is bool and Atom in kind:
            return (*values[:index], _atom(value), *values[index + 1 :])
        expected = " or ".join(sorted(one.__name__ for one in kind))
        raise self.wrong(values, f"element {index + 1} is {type(value).__name__}, not {expected}")

    def wrong(self, values: _Values, complaint: str) -> ProtocolError:
        name = self.cls.__name__
        return ProtocolError(
            f"control message {name} ({self.cls.OP}) of {len(values)} elements: {complaint}"
        )


_LAYOUTS: dict[int, _Layout] = {}

_C = TypeVar("_C", bound=Control)


def _picker(indexes: list[int]) -> Callable[[_Values], _Values]:
    if len(indexes) > 1:
        return operator.itemgetter(*indexes)
    if indexes:
        return operator.itemgetter(slice(indexes[0], indexes[0] + 1))
    return operator.itemgetter(slice(0, 0))


def _register(
    op: int,
    *elements: tuple[str, _Kind],
    payload: bool = False,
    check: Callable[[_Values], _Values] | None = None,
) -> Callable[[type[_C]], type[_C]]:
    """Gives a class its operation number and the order of its fields on the wire."""

    def decorate(cls: type[_C]) -> type[_C]:
        cls.OP = op
        cls.HAS_PAYLOAD = payload
        # An attrgetter is no descriptor: it stays unbound and is called with the message.
        cls._wire = operator.attrgetter("OP", *(name for name, _ in elements))
        _LAYOUTS[op] = _Layout(cls, list(elements), check)
        return cls

    return decorate


# -- checks beyond the kind of each element -----------------------------------------------------


def _check_unlink_id(values: _Values) -> _Values:
    if not 0 < values[1] < 1 << 64:
        raise ValueError(f"id {values[1]} is not within 1 and 2**64 - 1")
    return values


def _check_spawn_request(values: _Values) -> _Values:
    mfa = values[4]
    if (
        len(mfa) != 3
        or not all(type(name) in (Atom, bool) for name in mfa[:2])
        or type(mfa[2]) is not int
        or mfa[2] < 0
    ):
        raise ValueError("the entry point is no {Module, Function, Arity}")
    return (*values[:4], (_atom(mfa[0]), _atom(mfa[1]), mfa[2]), *values[5:])


def _check_spawn_reply(values: _Values) -> _Values:
    if not 0 <= values[3] < 1 << 27:
        raise ValueError(f"flags {values[3]} are out of range")
    return values


def _atom(value: Atom | bool) -> Atom:
    return value if isinstance(value, Atom) else Atom("true" if value else "false")


# -- the messages -------------------------------------------------------------------------------

_UNUSED = ("unused", _TERM)
_FROM_PID = ("from_pid", _PID)
_TO_PID = ("to_pid", _PID)
_TO_NAME = ("to_name", _ATOM)
_FROM_PROC = ("from_proc", _PID_OR_ATOM)
_TO_PROC = ("to_proc", _PID_OR_ATOM)
_MREF = ("ref", _REF)
_REASON = ("reason", _TERM)
_TOKEN = ("trace_token", _TERM)
_ID = ("id", _INT)
_ALIAS = ("alias", _REF)
_REQ_ID = ("req_id", _REF)


@_register(1, _FROM_PID, _TO_PID)
@dataclass(frozen=True, slots=True)
class Link(Control):
    """LINK: `from_pid` links itself to `to_pid`."""

    from_pid: Pid
    to_pid: Pid


@_register(2, _UNUSED, _TO_PID, payload=True)
@dataclass(frozen=True, slots=True)
class Send(Control):
    """SEND: the payload is a message. SEND_SENDER replaces it where negotiated."""

    to_pid: Pid


@_register(3, _FROM_PID, _TO_PID, _REASON)
@dataclass(frozen=True, slots=True)
class Exit(Control):
    """EXIT: a link broke because `from_pid` ended."""

    from_pid: Pid
    to_pid: Pid
    reason: Term


@_register(4, _FROM_PID, _TO_PID)
@dataclass(frozen=True, slots=True)
class Unlink(Control):
    """UNLINK: obsolete, UNLINK_ID has replaced it."""

    from_pid: Pid
    to_pid: Pid


@_register(5)
@dataclass(frozen=True, slots=True)
class NodeLink(Control):
    """NODE_LINK: never sent any more."""

    def to_tuple(self) -> tuple[Term, ...]:
        return (self.OP,)


@_register(6, _FROM_PID, _UNUSED, _TO_NAME, payload=True)
@dataclass(frozen=True, slots=True)
class RegSend(Control):
    """REG_SEND: the payload is a message to a registered name."""

    from_pid: Pid
    to_name: Atom


@_register(7, _FROM_PID, _TO_PID)
@dataclass(frozen=True, slots=True)
class GroupLeader(Control):
    """GROUP_LEADER: `from_pid` becomes the group leader of `to_pid`."""

    from_pid: Pid
    to_pid: Pid


@_register(8, _FROM_PID, _TO_PID, _REASON)
@dataclass(frozen=True, slots=True)
class Exit2(Control):
    """EXIT2: an exit signal sent by a call of exit/2."""

    from_pid: Pid
    to_pid: Pid
    reason: Term


@_register(12, _UNUSED, _TO_PID, _TOKEN, payload=True)
@dataclass(frozen=True, slots=True)
class SendTT(Control):
    """SEND_TT: SEND with a trace token."""

    to_pid: Pid
    trace_token: Term


@_register(13, _FROM_PID, _TO_PID, _TOKEN, _REASON)
@dataclass(frozen=True, slots=True)
class ExitTT(Control):
    """EXIT_TT: EXIT with a trace token."""

    from_pid: Pid
    to_pid: Pid
    trace_token: Term
    reason: Term


@_register(16, _FROM_PID, _UNUSED, _TO_NAME, _TOKEN, payload=True)
@dataclass(frozen=True, slots=True)
class RegSendTT(Control):
    """REG_SEND_TT: REG_SEND with a trace token."""

    from_pid: Pid
    to_name: Atom
    trace_token: Term


@_register(18, _FROM_PID, _TO_PID, _TOKEN, _REASON)
@dataclass(frozen=True, slots=True)
class Exit2TT(Control):
    """EXIT2_TT: EXIT2 with a trace token."""

    from_pid: Pid
    to_pid: Pid
    trace_token: Term
    reason: Term


@_register(19, _FROM_PID, _TO_PROC, _MREF)
@dataclass(frozen=True, slots=True)
class MonitorP(Control):
    """MONITOR_P: `from_pid` monitors a pid or a registered name."""

    from_pid: Pid
    to_proc: Pid | Atom
    ref: Reference


@_register(20, _FROM_PID, _TO_PROC, _MREF)
@dataclass(frozen=True, slots=True)
class DemonitorP(Control):
    """DEMONITOR_P: the monitor `ref` ends."""

    from_pid: Pid
    to_proc: Pid | Atom
    ref: Reference


@_register(21, _FROM_PROC, _TO_PID, _MREF, _REASON)
@dataclass(frozen=True, slots=True)
class MonitorPExit(Control):
    """MONITOR_P_EXIT: the monitored `from_proc` ended."""

    from_proc: Pid | Atom
    to_pid: Pid
    ref: Reference
    reason: Term


@_register(22, _FROM_PID, _TO_PID, payload=True)
@dataclass(frozen=True, slots=True)
class SendSender(Control):
    """SEND_SENDER: SEND that tells who sends."""

    from_pid: Pid
    to_pid: Pid


@_register(23, _FROM_PID, _TO_PID, _TOKEN, payload=True)
@dataclass(frozen=True, slots=True)
class SendSenderTT(Control):
    """SEND_SENDER_TT: SEND_SENDER with a trace token."""

    from_pid: Pid
    to_pid: Pid
    trace_token: Term


@_register(24, _FROM_PID, _TO_PID, payload=True)
@dataclass(frozen=True, slots=True)
class PayloadExit(Control):
    """PAYLOAD_EXIT: EXIT with the reason as payload."""

    from_pid: Pid
    to_pid: Pid


@_register(25, _FROM_PID, _TO_PID, _TOKEN, payload=True)
@dataclass(frozen=True, slots=True)
class PayloadExitTT(Control):
    """PAYLOAD_EXIT_TT: EXIT_TT with the reason as payload."""

    from_pid: Pid
    to_pid: Pid
    trace_token: Term


@_register(26, _FROM_PID, _TO_PID, payload=True)
@dataclass(frozen=True, slots=True)
class PayloadExit2(Control):
    """PAYLOAD_EXIT2: EXIT2 with the reason as payload."""

    from_pid: Pid
    to_pid: Pid


@_register(27, _FROM_PID, _TO_PID, _TOKEN, payload=True)
@dataclass(frozen=True, slots=True)
class PayloadExit2TT(Control):
    """PAYLOAD_EXIT2_TT: EXIT2_TT with the reason as payload."""

    from_pid: Pid
    to_pid: Pid
    trace_token: Term


@_register(28, _FROM_PROC, _TO_PID, _MREF, payload=True)
@dataclass(frozen=True, slots=True)
class PayloadMonitorPExit(Control):
    """PAYLOAD_MONITOR_P_EXIT: MONITOR_P_EXIT with the reason as payload."""

    from_proc: Pid | Atom
    to_pid: Pid
    ref: Reference


_SPAWN = (
    _REQ_ID,
    ("from_pid", _PID),
    ("group_leader", _PID),
    ("mfa", _TUPLE),
    ("opt_list", _LIST),
)


@_register(29, *_SPAWN, payload=True, check=_check_spawn_request)
@dataclass(frozen=True, slots=True)
class SpawnRequest(Control):
    """SPAWN_REQUEST: the payload is the argument list for `mfa`."""

    req_id: Reference
    from_pid: Pid
    group_leader: Pid
    mfa: tuple[Atom, Atom, int]
    opt_list: list[Term]


@_register(30, *_SPAWN, _TOKEN, payload=True, check=_check_spawn_request)
@dataclass(frozen=True, slots=True)
class SpawnRequestTT(Control):
    """SPAWN_REQUEST_TT: SPAWN_REQUEST with a trace token."""

    req_id: Reference
    from_pid: Pid
    group_leader: Pid
    mfa: tuple[Atom, Atom, int]
    opt_list: list[Term]
    trace_token: Term


_SPAWNED = (_REQ_ID, _TO_PID, ("flags", _INT), ("result", _PID_OR_ATOM))


@_register(31, *_SPAWNED, check=_check_spawn_reply)
@dataclass(frozen=True, slots=True)
class SpawnReply(Control):
    """SPAWN_REPLY: `result` is the new process, or an atom that tells why there is none."""

    req_id: Reference
    to_pid: Pid
    flags: int
    result: Pid | Atom


@_register(32, *_SPAWNED, _TOKEN, check=_check_spawn_reply)
@dataclass(frozen=True, slots=True)
class SpawnReplyTT(Control):
    """SPAWN_REPLY_TT: SPAWN_REPLY with a trace token."""

    req_id: Reference
    to_pid: Pid
    flags: int
    result: Pid | Atom
    trace_token: Term


@_register(33, _FROM_PID, _ALIAS, payload=True)
@dataclass(frozen=True, slots=True)
class AliasSend(Control):
    """ALIAS_SEND: the payload is a message to a process alias."""

    from_pid: Pid
    alias: Reference


@_register(34, _FROM_PID, _ALIAS, _TOKEN, payload=True)
@dataclass(frozen=True, slots=True)
class AliasSendTT(Control):
    """ALIAS_SEND_TT: ALIAS_SEND with a trace token."""

    from_pid: Pid
    alias: Reference
    trace_token: Term


@_register(35, _ID, _FROM_PID, _TO_PID, check=_check_unlink_id)
@dataclass(frozen=True, slots=True)
class UnlinkId(Control):
    """UNLINK_ID: the link ends; to be answered by UNLINK_ID_ACK with the same id."""

    id: int
    from_pid: Pid
    to_pid: Pid


@_register(36, _ID, _FROM_PID, _TO_PID, check=_check_unlink_id)
@dataclass(frozen=True, slots=True)
class UnlinkIdAck(Control):
    """UNLINK_ID_ACK: the answer to UNLINK_ID."""

    id: int
    from_pid: Pid
    to_pid: Pid


@dataclass(frozen=True, slots=True)
class AltactSigSend(Control):
    """ALTACT_SIG_SEND: a message or exit signal to a pid, name or alias, maybe of priority.

    `flags` are ALTACT_* bits. ALIAS, NAME and EXIT say what `to` and the payload are; with
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


_ALTACT_RECEIVERS: dict[int, Any] = {0: Pid, ALTACT_ALIAS: Reference, ALTACT_NAME: Atom}


def _parse_altact(values: _Values) -> AltactSigSend:
    """May grow further elements and flags, which are to be ignored (OTP, dist.c)."""
    if len(values) < 4 or type(values[1]) is not int or values[1] < 0:
        raise ProtocolError("control message AltactSigSend (37): flags, sender, receiver expected")
    flags = values[1] & (ALTACT_PRIO | ALTACT_TOKEN | ALTACT_ALIAS | ALTACT_NAME | ALTACT_EXIT)
    from_pid, to = values[2], values[3]
    addressing = flags & (ALTACT_ALIAS | ALTACT_NAME)
    if addressing == ALTACT_NAME and type(to) is bool:
        to = _atom(to)
    expected = _ALTACT_RECEIVERS.get(addressing)
    if type(from_pid) is not Pid or type(to) is not expected:
        raise ProtocolError("control message AltactSigSend (37): sender or receiver of wrong type")
    if not flags & ALTACT_TOKEN:
        return AltactSigSend(flags, from_pid, to)
    if len(values) < 5:
        raise ProtocolError("control message AltactSigSend (37): the trace token is missing")
    return AltactSigSend(flags, from_pid, to, values[4])


MESSAGES: frozenset[type[Control]] = frozenset(
    (
        *(Send, SendTT, SendSender, SendSenderTT, RegSend, RegSendTT),
        *(AliasSend, AliasSendTT, AltactSigSend),
    )
)
"""Those that bring a message, and go ahead of one after the other."""

ALL: tuple[type[Control], ...] = (*(layout.cls for layout in _LAYOUTS.values()), AltactSigSend)
"""Every control message known here, by rising operation number."""


def parse(values: Term) -> Control:
    """The control message in a decoded term. Raises ProtocolError."""
    if type(values) is not tuple or not values or type(values[0]) is not int:
        raise ProtocolError("a control message is a tuple that starts with an operation number")
    layout = _LAYOUTS.get(values[0])
    if layout is not None:
        return layout.make(values)
    if values[0] == AltactSigSend.OP:
        return _parse_altact(values)
    return UnknownControl(values[0], values[1:])
