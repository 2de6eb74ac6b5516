"""What a gateway can tell of itself and of the connections through it, at one moment."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quicdist.protocol.role import Role
from quicdist.runtime.counters import Traffic


@dataclass(frozen=True, slots=True)
class RelayInfo:
    """Two nodes that are connected through the gateway. Messages are not told apart."""

    name: str
    """The peer, as the gateway's own node knows it."""

    role: Role
    """Whether our node dialed, or was dialed."""

    carrier: str
    """`quicdist`, `quic_dist`, ..."""

    alpn: str
    """What was agreed on in the TLS handshake."""

    peer_address: tuple[str, int]

    since: float
    """Unix time when it came up, in seconds."""

    traffic: Traffic
    """Over QUIC, sent to the peer and received from it. No messages are counted."""

    bytes_unacknowledged: int
    """What the carrier has taken, and the peer has not acknowledged."""

    bytes_untaken: int
    """What the peer has sent, and the BEAM node has not taken yet."""

    round_trip: float | None
    """Seconds to the peer and back, smoothed; None where the carrier does not know."""

    policy_refusals: int
    """Messages that the policy has refused, or would have."""


@dataclass(frozen=True, slots=True)
class GatewayStatistics:
    """A gateway. What is counted is counted since its start, and only grows."""

    name: str
    """The BEAM node that it stands for."""

    since: float
    """Unix time of its start, in seconds."""

    is_registered: bool
    """Whether the BEAM node is there."""

    connections: Sequence[RelayInfo]
    """Those that are up."""

    connecting: int
    """Those that are not up yet, made by our node and made to it."""

    dialed: int
    """Connections that came up, made by our node ..."""

    accepted: int
    """... and made to it."""

    ended: Mapping[str, int]
    """Connections that were up and are gone, by why: see `quicdist.runtime.counters.Ending`."""

    refused: Mapping[str, int]
    """What was made to our node and did not come up, by why: see
    `quicdist.carriers.reject_reason.RejectReason` and `Ending`."""

    policy_refusals: int
    """Messages that the policy has refused, or would have."""

    traffic: Traffic
    """Over all connections there have been."""

    certificate_expires: float | None = None
    """Unix time when our certificate ends to be valid."""

    @property
    def dialled(self) -> int:
        """Deprecated name of `dialed`, for one release."""
        warnings.warn(f"{type(self).__name__}.dialled is now dialed", DeprecationWarning, 2)
        return self.dialed
