"""The node's fixtures: nodes on loopback, and a stock Erlang behind a gateway."""

from tests.node.conftest import _state, beam, identity, make_node

__all__ = ["_state", "beam", "identity", "make_node"]
