"""Offers: the messages with which two nodes agree on a session of pings.

The nodes exchange them inside their connection, after both have proved the cookie. The relay can
neither read nor forge them. The listener, which knows that it is relayed, sends an offer, and the
dialer answers with its own.

    version (1)  form (1)  round (4)  secret (16)  count (1)  candidates
    candidate: kind (1)  family (1)  port (2)  address (4 or 16)

A candidate of the kind SEEN is not the sender's: it is the address from which the peer's datagrams
come, as the sender sees it. So a dialer without a relay learns its address outside.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from quicdist.carriers.relay.candidates import MAX_CANDIDATES, Candidate, CandidateKind, normalized
from quicdist.errors import QuicdistError

SECRET_LENGTH = 16

_VERSION = 1
_HEADER = struct.Struct(f">BBI{SECRET_LENGTH}sB")
_CANDIDATE = struct.Struct(">BBH")
_LENGTHS = {4: 4, 6: 16}
"""Length of an address in bytes by IP version."""

_MOST = MAX_CANDIDATES + 1
"""Candidates of the sender, and one address that it sees."""

MAX_OFFER = _HEADER.size + _MOST * (_CANDIDATE.size + 16)
"""Maximum length of an encoded offer in bytes."""


class OfferError(QuicdistError, ValueError):
    """The bytes are not an encoded offer."""


class Form(enum.IntEnum):
    """The two forms of an offer."""

    OFFER = 0
    ANSWER = 1


@dataclass(frozen=True, slots=True)
class Offer:
    """One side's half of a session. Without candidates it declines a direct path."""

    form: Form
    round: int
    """The number of the listener's attempt, which an answer repeats. 32 bits."""
    secret: bytes
    """Half of the session's key, unguessable."""
    candidates: Sequence[Candidate] = ()

    def encode(self) -> bytes:
        """Returns the bytes of the offer."""
        count = len(self.candidates)
        header = _HEADER.pack(_VERSION, self.form, self.round, self.secret, count)
        return header + b"".join(map(_encode, self.candidates))


def decode(data: bytes) -> Offer:
    """Returns the offer. Raises OfferError if the bytes are not exactly one offer."""
    try:
        version, form, number, secret, count = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise OfferError(f"offer of version {version}, expected {_VERSION}")
        if count > _MOST:
            raise OfferError(f"offer of {count} candidates exceeds the limit of {_MOST}")
        candidates = []
        at = _HEADER.size
        for _ in range(count):
            candidate, at = _decode(data, at)
            candidates.append(candidate)
        offer = Offer(Form(form), number, secret, tuple(candidates))
    except (struct.error, KeyError, ValueError) as error:
        raise (
            error if isinstance(error, OfferError) else OfferError(f"bad offer: {error}")
        ) from None
    if at != len(data):
        raise OfferError(f"offer of {at} bytes in {len(data)}")
    return offer


def _encode(candidate: Candidate) -> bytes:
    host, port = candidate.address
    address = ipaddress.ip_address(host)
    return _CANDIDATE.pack(candidate.kind, address.version, port) + address.packed


def _decode(data: bytes, at: int) -> tuple[Candidate, int]:
    """Returns the candidate at this position and the position after it."""
    kind, version, port = _CANDIDATE.unpack_from(data, at)
    begin = at + _CANDIDATE.size
    end = begin + _LENGTHS[version]
    if end > len(data):
        raise OfferError("offer is cut short")
    host = str(ipaddress.ip_address(data[begin:end]))
    return Candidate(CandidateKind(kind), normalized(host, port)), end
