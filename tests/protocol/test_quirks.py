"""Each quirk of the third-party carriers, against a test double that has the quirk."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from quicdist.carriers.base import CloseKind, DialError
from quicdist.limits import CarrierLimits
from tests.carriers.doubles import (
    Double,
    dialing_double,
    frame,
    framed,
    listening_double,
)
from tests.carriers.owners import ACK, CHALLENGE, NAME, REPLY, STATUS, Owner, node
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io

TICK = bytes(4)


def send_at_once(owner: Owner) -> None:
    """Makes an owner send frames as soon as the connection is established."""
    owner.on_up = lambda: [owner.connection.send_frame((b"at once %d" % i,)) for i in range(3)]  # type: ignore[assignment,func-returns-value]  # a list of Nones


AT_ONCE = b"".join(frame(b"at once %d" % i) for i in range(3))


async def quic_dist_dialer(double: Double) -> bytes:
    """The dialer of quic_dist: one event is one message, and data after the ack is discarded.

    Returns the data that it reads as frames.
    """
    double.say(b"ping")
    assert await double.event() == b"pong"
    double.say(framed(NAME))
    assert await double.event() == framed(STATUS)
    assert await double.event() == framed(CHALLENGE)
    double.say(framed(REPLY))
    ack = await double.event()
    assert ack.startswith(framed(ACK))
    return await double.events_until(lambda data: len(data) >= len(AT_ONCE))


async def quic_dist_acceptor(double: Double) -> None:
    """The acceptor of quic_dist: it hangs unless each event is exactly one expected message."""
    assert await double.event() == b"ping"
    double.say(b"pong")
    assert await double.event() == framed(NAME)
    double.say(framed(STATUS))
    await asyncio.sleep(0.03)
    double.say(framed(CHALLENGE))
    assert await double.event() == framed(REPLY)
    # Its frames may be merged with the ack, and none is lost.
    double.say(framed(ACK) + frame(b"with the ack") + TICK)


# -- quic_dist dials -------------------------------------------------------------------------


async def test_listener_keeps_status_apart_and_first_frames_back() -> None:
    async with (
        node(on_accept=send_at_once) as ours,
        dialing_double(ours.port, "sample") as double,
    ):
        assert await quic_dist_dialer(double) == AT_ONCE


async def test_first_frames_are_not_held_longer_than_the_dialer_is_silent() -> None:
    async with (
        node(on_accept=send_at_once) as ours,
        dialing_double(ours.port, "sample") as double,
    ):
        double.say(b"ping")
        await double.event()
        double.say(framed(NAME))
        await double.event()
        await double.event()
        double.say(framed(REPLY))
        assert await double.event() == framed(ACK)
        double.say(TICK)
        assert await double.event() == AT_ONCE


@pytest.mark.parametrize("deaf", [0.045, 0.15])
async def test_a_lost_status_does_not_come_again_with_the_challenge(deaf: float) -> None:
    """The gap ends only after the data before it has arrived."""
    async with node() as ours, dialing_double(ours.port, "sample") as double:
        double.say(b"ping")
        assert await double.event() == b"pong"
        double.say(framed(NAME))
        hear, heard = double.datagram_received, []
        double.datagram_received = lambda data, addr: heard.append(data)  # type: ignore[method-assign]  # receives nothing for a while
        await (await ours.first()).until(lambda: ours.accepted[0].handshake)
        await asyncio.sleep(deaf)
        assert heard
        double.datagram_received = hear  # type: ignore[method-assign]  # receives again
        assert await double.event() == framed(STATUS)
        assert await double.event() == framed(CHALLENGE)


async def test_an_abandoned_first_connection_is_nobodys_business() -> None:
    """After 200 ms without an open stream, quicer abandons the connection and dials again."""
    async with node() as ours:
        async with dialing_double(ours.port, "sample"):
            pass  # up, no stream, closed
        async with dialing_double(ours.port, "sample") as mute:
            mute.vanish()
        async with dialing_double(ours.port, "sample") as double:
            double.say(b"ping")
            assert await double.event() == b"pong"
            double.say(framed(NAME))
            assert await double.event() == framed(STATUS)
        assert len(ours.accepted) == 1


async def test_a_connection_that_brings_nothing_is_closed() -> None:
    limits = CarrierLimits(handshake_timeout=0.2)
    async with node(limits=limits) as ours, dialing_double(ours.port, "sample") as double:
        double.say(b"ping")  # no more: the preamble does not count
        await asyncio.wait_for(double.wait_closed(), PATIENCE)
        assert double.terminated is not None
        assert not ours.accepted
        assert not ours.endpoint.connections


async def test_a_peer_that_never_ticks_shows_its_life() -> None:
    async with node() as ours, dialing_double(ours.port, "sample") as double:
        double.say(b"ping")
        await double.event()
        double.say(framed(NAME))
        owner = await ours.first()

        async def ping() -> None:
            before = owner.connection.last_received
            owner.connection.ping()
            await until(lambda: owner.connection.last_received != before)

        for _ in range(3):
            await ping()


async def test_silent_peers_are_pinged_before_they_time_out() -> None:
    limits = CarrierLimits(idle_timeout=2.0)
    async with node(limits=limits) as ours, dialing_double(ours.port, "quicdist/1") as double:
        double.say(framed(NAME))
        owner = await ours.first()
        await asyncio.sleep(4.0)  # twice the idle timeout
        assert not owner.lost


# -- quic_dist listens --------------------------------------------------------------------------


async def test_dialer_waits_for_pong_and_sends_messages_whole() -> None:
    async with (
        listening_double("sample", lambda double, _: quic_dist_acceptor(double)) as port,
        node() as ours,
    ):
        owner = await ours.dial(port)
        await owner.until(lambda: len(owner.frames) == 2)
        assert owner.handshake == [STATUS, CHALLENGE, ACK]
        assert owner.frames == [b"with the ack", b""]


@pytest.mark.parametrize("length", [200, 700, 1050])
async def test_a_long_name_still_leaves_in_one_chunk(length: int) -> None:
    """This holds for any free space in the packet."""
    name = NAME[:13] + length.to_bytes(2, "big") + b"a@" + b"h" * (length - 2)
    doubles: list[Double] = []
    async with (
        listening_double("quicdist/1", lambda double, _: doubles.append(double)) as port,
        node() as ours,
    ):
        connection = await ours.endpoint.dial("127.0.0.1", port)
        connection.handler = Owner(connection)
        connection.ping()
        connection.send_handshake(name)
        assert await doubles[0].event() == framed(name)
        assert doubles[0].chunks == [(0, framed(name))]


async def test_dialer_opens_the_stream_at_once() -> None:
    doubles: list[Double] = []
    async with (
        listening_double("sample", lambda double, _: doubles.append(double)) as port,
        node() as ours,
    ):
        with pytest.raises(DialError, match="no answer"):
            await ours.endpoint.dial("127.0.0.1", port, timeout=2.0)
        assert doubles[0].chunks == [(0, b"ping")]
        assert doubles[0].opened_after is not None


@pytest.mark.parametrize("when", ["at once", "after ping"])
async def test_dialer_tries_again_when_a_connection_dies_before_it_is_up(when: str) -> None:
    """The acceptor of quic_dist has a race and closes a first connection without a reason."""

    async def first_dies(double: Double, number: int) -> None:
        if number < 3:
            await double.is_up.wait()
            if when == "after ping":
                assert await double.event() == b"ping"
            double.close()
        else:
            await quic_dist_acceptor(double)

    async with listening_double("sample", first_dies) as port, node() as ours:
        owner = await ours.dial(port)
        await owner.until(lambda: len(owner.frames) == 2)
        assert owner.frames == [b"with the ack", b""]


async def test_dialer_gives_up_at_last() -> None:
    async def dies(double: Double, number: int) -> None:
        await double.is_up.wait()
        double.close(reason_phrase="not today")

    async with listening_double("sample", dies) as port, node() as ours:
        with pytest.raises(DialError, match="not today"):
            await ours.endpoint.dial("127.0.0.1", port, timeout=PATIENCE)


async def test_a_listener_that_disconnects_resets_its_stream() -> None:
    doubles: list[Double] = []

    async def serve(double: Double, number: int) -> None:
        doubles.append(double)
        await quic_dist_acceptor(double)
        await double.events_until(lambda data: data.endswith(TICK))
        double.hang_up_softly()
        await double.wait_closed()

    async with listening_double("sample", serve) as port, node() as ours:
        owner = await ours.dial(port)
        await owner.until(lambda: owner.is_up)
        owner.connection.send_frame(())
        await owner.until(lambda: owner.lost)
        assert owner.lost[0].kind is CloseKind.PEER
        assert "stream 0" in owner.lost[0].text
    # It requires a CONNECTION_CLOSE.
    assert doubles[0].terminated is not None
    assert doubles[0].terminated.frame_type is None
    assert doubles[0].terminated.error_code == 0


@pytest.mark.parametrize("alpn", ["sample", "macula-dist", "erlang-dist"])
async def test_closing_says_so_in_the_one_way_that_is_heard(alpn: str) -> None:
    async with node() as ours, dialing_double(ours.port, alpn) as double:
        if alpn == "sample":
            double.say(b"ping")
        double.say(NAME if alpn == "erlang-dist" else framed(NAME))
        owner = await ours.first()
        await owner.until(lambda: owner.handshake)
        owner.connection.close("enough")
        await asyncio.wait_for(double.wait_closed(), PATIENCE)
        assert double.terminated is not None
        assert (double.terminated.frame_type, double.terminated.error_code) == (None, 0)
        await owner.until(lambda: owner.lost)
        assert owner.lost[0].kind is CloseKind.LOCAL


# -- erlang_quic --------------------------------------------------------------------------------


async def erlang_dialer(double: Double) -> None:
    """In erlang-dist one chunk is one message."""
    double.say(NAME)
    assert await double.event() == STATUS
    assert await double.event() == CHALLENGE
    double.say(REPLY)
    assert await double.event() == ACK


async def test_erlang_quic_dials_us() -> None:
    """The peer opens 16 data streams in any order; frames of this node use stream 1."""
    async with (
        node(on_accept=send_at_once) as ours,
        dialing_double(ours.port, "erlang-dist") as double,
    ):
        await erlang_dialer(double)
        assert (0, ACK) in double.chunks
        streams = list(range(4, 65, 4))
        random.Random(3).shuffle(streams)
        for stream in streams:
            double.say(frame(b"on %d" % stream)[:5], stream)
        double.say(b"raw bytes", 68)
        for stream in streams:
            double.say(frame(b"on %d" % stream)[5:], stream)
        owner = await ours.first()
        await owner.until(lambda: len(owner.frames) == 16)
        assert sorted(owner.frames) == sorted(b"on %d" % stream for stream in streams)
        assert await double.events_until(lambda data: len(data) >= len(AT_ONCE), 1) == AT_ONCE
        await until(lambda: double.resets)
        assert double.resets == [(68, 0x100)]
        assert not owner.lost
        # The chunk of the ack contained nothing else, and ticks arrive on stream 0.
        owner.connection.send_frame(())
        assert await double.event() == TICK


async def test_we_dial_erlang_quic() -> None:
    """Status and challenge are merged, and frames on other streams overtake the ack."""
    doubles: list[Double] = []

    async def serve(double: Double, number: int) -> None:
        doubles.append(double)
        assert await double.event() == NAME
        double.say(STATUS + CHALLENGE)
        assert await double.event() == REPLY
        for stream in (1, 5, 9):
            double.say(frame(b"early"), stream)
        await asyncio.sleep(0.05)
        double.say(ACK)
        assert await double.event(4) == frame(b"on 4") * 20

    async with listening_double("erlang-dist", serve) as port, node() as ours:
        owner = await ours.dial(port)
        await owner.until(lambda: owner.is_up)
        for _ in range(20):
            owner.connection.send_frame((b"on 4",))
        await owner.until(lambda: len(owner.frames) == 3)
        assert owner.frames == [b"early"] * 3
        assert await owner.connection.flush(PATIENCE)
    assert {stream for stream, _ in doubles[0].chunks} == {0, 4}


async def test_erlang_quic_never_runs_out_of_streams_or_of_credit_for_a_frame() -> None:
    """The peer needs 17 streams, sends only whole frames, and queues those that do not fit."""
    async with (
        node(limits=CarrierLimits(receive_window=100_000)) as ours,
        dialing_double(ours.port, "erlang-dist") as double,
    ):
        assert double._quic._remote_max_streams_bidi >= 17
        await erlang_dialer(double)
        await until(lambda: double._quic._remote_max_data > 20_000_000)
        double.say(frame(bytes(1_000_000)), 4)
        owner = await ours.first()
        await owner.until(lambda: owner.frame_bytes == 1_000_000)


async def test_erlang_quic_zombies_look_alive_to_the_carrier() -> None:
    """The peer acknowledges and never answers, so the owner must send probes."""
    async with (
        node(limits=CarrierLimits(idle_timeout=2.0)) as ours,
        dialing_double(ours.port, "erlang-dist") as double,
    ):
        await erlang_dialer(double)
        owner = await ours.first()
        for _ in range(15):
            owner.connection.send_frame((b"into the void",))
            await asyncio.sleep(0.2)
        assert not owner.lost
        assert owner.connection.traits.needs_probe
        await until(lambda: not owner.connection.statistics().bytes_unacknowledged)


async def test_a_reset_data_stream_ends_the_connection() -> None:
    async with node() as ours, dialing_double(ours.port, "erlang-dist") as double:
        await erlang_dialer(double)
        double.say(frame(b"half a frame")[:7], 4)
        double._quic.reset_stream(4, 7)
        double.transmit()
        owner = await ours.first()
        await owner.until(lambda: owner.lost)
        assert owner.lost[0].kind is CloseKind.PEER
        assert "stream 4" in owner.lost[0].text


# -- macula_dist --------------------------------------------------------------------------------


async def test_macula_as_shipped_handshakes_and_no_more() -> None:
    async def serve(double: Double, number: int) -> None:
        assert await double.event() == framed(NAME)
        double.say(framed(STATUS))
        double.say(framed(CHALLENGE))
        assert await double.event() == framed(REPLY)
        double.say(framed(ACK))
        for _ in range(4):
            await asyncio.sleep(0.02)
            double.say(b"\x00\x00")

    async with listening_double("macula-dist", serve) as port, node() as ours:
        owner = await ours.dial(port)
        await owner.until(lambda: len(owner.frames) == 2)
        assert owner.frames == [b"", b""]
        assert not owner.lost


async def test_a_macula_acceptor_has_time_to_wait_for_the_stream() -> None:
    """A stream that is opened too early is lost, with the name in it."""
    doubles: list[Double] = []

    async def serve(double: Double, number: int) -> None:
        doubles.append(double)
        assert await double.event() == framed(NAME)
        double.say(framed(STATUS) + framed(CHALLENGE))
        assert await double.event() == framed(REPLY)

    async with listening_double("macula-dist", serve) as port, node() as ours:
        owner = await ours.dial(port)
        await owner.until(lambda: len(owner.handshake) == 2)
        assert doubles[0].opened_after is not None
        assert doubles[0].opened_after > 0.02


async def test_a_macula_dialer_finds_one_message_in_each_event() -> None:
    """The peer drops data after the first message."""
    async with node() as ours, dialing_double(ours.port, "macula-dist") as double:
        double.say(framed(NAME))
        assert await double.event() == framed(STATUS)
        assert await double.event() == framed(CHALLENGE)
        double.say(framed(REPLY))
        assert await double.event() == framed(ACK)


# -- all ----------------------------------------------------------------------------------------


async def test_msquic_windows_are_kept_to() -> None:
    """With stream windows of 64 KiB at the peer, the sender waits and all data arrives."""
    doubles: list[Double] = []

    async def serve(double: Double, number: int) -> None:
        doubles.append(double)
        await quic_dist_acceptor(double)
        data = await double.events_until(lambda data: len(data) >= 20 * 50_004)
        assert data == frame(bytes(50_000)) * 20

    async with (
        listening_double("sample", serve, max_stream_data=65536) as port,
        node() as ours,
    ):
        owner = await ours.dial(port)
        await owner.until(lambda: owner.is_up)
        for _ in range(20):
            await owner.send(bytes(50_000))
        assert await owner.connection.flush(PATIENCE)


async def test_bytes_that_no_such_carrier_sends_cost_the_connection_alone() -> None:
    async with node() as ours, dialing_double(ours.port, "quicdist/1") as good:
        good.say(framed(NAME))
        owner = await ours.first()
        async with dialing_double(ours.port, "quicdist/1") as bad:
            bad.say(framed(NAME))
            victim = await ours.first(2)
            bad.say(framed(b"r") + b"\xff\xff\xff\xff")
            await victim.until(lambda: victim.lost)
            assert victim.lost[0].kind is CloseKind.BROKEN
            assert "4294967295 bytes" in victim.lost[0].text
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(bad.wait_closed(), PATIENCE)
            assert bad.terminated is not None
        assert not owner.lost
        good.say(framed(REPLY))
        await owner.until(lambda: owner.is_up)


async def test_refused_streams_do_not_use_up_the_window() -> None:
    """Data beyond the window on unread streams does not block the stream in use."""
    limits = CarrierLimits(receive_window=64 * 1024)
    async with node(limits=limits) as ours, dialing_double(ours.port, "quicdist/1") as double:
        double.say(framed(NAME))
        await double.event()
        double.say(framed(REPLY))
        await double.event()
        owner = await ours.first()
        for i in range(20):
            double.say(bytes(30_000), 4 * (i + 1))
            double.say(frame(bytes(10_000)))
            await owner.until(lambda i=i: len(owner.frames) == i + 1)  # type: ignore[misc]  # bound now
        assert not owner.lost
        assert {code for _, code in double.resets} == {0x100}
