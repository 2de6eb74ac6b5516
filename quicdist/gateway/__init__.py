"""A stock BEAM node's TCP distribution on one side, QUIC on the other, no terms read between
but for what a policy asks.

The BEAM runs with the Erlang module shipped here as its EPMD, and finds every other node through
it. The handshake stays between the two nodes: the gateway never knows the cookie.
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
