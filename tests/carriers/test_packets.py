"""Packets that are protected in batches equal those of aioquic."""

from __future__ import annotations

import itertools
import math

import pytest
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion, decode_packet_number
from aioquic.quic.stream import QuicStreamSender
from aioquic.tls import CipherSuite
from hypothesis import example, given
from hypothesis import strategies as st

from quicdist.carriers.quic.engine import aioquic_packets as packets

CID = bytes(range(8))
SUITES = [
    CipherSuite.AES_128_GCM_SHA256,
    CipherSuite.AES_256_GCM_SHA384,
    CipherSuite.CHACHA20_POLY1305_SHA256,
]
PAYLOADS = st.lists(st.binary(min_size=3, max_size=1400), min_size=1, max_size=5)


def keys(suite: CipherSuite) -> CryptoPair:
    """Returns keys with which a side reads what it sends."""
    pair = CryptoPair()
    version = QuicProtocolVersion.VERSION_1
    for one in (pair.send, pair.recv):
        one.setup(cipher_suite=suite, secret=bytes(48), version=version)
    return pair


def plain(first: int, number: int) -> bytes:
    return bytes((first,)) + CID + (number & 0xFFFF).to_bytes(2, "big")


def seal(
    pair: CryptoPair, cid: bytes, number: int, spin: bool, payloads: list[bytes]
) -> list[bytes]:
    """Protects packets with both implementations."""
    first = 0x41 | spin << 5 | pair.send.key_phase << 2
    arguments = (packets.seal_keys(pair.send), first, cid, number, payloads, 64, 60_000)
    batches = packets.seal(*arguments)
    assert batches == packets._seal(*arguments)
    return [data[at : at + size] for data, size in batches for at in range(0, len(data), size)]


@pytest.mark.parametrize("suite", SUITES)
@given(payloads=PAYLOADS, number=st.integers(0, 1 << 40), spin=st.booleans())
def test_sealed_packets_equal_those_of_aioquic(
    suite: CipherSuite, payloads: list[bytes], number: int, spin: bool
) -> None:
    pair = keys(suite)
    first = 0x41 | spin << 5
    assert seal(pair, CID, number, spin, payloads) == [
        pair.encrypt_packet(plain(first, at), payload, at)
        for at, payload in enumerate(payloads, number)
    ]


def batch(datagrams: list[bytes]) -> tuple[bytes, int]:
    """Returns datagrams as one buffer, with the size of all but the last. Short ones are filled."""
    size = max(map(len, datagrams))
    *others, last = datagrams
    return b"".join([*(each.ljust(size, b"\0") for each in others), last]), size


def opened(
    pair: CryptoPair,
    datagrams: list[bytes],
    expected: int,
    target: tuple[int, int, int] = (-1, 0, 0),
    at: int = 0,
) -> tuple[list[packets.Taken], int]:
    """Opens datagrams with both implementations, and returns the results and the end."""
    data, size = batch(datagrams)
    keys = packets.open_keys(pair.recv)
    assert packets.samples(data, size, at) == packets._samples(data, size, at)
    protected = packets.protected(keys, CID, data, size, at)
    results = []
    stream, offset, limit = target
    while True:
        arguments = (keys, protected, at, expected, stream, offset, limit)
        result = packets.take(*arguments)
        assert result == packets._take(*arguments)
        at, count, _, joined, other = result
        results.append(result)
        expected, offset = expected + count, offset + len(joined)
        if other is None:
            return results, at
        expected = max(expected, other[0] + 1)


def others(results: list[packets.Taken]) -> list[tuple[int, bytes]]:
    return [(other[0], other[2]) for *_, other in results if other is not None]


@pytest.mark.parametrize("suite", SUITES)
@given(payloads=PAYLOADS, number=st.integers(0, 1 << 40), data=st.data())
def test_what_was_sealed_is_opened_and_forged_packets_are_dropped(
    suite: CipherSuite, payloads: list[bytes], number: int, data: st.DataObject
) -> None:
    pair = keys(suite)
    size = max(map(len, payloads))
    payloads = [payload.ljust(size, b"\0") for payload in payloads]
    datagrams = seal(pair, CID, number, False, payloads)
    forged = data.draw(st.sampled_from(range(len(payloads))))
    datagrams[forged] = datagrams[forged][:-1] + bytes((datagrams[forged][-1] ^ 1,))
    results, end = opened(pair, datagrams, number)
    assert end == sum(map(len, datagrams))
    assert others(results) == [
        (at, payload) for at, payload in enumerate(payloads, number) if at != number + forged
    ]


@pytest.mark.parametrize("suite", SUITES)
@given(garbage=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4))
def test_garbage_opens_nothing(suite: CipherSuite, garbage: list[bytes]) -> None:
    results, _ = opened(keys(suite), garbage, 7)
    assert others(results) == []


@pytest.mark.parametrize("suite", SUITES)
def test_a_packet_for_another_id_or_key_phase_stops(suite: CipherSuite) -> None:
    pair = keys(suite)
    mine, later = seal(pair, CID, 5, False, [bytes(40)] * 2)
    (other,) = seal(pair, bytes(8), 6, False, [bytes(40)])
    assert opened(pair, [mine, other, later], 5)[1] == len(mine)
    pair.send.key_phase = 1
    (updated,) = seal(pair, CID, 6, False, [bytes(40)])
    results, end = opened(pair, [mine, updated, later], 5)
    assert (len(others(results)), end) == (1, len(mine))


def var(value: int, size: int) -> bytes:
    """Encodes a variable-length integer, perhaps longer than necessary."""
    size = max(size, next(n for n in range(4) if value < 1 << (8 << n) - 2))
    return (value | size << (8 << size) - 2).to_bytes(1 << size, "big")


FRAME = st.tuples(
    st.sampled_from([0x08, 0x0A, 0x0C, 0x0E, 0x0E, 0x0C, 0x0D, 0x02, 0x00]),
    st.sampled_from([0, 0, 0, 4, 1 << 20]),
    st.sampled_from([0, 0, 0, 0, 1, -1]),  # difference from the next offset
    st.integers(0, 40),
    st.sampled_from([0, 0, 0, 1, -1]),  # difference from the length
    st.integers(0, 3),
)


@given(
    frames=st.lists(st.tuples(FRAME, st.integers(0, 9), st.integers(0, 9)), max_size=8),
    offset=st.sampled_from([0, 1, 60, 16_380, (1 << 62) - 60]),
    number=st.sampled_from([0, 5, 250, 65_530, 1 << 40, (1 << 62) - 20]),
    room=st.sampled_from([0, 1, 40, 100, 10_000]),
)
def test_both_ways_to_open_find_the_same(
    frames: list[tuple[tuple[int, ...], int, int]], offset: int, number: int, room: int
) -> None:
    """Packets with all kinds of frames, of which some are cut, forged, lost or sent again."""
    pair = keys(SUITES[0])
    sent: list[bytes] = []
    start, at = offset, number
    for (kind, stream, late, size, longer, wide), damage, luck in frames:
        payload = bytes((kind,)) + var(stream, wide)
        if kind & 4:
            payload += var(min(max(start + late, 0), (1 << 62) - 1), wide)
        if kind & 2:
            payload += var(max(size + longer, 0), wide)
        payload += bytes(range(size))
        (one,) = seal(pair, CID, at, False, [payload[: len(payload) - (damage == 1)].ljust(3)])
        if luck == 1:
            one = one[:-1] + bytes((one[-1] ^ 1,))
        elif luck == 2:
            one = one[: len(one) // 2]
        sent += [] if luck == 3 else [one] * (1 + (luck == 4))
        start, at = start + size, at + 1
    # A batch has one size, so that each change of it begins another batch.
    expected = number
    for _, group in itertools.groupby(sent, len):
        results, _ = opened(pair, list(group), expected, (0, offset, offset + room))
        for _, count, _, joined, other in results:
            offset += len(joined)
            expected = max(expected + count, -1 if other is None else other[0] + 1)
    if sent:
        opened(pair, sent, number, (0, offset, offset + room))


def test_data_in_order_is_joined_up_to_the_credit() -> None:
    pair = keys(SUITES[0])
    payloads = [b"\x0c\x04" + var(10 * n, 1) + bytes((n,)) * 10 for n in range(6)]
    datagrams = seal(pair, CID, 9, False, payloads)
    ((_, count, first, joined, other),), end = opened(pair, datagrams, 9, (4, 0, 60))
    assert (count, joined) == (6, b"".join(bytes((n,)) * 10 for n in range(6)))
    assert other is None
    assert first == 0x41
    assert end == sum(map(len, datagrams))
    results, _ = opened(pair, datagrams, 9, (4, 0, 59))
    assert results[0][1] == 5
    assert others(results) == [(14, payloads[5])]


@given(
    length=st.integers(1, 4),
    expected=st.one_of(
        st.integers(0, 1 << 34), st.sampled_from([(1 << 62) - 1, (1 << 62) - 200, 1 << 61])
    ),
    halves=st.sampled_from([0, 0, 1, -1]),
    ahead=st.one_of(st.integers(-300, 300), st.integers(-(1 << 33), 1 << 33)),
    spin=st.booleans(),
    reserved=st.sampled_from([0, 0, 0, 1, 2, 3]),
    count=st.integers(1, 3),
)
@example(length=1, expected=999, halves=1, ahead=0, spin=False, reserved=0, count=2)
@example(length=1, expected=775, halves=1, ahead=0, spin=False, reserved=0, count=2)
def test_packet_numbers_of_every_size_are_read(
    length: int, expected: int, halves: int, ahead: int, spin: bool, reserved: int, count: int
) -> None:
    pair = keys(SUITES[0])
    first = 0x40 | spin << 5 | reserved << 3 | length - 1
    ahead += halves << 8 * length - 1  # half of the window of a number of this size
    number = min(max(expected + ahead, 0), (1 << 62) - 4)
    payloads = [b"\x0c\x04" + var(10 * each, 1) + bytes(10) for each in range(count)]
    datagrams = []
    for at, payload in enumerate(payloads, number):
        shown = (at % (1 << 8 * length)).to_bytes(length, "big")
        datagrams.append(pair.encrypt_packet(bytes((first,)) + CID + shown, payload, at))
    results, end = opened(pair, datagrams, expected, (4, 0, 1000))
    truncated = number % (1 << 8 * length)
    if reserved:
        assert (results, end) == ([(0, 0, 0, b"", None)], 0)
    elif decode_packet_number(truncated, 8 * length, expected) != number:
        assert (number, payloads[0]) not in others(results)
    elif number == expected:
        assert results == [(end, count, first, bytes(10 * count), None)]
    else:
        assert others(results)[0] == (number, payloads[0])


@given(
    sizes=st.lists(st.sampled_from([3, 30, 100, 100, 100, 101]), min_size=1, max_size=12),
    segments=st.integers(1, 5),
    most=st.sampled_from([1, 400, 700, 60_000]),
    cid=st.sampled_from([b"", CID, bytes(20)]),
)
def test_batches_have_packets_of_one_size_and_a_shorter_one_ends_them(
    sizes: list[int], segments: int, most: int, cid: bytes
) -> None:
    key = packets.seal_keys(keys(SUITES[0]).send)
    arguments = (key, 0x41, cid, 9, [bytes(size) for size in sizes], segments, most)
    batches = packets.seal(*arguments)
    assert batches == packets._seal(*arguments)
    found = []
    for data, size in batches:
        cut = [len(data[at : at + size]) for at in range(0, len(data), size)]
        assert len(cut) <= segments
        assert len(data) <= most or len(cut) == 1
        found += cut
    assert found == [size + 3 + len(cid) + 16 for size in sizes]


@given(
    full=st.sampled_from([40, 1200, 1452]),
    allowed=st.one_of(st.integers(-5000, 10_000), st.just(1 << 62)),
    tokens=st.one_of(st.floats(-100, 20_000), st.just(math.inf)),
    count=st.sampled_from([-math.inf, 0, 1, 2, 48]),
    ack=st.binary(max_size=60),
    stream=st.sampled_from([0, 4, 1 << 20]),
    base=st.sampled_from([0, 50, 16_000, (1 << 30) - 900, (1 << 62) - 20_000]),
    skipped=st.integers(0, 300),
    size=st.integers(0, 9000),
)
def test_both_ways_to_write_frames_write_the_same(
    full: int,
    allowed: int,
    tokens: float,
    count: float,
    ack: bytes,
    stream: int,
    base: int,
    skipped: int,
    size: int,
) -> None:
    buffer = bytearray(each % 251 for each in range(skipped + size))
    sender = QuicStreamSender(stream, True)
    results = []
    for frames in (packets.frames, packets._frames):
        room = packets.Room(full, allowed, tokens, count, 27)
        kind = b"\x0c" + packets.var(stream)
        start = base + skipped
        result = frames(room, ack, kind, sender, buffer, base, start, start + size)
        left = room.left, room.tokens, room.count, room.is_paced
        results.append((result, left))
        buffer += b""  # not exported any more
    assert results[0] == results[1]
    (payloads, pieces, end), _ = results[0]
    assert len(payloads) == len(pieces)
    assert all(len(payload) + 27 <= full for payload in payloads)
    assert base + skipped <= end <= base + skipped + size


@pytest.mark.skipif(packets.take is packets._take, reason="the compiled module was not built")
def test_impossible_arguments_of_the_compiled_functions_are_refused() -> None:
    key = (lambda nonce, data, header: bytes(5000), bytes(12), bytes, 0)
    one = bytes((0x40,)) + CID + bytes(40)
    good = (one, len(one), 0, bytes(16), CID)
    for batch_ in [
        (one, 0, 0, bytes(16), CID),
        (one, len(one), 99, bytes(16), CID),
        (one, len(one), -1, bytes(16), CID),
        (one, len(one), 0, bytes(16), CID[1:]),
        (bytearray(one), len(one), 0, bytes(16), CID),
        (one, len(one), 0),
    ]:
        with pytest.raises((TypeError, ValueError)):
            packets.take(key, batch_, 0, 0, 0, 0, 9)  # type: ignore[arg-type]
    for at, expected, offset in [(1, 0, 0), (99, 0, 0), (-1, 0, 0), (0, -1, 0), (0, 0, -1)]:
        with pytest.raises(ValueError, match=r"range|datagram"):
            packets.take(key, good, at, expected, 0, offset, 9)
    with pytest.raises(TypeError):
        packets.take((lambda *_: None, bytes(12), bytes, 0), good, 0, 0, 0, 0, 9)  # type: ignore[arg-type]
    stream = b"\x08\x00" + bytes(5000)
    with pytest.raises(ValueError, match="too many"):
        packets.take((lambda *_: stream, bytes(12), bytes, 0), good, 0, 0, 0, 0, 9999)
    assert packets.take(key, (one, len(one), 0, b"", CID), 0, 0, 0, 0, 9)[0] == 0  # no masks
    assert packets.take(key, good, 0, 0, 0, 0, 9)[4] == (0, 0x40, bytes(5000))
    lock = (lambda nonce, data, header: data + bytes(16), bytes(12), lambda found: found)
    for number, cid, payload in [(-1, CID, 3), (1 << 62, CID, 3), (0, bytes(21), 3), (0, CID, 1)]:
        with pytest.raises(ValueError, match=r"range|short"):
            packets.seal(lock, 0x41, cid, number, [bytes(payload)], 64, 60_000)
    with pytest.raises(TypeError):
        packets.seal((*lock[:2], lambda _: b""), 0x41, CID, 0, [bytes(9)], 64, 60_000)
    changed = [bytes(9), bytes(9)]
    clearing = (lambda *_: changed.clear() or bytes(20), *lock[1:])  # type: ignore[func-returns-value]
    with pytest.raises(RuntimeError):
        packets.seal(clearing, 0x41, CID, 0, changed, 64, 60_000)
    sender = QuicStreamSender(0, True)
    for full, base, start, end in [
        (1200, 0, 0, 11),
        (1200, 5, 4, 9),
        (1200, -1, 0, 5),
        (1200, 0, 0, 1 << 62),
        (70_000, 0, 0, 5),
    ]:
        room = packets.Room(full, 9999, 9.0, 9, 27)
        with pytest.raises(ValueError, match="range"):
            packets.frames(room, b"", b"\x0c\x00", sender, bytes(10), base, start, end)
