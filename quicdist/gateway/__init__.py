"""A gateway for stock BEAM nodes: TCP distribution on one side, QUIC on the other.

The BEAM node runs with the Erlang module of this package as its EPMD module and looks up all other
nodes through it. The distribution handshake takes place between the two nodes, so the gateway does
not need the cookie. Terms are decoded only as far as a policy requires.
"""

from quicdist.cluster.policy import Mode, PeerRules, Pids, Policy
from quicdist.cluster.policy_file import PolicyError, parse_policy, read_policy
from quicdist.gateway.erlang import EmitError, Emitted, emit_module, erl_arguments, gateway_port
from quicdist.gateway.gateway import Gateway, GatewayError, run
from quicdist.gateway.info import GatewayStatistics, RelayInfo
from quicdist.gateway.settings import GatewaySettings

__all__ = [
    "EmitError",
    "Emitted",
    "Gateway",
    "GatewayError",
    "GatewaySettings",
    "GatewayStatistics",
    "Mode",
    "PeerRules",
    "Pids",
    "Policy",
    "PolicyError",
    "RelayInfo",
    "emit_module",
    "erl_arguments",
    "gateway_port",
    "parse_policy",
    "read_policy",
    "run",
]
