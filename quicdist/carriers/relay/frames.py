"""The frames between a node and its relay: data frames and control messages.

A data frame is a kind byte, the address of the other end, and one datagram. It is sent in a UDP
datagram between the socket of the node and the main socket of the relay. The kind is below 64, so
that a receiver distinguishes it from QUIC, whose first byte is 64 or more (RFC 9443).

Control messages are sent on a QUIC connection with the ALPN identifier `quicdist-relay/1`, with a
length of two bytes before each. Where UDP is blocked, data frames and control messages share a TLS
connection, with the same length before each.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from dataclasses import dataclass
from typing import TypeAlias

from quicdist.errors import QuicdistError

ALPN = "quicdist-relay/1"

FIRST_QUIC_BYTE = 64
"""The least first byte of a QUIC packet (RFC 9000, 17: the fixed bit)."""

DATA_IPV4 = 0x20
DATA_IPV6 = 0x21

HEAD_IPV4 = 7
HEAD_IPV6 = 19
"""Sizes in bytes of the kind and the address of a data frame."""

MAX_FRAME = 0xFFFF
"""Maximum size in bytes of a frame in a TLS connection."""

MAX_CONTROL = 8192
"""The same for a control message, and for every frame until the relay knows the node."""

NONCE_LENGTH = 32
INSTANCE_LENGTH = 8

_U16 = struct.Struct(">H")
_LENGTHS = {4: 4, 6: 16}

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

Address: TypeAlias = tuple[str, int]
"""A numeric IPv4 or IPv6 address, and a port."""


class FrameError(QuicdistError):
    """A frame or control message is malformed."""


class Kind(enum.IntEnum):
    """The first byte of a control message."""

    CHALLENGE = 1
    PROOF = 2
    ALLOCATE = 3
    ALLOCATED = 4
    OBSERVED = 5
    REFUSED = 6
    KEEP_ALIVE = 7


class Refusal(enum.IntEnum):
    """Why a relay gives a node no port, or takes it away."""

    NOT_ALLOWED = 1
    """The key of the node is not in the allow-list of the relay."""

    PORTS_FULL = 2
    """All ports of the relay belong to other nodes."""

    KEY_FULL = 3
    """The key has the maximum number of ports."""

    PORT_TAKEN = 4
    """The wanted port belongs to another key, or is not a port of this relay."""

    SUPERSEDED = 5
    """Another process with the same key took the port over."""

    STOPPING = 6
    """The relay is stopping."""

    PROOF = 7
    """The node did not prove that it has the key of its certificate."""

    RATE = 8
    """Too many new ports from one address, or too many clients."""


class Lease(enum.IntEnum):
    """For how long a node gets its port."""

    KEPT = 0
    """The relay keeps the port for the key and slot of the node."""

    TEMPORARY = 1
    """The port is free again when the connection of the node ends. Other nodes with the same key
    keep theirs."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """The first message of a relay on TLS: what the node signs with its key.

    Python's TLS server cannot ask for a certificate that no authority has signed.
    """

    nonce: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """The certificate of the node (DER), and its signature (`proofs.signed_bytes`)."""

    certificate: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Allocate:
    """A request for a port."""

    slot: int
    """The number of the node among those with the same key, from 0."""
    wanted: int
    """The port that the node wants, or 0 for the port that is kept for this key and slot."""
    relay: Address
    """The address of the relay as the node dialed it."""
    instance: bytes
    """Random bytes of this process. A second connection of the same process replaces nothing."""
    lease: Lease = Lease.KEPT
    """It is the last byte of the message; earlier versions ignore it, and send none."""


@dataclass(frozen=True, slots=True)
class Allocated:
    """The port of the node."""

    port: int
    tcp_port: int
    """The port of the relay for TLS, or 0."""
    observed: Address
    """The address from which the relay receives the datagrams of the node."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The address of the node has changed: a NAT has made another mapping."""

    address: Address


@dataclass(frozen=True, slots=True)
class Refused:
    """The node has no port, or no longer has one."""

    why: Refusal


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Sent on TLS in both directions while nothing else is."""


Message: TypeAlias = Challenge | Proof | Allocate | Allocated | Observed | Refused | KeepAlive


def pack_address(address: Address) -> bytes:
    """The address as a data frame has it: 6 bytes for IPv4, 18 bytes for IPv6."""
    return ipaddress.ip_address(address[0]).packed + _U16.pack(address[1])


def unpack_address(packed: bytes) -> Address:
    """The reverse of `pack_address`. The length must be 6 or 18."""
    return str(ipaddress.ip_address(packed[:-2])), _U16.unpack(packed[-2:])[0]


def plain(address: SocketAddress) -> Address:
    """The address without the form that an IPv6 socket gives it (RFC 4291, 2.5.5.2)."""
    return address[0].removeprefix("::ffff:"), address[1]


def data_head(address: Address) -> bytes:
    """The kind and address of data frames from or to `address`, which precede the datagram."""
    packed = pack_address(address)
    return bytes((DATA_IPV4 if len(packed) == 6 else DATA_IPV6,)) + packed


def head_size(first: int) -> int:
    """The size of the head of a data frame with this first byte; 0 if it is no data frame."""
    if first == DATA_IPV4:
        return HEAD_IPV4
    return HEAD_IPV6 if first == DATA_IPV6 else 0


def encode(message: Message) -> bytes:
    """The bytes of a control message, without its length."""
    match message:
        case Challenge(nonce):
            return bytes((Kind.CHALLENGE,)) + nonce
        case Proof(certificate, signature):
            length = _U16.pack(len(certificate))
            return bytes((Kind.PROOF,)) + length + certificate + signature
        case Allocate(slot, wanted, relay, instance, lease):
            numbers = struct.pack(">BHH", Kind.ALLOCATE, slot, wanted)
            return numbers + instance + _tagged(relay) + bytes((lease,))
        case Allocated(port, tcp_port, observed):
            return struct.pack(">BHH", Kind.ALLOCATED, port, tcp_port) + _tagged(observed)
        case Observed(address):
            return bytes((Kind.OBSERVED,)) + _tagged(address)
        case Refused(why):
            return bytes((Kind.REFUSED, why))
        case KeepAlive():
            return bytes((Kind.KEEP_ALIVE,))


def decode(data: bytes) -> Message:
    """Parses a control message.

    Bytes after the known fields are ignored, so that later versions can add some. Raises
    FrameError.
    """
    try:
        return _decode(Kind(data[0]), data[1:])
    except (ValueError, IndexError, struct.error):
        raise FrameError(f"malformed control message of {len(data)} bytes") from None


def _decode(kind: Kind, body: bytes) -> Message:
    match kind:
        case Kind.CHALLENGE:
            return Challenge(_exactly(body, 0, NONCE_LENGTH))
        case Kind.PROOF:
            (length,) = _U16.unpack_from(body)
            return Proof(_exactly(body, 2, length), body[2 + length :])
        case Kind.ALLOCATE:
            slot, wanted = struct.unpack_from(">HH", body)
            instance = _exactly(body, 4, INSTANCE_LENGTH)
            relay = body[4 + INSTANCE_LENGTH :]
            rest = relay[1 + _LENGTHS.get(relay[0], 0) + _U16.size :]
            lease = Lease.TEMPORARY if rest[:1] == bytes((Lease.TEMPORARY,)) else Lease.KEPT
            return Allocate(slot, wanted, _untagged(relay), instance, lease)
        case Kind.ALLOCATED:
            port, tcp_port = struct.unpack_from(">HH", body)
            return Allocated(port, tcp_port, _untagged(body[4:]))
        case Kind.OBSERVED:
            return Observed(_untagged(body))
        case Kind.REFUSED:
            return Refused(Refusal(body[0]))
        case Kind.KEEP_ALIVE:
            return KeepAlive()


def _tagged(address: Address) -> bytes:
    packed = pack_address(address)
    return bytes((4 if len(packed) == 6 else 6,)) + packed


def _untagged(body: bytes) -> Address:
    length = _LENGTHS.get(body[0])
    if length is None:
        raise ValueError(body[0])
    return unpack_address(_exactly(body, 1, length + 2))


def _exactly(body: bytes, at: int, length: int) -> bytes:
    part = body[at : at + length]
    if len(part) != length:
        raise ValueError(length)
    return part
