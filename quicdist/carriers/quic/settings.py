"""What a QUIC endpoint is told when it opens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from quicdist.carriers.quic.congestion.choice import algorithm
from quicdist.carriers.quic.tls_choices import CIPHER_SUITES
from quicdist.carriers.quic.tls_choices import check as check_tls
from quicdist.carriers.quic.tracing import Tracing
from quicdist.carriers.trust import Credentials
from quicdist.errors import NodeError
from quicdist.limits import AdmissionLimits, CarrierLimits, ConnectionBounds
from quicdist.protocol.dialects import ALL_ALPNS

_LONGEST_BUSY_WAIT = 1.0
"""More would be a core for nothing; it is likely to be meant in another unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuicOptions:
    """What users choose for QUIC, of a node (`Quic`) and of a gateway (`GatewaySettings`)."""

    limits: CarrierLimits = field(default_factory=CarrierLimits)

    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    """Bounds on connections that others open."""

    bounds: ConnectionBounds = field(default_factory=ConnectionBounds)
    """Bounds of each QUIC connection."""

    cipher_suites: Sequence[str] = tuple(CIPHER_SUITES)
    """Of TLS 1.3, by their IANA names, the preferred one first."""

    key_exchanges: Sequence[str] = ()
    """Groups of TLS 1.3 that are offered and accepted, by their IANA names, with the engine
    aioquic; none is the engine's own choice. aioquic has no post-quantum one (`X25519MLKEM768`).
    Two nodes with the engine qh3 use that one; it takes no setting."""

    tracing: Tracing = field(default_factory=Tracing)
    """Keys and packets written down, for debugging."""

    engine: str = "aioquic"
    """The QUIC library: `aioquic`; `aioquic-plain`, which does without our short ways; `qh3`, the
    faster one (`pip install quicdist[fast]`), which has no qlog."""

    congestion: str = "bbr"
    """Congestion control of the aioquic engines: `bbr`, which models the path and keeps its rate
    where datagrams are lost; `cubic` (RFC 9438); `reno` (RFC 9002)."""

    max_datagram_size: int = 16_000
    """UDP payload that is sent at most, in bytes. 1200 passes everywhere; what the path carries
    beyond that is probed for."""

    busy_wait: float = 0.0
    """Seconds for which the event loop does not sleep after a datagram came or left: answers that
    come within them are read sooner, at the cost of CPU (`docs/limits.md`); 0 is off."""

    def __post_init__(self) -> None:
        """Raises NodeError, and ValueError for what the engine does not have."""
        check_tls(self.engine, self.cipher_suites, self.key_exchanges)
        try:
            algorithm(self.congestion)
        except ValueError as error:
            raise NodeError(str(error)) from None
        if not 0 <= self.busy_wait <= _LONGEST_BUSY_WAIT:
            raise NodeError(
                f"busy_wait is in seconds, from 0 (off) to {_LONGEST_BUSY_WAIT:g}, "
                f"got {self.busy_wait}: 500 us are 0.0005"
            )

    def with_credentials(self, credentials: Credentials, alpns: Sequence[str]) -> QuicSettings:
        """For an endpoint that offers these dialects."""
        chosen = {each.name: getattr(self, each.name) for each in dataclasses.fields(QuicOptions)}
        return QuicSettings(credentials, alpns=alpns, **chosen)


@dataclass(frozen=True, slots=True)
class QuicSettings(QuicOptions):
    """Sizes in bytes, times in seconds."""

    credentials: Credentials
    """Who we are, and which peers we trust."""

    alpns: Sequence[str] = ALL_ALPNS
    """Dialects offered to those who dial us, the preferred one first."""

    max_in_flight: int = 32 * 1024 * 1024
    """Bytes sent and unacknowledged: two and a half BDPs of a Gbit/s at 100 ms."""

    socket_buffer: int = 4 * 1024 * 1024
    """Wanted of the kernel for each direction; it may give less."""

    max_streams: int = 32
    """Bidirectional streams that a peer may open in its connection's whole life. erlang_quic opens
    17 as dialer, 16 as listener, and cannot send with fewer."""

    def first_window(self, *, is_listener: bool) -> int:
        """Bytes that a peer may send before it has shown that it has the cookie. A listener that we
        chose to dial may send a whole window before it hears that it is trusted."""
        window = self.limits.receive_window
        return min(window, self.bounds.max_data_unproved) if is_listener else window
