"""The messages of the distribution handshake, version 6, to and from bytes; its digests and names.

ERTS manual, Distribution Protocol, "The Handshake in Detail". A message is the body without
its length field, which belongs to the carrier. Parsers raise ProtocolError and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import Enum

from quicdist.protocol.errors import ProtocolError, UsageError
from quicdist.protocol.flags import Flag

MAX_MESSAGE = 4096
"""Bytes. Longest legal message is far shorter: a name of 255 characters and 19 bytes."""

MAX_NAME = 255
"""Characters in a node name, which is an atom."""

_NOT_IN_NAMES = frozenset(" *?")

MAX_U32 = 0xFFFF_FFFF

_NAME = struct.Struct(">cQIH")
_NAME_V5 = struct.Struct(">cHI")
_CHALLENGE = struct.Struct(">cQIIH")
_REPLY = struct.Struct(">cI16s")
_COMPLEMENT = struct.Struct(">cII")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")


class Status(Enum):
    """The accepting node's answer to a name, or the connecting one's answer to `alive`."""

    OK = "ok"
    """The handshake continues."""
    OK_SIMULTANEOUS = "ok_simultaneous"
    """It continues, and the accepting node gives up its own attempt to connect."""
    NOK = "nok"
    """Refused: the accepting node's own attempt to connect goes on instead."""
    NOT_ALLOWED = "not_allowed"
    """Refused for reasons of security, or for missing capabilities."""
    ALIVE = "alive"
    """A connection to this name exists; TRUE or FALSE is the answer."""
    TRUE = "true"
    """Answer to ALIVE: the old connection is broken, go on with this one."""
    FALSE = "false"
    """Answer to ALIVE: this attempt was a mistake, drop it."""


@dataclass(frozen=True, slots=True)
class Named:
    """Status `named:`: the name and creation given to a node that asked with NAME_ME."""

    name: str
    creation: int


@dataclass(frozen=True, slots=True)
class Name:
    """`N` from the connecting node: who it is. `flags` are the bits as offered."""

    flags: int
    creation: int
    name: str


@dataclass(frozen=True, slots=True)
class NameV5:
    """`n` from a node of OTP 23 or 24 that does not know yet whom it talks to.

    Its high flags and its creation follow in a Complement.
    """

    version: int
    flags: int
    name: str


@dataclass(frozen=True, slots=True)
class Complement:
    """`c`: what a NameV5 had no room for. `flags` are the upper 32 bits, shifted into place."""

    flags: int
    creation: int


@dataclass(frozen=True, slots=True)
class Challenge:
    """`N` from the accepting node: who it is, and a number to prove the cookie with."""

    flags: int
    challenge: int
    creation: int
    name: str


@dataclass(frozen=True, slots=True)
class ChallengeReply:
    """`r`: the connecting node's own challenge, and its digest of the other's."""

    challenge: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class ChallengeAck:
    """`a`: the accepting node's digest of the connecting one's challenge."""

    digest: bytes


# -- proof of the cookie ------------------------------------------------------------------------


def cookie_bytes(cookie: str) -> bytes:
    """The cookie as it enters a digest. Raises UsageError for what no Erlang cookie can hold."""
    try:
        return cookie.encode("latin-1")
    except UnicodeEncodeError:
        raise UsageError("a cookie can hold latin-1 characters only") from None


def digest(cookie: bytes, challenge: int) -> bytes:
    """16 bytes that only a holder of the cookie can make of `challenge`."""
    return hashlib.md5(cookie + str(challenge).encode(), usedforsecurity=False).digest()


def digest_matches(cookie: bytes, challenge: int, received: bytes) -> bool:
    """Whether `received` proves the cookie; takes the same time for every wrong one."""
    return hmac.compare_digest(digest(cookie, challenge), received)


_BOUND = b"quicdist bound cookie proof"


class Prover(Enum):
    """Which side makes a bound proof: neither can send the other its own proof back."""

    DIALER = b"initiator"
    LISTENER = b"acceptor"


def bound_digest(cookie: bytes, challenge: int, binding: bytes, prover: Prover) -> bytes:
    """16 bytes that only a holder of the cookie can make of `challenge`, on one TLS session only.

    `binding` is the session's exporter value (RFC 8446, 7.5). A relay that terminates TLS on both
    sides has two sessions with two values, so a proof made on one of them is wrong on the other.
    """
    text = b"\0".join((_BOUND, prover.value, _U32.pack(challenge) + binding))
    return hmac.digest(cookie, text, "sha256")[:16]


# -- names --------------------------------------------------------------------------------------


def is_node_name(name: str) -> bool:
    """Whether `name` is `something@somewhere`, both parts not empty.

    Blanks, control characters and wildcards are in no name: it goes into logs, and is compared with
    patterns.
    """
    alive, at, host = name.partition("@")
    is_pair = bool(alive and at and host) and "@" not in host and len(name) <= MAX_NAME
    return is_pair and _is_plain(name)


def is_host_name(name: str) -> bool:
    """Whether `name` is a bare host, as a node sends it that asks to be named."""
    return bool(name) and "@" not in name and len(name) <= MAX_NAME and _is_plain(name)


def _is_plain(name: str) -> bool:
    return name.isprintable() and not _NOT_IN_NAMES & set(name)


def settle_simultaneous(local_name: str, peer_name: str) -> Status:
    """The accepting node's answer while it is itself connecting to the same peer.

    Of two attempts that cross, the one made by the node with the greater name survives.
    """
    return Status.NOK if local_name > peer_name else Status.OK_SIMULTANEOUS


# -- building -----------------------------------------------------------------------------------


def build_name(message: Name) -> bytes:
    """Raises UsageError for a name that does not fit."""
    name = _name_bytes(message.name)
    return _NAME.pack(b"N", message.flags, message.creation, len(name)) + name


def build_name_v5(message: NameV5) -> bytes:
    """Raises UsageError for a name that does not fit."""
    low = message.flags & MAX_U32
    return _NAME_V5.pack(b"n", message.version, low) + _name_bytes(message.name)


def build_complement(message: Complement) -> bytes:
    """The upper half of the flags, and the creation."""
    return _COMPLEMENT.pack(b"c", message.flags >> 32, message.creation)


def build_challenge(message: Challenge) -> bytes:
    """Raises UsageError for a name that does not fit."""
    name = _name_bytes(message.name)
    fields = (message.flags, message.challenge, message.creation, len(name))
    return _CHALLENGE.pack(b"N", *fields) + name


def build_challenge_reply(message: ChallengeReply) -> bytes:
    """21 bytes."""
    return _REPLY.pack(b"r", message.challenge, message.digest)


def build_challenge_ack(message: ChallengeAck) -> bytes:
    """17 bytes."""
    return b"a" + message.digest


def build_status(status: Status | Named) -> bytes:
    """Raises UsageError for a given name that does not fit."""
    if isinstance(status, Status):
        return b"s" + status.value.encode()
    if not is_node_name(status.name):
        raise UsageError(f"not a node name: {status.name!r}")
    name = status.name.encode()
    return b"snamed:" + _U16.pack(len(name)) + name + _U32.pack(status.creation)


# -- parsing ------------------------------------------------------------------------------------


def parse_name(data: bytes) -> Name | NameV5:
    """The first message an accepting node gets."""
    _check_size(data)
    if data[:1] == b"N":
        if len(data) < _NAME.size:
            raise ProtocolError(
                f"name message of {len(data)} bytes, at least {_NAME.size} expected"
            )
        _, flags, creation, length = _NAME.unpack_from(data)
        return Name(flags, creation, _parse_name_text(data, _NAME.size, length))
    if data[:1] == b"n":
        if len(data) < _NAME_V5.size:
            raise ProtocolError(f"old name message of {len(data)} bytes, too short")
        _, version, flags = _NAME_V5.unpack_from(data)
        rest = len(data) - _NAME_V5.size
        return NameV5(version, flags, _parse_name_text(data, _NAME_V5.size, rest))
    raise ProtocolError(f"name message expected, {_describe(data)} received")


def parse_complement(data: bytes) -> Complement:
    """What follows a NameV5, before the challenge reply."""
    if data[:1] != b"c" or len(data) != _COMPLEMENT.size:
        raise ProtocolError(f"complement of 9 bytes expected, {_describe(data)} received")
    _, high, creation = _COMPLEMENT.unpack(data)
    return Complement(high << 32, creation)


def parse_challenge(data: bytes) -> Challenge:
    """The accepting node's name and challenge."""
    _check_size(data)
    if data[:1] != b"N" or len(data) < _CHALLENGE.size:
        raise ProtocolError(f"challenge expected, {_describe(data)} received")
    _, flags, challenge, creation, length = _CHALLENGE.unpack_from(data)
    name = _parse_name_text(data, _CHALLENGE.size, length)
    return Challenge(flags, challenge, creation, name)


def parse_challenge_reply(data: bytes) -> ChallengeReply:
    """The connecting node's challenge and digest."""
    if data[:1] != b"r" or len(data) != _REPLY.size:
        raise ProtocolError(f"challenge reply of 21 bytes expected, {_describe(data)} received")
    _, challenge, proof = _REPLY.unpack(data)
    return ChallengeReply(challenge, proof)


def parse_challenge_ack(data: bytes) -> ChallengeAck:
    """The accepting node's digest."""
    if data[:1] != b"a" or len(data) != 17:
        raise ProtocolError(f"challenge ack of 17 bytes expected, {_describe(data)} received")
    return ChallengeAck(data[1:])


def parse_status(data: bytes) -> Status | Named:
    """Any status; what follows the creation of a `named:` is ignored, as the manual demands."""
    _check_size(data)
    if data[:1] != b"s":
        raise ProtocolError(f"status expected, {_describe(data)} received")
    if data.startswith(b"snamed:"):
        return _parse_named(data)
    try:
        return Status(data[1:].decode("latin-1"))
    except ValueError:
        raise ProtocolError(f"unknown status {data[1:65]!r}") from None


def _parse_named(data: bytes) -> Named:
    start = len(b"snamed:") + 2
    length = int.from_bytes(data[start - 2 : start], "big")
    if len(data) < start + length + 4:
        raise ProtocolError("status named: ends before its name and creation do")
    try:
        name = data[start : start + length].decode()
    except UnicodeDecodeError:
        raise ProtocolError("status named: holds a name that is not UTF-8") from None
    if not is_node_name(name):
        raise ProtocolError(f"status named: gives {name[:64]!r}, which is no node name")
    return Named(name, int.from_bytes(data[start + length : start + length + 4], "big"))


def _parse_name_text(data: bytes, start: int, length: int) -> str:
    """A name; bytes after it are ignored, as the manual demands."""
    text = data[start : start + length]
    if len(text) != length:
        raise ProtocolError(f"name of {length} bytes announced, {len(text)} received")
    if length > MAX_NAME:
        raise ProtocolError(f"name of {length} bytes, at most {MAX_NAME} allowed")
    return text.decode("latin-1")


def _name_bytes(name: str) -> bytes:
    try:
        data = name.encode("latin-1")
    except UnicodeEncodeError:
        raise UsageError(f"node name {name!r}: only latin-1 fits into a handshake") from None
    if not 0 < len(data) <= MAX_NAME:
        raise UsageError(f"node name of {len(data)} bytes, 1 to {MAX_NAME} fit")
    return data


def _check_size(data: bytes) -> None:
    if len(data) > MAX_MESSAGE:
        raise ProtocolError(f"handshake message of {len(data)} bytes, {MAX_MESSAGE} allowed")


def _describe(data: bytes) -> str:
    return f"{len(data)} bytes {data[:16]!r}" if data else "an empty message"


def wants_name(flags: int) -> bool:
    """Whether the offered flags ask the accepting node for a name."""
    return bool(flags & Flag.NAME_ME.value)
