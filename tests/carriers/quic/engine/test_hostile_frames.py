"""The native engine and frames that no honest peer sends: it may close the connection, no more."""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.tls import Epoch
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from tests.carriers.quic.engine.network import HERE, Network
from tests.support.engines import needs_native

pytestmark = needs_native

TYPES = [*range(0x20), 0x30, 0x31, 0xAF, 0x1234]
numbers = st.one_of(
    st.integers(0, 8), st.integers(0, 1 << 14), st.integers((1 << 62) - 8, (1 << 62) - 1)
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame type, some integers and some bytes: often a valid frame, or nearly one."""
    kind = encode_uint_var(draw(st.sampled_from(TYPES)))
    fields = b"".join(encode_uint_var(each) for each in draw(st.lists(numbers, max_size=6)))
    return kind + fields + draw(st.binary(max_size=24))


def packet(quic: Any, payload: bytes, number: int) -> bytes:
    """Encrypts frames as a packet of this aioquic connection."""
    keys = quic._cryptos[Epoch.ONE_RTT]
    head = bytes((0x41 | keys.key_phase << 2,)) + quic._peer_cid.cid
    header = head + (number & 0xFFFF).to_bytes(2, "big")
    encrypted: bytes = keys.encrypt_packet(header, payload.ljust(4, b"\0"), number)
    return encrypted


@how(max_examples=60, deadline=None)
@given(payloads=st.lists(st.lists(frames(), min_size=1, max_size=4), min_size=1, max_size=8))
@pytest.mark.parametrize("is_proved", [False, True])
def test_they_cost_one_connection(is_proved: bool, payloads: list[list[bytes]]) -> None:
    network = Network("aioquic", "native")
    if is_proved:
        network.establish()
    else:
        network.run(lambda: len(network.ends) == 2 and network.dialer.connection.is_confirmed)
    there: Any = network.listener.connection
    quic: Any = network.dialer.connection
    for number, payload in enumerate(payloads, 10_000):
        data = packet(quic._quic, b"".join(payload), number)
        there.receive(data, len(data), (HERE, None), network.now)
        there.drain(network.listener)
        there.transmit(network.now)
    for _ in range(5):
        timer = there.progress().timer
        if timer is not None:
            there.handle_timer(timer)
            there.transmit(timer)
    there.grant(1 << 20)
    there.close(0, "")
    there.transmit(network.now)
    there.release()
