"""The settings of a gateway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quicdist.carriers.epmd import default_port
from quicdist.carriers.quic.settings import QuicOptions
from quicdist.carriers.trust import Identity, Trust
from quicdist.cluster.access import Access
from quicdist.cluster.lan import Lan
from quicdist.cluster.names import NodeName
from quicdist.cluster.policy import Policy
from quicdist.cluster.via import Relays, check_via_name
from quicdist.errors import NodeError, NodeNameError
from quicdist.gateway.erlang import gateway_port
from quicdist.protocol.dialects import GATEWAY_ALPNS
from quicdist.setting_types import (
    Duration,
    Port,
    Positive,
    PositiveDuration,
    PositiveRate,
    RemotePort,
)


@dataclass(frozen=True, slots=True)
class GatewaySettings(QuicOptions):
    """The settings of a gateway. Names are full node names, times are in seconds."""

    name: str = ""
    """The name of the BEAM node: `port@ip`, or any name if `listen` is given. With `via` it is
    empty, or `port@relay` for a port that the relay is asked for."""

    via: Relays = ()
    """The relays that give the BEAM node its address, in order, as `parse_via` returns them. See
    `Node(via=...)`."""

    listen: tuple[str, Port] | None = None
    """The UDP address to bind, if it differs from the name: behind a NAT, in a container, or if the
    name contains no port."""

    epmd_port: Port | None = None
    """The loopback TCP port for EPMD requests of the BEAM node; 0 takes a free port. None takes the
    port of the name, or the EPMD port (4369) if the name contains none."""

    routes: Mapping[str, tuple[str, RemotePort]] = field(default_factory=dict)
    """UDP addresses of nodes by name. They take precedence over the address in a name. `*@host`
    is the gateway of a host, which is asked for nodes whose names contain no port."""

    default_port: RemotePort | None = None
    """The UDP port of the gateways of other hosts, for names without a port and without a route.
    None takes the port of `listen` if the name of this node contains no port; otherwise such names
    cannot be dialed."""

    lan: Lan | None = None
    """Announces the BEAM node in the local network by multicast DNS, and finds nodes there whose
    names contain no port, or a host in `.local`. Requires the extra `lan`."""

    alpns: tuple[str, ...] = GATEWAY_ALPNS
    """The QUIC dialects that are offered and accepted."""

    identity: Identity | None = None
    """The key and certificate. None creates them at the first start and stores them."""

    trust: Trust = field(default_factory=Trust.first_use)
    """How the certificates of peers are verified."""

    access: Access = field(default_factory=Access)
    """Which nodes may connect and be dialed. `AccessRules` for calls have no effect here."""

    policy: Policy | None = None
    """What peers may do on the node. None forwards all messages without decoding them."""

    audit: bool = False
    """Whether calls and refusals are logged to `quicdist.audit`, as far as the frames show them.
    Requires a policy, because frames are not decoded without one."""

    messages_per_second: PositiveRate | None = None
    """The average rate and burst of messages and signals of one peer, per second. Above it the
    gateway stops reading from the peer, so that its senders wait and no message is lost. None
    means no limit."""

    calls_per_second: PositiveRate | None = None
    """The average rate and burst of calls by one peer, with the same effect. Requires a policy,
    because frames are not decoded without one."""

    dial_timeout: PositiveDuration = 6.0
    """The limit for a QUIC connection. A BEAM node gives up after 7 s (net_setuptime)."""

    handshake_timeout: PositiveDuration = 30.0
    """The limit for a complete distribution handshake. The limits of the nodes are shorter."""

    keepalive: PositiveDuration = 2.0
    """The interval of liveness checks for peers whose carrier may stop ticks."""

    max_relays: Positive = 1024
    """The maximum number of connections at a time."""

    max_remotes: Positive = 1024
    """The maximum number of loopback ports for remote nodes."""

    close_timeout: Duration = 2.0
    """The time to close all connections when the gateway stops."""

    def __post_init__(self) -> None:
        """Raises TypeError, NodeError, and ValueError for what the engine does not support."""
        QuicOptions.__post_init__(self)
        if self.calls_per_second is not None and self.policy is None:
            raise NodeError("calls_per_second requires a policy")
        if self.map_port and not self.via:
            raise NodeError("map_port requires a relay: via")

    @property
    def node(self) -> NodeName:
        """The parsed name. Raises NodeNameError if it is invalid."""
        if self.via and not self.name:
            return NodeName.own(f"0@{self.via[0].host}")
        if self.via:
            check_via_name(self.name, self.via)
        return NodeName.own(self.name)

    @property
    def udp_address(self) -> tuple[str, int]:
        """The UDP address to bind. Raises NodeNameError if neither name nor `listen` has one."""
        if self.listen is not None:
            return self.listen
        address = self.node.address
        if address is None:
            raise NodeNameError(
                f"{self.name!r} contains no UDP port: expected port@ip, or a UDP address to bind"
            )
        return address.host, address.port

    @property
    def beam_asks_at(self) -> int:
        """The loopback TCP port for EPMD requests, or 0 for a free port."""
        if self.epmd_port is not None:
            return self.epmd_port
        return default_port() if self.node.address is None else gateway_port(self.name)

    @property
    def port_of_others(self) -> int | None:
        """The UDP port of the gateways of other hosts, or None."""
        if self.default_port is None and self.node.address is None:
            return self.udp_address[1]
        return self.default_port
