"""Cipher suites and key exchanges as settings."""

from __future__ import annotations

from typing import Any

import pytest

from quicdist import Quic
from quicdist.carriers.quic.tls_choices import CIPHER_SUITES
from tests.carriers.owners import node
from tests.support.engines import ENGINES

AES_256 = "TLS_AES_256_GCM_SHA384"


@pytest.mark.io
@pytest.mark.parametrize("engine", ENGINES)
async def test_the_listener_takes_the_cipher_suites_of_its_setting(engine: str) -> None:
    async with node(engine=engine) as a, node(engine=engine, cipher_suites=(AES_256,)) as b:
        owner, _ = await a.connect(b)
        connection: Any = owner.connection
        assert "AES_256" in connection.cipher


@pytest.mark.io
async def test_without_a_cipher_suite_in_common_there_is_no_connection() -> None:
    chacha = "TLS_CHACHA20_POLY1305_SHA256"
    async with node(cipher_suites=(chacha,)) as a, node(cipher_suites=(AES_256,)) as b:
        with pytest.raises(ConnectionError):
            await a.endpoint.dial("127.0.0.1", b.port, timeout=2)


@pytest.mark.io
async def test_without_a_key_exchange_in_common_there_is_no_connection() -> None:
    async with (
        node(key_exchanges=("x25519",)) as a,
        node(key_exchanges=("secp384r1",)) as b,
        node(key_exchanges=("x25519", "secp256r1")) as c,
    ):
        await a.connect(c)
        with pytest.raises(ConnectionError):
            await a.endpoint.dial("127.0.0.1", b.port, timeout=2)


def test_what_the_engine_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="only supports secp256r1"):
        Quic(key_exchanges=("X25519MLKEM768",))
    with pytest.raises(ValueError, match="unknown QUIC engine 'qh3'"):
        Quic(engine="qh3")
    with pytest.raises(ValueError, match="cipher suite 'RC4'"):
        Quic(cipher_suites=("RC4",))
    with pytest.raises(ValueError, match="at least one"):
        Quic(cipher_suites=())
    assert Quic(cipher_suites=tuple(CIPHER_SUITES)) == Quic()
