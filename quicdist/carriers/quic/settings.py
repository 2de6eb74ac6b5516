"""What a QUIC endpoint is told when it opens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from quicdist.carriers.base import CarrierLimits
from quicdist.carriers.dialects import ALL_ALPNS
from quicdist.carriers.quic.tracing import Tracing
from quicdist.carriers.trust import Credentials


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What those who dial us, whoever they are, can make us keep."""

    max_connections: int = 4096
    """Open at once, both ways; who dials us beyond that is not answered."""

    max_half_open: int = 512
    """Of those, the ones that others opened and whose distribution handshake is not done: nobody
    knows yet whether they have the cookie."""

    prove_above: int = 64
    """So many half-open ones, and who dials us has to show that it receives at its address
    (Retry, RFC 9000, 8.1.2): one round trip more, and nothing is kept for forged addresses."""

    max_per_address: int = 1024
    """Connections that others opened from one IPv4 address or IPv6 /64."""

    max_half_open_per_address: int = 128
    """Of those, the ones whose distribution handshake is not done."""

    resets_per_second: float = 50.0
    """Stateless resets (RFC 9000, 10.3) sent, at most; as many at once."""


@dataclass(frozen=True, slots=True)
class QuicSettings:
    """Sizes in bytes, times in seconds."""

    credentials: Credentials
    """Who we are, and whom we believe."""

    limits: CarrierLimits = field(default_factory=CarrierLimits)
    admission: AdmissionLimits = field(default_factory=AdmissionLimits)

    alpns: Sequence[str] = ALL_ALPNS
    """Dialects offered to those who dial us, the preferred one first."""

    engine: str = "aioquic"
    """The QUIC library: `aioquic`; `aioquic-plain`, which does without our short ways; `qh3`
    (`pip install quicdist[fast]`), which has no qlog."""

    tracing: Tracing = field(default_factory=Tracing)
    """Keys and packets written down, for debugging."""

    max_datagram_size: int = 16_000
    """UDP payload that we send at most. 1200 passes everywhere, more is probed for."""

    congestion: str = "bbr"
    """Congestion control: `bbr`, `cubic` or `reno` (see congestion.controller.Algorithm)."""

    max_in_flight: int = 32 * 1024 * 1024
    """Bytes sent and unacknowledged: two and a half BDPs of a Gbit/s at 100 ms."""

    socket_buffer: int = 4 * 1024 * 1024
    """Wanted of the kernel for each direction; it may give less."""

    busy_wait: float = 0.0
    """How long the event loop does not sleep after a datagram came or left; 0 is off."""

    max_streams: int = 32
    """Bidirectional streams that a peer may open. erlang_quic opens 17 as dialer, 16 as listener,
    and cannot send with fewer."""
