"""The contract of a dialect: how one carrier turns packets into stream bytes and back.

A dialect is a pure object without clock and socket. It returns steps, which its carrier takes in
their order. Every quirk of a foreign carrier is in its dialect and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from quicdist.errors import QuicdistError
from quicdist.protocol.packet import Packet

Buffer: TypeAlias = bytes | bytearray | memoryview


class Write(NamedTuple):
    """Bytes for one stream. A stream not open yet is opened by its first write."""

    stream: int
    parts: Sequence[Buffer]


@dataclass(frozen=True, slots=True)
class Gap:
    """Nothing after this leaves before the time is over, or, where so said, a packet came.

    Time alone ends it only once all before it is acknowledged: a lost datagram must not bring
    together what was to stay apart.
    """

    seconds: float
    ends_on_receive: bool


@dataclass(frozen=True, slots=True)
class Refuse:
    """A stream that the peer opened and nobody reads: it is told to stop, both ways."""

    stream: int
    error_code: int


Step: TypeAlias = Write | Gap | Refuse


@dataclass(frozen=True, slots=True)
class Received:
    """What bytes turned into: packets for the owner, steps that answer the peer."""

    packets: Sequence[Packet] = ()
    steps: Sequence[Step] = ()


@dataclass(frozen=True, slots=True)
class DialectTraits:
    """What a connection's owner has to know of its dialect."""

    name: str
    """The carrier's name in tables and logs: `quicdist`, `quic_dist`, `tcp`, ..."""

    alpn: str
    """The TLS application protocol (RFC 7301) that chooses it; empty where there is none."""

    needs_probe: bool = False
    """A peer that disconnected may go on acknowledging: ask it something now and then."""

    parks_frames: bool = False
    """A peer whose frames did not fit the credit sends them only behind its next message: ask it
    something after having held it back."""

    ticks_may_stop: bool = False
    """A live peer may fall silent: any packet of the carrier counts as its tick."""

    is_encrypted: bool = True
    """Below it is TLS. A connection in the clear never replaces one that is encrypted."""

    binds: bool = False
    """Its peers are quicdist nodes and gateways: proofs of the cookie may be bound to the TLS
    session. Stock nodes are left alone."""

    renews_ids: bool = False
    """A dialer's QUIC is known to follow when we send to another of its connection ids. The one
    that it began with has no reset token: with it, it could not tell that it has restarted."""


class DialectError(QuicdistError):
    """Bytes that no such carrier sends; costs the connection that brought them."""


class Dialect(Protocol):
    """The wire habits of one carrier on one connection. Pure: no clock, no socket."""

    traits: DialectTraits

    def opened(self) -> Sequence[Step]:
        """The transport is up: what goes before the first handshake message."""

    def handshake_bytes(self, message: bytes) -> Sequence[Step]:
        """One handshake message, framed."""

    def connected(self) -> Sequence[Step]:
        """The handshake is over, here: frames follow, both ways.

        Packets that came too early to be shown are what `receive(0, b"")` returns next.
        """

    def frame_bytes(self, parts: Sequence[Buffer]) -> Write:
        """One distribution frame, given in parts; no parts is a tick."""

    def receive(self, stream: int, data: Buffer) -> Received:
        """Bytes from the peer, in stream order. Raises DialectError."""
