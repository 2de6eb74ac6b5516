"""Attack datagrams from unauthenticated peers, and valid datagrams for comparison."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import apply_key_phase, next_key_phase
from aioquic.tls import Epoch

from quicdist.carriers.quic.endpoint import Accept
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.reject_reason import RejectReason
from tests.carriers.stranger import (
    INITIAL_SIZE,
    Server,
    Stranger,
    ack,
    crypto,
    junk,
    packed,
    stream,
    var,
)

COUNT = 152
"""Maximum number of datagrams of an attack."""

FIRSTS = 48
"""Number of first datagrams that are answered without address validation."""


Build = Callable[[Stranger], Sequence[bytes]]


class Phase(enum.Enum):
    """The phase of the connection in which the attack starts."""

    FIRST = "first datagrams"
    """Each datagram is the first of a connection."""
    HELLO = "before TLS"
    """The ClientHello was accepted."""
    TLS = "after TLS"
    """TLS is complete; the cookie is not proved."""
    COOKIE = "with the cookie"


@dataclass(frozen=True, slots=True)
class Attack:
    """A sequence of attack datagrams."""

    name: str
    phase: Phase
    build: Build
    refusal: RejectReason | None
    """The expected reason of the close; None if the attack stays within all bounds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one attack."""

    datagrams: int
    size: int
    is_over: bool
    """Whether the endpoint has no connection left."""
    refused: RejectReason | None
    """The first counter that the endpoint incremented during the attack."""


async def attack(
    settings: QuicSettings,
    accept: Accept,
    plan: Attack,
    measured: Callable[[], AbstractContextManager[object]] = nullcontext,
    *,
    batch: int = 1,
) -> Outcome:
    """Completes the plan's phase, then sends `batch` datagrams at a time until it is closed."""
    server = Server(settings, accept)
    server.measured = measured
    try:
        stranger = Stranger(server)
        await approach(stranger, plan.phase)
        sent = list(plan.build(stranger))
        before = dict(server.endpoint.rejected)
        count = 0
        for at in range(0, len(sent), batch):
            for data in sent[at : at + batch]:
                server.udp.bring(data, stranger.address)
                count += 1
            await server.settle()
            if plan.phase is not Phase.FIRST and not server.endpoint.connections:
                break
        after = server.endpoint.rejected
        new = [each for each in after if after[each] > before.get(each, 0)]
        return Outcome(
            datagrams=count,
            size=server.udp.bytes_in.total(),
            is_over=not server.endpoint.connections,
            refused=new[0] if new else None,
        )
    finally:
        await server.endpoint.close(0)


async def approach(stranger: Stranger, phase: Phase) -> None:
    """Connects as a valid peer up to the plan's phase."""
    if phase is Phase.FIRST:
        return
    if phase is Phase.HELLO:
        stranger.say()
        await stranger.server.settle()
        stranger.hear()
        return
    await stranger.exchange()
    if phase is Phase.COOKIE:
        (connection,) = stranger.server.endpoint.connections
        connection._engine.peer_proved()


def honest(plan: Attack, count: int) -> Attack:
    """Sends `count` valid datagrams of the same sizes on the same kind of connection."""

    def build(stranger: Stranger) -> Sequence[bytes]:
        if plan.phase is Phase.FIRST:
            return _hellos(stranger, count)
        if plan.phase is Phase.HELLO:
            return [stranger.initial(b"\x01") for _ in range(count)]
        return _data(stranger, [len(data) for data in plan.build(stranger)[:count]])

    return Attack(f"honest {plan.phase.value}", plan.phase, build, None)


# -- honest datagrams ---------------------------------------------------------------------------


def _hellos(stranger: Stranger, count: int = FIRSTS) -> list[bytes]:
    return [_hello(stranger) for _ in range(count)]


def _hello(stranger: Stranger) -> bytes:
    """Returns the first datagram of a new connection."""
    other = Stranger(stranger.server, stranger.address)
    (data, _), *_ = other.quic.datagrams_to_send(other.now)
    return data


def _data(stranger: Stranger, sizes: Sequence[int]) -> list[bytes]:
    """Returns stream data in packets of these sizes, on a stream that the endpoint ignores."""
    offset = 0
    made = []
    for size in sizes:
        room = max(size - INITIAL_SIZE + stranger.room - 8, 1)
        made.append(stranger.packet(Epoch.ONE_RTT, stream(4, offset, bytes(room))))
        offset += room
    return made


# -- hostile ones -------------------------------------------------------------------------------


Frames = Callable[[Stranger], Iterator[bytes]]


def _in_initials(frames: Frames, most: int = 1 << 30) -> Build:
    """Yields Initial packets of up to `most` frames each."""

    def build(stranger: Stranger) -> list[bytes]:
        payloads = packed(frames(stranger), stranger.initial_room, most)
        return [stranger.initial(payload) for payload in payloads[:COUNT]]

    return build


def _in_packets(frames: Frames, most: int = 1 << 30) -> Build:
    """Yields 1-RTT packets of up to `most` frames each."""

    def build(stranger: Stranger) -> list[bytes]:
        payloads = packed(frames(stranger), stranger.room, most)
        return [
            stranger.packet(Epoch.ONE_RTT, payload.ljust(stranger.room, b"\x00"))
            for payload in payloads[:COUNT]
        ]

    return build


def _same(frame: bytes, count: int = 1 << 30) -> Build:
    """Yields 1-RTT packets filled with one frame, or with `count` frames each."""

    def build(stranger: Stranger) -> list[bytes]:
        payload = frame * min(count, stranger.room // len(frame))
        payload += bytes(stranger.room - len(payload))
        return [stranger.packet(Epoch.ONE_RTT, payload) for _ in range(COUNT)]

    return build


def _same_initials(frame: bytes, count: int = 1 << 30) -> Build:
    def build(stranger: Stranger) -> list[bytes]:
        payload = frame * min(count, stranger.initial_room // len(frame))
        return [stranger.initial(payload) for _ in range(COUNT)]

    return build


def _crypto_gaps(stranger: Stranger) -> Iterator[bytes]:
    return (crypto(5000 + 2 * n, b"x") for n in range(20_000))


def _stream_gaps(streams: int) -> Frames:
    def frames(stranger: Stranger) -> Iterator[bytes]:
        for n in range(40_000):
            yield stream(4 * (n % streams), 1000 + 2 * (n // streams), b"x")

    return frames


def _backwards(stranger: Stranger) -> Iterator[bytes]:
    return (stream(4, 60_000 - 2 * n, b"x") for n in range(20_000))


def _bytewise(stranger: Stranger) -> Iterator[bytes]:
    return (stream(4, n, b"x") for n in range(20_000))


def _bytewise_apart(stranger: Stranger) -> list[bytes]:
    """Yields packets with the maximum number of frames."""
    made = []
    for at in range(0, 30 * COUNT, 30):
        frames = b"".join(stream(4, at + n, b"x") for n in range(30))
        made.append(stranger.packet(Epoch.ONE_RTT, frames.ljust(stranger.room, b"\x00")))
    return made


def _coalesced(stranger: Stranger) -> list[bytes]:
    return [
        b"".join(stranger.packet(Epoch.INITIAL, b"\x01") for _ in range(28))[:INITIAL_SIZE].ljust(
            INITIAL_SIZE, b"\x00"
        )
        for _ in range(COUNT)
    ]


def _retired(stranger: Stranger) -> Iterator[bytes]:
    return (b"\x19" + var(n + 1) for n in range(40_000))


def _new_ids(stranger: Stranger) -> Iterator[bytes]:
    for n in range(10, 6000):
        yield b"\x18" + var(n) + var(n) + b"\x08" + n.to_bytes(8, "big") + bytes(16)


def _resets(stranger: Stranger) -> Iterator[bytes]:
    """Yields frames that open a stream and reset it in both directions."""
    for n in range(1, 6000):
        yield b"\x04" + var(4 * n) + b"\x00\x00" + b"\x05" + var(4 * n) + b"\x00"


def _key_updates(stranger: Stranger) -> list[bytes]:
    pair = stranger.quic._cryptos[Epoch.ONE_RTT]
    made = []
    for _ in range(COUNT):
        apply_key_phase(pair.send, next_key_phase(pair.send), trigger="")
        pair.recv.key_phase = pair.send.key_phase
        made.append(stranger.packet(Epoch.ONE_RTT, b"\x01" + bytes(stranger.room - 1)))
    return made


def _forged(stranger: Stranger) -> list[bytes]:
    """Yields forged packets; half of them appear to have the other key phase."""
    head = b"\x41" + stranger.quic._peer_cid.cid
    return [head + junk(INITIAL_SIZE - len(head)) for _ in range(COUNT)]


def _hello_of(alpns: Sequence[str]) -> Build:
    """Yields a ClientHello with many ALPN protocols, split over several datagrams."""

    def build(stranger: Stranger) -> list[bytes]:
        other = Stranger(stranger.server, stranger.address)
        quic = other.quic
        made = []
        message = _client_hello(quic, alpns)
        room = other.initial_room - 8
        for at in range(0, len(message), room):
            made.append(other.initial(crypto(at, message[at : at + room])))
        return made

    return build


def _client_hello(quic: QuicConnection, alpns: Sequence[str]) -> bytes:
    buf = Buffer(capacity=60_000)
    hello = tls.ClientHello(
        random=bytes(32),
        legacy_session_id=b"",
        cipher_suites=[int(tls.CipherSuite.AES_128_GCM_SHA256)],
        legacy_compression_methods=[0],
        alpn_protocols=list(alpns),
        key_share=[tls.encode_public_key(quic.tls._x25519_private_key.public_key())],  # type: ignore[union-attr]  # made by connect
        signature_algorithms=[int(tls.SignatureAlgorithm.ECDSA_SECP256R1_SHA256)],
        supported_groups=[int(tls.Group.X25519)],
        supported_versions=[tls.TLS_VERSION_1_3],
        other_extensions=quic.tls.handshake_extensions,
    )
    tls.push_client_hello(buf, hello)
    return buf.data


def _broken_hellos(stranger: Stranger) -> list[bytes]:
    made = []
    for _ in range(FIRSTS):
        other = Stranger(stranger.server, stranger.address)
        data = bytearray(other.initial(crypto(0, bytes(100))))
        data[-1] ^= 1
        made.append(bytes(data))
    return made


def _no_hellos(stranger: Stranger) -> list[bytes]:
    return [Stranger(stranger.server, stranger.address).initial(b"\x01") for _ in range(FIRSTS)]


def _versions(stranger: Stranger) -> list[bytes]:
    return [b"\xc0" + junk(4) + b"\x08" + junk(8) + b"\x08" + junk(1186) for _ in range(FIRSTS)]


def _tokens(stranger: Stranger) -> list[bytes]:
    """Yields invalid proofs."""
    made = []
    for _ in range(FIRSTS):
        data = _hello(stranger)
        at = 7 + data[5] + data[6 + data[5]]
        made.append((data[:at] + b"\x40\x40" + junk(64) + data[at + 1 :])[:INITIAL_SIZE])
    return made


ATTACKS = (
    Attack("ClientHello after ClientHello", Phase.FIRST, _hellos, None),
    Attack("Initials that do not decrypt", Phase.FIRST, _broken_hellos, RejectReason.BROKEN),
    Attack("Initials without CRYPTO", Phase.FIRST, _no_hellos, RejectReason.TLS),
    Attack("unknown versions", Phase.FIRST, _versions, RejectReason.VERSION),
    Attack("tokens that are not ours", Phase.FIRST, _tokens, RejectReason.BAD_PROOF),
    Attack("7,000 empty ALPNs", Phase.FIRST, _hello_of([""] * 7000), RejectReason.TLS_ITEMS),
    Attack("CRYPTO only", Phase.HELLO, _in_initials(_crypto_gaps), RejectReason.FRAMES),
    Attack(
        "CRYPTO with gaps", Phase.HELLO, _in_initials(_crypto_gaps, 20), RejectReason.TLS_RANGES
    ),
    Attack("PING only", Phase.HELLO, _same_initials(b"\x01"), RejectReason.FRAMES),
    Attack(
        "PING and PADDING by turns", Phase.HELLO, _same_initials(b"\x01\x00"), RejectReason.FRAMES
    ),
    Attack("32 PINGs a packet", Phase.HELLO, _same_initials(b"\x01\x00", 32), RejectReason.FRAMES),
    Attack("coalesced packets", Phase.HELLO, _coalesced, None),
    Attack("a packet again and again", Phase.HELLO, lambda s: [s.initial(b"\x01")] * COUNT, None),
    Attack("CRYPTO with gaps", Phase.TLS, _in_packets(_crypto_gaps, 20), RejectReason.TLS_RANGES),
    Attack(
        "STREAM with gaps", Phase.TLS, _in_packets(_stream_gaps(1), 20), RejectReason.STREAM_RANGES
    ),
    Attack(
        "STREAM with gaps, 16 streams",
        Phase.TLS,
        _in_packets(_stream_gaps(16), 30),
        RejectReason.FRAMES,
    ),
    Attack("30 STREAMs a packet, byte by byte", Phase.TLS, _bytewise_apart, RejectReason.FRAMES),
    Attack("STREAM, byte by byte", Phase.TLS, _in_packets(_bytewise), RejectReason.FRAMES),
    Attack("PING only", Phase.TLS, _same(b"\x01"), RejectReason.FRAMES),
    Attack("30 PINGs a packet", Phase.TLS, _same(b"\x01\x00", 30), RejectReason.FRAMES),
    Attack(
        "ACK of what was not sent",
        Phase.TLS,
        _same(ack(1200, [(0, 0)] * 500), 1),
        RejectReason.ACKNOWLEDGEMENTS,
    ),
    Attack("15 ACKs a packet", Phase.TLS, _same(ack(3, [(0, 0)]), 15), RejectReason.FRAMES),
    Attack("RETIRE_CONNECTION_ID", Phase.TLS, _in_packets(_retired), RejectReason.CONNECTION_IDS),
    Attack("NEW_CONNECTION_ID", Phase.TLS, _in_packets(_new_ids), RejectReason.FRAMES),
    Attack("PATH_CHALLENGE", Phase.TLS, _same(b"\x1a" + bytes(8)), RejectReason.FRAMES),
    Attack(
        "7 PATH_CHALLENGEs a packet", Phase.TLS, _same(b"\x1a" + bytes(8), 7), RejectReason.FRAMES
    ),
    Attack("STOP_SENDING", Phase.TLS, _same(b"\x05\x04\x00"), RejectReason.FRAMES),
    Attack("streams opened and reset", Phase.TLS, _in_packets(_resets, 10), RejectReason.UNUSED),
    Attack("MAX_STREAM_DATA", Phase.TLS, _same(b"\x11\x04\x00"), RejectReason.FRAMES),
    Attack("60 MAX_DATA a packet", Phase.TLS, _same(b"\x10\x04", 60), RejectReason.FRAMES),
    Attack("key updates", Phase.TLS, _key_updates, RejectReason.KEY_UPDATES),
    Attack("packets that do not decrypt", Phase.TLS, _forged, None),
    Attack(
        "STREAM with gaps",
        Phase.COOKIE,
        _in_packets(_stream_gaps(1), 90),
        RejectReason.STREAM_RANGES,
    ),
    Attack(
        "STREAM with gaps, backwards",
        Phase.COOKIE,
        _in_packets(_backwards, 90),
        RejectReason.STREAM_RANGES,
    ),
    Attack("STREAM in full packets", Phase.COOKIE, _in_packets(_bytewise), RejectReason.FRAMES),
)
