"""The fixtures of tests/node: nodes on loopback, and a stock Erlang behind a gateway."""

from tests.node.conftest import beam, identity, make_node

__all__ = ["beam", "identity", "make_node"]
