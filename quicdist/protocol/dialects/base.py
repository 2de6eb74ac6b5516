"""The interface of a dialect, which converts between packets and the stream bytes of one carrier.

A dialect has no clock and no socket. It returns steps, which its carrier performs in order. The
special cases of other carrier implementations are only in their dialects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from quicdist.protocol.errors import DialectError as DialectError
from quicdist.protocol.packet import Packet

Buffer: TypeAlias = bytes | bytearray | memoryview


class Write(NamedTuple):
    """Bytes to send on one stream. The first write opens the stream."""

    stream: int
    parts: Sequence[Buffer]

    @property
    def size(self) -> int:
        """The number of bytes."""
        size = 0
        for part in self.parts:
            size += part.nbytes if isinstance(part, memoryview) else len(part)
        return size


@dataclass(frozen=True, slots=True)
class Gap:
    """A pause: later steps wait until the time has passed or, if so specified, a packet arrived.

    The time counts only when all previous data is acknowledged. Otherwise a retransmission could
    arrive together with the later data.
    """

    seconds: float
    ends_on_receive: bool


@dataclass(frozen=True, slots=True)
class Refuse:
    """Reject a stream of the peer that is not used: stop it in both directions."""

    stream: int
    error_code: int


Step: TypeAlias = Write | Gap | Refuse


class Received(NamedTuple):
    """The result of received bytes: packets for the owner and steps that answer the peer."""

    packets: Sequence[Packet] = ()
    steps: Sequence[Step] = ()
    offers: Sequence[bytes] = ()
    """Messages about direct paths between nodes behind NATs, for the carrier."""


@dataclass(frozen=True, slots=True)
class DialectTraits:
    """The properties of a dialect that the owner of a connection uses."""

    name: str
    """The name of the carrier in tables and logs: `quicdist`, `quic_dist`, `tcp`, ..."""

    alpn: str
    """The ALPN identifier (RFC 7301) that selects the dialect, empty if there is none."""

    needs_probe: bool = False
    """Whether a disconnected peer may still acknowledge packets, so that it must be probed."""

    parks_frames: bool = False
    """Whether a peer sends frames that exceeded the flow control credit only with its next message,
    so that it must be probed after flow control blocked it."""

    ticks_may_stop: bool = False
    """Whether a live peer may stop sending ticks. Any packet of the carrier then counts as one."""

    is_encrypted: bool = True
    """Whether the carrier uses TLS. An unencrypted connection never replaces an encrypted one."""

    binds: bool = False
    """Whether cookie digests may be bound to the TLS session, because the peers are quicdist nodes
    and gateways. Erlang nodes do not support it."""

    early_proofs: bool = False
    """Whether a dialer proves the cookie with its name (see `quicdist.protocol.early_proof`)."""

    has_offers: bool = False
    """Whether the nodes can exchange messages about direct paths beside the frames."""

    data_streams: int = 0
    """The number of streams on which frames of different senders may overtake each other (see
    quicdist.protocol.streams); 0 if all frames stay in order."""

    is_control: bool = False
    """Whether this is the connection to a relay. It is closed last, because datagrams of other
    connections may depend on it."""

    keeps_frames: bool = False
    """Whether a peer ignores a retransmitted STREAM frame that begins before the data which it
    awaits, also if the frame ends behind that (contrary to RFC 9000, 2.2). Lost data must be sent
    again in the frames in which it was first sent."""

    renews_ids: bool = False
    """Whether the QUIC library of the dialer accepts a change of its connection id. The initial
    connection id has no stateless reset token, so that a restart of the dialer is not detected."""


class Dialect(Protocol):
    """The dialect of one connection. It has no clock and no socket."""

    traits: DialectTraits

    @property
    def withheld(self) -> int:
        """Number of received bytes that wait for the end of the handshake.

        The peer gets no credit for them.
        """

    def opened(self) -> Sequence[Step]:
        """The steps before the first handshake message, when the transport is connected."""

    def handshake_bytes(self, message: bytes) -> Sequence[Step]:
        """The steps that send one handshake message."""

    def connected(self) -> Sequence[Step]:
        """The steps at the end of the handshake, before frames are sent.

        `receive(0, b"")` then returns the frames that arrived before the end of the handshake.
        """

    def frame_bytes(self, parts: Sequence[Buffer], stream: int = 0) -> Write:
        """The write that sends one distribution frame, given as parts. No parts is a tick.

        `stream` is 0 or the number of a data stream, if the dialect has them.
        """

    def framed_bytes(self, frames: Sequence[bytes], stream: int = 0) -> Write:
        """The write that sends frames of distribution messages, each with its u32 length.

        Every dialect has this length before its frames. `stream` is that of `frame_bytes`.
        """

    def receive(self, stream: int, data: Buffer) -> Received:
        """Processes bytes of the peer in stream order. Raises DialectError if they are invalid."""
