"""Fuzz target for handshake messages, their parsers and sessions in both roles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from fuzz.targets.pieces import handshakes, join, split
from quicdist.gateway.relay import claimed_name
from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.errors import DistError, ProtocolError, UsageError
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag
from quicdist.protocol.handshake import AliveAsked, LocalNode, PeerNamed, first_message
from quicdist.protocol.packet import HandshakePacket
from quicdist.protocol.role import Role
from quicdist.protocol.session import Session

BINDING = bytes(32)
COOKIES = ("labcookie", "lab")
PARSERS = (
    hs.parse_name,
    hs.parse_complement,
    hs.parse_challenge,
    hs.parse_challenge_reply,
    hs.parse_challenge_ack,
    hs.parse_proof,
    hs.parse_status,
)


def check(data: bytes) -> None:
    """Choice byte: bit 0 role, 1 cookie, 2 whether to request a name, 3 and up the decision.

    Bit 7 is also whether the cookie is proved with the name.
    """
    choice, messages = split(data)
    for message in messages:
        parse_alone(message)
    flags = DEFAULT_FLAGS | Flag.NAME_ME if choice & 4 else DEFAULT_FLAGS
    initiator = bool(choice & 1)
    name = "host" if choice & 4 and initiator else "5555@127.0.0.1"
    session = Session(
        LocalNode(name, 4, flags, COOKIES[choice >> 1 & 1]),
        Role.DIALER if initiator else Role.LISTENER,
        challenge=1,
        binding=BINDING if choice & 128 else b"",
        early_proofs=bool(choice & 128),
    )
    session.start()
    with suppress(DistError):
        for message in messages:
            answer(session, message, choice >> 3)


def parse_alone(message: bytes) -> None:
    for parser in PARSERS:
        with suppress(ProtocolError):
            parser(message)
    shown = claimed_name(message)
    assert shown is None or shown.isprintable()


def answer(session: Session, message: bytes, choice: int) -> None:
    for event in session.receive(HandshakePacket(message)):
        try:
            if isinstance(event, PeerNamed):
                named = hs.Named("1@host", 5)
                session.decide([*hs.Status, named][choice % (len(hs.Status) + 1)])
            elif isinstance(event, AliveAsked):
                session.decide(hs.Status.TRUE if choice & 1 else hs.Status.FALSE)
        except UsageError:
            return


def seeds() -> Iterator[bytes]:
    """Yields both directions of every recorded handshake."""
    for talk in handshakes():
        for initiator in (False, True):
            said = [one.packet.data for one in talk if one.dialed is not initiator]
            yield join(int(initiator), said)
            yield join(int(initiator) | 2, said)
    yield join(5, [b"snamed:" + hs.build_status(hs.Named("1@host", 5))[7:]])
    yield join(0, [hs.build_name_v5(hs.NameV5(5, int(DEFAULT_FLAGS), "a@b"))])
    yield join(0, [hs.build_complement(hs.Complement(1 << 32, 5))])
    local = LocalNode("a@b", 4, DEFAULT_FLAGS, COOKIES[0])
    yield join(128, [first_message(local, BINDING, early_proofs=True)])
    proof = hs.Proof(int(DEFAULT_FLAGS) | Flag.CHANNEL_BINDING.value, 4, "c@d", bytes(32))
    yield join(129, [b"sok", hs.build_proof(proof)])
