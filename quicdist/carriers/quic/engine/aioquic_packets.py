"""1-RTT packets of aioquic's connections, protected and opened in batches.

All packets of a batch have the same keys and connection ID. AES in ECB mode computes the header
protection of a whole batch in one call, and what depends on the keys is read once. Where it was
built, a compiled module does the other work on bytes.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from aioquic._crypto import HeaderProtection
from aioquic.quic.crypto import CryptoContext
from aioquic.quic.packet import QuicPacketType, decode_packet_number
from aioquic.quic.stream import QuicStreamSender
from aioquic.tls import Epoch
from cryptography.exceptions import InvalidTag

from quicdist.carriers.quic.congestion.rate_sample import SendState
from quicdist.carriers.quic.engine import CONNECTION_ID_LENGTH, Batch
from quicdist.protocol.dialects.base import Buffer

NUMBER_AT = 1 + CONNECTION_ID_LENGTH
"""Offset of the packet number in a short header (RFC 9000, 17.3.1)."""
SAMPLE_AT = NUMBER_AT + 4
"""Offset of the sample for header protection (RFC 9001, 5.4.2)."""
_SAMPLE = 16
MIN_PACKET = SAMPLE_AT + _SAMPLE
NUMBER_LENGTH = 2
"""Size of the packet numbers that are sent."""
_SKIPPED = 4 - NUMBER_LENGTH
"""Bytes of the protected payload before the sample."""
TAG_LENGTH = 16
_NONCE = 12
_LONG_HEADER, _RESERVED, _LENGTH_BITS = 0x80, 0x18, 0x03
"""Bits of the first byte of a short header."""
_PROTECTED = 0x1F
STREAM = 0x08
"""STREAM frames have the types 0x08 to 0x0f (RFC 9000, 19.8), with the following bits."""
STREAM_OFFSET, STREAM_LENGTH = 4, 2
STREAM_MASK = 0xF9
"""Bits that distinguish a STREAM frame without the end of the stream."""
_VAR_SIZES = (1, 2, 4, 8)
_VAR_MASKS = (0x3F, 0x3FFF, 0x3FFF_FFFF, 0x3FFF_FFFF_FFFF_FFFF)

Piece: TypeAlias = tuple[QuicStreamSender, int, int]
"""Stream data in a packet: the stream, and the start and end offset."""

Handlers: TypeAlias = Sequence[tuple[Callable[..., None], tuple[Any, ...]]]
"""Delivery handlers of frames, with arguments."""


class _Sent(NamedTuple):
    packet_number: int
    sent_time: float
    sent_bytes: int
    pieces: Sequence[Piece]
    state: SendState | None
    handlers: Handlers
    """Of the frames without stream data."""


class SentPacket(_Sent):
    """A sent 1-RTT packet with stream data, an ACK frame or both.

    It has the attributes of aioquic's `QuicSentPacket` that loss recovery uses. It is a tuple, so
    that many are made without a Python call for each.
    """

    __slots__ = ()

    epoch = Epoch.ONE_RTT
    is_crypto_packet = False
    packet_type = QuicPacketType.ONE_RTT

    @property
    def in_flight(self) -> bool:
        return bool(self.pieces)

    @property
    def is_ack_eliciting(self) -> bool:
        return bool(self.pieces)

    @property
    def delivery_handlers(self) -> Handlers:
        """Of all frames."""
        of_data = [
            (sender.on_data_delivery, (start, stop, False)) for sender, start, stop in self.pieces
        ]
        return (*self.handlers, *of_data)


Opened: TypeAlias = tuple[int, int, bytes]
"""An authentic packet: its number, the first byte of its header and its payload."""

MaskOf: TypeAlias = Callable[[bytes], bytes]
"""The header protection masks of samples (RFC 9001, 5.4.1). Both are `_SAMPLE` bytes apart."""

SealKeys: TypeAlias = tuple[Callable[[bytes, bytes, bytes], bytes], bytes, MaskOf]
"""The encryption of a payload, the IV and the header protection."""

OpenKeys: TypeAlias = tuple[Callable[[bytes, bytes, bytes], bytes], bytes, MaskOf, int]
"""The decryption of a payload, the IV, the header protection and the key phase."""

Protected: TypeAlias = tuple[bytes, int, int, bytes, bytes]
"""A batch of datagrams: the data, their size, the offset of the first one to open, the header
protection masks from there on, and the connection ID."""

Taken: TypeAlias = tuple[int, int, int, bytes, Opened | None]
"""The result of `take`."""


def _mask_of(protection: HeaderProtection) -> MaskOf:
    if protection._is_chacha20:
        return functools.partial(_chacha20_masks, protection)
    return protection._encryptor.update


def _chacha20_masks(protection: HeaderProtection, found: bytes) -> bytes:
    each = [found[start : start + _SAMPLE] for start in range(0, len(found), _SAMPLE)]
    return b"".join([protection._mask(sample).ljust(_SAMPLE) for sample in each])


def alone(datagrams: Sequence[tuple[bytes, Any]]) -> list[Batch]:
    """Returns datagrams with their paths as batches of one datagram."""
    return [(data, len(data), path) for data, path in datagrams]


# -- sending ------------------------------------------------------------------------------------


def seal_keys(crypto: CryptoContext) -> SealKeys:
    """Returns what `seal` needs. It changes with `crypto.aead`."""
    assert crypto.aead is not None
    assert crypto.hp is not None
    iv = crypto.aead._iv.to_bytes(_NONCE, "big")
    return crypto.aead._aead.encrypt, iv, _mask_of(crypto.hp)


class Room:
    """What may be added to a burst, in bytes."""

    __slots__ = ("allowed", "count", "full", "is_paced", "left", "overhead", "tokens")

    def __init__(self, full: int, allowed: int, tokens: float, count: float, overhead: int) -> None:
        self.full = full
        """Size of a full datagram."""
        self.allowed = self.left = allowed
        """What the congestion window allows."""
        self.tokens = tokens
        """What the pacer allows. The last datagram may exceed it."""
        self.count = count
        """Number of datagrams that are left in the burst."""
        self.overhead = overhead
        """Size of a packet without payload."""
        self.is_paced = False
        """Whether the pacer or the size of a burst has ended it."""

    def take(self, head: int, wanted: int) -> int:
        """Returns how many of the `wanted` bytes fit into the next packet behind `head` bytes.

        0 if no packet may be sent. Data waits until the congestion window allows a full datagram.
        """
        left, full = self.left, self.full
        size = min(full, left) - self.overhead - head
        if size >= wanted:
            size = wanted
        elif size <= 0 or left < min(full, self.allowed):
            return 0
        if self.tokens <= 0 or self.count <= 0:
            self.is_paced = True
            return 0
        used = size + head + self.overhead
        self.left = left - used
        self.tokens -= used
        self.count -= 1
        return size


def _frames(
    room: Room,
    ack: bytes,
    kind: bytes,
    sender: QuicStreamSender,
    buffer: Buffer,
    base: int,
    at: int,
    end: int,
) -> tuple[list[bytes], list[Sequence[Piece]], int]:
    """Returns payloads with the stream data from `at` to `end`, as far as there is room.

    Each one is a STREAM frame without length that begins with `kind`, the first one behind `ack`.
    `buffer` begins at the stream offset `base`. Returns also the data as pieces, and its end.
    """
    payloads: list[bytes] = []
    pieces: list[Sequence[Piece]] = []
    with memoryview(buffer) as data:
        while at < end:
            head = ack + kind + var(at)
            stop = at + room.take(len(head), end - at)
            if stop == at:
                break
            payloads.append(b"".join((head, data[at - base : stop - base])))
            pieces.append(((sender, at, stop),))
            at, ack = stop, b""
    return payloads, pieces, at


def _compiled_frames(
    room: Room,
    ack: bytes,
    kind: bytes,
    sender: QuicStreamSender,
    buffer: Buffer,
    base: int,
    at: int,
    end: int,
) -> tuple[list[bytes], list[Sequence[Piece]], int]:
    limits = (room.full, room.allowed, room.left, room.tokens, room.count, room.overhead)
    payloads, pieces, at, room.left, room.tokens, room.count, is_paced = compiled.frames(
        limits, ack, kind, sender, buffer, base, at, end
    )
    if is_paced:
        room.is_paced = True
    return payloads, pieces, at


def _seal(
    keys: SealKeys,
    first: int,
    cid: bytes,
    number: int,
    payloads: list[bytes],
    segments: int,
    most: int,
) -> list[tuple[bytes, int]]:
    """Returns protected packets with these payloads, numbered from `number` on.

    `first` is the first byte of the headers. The packets are in batches of at most `segments`
    packets and `most` bytes. Each batch is returned with the size of its packets, of which the last
    one may be smaller.
    """
    encrypt, iv, mask_of = keys
    nonce = int.from_bytes(iv, "big")
    start = bytes((first,)) + cid
    sealed, found = [], []
    for at, payload in enumerate(payloads, number):
        header = start + (at & 0xFFFF).to_bytes(NUMBER_LENGTH, "big")
        body = encrypt((nonce ^ at).to_bytes(_NONCE, "big"), payload, header)
        sealed.append(body)
        found.append(body[_SKIPPED : _SKIPPED + _SAMPLE])
    masks = mask_of(b"".join(found))
    packets = []
    at = 0
    for body in sealed:
        shown = (number ^ (masks[at + 1] << 8 | masks[at + 2])) & 0xFFFF
        head = bytes((first ^ (masks[at] & _PROTECTED),))
        packets.append(b"".join((head, cid, shown.to_bytes(NUMBER_LENGTH, "big"), body)))
        number += 1
        at += _SAMPLE
    return _batches(packets, segments, most)


def _batches(packets: list[bytes], segments: int, most: int) -> list[tuple[bytes, int]]:
    batches = []
    at = 0
    while at < len(packets):
        size = total = len(packets[at])
        stop = at + 1
        for packet in packets[stop : at + segments]:
            if len(packet) > size or total + len(packet) > most:
                break
            total += len(packet)
            stop += 1
            if len(packet) < size:
                break
        batches.append((b"".join(packets[at:stop]), size))
        at = stop
    return batches


def var(value: int) -> bytes:
    """Encodes a variable-length integer (RFC 9000, 16)."""
    if value < 0x40:
        return bytes((value,))
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


# -- receiving ----------------------------------------------------------------------------------


def open_keys(crypto: CryptoContext) -> OpenKeys:
    """Returns what `take` and `protected` need. It changes with `crypto.aead`."""
    assert crypto.aead is not None
    assert crypto.hp is not None
    iv = crypto.aead._iv.to_bytes(_NONCE, "big")
    return crypto.aead._aead.decrypt, iv, _mask_of(crypto.hp), crypto.key_phase


def protected(keys: OpenKeys, cid: bytes, data: bytes, size: int, at: int) -> Protected:
    """Returns datagrams of `size` bytes from `at` on, the last one maybe shorter, for `take`."""
    return data, size, at, keys[2](samples(data, size, at)), cid


def _samples(data: bytes, size: int, at: int) -> bytes:
    """Returns the samples for the header protection of datagrams. Too short ones have zeros."""
    found = []
    for start in range(at, len(data), size):
        is_whole = size >= MIN_PACKET and len(data) - start >= MIN_PACKET
        found.append(data[start + SAMPLE_AT : start + MIN_PACKET] if is_whole else bytes(_SAMPLE))
    return b"".join(found)


def _take(
    keys: OpenKeys,
    packets: Protected,
    at: int,
    expected: int,
    stream: int,
    offset: int,
    limit: int,
) -> Taken:
    """Opens packets that continue a stream, and the first packet that does not.

    It begins with the packet at `at`. Packets continue a stream if they have consecutive numbers
    from `expected` on, and nothing but the data of `stream` from `offset` on, without its end and
    not beyond `limit`. A packet that cannot be decrypted is dropped. A datagram with another header
    form, connection ID or key phase is not read.

    Returns the end of what was read, the number of packets that continue the stream, the first byte
    of the last one's header, their data, and the packet that does not continue it. That is None at
    the end of the batch or before a datagram that is not read.
    """
    decrypt, iv, _, phase = keys
    data, size, start, masks, cid = packets
    nonce = int.from_bytes(iv, "big")
    parts: list[bytes] = []
    newest = 0
    end = len(data)
    mask_at = (at - start) // size * _SAMPLE - _SAMPLE
    known_first, head = -1, b""
    while at < end:
        mask_at += _SAMPLE
        one = data[at : at + size]
        first = one[0] ^ (masks[mask_at] & _PROTECTED)
        if first != known_first:
            if first & (_LONG_HEADER | _RESERVED) or first >> 2 & 1 != phase:
                break
            known_first, head = first, bytes((first,)) + cid
            length = (first & _LENGTH_BITS) + 1
            body = NUMBER_AT + length
            below = (1 << 8 * length) - 1
        if len(one) < MIN_PACKET or one[1:NUMBER_AT] != cid:
            break
        at = min(at + size, end)
        truncated = int.from_bytes(one[NUMBER_AT:body], "big")
        truncated ^= int.from_bytes(masks[mask_at + 1 : mask_at + 1 + length], "big")
        number = expected
        if expected & below != truncated:
            number = decode_packet_number(truncated, 8 * length, expected)
        header = head + truncated.to_bytes(length, "big")
        try:
            payload = decrypt((nonce ^ number).to_bytes(_NONCE, "big"), one[body:], header)
        except InvalidTag:
            continue
        begin = _next_data(payload, stream, offset, limit) if number == expected else 0
        if not begin:
            return at, len(parts), newest, b"".join(parts), (number, first, payload)
        parts.append(payload[begin:])
        offset += len(payload) - begin
        expected += 1
        newest = first
    return at, len(parts), newest, b"".join(parts), None


def _next_data(payload: bytes, stream: int, offset: int, limit: int) -> int:
    """Returns where the data of the only frame begins, if it continues the stream; otherwise 0."""
    if not payload or payload[0] & STREAM_MASK != STREAM:
        return 0
    try:
        number, at = read_var(payload, 1)
        start = 0
        if payload[0] & STREAM_OFFSET:
            start, at = read_var(payload, at)
        if number != stream or start != offset:
            return 0
        if payload[0] & STREAM_LENGTH:
            length, at = read_var(payload, at)
            if at + length != len(payload):
                return 0
    except IndexError:
        return 0
    return at if 0 < len(payload) - at <= limit - offset else 0


def read_var(data: bytes, at: int) -> tuple[int, int]:
    """Decodes a variable-length integer (RFC 9000, 16). Returns it and its end.

    Raises IndexError if the data is too short.
    """
    first = data[at]
    if first < 0x40:
        return first, at + 1
    kind = first >> 6
    end = at + _VAR_SIZES[kind]
    if end > len(data):
        raise IndexError
    return int.from_bytes(data[at:end], "big") & _VAR_MASKS[kind], end


samples: Callable[[bytes, int, int], bytes] = _samples
take: Callable[[OpenKeys, Protected, int, int, int, int, int], Taken] = _take
seal: Callable[[SealKeys, int, bytes, int, list[bytes], int, int], list[tuple[bytes, int]]] = _seal
frames = _frames
if not os.environ.get("QUICDIST_PURE_PYTHON"):
    with contextlib.suppress(ImportError):  # it was not built
        from quicdist.carriers.quic import _packets as compiled

        samples, take, seal = compiled.samples, compiled.take, compiled.seal
        frames = _compiled_frames
