"""Signals: what one process, or one node, tells another.

One class for each signal of the ERTS manual (Processes, "Signals"), whatever form carries it on a
connection: `quicdist.protocol.wire` knows the forms. A payload goes beside its signal, not in it,
so that one signal serves any number of messages to the same receiver:

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
    """Type of NO_PAYLOAD, which no term equals."""

    NO_PAYLOAD = "no payload"


NO_PAYLOAD: Final = NoPayload.NO_PAYLOAD
"""In place of a payload: the signal has none."""

Payload: TypeAlias = "Term | NoPayload"


class NoToken(Enum):
    """Type of NO_TOKEN, which no term equals."""

    NO_TOKEN = "no token"


NO_TOKEN: Final = NoToken.NO_TOKEN
"""In place of a trace token (seq_trace): the signal has none."""

SPAWN_LINKED = 1
"""Flag of a SpawnReply: a link was set up."""
SPAWN_MONITORED = 2
"""Flag of a SpawnReply: a monitor was set up."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Base of all signals."""

    HAS_PAYLOAD: ClassVar[bool] = False
    """Whether a message, a reason or arguments go with it."""


@dataclass(frozen=True, slots=True)
class Message(Signal):
    """A message to a pid, a registered name or an alias (`erlang:send/2`)."""

    HAS_PAYLOAD: ClassVar[bool] = True

    sender: Pid | None
    """None where the form does not tell it (SEND)."""
    to: Pid | Atom | Reference
    token: Term | NoToken = NO_TOKEN
    is_priority: bool = False
    """It goes ahead of ordinary messages where its alias allows that (EEP 76)."""


@dataclass(frozen=True, slots=True)
class Exit(Signal):
    """A link broke because `sender` ended."""

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
    """A name or an alias where ALTACT_SIG_SEND carries it."""
    token: Term | NoToken = NO_TOKEN
    is_priority: bool = False


@dataclass(frozen=True, slots=True)
class Link(Signal):
    """`sender` links itself to `to` (`erlang:link/1`)."""

    sender: Pid
    to: Pid


@dataclass(frozen=True, slots=True)
class Unlink(Signal):
    """`sender` removes its link (`erlang:unlink/1`); UnlinkAck with the same id answers it."""

    id: int | None
    """64 bits, not zero. None where no answer is expected (UNLINK, before OTP 23)."""
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
    """The monitored `sender` ended, or there is no such process."""

    HAS_PAYLOAD: ClassVar[bool] = True

    sender: Pid | Atom
    """As Monitor had it."""
    to: Pid
    ref: Reference


@dataclass(frozen=True, slots=True)
class SpawnRequest(Signal):
    """`sender` wants a process that runs `mfa` (`erlang:spawn_request/5`)."""

    HAS_PAYLOAD: ClassVar[bool] = True

    req_id: Reference
    """The monitor's reference, too, where one is asked for."""
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
    """SPAWN_LINKED, SPAWN_MONITORED; 27 bits."""
    result: Pid | Atom
    """The new process, or why there is none."""
    token: Term | NoToken = NO_TOKEN


@dataclass(frozen=True, slots=True)
class GroupLeader(Signal):
    """`sender` becomes the group leader of `to` (`erlang:group_leader/2`)."""

    sender: Pid
    to: Pid


@dataclass(frozen=True, slots=True)
class UnknownSignal(Signal):
    """An operation that this version does not know. It is ignored."""

    op: int
    fields: tuple[Term, ...]


ALL: tuple[type[Signal], ...] = (
    *(Message, Exit, ExitSignal, Link, Unlink, UnlinkAck, Monitor, Demonitor, Down),
    *(SpawnRequest, SpawnReply, GroupLeader),
)
"""Every signal but UnknownSignal."""
