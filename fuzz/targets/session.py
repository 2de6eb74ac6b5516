"""Fuzz target for the frames of a connected session.

The session returns events or ends with one of its errors, and its fast classification of a frame
agrees with the full parse.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from fuzz.targets.pieces import frames, join, split
from quicdist import etf
from quicdist.limits import SessionLimits
from quicdist.protocol.channel import MessageReceived
from quicdist.protocol.errors import DistError, ProtocolError
from quicdist.protocol.flags import DEFAULT_FLAGS
from quicdist.protocol.handshake import SendHandshake
from quicdist.protocol.handshake_messages import Status
from quicdist.protocol.packet import FramePacket, HandshakePacket
from quicdist.protocol.session import Event, Session
from quicdist.protocol.signals import NO_PAYLOAD, Payload, Signal
from quicdist.protocol.wire import WireForms
from tests.protocol.talk import FORMS, acceptor, initiator, node

OPTIONS = etf.Options(limits=etf.Limits(max_terms=1 << 12, max_decompressed=1 << 16))
LIMITS = SessionLimits(max_message=1 << 16, max_sequences=4, max_sequence_bytes=1 << 16)
_FORMS = list(FORMS.values())
WRITER = WireForms(DEFAULT_FLAGS)


def check(data: bytes) -> None:
    """Choice byte: the negotiated flags."""
    choice, pieces = split(data)
    session = connected(choice)
    try:
        for frame in pieces:
            received(session, frame)
    except ProtocolError:
        try:
            session.receive(FramePacket(b""))
        except DistError:
            return
        raise AssertionError("the session continues after an error") from None


def received(session: Session, frame: bytes) -> None:
    """Classifies before the full parse, when earlier frames may share a prefix, and after it."""
    before = session.channel.message(frame)
    try:
        events = session.receive(FramePacket(frame))
    except ProtocolError:
        assert before is None, f"{before} in a frame that is refused"
        raise
    told = [event for event in events if isinstance(event, MessageReceived)]
    for event in told:
        assert event.size >= len(frame)
    for quick in (before, session.channel.message(frame)):
        if quick is not None:
            (event,) = told
            assert bytes_of(*quick) == bytes_of(event.signal, event.payload)


def bytes_of(signal: Signal, payload: Payload) -> tuple[bytes, bytes]:
    """Returns a key that separates 1 from 1.0 and that is equal for NaN and NaN."""
    values, payload = WRITER.of(signal, payload)
    assert payload is not NO_PAYLOAD
    return etf.encode(values), etf.encode(payload)


def connected(choice: int) -> Session:
    listener = acceptor(limits=LIMITS, options=OPTIONS)
    name, reply = said_by_dialer(choice % len(_FORMS))
    listener.receive(HandshakePacket(name))
    listener.decide(Status.OK)
    listener.receive(HandshakePacket(reply))
    assert listener.connected
    return listener


@functools.cache
def said_by_dialer(form: int) -> list[bytes]:
    """Returns the same challenge on every call, as the recorded listener's."""
    dialer = initiator(node("a@x", flags=_FORMS[form]))
    listener = acceptor()
    (name,) = sent(dialer.start())
    listener.receive(HandshakePacket(name))
    status, challenge = sent(listener.decide(Status.OK))
    dialer.receive(HandshakePacket(status))
    return [name, *sent(dialer.receive(HandshakePacket(challenge)))]


def sent(events: list[Event]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, SendHandshake)]


def seeds() -> Iterator[bytes]:
    """Yields recorded frames, with the negotiated flags."""
    for batch in frames():
        for choice in range(len(_FORMS)):
            yield join(choice, batch)
