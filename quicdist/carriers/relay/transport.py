"""The UDP socket of a node with a relay: it chooses the path of each datagram below QUIC.

QUIC sees one constant `Path` for each peer, whatever way its datagrams take:

- A peer that dialed the port at the relay has its true address, and as local address the address of
  that port (`frames.pack_address`): the node was met there.
- A peer that this node dials has the address that was dialed.

`Paths.direct` maps a constant path to the real address of the peer once a direct path is validated.
Datagrams that come directly are routed by connection ID; the connection gives them to QUIC as if
they came over the constant path.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from quicdist.carriers.quic.ecn import NOT_ECT
from quicdist.carriers.quic.engine import Batch, CompiledSocket, Path, Received, SocketAddress
from quicdist.carriers.quic.udp import UdpSocket
from quicdist.carriers.relay.batches import common_head, with_heads, without_heads
from quicdist.carriers.relay.frames import (
    FIRST_QUIC_BYTE,
    Address,
    data_head,
    head_size,
    pack_address,
    unpack_address,
)

_MOST_HEADS = 4096

Aside = Callable[[bytes, SocketAddress], None]
"""Takes a datagram that is neither QUIC nor from the relay: a punch of a peer."""


class FrameStream(Protocol):
    """The TLS connection to the relay."""

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Sends frames; drops them if too much waits to be sent."""


@dataclass(slots=True)
class PathCounters:
    """Datagrams since the start."""

    relayed_out: int = 0
    relayed_in: int = 0
    direct_out: int = 0
    direct_in: int = 0
    dropped: int = 0
    """Datagrams for relayed peers while there was no connection to the relay."""
    forged: int = 0
    """Frames that were not from the relay, or malformed."""


def _nobody(data: bytes, address: SocketAddress) -> None:
    """Nobody punches."""


def _nothing() -> None:
    """No path is checked."""


class Paths:
    """What the sockets of a node know about its paths. It survives `Endpoint.rebind`."""

    def __init__(self) -> None:
        self.counters = PathCounters()
        self.relay: SocketAddress | None = None
        """The address of the relay, while its QUIC connection is up: data frames are accepted from
        there only."""
        self.stream: FrameStream | None = None
        """The TLS connection, where it is used in place of UDP."""
        self.relay_host = ""
        """The numeric address of the relay."""
        self.local = b""
        """The packed address of our port at the relay; empty before there is one."""
        self.direct: dict[Path, SocketAddress] = {}
        """The real address of a peer, by its constant path."""
        self.addresses: set[SocketAddress] = set()
        """The real addresses of peers with direct paths."""
        self.pinged: set[SocketAddress] = set()
        """Where pings go. ICMP errors from there say nothing about dial attempts."""
        self.is_used = False
        """Whether there is a relay or a direct path. Without one the socket is a plain one."""
        self.sent: set[Path] = set()
        """The constant paths of datagrams that were sent directly. The reader clears it."""
        self.on_sent: Callable[[], None] = _nothing
        """Called when a path is added to `sent`."""
        self.aside: Aside = _nobody
        self.socket: RelayedSocket | None = None
        """The current socket."""
        self.family: int = socket.AF_INET
        self.on_ready: Callable[[], None] | None = None
        self._inbox: list[Received] = []
        self._heads: dict[SocketAddress, bytes] = {}
        self._addresses: dict[bytes, SocketAddress] = {}

    def bound(self, sock: RelayedSocket, family: int) -> None:
        """Takes the current socket."""
        self.socket, self.family = sock, family
        self._addresses.clear()

    # -- for direct paths -----------------------------------------------------------------------

    def use_direct(self, peer: Path, address: SocketAddress) -> None:
        """Sends the datagrams of a peer to its real address from now on."""
        self.direct[peer] = address
        self.addresses.add(address)

    def use_relay(self, peer: Path) -> None:
        """Sends the datagrams of a peer through the relay again.

        Late ones that come directly are still accepted.
        """
        address = self.direct.pop(peer, None)
        if address is not None and address not in self.direct.values():
            self.addresses.discard(address)

    def send_aside(self, data: bytes, address: Address) -> None:
        """Sends one datagram that is not QUIC; errors are ignored."""
        if self.socket is not None and self.socket.fileno() >= 0:
            self.socket.send_aside(data, self.socket_address(address))

    def can_reach(self, address: Address) -> bool:
        """Returns whether the socket reaches addresses of this family."""
        if ":" in address[0]:
            return self.family == socket.AF_INET6
        return self.socket is not None and self.socket.takes_ipv4

    # -- in -------------------------------------------------------------------------------------

    def sort(self, batches: Sequence[Received]) -> list[Received]:
        """Returns the QUIC datagrams among those of the socket.

        Relayed ones get their constant path. Marks of the path to the relay are not those of the
        whole path.
        """
        found, self._inbox = self._inbox, []
        for batch in batches:
            data, size, path, ecn = batch
            if size < len(data):
                self._sort_merged(batch, found)
            elif data:
                self._sort_one(data, path, ecn, found)
        return found

    def _sort_merged(self, batch: Received, found: list[Received]) -> None:
        data, size, path, ecn = batch
        if min(data[::size]) >= FIRST_QUIC_BYTE:
            if path[0] in self.addresses:
                self.counters.direct_in += -(-len(data) // size)
            found.append(batch)
            return
        head = common_head(data, size) if self.local and path[0] == self.relay else 0
        if head:
            parts = without_heads(data, size, head)
            self.counters.relayed_in += len(parts)
            constant = (self._unpacked(data[1:head]), self.local)
            found.append((b"".join(parts), size - head, constant, NOT_ECT))
            return
        for at in range(0, len(data), size):
            self._sort_one(data[at : at + size], path, ecn, found)

    def _sort_one(self, data: bytes, path: Path, ecn: int, found: list[Received]) -> None:
        if data[0] >= FIRST_QUIC_BYTE:
            if path[0] in self.addresses:
                self.counters.direct_in += 1
            found.append((data, len(data), path, ecn))
        elif head_size(data[0]):
            if path[0] == self.relay:
                self._unwrap(data, found)
            else:
                self.counters.forged += 1
        else:
            self.aside(data, path[0])

    def frames_arrived(self, frames: Sequence[bytes]) -> None:
        """Takes data frames from the TLS connection and wakes the endpoint."""
        for frame in frames:
            self._unwrap(frame, self._inbox)
        if self._inbox and self.on_ready is not None:
            self.on_ready()

    def _unwrap(self, frame: bytes, found: list[Received]) -> None:
        size = head_size(frame[0]) if frame else 0
        if not self.local or not 0 < size < len(frame) or frame[size] < FIRST_QUIC_BYTE:
            self.counters.forged += 1
            return
        self.counters.relayed_in += 1
        constant = (self._unpacked(frame[1:size]), self.local)
        found.append((frame[size:], len(frame) - size, constant, NOT_ECT))

    def _unpacked(self, packed: bytes) -> SocketAddress:
        """The address in a data frame, in the form that the socket of this node has."""
        known = self._addresses.get(packed)
        if known is None:
            if len(self._addresses) >= _MOST_HEADS:
                self._addresses.clear()
            known = self._addresses[packed] = self.socket_address(unpack_address(packed))
        return known

    def socket_address(self, address: Address) -> SocketAddress:
        """The address in the form that the socket of this node has."""
        host, port = address
        if self.family == socket.AF_INET:
            return host, port
        return (f"::ffff:{host}" if ":" not in host else host), port, 0, 0

    # -- out ------------------------------------------------------------------------------------

    def is_relayed(self, path: Path) -> bool:
        """Whether datagrams on this constant path go through the relay if not directly."""
        if path[1] is not None and path[1] == self.local:
            return True
        # Where UDP is blocked, other ports of the relay are reached through it.
        return self.stream is not None and _plain(path[0][0]) == self.relay_host

    def wrapped(self, batches: Sequence[Batch], to: SocketAddress, over: Path) -> list[Batch]:
        """The data frames for datagrams to one address, on the path `over` to the relay."""
        head = self._heads.get(to)
        if head is None:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            head = self._heads[to] = data_head((_plain(to[0]), to[1]))
        self.counters.relayed_out += _count(batches)
        longer = len(head)
        return [
            (with_heads(data, size, head) if size < len(data) else head + data, size + longer, over)
            for data, size, _ in batches
        ]


def _count(batches: Sequence[Batch]) -> int:
    """The number of datagrams."""
    return sum(-(-len(data) // size) if size else 1 for data, size, _ in batches)


class RelayedSocket(UdpSocket):
    """The socket; `Paths.bind` makes it."""

    paths: Paths

    def leave_unmarked(self, address: SocketAddress) -> None:
        """Sends without ECT(0) to a peer, whichever way the datagrams take."""
        super().leave_unmarked(address)
        for path, real in self.paths.direct.items():
            if path[0] == address:
                super().leave_unmarked(real)

    def receive(self, limit: int) -> list[Received]:
        """The QUIC datagrams among about `limit` of those that wait."""
        batches = super().receive(limit)
        if not self.paths.is_used:
            return batches
        if self.bounced:
            for address in self.paths.pinged & self.bounced.keys():
                del self.bounced[address]
        return self.paths.sort(batches)

    def sender_to(self, address: SocketAddress) -> CompiledSocket | None:
        """Nothing while the paths of some peers are chosen."""
        return None if self.paths.is_used else super().sender_to(address)

    def send_all(self, batches: Sequence[Batch]) -> None:
        """Sends datagrams in order, each on the path that is chosen for its peer."""
        if not self.paths.is_used or not batches:
            super().send_all(batches)
            return
        first = batches[0][2]
        if all(path is first or path == first for _, _, path in batches):
            self._send_chosen(batches, first)
            return
        for batch in batches:
            self._send_chosen((batch,), batch[2])

    def _send_chosen(self, batches: Sequence[Batch], path: Path) -> None:
        paths = self.paths
        real = paths.direct.get(path)
        if real is not None:
            paths.counters.direct_out += _count(batches)
            if path not in paths.sent:
                paths.sent.add(path)
                paths.on_sent()
            way = (real, None)
            super().send_all([(data, size, way) for data, size, _ in batches])
        elif not paths.is_relayed(path):
            super().send_all(batches)
        elif paths.stream is not None:
            frames = paths.wrapped(batches, path[0], path)
            paths.stream.send_frames(
                [
                    data[at : at + size]
                    for data, size, _ in frames
                    for at in range(0, len(data), size)
                ]
            )
        elif paths.relay is not None:
            if paths.relay not in self._unmarked:
                super().leave_unmarked(paths.relay)  # the relay passes no marks on
            super().send_all(paths.wrapped(batches, path[0], (paths.relay, None)))
        else:
            paths.counters.dropped += _count(batches)

    def send_aside(self, data: bytes, address: SocketAddress) -> None:
        """Sends one datagram that is not QUIC; errors are ignored."""
        with contextlib.suppress(OSError):
            self.send(data, (address, None))


def binder(paths: Paths) -> Callable[[SocketAddress, int, int], RelayedSocket]:
    """Returns what an endpoint binds its sockets with."""

    def bind(address: SocketAddress, family: int, buffer_size: int) -> RelayedSocket:
        sock = cast(RelayedSocket, RelayedSocket.bind(address, family, buffer_size))
        sock.paths = paths
        paths.bound(sock, family)
        return sock

    return bind


def met_at(local: bytes) -> Address:
    """The port at the relay that a relayed peer dialed, of its constant path."""
    return unpack_address(local)


def local_of(address: Address) -> bytes:
    """The local address of the constant paths of peers that dialed this port at the relay."""
    return pack_address(address)


def _plain(host: str) -> str:
    return host.removeprefix("::ffff:")
