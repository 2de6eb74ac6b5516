"""The messages of streams are those of the table in docs/streams.md."""

from __future__ import annotations

import pytest

from quicdist.etf import Atom, ImproperList, Pid, Reference, Term
from quicdist.kernel.streams.messages import (
    Ack,
    Cancel,
    Items,
    Malformed,
    Offer,
    Start,
    StreamMessage,
    Subscribe,
    from_term,
    to_term,
)
from quicdist.kernel.streams.window import StreamWindow
from tests.support.stream_protocol import documented, message, start_arguments, with_values

PRODUCER = Pid(Atom("1@127.0.0.1"), 1, 0, 1)
CONSUMER = Pid(Atom("2@127.0.0.1"), 2, 0, 1)
TAG = Reference(Atom("2@127.0.0.1"), (1, 2, 3), 1)
OFFER_TAG = Reference(Atom("1@127.0.0.1"), (4, 5, 6), 1)
OTHER = Reference(Atom("2@127.0.0.1"), (9, 9, 9), 1)
VALUES: dict[str, Term] = {
    "Producer": PRODUCER,
    "Consumer": CONSUMER,
    "Tag": TAG,
    "OfferTag": OFFER_TAG,
    "MaxItems": 10,
    "MaxBytes": 1000,
    "Module": Atom("model"),
    "Function": Atom("generate"),
    "Args": [b"once"],
    "Items": [b"upon", b"a"],
    "Count": 2,
}


WINDOW = StreamWindow(10, 1000)
MESSAGES: dict[str, tuple[Term, StreamMessage]] = {
    "subscribe": (OFFER_TAG, Subscribe(CONSUMER, TAG, WINDOW)),
    "items": (TAG, Items([b"upon", b"a"])),
    "ack": (TAG, Ack(2)),
    "cancel": (TAG, Cancel()),
}


def test_the_table_has_every_step() -> None:
    assert set(documented()) == {"start", "offer", *MESSAGES}


@pytest.mark.parametrize("step", MESSAGES)
def test_a_message_has_the_documented_form(step: str) -> None:
    tag, message = MESSAGES[step]
    term = with_values(documented()[step], VALUES)
    assert to_term(tag, message) == term
    assert from_term(tag, term) == message
    assert from_term(OTHER, term) is None


def test_an_offer_has_the_documented_form() -> None:
    term = message("offer", **VALUES)
    offer = Offer.from_term(term)
    assert (offer.producer, offer.tag) == (PRODUCER, OFFER_TAG)
    assert offer.to_term() == term


def test_a_start_has_the_documented_arguments() -> None:
    start = Start.from_term(with_values(start_arguments(), VALUES))
    assert (start.consumer, start.tag, start.window) == (CONSUMER, TAG, WINDOW)
    assert (start.module, start.function, start.args) == ("model", "generate", [b"once"])


@pytest.mark.parametrize(
    "other",
    [
        ("items", Atom("none")),
        ("items", ImproperList([1], 2)),
        ("subscribe", CONSUMER, TAG, (0, 1)),
        ("subscribe", CONSUMER, TAG, (True, 1)),
        ("subscribe", CONSUMER, Atom("none"), (1, 1)),
        ("subscribe", Atom("none"), TAG, (1, 1)),
        ("subscribe", CONSUMER, TAG, Atom("none")),
    ],
    ids=str,
)
def test_items_and_subscriptions_of_another_form_are_malformed(other: tuple[Term, ...]) -> None:
    kind, *arguments = other
    term = (Atom("quicdist_stream"), TAG, Atom(str(kind)), *arguments)
    assert from_term(TAG, term) == Malformed()


@pytest.mark.parametrize("count", [0, -1, True, 1.0, Atom("one")], ids=str)
def test_what_is_not_a_positive_integer_acknowledges_nothing(count: Term) -> None:
    assert from_term(TAG, (Atom("quicdist_stream"), TAG, Atom("ack"), count)) is None
