"""Mutual TLS: both sides authenticate in the handshake, and no data is accepted before that."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from quicdist.carriers.base import CertificateRejected, Connection, DialError
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.engine import Opening, load_engine
from quicdist.carriers.quic.engine import aioquic as adapter
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.trust import Credentials, Identity, Trust
from quicdist.carriers.trust.authority import issue, make_authority
from quicdist.carriers.trust.identity import pem, sign
from tests.carriers.owners import Owner
from tests.support.engines import ENGINES, native
from tests.support.waiting import PATIENCE

ADDRESS = ("127.0.0.1", 4433)


@asynccontextmanager
async def listening(trust: Trust, identity: Identity | None = None) -> AsyncIterator[Listener]:
    """An endpoint with the given `trust`."""
    made: list[Owner] = []

    def accept(connection: Connection) -> Owner:
        made.append(Owner(connection))
        return made[-1]

    shown = identity or Identity.ephemeral(["127.0.0.1"])
    settings = QuicSettings(Credentials(shown, trust))
    endpoint = await Endpoint.open("127.0.0.1", 0, settings=settings, accept=accept)
    try:
        yield Listener(endpoint, made)
    finally:
        await endpoint.close()


class Listener:
    def __init__(self, endpoint: Endpoint, accepted: list[Owner]) -> None:
        self.endpoint = endpoint
        self.accepted = accepted

    @property
    def port(self) -> int:
        return self.endpoint.local_address[1]


async def dial(
    port: int,
    identity: Identity,
    trust: Trust | None = None,
    *,
    name: str | None = None,
    engine: str = "aioquic",
) -> None:
    """Dials and waits for the connection. Raises DialError."""
    settings = QuicSettings(Credentials(identity, trust or Trust.nothing()), engine=engine)
    endpoint = await Endpoint.open("127.0.0.1", 0, settings=settings, accept=None)
    try:
        connection = await endpoint.dial("127.0.0.1", port, node=name, timeout=PATIENCE)
        connection.handler = Owner(connection)
    finally:
        await endpoint.close()


class Workshop:
    """An authority, and invalid certificates that it has signed."""

    def __init__(self, directory: Path) -> None:
        self.authority = make_authority("test", 1)
        self.file = directory / "ca.pem"
        self.file.write_bytes(pem([self.authority.certificate]))
        self.trust = Trust.authority(self.file)
        self.good = issue(self.authority, [], ["127.0.0.1"], 1)

    def forged(
        self,
        *,
        signer: Identity | None = None,
        usages: Sequence[x509.ObjectIdentifier] = (),
        ago: int = 0,
    ) -> Identity:
        """Returns a certificate issued `ago` days ago, valid for one day."""
        by = signer or self.authority
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=ago)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.good.certificate.subject)
            .issuer_name(self.authority.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=23))
            .add_extension(
                self.good.certificate.extensions.get_extension_for_class(
                    x509.SubjectAlternativeName
                ).value,
                critical=False,
            )
        )
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return Identity(key, sign(builder, by.key))


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


# -- dialers ----------------------------------------------------------------------------------


@pytest.mark.io
async def test_a_dialer_with_a_good_certificate_is_taken(workshop: Workshop) -> None:
    async with listening(workshop.trust, workshop.good) as there:
        await dial(there.port, workshop.good, workshop.trust)


@pytest.mark.io
@pytest.mark.parametrize(
    ("flaw", "alert"),
    [
        ("of another authority", "unknown ca"),
        ("self-signed", "unknown ca"),
        ("forged", "unknown ca"),
        ("expired", "certificate expired"),
        ("not yet good", "certificate expired"),
        ("for servers only", "unsupported certificate"),
        ("a chain too long", "bad certificate"),
    ],
)
async def test_a_dialer_that_is_not_believed(
    workshop: Workshop, flaw: str, alert: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = workshop.good
    stranger = {
        "of another authority": issue(make_authority("test", 1), [], ["127.0.0.1"], 1),
        "self-signed": Identity.ephemeral(["127.0.0.1"]),
        "forged": workshop.forged(signer=make_authority("test", 1)),
        "expired": workshop.forged(ago=2),
        "not yet good": workshop.forged(ago=-2),
        "for servers only": workshop.forged(usages=[ExtendedKeyUsageOID.SERVER_AUTH]),
        "a chain too long": Identity(good.key, good.certificate, [good.certificate] * 8),
    }[flaw]
    async with listening(workshop.trust) as there:
        with pytest.raises(CertificateRejected, match=alert):
            await dial(there.port, stranger)
        assert not there.accepted
        assert "certificate rejected" in caplog.text
        await dial(there.port, good)


class Bare:
    """A bare aioquic dialer whose TLS messages a test can modify."""

    def __init__(self, identity: Identity | None = None, **settings: Any) -> None:
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=["quicdist/1"], verify_mode=ssl.CERT_NONE, **settings
        )
        if identity is not None:
            configuration.certificate = identity.certificate
            configuration.private_key = identity.key
        self.tickets: list[tls.SessionTicket] = []
        self.quic = QuicConnection(
            configuration=configuration, session_ticket_handler=self.tickets.append
        )


def meet(bare: Bare, trust: Trust) -> adapter.AioquicConnection:
    """Exchanges all datagrams with the engine of a listener."""
    settings = QuicSettings(Credentials(Identity.ephemeral(), trust))
    engine = adapter.engine(settings, lambda connection_id: bytes(16))
    there = engine.listener(Opening(bare.quic.original_destination_connection_id))
    there.verify_peer = lambda certificates: None
    bare.quic.connect(ADDRESS, 0.0)
    exchange(bare, there, 0.0)
    return there


def exchange(bare: Bare, there: adapter.AioquicConnection, start: float) -> None:
    for step in range(100):
        now = start + step * 0.01
        for data, _ in bare.quic.datagrams_to_send(now):
            there.receive(data, len(data), (ADDRESS, None), now)
        for data, _, _ in there.transmit(now):
            bare.quic.receive_datagram(data, ADDRESS, now)


def test_a_certificate_with_another_key_is_no_proof() -> None:
    """The library checks the CertificateVerify signature, which all other checks depend on."""
    mine, theirs = Identity.ephemeral(), Identity.ephemeral()
    there = meet(Bare(Identity(mine.key, theirs.certificate)), Trust.first_use("unused"))
    assert there.closed is not None
    assert "decrypt error" in there.closed.text


def test_no_tickets_and_no_early_data() -> None:
    bare = Bare(Identity.ephemeral())
    there = meet(bare, Trust.first_use("unused"))
    assert there.closed is None
    assert len(there.certificates) == 1
    assert bare.tickets == []
    assert there._quic.tls.new_session_ticket_cb is None
    assert there._quic.tls.get_session_ticket_cb is None


def ticket_of_another_listener() -> tls.SessionTicket:
    """Returns a ticket that permits early data."""
    known: dict[bytes, tls.SessionTicket] = {}
    bare, identity = Bare(), Identity.ephemeral()
    there = QuicConnection(
        configuration=QuicConfiguration(
            is_client=False,
            alpn_protocols=["quicdist/1"],
            certificate=identity.certificate,
            private_key=identity.key,
        ),
        original_destination_connection_id=bare.quic.original_destination_connection_id,
        session_ticket_handler=lambda ticket: known.update({ticket.ticket: ticket}),
        session_ticket_fetcher=known.get,
    )
    bare.quic.connect(ADDRESS, 0.0)
    for step in range(10):
        for data, _ in bare.quic.datagrams_to_send(step * 0.01):
            there.receive_datagram(data, ADDRESS, step * 0.01)
        for data, _ in there.datagrams_to_send(step * 0.01):
            bare.quic.receive_datagram(data, ADDRESS, step * 0.01)
    [ticket] = bare.tickets
    assert ticket.max_early_data_size
    return ticket


class Told:
    """An `EngineSink` that records the stream data before and after the handshake."""

    def __init__(self) -> None:
        self.early = b""
        self.late = b""
        self.is_complete = False

    def handshake_completed(self, alpn: str) -> None:
        self.is_complete = True

    def stream_data(self, stream: int, data: bytes) -> None:
        if self.is_complete:
            self.late += data
        else:
            self.early += data

    def stream_ended(self, stream: int, how: str) -> None: ...
    def connection_id_issued(self, connection_id: bytes) -> None: ...
    def connection_id_retired(self, connection_id: bytes) -> None: ...


@pytest.mark.parametrize("engine", ENGINES)
def test_an_offered_ticket_and_early_data_are_ignored(engine: str) -> None:
    """The handshake is a full one, with the certificate, and early data is sent again later."""
    bare = Bare(Identity.ephemeral(), session_ticket=ticket_of_another_listener())
    settings = QuicSettings(
        Credentials(Identity.ephemeral(), Trust.first_use("unused")), engine=engine
    )
    opening = Opening(bare.quic.original_destination_connection_id)
    there = load_engine(settings, lambda connection_id: bytes(16)).listener(opening)
    there.verify_peer = lambda certificates: None
    bare.quic.connect(ADDRESS, 0.0)
    bare.quic.send_stream_data(0, b"early")
    told = Told()
    for step in range(100):
        now = step * 0.01
        for data, _ in bare.quic.datagrams_to_send(now):
            there.receive(data, len(data), (ADDRESS, None), now)
            there.drain(told)
        for data, size, _ in there.transmit(now):
            for at in range(0, len(data), size):
                bare.quic.receive_datagram(data[at : at + size], ADDRESS, now)
    assert not bare.quic.tls.session_resumed
    assert len(there.certificates) == 1
    assert (told.early, told.late) == (b"", b"early")
    assert bare.tickets == []


def test_who_presents_none_is_nobody() -> None:
    there = meet(Bare(), Trust.first_use("unused"))
    assert there.closed is None  # the engine does not decide whether the certificate is sufficient
    assert list(there.certificates) == []


def test_a_tls_message_without_end_is_not_waited_for() -> None:
    bare = Bare(Identity.ephemeral())
    there = meet(bare, Trust.first_use("unused"))
    # A message with a length of 16 MiB, sent in parts.
    bare.quic._crypto_streams[tls.Epoch.ONE_RTT].sender.write(b"\x0b\xff\xff\xff" + bytes(100_000))
    exchange(bare, there, 1.0)
    assert there.closed is not None
    assert there.closed.exceeded is RejectReason.TLS_SIZE


@pytest.mark.io
async def test_a_dialer_without_a_certificate(tmp_path: Path) -> None:
    """The dialer is accepted only if the setting allows it."""
    for trust, is_taken in (
        (Trust.first_use(tmp_path / "known"), False),
        (Trust.first_use(tmp_path / "known", uncertified=["*"]), True),
        (Trust.nothing(), True),
    ):
        async with listening(trust) as there, bare_socket(there.port) as bare:
            if is_taken:
                await bare.until(lambda bare=bare: bare.quic._handshake_confirmed)
            else:
                await bare.until(lambda bare=bare: bare.quic._close_event)
                event = bare.quic._close_event
                assert event is not None
                assert event.error_code == 0x100 + 116  # certificate_required


class BareSocket(asyncio.DatagramProtocol):
    """A bare dialer on a socket."""

    def __init__(self) -> None:
        self.quic = Bare().quic
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self._loop = asyncio.get_running_loop()
        self.quic.connect(transport.get_extra_info("peername"), self._loop.time())
        self._send()

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.quic.receive_datagram(data, address, self._loop.time())
        self._send()
        self._changed.set()

    def _send(self) -> None:
        for data, _ in self.quic.datagrams_to_send(self._loop.time()):
            self._transport.sendto(data)

    async def until(self, condition: object) -> None:
        assert callable(condition)
        while not condition():
            await asyncio.wait_for(self._changed.wait(), PATIENCE)
            self._changed.clear()


@asynccontextmanager
async def bare_socket(port: int) -> AsyncIterator[BareSocket]:
    loop = asyncio.get_running_loop()
    transport, bare = await loop.create_datagram_endpoint(
        BareSocket, remote_addr=("127.0.0.1", port)
    )
    try:
        yield bare
    finally:
        transport.close()


async def test_who_dials_believes_to_be_connected_once_it_is_believed(workshop: Workshop) -> None:
    """In TLS 1.3 a client completes the handshake before the server has its certificate."""
    settings = QuicSettings(Credentials(Identity.ephemeral(), Trust.nothing()))
    engine = adapter.engine(settings, lambda connection_id: bytes(16))
    here = engine.dialer("127.0.0.1", ["quicdist/1"])
    here.verify_peer = lambda certificates: None
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["quicdist/1"])
    configuration.certificate = workshop.good.certificate
    configuration.private_key = workshop.good.key
    there = QuicConnection(
        configuration=configuration,
        original_destination_connection_id=here._quic.original_destination_connection_id,
    )
    here.connect((ADDRESS, None), 0.0)
    for data, _, _ in here.transmit(0.0):
        there.receive_datagram(data, ADDRESS, 0.0)
    for data, _ in there.datagrams_to_send(0.0):
        here.receive(data, len(data), (ADDRESS, None), 0.0)
    assert here._quic._handshake_complete
    assert not here.is_confirmed
    for data, _, _ in here.transmit(0.01):
        there.receive_datagram(data, ADDRESS, 0.01)
    for data, _ in there.datagrams_to_send(0.01):
        here.receive(data, len(data), (ADDRESS, None), 0.01)
    assert here.is_confirmed


# -- listeners -----------------------------------------------------------------------------


@pytest.mark.io
@pytest.mark.parametrize("flaw", ["self-signed", "forged", "expired", "for clients only"])
async def test_a_node_that_is_dialed_and_not_believed(workshop: Workshop, flaw: str) -> None:
    shown = {
        "self-signed": Identity.ephemeral(["127.0.0.1"]),
        "forged": workshop.forged(signer=make_authority("test", 1)),
        "expired": workshop.forged(ago=2),
        "for clients only": workshop.forged(usages=[ExtendedKeyUsageOID.CLIENT_AUTH]),
    }[flaw]
    async with listening(Trust.nothing(), shown) as there:
        with pytest.raises(CertificateRejected, match="certificate"):
            await dial(there.port, workshop.good, workshop.trust)
        assert not there.accepted


@pytest.mark.io
async def test_a_certificate_for_one_node_is_no_other_nodes(workshop: Workshop) -> None:
    async with listening(Trust.nothing()) as probe:
        port = probe.port
    named = issue(workshop.authority, [f"{port}@127.0.0.1"], [], 1)
    async with listening(Trust.nothing(), named) as there:
        await dial(there.port, workshop.good, workshop.trust, name=f"{port}@127.0.0.1")
        for other in (f"{port + 1}@127.0.0.1", f"{port}@127.0.0.2", f"{port}@localhost"):
            with pytest.raises(CertificateRejected):
                await dial(there.port, workshop.good, workshop.trust, name=other)


@pytest.mark.io
async def test_pins(tmp_path: Path) -> None:
    shown, mine = Identity.ephemeral(), Identity.ephemeral()
    file = tmp_path / "pins"
    file.write_text(f"*@127.0.0.1 {shown.fingerprint}\n")
    trust = Trust.pinned(file)
    async with listening(Trust.pinned({"*": mine.fingerprint}), shown) as there:
        await dial(there.port, mine, trust)
        with pytest.raises(CertificateRejected, match="certificate unknown"):
            await dial(there.port, shown, trust)
        file.write_text(f"*@127.0.0.1 {mine.fingerprint} # and some more\n")
        with pytest.raises(DialError, match="is not pinned for any node"):
            await dial(there.port, mine, trust)


@pytest.mark.io
@pytest.mark.parametrize("engine", ["aioquic", "aioquic-plain", native()])
async def test_every_engine_proves_and_verifies_alike(workshop: Workshop, engine: str) -> None:
    good, rogue = workshop.good, workshop.forged(signer=make_authority("test", 1))
    authority, pins = workshop.trust, Trust.pinned({"*": good.fingerprint})
    async with listening(workshop.trust, good) as there:
        await dial(there.port, good, authority, engine=engine)
        with pytest.raises(CertificateRejected, match="certificate"):
            await dial(there.port, rogue, authority, engine=engine)
    async with listening(Trust.nothing(), rogue) as there:
        with pytest.raises(CertificateRejected, match="certificate"):
            await dial(there.port, good, authority, engine=engine)
    # A certificate alone, without its key, proves nothing.
    async with listening(Trust.nothing(), Identity(rogue.key, good.certificate)) as there:
        for trust in (authority, pins, Trust.nothing()):
            with pytest.raises(DialError):
                await dial(there.port, good, trust, engine=engine)
        assert not there.accepted
