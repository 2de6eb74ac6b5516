"""The node at one end of a path."""

from __future__ import annotations

from typing import Any

from quicdist import Identity, Node, Quic, Trust


def node_on(host: str, settings: dict[str, Any]) -> Node:
    """Returns a node on any free port of `host`. `settings` are those of `Quic`."""
    return Node(
        f"0@{host}",
        cookie="benchmark",
        carriers=[Quic(**settings)],
        identity=Identity.ephemeral([host]),
        trust=Trust.nothing(),
    )
