"""The node's fixtures: nodes on loopback, and a stock Erlang behind a gateway."""

from tests.node.conftest import beam, identity, make_node

__all__ = ["beam", "identity", "make_node"]
