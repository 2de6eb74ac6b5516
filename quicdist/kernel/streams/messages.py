"""The messages of a stream.

The protocol, with the form of each message, is described in docs/streams.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from quicdist.etf import Atom, Pid, Reference, Term
from quicdist.etf.notation import format_bounded
from quicdist.kernel.streams.window import StreamWindow

MODULE = Atom("quicdist_stream")
START = Atom("start")

_SUBSCRIBE = Atom("subscribe")
_ITEMS = Atom("items")
_ACK = Atom("ack")
_CANCEL = Atom("cancel")


@dataclass(frozen=True, slots=True)
class Offer:
    """A stream that a producer offers."""

    producer: Pid
    tag: Term

    def to_term(self) -> Term:
        """Returns the term that is passed to the consumer."""
        return MODULE, self.producer, self.tag

    @classmethod
    def from_term(cls, term: Term) -> Offer:
        """Raises ValueError for another term."""
        match term:
            case ("quicdist_stream", Pid() as producer, tag):
                return cls(producer, tag)
        raise ValueError(f"not the offer of a stream: {format_bounded(term, 100)}")


@dataclass(frozen=True, slots=True)
class Start:
    """The arguments of `quicdist_stream:start/6`."""

    consumer: Pid
    tag: Reference
    window: StreamWindow
    module: Term
    function: Term
    args: Term

    @classmethod
    def from_term(cls, args: Term) -> Start:
        """Raises ValueError for other arguments."""
        match args:
            case [
                Pid() as consumer,
                Reference() as tag,
                (int(items), int(size)),
                module,
                function,
                called,
            ] if _are_counts(items, size):
                return cls(consumer, tag, StreamWindow(items, size), module, function, called)
        raise ValueError(f"not the arguments of quicdist_stream:start/6: {format_bounded(args)}")


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Begins the stream of an offer."""

    consumer: Pid
    tag: Reference
    window: StreamWindow


@dataclass(frozen=True, slots=True)
class Items:
    """Items for the consumer."""

    items: list[Term]


@dataclass(frozen=True, slots=True)
class Ack:
    """The consumer has taken `count` more items."""

    count: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """The consumer needs no more items."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A `subscribe` or `items` message with other arguments."""


StreamMessage: TypeAlias = Subscribe | Items | Ack | Cancel


def to_term(tag: Term, message: StreamMessage) -> Term:
    """Returns the term of a message."""
    match message:
        case Subscribe(consumer, alias, window):
            return MODULE, tag, _SUBSCRIBE, consumer, alias, (window.items, window.bytes)
        case Items(items):
            return MODULE, tag, _ITEMS, items
        case Ack(count):
            return MODULE, tag, _ACK, count
        case Cancel():
            return MODULE, tag, _CANCEL


def from_term(tag: Term, term: Term) -> StreamMessage | Malformed | None:
    """Returns the message of the stream `tag` in a term, or None if it is something else."""
    match term:
        case ("quicdist_stream", given, "items", list(items)) if given == tag:
            return Items(items)
        case ("quicdist_stream", given, "items", _) if given == tag:
            return Malformed()
        case ("quicdist_stream", given, "ack", int(count)) if given == tag and _are_counts(count):
            return Ack(count)
        case ("quicdist_stream", given, "cancel") if given == tag:
            return Cancel()
        case (
            "quicdist_stream",
            given,
            "subscribe",
            Pid() as consumer,
            Reference() as alias,
            (int(items), int(size)),
        ) if given == tag and _are_counts(items, size):
            return Subscribe(consumer, alias, StreamWindow(items, size))
        case ("quicdist_stream", given, "subscribe", _, _, _) if given == tag:
            return Malformed()
    return None


def _are_counts(*numbers: int) -> bool:
    """Returns whether all are positive integers. The atom `true` is decoded as True."""
    return all(number > 0 and not isinstance(number, bool) for number in numbers)
