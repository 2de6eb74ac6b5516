"""The relay of two connections, with connections that only record calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.carriers.base import CloseKind, CloseReason, ConnectionHandler, ConnectionStatistics
from quicdist.carriers.trust import PeerRefused
from quicdist.cluster.access import Access
from quicdist.cluster.policy import PeerRules, Policy
from quicdist.errors import Cause
from quicdist.etf import Atom, Pid, Reference, encode_bare
from quicdist.gateway.policy_filter import PolicyFilter
from quicdist.gateway.relay import PeerRates, Relay, claimed_name
from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.dialects.base import Buffer, DialectTraits
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.role import Role
from tests.protocol.forms import MonitorP, UnlinkId
from tests.support.waiting import PATIENCE, until

TRAITS = DialectTraits("fake", "")


class Remembering:
    """A connection that records all calls in order."""

    role = Role.DIALER
    peer_address = local_address = ("127.0.0.1", 1)

    def __init__(self, *, ticks_may_stop: bool = False) -> None:
        self.traits = DialectTraits("fake", "", ticks_may_stop=ticks_may_stop)
        self.handler: ConnectionHandler | None = None
        self.last_received = 0.0
        self.is_writable = True
        self.told: list[object] = []
        self.consumed_bytes = 0
        self.closed: str | None = None
        self.flushes: list[asyncio.Future[bool]] = []
        self.pings = 0
        self.strangers: set[str] = set()
        self.remembered: list[str] = []

    def send_handshake(self, message: bytes) -> None:
        self.told.append(HandshakePacket(message))

    def handshake_done(self) -> None:
        self.told.append("done")

    def send_framed(self, frames: Sequence[bytes], stream: int = 0) -> None:
        for frame in frames:
            self.send_frame((frame[4:],), stream)

    def send_at_once(self, frame: bytes, stream: int = 0) -> bool:
        return False

    def send_frame(self, parts: Sequence[Buffer], stream: int = 0) -> None:
        self.told.append(FramePacket(b"".join(bytes(part) for part in parts)))

    def consumed(self, count: int) -> None:
        self.consumed_bytes += count

    def ping(self) -> None:
        self.pings += 1

    binding = b""

    peer_fingerprint = ""

    def check_again(self, node: str) -> None:
        self.check_name(node)

    def must_bind(self, node: str) -> bool:
        return False

    def check_name(self, node: str) -> None:
        if node in self.strangers:
            raise PeerRefused(f"not {node}")

    def remember(self, node: str, *, bound: bool = False) -> None:
        self.remembered.append(node)

    def statistics(self) -> ConnectionStatistics:
        return ConnectionStatistics(0, 0, 0)

    async def flush(self, timeout: float) -> bool:
        self.flushes.append(asyncio.get_running_loop().create_future())
        return await self.flushes[-1]

    def close(self, reason: str) -> None:
        if self.closed is None:
            self.closed = reason
            loop = asyncio.get_running_loop()
            loop.call_soon(self.lose, CloseReason(CloseKind.LOCAL, reason))

    def lose(self, reason: CloseReason) -> None:
        assert self.handler is not None
        self.handler.connection_lost(reason)

    def bring(self, *packets: Packet) -> None:
        assert self.handler is not None
        self.consumed_bytes += self.handler.packets_received(packets)


@asynccontextmanager
async def relay(
    handshake_timeout: float = PATIENCE, keepalive: float = PATIENCE
) -> AsyncIterator[Relay]:
    made = Relay(
        "5555@here",
        peer_name="6666@there",
        peer_address="there:6666",
        handshake_timeout=handshake_timeout,
        keepalive=keepalive,
    )
    try:
        yield made
    finally:
        made.close("end of test")
        await asyncio.wait_for(made.wait_closed(), PATIENCE)


def handshake(near: Remembering, far: Remembering) -> None:
    """Runs a handshake between two nodes; `near` is the dialer."""
    near.bring(HandshakePacket(b"Nname"))
    far.bring(HandshakePacket(b"sok"), HandshakePacket(b"Nchallenge"))
    near.bring(HandshakePacket(b"rreply"))
    far.bring(HandshakePacket(b"aack"))
    near.told.clear()
    far.told.clear()


async def test_a_handshake_and_frames_go_across() -> None:
    near, far = Remembering(), Remembering()
    async with relay() as both:
        both.near.attach(near)
        both.far.attach(far)
        near.bring(HandshakePacket(b"Nname"))
        far.bring(HandshakePacket(b"sok"), HandshakePacket(b"Nchallenge"))
        near.bring(HandshakePacket(b"rreply"))
        assert not both.connected
        # A frame directly after the last message; the connection is notified in between.
        far.bring(HandshakePacket(b"aack"), FramePacket(b"frame"), FramePacket(b""))
        assert both.connected
        near.bring(FramePacket(b"back"))
        assert far.told == [
            HandshakePacket(b"Nname"),
            HandshakePacket(b"rreply"),
            "done",
            FramePacket(b"back"),
        ]
        assert near.told == [
            HandshakePacket(b"sok"),
            HandshakePacket(b"Nchallenge"),
            HandshakePacket(b"aack"),
            "done",
            FramePacket(b"frame"),
            FramePacket(b""),
        ]
        assert near.consumed_bytes == len(b"Nnamerreplyback")


async def test_a_peer_that_is_not_believed_any_more_is_disconnected() -> None:
    near, far = Remembering(), Remembering()
    async with relay() as both:
        both.near.attach(near)
        both.far.attach(far)
        handshake(near, far)
        both.recheck()
        assert not both.is_closing
        far.strangers = {"6666@there"}
        both.recheck()
        assert both.is_closing
        assert (near.closed, far.closed) == ("its certificate is no longer trusted",) * 2


async def test_who_dials_does_not_say_when_the_handshake_is_done() -> None:
    made = Relay(
        "5555@here",
        peer_name=None,
        peer_address="there:6666",
        handshake_timeout=PATIENCE,
        keepalive=PATIENCE,
    )
    near, far = Remembering(), Remembering()
    made.far.attach(far)
    made.near.attach(near)
    name = hs.build_name(hs.Name(int(DEFAULT_FLAGS), 1, "peer@x"))
    far.bring(HandshakePacket(name), HandshakePacket(b"aack"))
    assert not made.connected
    assert "done" not in [*near.told, *far.told]
    near.bring(HandshakePacket(b"aack"))
    assert made.connected
    assert near.told[-1] == far.told[-1] == "done"
    made.close("end of test")
    await asyncio.wait_for(made.wait_closed(), PATIENCE)


async def test_what_comes_before_there_is_another_side_waits_unconsumed() -> None:
    near, far = Remembering(), Remembering()
    async with relay() as both:
        both.near.attach(near)
        near.bring(HandshakePacket(b"Nname"))
        assert near.consumed_bytes == 0
        both.far.attach(far)
        assert far.told == [HandshakePacket(b"Nname")]
        assert near.consumed_bytes == len(b"Nname")


async def test_the_first_message_is_known_while_the_peer_is_dialed() -> None:
    near, far = Remembering(), Remembering()
    async with relay() as both:
        both.near.attach(near)
        assert both.near.first_message(b"", TRAITS) is None
        near.bring(HandshakePacket(b"Nname"))
        assert both.near.first_message(b"", TRAITS) == b"Nname"
        both.far.attach(far)
        assert far.told == [HandshakePacket(b"Nname")]
        assert both.near.first_message(b"", TRAITS) is None


def dialing_with(policy: Policy) -> Relay:
    return Relay(
        "node@x",
        peer_name="peer@x",
        peer_address="there:6666",
        handshake_timeout=PATIENCE,
        keepalive=PATIENCE,
        policy_filter=PolicyFilter(policy, "node@x", dialed_peer="peer@x"),
    )


NAME = hs.Name(int(DEFAULT_FLAGS), 1, "node@x")


async def test_the_first_message_is_that_which_the_policy_filter_passes() -> None:
    made = dialing_with(Policy((PeerRules(nodes=("peer@x",)),)))
    near, far = Remembering(), Remembering()
    made.near.attach(near)
    near.bring(HandshakePacket(hs.build_name(NAME)))
    flags = DEFAULT_FLAGS & ~Flag.DIST_HDR_ATOM_CACHE
    passed = hs.build_name(replace(NAME, flags=int(flags)))
    assert made.near.first_message(b"", TRAITS) == passed
    made.far.attach(far)
    assert far.told == [HandshakePacket(passed)]
    assert near.consumed_bytes == len(passed)
    made.close("end of test")
    await asyncio.wait_for(made.wait_closed(), PATIENCE)


async def test_a_peer_that_the_policy_does_not_permit_is_told_nothing() -> None:
    made = dialing_with(Policy(()))
    near, far = Remembering(), Remembering()
    made.near.attach(near)
    near.bring(HandshakePacket(hs.build_name(NAME)))
    assert near.told == [HandshakePacket(b"snot_allowed")]
    assert made.near.first_message(b"", TRAITS) is None
    made.far.attach(far)
    await until(lambda: near.flushes)
    assert far.closed is not None
    assert far.told == []
    near.flushes[0].set_result(True)
    await asyncio.wait_for(made.wait_closed(), PATIENCE)


async def test_bytes_are_consumed_when_the_other_side_is_below_its_watermark() -> None:
    near, far = Remembering(), Remembering()
    async with relay() as both:
        both.near.attach(near)
        both.far.attach(far)
        handshake(near, far)
        before = far.consumed_bytes
        near.is_writable = False
        far.bring(FramePacket(bytes(100)))
        far.bring(FramePacket(bytes(50)))
        assert len(near.told) == 2
        assert far.consumed_bytes == before
        near.is_writable = True
        both.near.writable_again()
        assert far.consumed_bytes == before + 150
        far.bring(FramePacket(bytes(7)))
        assert far.consumed_bytes == before + 157


async def test_the_last_words_arrive_before_the_close() -> None:
    near, far = Remembering(), Remembering()
    async with relay() as both:
        both.near.attach(near)
        both.far.attach(far)
        handshake(near, far)
        far.bring(FramePacket(b"last words"))
        far.lose(CloseReason(CloseKind.PEER, "the peer closed the connection"))
        await until(lambda: near.flushes)
        assert near.told == [FramePacket(b"last words")]
        assert near.closed is None
        near.flushes[0].set_result(True)
        await asyncio.wait_for(both.wait_closed(), PATIENCE)
        assert near.closed == "the peer closed the connection"


async def test_the_reason_goes_across_in_words_that_the_other_side_understands() -> None:
    near, far = Remembering(), Remembering()
    async with relay() as both:
        both.near.attach(near)
        both.far.attach(far)
        near.lose(CloseReason(CloseKind.PEER, "the peer closed the connection"))
        await until(lambda: far.flushes)
        far.flushes[0].set_result(True)
        await asyncio.wait_for(both.wait_closed(), PATIENCE)
        assert far.closed == "the BEAM node closed the connection"


async def test_both_sides_may_go_in_one_turn() -> None:
    near, far = Remembering(), Remembering()
    async with relay() as both:
        both.near.attach(near)
        both.far.attach(far)
        near.lose(CloseReason(CloseKind.PEER, "the peer closed the connection"))
        far.lose(CloseReason(CloseKind.ERROR, "the local address has changed"))
        ending = asyncio.all_tasks() - {asyncio.current_task()}
        await until(lambda: far.flushes or all(task.done() for task in ending))
        for flush in far.flushes:
            flush.set_result(False)
        ended = await asyncio.gather(*ending, return_exceptions=True)
        assert [end for end in ended if isinstance(end, Exception)] == []


async def test_a_peer_s_words_stay_on_one_line(caplog: pytest.LogCaptureFixture) -> None:
    near, far = Remembering(), Remembering()
    async with relay() as both:
        both.near.attach(near)
        both.far.attach(far)
        far.lose(CloseReason(CloseKind.ERROR, "bad\nINFO all is well"))
        await until(lambda: near.flushes)
        near.flushes[0].set_result(True)
        await asyncio.wait_for(both.wait_closed(), PATIENCE)
    assert "bad?INFO all is well" in caplog.text


async def test_a_side_that_comes_too_late_is_closed() -> None:
    near, far = Remembering(), Remembering()
    async with relay() as both:
        both.near.attach(near)
        near.lose(CloseReason(CloseKind.PEER, "gone"))
        await asyncio.wait_for(both.wait_closed(), PATIENCE)
        both.far.attach(far)
        assert far.closed == "the other side is gone"
        await asyncio.sleep(0)


async def test_silence_instead_of_a_handshake_ends_it() -> None:
    near, far = Remembering(), Remembering()
    async with relay(handshake_timeout=0.05) as both:
        both.near.attach(near)
        both.far.attach(far)
        near.bring(HandshakePacket(b"Nname"))
        await asyncio.wait_for(both.wait_closed(), PATIENCE)
        assert near.closed == far.closed == "no handshake within 0.05 s"


@pytest.mark.parametrize("status", [b"snok", b"snot_allowed"])
async def test_a_refusal_is_said(status: bytes, caplog: pytest.LogCaptureFixture) -> None:
    near, far = Remembering(), Remembering()
    async with relay() as both:
        both.near.attach(near)
        both.far.attach(far)
        near.bring(HandshakePacket(b"Nname"))
        far.bring(HandshakePacket(status))
        assert near.told == [HandshakePacket(status)]
    assert f"6666@there (there:6666): refused by the peer ({status[1:].decode()})" in caplog.text


@pytest.mark.io
async def test_a_live_peer_that_does_not_tick_is_ticked_for() -> None:
    near, far = Remembering(), Remembering(ticks_may_stop=True)
    loop = asyncio.get_running_loop()
    async with relay(keepalive=0.01) as both:
        both.near.attach(near)
        both.far.attach(far)
        handshake(near, far)
        while not near.told:
            far.last_received = loop.time()
            await asyncio.sleep(0.005)
        assert near.told[0] == FramePacket(b"")
        assert far.pings > 0
        assert not far.told


@pytest.mark.io
async def test_no_ticks_are_made_up_for_a_dead_peer_or_one_that_ticks() -> None:
    loop = asyncio.get_running_loop()
    for ticks_may_stop, alive in ((True, False), (False, True)):
        near, far = Remembering(), Remembering(ticks_may_stop=ticks_may_stop)
        async with relay(keepalive=0.01) as both:
            both.near.attach(near)
            both.far.attach(far)
            handshake(near, far)
            far.bring(FramePacket(b""))
            for _ in range(10):
                far.last_received = loop.time() if alive else loop.time() - 60
                await asyncio.sleep(0.005)
            assert near.told == [FramePacket(b"")]


def test_the_name_a_node_claims() -> None:
    new = b"N" + bytes(8) + bytes(4) + b"\0\x05a@b.c" + b"extra"
    old = b"n" + bytes(2) + bytes(4) + b"a@b.c"
    assert claimed_name(new) == claimed_name(old) == "a@b.c"
    assert claimed_name(b"n" + bytes(6) + b"a\n") is None


@given(st.binary(max_size=400))
def test_hostile_names_never_break_a_line_of_the_log(message: bytes) -> None:
    name = claimed_name(message)
    assert name is None or (name.isprintable() and len(name) <= 255)


# -- with a policy ------------------------------------------------------------------------------

REFUSED = b"\x83D\0" + encode_bare(
    MonitorP(
        Pid(Atom("peer@x"), 1, 0, 1), Atom("kitchen"), Reference(Atom("peer@x"), (1, 2, 3), 1)
    ).to_tuple()
)


@asynccontextmanager
async def filtered_relay(
    near: Remembering, far: Remembering, rates: PeerRates | None = None
) -> AsyncIterator[Relay]:
    """The far side is the connected node `peer@x`, which has no permissions."""
    policy = Policy((PeerRules(nodes=("peer@x",)),))
    made = Relay(
        "node@x",
        peer_name=None,
        peer_address="there:6666",
        handshake_timeout=PATIENCE,
        keepalive=PATIENCE,
        policy_filter=PolicyFilter(policy, "node@x", dialed_peer=None),
        rates=rates or PeerRates(),
    )
    made.near.attach(near)
    made.far.attach(far)
    flags = int(DEFAULT_FLAGS)
    far.bring(HandshakePacket(hs.build_name(hs.Name(flags, 1, "peer@x"))))
    near.bring(
        HandshakePacket(b"sok"),
        HandshakePacket(hs.build_challenge(hs.Challenge(flags, 1, 1, "node@x"))),
        HandshakePacket(b"aack"),
    )
    near.told.clear()
    far.told.clear()
    far.consumed_bytes = 0
    try:
        yield made
    finally:
        made.close("end of test")
        await asyncio.wait_for(made.wait_closed(), PATIENCE)


async def test_a_refusal_goes_back_and_the_node_hears_that_the_peer_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "quicdist.gateway")
    near, far = Remembering(), Remembering()
    async with filtered_relay(near, far):
        far.bring(FramePacket(REFUSED), FramePacket(REFUSED))
        assert near.told == [FramePacket(b"")]
        assert len(far.told) == 2
        assert far.consumed_bytes == 2 * len(REFUSED)
    assert caplog.text.count("peer@x (there:6666) -> node@x: refused: a monitor of kitchen") == 1
    assert "peer@x (there:6666) -> node@x: messages refused by the policy: 2" in caplog.text


async def test_who_does_not_read_refusals_is_heard_no_further() -> None:
    near, far = Remembering(), Remembering()
    async with filtered_relay(near, far) as both:
        far.is_writable = False
        far.bring(FramePacket(b""))
        assert far.consumed_bytes == 0
        far.bring(FramePacket(REFUSED))
        assert far.consumed_bytes == 0
        both.near.writable_again()
        assert far.consumed_bytes == 0
        far.is_writable = True
        both.far.writable_again()
        assert far.consumed_bytes == len(REFUSED)


async def test_without_refusals_the_two_ways_do_not_wait_for_each_other() -> None:
    near, far = Remembering(), Remembering()
    async with filtered_relay(near, far):
        far.is_writable = False
        passing = b"\x83D\0" + encode_bare(
            UnlinkId(1, Pid(Atom("peer@x"), 1, 0, 1), Pid(Atom("node@x"), 1, 0, 1)).to_tuple()
        )
        far.bring(FramePacket(passing))
        assert near.told == [FramePacket(passing)]
        assert far.consumed_bytes == len(passing)


async def test_kinds_of_refusals_in_the_log_are_few(caplog: pytest.LogCaptureFixture) -> None:
    near, far = Remembering(), Remembering()
    async with filtered_relay(near, far) as both:
        for number in range(100):
            both.note(f"refused: a message to name_{number}\n")
    assert "refused: a message to name_19?" in caplog.text
    assert "name_20" not in caplog.text
    assert caplog.text.count("further kinds of messages are refused") == 1


def unlink(number: int) -> FramePacket:
    """A frame that every policy allows."""
    control = UnlinkId(number, Pid(Atom("peer@x"), 1, 0, 1), Pid(Atom("node@x"), 1, 0, 1))
    return FramePacket(b"\x83D\0" + encode_bare(control.to_tuple()))


async def test_a_peer_that_exceeds_its_rate_waits_and_nothing_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    near, far = Remembering(), Remembering()
    sent = [unlink(number) for number in range(1, 9)]
    async with filtered_relay(near, far, PeerRates(messages=5)):
        far.bring(*sent[:6])
        far.bring(*sent[6:])
        assert near.told == sent[:5]
        assert far.consumed_bytes == 0
        await until(lambda: far.consumed_bytes == sum(len(one.data) for one in sent))
        assert near.told == sent
    assert caplog.text.count("exceeds its rate limit and is paused") == 1


async def test_what_waits_for_its_rate_arrives_before_the_close() -> None:
    near, far = Remembering(), Remembering()
    sent = [unlink(number) for number in range(1, 9)]
    async with filtered_relay(near, far, PeerRates(messages=0.001)) as both:
        far.bring(*sent)
        assert near.told == sent[:1]
        far.lose(CloseReason(CloseKind.PEER, "over"))
        assert near.told == sent
        await until(lambda: near.flushes)
        near.flushes[0].set_result(True)
        await asyncio.wait_for(both.wait_closed(), PATIENCE)


async def test_calls_have_a_rate_of_their_own() -> None:
    rates = PeerRates(calls=1)
    assert rates.limits_calls
    assert rates.take("a@x", 1.0, is_call=True) == 1.0
    assert rates.take("a@x", 1.0, is_call=False) == 0.0
    assert rates.take("b@x", 1.0, is_call=False) == 0.0


async def test_a_violation_ends_the_connection_with_its_cause_and_one_bounded_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "quicdist.gateway")
    near, far = Remembering(), Remembering()
    async with filtered_relay(near, far) as both:
        forged = Pid(Atom("forged\nINFO line" + 200 * "x"), 1, 0, 1)
        control = MonitorP(forged, Atom("kitchen"), Reference(Atom("peer@x"), (1, 2, 3), 1))
        far.bring(FramePacket(b"\x83D\0" + encode_bare(control.to_tuple())))
        await asyncio.wait_for(both.wait_closed(), PATIENCE)
    assert both.cause is Cause.PROTOCOL
    (record,) = [one for one in caplog.records if vars(one)["event"] == "relay_down"]
    line = record.getMessage()
    assert "the peer violated the protocol: Monitor in another node's name, forged" in line
    assert line.isprintable()
    assert len(line) < 500
    assert record.exc_info is None
    assert near.told == []


async def test_whom_the_policy_does_not_know_is_told_and_closed() -> None:
    near, far = Remembering(), Remembering()
    policy = Policy((PeerRules(nodes=("other@*",)),))
    made = Relay(
        "node@x",
        peer_name=None,
        peer_address="there:6666",
        handshake_timeout=PATIENCE,
        keepalive=PATIENCE,
        policy_filter=PolicyFilter(policy, "node@x", dialed_peer=None),
    )
    made.near.attach(near)
    made.far.attach(far)
    far.bring(HandshakePacket(hs.build_name(hs.Name(int(DEFAULT_FLAGS), 1, "peer@x"))))
    assert near.told == []
    assert far.told == [HandshakePacket(b"snot_allowed")]
    await until(lambda: far.flushes)
    far.flushes[0].set_result(True)
    await asyncio.wait_for(made.wait_closed(), PATIENCE)
    assert far.closed == "no entry of the policy matches peer@x"


# -- identity of the peer --------------------------------------------------------------------------


def incoming(**settings: object) -> Relay:
    """Returns a relay that a peer has opened."""
    return Relay(
        "5555@here",
        peer_name=None,
        peer_address="1.2.3.4:5",
        handshake_timeout=PATIENCE,
        keepalive=PATIENCE,
        **settings,  # type: ignore[arg-type]  # as Relay takes them
    )


def name_message(name: str) -> HandshakePacket:
    return HandshakePacket(b"N" + bytes(12) + len(name).to_bytes(2, "big") + name.encode())


@pytest.mark.parametrize("flaw", ["another's name", "no name", "not on the list"])
async def test_a_peer_that_is_not_who_it_says_never_reaches_the_beam(
    flaw: str, caplog: pytest.LogCaptureFixture
) -> None:
    near, far = Remembering(), Remembering()
    far.strangers = {"bob@there"} if flaw == "another's name" else set()
    access = Access(accept=["alice@*"] if flaw == "not on the list" else ["*"])
    both = incoming(access=access)
    both.near.attach(near)
    both.far.attach(far)
    far.bring(HandshakePacket(b"rubbish") if flaw == "no name" else name_message("bob@there"))
    assert near.told == []
    assert far.told == [HandshakePacket(b"snot_allowed")]
    assert both.is_closing
    who = "a node" if flaw == "no name" else "bob@there"
    assert f"{who} (1.2.3.4:5) -> 5555@here: refused: " in caplog.text
    for flush in far.flushes:
        flush.set_result(True)
    both.close("end of test")
    near.lose(CloseReason(CloseKind.LOCAL, ""))
    far.lose(CloseReason(CloseKind.LOCAL, ""))


async def test_a_name_that_was_asked_for_belongs_to_the_key_of_its_gateway() -> None:
    """Otherwise each connection to it would be a first use."""
    near, far = Remembering(), Remembering()
    async with relay() as both:
        both.dialed_through("5555@there")
        both.near.attach(near)
        both.far.attach(far)
        handshake(near, far)
        near.bring(FramePacket(b""))
        assert far.remembered == ["5555@there", "6666@there"]


async def test_a_peer_is_remembered_once_the_beam_talks_to_it() -> None:
    """Before that, only the BEAM knows whether the peer has the cookie."""
    near, far = Remembering(), Remembering()
    both = incoming()
    both.near.attach(near)
    both.far.attach(far)
    far.bring(name_message("bob@there"))
    near.bring(HandshakePacket(b"sok"), HandshakePacket(b"Nchallenge"))
    far.bring(HandshakePacket(b"rreply"))
    near.bring(HandshakePacket(b"aack"))
    assert far.remembered == []
    near.bring(FramePacket(b""), FramePacket(b"x"))
    assert far.remembered == ["bob@there"]
    both.close("end of test")
    near.lose(CloseReason(CloseKind.LOCAL, ""))
    far.lose(CloseReason(CloseKind.LOCAL, ""))
