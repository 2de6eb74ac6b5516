"""Hole punching: pings and pongs between two nodes, beside QUIC on the same socket.

After a ping has left a NAT, the NAT accepts datagrams from the pinged address (RFC 5128, 3.3). Both
nodes therefore ping all candidates of the other at the same time. An address is a path once a pong
has arrived from it.

    kind (1)  form (1)  session (4)  number (5)  tag (16)

The tag is HMAC-SHA-256, cut to 16 bytes, over all bytes before it. The key comes from secrets that
both nodes sent inside their connection. The form holds the sender's role, so a node never accepts
its own datagrams. Each number is accepted once.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from quicdist.carriers.relay.candidates import MAX_CANDIDATES, Address
from quicdist.protocol.role import Role

PUNCH_KIND = 0x30
"""The first byte of a ping or pong. QUIC's first byte is 64 or more (RFC 9443)."""

LENGTH = 27
"""Bytes of a ping or pong."""

PING_INTERVAL = 0.05
"""Seconds between two pings to a candidate."""

DURATION = 4.0
"""Seconds for which a node pings the candidates of a peer."""

_HEADER = struct.Struct(">BB4s5s")
_TAG_LENGTH = 16
_WINDOW = 1024
"""Numbers of pings that are remembered, to accept each once. Pings of one attempt: 640."""

_OUTSTANDING = 1024
"""Pings whose pongs are expected, at most."""


class Verb(enum.Enum):
    """What a datagram asks or says."""

    PING = "ping"
    PONG = "pong"


_FORMS = {
    (Verb.PING, Role.DIALER): 0,
    (Verb.PONG, Role.DIALER): 1,
    (Verb.PING, Role.LISTENER): 2,
    (Verb.PONG, Role.LISTENER): 3,
}
"""The form byte by verb and role of the sender."""

_MEANINGS = {form: meaning for meaning, form in _FORMS.items()}


class Transmit(NamedTuple):
    """A datagram to send to an address."""

    data: bytes
    address: Address


class Refusal(enum.Enum):
    """Why a ping or pong was ignored."""

    FORGED = "forged"
    """It has not the key of the session, or no such session exists."""
    OWN = "own"
    """This node sent it, or it seems to come from an address of this node."""
    REPEATED = "repeated"
    """Its number was accepted before, or no ping of ours has it."""
    ELSEWHERE = "elsewhere"
    """The pong came from another address than the pinged one (RFC 8445, 7.2.5.2.1)."""
    CROWDED = "crowded"
    """The ping came from a new address, and the peer has no more."""


class Pinged(NamedTuple):
    """The peer can reach us from this address; `pong` is the answer."""

    address: Address
    pong: Transmit


class Ponged(NamedTuple):
    """The address works both ways. `round_trip` is in seconds."""

    address: Address
    round_trip: float


def session_of(data: bytes) -> bytes:
    """Returns the session of a ping or pong; empty if it has not their length."""
    return data[2:6] if len(data) == LENGTH else b""


@dataclass(frozen=True, slots=True)
class SessionKey:
    """The key of a session of pings, and the four bytes that name it."""

    name: bytes
    key: bytes = field(repr=False)

    @classmethod
    def derive(cls, dialer_secret: bytes, listener_secret: bytes) -> SessionKey:
        """Returns the key of the session of these two halves."""
        digest = hashlib.sha512(b"quicdist punch 1" + dialer_secret + listener_secret).digest()
        return cls(digest[:4], digest[32:])

    def seal(self, verb: Verb, sender: Role, number: int) -> bytes:
        """Returns a ping or pong."""
        form = _FORMS[verb, sender]
        header = _HEADER.pack(PUNCH_KIND, form, self.name, number.to_bytes(5, "big"))
        return header + self._tag(header)

    def open(self, data: bytes) -> tuple[Verb, Role, int] | None:
        """Returns verb, sender and number; None if the datagram is not of this session."""
        if len(data) != LENGTH:
            return None
        kind, form, _, number = _HEADER.unpack_from(data)
        meaning = _MEANINGS.get(form)
        if kind != PUNCH_KIND or meaning is None:
            return None
        if not hmac.compare_digest(data[_HEADER.size :], self._tag(data[: _HEADER.size])):
            return None
        return *meaning, int.from_bytes(number, "big")

    def _tag(self, header: bytes) -> bytes:
        return hmac.digest(self.key, header, "sha256")[:_TAG_LENGTH]


class ReplayWindow:
    """Accepts each number once, and none that is far below the highest (RFC 4303, 3.4.3)."""

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0

    def take(self, number: int) -> bool:
        """Returns whether the number is new."""
        if number > self._highest:
            shift = min(number - self._highest, _WINDOW)
            self._seen = (self._seen << shift | 1) & ((1 << _WINDOW) - 1)
            self._highest = number
            return True
        bit = 1 << (self._highest - number)
        if self._highest - number >= _WINDOW or self._seen & bit:
            return False
        self._seen |= bit
        return True


class Pinger:
    """Sends and answers the pings of one session. Times are seconds."""

    def __init__(self, key: SessionKey, role: Role) -> None:
        self.key = key
        self._role = role
        self._number = 0
        self._pings: dict[int, tuple[Address, float]] = {}
        self._numbers = ReplayWindow()

    def ping(self, address: Address, now: float) -> Transmit:
        """Returns a ping for the address."""
        self._number += 1
        self._pings[self._number] = address, now
        if len(self._pings) > _OUTSTANDING:
            del self._pings[next(iter(self._pings))]
        return Transmit(self.key.seal(Verb.PING, self._role, self._number), address)

    def receive(self, data: bytes, address: Address, now: float) -> Pinged | Ponged | Refusal:
        """Handles a datagram of this session from an address."""
        opened = self.key.open(data)
        if opened is None:
            return Refusal.FORGED
        verb, sender, number = opened
        if sender is self._role:
            return Refusal.OWN
        if verb is Verb.PING:
            if not self._numbers.take(number):
                return Refusal.REPEATED
            pong = self.key.seal(Verb.PONG, self._role, number)
            return Pinged(address, Transmit(pong, address))
        return self._pong(number, address, now)

    def _pong(self, number: int, address: Address, now: float) -> Ponged | Refusal:
        pinged = self._pings.get(number)
        if pinged is None:
            return Refusal.REPEATED
        if pinged[0] != address:
            return Refusal.ELSEWHERE
        del self._pings[number]
        return Ponged(address, now - pinged[1])


class Punch:
    """The addresses of a peer in one session, and when they are pinged.

    Both nodes must start at the same time. An unexpected ping that arrives at some NATs before the
    node behind it has sent one changes the port of the node.
    """

    def __init__(self, candidates: Sequence[Address], start: float) -> None:
        """`candidates` are the peer's, `start` is the time of the first pings in seconds."""
        self._addresses = list(candidates[:MAX_CANDIDATES])
        self.next_at = start
        """When to call `due`."""
        self.ends_at = start + DURATION

    @property
    def addresses(self) -> Sequence[Address]:
        """The addresses of the peer."""
        return tuple(self._addresses)

    def met(self, address: Address) -> bool:
        """Adds an address from which the peer pinged us (peer-reflexive in RFC 8445).

        Returns False if there are too many.
        """
        if address in self._addresses:
            return True
        if len(self._addresses) >= MAX_CANDIDATES:
            return False
        self._addresses.append(address)
        return True

    def due(self, now: float) -> Sequence[Address]:
        """Returns the addresses to ping now."""
        if now < self.next_at or now >= self.ends_at:
            return ()
        self.next_at = max(self.next_at + PING_INTERVAL, now + PING_INTERVAL / 2)
        return self.addresses
