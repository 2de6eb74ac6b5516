"""Unauthenticated dialers: the state that they can occupy and the peers that they can block."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections.abc import Callable

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from quicdist.carriers.address_group import host_prefix
from quicdist.carriers.quic.address_validation import AddressValidation
from quicdist.carriers.quic.admission import Admission
from quicdist.carriers.quic.engine import SocketAddress
from quicdist.carriers.quic.initial import Initial, read_initial
from quicdist.carriers.reject_reason import RejectReason
from quicdist.limits import AdmissionLimits
from tests.carriers.owners import STATUS, Owner, node, settings
from tests.carriers.stranger import Server, Stranger, run_virtually
from tests.support.waiting import PATIENCE, until

HERE = ("192.0.2.1", 4433)


def first_datagram() -> bytes:
    """Returns a valid first datagram of a dialer that does not continue."""
    quic = QuicConnection(
        configuration=QuicConfiguration(
            is_client=True, alpn_protocols=["quicdist/1"], verify_mode=ssl.CERT_NONE
        )
    )
    quic.connect(HERE, 0.0)
    (data, _), *_ = quic.datagrams_to_send(0.0)
    return data


def initial_of(data: bytes) -> Initial:
    found = read_initial(data)
    assert found is not None
    return found


@pytest.mark.io
async def test_real_first_datagrams_from_nowhere_keep_nobody_out() -> None:
    """With more dialers than half-open connections allowed, only the first are accepted."""
    async with node() as a, node(admission=AdmissionLimits(max_half_open=40, prove_above=10)) as b:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.connect(("127.0.0.1", b.port))
            for _ in range(60):
                stranger.send(first_datagram())
                await asyncio.sleep(0)
            await until(lambda: b.endpoint.rejected[RejectReason.UNPROVED] >= 50)
            assert len(b.endpoint.connections) == 10
            for alpn in ("quicdist/1", "macula-dist"):
                await a.connect(b, alpn=alpn)
            assert b.endpoint.rejected[RejectReason.UNPROVED] == 52
            assert not b.endpoint.rejected[RejectReason.ADDRESS_FULL]


@pytest.mark.io
async def test_a_bound_for_each_address_leaves_room_for_others() -> None:
    async with node() as a, node("0.0.0.0", admission=AdmissionLimits(max_per_address=2)) as b:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.2", 0))
            except OSError:
                pytest.skip("127.0.0.2 is Linux's")
        for _ in range(2):
            await a.connect(b)
        with pytest.raises(ConnectionError, match="no answer"):
            await a.endpoint.dial("127.0.0.1", b.port, timeout=0.5)
        assert b.endpoint.rejected[RejectReason.ADDRESS_FULL]
        async with node("127.0.0.2") as other:
            await other.connect(b)
        a.endpoint.connections[0].close("makes room")
        await asyncio.wait_for(a.connect(b), PATIENCE)


@pytest.mark.io
async def test_who_begins_a_handshake_and_does_not_go_on_leaves_room_for_others() -> None:
    admission = AdmissionLimits(max_half_open_per_address=2)
    async with node() as a, node("0.0.0.0", admission=admission) as b:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.2", 0))
            except OSError:
                pytest.skip("127.0.0.2 is Linux's")
        for number in (1, 2):
            connection = await a.endpoint.dial("127.0.0.1", b.port)
            connection.handler = Owner(connection)
            connection.send_handshake(STATUS)  # any message that does not prove the cookie
            await b.first(number)
        with pytest.raises(ConnectionError, match="no answer"):
            await a.endpoint.dial("127.0.0.1", b.port, timeout=0.5)
        assert b.endpoint.rejected[RejectReason.ADDRESS_FULL]
        async with node("127.0.0.2") as other:
            await other.connect(b)
        a.endpoint.connections[0].close("makes room")
        for _ in range(3):
            await asyncio.wait_for(a.connect(b), PATIENCE)


async def test_a_proof_must_be_ours_fresh_of_that_address_and_of_that_attempt() -> None:
    proofs = AddressValidation()
    initial = initial_of(first_datagram())
    assert not initial.token
    retry = proofs.ask(initial, HERE, 100.0)
    at = 7 + retry[5]
    given_id, token = retry[at : at + retry[at - 1]], retry[at + retry[at - 1] : -16]
    shown = Initial(initial.version, given_id, initial.source_id, token)
    opening = proofs.check(shown, HERE, 110.0)
    assert opening is not None
    assert opening.destination_id == initial.destination_id
    assert opening.retry_id == given_id
    assert proofs.check(shown, HERE, 131.0) is None
    assert proofs.check(shown, ("192.0.2.2", 4433), 110.0) is None
    assert proofs.check(shown, ("192.0.2.1", 4434), 110.0) is None
    forged = token[:-1] + bytes([token[-1] ^ 1])
    assert proofs.check(initial_with(shown, forged), HERE, 110.0) is None
    assert proofs.check(initial_with(shown, b"short"), HERE, 110.0) is None
    stolen = Initial(shown.version, b"another!", shown.source_id, token)
    assert proofs.check(stolen, HERE, 110.0) is None
    assert AddressValidation().check(shown, HERE, 110.0) is None


def initial_with(initial: Initial, token: bytes) -> Initial:
    return Initial(initial.version, initial.destination_id, initial.source_id, token)


@pytest.mark.io
async def test_a_proof_that_is_none_is_not_answered() -> None:
    async with node() as b:
        loop = asyncio.get_running_loop()
        data = first_datagram()
        at = 7 + data[5] + data[6 + data[5]]
        assert data[at] == 0  # the length of its token
        forged = data[:at] + b"\x40\x20" + bytes(32) + data[at + 1 :]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.connect(("127.0.0.1", b.port))
            stranger.send(forged)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(stranger, 2000), 0.1)
        assert b.endpoint.rejected[RejectReason.BAD_PROOF] == 1
        assert not b.endpoint.connections


@pytest.mark.parametrize("junk", [14, 23])
def test_a_first_datagram_whose_lengths_lie_is_none(junk: int) -> None:
    whole = first_datagram()
    assert read_initial(whole[:junk] + b"\x7f" * (1200 - junk)) is None


def test_who_has_proved_nothing_locks_out_nobody() -> None:
    """Forged senders count against an address only until a peer there proves its address."""
    admission = Admission(
        AdmissionLimits(max_per_address=3, max_half_open_per_address=2, prove_above=4)
    )
    for connection in (1, 2):
        assert admission.check(HERE, 0, has_proved=False, now=0.0) is None
        admission.opened(connection, HERE)
    assert admission.check(HERE, 2, has_proved=False, now=0.0) is RejectReason.UNPROVED
    assert admission.check(HERE, 2, has_proved=True, now=0.0) is RejectReason.ADDRESS_FULL
    elsewhere = ("192.0.2.2", 1)
    assert admission.check(elsewhere, 2, has_proved=False, now=0.0) is None
    admission.used(1)
    assert admission.check(HERE, 2, has_proved=True, now=0.0) is RejectReason.ADDRESS_FULL
    admission.proved(1)
    assert admission.check(HERE, 2, has_proved=False, now=0.0) is None
    admission.opened(3, HERE)
    admission.used(3)
    admission.proved(3)
    assert admission.check(HERE, 3, has_proved=True, now=0.0) is RejectReason.ADDRESS_FULL
    assert not admission.ended(1)
    assert admission.check(HERE, 2, has_proved=True, now=0.0) is None
    assert admission.ended(2)
    assert not admission.ended(3)
    assert not admission._by_prefix
    assert not len(admission._half_open)


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::2:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_who_is_counted_together(one: str, other: str, together: bool) -> None:
    assert (host_prefix(one) == host_prefix(other)) is together


# -- valid peers among attackers ----------------------------------------------------------------

FEW = AdmissionLimits(max_half_open=20, max_half_open_per_address=6, prove_above=4)


def v4_addresses(count: int) -> list[SocketAddress]:
    return [(f"198.51.100.{n}", 5000) for n in range(count)]


def networks_of_one_customer(count: int) -> list[SocketAddress]:
    """Attackers in one /56; the valid peer is in another network of the same /48."""
    return [(f"2001:db8:0:{n:x}::1", 5000, 0, 0) for n in range(count)]


def networks_of_many(count: int) -> list[SocketAddress]:
    return [(f"2001:db8:{n + 1:x}::1", 5000, 0, 0) for n in range(count)]


# Each attacker completes TLS, so the fast tier has one number of attackers.
@pytest.mark.parametrize(
    "count", [6, *(pytest.param(n, marks=pytest.mark.slow) for n in (10, 100))]
)
@pytest.mark.parametrize("addresses", [v4_addresses, networks_of_one_customer, networks_of_many])
@pytest.mark.parametrize("at", [("203.0.113.9", 4433), ("2001:db8:0:ffff::1", 4433, 0, 0)])
def test_an_honest_dialer_connects_while_others_open_all_they_can(
    at: SocketAddress, addresses: Callable[[int], list[SocketAddress]], count: int
) -> None:
    """The attackers validate addresses, complete TLS, and reconnect with each of its datagrams."""
    attackers = itertools.cycle(addresses(count))

    async def attack(server: Server) -> None:
        await Stranger(server, next(attackers)).exchange(3)

    async def main() -> None:
        server = Server(settings(admission=FEW), Owner)
        try:
            for _ in range(2 * FEW.max_half_open):
                await attack(server)
            assert len(server.endpoint.connections) <= FEW.max_half_open
            honest = Stranger(server, at)
            for _ in range(6):
                await honest.exchange(1)
                await attack(server)
            assert honest.quic._handshake_confirmed
            mine = [each for each in server.endpoint.connections if each.peer_address == at[:2]]
            assert len(mine) == 1
            assert len(server.endpoint.connections) <= FEW.max_half_open
        finally:
            await server.endpoint.close(0)

    run_virtually(main())


def test_first_datagrams_that_end_at_once_are_counted_all_the_same() -> None:
    """They leave no half-open connection; their rate triggers address validation."""

    async def main() -> None:
        server = Server(settings(admission=AdmissionLimits(unproved_per_second=5)), Owner)
        try:
            for _ in range(20):
                server.udp.bring(Stranger(server).initial(b"\x01"))
                await server.settle()
            assert server.endpoint.rejected[RejectReason.TLS] == 5
            assert server.endpoint.rejected[RejectReason.UNPROVED] == 15
            server.endpoint.rejected.clear()
            await asyncio.sleep(1)
            server.udp.bring(Stranger(server).initial(b"\x01"))
            await server.settle()
            assert not server.endpoint.rejected[RejectReason.UNPROVED]
        finally:
            await server.endpoint.close(0)

    run_virtually(main())


def test_those_that_are_over_keep_nobody_out() -> None:
    """Connection ids are kept for late datagrams while there is room."""

    async def main() -> None:
        server = Server(settings(admission=AdmissionLimits(max_connections=4)), Owner)
        try:
            for _ in range(10):
                server.udp.bring(Stranger(server).initial(b"\x01"))
                await server.settle()
            assert not server.endpoint.rejected[RejectReason.CONNECTIONS_FULL]
            assert len(server.endpoint._ids) <= 4
        finally:
            await server.endpoint.close(0)

    run_virtually(main())
