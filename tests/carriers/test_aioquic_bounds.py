"""The aioquic internals that aioquic_bounds.py uses, and each bound from both sides.

An aioquic upgrade that changes these internals fails here by name. tests/carriers/test_strangers.py
replays whole attacks.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.connection import MAX_REMOTE_CHALLENGES, QuicConnection
from aioquic.quic.crypto import CryptoContext, CryptoPair, apply_key_phase, next_key_phase
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.tls import Context, Epoch

from quicdist.carriers.quic.engine import aioquic as adapter
from quicdist.carriers.quic.engine import aioquic_bounds, aioquic_keys
from quicdist.carriers.quic.engine.aioquic_bounds import BoundedQuic
from quicdist.carriers.quic.engine.aioquic_ranges import Ranges
from quicdist.carriers.quic.initial import packets_in
from quicdist.carriers.reject_reason import RejectReason
from quicdist.limits import ConnectionBounds
from quicdist.protocol.dialects import ALL_ALPNS
from tests.carriers.owners import Owner, settings
from tests.carriers.stranger import (
    THERE,
    Server,
    Stranger,
    ack,
    crypto,
    run_virtually,
    stream,
    var,
)

BOUNDS = ConnectionBounds()


class Talk:
    """An untrusted peer after the TLS handshake, and the endpoint's side of the connection."""

    def __init__(self, server: Server, stranger: Stranger) -> None:
        self.server = server
        self.stranger = stranger
        (carrier,) = server.endpoint.connections
        self.carrier = carrier
        engine = carrier._engine
        assert isinstance(engine, adapter.AioquicConnection)
        self.engine = engine
        self.quic = engine._quic

    async def send(self, *frames: bytes, epoch: Epoch = Epoch.ONE_RTT) -> None:
        """Sends one packet with these frames."""
        self.server.udp.bring(self.stranger.packet(epoch, b"".join(frames)), THERE)
        await self.server.settle()

    @property
    def refused(self) -> RejectReason | None:
        return self.carrier.exceeded


@asynccontextmanager
async def talk(**bounds: int) -> AsyncIterator[Talk]:
    server = Server(settings(engine="aioquic", bounds=ConnectionBounds(**bounds)), Owner)
    try:
        stranger = Stranger(server)
        await stranger.exchange()
        yield Talk(server, stranger)
    finally:
        await server.endpoint.close(0)


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on a virtual clock."""

    def run(**arguments: Any) -> None:
        run_virtually(test(**arguments))

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]  # what pytest reads
    run.__doc__ = test.__doc__
    return run


# -- internals in use ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "receive_datagram",
        "_payload_received",
        "_initialize",
        "_parse_transport_parameters",
        "_handle_crypto_frame",
        "_handle_ack_frame",
        "_get_or_create_stream",
        "_get_or_create_stream_for_send",
        "_handle_retire_connection_id_frame",
        "_write_new_connection_id_frame",
    ],
)
def test_methods_that_are_overridden_take_what_we_take(name: str) -> None:
    theirs = inspect.signature(getattr(QuicConnection, name))
    ours = inspect.signature(getattr(BoundedQuic, name))
    assert list(theirs.parameters) == list(ours.parameters)


def test_keys_are_opened_as_aioquic_opens_them() -> None:
    for ours, theirs in (
        (aioquic_keys.ReceiveKeys, CryptoContext),
        (aioquic_keys.OneRttKeys, CryptoPair),
    ):
        for name in ("decrypt_packet", "_update_key"):
            if name in vars(ours):
                expected = inspect.signature(getattr(theirs, name)).parameters
                assert list(inspect.signature(getattr(ours, name)).parameters) == list(expected)


@virtually
async def test_what_is_replaced_is_there() -> None:
    async with talk() as us:
        quic = us.quic
        assert type(quic._QuicConnection__frame_handlers) is aioquic_bounds._Frames
        assert type(quic._cryptos[Epoch.ONE_RTT]) is aioquic_keys.OneRttKeys
        assert quic.tls._handle_reassembled_message.__name__ == "bounded"
        parameters = inspect.signature(Context._handle_reassembled_message).parameters
        assert list(parameters)[1:] == ["message_type", "input_buf", "output_buf"]
        await us.send(stream(0, 0, b"x"))
        parts = quic._streams[0]
        for ranges in (parts.receiver._ranges, parts.sender._acked, parts.sender._pending):
            assert type(ranges) is Ranges
        assert quic._last_id_told == 7
        assert len(quic._host_cids) == 8


def test_a_counted_buffer_reads_as_aioquics_does() -> None:
    """Returns the read methods of Buffer that TLS parsers may call."""
    pulls = {name for name in dir(Buffer) if name.startswith("pull_")}
    counted = {name for name in dir(aioquic_bounds._CountedBuffer) if name.startswith("pull_")}
    assert counted == pulls - {"pull_uint_var"}  # not used by TLS


def test_aioquic_bounds_the_rest_itself() -> None:
    """Lists that aioquic parses without a bound of quicdist."""
    assert MAX_ACK_RANGES <= 64
    assert MAX_REMOTE_CHALLENGES <= 32


# -- each bound ---------------------------------------------------------------------------------


def gaps(count: int) -> list[bytes]:
    return [stream(4, 10 + 2 * n, b"x") for n in range(count)]


@virtually
async def test_gaps_of_a_stream_before_the_cookie() -> None:
    most = BOUNDS.max_stream_ranges_unproved
    async with talk() as us:
        for frame in gaps(most):
            await us.send(frame)
        assert len(us.quic._streams[4].receiver._ranges) == most
        assert us.refused is None
        await us.send(*gaps(most + 2)[-2:])
        assert us.engine.closed is not None
        assert us.engine.closed.error_code == QuicErrorCode.INTERNAL_ERROR
        assert us.refused is RejectReason.STREAM_RANGES
        assert us.server.endpoint.rejected == {RejectReason.STREAM_RANGES: 1}


@virtually
async def test_gaps_of_a_stream_with_the_cookie() -> None:
    async with talk(max_stream_ranges=100) as us:
        us.engine.peer_proved()
        for frame in gaps(100):
            await us.send(frame)
        assert us.refused is None
        await us.send(*gaps(102)[-2:])
        assert us.refused is RejectReason.STREAM_RANGES


@virtually
async def test_gaps_of_every_stream_are_bounded() -> None:
    most = BOUNDS.max_stream_ranges_unproved
    async with talk(max_frames_unproved=1 << 20) as us:
        for number in range(10, 10 + 2 * most, 2):
            for stream_id in range(0, 64, 4):
                await us.send(stream(stream_id, number, b"x"))
        assert us.refused is None
        assert {len(each.receiver._ranges) for each in us.quic._streams.values()} == {most}


@pytest.mark.parametrize("epoch", [Epoch.INITIAL, Epoch.ONE_RTT])
@virtually
async def test_gaps_of_a_tls_stream(epoch: Epoch) -> None:
    most = BOUNDS.max_tls_ranges
    server = Server(settings(engine="aioquic"), Owner)
    stranger = Stranger(server)
    if epoch is Epoch.INITIAL:
        stranger.say()
        await server.settle()
        stranger.hear()
    else:
        await stranger.exchange()
    us = Talk(server, stranger)
    for number in range(most + 1):
        assert us.refused is None
        frame = crypto(4000 + 2 * number, b"x")
        data = stranger.initial(frame) if epoch is Epoch.INITIAL else stranger.packet(epoch, frame)
        server.udp.bring(data, THERE)
        await server.settle()
    assert us.refused is RejectReason.TLS_RANGES
    assert us.engine.closed is not None
    assert us.engine.closed.error_code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
    await server.endpoint.close(0)


@virtually
async def test_frames_of_a_packet_and_in_all() -> None:
    async with talk(max_frames=40, max_frames_unproved=200) as us:
        assert 20 < 200 - us.quic._frames_left < 80
        while us.quic._frames_left >= 40:
            await us.send(b"\x01\x00" * 20)
            assert us.refused is None
        await us.send(b"\x01\x00" * 20)
        assert us.refused is RejectReason.FRAMES


@virtually
async def test_the_size_of_a_packet_counts_with_the_cookie() -> None:
    async with talk(max_frames=40, bytes_per_frame=2) as us:
        us.engine.peer_proved()
        for _ in range(100):
            await us.send(b"\x01\x00" * 40)
        assert us.refused is None
        await us.send(b"\x01" * 81)
        assert us.refused is RejectReason.FRAMES


@pytest.mark.parametrize(
    ("frame", "refusal"),
    [
        (ack(1 << 20), RejectReason.ACKNOWLEDGEMENTS),
        (ack(3, [(0, 0)] * 257), RejectReason.ACK_RANGES),
        (b"\x19" + var(8), RejectReason.CONNECTION_IDS),
    ],
)
@virtually
async def test_frames_that_no_peer_sends(frame: bytes, refusal: RejectReason) -> None:
    async with talk() as us:
        us.engine.peer_proved()
        await us.send(frame)
        assert us.refused is refusal
        assert us.engine.closed is not None
        assert us.engine.closed.error_code == QuicErrorCode.PROTOCOL_VIOLATION


@virtually
async def test_ids_that_it_was_told_are_retired_and_replaced_once() -> None:
    async with talk() as us:
        us.engine.peer_proved()
        await us.send(*(b"\x19" + var(number) for number in range(1, 8)))
        assert us.refused is None
        assert len(us.quic._host_cids) == 8
        assert us.quic._last_id_told == 14


@virtually
async def test_streams_are_counted_over_the_whole_life() -> None:
    """Finished streams do not free slots for other streams."""
    async with talk(max_frames_unproved=1 << 20) as us:
        most = settings().max_streams
        for number in range(1, most):
            reset = b"\x04" + var(4 * number) + b"\x00\x00"
            await us.send(reset, b"\x05" + var(4 * number) + b"\x00")
            await us.send(ack(us.quic._packet_number - 1))
        assert len(us.quic._streams) < most / 2
        assert us.refused is None
        assert us.engine.closed is None
        await us.send(stream(4 * most, 0, b"x"))
        assert us.engine.closed is not None
        assert us.engine.closed.error_code == QuicErrorCode.STREAM_LIMIT_ERROR


def with_new_keys(stranger: Stranger) -> None:
    pair = stranger.quic._cryptos[Epoch.ONE_RTT]
    apply_key_phase(pair.send, next_key_phase(pair.send), trigger="")
    pair.recv.key_phase = pair.send.key_phase


@virtually
async def test_keys_change_no_faster_than_we_answer() -> None:
    async with talk() as us:
        with_new_keys(us.stranger)
        await us.send(b"\x01")
        assert us.refused is None
        keys = us.quic.keys
        assert keys._not_before >= BOUNDS.min_packets_per_key
        us.quic._packet_number = keys._not_before - 1
        with_new_keys(us.stranger)
        await us.send(b"\x01")
        assert us.refused is RejectReason.KEY_UPDATES
        assert us.engine.closed is not None
        assert us.engine.closed.error_code == QuicErrorCode.KEY_UPDATE_ERROR


@virtually
async def test_keys_may_change_again_after_a_while() -> None:
    async with talk() as us:
        us.engine.peer_proved()
        for _ in range(5):
            with_new_keys(us.stranger)
            await us.send(b"\x01")
            us.quic._packet_number += BOUNDS.min_packets_per_key
        assert us.refused is None


@virtually
async def test_the_next_keys_are_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forged packets with the other key phase, as half of all forged packets appear."""
    derived = []

    def deriving(keys: CryptoContext) -> CryptoContext:
        derived.append(keys)
        return next_key_phase(keys)

    monkeypatch.setattr(aioquic_keys, "next_key_phase", deriving)
    async with talk() as us:
        head = b"\x41" + us.stranger.quic._peer_cid.cid
        for number in range(40):
            us.server.udp.bring(head + hashlib.sha512(b"%d" % number).digest(), THERE)
        await us.server.settle()
        assert len(derived) == 1
        assert us.refused is None


@virtually
async def test_a_datagram_of_many_packets_is_dropped_and_the_connection_goes_on() -> None:
    server = Server(settings(engine="aioquic"), Owner)
    stranger = Stranger(server)
    stranger.say()
    await server.settle()
    stranger.hear()
    most = BOUNDS.max_packets_per_datagram
    for count in (most, most + 1):
        packets = [stranger.packet(Epoch.INITIAL, b"\x01" + bytes(40)) for _ in range(count)]
        data = b"".join(packets).ljust(1200, b"\x00")
        assert packets_in(data, 100) == count
        us = Talk(server, stranger)
        before = us.quic._spaces[Epoch.INITIAL].largest_received_packet
        server.udp.bring(data, THERE)
        await server.settle()
        is_read = us.quic._spaces[Epoch.INITIAL].largest_received_packet > before
        assert is_read is (count == most)
    assert us.engine.closed is None
    await server.endpoint.close(0)


@virtually
async def test_a_stranger_stays_where_it_is() -> None:
    async with talk() as us:
        elsewhere = ("198.51.100.77", 1)
        us.server.udp.bring(us.stranger.packet(Epoch.ONE_RTT, b"\x01"), elsewhere)
        await us.server.settle()
        assert len(us.quic._network_paths) == 1
        us.engine.peer_proved()
        us.server.udp.bring(us.stranger.packet(Epoch.ONE_RTT, b"\x01"), elsewhere)
        await us.server.settle()
        assert us.quic._network_paths[0].addr[0] == elsewhere


@virtually
async def test_transport_parameters_are_bounded() -> None:
    async with talk() as us:
        with pytest.raises(Exception, match="too many transport parameters"):
            us.quic._parse_transport_parameters(bytes(BOUNDS.max_transport_parameters + 1))


@pytest.mark.parametrize("alpn", ALL_ALPNS)
@virtually
async def test_one_byte_far_ahead_makes_no_large_buffer_before_the_cookie(alpn: str) -> None:
    """The bound also holds for a dialect with a window of 32 MiB."""
    server = Server(settings(engine="aioquic"), Owner)
    stranger = Stranger(server, alpn=alpn)
    await stranger.exchange()
    us = Talk(server, stranger)
    most = BOUNDS.max_data_unproved
    assert us.quic._local_max_data.value == most
    await us.send(stream(4, most - 1, b"x"))
    assert us.engine.closed is None
    assert len(us.quic._streams[4].receiver._buffer) == most
    await us.send(stream(4, most, b"x"))
    assert us.engine.closed is not None
    assert us.engine.closed.error_code == QuicErrorCode.FLOW_CONTROL_ERROR
    await server.endpoint.close(0)


@virtually
async def test_the_window_is_the_dialects_with_the_cookie() -> None:
    async with talk() as us:
        us.carrier.handshake_done()
        assert us.quic._local_max_data.value >= settings().limits.receive_window
