"""The fixtures of the node tests."""

from tests.node.conftest import identity, make_node

__all__ = ["identity", "make_node"]
