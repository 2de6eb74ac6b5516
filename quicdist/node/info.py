"""Statistics of a node and of its connections: snapshots taken by `Node.stats` and `Node.peer`."""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from quicdist.cluster.carrier import Carrier
from quicdist.cluster.connection_manager import Connections
from quicdist.cluster.peer import Peer
from quicdist.etf import Atom, Pid, Term
from quicdist.protocol.role import Role
from quicdist.runtime.counters import NodeCounters, Traffic
from quicdist.runtime.mailbox import Mailbox
from quicdist.runtime.process_table import ProcessTable

_FULLEST = 5
"""The number of mailboxes in `NodeStatistics.fullest`."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A connected node and its connection, at the time of the call."""

    name: str
    creation: int
    """The incarnation of that node, 32 bits. The text form of a pid does not contain it."""

    is_hidden: bool
    can_spawn: bool
    """Whether the node supports SPAWN_REQUEST, which `erpc` needs. OTP before 23 does not; see
    `Node.rpc`."""

    role: Role
    """Whether this node dialed or accepted the connection."""

    carrier: str
    """The carrier: `quicdist`, `quic_dist`, `tcp`, and so on."""

    alpn: str
    """The ALPN protocol ID negotiated in the TLS handshake; empty without TLS."""

    cipher: str
    """The TLS cipher suite; empty if unknown."""

    local_address: tuple[str, int]
    peer_address: tuple[str, int]

    since: float
    """Unix time when the connection was established, in seconds."""

    traffic: Traffic
    """Counters of this connection."""

    bytes_queued: int
    """Bytes of messages to the peer that the carrier has not accepted yet."""

    is_held_back: bool
    """Whether full receivers on this node pause reading from the peer."""

    bytes_unacknowledged: int
    """Bytes that the carrier has sent and the peer has not acknowledged."""

    round_trip: float | None
    """The smoothed round-trip time in seconds, or None if the carrier does not measure it."""

    path: str = "plain"
    """How datagrams travel: `plain` to the dialed address, `relayed`, or `direct` to a node that
    was dialed at a relay."""

    path_switches: int = 0
    """How often the path changed between the relay and a direct one."""

    datagrams_sent: int = 0
    """Packets sent by QUIC, including those without data."""

    datagram_size: int = 0
    """Maximum UDP payload in bytes of sent datagrams; 0 for a carrier without datagrams."""

    pacing_rate: float = 0.0
    """Bytes per second at which congestion control sends; 0 if it is unknown."""

    flow_blocked: float = 0.0
    """Seconds in which data waited for flow control credit of the peer and for nothing else: its
    receive window is small, or it consumes slowly (RFC 9000, 4.1)."""


@dataclass(frozen=True, slots=True)
class MailboxInfo:
    """The fill level of one mailbox."""

    pid: Pid
    name: str | None
    messages: int
    """The number of queued messages."""

    bytes: int
    """Their size in bytes."""


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Statistics of a node. Counters start at zero when the node starts and never decrease."""

    name: str
    creation: int
    """The incarnation of the node, 32 bits, new at each start."""

    since: float
    """Unix time of the start, in seconds."""

    processes: int
    """The number of processes, including system processes."""

    mailboxes: int
    """The number of mailboxes."""

    messages_waiting: int
    """The number of messages queued in all mailboxes."""

    bytes_waiting: int
    """The size of these messages in bytes."""

    messages_dropped: int
    """Messages dropped by full mailboxes (`WhenFull.DROP`)."""

    mailboxes_killed: int
    """Processes ended because their mailbox was full (`WhenFull.KILL`)."""

    signals_refused: int
    """Answers, DOWN signals, spawn replies, monitors and demonitors that were dropped because
    they came from a node that may not send them."""

    fullest: Sequence[MailboxInfo]
    """The mailboxes with the most queued bytes: at most five, none of them empty."""

    connections: Sequence[PeerInfo]
    """The established connections."""

    connecting: int
    """The number of connections, dialed and accepted, that are not established yet."""

    dialed: int
    """Connections that this node dialed and that were established."""

    accepted: int
    """Connections that this node accepted and that were established."""

    ended: Mapping[str, int]
    """Established connections that ended, by reason; see `quicdist.runtime.counters.Ending`."""

    refused: Mapping[str, int]
    """Incoming connections that were not established, by reason. Carriers count with
    `quicdist.carriers.reject_reason.RejectReason`, the distribution handshake with `Ending`."""

    traffic: Traffic
    """Counters summed over all connections since the start."""

    certificate_expires: float | None = None
    """Unix time when the certificate of this node expires, in seconds; None if it has not needed
    one."""

    is_draining: bool = False
    """Whether the node refuses new calls; see `Node.drain`."""

    @property
    def dialled(self) -> int:
        """Deprecated name of `dialed`, for one release."""
        warnings.warn(f"{type(self).__name__}.dialled is now dialed", DeprecationWarning, 2)
        return self.dialed


def peer_info(peer: Peer) -> PeerInfo:
    """Returns the information about an established connection."""
    connection = peer.connection
    carrier = connection.statistics()
    return PeerInfo(
        name=str(peer.name),
        creation=peer.creation,
        is_hidden=peer.is_hidden,
        can_spawn=peer.can_spawn,
        role=connection.role,
        carrier=connection.traits.name,
        alpn=connection.traits.alpn,
        # Only carriers with TLS have a cipher.
        cipher=str(getattr(connection, "cipher", "")),
        local_address=connection.local_address,
        peer_address=connection.peer_address,
        since=peer.up_since,
        traffic=peer.traffic(carrier),
        bytes_queued=peer.outbox.queued,
        bytes_unacknowledged=carrier.bytes_unacknowledged,
        round_trip=carrier.round_trip,
        path=carrier.path.value,
        path_switches=carrier.path_switches,
        datagrams_sent=carrier.datagrams_sent,
        datagram_size=carrier.datagram_size,
        pacing_rate=carrier.pacing_rate,
        flow_blocked=carrier.flow_blocked,
        is_held_back=peer.is_held_back,
    )


def connection_term(info: PeerInfo) -> dict[Term, Term]:
    """Returns a connection as an Erlang map. The round-trip time is in microseconds."""
    trip = info.round_trip
    # Readers of this map know its keys, and show the carrier as it is.
    path = "" if info.path == "plain" else f", {info.path}"
    return {
        Atom("node"): Atom(info.name),
        Atom("carrier"): f"{info.alpn or info.carrier}{path}".encode(),
        Atom("since"): int(info.since),
        Atom("round_trip"): Atom("undefined") if trip is None else int(trip * 1e6),
        Atom("bytes_received"): info.traffic.bytes_received,
        Atom("bytes_sent"): info.traffic.bytes_sent,
        Atom("datagrams_lost"): info.traffic.datagrams_lost,
        Atom("bytes_queued"): info.bytes_queued,
    }


def node_statistics(
    system: ProcessTable,
    connections: Connections,
    carriers: Iterable[Carrier],
    counters: NodeCounters,
    since: float,
    certificate_expires: float | None = None,
) -> NodeStatistics:
    """Returns the statistics of a running node."""
    mailboxes = [one for one in system.processes.values() if isinstance(one, Mailbox)]
    filled = [one for one in mailboxes if one.level.size]
    peers = [peer_info(peer) for peer in connections.up.values()]
    return NodeStatistics(
        name=system.name,
        creation=system.identifiers.creation,
        since=since,
        processes=len(system.processes),
        mailboxes=len(mailboxes),
        messages_waiting=sum(one.message_count for one in filled),
        bytes_waiting=sum(one.level.size for one in filled),
        messages_dropped=system.overflows.dropped,
        mailboxes_killed=system.overflows.killed,
        signals_refused=system.calls.refused,
        fullest=[
            MailboxInfo(one.pid, one.name, one.message_count, one.level.size)
            for one in heapq.nlargest(_FULLEST, filled, key=lambda one: one.level.size)
        ],
        connections=peers,
        connecting=connections.in_progress,
        dialed=counters.dialed,
        accepted=counters.accepted,
        ended=counters.ended_by_reason(),
        refused=counters.refused_by_reason(carrier.rejected() for carrier in carriers),
        traffic=sum((peer.traffic for peer in peers), counters.past),
        certificate_expires=certificate_expires,
        is_draining=system.is_draining,
    )
