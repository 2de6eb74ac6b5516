"""What a node can tell of itself and of its connections to others, at one moment."""

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
"""Mailboxes that statistics name."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A connected node, and the connection at this moment."""

    name: str
    creation: int
    """Which life of that node it is: 32 bits, what a pid that it shows in its shell lacks."""

    is_hidden: bool
    can_spawn: bool
    """Whether it takes calls as `erpc` makes them; of OTP before 23 it does not (see
    `Node.rpc`)."""

    role: Role
    """Whether we dialed, or were dialed."""

    carrier: str
    """`quicdist`, `quic_dist`, `tcp`, ..."""

    alpn: str
    """What was agreed on in the TLS handshake; empty where there is no TLS."""

    cipher: str
    """The TLS cipher suite; empty where it is not known."""

    local_address: tuple[str, int]
    peer_address: tuple[str, int]

    since: float
    """Unix time when it came up, in seconds."""

    traffic: Traffic
    """All that went over it."""

    bytes_queued: int
    """Messages to it that the carrier has not taken yet."""

    is_held_back: bool
    """Whether receivers here keep it from sending on."""

    bytes_unacknowledged: int
    """What the carrier has taken, and the peer has not acknowledged."""

    round_trip: float | None
    """Seconds to the peer and back, smoothed; None where the carrier does not know."""


@dataclass(frozen=True, slots=True)
class MailboxInfo:
    """One mailbox."""

    pid: Pid
    name: str | None
    messages: int
    """Waiting in it."""

    bytes: int
    """What they take up."""


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """A node. What is counted is counted since its start, and only grows."""

    name: str
    creation: int
    """Which life of it: 32 bits, new at each start."""

    since: float
    """Unix time of its start, in seconds."""

    processes: int
    """All that have a pid, the node's own servers included."""

    mailboxes: int
    """Those of them that are mailboxes."""

    messages_waiting: int
    """In all mailboxes."""

    bytes_waiting: int
    """What these messages take up."""

    messages_dropped: int
    """Thrown away by full mailboxes (`WhenFull.DROP`)."""

    mailboxes_killed: int
    """Processes ended because their mailbox was full (`WhenFull.KILL`)."""

    signals_refused: int
    """Answers, DOWN signals, spawn replies, monitors and demonitors that were dropped, because
    only another node than the one they came from may send them."""

    fullest: Sequence[MailboxInfo]
    """The mailboxes that hold most, at most five, none of them empty."""

    connections: Sequence[PeerInfo]
    """Those that are up."""

    connecting: int
    """Those that are not up yet, made by us and made to us."""

    dialed: int
    """Connections that came up, made by us ..."""

    accepted: int
    """... and made to us."""

    ended: Mapping[str, int]
    """Connections that were up and are gone, by why: see `quicdist.runtime.counters.Ending`."""

    refused: Mapping[str, int]
    """What was made to us and did not come up, by why: by the carriers, see
    `quicdist.carriers.reject_reason.RejectReason`, and in the distribution handshake, see
    `Ending`."""

    traffic: Traffic
    """Over all connections there have been."""

    certificate_expires: float | None = None
    """Unix time when our certificate ends to be valid; None where none was needed yet."""

    @property
    def dialled(self) -> int:
        """Deprecated name of `dialed`, for one release."""
        warnings.warn(f"{type(self).__name__}.dialled is now dialed", DeprecationWarning, 2)
        return self.dialed


def peer_info(peer: Peer) -> PeerInfo:
    """Of a connection that is up."""
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
        # Only carriers with TLS have one.
        cipher=str(getattr(connection, "cipher", "")),
        local_address=connection.local_address,
        peer_address=connection.peer_address,
        since=peer.up_since,
        traffic=peer.traffic(carrier),
        bytes_queued=peer.outbox.queued,
        bytes_unacknowledged=carrier.bytes_unacknowledged,
        round_trip=carrier.round_trip,
        is_held_back=peer.is_held_back,
    )


def connection_term(info: PeerInfo) -> dict[Term, Term]:
    """A connection as a map, for other nodes. The round trip is in microseconds."""
    trip = info.round_trip
    return {
        Atom("node"): Atom(info.name),
        Atom("carrier"): (info.alpn or info.carrier).encode(),
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
    """Of a node that runs."""
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
        refused=counters.refused_by_reason(carrier.refusals() for carrier in carriers),
        traffic=sum((peer.traffic for peer in peers), counters.past),
        certificate_expires=certificate_expires,
    )
