"""The native engine sends through a socket itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from quicdist.carriers.quic.engine import CompiledSocket, EngineConnection, Path
from tests.carriers.quic.engine.network import engine_of, settings
from tests.support.engines import needs_native
from tests.support.waiting import PATIENCE

pytestmark = [needs_native, pytest.mark.io]


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(PATIENCE)
        yield sock


def compiled(sock: socket.socket) -> CompiledSocket:
    socket_of = engine_of(settings("native")).socket_of
    if socket_of is None:
        pytest.skip("the engine uses no sockets on this system")
    sock.setblocking(False)
    return socket_of(sock.fileno(), False)


def dialer(path: Path) -> EngineConnection:
    connection = engine_of(settings("native")).dialer("localhost", ["quicdist/1"])
    connection.connect(path, 0.0)
    return connection


@pytest.mark.parametrize("local", [None, socket.inet_aton("127.0.0.2")])
def test_what_it_sends_is_not_returned(peer: socket.socket, local: bytes | None) -> None:
    host = "127.0.0.1" if local is None else "0.0.0.0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        connection = dialer((peer.getsockname(), local))
        assert not connection.transmit(0.0, compiled(sock))
        data, address = peer.recvfrom(2000)
        assert len(data) == 1200
        assert address[0] == ("127.0.0.1" if local is None else "127.0.0.2")


def test_what_the_kernel_refuses_is_returned(peer: socket.socket) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        path = (peer.getsockname(), None)
        ((data, size, back),) = dialer(path).transmit(0.0, compiled(sock))
    assert (len(data), size, back) == (1200, 1200, path)
