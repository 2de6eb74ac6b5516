"""What a gateway is told before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quicdist.carriers.epmd import default_port
from quicdist.carriers.quic.settings import QuicOptions
from quicdist.carriers.trust import Identity, Trust
from quicdist.cluster.access import Access
from quicdist.cluster.names import NodeName
from quicdist.cluster.policy import Policy
from quicdist.errors import NodeNameError
from quicdist.gateway.erlang import gateway_port
from quicdist.protocol.dialects import ALL_ALPNS


@dataclass(frozen=True, slots=True)
class GatewaySettings(QuicOptions):
    """Names are whole node names, times in seconds."""

    name: str
    """The BEAM node this gateway stands for: `port@ip`, or any name where `listen` is given."""

    listen: tuple[str, int] | None = None
    """UDP address to bind when it is not the name's: behind a NAT, in a container, for a name
    that says no port."""

    epmd_port: int | None = None
    """Loopback TCP port where the BEAM asks; a free one when 0. None takes the name's port, for
    a name that says none EPMD's own."""

    routes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """UDP addresses of nodes whose names do not say them, or say another; `*@host` for all nodes
    of a host whose names say no port, which its gateway is asked for."""

    default_port: int | None = None
    """UDP port of the gateways of hosts that nothing else is known of, for names that say no
    port. None takes the port of `listen` for a gateway whose own name says none, else there is
    no such port."""

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

    audit: bool = False
    """Whether each call and refusal is logged to `quicdist.audit`, as far as frames show them. It
    takes a policy: without one, frames are not read."""

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
    def node(self) -> NodeName:
        """The name. Raises NodeNameError when it is none."""
        return NodeName.own(self.name)

    @property
    def udp_address(self) -> tuple[str, int]:
        """What to bind. Raises NodeNameError when neither name nor `listen` says it."""
        if self.listen is not None:
            return self.listen
        address = self.node.address
        if address is None:
            raise NodeNameError(
                f"{self.name!r} says no UDP port: expected port@ip, or a UDP address to listen on"
            )
        return address.host, address.port

    @property
    def beam_asks_at(self) -> int:
        """The loopback TCP port, or 0 for a free one."""
        if self.epmd_port is not None:
            return self.epmd_port
        return default_port() if self.node.address is None else gateway_port(self.name)

    @property
    def port_of_others(self) -> int | None:
        """Where gateways are that nothing else is known of."""
        if self.default_port is None and self.node.address is None:
            return self.udp_address[1]
        return self.default_port
