"""A relay and its clients on loopback: ports, forwarding, limits, forged frames."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from quicdist.carriers.base import Connection, ConnectionHandler, DialError
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.udp import UdpSocket
from quicdist.carriers.relay import server
from quicdist.carriers.relay.allocation import PortFileError, load
from quicdist.carriers.relay.allowed_keys import AllowedKeys
from quicdist.carriers.relay.client import RelayAddress, RelayClient
from quicdist.carriers.relay.frames import (
    Allocate,
    Lease,
    Message,
    Proof,
    Refusal,
    data_head,
    encode,
)
from quicdist.carriers.relay.registration import Way
from quicdist.carriers.relay.server import Relay
from quicdist.carriers.relay.slots import Slot
from quicdist.carriers.relay.statistics import Drop
from quicdist.carriers.relay.stream import with_length
from quicdist.carriers.trust import Credentials, Identity, Trust
from quicdist.errors import Cause
from quicdist.limits import RelayLimits
from tests.support.ports import free_ports
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io

HOST = "127.0.0.1"
UDP_SEGMENT = 103  # udp(7)
FOREIGN = Identity.ephemeral([HOST]).certificate.public_bytes(Encoding.DER)
QUIC = b"\x40 like a QUIC packet"


def nobody(connection: Connection) -> ConnectionHandler:
    raise ConnectionRefusedError("nobody is here")


@dataclass
class Bench:
    """A relay whose port and files are those of the test."""

    folder: Path
    port: int = 0
    tcp_port: int = 0
    limits: RelayLimits | None = None
    ports: range = field(default_factory=lambda: free_ports(100))
    allowed: Callable[[str], bool] | None = None

    @contextlib.asynccontextmanager
    async def relay(self) -> AsyncIterator[Relay]:
        identity = Identity.kept([HOST], self.folder / "relay")
        one = Relay(
            HOST,
            self.port,
            credentials=Credentials(identity, Trust.first_use(self.folder / "of_relay")),
            ports=self.ports,
            port_file=self.folder / "ports.json",
            tcp_port=self.tcp_port,
            may_use=self.allowed,
            limits=self.limits,
        )
        async with one:
            self.port = one.address[1]
            yield one

    @contextlib.asynccontextmanager
    async def node(
        self,
        identity: Identity | None = None,
        *,
        slot: int = 0,
        wanted: int = 0,
        lease: Lease = Lease.KEPT,
        tcp: bool = False,
        timeout: float = PATIENCE,
        instance: bytes | None = None,
    ) -> AsyncIterator[tuple[RelayClient, int]]:
        """A node with a port. With `tcp` its UDP datagrams to the relay are lost.

        `instance` identifies the process, as the node says.
        """
        trust = Trust.first_use(self.folder / "known_nodes")
        credentials = Credentials(identity or Identity.ephemeral([HOST]), trust)
        with black_hole() as hole:
            where = RelayAddress(HOST, hole if tcp else self.port, self.tcp_port)
            client = RelayClient(where, credentials, slot=Slot(slot), wanted=wanted, lease=lease)
            client._instance = instance or client._instance
            settings = QuicSettings(credentials)
            endpoint = await Endpoint.open(
                HOST, 0, settings=settings, accept=nobody, bind=client.bind
            )
            try:
                yield client, await client.register(endpoint, timeout)
            finally:
                client.leave()
                await endpoint.close(0.1)
                client.close()


def nothing_heard(way: Way, message: Message) -> None:
    """A node that takes no control message."""


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A UDP port that answers nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        yield sock.getsockname()[1]


class Peer:
    """A UDP socket of somebody who dials a port at the relay."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind((HOST, 0))
        self.address: tuple[str, int] = self._socket.getsockname()

    def send(self, data: bytes, port: int) -> None:
        self._socket.sendto(data, (HOST, port))

    def send_merged(self, datagrams: Sequence[bytes], port: int) -> None:
        """Sends datagrams of one size in one call, which the kernel may hand over in one buffer."""
        size = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(datagrams[0])))]
        self._socket.sendmsg(datagrams, size if len(datagrams) > 1 else [], 0, (HOST, port))

    def received(self) -> list[bytes]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(65535))
        return found

    def has_received(self, data: bytes) -> bool:
        return self.received() == [data]

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def relayed_to(client: RelayClient, count: int) -> None:
    await until(lambda: client.paths.counters.relayed_in >= count)


async def test_datagrams_pass_both_ways_and_the_node_sees_the_peer(bench: Bench) -> None:
    async with bench.relay() as relay, bench.node() as (client, port):
        with Peer() as peer:
            peer.send(QUIC, port)
            await relayed_to(client, 1)
            frame = data_head(peer.address) + QUIC
            send_frame(client, frame)
            await until(lambda: peer.received() == [QUIC] or None)
            assert relay.counters.bytes_out == relay.counters.bytes_in == len(QUIC)


def send_frame(client: RelayClient, frame: bytes) -> None:
    """Sends a data frame from the socket of the node."""
    assert client.paths.relay is not None
    assert client._endpoint is not None
    client._endpoint.send([(frame, len(frame), (client.paths.relay, None))])


async def test_nothing_is_sent_to_an_address_that_did_not_ask(bench: Bench) -> None:
    async with bench.relay() as relay, bench.node() as (client, port):
        with Peer() as peer, Peer() as other:
            peer.send(QUIC, port)
            await relayed_to(client, 1)
            send_frame(client, data_head(other.address) + QUIC)
            await until(lambda: relay.counters.dropped[Drop.NOT_PERMITTED] == 1)
            assert relay.counters.datagrams_out == 0
            assert other.received() == []


@pytest.mark.parametrize("core", ["compiled", "python"])
async def test_a_busy_client_is_forwarded_with_and_without_the_core(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, core: str
) -> None:
    monkeypatch.setenv("QUICDIST_PURE_PYTHON", "1" if core == "python" else "")
    async with bench.relay() as relay, bench.node() as (client, port):
        with Peer() as peer:
            for number in range(1, 301):
                data = b"\xc0" + bytes([number % 256]) * 1000  # no endpoint answers it
                peer.send(data, port)
                await relayed_to(client, number)
                send_frame(client, data_head(peer.address) + data)
                await until(partial(peer.has_received, data))
            total = 300 * 1001
            counters = relay.counters
            assert (counters.datagrams_in, counters.datagrams_out) == (300, 300)
            assert (counters.bytes_in, counters.bytes_out) == (total, total)
            assert not counters.dropped


async def outcomes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, core: str, seed: int
) -> tuple[Counter[str], list[bytes], list[bytes]]:
    """What a relay makes of hostile and honest datagrams: its counters, and what two peers got."""
    monkeypatch.setenv("QUICDIST_PURE_PYTHON", "1" if core == "python" else "")
    chance = random.Random(seed)
    async with bench.relay() as relay, bench.node() as (client, port):
        with Peer() as one, Peer() as other:
            heads = [data_head(one.address), data_head(other.address), data_head(("192.0.2.1", 9))]
            got: list[list[bytes]] = [[], []]
            counters = relay.counters

            def handled() -> int:
                forwarded = counters.datagrams_in + counters.datagrams_out
                return forwarded + counters.dropped.total()

            def arrived() -> int:
                for peer, found in zip((one, other), got, strict=True):
                    found += peer.received()
                return sum(map(len, got))

            def is_handled(count: int) -> bool:
                return handled() >= count

            sent = 0
            for _ in range(200):
                payload = bytes([chance.choice((0xC0, 0xC0, 0xC0, 0x20, 0x00))]) * chance.choice(
                    (1, 20, 1000)
                )
                count = chance.choice((1, 1, 2, 40))
                if chance.random() < 0.5:
                    chance.choice((one, other)).send_merged([payload] * count, port)
                else:
                    head = chance.choice((*heads, heads[0][:5], b"\x21" + heads[0][1:], b"\x01"))
                    frames = [head + payload] * (count - 1) + [(head + payload)[: len(head) + 1]]
                    assert client.paths.socket is not None
                    assert client.paths.relay is not None
                    UdpSocket.send_segments(client.paths.socket, frames, (client.paths.relay, None))
                sent += count
                await until(partial(is_handled, sent))
                assert handled() == sent
                await until(lambda: arrived() == counters.datagrams_out)
            found = Counter({reason.value: number for reason, number in counters.dropped.items()})
            found.update(datagrams_in=counters.datagrams_in, bytes_in=counters.bytes_in)
            found.update(datagrams_out=counters.datagrams_out, bytes_out=counters.bytes_out)
            return found, got[0], got[1]


@pytest.mark.parametrize("seed", range(3))
async def test_the_core_and_python_treat_all_datagrams_alike(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    bench.limits = RelayLimits(permission=3600)
    compiled = await outcomes(bench, monkeypatch, "compiled", seed)
    python = await outcomes(bench, monkeypatch, "python", seed)
    assert compiled == python
    assert {"datagrams_out", "malformed", "not_quic", "not_permitted"} <= compiled[0].keys()


async def test_other_ports_of_the_relay_are_reached_inside_it(bench: Bench) -> None:
    async with (
        bench.relay() as relay,
        bench.node() as (one, one_port),
        bench.node() as (other, other_port),
    ):
        send_frame(one, data_head((HOST, other_port)) + QUIC)
        await relayed_to(other, 1)
        send_frame(other, data_head((HOST, one_port)) + QUIC)
        await relayed_to(one, 1)
        assert relay.counters.datagrams_out == 2


async def test_another_port_gives_no_permission_to_send_outside(bench: Bench) -> None:
    """A node may say that the relay is at any address; that address did not ask for anything."""
    async with bench.relay() as relay, bench.node() as (liar, _):
        async with bench.node() as (accomplice, port):
            victim = ("127.0.0.2", port)
            request = Allocate(0, 0, ("127.0.0.2", 1), liar._instance)
            assert liar._quic is not None
            liar._quic.send_handshake(encode(request))
            await until(lambda: relay._ports[liar.status().port].alias == "127.0.0.2")
            send_frame(liar, data_head(victim) + QUIC)
            await relayed_to(accomplice, 1)
        relay._close_port(relay._ports[port])
        send_frame(liar, data_head(victim) + QUIC)
        await until(lambda: relay.counters.dropped[Drop.NOT_PERMITTED] == 1)


async def test_a_permission_ends(bench: Bench) -> None:
    bench.limits = RelayLimits(permission=0.05)
    async with bench.relay() as relay, bench.node() as (client, port):
        with Peer() as peer:
            peer.send(QUIC, port)
            await relayed_to(client, 1)
            await until(lambda: not relay._ports[port].clients.permitted(peer.address, relay.now()))
            send_frame(client, data_head(peer.address) + QUIC)
            await until(lambda: relay.counters.dropped[Drop.NOT_PERMITTED] == 1)


async def test_frames_of_strangers_are_ignored_and_counted(bench: Bench) -> None:
    async with bench.relay() as relay, bench.node() as (client, port):
        with Peer() as peer, Peer() as forger:
            peer.send(QUIC, port)
            await relayed_to(client, 1)
            forger.send(data_head(peer.address) + QUIC, bench.port)
            await until(lambda: relay.counters.dropped[Drop.UNKNOWN_SENDER] == 1)
            send_frame(client, data_head(peer.address))
            send_frame(client, b"\x20\x01")
            await until(lambda: relay.counters.dropped[Drop.MALFORMED] == 2)
            assert peer.received() == []


async def test_a_forged_frame_from_elsewhere_does_not_reach_the_node(bench: Bench) -> None:
    async with bench.relay(), bench.node() as (client, _):
        assert client._endpoint is not None
        with Peer() as forger:
            forger.send(data_head(("192.0.2.1", 9)) + QUIC, client._endpoint.local_address[1])
            await until(lambda: client.paths.counters.forged == 1)
            assert client.paths.counters.relayed_in == 0


async def test_only_quic_is_forwarded(bench: Bench) -> None:
    async with bench.relay() as relay, bench.node() as (client, port):
        with Peer() as peer:
            peer.send(data_head(("192.0.2.1", 9)) + QUIC, port)
            peer.send(b"", port)
            peer.send(b"\x00" * 50, port)
            await until(lambda: relay.counters.dropped[Drop.NOT_QUIC] == 3)
            assert client.paths.counters.relayed_in == 0


LARGEST = 65_507
"""The largest datagram of UDP over IPv4, in bytes."""


@pytest.mark.parametrize("size", [LARGEST - 7, LARGEST], ids=["one that fits", "the largest"])
async def test_large_datagrams_harm_nobody(bench: Bench, size: int) -> None:
    """With its head the largest datagram is too large to send. It is lost on that path only."""
    async with bench.relay() as relay, bench.node() as (client, port):
        with Peer() as peer, Peer() as stranger:
            for _ in range(20):
                peer.send(QUIC.ljust(size, b"x"), port)
                peer.send(bytes(size), port)
                stranger.send(data_head(peer.address).ljust(size, b"x"), bench.port)
            dropped = relay.counters.dropped
            await until(lambda: dropped[Drop.NOT_QUIC] and dropped[Drop.UNKNOWN_SENDER])
            before = relay.counters.datagrams_in

            def passes() -> bool:
                peer.send(QUIC, port)  # the buffers of the sockets may be full
                return relay.counters.datagrams_in > before + 20

            await until(passes)
            await until(lambda: client.paths.counters.relayed_in > 0)
            send_frame(client, data_head(peer.address) + QUIC)
            await until(lambda: QUIC in peer.received())


async def test_a_frame_of_the_largest_size_on_tls(bench: Bench, tcp_port: int) -> None:
    bench.tcp_port = tcp_port
    async with bench.relay() as relay, bench.node(tcp=True) as (client, port):
        with Peer() as peer:
            peer.send(QUIC, port)
            await relayed_to(client, 1)
            stream = client.paths.stream
            assert stream is not None
            for size in (0xFFFF, LARGEST + 8):
                stream.send_frames([data_head(peer.address).ljust(size, b"x"), b"\x20"])
            stream.send_frames([data_head(peer.address) + QUIC])
            await until(lambda: QUIC in peer.received())
            assert relay.counters.dropped[Drop.MALFORMED] == 2
            assert client.status().way == "tcp"


async def test_rates_drop_what_exceeds_them(bench: Bench) -> None:
    bench.limits = RelayLimits(bytes_per_second_per_client=4000)
    async with bench.relay() as relay, bench.node() as (client, port):
        with Peer() as peer:
            for _ in range(20):
                peer.send(QUIC + bytes(1000), port)
            await until(lambda: relay.counters.dropped[Drop.RATE] > 0)
            assert client.paths.counters.relayed_in < 20


async def test_a_port_has_a_number_of_clients(bench: Bench) -> None:
    bench.limits = RelayLimits(clients_per_port=2)
    async with bench.relay() as relay, bench.node() as (client, port):
        with Peer() as one, Peer() as two, Peer() as three:
            for peer in (one, two):
                peer.send(QUIC, port)
            await relayed_to(client, 2)
            for peer in (one, two):
                send_frame(client, data_head(peer.address) + QUIC)
            await until(lambda: relay.counters.datagrams_out == 2)
            for peer in (one, two, three):
                peer.send(QUIC, port)
            await until(lambda: relay.counters.dropped[Drop.CLIENTS_FULL] == 1)
            assert relay.counters.datagrams_in == 4


async def test_the_port_survives_restarts_of_node_and_relay(bench: Bench) -> None:
    identity = Identity.ephemeral([HOST])
    async with bench.relay():
        async with bench.node(identity) as (_, first):
            pass
        async with bench.node(identity) as (_, again):
            assert again == first
    async with bench.relay(), bench.node(identity) as (_, port):
        assert port == first


async def test_a_node_returns_when_its_relay_does(bench: Bench) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with bench.relay():
            client, port = await stack.enter_async_context(bench.node())
        await until(lambda: client.status().way is None)
        async with bench.relay():
            await until(lambda: client.status().way == "udp")
            assert client.status().port == port


async def test_a_wanted_port_is_given_unless_it_is_of_another_key(bench: Bench) -> None:
    wanted = bench.ports[50]
    async with bench.relay() as relay, bench.node(slot=wanted, wanted=wanted) as (_, port):
        assert port == wanted
        with pytest.raises(DialError) as raised:
            async with bench.node(slot=wanted, wanted=wanted, timeout=3.0):
                pass
        assert raised.value.cause is Cause.NOT_ALLOWED
        assert relay.counters.refused[Refusal.PORT_TAKEN] >= 1


async def test_only_allowed_keys_get_ports(bench: Bench) -> None:
    friend = Identity.ephemeral([HOST])
    bench.allowed = AllowedKeys.of([friend.fingerprint])
    async with bench.relay() as relay, bench.node(friend):
        with pytest.raises(DialError, match="its allow-list does not contain the key") as raised:
            async with bench.node(timeout=3.0):
                pass
        assert raised.value.cause is Cause.NOT_ALLOWED
        assert relay.counters.refused[Refusal.NOT_ALLOWED] >= 1


async def test_a_new_connection_of_a_node_replaces_its_earlier_one(bench: Bench) -> None:
    bench.limits = RelayLimits(linger=0)
    async with bench.relay() as relay, bench.node() as (client, port):
        first = relay._ports[port].controls[0]
        assert client._quic is not None
        # As if the node had heard nothing for long, and the relay does not know.
        client._quic.handler = None
        client._do(client._state.failed(Way.UDP, relay.now()))
        await until(lambda: relay._ports[port].controls != [first])
        await until(lambda: client.status().way == "udp")
        assert len(relay._ports[port].controls) == 1
        with Peer() as peer:
            peer.send(QUIC, port)
            await relayed_to(client, 1)
            send_frame(client, data_head(peer.address) + QUIC)
            await until(lambda: peer.received() == [QUIC] or None)


async def test_a_second_process_with_the_same_key_and_slot_takes_the_port_over(
    bench: Bench,
) -> None:
    bench.limits = RelayLimits(linger=0)
    identity = Identity.ephemeral([HOST])
    async with (
        bench.relay(),
        bench.node(identity) as (first, port),
        bench.node(identity) as (second, same),
    ):
        assert same == port
        await until(lambda: first.status().way is None)
        assert second.status().way == "udp"
        with Peer() as peer:  # the port does not linger for the first process
            peer.send(QUIC, port)
            await relayed_to(second, 1)


async def test_temporary_ports_of_one_key_are_distinct_and_leave_its_kept_port(
    bench: Bench,
) -> None:
    identity = Identity.ephemeral([HOST])
    async with bench.relay() as relay:
        async with (
            bench.node(identity, lease=Lease.TEMPORARY) as (_, first),
            bench.node(identity) as (kept, port),
            bench.node(identity, lease=Lease.TEMPORARY) as (_, second),
        ):
            assert len({first, second, port}) == 3
            with Peer() as peer:
                peer.send(QUIC, port)
                await relayed_to(kept, 1)
        await until(lambda: relay.stats().ports_kept == 1)
        await until(lambda: relay.stats().nodes_udp == 0)
    assert list(load((bench.folder / "ports.json").read_bytes())) == [port]
    async with bench.relay(), bench.node(identity) as (_, again):
        assert again == port


async def test_a_temporary_port_lasts_as_long_as_its_connection(bench: Bench) -> None:
    async with bench.relay() as relay:
        async with bench.node(lease=Lease.TEMPORARY) as (client, port):
            assert client._quic is not None
            client._quic.handler = None
            client._do(client._state.failed(Way.UDP, relay.now()))
            await until(lambda: client.status().way == "udp")
            with Peer() as peer:
                peer.send(QUIC, port)
                await relayed_to(client, 1)
        await until(lambda: relay.stats().ports_open == 0)
        assert relay.stats().ports_kept == 0


@pytest.mark.parametrize("lease", Lease)
async def test_a_key_holds_no_more_ports_than_the_relay_counts(bench: Bench, lease: Lease) -> None:
    """A second connection of an owner that asks for another port takes the first one away."""
    identity = Identity.ephemeral([HOST])
    one, other = bench.ports[10], bench.ports[11]
    async with (
        bench.relay() as relay,
        bench.node(identity, wanted=one, lease=lease, instance=b"the same") as (first, _),
        bench.node(identity, wanted=other, lease=lease, instance=b"the same") as (_, port),
    ):
        assert port == other
        assert relay.open_port(one) is None
        assert relay.stats().ports_open == relay.stats().ports_kept == 1
        await until(lambda: first.status().way is None)


async def test_a_port_that_gets_another_owner_has_nothing_of_the_former_one(bench: Bench) -> None:
    bench.limits = RelayLimits(keep_ports=0)
    bench.ports = bench.ports[:1]
    async with bench.relay() as relay:
        async with bench.node():
            pass
        await until(lambda: relay.stats().nodes_udp == 0)
        friend = Identity.ephemeral([HOST])
        async with bench.node(friend) as (_, port):
            open_port = relay.open_port(port)
            assert open_port is not None
            assert open_port.owner.key == friend.fingerprint


async def test_a_connection_that_has_lost_its_port_is_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One key could open any number of connections otherwise, each with the port of the last."""
    monkeypatch.setattr("quicdist.carriers.relay.server.PROOF_TIME", 0.05)
    identity = Identity.ephemeral([HOST])
    async with bench.relay(), bench.node(identity) as (first, _):
        assert first._quic is not None
        first.message = nothing_heard  # type: ignore[method-assign]
        connection = first._quic
        async with bench.node(identity):
            await until(lambda: connection._closed is not None)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS])
@pytest.mark.parametrize("lease", Lease)
async def test_a_relay_out_of_files_takes_no_name_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, lease: Lease
) -> None:
    def fails(*_: object) -> UdpSocket:
        raise OSError(number, "no more")

    bench.limits = RelayLimits(linger=0)
    identity = Identity.ephemeral([HOST])
    async with bench.relay() as relay:
        async with bench.node(identity) as (_, port):
            pass
        await until(lambda: relay.stats().ports_open == 0)
        async with contextlib.AsyncExitStack() as stack:
            with monkeypatch.context() as patched:
                patched.setattr(f"{server.__name__}.UdpSocket", SimpleNamespace(bind=fails))
                node = bench.node(identity, lease=lease)
                asking = asyncio.create_task(stack.enter_async_context(node))
                await until(lambda: relay.counters.refused[Refusal.RATE])
            assert relay.stats().ports_kept == 1
            asking.cancel()
            await asyncio.wait([asking])
        async with bench.node(identity) as (_, again):
            assert again == port


async def test_a_port_moves_to_the_new_key_of_its_node(bench: Bench) -> None:
    folder = bench.folder / "node"
    async with bench.relay():
        async with bench.node(Identity.kept([HOST], folder)) as (_, first):
            pass
        before = Identity.kept([HOST], folder).fingerprint
        Identity.rotate(folder)
        rotated = Identity.kept([HOST], folder)
        assert rotated.fingerprint != before
        async with bench.node(rotated) as (_, port):
            assert port == first


async def test_tls_is_used_where_udp_is_blocked(bench: Bench, tcp_port: int) -> None:
    bench.tcp_port = tcp_port
    async with bench.relay() as relay, bench.node(tcp=True) as (client, port):
        assert client.status().way == "tcp"
        assert relay.stats().nodes_tcp == 1
        with Peer() as peer:
            peer.send(QUIC, port)
            await relayed_to(client, 1)
            assert client.paths.stream is not None
            client.paths.stream.send_frames([data_head(peer.address) + QUIC])
            await until(lambda: peer.received() == [QUIC] or None)


async def test_the_key_of_the_relay_is_verified_on_tls(bench: Bench, tcp_port: int) -> None:
    bench.tcp_port = tcp_port
    async with bench.relay():
        async with bench.node(tcp=True) as (client, _):
            known = client.relay.name
        (bench.folder / "known_nodes").write_text(f"{known} sha256:{'0' * 64}\n")
        trust = Trust.first_use(bench.folder / "known_nodes")
        credentials = Credentials(Identity.ephemeral([HOST]), trust)
        one = RelayClient(client.relay, credentials, slot=Slot(0))
        endpoint = await Endpoint.open(
            HOST, 0, settings=QuicSettings(credentials), accept=nobody, bind=one.bind
        )
        with pytest.raises(DialError) as raised:
            await one.register(endpoint, 2.0)
        assert raised.value.cause is Cause.KEY_CHANGED
        one.close()
        await endpoint.close(0)


@pytest.mark.parametrize(
    "frames",
    [
        [encode(Allocate(0, 0, (HOST, 1), bytes(8))), encode(Proof(b"", b""))],
        [encode(Proof(FOREIGN, b"forged"))],
        [bytes(70)],
        [b"\x20" * 9000],
    ],
    ids=["without a proof", "a forged proof", "no message", "too large"],
)
async def test_a_node_on_tls_must_prove_its_key(
    bench: Bench, tcp_port: int, frames: list[bytes]
) -> None:
    bench.tcp_port = tcp_port
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with bench.relay() as relay:
        reader, writer = await asyncio.open_connection(HOST, tcp_port, ssl=context)
        writer.write(b"".join(map(with_length, frames)))
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)  # until the relay closes the connection
        writer.close()
        assert relay.stats().ports_open == 0


async def test_an_unreadable_file_of_ports_is_an_error_at_the_start(bench: Bench) -> None:
    (bench.folder / "ports.json").write_text("{}")
    with pytest.raises(PortFileError, match=r"ports\.json"):
        async with bench.relay():
            pass


@pytest.fixture
def tcp_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port
