"""1-RTT packets of aioquic's connections, protected and opened in batches.

All packets of a batch have the same keys and connection ID. AES in ECB mode computes the header
protection of a whole batch in one call, and what depends on the keys is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from aioquic._crypto import HeaderProtection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicPacketType, decode_packet_number
from aioquic.quic.stream import QuicStreamSender
from aioquic.tls import Epoch
from cryptography.exceptions import InvalidTag

from quicdist.carriers.quic.congestion.rate_sample import SendState
from quicdist.carriers.quic.engine import CONNECTION_ID_LENGTH

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

Piece: TypeAlias = tuple[QuicStreamSender, int, int]
"""Stream data in a packet: the stream, and the start and end offset."""

Handlers: TypeAlias = Sequence[tuple[Callable[..., None], tuple[Any, ...]]]
"""Delivery handlers of frames, with arguments."""


class SentPacket:
    """A sent 1-RTT packet with stream data, an ACK frame or both.

    It has the attributes of aioquic's `QuicSentPacket` that loss recovery uses.
    """

    __slots__ = (
        "handlers",
        "in_flight",
        "is_ack_eliciting",
        "packet_number",
        "pieces",
        "sent_bytes",
        "sent_time",
        "state",
    )

    epoch = Epoch.ONE_RTT
    is_crypto_packet = False
    packet_type = QuicPacketType.ONE_RTT

    def __init__(
        self,
        number: int,
        now: float,
        size: int,
        pieces: Sequence[Piece],
        state: SendState | None,
    ) -> None:
        self.packet_number = number
        self.sent_time = now
        self.sent_bytes = size
        self.pieces = pieces
        self.in_flight = self.is_ack_eliciting = bool(pieces)
        self.state = state
        self.handlers: Handlers = ()
        """Of the frames without stream data."""

    @property
    def delivery_handlers(self) -> Handlers:
        """Of all frames."""
        of_data = [
            (sender.on_data_delivery, (start, stop, False)) for sender, start, stop in self.pieces
        ]
        return (*self.handlers, *of_data)


Opened: TypeAlias = tuple[int, int, bytes]
"""An authentic packet: its number, the first byte of its header and its payload."""


def _masks(protection: HeaderProtection, samples: Sequence[bytes]) -> bytes:
    """Returns the header protection masks, `_SAMPLE` bytes apart (RFC 9001, 5.4.1)."""
    if protection._is_chacha20:
        return b"".join([protection._mask(sample).ljust(_SAMPLE) for sample in samples])
    return protection._encryptor.update(b"".join(samples))


def seal(
    keys: CryptoPair, cid: bytes, number: int, spin_bit: bool, payloads: Sequence[bytes]
) -> list[bytes]:
    """Returns protected packets with these payloads, numbered from `number` on."""
    crypto = keys.send
    assert crypto.aead is not None
    assert crypto.hp is not None
    encrypt, iv = crypto.aead._aead.encrypt, crypto.aead._iv
    first = 0x40 | spin_bit << 5 | crypto.key_phase << 2 | NUMBER_LENGTH - 1
    start = bytes((first,)) + cid
    sealed, samples = [], []
    for at, payload in enumerate(payloads, number):
        header = start + (at & 0xFFFF).to_bytes(NUMBER_LENGTH, "big")
        body = encrypt((iv ^ at).to_bytes(_NONCE, "big"), payload, header)
        sealed.append(body)
        samples.append(body[_SKIPPED : _SKIPPED + _SAMPLE])
    masks = _masks(crypto.hp, samples)
    packets = []
    at = 0
    for body in sealed:
        shown = (number ^ (masks[at + 1] << 8 | masks[at + 2])) & 0xFFFF
        head = bytes((first ^ (masks[at] & _PROTECTED),))
        packets.append(b"".join((head, cid, shown.to_bytes(NUMBER_LENGTH, "big"), body)))
        number += 1
        at += _SAMPLE
    return packets


def opened(
    keys: CryptoPair, cid: bytes, datagrams: Sequence[bytes], expected: int
) -> tuple[list[Opened], int]:
    """Opens 1-RTT packets until one has another header form, connection ID or key phase.

    `expected` is the next packet number. Returns the packets, and the number of datagrams that were
    read. A packet that cannot be decrypted is dropped.
    """
    crypto = keys.recv
    assert crypto.aead is not None
    assert crypto.hp is not None
    decrypt, iv, phase = crypto.aead._aead.decrypt, crypto.aead._iv, crypto.key_phase
    masks = _masks(crypto.hp, [each[SAMPLE_AT:MIN_PACKET].ljust(_SAMPLE) for each in datagrams])
    packets: list[Opened] = []
    known_first, start = -1, b""
    at = -_SAMPLE
    for count, data in enumerate(datagrams):
        at += _SAMPLE
        first = data[0] ^ (masks[at] & _PROTECTED)
        if first != known_first:
            if first & (_LONG_HEADER | _RESERVED) or first >> 2 & 1 != phase:
                return packets, count
            known_first, start = first, bytes((first,)) + cid
            length = (first & _LENGTH_BITS) + 1
            end = NUMBER_AT + length
            below = (1 << 8 * length) - 1
        if data[1:NUMBER_AT] != cid or len(data) < MIN_PACKET:
            return packets, count
        truncated = int.from_bytes(data[NUMBER_AT:end], "big")
        truncated ^= int.from_bytes(masks[at + 1 : at + 1 + length], "big")
        number = expected
        if expected & below != truncated:
            number = decode_packet_number(truncated, 8 * length, expected)
        header = start + truncated.to_bytes(length, "big")
        try:
            payload = decrypt((iv ^ number).to_bytes(_NONCE, "big"), data[end:], header)
        except InvalidTag:
            continue
        if number >= expected:
            expected = number + 1
        packets.append((number, first, payload))
    return packets, len(datagrams)
