"""QUIC versions 1 and 2 (RFC 9369): which of them a listener speaks with which dialer."""

from __future__ import annotations

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicProtocolVersion

from quicdist.carriers.reject_reason import RejectReason
from tests.carriers.owners import Owner, settings
from tests.carriers.stranger import Server, Stranger, run_virtually
from tests.support.engines import ENGINES, native

V1, V2 = int(QuicProtocolVersion.VERSION_1), int(QuicProtocolVersion.VERSION_2)


async def dial(engine: str, versions: list[int]) -> tuple[QuicConnection, Server]:
    """Returns a connection of a dialer that prefers the first version, and the listener."""

    def configure(quic: QuicConnection) -> None:
        quic._configuration.supported_versions = versions
        quic._configuration.original_version = versions[0]

    server = Server(settings(engine=engine), Owner)
    stranger = Stranger(server, configure=configure)
    await stranger.exchange()
    await server.endpoint.close(0)
    return stranger.quic, server


@pytest.mark.parametrize("versions", [[V1], [V1, V2]])
@pytest.mark.parametrize("engine", ENGINES)
def test_version_1_is_kept(engine: str, versions: list[int]) -> None:
    quic, _ = run_virtually(dial(engine, versions))
    assert quic._handshake_complete
    assert quic._version == V1


def test_aioquic_speaks_version_2_with_a_dialer_that_has_no_other() -> None:
    quic, _ = run_virtually(dial("aioquic", [V2]))
    assert quic._handshake_complete
    assert quic._version == V2


@pytest.mark.parametrize("engine", [native()])
def test_the_native_engine_names_version_1_to_a_dialer_of_version_2(engine: str) -> None:
    quic, _ = run_virtually(dial(engine, [V2, V1]))
    assert quic._handshake_complete
    assert quic._version == V1


@pytest.mark.parametrize("engine", [native()])
def test_the_native_engine_refuses_a_dialer_that_has_only_version_2(engine: str) -> None:
    quic, server = run_virtually(dial(engine, [V2]))
    assert not quic._handshake_complete
    assert server.endpoint.rejected[RejectReason.VERSION] == 1
