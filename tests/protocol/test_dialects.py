"""Dialects against known wire data and against arbitrary splits of the byte stream."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects import ALL_ALPNS, QUIC_DIALECTS, QuicDialect
from quicdist.protocol.dialects.base import DialectError, Gap, Refuse, Step, Write
from quicdist.protocol.dialects.erlang_dist import ErlangDistDialect
from quicdist.protocol.dialects.framing import LengthFramer
from quicdist.protocol.dialects.macula_dist import MaculaDistDialect
from quicdist.protocol.dialects.native import MAX_OFFER, OFFERS, NativeDialect
from quicdist.protocol.dialects.quic_dist import QuicDistDialect
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.role import Role
from tests.carriers.owners import ACK, CHALLENGE, NAME, REPLY, STATUS

DATA = Path(__file__).parent.parent / "data"
LIMITS = CarrierLimits(max_frame=100_000, max_handshake=500)


def written(steps: Iterable[Step]) -> dict[int, bytes]:
    """Returns the bytes of the steps by stream."""
    streams: dict[int, bytes] = {}
    for step in steps:
        if isinstance(step, Write):
            streams[step.stream] = streams.get(step.stream, b"") + b"".join(step.parts)
    return streams


def make(alpn: str, role: Role) -> QuicDialect:
    return QUIC_DIALECTS[alpn](role, LIMITS)


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    """Splits `data` at the given offsets."""
    places = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


# -- framing ------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(0, 10_000)))
def test_any_cut_gives_the_same_frames(bodies: list[bytes], at: list[int]) -> None:
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    framer = LengthFramer(4, 1000, "a frame")
    got: list[bytes] = []
    for piece in cut(stream, at):
        got += framer.feed_frames(piece)
    assert got == bodies
    assert framer.missing == 0


@given(
    st.lists(st.sampled_from([0, 1, 300, 32_767, 32_768, 40_000, 100_000]), max_size=6),
    st.lists(st.integers(0, 500_000)),
)
def test_any_cut_of_reused_memory_gives_the_same_frames(sizes: list[int], at: list[int]) -> None:
    bodies = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    framer = LengthFramer(4, 100_000, "a frame")
    got: list[bytes] = []
    for piece in cut(stream, at):
        memory = bytearray(piece)
        got += framer.feed_frames(memoryview(memory))
        memory[:] = bytes(len(memory))
    assert got == bodies
    assert {type(body) for body in got} <= {bytes}
    assert framer.missing == 0


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(0, 10_000)))
def test_any_cut_gives_the_same_messages(bodies: list[bytes], at: list[int]) -> None:
    stream = b"".join(len(body).to_bytes(2, "big") + body for body in bodies)
    framer = LengthFramer(2, 1000, "a message")
    got: list[bytes] = []
    for piece in cut(stream, at):
        body, rest = framer.feed_one(piece)
        while body is not None:
            got.append(body)
            body, rest = framer.feed_one(rest)
        assert not rest
    assert got == bodies


@pytest.mark.parametrize("head", [b"\x00\x00\x03\xe9", b"\xff\xff\xff\xff"])
def test_a_length_above_the_limit_is_refused_before_its_bytes_come(head: bytes) -> None:
    with pytest.raises(DialectError, match="exceeds the limit of 1000"):
        LengthFramer(4, 1000, "a frame").feed_frames(head)
    with pytest.raises(DialectError, match="exceeds the limit of 1000"):
        LengthFramer(4, 1000, "a frame").feed_one(head)


def test_the_largest_frame_passes() -> None:
    body = bytes(1000)
    assert LengthFramer(4, 1000, "a frame").feed_frames(b"\x00\x00\x03\xe8" + body) == [body]


# -- a whole connection, any dialect ------------------------------------------------------------


def talk(alpn: str, frames: list[bytes], at: list[int]) -> None:
    """Handshake and frames arrive in both directions for any split of the bytes."""
    dialer, listener = make(alpn, Role.DIALER), make(alpn, Role.LISTENER)
    ends = {Role.DIALER: dialer, Role.LISTENER: listener}
    got: dict[Role, list[Packet]] = {Role.DIALER: [], Role.LISTENER: []}

    def carry(to: Role, steps: Sequence[Step]) -> None:
        back = Role.LISTENER if to is Role.DIALER else Role.DIALER
        for stream, data in written(steps).items():
            for piece in cut(data, at):
                received = ends[to].receive(stream, piece)
                got[to] += received.packets
                if received.steps:
                    carry(back, received.steps)

    carry(Role.LISTENER, dialer.opened())
    carry(Role.DIALER, listener.opened())
    assert dialer.is_open
    carry(Role.LISTENER, dialer.handshake_bytes(NAME))
    carry(Role.DIALER, [*listener.handshake_bytes(STATUS), *listener.handshake_bytes(CHALLENGE)])
    carry(Role.LISTENER, dialer.handshake_bytes(REPLY))
    # The frames of the listener directly follow its last message.
    early = [*listener.handshake_bytes(ACK), *listener.connected()]
    for frame in frames:
        early.append(listener.frame_bytes((frame,) if frame else ()))
    carry(Role.DIALER, early)
    dialer.connected()
    got[Role.DIALER] += dialer.receive(0, b"").packets
    for frame in frames:
        carry(Role.LISTENER, [dialer.frame_bytes((frame[:2], memoryview(frame)[2:]))])
    assert got[Role.DIALER] == [
        *(HandshakePacket(message) for message in (STATUS, CHALLENGE, ACK)),
        *sorted_ticks_apart(alpn, frames),
    ]
    assert got[Role.LISTENER] == [
        *(HandshakePacket(message) for message in (NAME, REPLY)),
        *(FramePacket(frame) for frame in frames),
    ]


def sorted_ticks_apart(alpn: str, frames: list[bytes]) -> list[Packet]:
    """Returns the frames in order; erlang-dist has a separate stream for ticks."""
    if alpn != "erlang-dist":
        return [FramePacket(frame) for frame in frames]
    ticks = [FramePacket(b"") for frame in frames if not frame]
    return [*ticks, *(FramePacket(frame) for frame in frames if frame)]


@given(
    st.sampled_from(ALL_ALPNS),
    st.lists(st.binary(max_size=40)),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_both_ends_understand_each_other(alpn: str, frames: list[bytes], at: list[int]) -> None:
    talk(alpn, frames, at)


@pytest.mark.parametrize("alpn", ALL_ALPNS)
def test_byte_by_byte(alpn: str) -> None:
    talk(alpn, [b"first", b"", b"x" * 1000], list(range(2000)))


@pytest.mark.parametrize("alpn", ALL_ALPNS)
@pytest.mark.parametrize("role", Role)
@given(junk=st.binary(max_size=200))
def test_junk_is_packets_or_a_dialect_error(alpn: str, role: Role, junk: bytes) -> None:
    dialect = make(alpn, role)
    with contextlib.suppress(DialectError):
        dialect.receive(0, junk)
        dialect.connected()
        dialect.receive(4, junk)
        dialect.receive(0, junk)


def test_listeners_prefer_ours_then_the_most_able() -> None:
    assert ALL_ALPNS == ("quicdist/2", "quicdist/1", "erlang-dist", "sample", "macula-dist")
    for alpn in ALL_ALPNS:
        assert make(alpn, Role.DIALER).traits.alpn == alpn


def test_our_own_dialect_holds_nothing_back() -> None:
    listener = make("quicdist/1", Role.LISTENER)
    steps = [
        *listener.handshake_bytes(STATUS),
        *listener.handshake_bytes(CHALLENGE),
        *listener.connected(),
    ]
    assert not any(isinstance(step, Gap) for step in steps)


@pytest.mark.parametrize("alpn", ["quicdist/1", "sample", "macula-dist"])
def test_a_second_stream_is_refused_and_not_mixed_in(alpn: str) -> None:
    dialect = make(alpn, Role.LISTENER)
    for stream in (4, 8):
        received = dialect.receive(stream, b"ping\x00\x03abc")
        assert received.packets == ()
        assert received.steps == (Refuse(stream, 0x100),)
        assert not dialect.carries(stream)


# -- quic_dist ----------------------------------------------------------------------------------


def test_quic_dist_says_ping_and_holds_the_name_until_pong() -> None:
    dialer = QuicDistDialect(Role.DIALER, LIMITS)
    assert written(dialer.opened()) == {0: b"ping"}
    assert not dialer.is_open
    assert dialer.handshake_bytes(NAME) == ()
    assert dialer.receive(0, b"po").steps == ()
    assert written(dialer.receive(0, b"ng").steps) == {0: len(NAME).to_bytes(2, "big") + NAME}
    assert dialer.is_open


def test_quic_dist_answers_ping_even_with_a_name_behind_it() -> None:
    listener = QuicDistDialect(Role.LISTENER, LIMITS)
    assert listener.opened() == ()
    received = listener.receive(0, b"ping" + len(NAME).to_bytes(2, "big") + NAME)
    assert written(received.steps) == {0: b"pong"}
    assert received.packets == [HandshakePacket(NAME)]


def test_quic_dist_refuses_another_preamble() -> None:
    with pytest.raises(DialectError, match="pong"):
        QuicDistDialect(Role.DIALER, LIMITS).receive(0, b"pink")
    with pytest.raises(DialectError, match="ping"):
        QuicDistDialect(Role.LISTENER, LIMITS).receive(0, b"\x00\x1dN")


@pytest.mark.parametrize("alpn", ["sample", "macula-dist"])
def test_dialers_that_read_events_get_status_and_challenge_apart(alpn: str) -> None:
    listener = make(alpn, Role.LISTENER)
    listener.receive(0, b"ping" if alpn == "sample" else b"")
    first, gap = listener.handshake_bytes(STATUS)
    assert isinstance(first, Write)
    assert isinstance(gap, Gap)
    assert 0.02 <= gap.seconds <= 0.1
    assert not gap.ends_on_receive
    (only,) = listener.handshake_bytes(CHALLENGE)
    assert isinstance(only, Write)


@pytest.mark.parametrize("alpn", ["sample", "macula-dist"])
def test_the_first_frame_is_held_until_such_a_dialer_speaks(alpn: str) -> None:
    (gap,) = make(alpn, Role.LISTENER).connected()
    assert isinstance(gap, Gap)
    assert gap.ends_on_receive
    assert make(alpn, Role.DIALER).connected() == ()


def test_quic_dist_peers_may_stop_ticking() -> None:
    assert QuicDistDialect.traits.ticks_may_stop


# -- macula_dist --------------------------------------------------------------------------------


def test_macula_ticks_of_two_bytes_are_no_messages() -> None:
    listener = MaculaDistDialect(Role.LISTENER, LIMITS)
    assert listener.receive(0, b"\x00\x00" * 3).packets == []
    dialer = MaculaDistDialect(Role.DIALER, LIMITS)
    dialer.receive(0, b"\x00\x11" + ACK)
    got: list[Packet] = []
    for _ in range(4):
        got += dialer.receive(0, b"\x00\x00").packets
    assert got == [FramePacket(b""), FramePacket(b"")]


# -- erlang-dist --------------------------------------------------------------------------------


def test_erlang_quic_takes_status_and_challenge_merged() -> None:
    dialer = ErlangDistDialect(Role.DIALER, LIMITS)
    received = dialer.receive(0, STATUS + CHALLENGE)
    assert received.packets == [HandshakePacket(STATUS), HandshakePacket(CHALLENGE)]


@pytest.mark.parametrize(
    "status",
    [
        b"sok",
        b"sok_simultaneous",
        b"snok",
        b"snot_allowed",
        b"salive",
        b"snamed:\x00\x06x@test\x00\x00\x00\x07",
    ],
)
def test_erlang_quic_statuses(status: bytes) -> None:
    for cut_at in range(len(status) + len(CHALLENGE)):
        dialer = ErlangDistDialect(Role.DIALER, LIMITS)
        whole = status + CHALLENGE
        packets = [
            *dialer.receive(0, whole[:cut_at]).packets,
            *dialer.receive(0, whole[cut_at:]).packets,
        ]
        assert packets == [HandshakePacket(status), HandshakePacket(CHALLENGE)]


def test_erlang_quic_refusals_are_known_without_what_follows() -> None:
    for status in (b"snok", b"snot_allowed", b"salive", b"sok_simultaneous"):
        dialer = ErlangDistDialect(Role.DIALER, LIMITS)
        assert dialer.receive(0, status).packets == [HandshakePacket(status)]


@pytest.mark.parametrize("junk", [b"sorry", b"X", b"\x00\x1dN", b"n\x00\x05"])
def test_erlang_quic_handshake_junk(junk: bytes) -> None:
    with pytest.raises(DialectError):
        ErlangDistDialect(Role.DIALER, LIMITS).receive(0, junk)


def test_erlang_quic_frames_that_overtake_the_handshake_wait() -> None:
    dialer = ErlangDistDialect(Role.DIALER, LIMITS)
    dialer.receive(0, STATUS + CHALLENGE)
    assert dialer.receive(45, b"\x00\x00\x00\x02hi").packets == ()
    assert dialer.receive(0, ACK).packets == [HandshakePacket(ACK)]
    dialer.connected()
    assert dialer.receive(0, b"").packets == [FramePacket(b"hi")]


def test_erlang_quic_strangers_cannot_fill_memory_before_the_handshake_is_over() -> None:
    limits = CarrierLimits(receive_window=1000, max_frame=1_000_000)
    with pytest.raises(DialectError, match="too much"):
        ErlangDistDialect(Role.LISTENER, limits).receive(4, b"\x00\x00\x10\x00")
    listener = ErlangDistDialect(Role.LISTENER, limits)
    frame = b"\x00\x00\x00\x80" + bytes(128)
    for stream in range(4, 32, 4):
        listener.receive(stream, frame)
    with pytest.raises(DialectError, match="too much"):
        listener.receive(32, frame)


@pytest.mark.parametrize("arrived", [0, 599_999])
def test_erlang_quic_unfinished_frames_on_all_streams_share_one_limit(arrived: int) -> None:
    listener = ErlangDistDialect(Role.LISTENER, CarrierLimits(max_frame=1_000_000))
    listener.receive(0, NAME + REPLY)
    listener.connected()
    listener.receive(4, (600_000).to_bytes(4, "big") + bytes(arrived))
    with pytest.raises(DialectError, match="frames of all streams"):
        listener.receive(8, (600_000).to_bytes(4, "big"))


def test_erlang_quic_sends_on_one_data_stream_and_ticks_on_stream_0() -> None:
    for role, stream in ((Role.DIALER, 4), (Role.LISTENER, 1)):
        dialect = ErlangDistDialect(role, LIMITS)
        for _ in range(20):
            assert written([dialect.frame_bytes((b"x",))]) == {stream: b"\x00\x00\x00\x01x"}
        assert written([dialect.frame_bytes(())]) == {0: bytes(4)}


def test_erlang_quic_user_streams_are_refused_and_cost_nothing() -> None:
    listener = ErlangDistDialect(Role.LISTENER, LIMITS)
    received = listener.receive(68, b"raw bytes of some application")
    assert received.packets == ()
    assert received.steps == (Refuse(68, 0x100),)
    assert not listener.carries(68)
    assert listener.carries(64)


def test_erlang_quic_nothing_leaves_behind_the_ack() -> None:
    (gap,) = ErlangDistDialect(Role.LISTENER, LIMITS).connected()
    assert isinstance(gap, Gap)
    first, apart = ErlangDistDialect(Role.LISTENER, LIMITS).handshake_bytes(STATUS)
    assert isinstance(first, Write)
    assert isinstance(apart, Gap)


def test_erlang_quic_traits() -> None:
    traits = ErlangDistDialect.traits
    assert traits.needs_probe
    assert traits.parks_frames


# -- recordings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("quic_dist.jsonl", QuicDistDialect),
        ("macula_dist_0.14.3.jsonl", MaculaDistDialect),
        ("macula_dist_framed.jsonl", MaculaDistDialect),
        ("erlang_quic.jsonl", ErlangDistDialect),
    ],
)
@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_recordings(
    file: str, kind: type[QuicDistDialect | MaculaDistDialect | ErlangDistDialect], seed: int | None
) -> None:
    """Each recorded connection is parsed completely and alike for any split of the bytes."""
    dice = random.Random(seed)
    results: dict[tuple[int, str], list[Packet]] = {}
    ends: dict[tuple[int, str], QuicDialect] = {}
    whole: dict[tuple[int, str], list[Packet]] = {}
    wholes: dict[tuple[int, str], QuicDialect] = {}
    for line in (DATA / file).read_text().splitlines():
        entry = json.loads(line)
        key = (entry["conn"], entry["from"])
        role = Role.LISTENER if entry["from"] == "dialer" else Role.DIALER
        data = bytes.fromhex(entry["hex"])
        for got, dialects, pieces in (
            (whole, wholes, [data]),
            (results, ends, cut(data, [dice.randrange(len(data) + 1) for _ in range(3)])),
        ):
            dialect = dialects.setdefault(key, kind(role, CarrierLimits()))
            for piece in pieces:
                received = dialect.receive(entry["stream"], piece)
                got.setdefault(key, []).extend(received.packets)
                if any(packet.data[:1] in b"ar" for packet in received.packets):
                    dialect.connected()
    for key, packets in whole.items():
        assert any(isinstance(packet, HandshakePacket) for packet in packets)
        if "0.14.3" not in file:
            assert any(isinstance(packet, FramePacket) for packet in packets), key
    assert sum(map(len, results.values())) == sum(map(len, whole.values()))
    assert results == whole


def test_native_is_the_manual_and_nothing_else() -> None:
    dialect = NativeDialect(Role.DIALER, LIMITS)
    assert dialect.opened() == ()
    assert written(dialect.handshake_bytes(b"xyz")) == {0: b"\x00\x03xyz"}
    assert written([dialect.frame_bytes((b"ab", b"c"))]) == {0: b"\x00\x00\x00\x03abc"}
    assert written([dialect.frame_bytes(())]) == {0: bytes(4)}


# -- quicdist: messages about direct paths --------------------------------------------------------


@given(st.lists(st.binary(max_size=MAX_OFFER), max_size=5), st.lists(st.integers(0, 10_000)))
def test_any_cut_gives_the_same_offers(offers: list[bytes], at: list[int]) -> None:
    sender, receiver = NativeDialect(Role.LISTENER, LIMITS), NativeDialect(Role.DIALER, LIMITS)
    stream = written(sender.offer_bytes(offer) for offer in offers).get(OFFERS, b"")
    got: list[bytes] = []
    for piece in cut(stream, at):
        received = receiver.receive(OFFERS, piece)
        assert not received.packets
        assert not received.steps
        got += received.offers
    assert got == offers


def test_an_offer_that_is_too_long_is_an_error() -> None:
    with pytest.raises(DialectError, match="an offer of 1025 bytes exceeds the limit of 1024"):
        NativeDialect(Role.DIALER, LIMITS).receive(OFFERS, (MAX_OFFER + 1).to_bytes(2, "big"))


def test_the_end_of_the_stream_of_offers_does_not_end_the_connection() -> None:
    assert not NativeDialect(Role.LISTENER, LIMITS).carries(OFFERS)
