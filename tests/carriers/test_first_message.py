"""The first handshake message of a dialer, sent with the end of the TLS handshake."""

from __future__ import annotations

import asyncio
import socket

import pytest

from quicdist.carriers.base import CertificateRejected
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.trust import Credentials, Identity, Trust
from quicdist.protocol.dialects.base import DialectTraits
from tests.carriers.owners import NAME, Node, Owner, node
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.io


class First:
    """A `FirstMessage` that counts its calls."""

    def __init__(self) -> None:
        self.asked: list[tuple[bool, str]] = []

    def __call__(self, binding: bytes, traits: DialectTraits) -> bytes:
        self.asked.append((bool(binding), traits.alpn))
        return NAME


async def dial(a: Node, port: int, first: First, alpn: str | None = None) -> Owner:
    """Dials with a first message, and sends it as an owner does."""
    alpns = None if alpn is None else [alpn]
    connection = await a.endpoint.dial(
        "127.0.0.1", port, alpns=alpns, timeout=PATIENCE, first=first
    )
    owner = Owner(connection)
    connection.handler = owner
    connection.send_handshake(NAME)
    return owner


async def test_the_listener_has_it_before_the_dialer_is_confirmed() -> None:
    waiting: list[bool] = []
    dialing: list[asyncio.Task[Owner]] = []
    async with (
        node() as a,
        node(on_accept=lambda owner: waiting.append(not dialing[0].done())) as b,
    ):
        dialing.append(asyncio.create_task(dial(a, b.port, first := First())))
        here = await dialing[0]
        # A listener accepts a connection with its first packet. It sends HANDSHAKE_DONE later.
        assert waiting == [True]
        there = await b.first()
        await here.until(lambda: here.is_up)
        await there.until(lambda: there.is_up)
        assert first.asked == [(True, "quicdist/2")]
        assert [message[:1] for message in there.handshake] == [b"N", b"r"]


async def test_frames_follow_as_usual() -> None:
    async with node() as a, node() as b:
        here = await dial(a, b.port, First())
        there = await b.first()
        await here.until(lambda: here.is_up)
        await here.send(b"frame")
        await there.until(lambda: there.frames)
        assert there.frames == [b"frame"]


async def test_dialects_of_other_libraries_get_it_from_the_owner() -> None:
    async with node() as a, node() as b:
        here = await dial(a, b.port, first := First(), alpn="sample")
        there = await b.first()
        await here.until(lambda: here.is_up)
        assert first.asked == []
        assert there.handshake[0] == NAME


async def test_a_rejected_dialer_has_not_told_its_name() -> None:
    """The name follows the dialer's certificate, so a listener that rejects it reads none."""
    pinned = Trust.pinned({"*": ["sha256:" + "a" * 64]})
    settings = QuicSettings(Credentials(Identity.ephemeral(["127.0.0.1"]), pinned))
    accepted: list[object] = []
    listener = await Endpoint.open("127.0.0.1", 0, settings=settings, accept=accepted.append)  # type: ignore[arg-type]  # is not called
    try:
        async with node() as a:
            with pytest.raises(CertificateRejected):
                await dial(a, listener.local_address[1], First())
        assert accepted == []
    finally:
        await listener.close()


async def test_a_listener_that_is_not_trusted_is_told_nothing() -> None:
    pinned = Trust.pinned({"*": ["sha256:" + "a" * 64]})
    settings = QuicSettings(Credentials(Identity.ephemeral(["127.0.0.1"]), pinned))
    endpoint = await Endpoint.open("127.0.0.1", 0, settings=settings, accept=None)
    try:
        async with node() as b:
            with pytest.raises(CertificateRejected):
                await dial(Node(endpoint), b.port, first := First())
            assert first.asked == []
            assert b.accepted == []
    finally:
        await endpoint.close()


async def test_a_recorded_dial_cannot_be_replayed() -> None:
    """The message has 1-RTT protection, never that of early data, which can be replayed."""
    async with node() as a, node() as b:
        recorder = Recorder(b.port)
        try:
            here = await dial(a, recorder.port, First())
            await here.until(lambda: here.is_up)
            before = len(b.accepted)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                for datagram in recorder.datagrams:
                    stranger.sendto(datagram, ("127.0.0.1", b.port))
            # What the socket has received before the next dialer is processed before it.
            await dial(a, b.port, First())
            await b.first(before + 1)
            assert len(b.accepted) == before + 1
        finally:
            recorder.close()


class Recorder:
    """Relays the datagrams of one dialer and records them."""

    def __init__(self, target: int) -> None:
        self.datagrams: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._front, self._back = (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)
        )
        self._dialer: tuple[str, int] | None = None
        self._front.bind(("127.0.0.1", 0))
        self._back.connect(("127.0.0.1", target))
        for one in (self._front, self._back):
            one.setblocking(False)
        self._loop.add_reader(self._front, self._forth)
        self._loop.add_reader(self._back, self._and_back)

    @property
    def port(self) -> int:
        """The port to dial."""
        return int(self._front.getsockname()[1])

    def _forth(self) -> None:
        data, self._dialer = self._front.recvfrom(65536)
        self.datagrams.append(data)
        self._back.send(data)

    def _and_back(self) -> None:
        assert self._dialer is not None
        self._front.sendto(self._back.recv(65536), self._dialer)

    def close(self) -> None:
        """Closes the sockets."""
        for one in (self._front, self._back):
            self._loop.remove_reader(one)
            one.close()
