"""Statistics of a gateway and of the connections through it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quicdist.protocol.role import Role
from quicdist.runtime.counters import Traffic


@dataclass(frozen=True, slots=True)
class RelayInfo:
    """A connection between two nodes through the gateway. Single messages are not counted."""

    name: str
    """The name of the peer, as the gateway's node knows it."""

    role: Role
    """Whether the gateway's node dialed or accepted the connection."""

    carrier: str
    """The carrier, such as `quicdist` or `quic_dist`."""

    alpn: str
    """The ALPN protocol negotiated in the TLS handshake."""

    peer_address: tuple[str, int]

    since: float
    """Unix time when the connection came up, in seconds."""

    traffic: Traffic
    """Bytes over QUIC, sent to the peer and received from it. Messages are not counted."""

    bytes_unacknowledged: int
    """Bytes passed to the carrier that the peer has not acknowledged."""

    bytes_untaken: int
    """Bytes received from the peer that the BEAM node has not read."""

    round_trip: float | None
    """The smoothed round-trip time in seconds, or None if the carrier does not measure it."""

    path: str
    """How datagrams travel: `plain` to the dialed address, `relayed`, or `direct` to a node that
    was dialed at a relay."""

    path_switches: int
    """How often the path changed between the relay and a direct one."""

    policy_refusals: int
    """Messages that the policy has refused, or would have refused if it only logs."""


@dataclass(frozen=True, slots=True)
class GatewayStatistics:
    """Statistics of a gateway. Counters start at 0 when the gateway starts."""

    name: str
    """The name of the BEAM node."""

    since: float
    """Unix time of the start of the gateway, in seconds."""

    is_registered: bool
    """Whether the BEAM node is registered with the gateway."""

    connections: Sequence[RelayInfo]
    """The connections that are up."""

    connecting: int
    """The number of connections being established, in both directions."""

    dialed: int
    """Connections that came up and were dialed by the gateway's node."""

    accepted: int
    """Connections that came up and were dialed by peers."""

    ended: Mapping[str, int]
    """Connections that came up and have ended, by reason: `quicdist.runtime.counters.Ending`."""

    refused: Mapping[str, int]
    """Incoming connections that did not come up, by reason: see
    `quicdist.carriers.reject_reason.RejectReason` and `Ending`."""

    policy_refusals: int
    """Messages that the policy has refused, or would have refused if it only logs."""

    traffic: Traffic
    """The traffic of all connections since the start."""

    certificate_expires: float | None = None
    """Unix time when the certificate of this gateway expires, in seconds."""

    @property
    def dialled(self) -> int:
        """Deprecated: use `dialed`."""
        warnings.warn(f"{type(self).__name__}.dialled is now dialed", DeprecationWarning, 2)
        return self.dialed
