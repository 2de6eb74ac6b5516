"""The wire forms of signals: control messages, which are tuples with an operation number first.

    parse(values)                     a decoded tuple -> its signal and the place of its payload
    WireForms(flags).of(signal, p)    a signal -> its control message and its payload

A signal has several forms: with and without a trace token (`_TT`), with its reason in the tuple
or after it (PAYLOAD_), and newer forms that replace older ones. `WireForms` selects the form by the
flags that both nodes offer. Operation numbers are used only in this module.

ERTS manual, Distribution Protocol, "Protocol between Connected Nodes".
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, TypeAlias

from quicdist.etf.terms import Atom, Pid, Reference, Term
from quicdist.protocol.errors import ProtocolError, UsageError
from quicdist.protocol.flags import Flag
from quicdist.protocol.signals import (
    NO_PAYLOAD,
    NO_TOKEN,
    Demonitor,
    Down,
    Exit,
    ExitSignal,
    GroupLeader,
    Link,
    Message,
    Monitor,
    Payload,
    Signal,
    SpawnReply,
    SpawnRequest,
    UnknownSignal,
    Unlink,
    UnlinkAck,
)


class Op:
    """The operation numbers, with the names of the ERTS manual."""

    LINK = 1
    SEND = 2
    EXIT = 3
    UNLINK = 4
    NODE_LINK = 5
    REG_SEND = 6
    GROUP_LEADER = 7
    EXIT2 = 8
    SEND_TT = 12
    EXIT_TT = 13
    REG_SEND_TT = 16
    EXIT2_TT = 18
    MONITOR_P = 19
    DEMONITOR_P = 20
    MONITOR_P_EXIT = 21
    SEND_SENDER = 22
    SEND_SENDER_TT = 23
    PAYLOAD_EXIT = 24
    PAYLOAD_EXIT_TT = 25
    PAYLOAD_EXIT2 = 26
    PAYLOAD_EXIT2_TT = 27
    PAYLOAD_MONITOR_P_EXIT = 28
    SPAWN_REQUEST = 29
    SPAWN_REQUEST_TT = 30
    SPAWN_REPLY = 31
    SPAWN_REPLY_TT = 32
    ALIAS_SEND = 33
    ALIAS_SEND_TT = 34
    UNLINK_ID = 35
    UNLINK_ID_ACK = 36
    ALTACT_SIG_SEND = 37


EMPTY = Atom("")
"""The value of elements that the manual calls unused."""

ALTACT_PRIO = 1
"""ALTACT_SIG_SEND: a priority message."""
ALTACT_TOKEN = 2
"""ALTACT_SIG_SEND: a trace token is the fifth element."""
ALTACT_ALIAS = 4
"""ALTACT_SIG_SEND: the receiver is an alias (a reference)."""
ALTACT_NAME = 8
"""ALTACT_SIG_SEND: the receiver is a registered name (an atom)."""
ALTACT_EXIT = 16
"""ALTACT_SIG_SEND: an exit signal with its reason as the payload. Without it, a message."""


class Follows(Enum):
    """The type of FOLLOWS, which is not equal to any term."""

    FOLLOWS = "follows"


FOLLOWS: Final = Follows.FOLLOWS
"""Returned as the payload if it follows the control message."""

Parsed: TypeAlias = "tuple[Signal, Payload | Follows]"
"""A signal and its payload: FOLLOWS, NO_PAYLOAD, or the reason that was in the tuple."""

Written: TypeAlias = "tuple[tuple[Term, ...], Payload]"
"""The control message and the payload that follows it."""

_Values: TypeAlias = tuple[Any, ...]
_Kind: TypeAlias = frozenset[type] | None
"""The exact types that an element may have. None allows any term."""

# -- reading ------------------------------------------------------------------------------------

_PID: _Kind = frozenset({Pid})
_ATOM: _Kind = frozenset({Atom})
_REF: _Kind = frozenset({Reference})
_INT: _Kind = frozenset({int})
_LIST: _Kind = frozenset({list})
_TUPLE: _Kind = frozenset({tuple})
_PID_OR_ATOM: _Kind = frozenset({Pid, Atom})
_TERM: _Kind = None

_SPAWN = (_REF, _PID, _PID, _TUPLE, _LIST)
_SPAWNED = (_REF, _PID, _INT, _PID_OR_ATOM)


class _Form:
    """The layout of one operation in its tuple, and the signal that it carries."""

    __slots__ = ("arity", "kinds", "make", "name")

    def __init__(self, name: str, kinds: tuple[_Kind, ...], make: Callable[..., Parsed]) -> None:
        self.name = name
        self.arity = len(kinds) + 1
        self.kinds = [(at, kind) for at, kind in enumerate(kinds, 1) if kind is not None]
        self.make = make

    def parse(self, values: _Values) -> Parsed:
        """Parses a tuple. Raises ProtocolError if an element has a wrong type."""
        if len(values) != self.arity:
            raise self.error(values, f"expected {self.arity} elements")
        for index, kind in self.kinds:
            if type(values[index]) not in kind:
                values = self.coerce(values, index, kind)
        try:
            return self.make(*values)
        except ValueError as error:
            raise self.error(values, str(error)) from None

    def coerce(self, values: _Values, index: int, kind: frozenset[type]) -> _Values:
        """Converts a bool to an atom where an atom is required.

        The atoms true and false decode to bool. Raises ProtocolError for any other wrong type.
        """
        value = values[index]
        if type(value) is bool and Atom in kind:
            return (*values[:index], _atom(value), *values[index + 1 :])
        expected = " or ".join(sorted(one.__name__ for one in kind))
        raise self.error(values, f"element {index + 1} is {type(value).__name__}, not {expected}")

    def error(self, values: _Values, complaint: str) -> ProtocolError:
        return ProtocolError(
            f"control message {self.name} ({values[0]}) of {len(values)} elements: {complaint}"
        )


def _atom(value: Atom | bool) -> Atom:
    return value if isinstance(value, Atom) else Atom("true" if value else "false")


def _unlink_id(number: int) -> int:
    if not 0 < number < 1 << 64:
        raise ValueError(f"id {number} is not within 1 and 2**64 - 1")
    return number


def _mfa(mfa: tuple[Any, ...]) -> tuple[Atom, Atom, int]:
    if (
        len(mfa) != 3
        or not all(type(name) in (Atom, bool) for name in mfa[:2])
        or type(mfa[2]) is not int
        or mfa[2] < 0
    ):
        raise ValueError("the entry point is not {Module, Function, Arity}")
    return _atom(mfa[0]), _atom(mfa[1]), mfa[2]


def _spawn_flags(flags: int) -> int:
    if not 0 <= flags < 1 << 27:
        raise ValueError(f"flags {flags} are out of range")
    return flags


_FORMS: dict[int, _Form] = {
    number: _Form(name, kinds, make)
    for name, number, kinds, make in (
        (
            *("LINK", Op.LINK, (_PID, _PID)),
            lambda op, sender, to: (Link(sender, to), NO_PAYLOAD),
        ),
        (
            *("SEND", Op.SEND, (_TERM, _PID)),
            lambda op, unused, to: (Message(None, to), FOLLOWS),
        ),
        (
            *("EXIT", Op.EXIT, (_PID, _PID, _TERM)),
            lambda op, sender, to, reason: (Exit(sender, to), reason),
        ),
        (
            *("UNLINK", Op.UNLINK, (_PID, _PID)),
            lambda op, sender, to: (Unlink(None, sender, to), NO_PAYLOAD),
        ),
        (
            *("REG_SEND", Op.REG_SEND, (_PID, _TERM, _ATOM)),
            lambda op, sender, unused, to: (Message(sender, to), FOLLOWS),
        ),
        (
            *("GROUP_LEADER", Op.GROUP_LEADER, (_PID, _PID)),
            lambda op, sender, to: (GroupLeader(sender, to), NO_PAYLOAD),
        ),
        (
            *("EXIT2", Op.EXIT2, (_PID, _PID, _TERM)),
            lambda op, sender, to, reason: (ExitSignal(sender, to), reason),
        ),
        (
            *("SEND_TT", Op.SEND_TT, (_TERM, _PID, _TERM)),
            lambda op, unused, to, token: (Message(None, to, token), FOLLOWS),
        ),
        (
            *("EXIT_TT", Op.EXIT_TT, (_PID, _PID, _TERM, _TERM)),
            lambda op, sender, to, token, reason: (Exit(sender, to, token), reason),
        ),
        (
            *("REG_SEND_TT", Op.REG_SEND_TT, (_PID, _TERM, _ATOM, _TERM)),
            lambda op, sender, unused, to, token: (Message(sender, to, token), FOLLOWS),
        ),
        (
            *("EXIT2_TT", Op.EXIT2_TT, (_PID, _PID, _TERM, _TERM)),
            lambda op, sender, to, token, reason: (ExitSignal(sender, to, token), reason),
        ),
        (
            *("MONITOR_P", Op.MONITOR_P, (_PID, _PID_OR_ATOM, _REF)),
            lambda op, sender, to, ref: (Monitor(sender, to, ref), NO_PAYLOAD),
        ),
        (
            *("DEMONITOR_P", Op.DEMONITOR_P, (_PID, _PID_OR_ATOM, _REF)),
            lambda op, sender, to, ref: (Demonitor(sender, to, ref), NO_PAYLOAD),
        ),
        (
            *("MONITOR_P_EXIT", Op.MONITOR_P_EXIT, (_PID_OR_ATOM, _PID, _REF, _TERM)),
            lambda op, sender, to, ref, reason: (Down(sender, to, ref), reason),
        ),
        (
            *("SEND_SENDER", Op.SEND_SENDER, (_PID, _PID)),
            lambda op, sender, to: (Message(sender, to), FOLLOWS),
        ),
        (
            *("SEND_SENDER_TT", Op.SEND_SENDER_TT, (_PID, _PID, _TERM)),
            lambda op, sender, to, token: (Message(sender, to, token), FOLLOWS),
        ),
        (
            *("PAYLOAD_EXIT", Op.PAYLOAD_EXIT, (_PID, _PID)),
            lambda op, sender, to: (Exit(sender, to), FOLLOWS),
        ),
        (
            *("PAYLOAD_EXIT_TT", Op.PAYLOAD_EXIT_TT, (_PID, _PID, _TERM)),
            lambda op, sender, to, token: (Exit(sender, to, token), FOLLOWS),
        ),
        (
            *("PAYLOAD_EXIT2", Op.PAYLOAD_EXIT2, (_PID, _PID)),
            lambda op, sender, to: (ExitSignal(sender, to), FOLLOWS),
        ),
        (
            *("PAYLOAD_EXIT2_TT", Op.PAYLOAD_EXIT2_TT, (_PID, _PID, _TERM)),
            lambda op, sender, to, token: (ExitSignal(sender, to, token), FOLLOWS),
        ),
        (
            *("PAYLOAD_MONITOR_P_EXIT", Op.PAYLOAD_MONITOR_P_EXIT, (_PID_OR_ATOM, _PID, _REF)),
            lambda op, sender, to, ref: (Down(sender, to, ref), FOLLOWS),
        ),
        (
            *("SPAWN_REQUEST", Op.SPAWN_REQUEST, _SPAWN),
            lambda op, req_id, sender, leader, mfa, options: (
                SpawnRequest(req_id, sender, leader, _mfa(mfa), options),
                FOLLOWS,
            ),
        ),
        (
            *("SPAWN_REQUEST_TT", Op.SPAWN_REQUEST_TT, (*_SPAWN, _TERM)),
            lambda op, req_id, sender, leader, mfa, options, token: (
                SpawnRequest(req_id, sender, leader, _mfa(mfa), options, token),
                FOLLOWS,
            ),
        ),
        (
            *("SPAWN_REPLY", Op.SPAWN_REPLY, _SPAWNED),
            lambda op, req_id, to, flags, result: (
                SpawnReply(req_id, to, _spawn_flags(flags), result),
                NO_PAYLOAD,
            ),
        ),
        (
            *("SPAWN_REPLY_TT", Op.SPAWN_REPLY_TT, (*_SPAWNED, _TERM)),
            lambda op, req_id, to, flags, result, token: (
                SpawnReply(req_id, to, _spawn_flags(flags), result, token),
                NO_PAYLOAD,
            ),
        ),
        (
            *("ALIAS_SEND", Op.ALIAS_SEND, (_PID, _REF)),
            lambda op, sender, to: (Message(sender, to), FOLLOWS),
        ),
        (
            *("ALIAS_SEND_TT", Op.ALIAS_SEND_TT, (_PID, _REF, _TERM)),
            lambda op, sender, to, token: (Message(sender, to, token), FOLLOWS),
        ),
        (
            *("UNLINK_ID", Op.UNLINK_ID, (_INT, _PID, _PID)),
            lambda op, number, sender, to: (Unlink(_unlink_id(number), sender, to), NO_PAYLOAD),
        ),
        (
            *("UNLINK_ID_ACK", Op.UNLINK_ID_ACK, (_INT, _PID, _PID)),
            lambda op, number, sender, to: (UnlinkAck(_unlink_id(number), sender, to), NO_PAYLOAD),
        ),
    )
}

_ALTACT_RECEIVERS: dict[int, Any] = {0: Pid, ALTACT_ALIAS: Reference, ALTACT_NAME: Atom}


def _parse_altact(values: _Values) -> Parsed:
    """Parses ALTACT_SIG_SEND. Unknown elements and flags are ignored (OTP, dist.c)."""
    if len(values) < 4 or type(values[1]) is not int or values[1] < 0:
        raise ProtocolError(
            "control message ALTACT_SIG_SEND (37): expected flags, sender and receiver"
        )
    flags, sender, to = values[1:4]
    addressing = flags & (ALTACT_ALIAS | ALTACT_NAME)
    if addressing == ALTACT_NAME and type(to) is bool:
        to = _atom(to)
    expected = _ALTACT_RECEIVERS.get(addressing)
    if type(sender) is not Pid or type(to) is not expected:
        raise ProtocolError(
            "control message ALTACT_SIG_SEND (37): sender or receiver has a wrong type"
        )
    if not flags & ALTACT_TOKEN:
        token: Any = NO_TOKEN
    elif len(values) < 5:
        raise ProtocolError("control message ALTACT_SIG_SEND (37): the trace token is missing")
    else:
        token = values[4]
    kind = ExitSignal if flags & ALTACT_EXIT else Message
    return kind(sender, to, token, bool(flags & ALTACT_PRIO)), FOLLOWS


OPERATIONS: frozenset[int] = frozenset((*_FORMS, Op.ALTACT_SIG_SEND))
"""All operations that `parse` supports."""


def parse(values: Term) -> Parsed:
    """The signal in a decoded control message. Raises ProtocolError if it is invalid."""
    if type(values) is not tuple or not values or type(values[0]) is not int:
        raise ProtocolError("a control message is not a tuple with an operation number first")
    form = _FORMS.get(values[0])
    if form is not None:
        return form.parse(values)
    if values[0] == Op.ALTACT_SIG_SEND:
        return _parse_altact(values)
    return UnknownSignal(values[0], values[1:]), NO_PAYLOAD


# -- writing ------------------------------------------------------------------------------------


class WireForms:
    """The wire forms of signals on one connection."""

    __slots__ = ("_altact", "_exit_payload", "_send_sender")

    def __init__(self, flags: Flag) -> None:
        """`flags` are the flags that both nodes offer."""
        self._altact = Flag.ALTACT_SIG in flags
        self._exit_payload = Flag.EXIT_PAYLOAD in flags
        self._send_sender = Flag.SEND_SENDER in flags

    def of(self, signal: Signal, payload: Payload) -> Written:
        """The control message of a signal and the payload that follows it.

        Raises UsageError if the payload does not fit the signal or the peer does not support the
        signal.
        """
        if signal.HAS_PAYLOAD is (payload is NO_PAYLOAD):
            takes = "a" if signal.HAS_PAYLOAD else "no"
            raise UsageError(f"{type(signal).__name__} takes {takes} payload")
        kind = type(signal)
        if kind is Message:
            return self._message(signal), payload  # type: ignore[arg-type]
        if kind in _REASONS:
            return self._with_reason(signal, payload)
        return _PLAIN[kind](signal), payload

    def ahead(self, signal: Message | SpawnRequest) -> tuple[Term, ...]:
        """The control message that precedes the payloads of this signal."""
        return self._message(signal) if isinstance(signal, Message) else _spawn_request(signal)

    def _message(self, signal: Message) -> tuple[Term, ...]:
        """The control message that precedes a message."""
        to, token = signal.to, signal.token
        kind = type(to)
        # ALTACT_SIG_SEND replaces ALIAS_SEND since OTP 28. OTP 30 removes ALIAS_SEND.
        if self._altact and (kind is Reference or signal.is_priority):
            return _altact(signal, 0)
        if kind is Atom:
            if token is NO_TOKEN:
                return Op.REG_SEND, signal.sender, EMPTY, to
            return Op.REG_SEND_TT, signal.sender, EMPTY, to, token
        if kind is Reference:
            if token is NO_TOKEN:
                return Op.ALIAS_SEND, signal.sender, to
            return Op.ALIAS_SEND_TT, signal.sender, to, token
        if self._send_sender and signal.sender is not None:
            if token is NO_TOKEN:
                return Op.SEND_SENDER, signal.sender, to
            return Op.SEND_SENDER_TT, signal.sender, to, token
        if token is NO_TOKEN:
            return Op.SEND, EMPTY, to
        return Op.SEND_TT, EMPTY, to, token

    def _with_reason(self, signal: Any, reason: Payload) -> Written:
        if type(signal) is ExitSignal and (signal.is_priority or type(signal.to) is not Pid):
            if not self._altact:
                raise UsageError("the peer supports exit signals to pids only (ALTACT_SIG_SEND)")
            return _altact(signal, ALTACT_EXIT), reason
        if type(signal) is Down:
            token: Any = NO_TOKEN
            head: tuple[Term, ...] = (signal.sender, signal.to, signal.ref)
        else:
            token = signal.token
            head = (signal.sender, signal.to)
        plain, traced, behind, behind_traced = _REASONS[type(signal)]
        if token is not NO_TOKEN:
            head = (*head, token)
            plain, behind = traced, behind_traced
        if self._exit_payload:
            return (behind, *head), reason
        return (plain, *head, reason), NO_PAYLOAD


_REASONS: dict[type[Signal], tuple[int, int, int, int]] = {
    Exit: (Op.EXIT, Op.EXIT_TT, Op.PAYLOAD_EXIT, Op.PAYLOAD_EXIT_TT),
    ExitSignal: (Op.EXIT2, Op.EXIT2_TT, Op.PAYLOAD_EXIT2, Op.PAYLOAD_EXIT2_TT),
    Down: (Op.MONITOR_P_EXIT, 0, Op.PAYLOAD_MONITOR_P_EXIT, 0),
}
"""Operations with the reason in the tuple, without and with a token, and with the reason after the
tuple, without and with a token."""


def _altact(signal: Message | ExitSignal, flags: int) -> tuple[Term, ...]:
    to, token = signal.to, signal.token
    if type(to) is Reference:
        flags |= ALTACT_ALIAS
    elif type(to) is Atom:
        flags |= ALTACT_NAME
    if signal.is_priority:
        flags |= ALTACT_PRIO
    if token is NO_TOKEN:
        return Op.ALTACT_SIG_SEND, flags, signal.sender, to
    return Op.ALTACT_SIG_SEND, flags | ALTACT_TOKEN, signal.sender, to, token


def _unlink(signal: Unlink) -> tuple[Term, ...]:
    if signal.id is None:
        return Op.UNLINK, signal.sender, signal.to
    return Op.UNLINK_ID, signal.id, signal.sender, signal.to


def _spawn_request(signal: SpawnRequest) -> tuple[Term, ...]:
    parts = (signal.req_id, signal.sender, signal.group_leader, signal.mfa, signal.options)
    if signal.token is NO_TOKEN:
        return (Op.SPAWN_REQUEST, *parts)
    return (Op.SPAWN_REQUEST_TT, *parts, signal.token)


def _spawn_reply(signal: SpawnReply) -> tuple[Term, ...]:
    parts = (signal.req_id, signal.to, signal.flags, signal.result)
    if signal.token is NO_TOKEN:
        return (Op.SPAWN_REPLY, *parts)
    return (Op.SPAWN_REPLY_TT, *parts, signal.token)


def _fields(op: int, *names: str) -> Callable[[Any], tuple[Term, ...]]:
    get = operator.attrgetter(*names)
    return lambda signal: (op, *get(signal))


_PLAIN: dict[type[Signal], Callable[[Any], tuple[Term, ...]]] = {
    Link: _fields(Op.LINK, "sender", "to"),
    Unlink: _unlink,
    UnlinkAck: _fields(Op.UNLINK_ID_ACK, "id", "sender", "to"),
    Monitor: _fields(Op.MONITOR_P, "sender", "to", "ref"),
    Demonitor: _fields(Op.DEMONITOR_P, "sender", "to", "ref"),
    GroupLeader: _fields(Op.GROUP_LEADER, "sender", "to"),
    SpawnRequest: _spawn_request,
    SpawnReply: _spawn_reply,
    UnknownSignal: lambda signal: (signal.op, *signal.fields),
}
