"""Two sessions connected without a carrier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from quicdist.etf import DEFAULT, Options
from quicdist.limits import SessionLimits
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag
from quicdist.protocol.handshake import AliveAsked, Connected, LocalNode, PeerNamed, SendHandshake
from quicdist.protocol.handshake_messages import Named, Status
from quicdist.protocol.packet import FramePacket, HandshakePacket
from quicdist.protocol.role import Role
from quicdist.protocol.session import Event, Session
from quicdist.protocol.signals import NO_PAYLOAD, Signal
from tests.protocol.forms import Control, encode

PASS_THROUGH = DEFAULT_FLAGS & ~Flag.DIST_HDR_ATOM_CACHE & ~Flag.FRAGMENTS
FRAGMENTS_ONLY = DEFAULT_FLAGS & ~Flag.DIST_HDR_ATOM_CACHE
CACHE_ONLY = DEFAULT_FLAGS & ~Flag.FRAGMENTS
FORMS = {
    "pass-through": PASS_THROUGH,
    "fragments": FRAGMENTS_ONLY,
    "cache": CACHE_ONLY,
    "both": DEFAULT_FLAGS,
}
"""The negotiable flags that change the form of frames."""


def node(
    name: str, *, flags: Flag = DEFAULT_FLAGS, cookie: str = "secret", creation: int = 77
) -> LocalNode:
    return LocalNode(name, creation, flags, cookie)


def initiator(local: LocalNode | None = None, **more: Any) -> Session:
    return Session(local or node("a@x"), Role.DIALER, challenge=0xAAAA0001, **more)


def acceptor(local: LocalNode | None = None, **more: Any) -> Session:
    return Session(local or node("b@x"), Role.LISTENER, challenge=0xBBBB0002, **more)


def shake(
    dialer: Session,
    listener: Session,
    *,
    decision: Status | Named = Status.OK,
    alive: Status = Status.TRUE,
) -> tuple[list[Event], list[Event]]:
    """Exchanges handshake messages until both sides have none left.

    Returns the events of both sides other than messages to send.
    """
    seen: tuple[list[Event], list[Event]] = ([], [])
    sessions = (dialer, listener)

    def deal(side: int, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, SendHandshake):
                other = 1 - side
                deal(other, sessions[other].receive(HandshakePacket(event.data)))
                continue
            seen[side].append(event)
            if isinstance(event, PeerNamed):
                deal(side, sessions[side].decide(decision))
            elif isinstance(event, AliveAsked):
                deal(side, sessions[side].decide(alive))

    deal(0, dialer.start())
    return seen


def connected_pair(
    flags: Flag = DEFAULT_FLAGS,
    *,
    limits: SessionLimits | None = None,
    options: Options = DEFAULT,
) -> tuple[Session, Session]:
    dialer = initiator(node("a@x", flags=flags), limits=limits, options=options)
    listener = acceptor(limits=limits, options=options)
    shake(dialer, listener)
    assert dialer.connected
    assert listener.connected
    return dialer, listener


def outcome(events: Iterable[Event]) -> Connected:
    (found,) = [event for event in events if isinstance(event, Connected)]
    return found


def frames(session: Session, control: Control | Signal, payload: Any = NO_PAYLOAD) -> list[bytes]:
    return [b"".join(parts) for parts in session.frames(encode(session, control, payload))]


def feed(session: Session, data: Iterable[bytes]) -> list[Event]:
    return [event for frame in data for event in session.receive(FramePacket(frame))]


def pass_on(
    source: Session,
    target: Session,
    control: Control | Signal,
    payload: Any = NO_PAYLOAD,
    *,
    meddle: Callable[[bytes], bytes] = bytes,
) -> list[Event]:
    return feed(target, (meddle(frame) for frame in frames(source, control, payload)))
