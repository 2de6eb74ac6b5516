"""What a gateway is told before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quicdist.carriers.quic.settings import QuicOptions
from quicdist.carriers.trust import Identity, Trust
from quicdist.cluster.access import Access
from quicdist.cluster.names import Address
from quicdist.gateway.policy import Policy
from quicdist.protocol.dialects import ALL_ALPNS


@dataclass(frozen=True, slots=True)
class GatewaySettings(QuicOptions):
    """Names are whole node names, times in seconds."""

    name: str
    """The BEAM node this gateway stands for: `port@ip`."""

    listen: tuple[str, int] | None = None
    """UDP address to bind when it is not the name's: behind a NAT, in a container."""

    epmd_port: int | None = None
    """Loopback TCP port where the BEAM asks; the name's port when None, a free one when 0."""

    routes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """UDP addresses of nodes whose names do not say them, or say another."""

    alpns: tuple[str, ...] = ALL_ALPNS
    """QUIC dialects to offer and to accept."""

    identity: Identity | None = None
    """Our key and certificate; None makes them and keeps them."""

    trust: Trust = field(default_factory=Trust.first_use)
    """Whom it believes, and whom it lets in."""

    access: Access = field(default_factory=Access)
    """Which nodes may connect and be dialed. What they may call it cannot say."""

    policy: Policy | None = None
    """What peers may do to the node; None lets through whatever two nodes say, unread."""

    dial_timeout: float = 6.0
    """For a QUIC connection; a BEAM gives up a connection after 7 s (net_setuptime)."""

    handshake_timeout: float = 30.0
    """For a distribution handshake from end to end; the nodes' own limits are shorter."""

    keepalive: float = 2.0
    """Between signs of life asked of a peer whose carrier's ticks may stop."""

    max_relays: int = 1024
    """Connections between nodes at one time."""

    max_remotes: int = 1024
    """Loopback ports held open for remote nodes."""

    close_timeout: float = 2.0
    """For telling every peer at the end."""

    @property
    def address(self) -> Address:
        """The UDP address in the name. Raises NodeNameError when it is no `port@ip`."""
        return Address.parse(self.name)
