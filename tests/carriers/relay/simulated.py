"""A network without sockets: hosts behind NATs, a relay between them, and a clock of its own.

Times are seconds. One seed, one outcome.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from quicdist.carriers.relay.candidates import Address, Candidate, own_candidates
from quicdist.carriers.relay.offers import decode
from quicdist.carriers.relay.paths import (
    Output,
    PathMode,
    PeerPaths,
    SendOffer,
    Switched,
    Unreachable,
)
from quicdist.carriers.relay.punching import Transmit
from quicdist.protocol.role import Role

RELAY: Address = ("203.0.113.10", 4433)
INSIDE: Address = ("192.168.1.5", 4433)
MAPPING_LIFE = 30.0
_KEEP_ALIVE = 10.0
"""Between two messages to the relay, which answers with the observed address."""


class Filtering(enum.Enum):
    """What a NAT lets in for a mapping (RFC 4787, 5)."""

    ENDPOINT_INDEPENDENT = "any"
    ADDRESS = "address"
    ADDRESS_AND_PORT = "address and port"


@dataclass(frozen=True)
class NatKind:
    """A NAT in the terms of RFC 4787."""

    name: str
    is_symmetric: bool = False
    filtering: Filtering = Filtering.ADDRESS_AND_PORT
    keeps_port: bool = True
    is_spoiled: bool = False
    """An unasked packet of a peer takes the port, so that the mapping towards it gets another."""
    is_blocking: bool = False
    """No UDP passes."""


OPEN = None
MASQ = NatKind("masq")
NOFW = NatKind("masqnofw", is_spoiled=True)
FULL = NatKind("fullcone", filtering=Filtering.ENDPOINT_INDEPENDENT)
ADDRESS = NatKind("addrcone", filtering=Filtering.ADDRESS)
SHIFT = NatKind("shift", keeps_port=False)
SYMMETRIC = NatKind("sym", is_symmetric=True, keeps_port=False)
BLOCKED = NatKind("udpblock", is_blocking=True)
KINDS: Sequence[NatKind | None] = (OPEN, FULL, ADDRESS, MASQ, SHIFT, NOFW, SYMMETRIC, BLOCKED)


class Nat:
    """The state of one NAT with one public address."""

    def __init__(self, kind: NatKind, public: str, ports: random.Random) -> None:
        self.kind = kind
        self.public = public
        self._random = ports
        self._ports: dict[tuple[Address, Address | None], int] = {}
        self._inside: dict[int, Address] = {}
        self._passed: dict[tuple[int, Address], float] = {}
        self._taken: dict[tuple[int, Address], float] = {}

    def flush(self) -> None:
        """Forgets all mappings, as after a restart."""
        for state in (self._ports, self._inside, self._passed, self._taken):
            state.clear()

    def out(self, source: Address, to: Address, now: float) -> Address | None:
        """Returns the outside source address of a datagram."""
        if self.kind.is_blocking:
            return None
        key = (source, to if self.kind.is_symmetric else None)
        own = self._ports.get((source, to))
        if own is not None and now - self._passed.get((own, to), now) >= MAPPING_LIFE:
            del self._ports[source, to]
        port = self._ports.get((source, to), self._ports.get(key))
        if port is None:
            port = self._ports[key] = self._new_port(source)
            self._inside[port] = source
        if now - self._taken.get((port, to), -MAPPING_LIFE) < MAPPING_LIFE:
            port = self._new_port((source[0], 0))
            self._inside[port] = source
            self._ports[source, to] = port
        self._passed[port, to] = now
        return self.public, port

    def into(self, port: int, source: Address, now: float) -> Address | None:
        """Returns the inside address to which a datagram goes, None if it is dropped."""
        inside = self._inside.get(port)
        if inside is None or not self._is_let_in(port, source, now):
            if self.kind.is_spoiled and (port, source) not in self._passed:
                self._taken[port, source] = now
            return None
        return inside

    def _is_let_in(self, port: int, source: Address, now: float) -> bool:
        if self.kind.filtering is Filtering.ENDPOINT_INDEPENDENT:
            return True
        for (mapped, peer), at in self._passed.items():
            is_fresh = mapped == port and now - at < MAPPING_LIFE
            if is_fresh and self.kind.filtering is Filtering.ADDRESS and peer[0] == source[0]:
                return True
            if is_fresh and peer == source:
                return True
        return False

    def _new_port(self, source: Address) -> int:
        if self.kind.keeps_port and source[1] and source[1] not in self._inside:
            return source[1]
        while (port := self._random.randrange(20_000, 60_000)) in self._inside:
            pass
        return port


@dataclass
class Host:
    """A machine with one socket, and the NATs between it and the public segment."""

    name: str
    inside: Address
    lan: str
    nats: Sequence[Nat] = ()
    receive: Callable[[bytes, Address], None] = lambda data, source: None

    @property
    def public(self) -> str:
        return self.nats[-1].public if self.nats else self.inside[0]


@dataclass
class Network:
    """The clock, the public segment and the local networks."""

    seed: int = 1
    delay: float = 0.02
    loss: float = 0.0
    now: float = 100.0
    hosts: list[Host] = field(default_factory=list)
    is_cut: bool = False
    """Whether no datagram passes between the hosts; the relay is not affected."""
    strays: list[tuple[str, Address]] = field(default_factory=list)
    """Senders and destinations of datagrams to addresses that no host has."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def host(self, name: str, *kinds: NatKind | None, lan: str = "") -> Host:
        """Adds a host behind NATs of these kinds, the innermost first."""
        index = len(self.hosts)
        chain = [kind for kind in kinds if kind is not None]
        publics = [f"100.64.{index}.{level}" for level in range(len(chain) - 1)]
        publics.append(f"203.0.113.{20 + index}")
        nats = [Nat(kind, ip, self.random) for kind, ip in zip(chain, publics, strict=False)]
        inside = INSIDE if nats else (publics[-1], INSIDE[1])
        host = Host(name, inside, lan or name, nats)
        self.hosts.append(host)
        return host

    def at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), action))

    def run(self, seconds: float) -> None:
        """Runs everything that happens in this time."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            time, _, action = heapq.heappop(self._events)
            self.now = max(self.now, time)
            action()
        self.now = end

    def observed(self, host: Host) -> Address | None:
        """Returns the source address of the host's datagrams at the relay."""
        return self._outside(host, RELAY)

    def send(self, host: Host, data: bytes, to: Address) -> None:
        """Sends a datagram from a host. Each NAT acts when the datagram reaches it."""
        neighbour = next((one for one in self.hosts if self._is_near(host, one, to)), None)
        if neighbour is not None:
            self.at(self.now, lambda: neighbour.receive(data, host.inside))
            return
        source = self._outside(host, to)
        if source is None or self.is_cut or self.random.random() < self.loss:
            return
        self.at(self.now + self.delay, lambda: self._arrive(host, data, source, to))

    def _is_near(self, host: Host, other: Host, to: Address) -> bool:
        return other.lan == host.lan and other.inside == to

    def _outside(self, host: Host, to: Address) -> Address | None:
        source: Address | None = host.inside
        for nat in host.nats:
            source = nat.out(source, to, self.now) if source is not None else None
        return source

    def _arrive(self, sender: Host, data: bytes, source: Address, to: Address) -> None:
        target = next((one for one in self.hosts if one.public == to[0]), None)
        if target is None:
            self.strays.append((sender.name, to))
            return
        inside: Address | None = to
        for nat in reversed(target.nats):
            inside = nat.into(inside[1], source, self.now) if inside is not None else None
        if inside == target.inside:
            target.receive(data, source)


class Relay:
    """Carries data, and the offers in order, between two nodes while it is up."""

    def __init__(self, network: Network, delay: float) -> None:
        self.network = network
        self.delay = delay
        self.is_up = True

    def carry(self, action: Callable[[], None]) -> None:
        if self.is_up:
            self.network.at(self.network.now + self.delay, action)


class SimulatedNode:
    """A node with one relayed connection. Its offers are sent until they arrive, as by QUIC."""

    def __init__(self, host: Host, role: Role, relay: Relay, mode: PathMode) -> None:
        self.host = host
        self.relay = relay
        self.network = relay.network
        self.peer: SimulatedNode
        self.paths = PeerPaths(role, mode, random=self.network.random.randbytes)
        self.received: list[float] = []
        self.events: list[Switched | Unreachable] = []
        self.pinged: set[Address] = set()
        """Where this node has sent pings and pongs."""
        self.asked: set[Address] = set()
        """Where datagrams to this node came from."""
        self.offered: set[Address] = set()
        """What the peer has offered."""
        self._offers: deque[bytes] = deque()
        self._planned: float | None = None
        host.receive = self._receive
        self._observed: Address | None = None
        self._keep_alive()

    def _keep_alive(self) -> None:
        """Asks the relay for the observed address."""
        observed = self.network.observed(self.host)
        if observed != self._observed:
            self._observed = observed
            self.paths.own = self.candidates(observed)
            self.paths.renew(self.network.now)
            self._plan()
        self.network.at(self.network.now + _KEEP_ALIVE, self._keep_alive)

    def candidates(self, observed: Address | None) -> Sequence[Candidate]:
        host, port = self.host.inside
        return own_candidates([host], port, observed=[observed] if observed else [])

    def start(self) -> None:
        """Begins the search, after the peer has proved the cookie."""
        self.perform(self.paths.proved(self.network.now))

    def send(self) -> None:
        """Sends data to the peer along the current path."""
        self._carry(b"data", lambda: self.peer.took_data())
        self.perform(())

    def took_data(self) -> None:
        self.received.append(self.network.now)

    def perform(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case Transmit():
                    self.pinged.add(output.address)
                    self.network.send(self.host, *output)
                case SendOffer():
                    self._offers.append(output.data)
                    if len(self._offers) == 1:
                        self._send_offer()
                case Switched() | Unreachable():
                    self.events.append(output)
        self._plan()

    def _carry(self, data: bytes, action: Callable[[], None]) -> None:
        address = self.paths.address
        if address is None:
            self.relay.carry(action)
            return
        self.paths.sent(self.network.now)
        self.network.send(self.host, data, address)

    def _send_offer(self) -> None:
        """Sends the first offer that the peer has not, and again later."""
        if not self._offers:
            return
        offer = self._offers[0]
        self._carry(b"offer" + offer, lambda: self.peer.took_offer(offer))
        self.network.at(self.network.now + 0.5, self._send_offer)

    def took_offer(self, data: bytes) -> None:
        if not self.peer._offers or self.peer._offers[0] is not data:
            return  # a duplicate
        self.peer._offers.popleft()
        self.offered |= {candidate.address for candidate in decode(data).candidates}
        round_trip = 2 * self.relay.delay
        self.perform(self.paths.offer_received(data, self.network.now, round_trip))

    def _receive(self, data: bytes, source: Address) -> None:
        if data == b"data":
            self.took_data()
        elif data[:5] == b"offer":
            waiting = self.peer._offers
            if waiting and waiting[0] == data[5:]:
                self.took_offer(waiting[0])
        else:
            self.asked.add(source)
            self.perform(self.paths.receive(data, source, self.network.now))

    def _plan(self) -> None:
        due = self.paths.next_at
        if due == self._planned or due == float("inf"):
            return
        self._planned = due
        self.network.at(max(due, self.network.now), lambda: self._tick(due))

    def _tick(self, planned: float) -> None:
        if planned == self._planned:
            self._planned = None
        if self.paths.next_at <= self.network.now:
            self.perform(self.paths.tick(self.network.now))
        self._plan()


def connect(
    network: Network,
    dialer: Host,
    listener: Host,
    *,
    modes: tuple[PathMode, PathMode] = (PathMode.AUTO, PathMode.AUTO),
    relay_delay: float = 0.02,
) -> tuple[SimulatedNode, SimulatedNode]:
    """Returns both ends of a relayed connection whose nodes have proved the cookie."""
    relay = Relay(network, relay_delay)
    a = SimulatedNode(dialer, Role.DIALER, relay, modes[0])
    b = SimulatedNode(listener, Role.LISTENER, relay, modes[1])
    a.peer, b.peer = b, a
    a.start()
    b.start()
    return a, b
