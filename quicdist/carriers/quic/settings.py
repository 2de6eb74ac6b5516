"""Settings of QUIC endpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from quicdist.carriers.quic.congestion.choice import algorithm
from quicdist.carriers.quic.engine_choice import AUTO
from quicdist.carriers.quic.engine_choice import check as check_engine
from quicdist.carriers.quic.tls_choices import CIPHER_SUITES
from quicdist.carriers.quic.tls_choices import check as check_tls
from quicdist.carriers.quic.tracing import Tracing
from quicdist.carriers.relay.paths import PathMode, path_mode
from quicdist.carriers.trust import Credentials
from quicdist.errors import NodeError, SettingError
from quicdist.limits import AdmissionLimits, CarrierLimits, ConnectionBounds
from quicdist.protocol.dialects import ALL_ALPNS, alpns_within
from quicdist.setting_types import Duration, Range, check_fields

_LONGEST_BUSY_WAIT = 1.0
"""Maximum of `busy_wait` in seconds. A larger value is probably in another unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuicOptions:
    """The QUIC settings that nodes (`Quic`) and gateways (`GatewaySettings`) have in common."""

    limits: CarrierLimits = field(default_factory=CarrierLimits)

    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    """Limits on incoming connections."""

    bounds: ConnectionBounds = field(default_factory=ConnectionBounds)
    """Limits on each QUIC connection."""

    cipher_suites: Sequence[str] = tuple(CIPHER_SUITES)
    """TLS 1.3 cipher suites by IANA name, in order of preference."""

    key_exchanges: Sequence[str] = ()
    """TLS 1.3 key exchange groups to offer and accept, by IANA name, in order of preference.

    If empty, the engine selects the groups. No engine supports the post-quantum group
    `X25519MLKEM768`.
    """

    tracing: Tracing = field(default_factory=Tracing)
    """Logs of TLS keys and packets, for debugging."""

    engine: str = AUTO
    """The QUIC library.

    - `native`: the fastest, compiled code (`make engine`)
    - `aioquic`
    - `aioquic-plain`: aioquic without quicdist's optimizations
    - `auto`: the engine in the environment variable `QUICDIST_ENGINE`; if that is not set, `native`
      if it is installed, else `aioquic`
    """

    congestion: str = "bbr"
    """Congestion control: `bbr`, `cubic` (RFC 9438) or `reno` (RFC 9002).

    `bbr` uses a model of the path and is fast on paths with packet loss.
    """

    max_datagram_size: Annotated[int, Range(1200, 65_527)] = 16_000
    """Maximum UDP payload of sent datagrams in bytes.

    Every path carries 1200 bytes. Path MTU discovery finds larger sizes up to this maximum.
    """

    path: str = PathMode.AUTO.value
    """Which paths a connection to a node at a relay may take: `auto`, which starts on the relay and
    goes on directly where possible; `direct-only`, which ends where no direct path is found;
    `relay-only`, which discloses no address of this node to the other one."""

    map_port: bool = False
    """Whether a node or gateway with `via` asks its router by UPnP to forward a port to it, which
    makes more direct paths possible. Needs the extra `nat`."""

    probe_silence: Duration = 0.75
    """Time in seconds without a datagram from a peer after which it gets a PING. If its process has
    ended, its kernel answers with an ICMP message, and the connection ends within a second. 0
    disables it, for metered and mobile networks; the end is then noticed after `net_ticktime`.

    The PINGs of `CarrierLimits.keep_alive` do not depend on it.
    """

    busy_wait: float | None = None
    """Time in seconds for which the event loop busy-waits after a datagram is sent or received.

    This reduces the latency at the cost of CPU time (see `docs/limits.md`). None busy-waits for at
    most 0.25 ms, and only while datagrams keep coming that soon. 0 disables it.
    """

    def __post_init__(self) -> None:
        """Raises TypeError, NodeError, and ValueError for what the engine does not support."""
        check_fields(self)
        path_mode(self.path)
        check_engine(self.engine)
        check_tls(self.engine, self.cipher_suites, self.key_exchanges)
        try:
            algorithm(self.congestion)
        except ValueError as error:
            raise NodeError(str(error)) from None
        if self.busy_wait is not None and not 0 <= self.busy_wait <= _LONGEST_BUSY_WAIT:
            raise SettingError(
                f"busy_wait is in seconds, from 0 (off) to {_LONGEST_BUSY_WAIT:g}, "
                f"got {self.busy_wait}: 500 us are 0.0005"
            )

    def with_credentials(self, credentials: Credentials, alpns: Sequence[str]) -> QuicSettings:
        """Returns the settings of an endpoint with these credentials and ALPN protocols.

        Those that the limits do not allow are left out (`alpns_within`).
        """
        chosen = {each.name: getattr(self, each.name) for each in dataclasses.fields(QuicOptions)}
        return QuicSettings(credentials, alpns=alpns_within(alpns, self.limits), **chosen)


@dataclass(frozen=True, slots=True)
class QuicSettings(QuicOptions):
    """The settings of a QUIC endpoint. Sizes are in bytes, times in seconds."""

    credentials: Credentials
    """The identity of this node, and the peers that it trusts."""

    alpns: Sequence[str] = ALL_ALPNS
    """ALPN protocols offered to dialers, in order of preference."""

    max_in_flight: int = 32 * 1024 * 1024
    """Maximum unacknowledged bytes: 2.5 bandwidth-delay products of 1 Gbit/s at 100 ms."""

    socket_buffer: int = 4 * 1024 * 1024
    """Requested socket buffer size for each direction; the kernel may limit it."""

    max_streams: int = 32
    """Maximum number of bidirectional streams that a peer may open in one connection. erlang_quic
    opens 17 as dialer and 16 as listener, and cannot send with fewer."""

    def first_window(self, *, is_listener: bool) -> int:
        """Returns the number of bytes that a peer may send before it proves the cookie.

        A dialed peer may send a whole receive window.
        """
        window = min(self.limits.receive_window, self.limits.max_receive_window)
        return min(window, self.bounds.max_data_unproved) if is_listener else window
