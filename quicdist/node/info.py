"""What a node can tell of its connection to another one."""

from __future__ import annotations

from dataclasses import dataclass

from quicdist.carriers.base import ConnectionStatistics
from quicdist.node.peer import Peer


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A connected node, and the connection at this moment."""

    name: str
    creation: int
    """Which life of that node it is: 32 bits, what a pid that it shows in its shell lacks."""

    is_hidden: bool
    carrier: str
    """`quicdist`, `quic_dist`, `tcp`, ..."""

    alpn: str
    """What was agreed on in the TLS handshake; empty where there is no TLS."""

    cipher: str
    """The TLS cipher suite; empty where it is not known."""

    local_address: tuple[str, int]
    peer_address: tuple[str, int]
    statistics: ConnectionStatistics


def peer_info(peer: Peer) -> PeerInfo:
    """Of a link that is up."""
    connection = peer.connection
    return PeerInfo(
        name=str(peer.name),
        creation=peer.creation,
        is_hidden=peer.is_hidden,
        carrier=connection.traits.name,
        alpn=connection.traits.alpn,
        # Only carriers with TLS have one.
        cipher=str(getattr(connection, "cipher", "")),
        local_address=connection.local_address,
        peer_address=connection.peer_address,
        statistics=connection.statistics(),
    )
