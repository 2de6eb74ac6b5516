"""Packets that are protected in batches equal those of aioquic."""

from __future__ import annotations

import pytest
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.quic.engine.aioquic_packets import opened, seal

CID = bytes(range(8))
SUITES = [
    CipherSuite.AES_128_GCM_SHA256,
    CipherSuite.AES_256_GCM_SHA384,
    CipherSuite.CHACHA20_POLY1305_SHA256,
]
PAYLOADS = st.lists(st.binary(min_size=3, max_size=1400), min_size=1, max_size=5)


def keys(suite: CipherSuite) -> CryptoPair:
    """Returns keys with which a side reads what it sends."""
    pair = CryptoPair()
    version = QuicProtocolVersion.VERSION_1
    for one in (pair.send, pair.recv):
        one.setup(cipher_suite=suite, secret=bytes(48), version=version)
    return pair


def plain(first: int, number: int) -> bytes:
    return bytes((first,)) + CID + (number & 0xFFFF).to_bytes(2, "big")


@pytest.mark.parametrize("suite", SUITES)
@given(payloads=PAYLOADS, number=st.integers(0, 1 << 40), spin=st.booleans())
def test_sealed_packets_equal_those_of_aioquic(
    suite: CipherSuite, payloads: list[bytes], number: int, spin: bool
) -> None:
    pair = keys(suite)
    first = 0x41 | spin << 5
    assert seal(pair, CID, number, spin, payloads) == [
        pair.encrypt_packet(plain(first, at), payload, at)
        for at, payload in enumerate(payloads, number)
    ]


@pytest.mark.parametrize("suite", SUITES)
@given(payloads=PAYLOADS, number=st.integers(0, 1 << 40), data=st.data())
def test_what_was_sealed_is_opened_and_forged_packets_are_dropped(
    suite: CipherSuite, payloads: list[bytes], number: int, data: st.DataObject
) -> None:
    pair = keys(suite)
    datagrams = seal(pair, CID, number, False, payloads)
    forged = data.draw(st.sampled_from(range(len(payloads))))
    datagrams[forged] = datagrams[forged][:-1] + bytes((datagrams[forged][-1] ^ 1,))
    packets, count = opened(pair, CID, datagrams, number)
    assert count == len(datagrams)
    assert [(number, payload) for number, _, payload in packets] == [
        (at, payload) for at, payload in enumerate(payloads, number) if at != number + forged
    ]


@pytest.mark.parametrize("suite", SUITES)
@given(garbage=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4))
def test_garbage_opens_nothing(suite: CipherSuite, garbage: list[bytes]) -> None:
    packets, _ = opened(keys(suite), CID, garbage, 7)
    assert packets == []


@pytest.mark.parametrize("suite", SUITES)
def test_a_packet_for_another_id_or_key_phase_stops(suite: CipherSuite) -> None:
    pair = keys(suite)
    mine, later = seal(pair, CID, 5, False, [bytes(40)] * 2)
    (other,) = seal(pair, bytes(8), 6, False, [bytes(40)])
    assert opened(pair, CID, [mine, other, later], 5)[1] == 1
    pair.send.key_phase = 1
    (updated,) = seal(pair, CID, 6, False, [bytes(40)])
    packets, count = opened(pair, CID, [mine, updated, later], 5)
    assert (len(packets), count) == (1, 1)
