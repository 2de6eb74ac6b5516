"""What a QUIC endpoint is told when it opens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from quicdist.carriers.quic.tls_choices import CIPHER_SUITES
from quicdist.carriers.quic.tracing import Tracing
from quicdist.carriers.trust import Credentials
from quicdist.limits import AdmissionLimits, CarrierLimits, ConnectionBounds
from quicdist.protocol.dialects import ALL_ALPNS


@dataclass(frozen=True, slots=True)
class QuicSettings:
    """Sizes in bytes, times in seconds."""

    credentials: Credentials
    """Who we are, and whom we believe."""

    limits: CarrierLimits = field(default_factory=CarrierLimits)
    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    bounds: ConnectionBounds = field(default_factory=ConnectionBounds)

    alpns: Sequence[str] = ALL_ALPNS
    """Dialects offered to those who dial us, the preferred one first."""

    engine: str = "aioquic"
    """The QUIC library: `aioquic`; `aioquic-plain`, which does without our short ways; `qh3`
    (`pip install quicdist[fast]`), which has no qlog."""

    cipher_suites: Sequence[str] = tuple(CIPHER_SUITES)
    """Of TLS 1.3, by their IANA names, the preferred one first."""

    key_exchanges: Sequence[str] = ()
    """Groups of TLS 1.3 that are offered and accepted, by their IANA names, with the engine
    aioquic; none is the engine's own choice. aioquic has no post-quantum one (`X25519MLKEM768`).
    Two nodes with the engine qh3 use that one; it takes no setting."""

    tracing: Tracing = field(default_factory=Tracing)
    """Keys and packets written down, for debugging."""

    max_datagram_size: int = 16_000
    """UDP payload that we send at most. 1200 passes everywhere, more is probed for."""

    max_in_flight: int = 1024 * 1024
    """Bytes sent and unacknowledged: aioquic's cost of an ACK grows with the packets in flight."""

    socket_buffer: int = 4 * 1024 * 1024
    """Wanted of the kernel for each direction; it may give less."""

    busy_wait: float = 0.0
    """How long the event loop does not sleep after a datagram came or left; 0 is off."""

    max_streams: int = 32
    """Bidirectional streams that a peer may open in its connection's whole life. erlang_quic opens
    17 as dialer, 16 as listener, and cannot send with fewer."""

    def first_window(self, *, is_listener: bool) -> int:
        """Bytes that a peer may send before it has shown that it has the cookie. Who is dialed was
        chosen, and may send before it hears that it is believed."""
        window = self.limits.receive_window
        return min(window, self.bounds.max_data_unproved) if is_listener else window
