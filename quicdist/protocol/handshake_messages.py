"""Encoding and parsing of the messages, digests and names of distribution handshake version 6.

Source: ERTS manual, Distribution Protocol, "The Handshake in Detail". A message is the body without
the length field, which the carrier adds. Parsers raise only ProtocolError.
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
"""Maximum size of a message in bytes. The longest valid message has 47 bytes and a name of 255
characters."""

MAX_NAME = 255
"""Maximum number of characters in a node name, which is an atom."""

_NOT_IN_NAMES = frozenset(" *?")

MAX_U32 = 0xFFFF_FFFF

PROOF_SIZE = 32
"""Size in bytes of a proof without a challenge (see `quicdist.protocol.early_proof`)."""

_NAME = struct.Struct(">cQIH")
_NAME_V5 = struct.Struct(">cHI")
_CHALLENGE = struct.Struct(">cQIIH")
_PROOF = _NAME
_REPLY = struct.Struct(">cI16s")
_COMPLEMENT = struct.Struct(">cII")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")


class Status(Enum):
    """The answer of the listener to a name, or of the dialer to `alive`."""

    OK = "ok"
    """The handshake continues."""
    OK_SIMULTANEOUS = "ok_simultaneous"
    """The handshake continues, and the listener abandons its own connection attempt."""
    NOK = "nok"
    """The listener refuses, because its own connection attempt takes precedence."""
    NOT_ALLOWED = "not_allowed"
    """The listener refuses for security reasons or because of missing capabilities."""
    ALIVE = "alive"
    """The listener already has a connection to this name. The dialer answers TRUE or FALSE."""
    TRUE = "true"
    """Answer to ALIVE: the old connection is broken, and this handshake continues."""
    FALSE = "false"
    """Answer to ALIVE: the old connection is in use, and this handshake ends."""
    WRONG_COOKIE = "wrong_cookie"
    """The listener refuses the proof in the name of the dialer. OTP does not define this status.
    It is sent only to a dialer that has sent such a proof."""


@dataclass(frozen=True, slots=True)
class Named:
    """Status `named:`: the name and creation assigned to a node that sent NAME_ME."""

    name: str
    creation: int


@dataclass(frozen=True, slots=True)
class Name:
    """Message `N` of the dialer: its name, creation and the flags that it offers.

    On `quicdist/2` a proof of the cookie follows the name. Other peers ignore it, as the manual
    requires of additional bytes.
    """

    flags: int
    creation: int
    name: str
    proof: bytes = b""


@dataclass(frozen=True, slots=True)
class NameV5:
    """Message `n` of an OTP 23 or 24 dialer that does not know the version of its peer.

    The upper flags and the creation follow in a Complement.
    """

    version: int
    flags: int
    name: str


@dataclass(frozen=True, slots=True)
class Complement:
    """Message `c`: the fields that NameV5 lacks. `flags` are the upper 32 bits, in place."""

    flags: int
    creation: int


@dataclass(frozen=True, slots=True)
class Challenge:
    """Message `N` of the listener: its name, creation, flags and challenge."""

    flags: int
    challenge: int
    creation: int
    name: str


@dataclass(frozen=True, slots=True)
class ChallengeReply:
    """Message `r`: the challenge of the dialer and its digest of the challenge of the listener."""

    challenge: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class ChallengeAck:
    """Message `a`: the digest of the listener of the challenge of the dialer."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """Message `p` of the listener on `quicdist/2`, which replaces the challenge and the ack.

    Its name, creation, flags and proof of the cookie.
    """

    flags: int
    creation: int
    name: str
    proof: bytes


# -- proof of the cookie ------------------------------------------------------------------------


def cookie_bytes(cookie: str) -> bytes:
    """The cookie as bytes for a digest. Raises UsageError if it is not latin-1."""
    try:
        return cookie.encode("latin-1")
    except UnicodeEncodeError:
        raise UsageError("a cookie must consist of latin-1 characters") from None


def digest(cookie: bytes, challenge: int) -> bytes:
    """The 16-byte MD5 digest of the cookie and `challenge`."""
    return hashlib.md5(cookie + str(challenge).encode(), usedforsecurity=False).digest()


def digest_matches(cookie: bytes, challenge: int, received: bytes) -> bool:
    """Whether `received` is the digest of `challenge`, compared in constant time."""
    return hmac.compare_digest(digest(cookie, challenge), received)


_BOUND = b"quicdist bound cookie proof"


class Prover(Enum):
    """The side that makes a bound proof. It prevents reflection of a proof to its sender."""

    DIALER = b"initiator"
    LISTENER = b"acceptor"


def bound_digest(cookie: bytes, challenge: int, binding: bytes, prover: Prover) -> bytes:
    """The 16-byte digest of the cookie and `challenge` that is valid for one TLS session.

    `binding` is the exporter value of the session (RFC 8446, 7.5). A relay that terminates TLS on
    both sides has two sessions with different values, so a proof from one is invalid on the other.
    """
    text = b"\0".join((_BOUND, prover.value, _U32.pack(challenge) + binding))
    return hmac.digest(cookie, text, "sha256")[:16]


# -- names --------------------------------------------------------------------------------------


def is_node_name(name: str) -> bool:
    """Whether `name` has the form `name@host` with non-empty parts.

    Spaces, control characters and wildcards are invalid, because names are logged and compared with
    patterns.
    """
    alive, at, host = name.partition("@")
    is_pair = bool(alive and at and host) and "@" not in host and len(name) <= MAX_NAME
    return is_pair and _is_plain(name)


def is_host_name(name: str) -> bool:
    """Whether `name` is a bare host name, which a node with NAME_ME sends."""
    return bool(name) and "@" not in name and len(name) <= MAX_NAME and _is_plain(name)


def _is_plain(name: str) -> bool:
    return name.isprintable() and not _NOT_IN_NAMES & set(name)


def settle_simultaneous(local_name: str, peer_name: str) -> Status:
    """The answer of a listener that is also connecting to the same peer.

    Of two simultaneous attempts, the one of the node with the greater name survives.
    """
    return Status.NOK if local_name > peer_name else Status.OK_SIMULTANEOUS


# -- building -----------------------------------------------------------------------------------


def build_name(message: Name) -> bytes:
    """Encodes a Name. Raises UsageError if the name is too long or not latin-1."""
    name = _name_bytes(message.name)
    head = _NAME.pack(b"N", message.flags, message.creation, len(name))
    return head + name + message.proof


def build_name_v5(message: NameV5) -> bytes:
    """Encodes a NameV5. Raises UsageError if the name is too long or not latin-1."""
    low = message.flags & MAX_U32
    return _NAME_V5.pack(b"n", message.version, low) + _name_bytes(message.name)


def build_complement(message: Complement) -> bytes:
    """Encodes a Complement."""
    return _COMPLEMENT.pack(b"c", message.flags >> 32, message.creation)


def build_challenge(message: Challenge) -> bytes:
    """Encodes a Challenge. Raises UsageError if the name is too long or not latin-1."""
    name = _name_bytes(message.name)
    fields = (message.flags, message.challenge, message.creation, len(name))
    return _CHALLENGE.pack(b"N", *fields) + name


def build_challenge_reply(message: ChallengeReply) -> bytes:
    """Encodes a ChallengeReply, 21 bytes."""
    return _REPLY.pack(b"r", message.challenge, message.digest)


def build_challenge_ack(message: ChallengeAck) -> bytes:
    """Encodes a ChallengeAck, 17 bytes."""
    return b"a" + message.digest


def build_proof(message: Proof) -> bytes:
    """Encodes a Proof. Raises UsageError if the name is too long or not latin-1."""
    name = _name_bytes(message.name)
    head = _PROOF.pack(b"p", message.flags, message.creation, len(name))
    return head + name + message.proof


def build_status(status: Status | Named) -> bytes:
    """Encodes a status. Raises UsageError if an assigned name is invalid."""
    if isinstance(status, Status):
        return b"s" + status.value.encode()
    if not is_node_name(status.name):
        raise UsageError(f"invalid node name {status.name!r}")
    name = status.name.encode()
    return b"snamed:" + _U16.pack(len(name)) + name + _U32.pack(status.creation)


# -- parsing ------------------------------------------------------------------------------------


def parse_name(data: bytes) -> Name | NameV5:
    """Parses the first message of a dialer."""
    _check_size(data)
    if data[:1] == b"N":
        if len(data) < _NAME.size:
            raise ProtocolError(
                f"name message of {len(data)} bytes, expected at least {_NAME.size}"
            )
        _, flags, creation, length = _NAME.unpack_from(data)
        name = _parse_name_text(data, _NAME.size, length)
        proof = data[_NAME.size + length :]
        has_proof = flags & Flag.CHANNEL_BINDING.value and len(proof) == PROOF_SIZE
        return Name(flags, creation, name, proof if has_proof else b"")
    if data[:1] == b"n":
        if len(data) < _NAME_V5.size:
            raise ProtocolError(f"version 5 name message of {len(data)} bytes is too short")
        _, version, flags = _NAME_V5.unpack_from(data)
        rest = len(data) - _NAME_V5.size
        return NameV5(version, flags, _parse_name_text(data, _NAME_V5.size, rest))
    raise ProtocolError(f"expected a name message, got {_describe(data)}")


def parse_complement(data: bytes) -> Complement:
    """Parses the complement that follows a NameV5 before the challenge reply."""
    if data[:1] != b"c" or len(data) != _COMPLEMENT.size:
        raise ProtocolError(f"expected a complement of 9 bytes, got {_describe(data)}")
    _, high, creation = _COMPLEMENT.unpack(data)
    return Complement(high << 32, creation)


def parse_challenge(data: bytes) -> Challenge:
    """Parses the name and challenge of the listener."""
    _check_size(data)
    if data[:1] != b"N" or len(data) < _CHALLENGE.size:
        raise ProtocolError(f"expected a challenge, got {_describe(data)}")
    _, flags, challenge, creation, length = _CHALLENGE.unpack_from(data)
    name = _parse_name_text(data, _CHALLENGE.size, length)
    return Challenge(flags, challenge, creation, name)


def parse_challenge_reply(data: bytes) -> ChallengeReply:
    """Parses the challenge and digest of the dialer."""
    if data[:1] != b"r" or len(data) != _REPLY.size:
        raise ProtocolError(f"expected a challenge reply of 21 bytes, got {_describe(data)}")
    _, challenge, proof = _REPLY.unpack(data)
    return ChallengeReply(challenge, proof)


def parse_challenge_ack(data: bytes) -> ChallengeAck:
    """Parses the digest of the listener."""
    if data[:1] != b"a" or len(data) != 17:
        raise ProtocolError(f"expected a challenge ack of 17 bytes, got {_describe(data)}")
    return ChallengeAck(data[1:])


def parse_proof(data: bytes) -> Proof:
    """Parses the name and proof of the listener."""
    _check_size(data)
    if data[:1] != b"p" or len(data) < _PROOF.size:
        raise ProtocolError(f"expected a proof, got {_describe(data)}")
    _, flags, creation, length = _PROOF.unpack_from(data)
    name = _parse_name_text(data, _PROOF.size, length)
    proof = data[_PROOF.size + length :]
    if len(proof) != PROOF_SIZE:
        raise ProtocolError(f"a proof of {len(proof)} bytes, expected {PROOF_SIZE}")
    return Proof(flags, creation, name, proof)


def parse_status(data: bytes) -> Status | Named:
    """Parses a status. Bytes after the creation of `named:` are ignored, as the manual requires."""
    _check_size(data)
    if data[:1] != b"s":
        raise ProtocolError(f"expected a status, got {_describe(data)}")
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
        raise ProtocolError("status named: is truncated")
    try:
        name = data[start : start + length].decode()
    except UnicodeDecodeError:
        raise ProtocolError("status named: contains a name that is not UTF-8") from None
    if not is_node_name(name):
        raise ProtocolError(f"status named: contains the invalid node name {name[:64]!r}")
    return Named(name, int.from_bytes(data[start + length : start + length + 4], "big"))


def _parse_name_text(data: bytes, start: int, length: int) -> str:
    """Parses a name. Bytes after it are ignored, as the manual requires."""
    text = data[start : start + length]
    if len(text) != length:
        raise ProtocolError(f"name of {length} bytes is truncated to {len(text)} bytes")
    if length > MAX_NAME:
        raise ProtocolError(f"name of {length} bytes exceeds the maximum of {MAX_NAME}")
    return text.decode("latin-1")


def _name_bytes(name: str) -> bytes:
    try:
        data = name.encode("latin-1")
    except UnicodeEncodeError:
        raise UsageError(f"node name {name!r} is not latin-1") from None
    if not 0 < len(data) <= MAX_NAME:
        raise UsageError(f"node name of {len(data)} bytes, expected 1 to {MAX_NAME}")
    return data


def _check_size(data: bytes) -> None:
    if len(data) > MAX_MESSAGE:
        raise ProtocolError(
            f"handshake message of {len(data)} bytes exceeds the maximum of {MAX_MESSAGE}"
        )


def _describe(data: bytes) -> str:
    return f"{len(data)} bytes {data[:16]!r}" if data else "an empty message"


def wants_name(flags: int) -> bool:
    """Whether the offered flags ask the listener for a name (NAME_ME)."""
    return bool(flags & Flag.NAME_ME.value)
