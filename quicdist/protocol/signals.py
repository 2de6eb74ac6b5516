"""The signals between processes and nodes.

Source: ERTS manual, Processes, "Signals". The classes do not depend on the wire forms, which are in
`quicdist.protocol.wire`. A payload is passed beside its signal, so that one signal object can be
used for any number of messages to the same receiver:

    Message        the message
    Exit, Down     the reason
    ExitSignal     the reason
    SpawnRequest   the list of arguments
    any other      NO_PAYLOAD
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final, TypeAlias

from quicdist.etf.terms import Atom, Pid, Reference, Term


class NoPayload(Enum):
    """The type of NO_PAYLOAD, which is not equal to any term."""

    NO_PAYLOAD = "no payload"


NO_PAYLOAD: Final = NoPayload.NO_PAYLOAD
"""Passed as the payload of a signal that has none."""

Payload: TypeAlias = "Term | NoPayload"


class NoToken(Enum):
    """The type of NO_TOKEN, which is not equal to any term."""

    NO_TOKEN = "no token"


NO_TOKEN: Final = NoToken.NO_TOKEN
"""The trace token (seq_trace) of a signal that has none."""

SPAWN_LINKED = 1
"""Flag of a SpawnReply: a link was set up."""
SPAWN_MONITORED = 2
"""Flag of a SpawnReply: a monitor was set up."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Base class of all signals."""

    HAS_PAYLOAD: ClassVar[bool] = False
    """Whether a message, a reason or arguments accompany the signal."""


@dataclass(frozen=True, slots=True)
class Message(Signal):
    """A message to a pid, a registered name or an alias (`erlang:send/2`)."""

    HAS_PAYLOAD: ClassVar[bool] = True

    sender: Pid | None
    """None if the wire form does not contain it (SEND)."""
    to: Pid | Atom | Reference
    token: Term | NoToken = NO_TOKEN
    is_priority: bool = False
    """Whether the message precedes ordinary ones, if its alias allows that (EEP 76)."""


@dataclass(frozen=True, slots=True)
class Exit(Signal):
    """A link broke because `sender` terminated."""

    HAS_PAYLOAD: ClassVar[bool] = True

    sender: Pid
    to: Pid
    token: Term | NoToken = NO_TOKEN


@dataclass(frozen=True, slots=True)
class ExitSignal(Signal):
    """An exit signal that a process sends (`erlang:exit/2`)."""

    HAS_PAYLOAD: ClassVar[bool] = True

    sender: Pid
    to: Pid | Atom | Reference
    """A pid, or with ALTACT_SIG_SEND also a name or an alias."""
    token: Term | NoToken = NO_TOKEN
    is_priority: bool = False


@dataclass(frozen=True, slots=True)
class Link(Signal):
    """`sender` links itself to `to` (`erlang:link/1`)."""

    sender: Pid
    to: Pid


@dataclass(frozen=True, slots=True)
class Unlink(Signal):
    """`sender` removes its link (`erlang:unlink/1`). The answer is UnlinkAck with the same id."""

    id: int | None
    """A 64-bit number other than zero. None if no answer is expected (UNLINK, before OTP 23)."""
    sender: Pid
    to: Pid


@dataclass(frozen=True, slots=True)
class UnlinkAck(Signal):
    """The answer to Unlink (ERTS manual, Distribution Protocol, "Link Protocol")."""

    id: int
    sender: Pid
    to: Pid


@dataclass(frozen=True, slots=True)
class Monitor(Signal):
    """`sender` monitors a pid or a registered name (`erlang:monitor/2`)."""

    sender: Pid
    to: Pid | Atom
    ref: Reference


@dataclass(frozen=True, slots=True)
class Demonitor(Signal):
    """`sender` removes its monitor `ref` (`erlang:demonitor/1`)."""

    sender: Pid
    to: Pid | Atom
    ref: Reference


@dataclass(frozen=True, slots=True)
class Down(Signal):
    """The monitored process `sender` terminated or does not exist."""

    HAS_PAYLOAD: ClassVar[bool] = True

    sender: Pid | Atom
    """The pid or name from the Monitor signal."""
    to: Pid
    ref: Reference


@dataclass(frozen=True, slots=True)
class SpawnRequest(Signal):
    """`sender` requests a process that runs `mfa` (`erlang:spawn_request/5`)."""

    HAS_PAYLOAD: ClassVar[bool] = True

    req_id: Reference
    """The id of the request, and the reference of the monitor if one is requested."""
    sender: Pid
    group_leader: Pid
    mfa: tuple[Atom, Atom, int]
    options: list[Term]
    token: Term | NoToken = NO_TOKEN


@dataclass(frozen=True, slots=True)
class SpawnReply(Signal):
    """The answer to SpawnRequest."""

    req_id: Reference
    to: Pid
    flags: int
    """A combination of SPAWN_LINKED and SPAWN_MONITORED, 27 bits."""
    result: Pid | Atom
    """The pid of the new process, or the error reason."""
    token: Term | NoToken = NO_TOKEN


@dataclass(frozen=True, slots=True)
class GroupLeader(Signal):
    """`sender` becomes the group leader of `to` (`erlang:group_leader/2`)."""

    sender: Pid
    to: Pid


@dataclass(frozen=True, slots=True)
class UnknownSignal(Signal):
    """An operation that this version does not support. It is ignored."""

    op: int
    fields: tuple[Term, ...]


ALL: tuple[type[Signal], ...] = (
    *(Message, Exit, ExitSignal, Link, Unlink, UnlinkAck, Monitor, Demonitor, Down),
    *(SpawnRequest, SpawnReply, GroupLeader),
)
"""All signal classes except UnknownSignal."""
