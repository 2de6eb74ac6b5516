"""A connected session that is sent frames: it says what came, or ends with one of its errors."""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.targets.pieces import frames, join, split
from quicdist import etf
from quicdist.dist.errors import DistError, ProtocolError
from quicdist.dist.packet import FramePacket
from quicdist.dist.session import MessageReceived, Session, SessionLimits
from tests.dist.talk import FORMS, acceptor, initiator, node, shake

OPTIONS = etf.Options(limits=etf.Limits(max_terms=1 << 12, max_decompressed=1 << 16))
LIMITS = SessionLimits(max_message=1 << 16, max_sequences=4, max_sequence_bytes=1 << 16)
_FORMS = list(FORMS.values())


def check(data: bytes) -> None:
    """The choice is what was negotiated."""
    choice, pieces = split(data)
    session = connected(choice)
    try:
        for frame in pieces:
            for event in session.receive(FramePacket(frame)):
                if isinstance(event, MessageReceived):
                    assert event.size >= len(frame)
    except ProtocolError:
        try:
            session.receive(FramePacket(b""))
        except DistError:
            return
        raise AssertionError("a session goes on after an error") from None


def connected(choice: int) -> Session:
    flags = _FORMS[choice % len(_FORMS)]
    dialer = initiator(node("a@x", flags=flags))
    listener = acceptor(limits=LIMITS, options=OPTIONS)
    shake(dialer, listener)
    return listener


def seeds() -> Iterator[bytes]:
    """Recorded frames, with whatever was negotiated."""
    for batch in frames():
        for choice in range(len(_FORMS)):
            yield join(choice, batch)
