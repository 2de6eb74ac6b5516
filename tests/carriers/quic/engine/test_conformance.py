"""The interface of the engines, which each must pass, also with another at the other end."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from quicdist.carriers.quic.congestion.controller import Algorithm
from quicdist.carriers.quic.engine import EngineError, burst, load_engine, reject_all
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.tracing import Tracing
from quicdist.carriers.trust import Alert, Credentials, Trust
from quicdist.limits import CarrierLimits
from tests.carriers.owners import IDENTITY
from tests.carriers.quic.engine.network import (
    DELAY,
    HERE,
    HERE_V6,
    THERE,
    THERE_V6,
    TOKENS,
    Network,
    accept,
    opened,
    settings,
)
from tests.support.engines import ENGINES, IS_BUILT, needs_native

PAIRS = [
    ("aioquic", "aioquic"),
    pytest.param("native", "native", marks=needs_native),
    pytest.param("native", "aioquic", marks=needs_native),
    pytest.param("aioquic", "native", marks=needs_native),
]
each_pair = pytest.mark.parametrize(("dialer", "listener"), PAIRS)
each_engine = pytest.mark.parametrize("engine", ENGINES)
MIB = 1024 * 1024
ROUND_TRIP = 2 * DELAY


def mutual(engine: str) -> QuicSettings:
    """Settings in which both ends present certificates."""
    return settings(engine, credentials=Credentials(IDENTITY, Trust.first_use("unused")))


# -- the handshake --------------------------------------------------------------------------------


@each_pair
def test_both_ends_agree_on_the_session(dialer: str, listener: str) -> None:
    network = Network(mutual(dialer), mutual(listener), alpns=["unknown", "quicdist/1"])
    network.establish()
    here, there = network.dialer, network.listener
    assert here.alpn == there.alpn == "quicdist/1"
    assert here.connection.cipher == there.connection.cipher == "TLS_AES_128_GCM_SHA256"
    assert [each.certificates for each in (here.connection, there.connection)] == [
        (IDENTITY.certificate,)
    ] * 2
    exported = here.connection.export(b"label", 32)
    assert exported == there.connection.export(b"label", 32)
    assert len(exported) == 32
    assert exported != here.connection.export(b"other", 32)
    assert here.connection.idle_timeout() == CarrierLimits().idle_timeout


@each_pair
def test_a_client_without_certificate_is_verified_too(dialer: str, listener: str) -> None:
    verified: list[Sequence[object]] = []
    network = Network(dialer, listener, verify=(accept, verified.append))
    network.establish()
    assert verified == [()]


@each_pair
@pytest.mark.parametrize("alert", [Alert.BAD_CERTIFICATE, Alert.UNKNOWN_CA])
@pytest.mark.parametrize("is_verified_by_dialer", [False, True])
def test_the_alert_of_the_verification_reaches_the_peer(
    dialer: str, listener: str, alert: Alert, is_verified_by_dialer: bool
) -> None:
    verify = (lambda _: alert, accept) if is_verified_by_dialer else (accept, lambda _: alert)
    network = Network(mutual(dialer), mutual(listener), verify=verify)
    network.run(lambda: len(network.ends) == 2 and all(e.connection.closed for e in network.ends))
    verifying, verified = network.ends if is_verified_by_dialer else reversed(network.ends)
    assert verifying.alpn is None
    for end, by_peer in ((verifying, False), (verified, True)):
        closed = end.connection.closed
        assert closed is not None
        assert closed.by_peer is by_peer
        assert not closed.is_application
        assert closed.error_code == 0x100 + alert
        assert alert.name.lower().replace("_", " ") in closed.text


@each_engine
def test_a_connection_without_owner_accepts_nobody(engine: str) -> None:
    network = Network(engine, engine, verify=(reject_all, accept))
    network.run(lambda: network.dialer.connection.closed)
    assert network.dialer.alpn is None


@each_pair
def test_without_a_common_alpn_the_dialer_gets_an_alert(dialer: str, listener: str) -> None:
    network = Network(dialer, settings(listener, alpns=["a"]), alpns=["b"])
    network.run(lambda: network.dialer.connection.closed)
    closed = network.dialer.connection.closed
    assert closed is not None
    assert closed.error_code == 0x100 + 120


@each_pair
@pytest.mark.parametrize("addresses", [(HERE, THERE), (HERE_V6, THERE_V6)])
def test_a_dialer_repeats_the_token_of_a_retry(
    dialer: str, listener: str, addresses: object
) -> None:
    network = Network(dialer, listener, is_retried=True, addresses=addresses)  # type: ignore[arg-type]
    network.establish()
    assert network.listener.connection.allowance == math.inf


@each_pair
def test_the_handshake_survives_loss(dialer: str, listener: str) -> None:
    for seed in range(5):
        Network(dialer, listener, loss=0.3, seed=seed).establish()


@each_engine
def test_a_listener_sends_at_most_three_times_what_it_received(engine: str) -> None:
    network = Network(engine, engine)
    network.run(lambda: len(network.ends) == 2)
    assert 0 <= network.listener.connection.allowance < math.inf
    network.establish()
    assert network.listener.connection.allowance == math.inf


# -- data ----------------------------------------------------------------------------------------


@each_pair
@pytest.mark.parametrize("congestion", [each.value for each in Algorithm])
def test_bulk_arrives_over_a_lossy_path(dialer: str, listener: str, congestion: str) -> None:
    network = Network(
        settings(dialer, congestion=congestion), settings(listener, congestion=congestion)
    )
    network.establish()
    network.open()
    network.loss = 0.02
    here, there = network.dialer, network.listener
    sent = bytes(range(256)) * 2048
    here.write(0, sent)
    there.write(1, sent[::-1])
    network.run(
        lambda: (
            here.connection.progress().acknowledged
            == there.connection.progress().acknowledged
            == len(sent)
        )
    )
    assert there.data[0] == sent
    assert here.data[1] == sent[::-1]
    assert here.connection.datagrams_lost()
    assert 0.019 <= (here.connection.round_trip() or 0.0) < 0.2
    assert 0.019 <= here.connection.progress().least_round_trip < 0.03
    assert here.connection.progress().pacing_rate > 0


@each_pair
@pytest.mark.parametrize("seed", range(3))
def test_data_is_exact_under_loss_and_reordering(dialer: str, listener: str, seed: int) -> None:
    network = opened(dialer, listener, seed=seed)
    network.loss, network.late = 0.03, 0.3
    here, there = network.dialer, network.listener
    sent = random.Random(seed).randbytes(500_000)
    for at in range(0, len(sent), 20_000):
        here.write(0, sent[at : at + 20_000])
    network.run(lambda: here.connection.progress().acknowledged == len(sent))
    assert there.data[0] == sent


@each_pair
def test_a_transfer_after_pauses_of_a_host_is_fast(dialer: str, listener: str) -> None:
    """The smoothed round trip falls slowly afterwards, by an eighth with each sample."""
    network = Network(dialer, listener)
    network.delay = 0.4
    network.establish()
    network.open()
    network.wait(2.0)
    network.delay = 0.0001
    here = network.dialer
    here.write(0, bytes(MIB))
    start = network.now
    network.run(lambda: here.connection.progress().acknowledged == here.written)
    assert network.now - start <= 0.05


@each_pair
@pytest.mark.parametrize(("size", "delay"), [(64, 1.0), (100_000, 0.4)])
def test_a_round_trip_that_becomes_longer_than_the_probe_timeout_is_measured(
    dialer: str, listener: str, size: int, delay: float
) -> None:
    network = opened(dialer, listener)
    here = network.dialer
    network.delay = 0.0001
    here.write(0, bytes(size))
    network.run(lambda: here.connection.progress().acknowledged == size)
    network.delay = delay
    here.write(0, bytes(64))
    network.run(lambda: here.connection.progress().acknowledged == size + 64, 15.0)


@each_engine
def test_datagrams_are_counted(engine: str) -> None:
    """Those that were lost are known from the acknowledgements of later ones."""
    network = opened(engine, engine)
    here = network.dialer
    counted = here.connection.datagrams_sent() - here.datagrams
    here.write(0, bytes(500_000))
    network.run(lambda: here.connection.progress().acknowledged == here.written)
    assert here.connection.datagrams_lost() == 0
    assert here.connection.datagrams_sent() - here.datagrams == counted
    network.loss = 0.05
    here.write(0, bytes(500_000))
    network.run(lambda: here.connection.progress().acknowledged == here.written)
    assert 0 < here.connection.datagrams_lost() <= here.dropped
    assert here.connection.datagrams_sent() - here.datagrams == counted


@each_engine
def test_the_chosen_congestion_control_is_used(engine: str) -> None:
    """Only BBR does not slow down after a loss."""

    def duration(congestion: str) -> float:
        chosen = settings(engine, congestion=congestion)
        network = Network(chosen, chosen)
        network.establish()
        network.open()
        network.loss = 0.01
        began = network.now
        network.dialer.write(0, bytes(3 * MIB))
        here = network.dialer.connection
        network.run(lambda: here.progress().acknowledged == 3 * MIB)
        return network.now - began

    bbr, cubic, reno = (duration(each) for each in ("bbr", "cubic", "reno"))
    assert 2 * bbr < min(cubic, reno)


@each_engine
def test_counters_are_ordered_and_exact_at_the_end(engine: str) -> None:
    network = opened(engine, engine)
    here, there = network.dialer, network.listener
    for _ in range(20):
        here.write(0, bytes(50_000))
    seen = []

    def is_done() -> bool:
        acknowledged, sent, *_ = here.connection.progress()
        seen.append((acknowledged, sent))
        assert acknowledged <= sent <= here.written
        assert there.connection.received() == sum(map(len, there.data.values()))
        return acknowledged == here.written

    network.run(is_done)
    assert seen == sorted(seen)
    assert here.connection.progress().sent == here.written
    assert there.connection.received() == here.written


@each_pair
def test_the_peer_sends_no_more_than_it_is_granted(dialer: str, listener: str) -> None:
    limits = CarrierLimits(receive_window=300_000)
    window = settings(listener, limits=limits).first_window(is_listener=True)
    network = Network(dialer, settings(listener, limits=limits))
    network.establish()
    here, there = network.dialer, network.listener
    here.write(0, bytes(2 * MIB))
    network.wait(2.0)
    # An engine may let a few bytes more pass.
    assert window <= there.connection.received() <= window + 16
    for credit in (1, 100_000, 500_000):
        before = there.connection.received()
        there.connection.grant(credit)
        network.wait(2.0)
        assert before + credit <= there.connection.received() <= before + credit + 16
    there.connection.grant(4 * MIB)
    network.run(lambda: there.connection.received() == here.written)


@each_pair
def test_a_sender_without_credit_is_blocked(dialer: str, listener: str) -> None:
    network = Network(dialer, settings(listener, limits=CarrierLimits(receive_window=300_000)))
    network.establish()
    here, there = network.dialer, network.listener
    assert not here.connection.progress().is_blocked
    here.write(0, bytes(MIB))
    network.run(lambda: here.connection.progress().is_blocked)
    there.connection.grant(1_000)
    network.wait(1.0)
    assert here.connection.progress().is_blocked
    there.connection.grant(4 * MIB)
    network.run(lambda: there.connection.received() == here.written)
    network.wait(1.0)
    assert not here.connection.progress().is_blocked
    assert not there.connection.progress().is_blocked


@each_pair
def test_credit_that_comes_late_does_not_end_the_start_of_a_sender(
    dialer: str, listener: str
) -> None:
    """The rate of a sender that waits for credit says nothing about the path."""
    network = Network(dialer, settings(listener, limits=CarrierLimits(receive_window=64_000)))
    network.establish()
    here, there = network.dialer, network.listener
    here.write(0, bytes(8 * MIB))
    for _ in range(15):
        network.run(lambda: here.connection.progress().is_blocked)
        network.wait(ROUND_TRIP)
        there.connection.grant(64_000)
    assert there.connection.received() < 2 * MIB
    before = network.now
    network.open()
    network.run(lambda: there.connection.received() == here.written)
    assert network.now - before < 12 * ROUND_TRIP


@each_engine
def test_acknowledgements_are_not_paced_and_delay_no_message(engine: str) -> None:
    """RFC 9002, 7.7. The receiver of bulk data sends a little at times, so its rate is low."""
    network = Network(engine, engine)
    network.establish()
    here, there = network.dialer, network.listener
    here.write(0, b"x")
    network.settle()
    network.run(lambda: there.data[0])
    there.write(0, b"x")
    network.settle()
    network.run(lambda: here.data[0])
    for count in range(2, 20):
        there.connection.grant(16 * MIB)
        here.write(0, bytes(MIB))
        network.settle()
        network.run(lambda: there.connection.received() == here.written)
        there.write(0, b"x")
        network.settle()
        before = network.now
        network.run(lambda count=count: len(here.data[0]) == count)  # type: ignore[misc]  # bound now
        assert network.now - before < 3 * ROUND_TRIP


@each_engine
def test_a_sender_limited_by_congestion_control_is_not_blocked(engine: str) -> None:
    network = opened(engine, engine)
    here = network.dialer
    here.write(0, bytes(MIB))
    here.write(4, bytes(MIB))

    def is_done() -> bool:
        progress = here.connection.progress()
        assert not progress.is_blocked
        return progress.acknowledged == here.written

    network.run(is_done)


@each_pair
def test_a_refused_stream_ends_at_both_sides_and_alone(dialer: str, listener: str) -> None:
    network = Network(dialer, listener)
    network.establish()
    here, there = network.dialer, network.listener
    here.write(0, b"kept")
    here.write(4, b"refused")
    network.run(lambda: there.data[4])
    there.connection.refuse(4, 7)
    network.run(lambda: 4 in here.ended)
    assert "7" in here.ended[4]
    here.write(0, b" on")
    network.run(lambda: there.data[0] == b"kept on")
    with pytest.raises(EngineError):
        there.write(4, b"too late")


@each_pair
def test_a_stream_that_the_peer_has_not_opened_cannot_be_refused(
    dialer: str, listener: str
) -> None:
    network = Network(dialer, listener)
    network.establish()
    here, there = network.dialer, network.listener
    there.connection.refuse(4, 7)
    network.wait(1.0)
    assert not here.ended
    here.write(4, b"kept")
    network.run(lambda: there.data[4] == b"kept")
    there.write(4, b"answered")
    network.run(lambda: here.data[4] == b"answered")


@each_pair
def test_a_peer_opens_no_more_streams_than_allowed(dialer: str, listener: str) -> None:
    network = Network(dialer, settings(listener, max_streams=4))
    network.establish()
    here, there = network.dialer, network.listener
    for stream in range(0, 32, 4):
        here.write(stream, b"%d" % stream)
    network.wait(1.0)
    assert sorted(there.data) == [0, 4, 8, 12]
    there.connection.refuse(0, 1)
    network.wait(1.0)
    assert len(there.data) == 4, "an ended stream makes no room for another"


@each_engine
@how(max_examples=15, deadline=None)
@given(
    writes=st.lists(st.tuples(st.sampled_from([0, 4, 8]), st.integers(1, 40_000)), max_size=12),
    loss=st.sampled_from([0.0, 0.05, 0.2]),
    seed=st.integers(0, 1 << 16),
)
def test_every_stream_arrives_in_order(
    engine: str, writes: list[tuple[int, int]], loss: float, seed: int
) -> None:
    network = opened(engine, engine, seed=seed)
    network.loss = loss
    here, there = network.dialer, network.listener
    expected: dict[int, bytes] = {}
    for number, (stream, size) in enumerate(writes):
        data = bytes([number]) * size
        here.write(stream, data)
        expected[stream] = expected.get(stream, b"") + data
    network.run(lambda: here.connection.progress().acknowledged == here.written)
    network.run(lambda: {key: bytes(value) for key, value in there.data.items()} == expected)


@each_pair
def test_a_lost_datagram_holds_up_no_other_stream(dialer: str, listener: str) -> None:
    network = opened(dialer, listener)
    network.wait(1.0)
    here, there = network.dialer, network.listener
    network.lose(here, 4, bytes(100))
    here.write(8, bytes(100))
    network.run(lambda: len(there.data[8]) == 100)
    assert not there.data[4]
    network.run(lambda: len(there.data[4]) == 100)


@each_pair
def test_a_lost_answer_beside_incoming_bulk_is_repeated_before_the_probe_timeout(
    dialer: str, listener: str
) -> None:
    """No later data reveals the loss, and acknowledgements alone elicit none."""
    network = opened(dialer, listener)
    here, there = network.dialer, network.listener
    there.connection.grant(64 * MIB)
    here.write(4, bytes(32 * MIB))
    network.run(lambda: len(there.data[4]) > MIB)
    network.lose(there, 5, bytes(50))
    start = network.now
    network.run(lambda: len(here.data[5]) == 50)
    assert network.now - start < 2 * ROUND_TRIP
    network.run(lambda: there.connection.progress().acknowledged == 50)
    assert here.data[5] == bytes(50)


@each_pair
def test_the_data_of_an_idle_connection_is_sent_once(dialer: str, listener: str) -> None:
    network = opened(dialer, listener)
    network.wait(1.0)
    here, there = network.dialer, network.listener
    for count in range(1, 20):
        before = here.datagrams, there.datagrams
        here.write(4, bytes(50))
        network.run(lambda count=count: len(there.data[4]) == 50 * count)  # type: ignore[misc]  # bound now
        there.write(5, bytes(50))
        network.wait(1.0)
        assert len(here.data[5]) == 50 * count
        assert here.datagrams - before[0] <= 2
        assert there.datagrams - before[1] <= 2


@each_pair
def test_small_data_does_not_wait_for_the_bulk_of_another_stream(
    dialer: str, listener: str
) -> None:
    network = opened(dialer, listener)
    here, there = network.dialer, network.listener
    here.write(4, bytes(4 * MIB))
    network.run(lambda: there.data[4])
    for stream in range(8, 40, 4):
        here.write(stream, bytes(50))
    network.run(lambda: all(len(there.data[stream]) == 50 for stream in range(8, 40, 4)))
    assert len(there.data[4]) < 2 * MIB
    network.run(lambda: len(there.data[4]) == 4 * MIB)


@each_engine
@pytest.mark.parametrize("size", [10, 100_000])
def test_views_are_sent_and_what_may_change_is_copied(engine: str, size: int) -> None:
    network = opened(engine, engine)
    whole = random.Random(size).randbytes(3 * size)
    changing = bytearray(whole)
    view = memoryview(whole)
    parts = [view[size:], view[:0], memoryview(changing)]
    network.dialer.connection.write(0, [*parts, bytearray(whole)])
    changing[:] = bytes(len(changing))
    expected = whole[size:] + whole + whole
    network.run(lambda: len(network.listener.data[0]) == len(expected))
    assert network.listener.data[0] == expected


@each_engine
def test_bursts_are_bounded(engine: str) -> None:
    network = opened(engine, engine)
    here = network.dialer
    here.write(0, bytes(8 * MIB))
    network.run(lambda: here.connection.progress().acknowledged > MIB)
    for _ in range(100):
        batches = here.connection.transmit(network.now)
        count = sum(-(-len(data) // size) for data, size, _ in batches)
        assert count <= 2 * burst(here.connection.progress().datagram_size)
        assert all(size <= here.connection.progress().datagram_size for _, size, _ in batches)
        if not here.connection.progress().has_more:
            break
    else:
        pytest.fail("it always has more")


@each_engine
def test_a_call_that_sends_nothing_keeps_the_timer(engine: str) -> None:
    """A datagram that arrives while the pacer holds data back must not stop its timer."""
    network = opened(engine, engine)
    here = network.dialer
    here.write(0, bytes(2 * MIB))
    held_back = 0
    while here.connection.progress().acknowledged < MIB:
        network.wait(0.0005)
        network.settle()
        due = here.connection.progress().timer
        assert due is not None
        if not here.connection.transmit(network.now):
            timer = here.connection.progress().timer
            assert timer is not None
            assert timer <= due
            held_back += due < network.now + 0.005
    assert held_back


# -- ids, paths, resets ---------------------------------------------------------------------------


@each_pair
def test_a_renewed_id_retires_the_old_one(dialer: str, listener: str) -> None:
    network = Network(dialer, listener)
    network.establish()
    network.wait(0.5)
    here, there = network.dialer, network.listener
    assert len(there.ids) > 1
    here.connection.renew_id()
    here.connection.ping()
    network.run(lambda: there.retired)
    here.write(0, b"on")
    network.run(lambda: there.data[0] == b"on")


@each_pair
@pytest.mark.parametrize("knows_it", [True, False])
def test_a_dialer_moves(dialer: str, listener: str, knows_it: bool) -> None:
    """It opens another socket, or a NAT gives it another address."""
    network = Network(dialer, listener)
    network.establish()
    here, there = network.dialer, network.listener
    for number in range(6):
        here.address = ("203.0.113.9", 3000 + number)
        if knows_it:
            here.connection.move(network.now)
        here.write(0, b"x")
        there.write(1, b"y")
        network.run(lambda: there.connection.path[0] == here.address)
        network.run(lambda: len(there.data[0]) == len(here.data[1]) == number + 1)  # noqa: B023
        network.wait(1.0)


@each_engine
def test_a_peer_moves_only_after_its_proof(engine: str) -> None:
    network = Network(engine, engine)
    network.run(lambda: network.dialer.connection.is_confirmed)
    here, there = network.dialer, network.listener
    known = here.address
    here.address = ("203.0.113.9", 3000)
    here.write(0, b"x")
    network.wait(0.3)
    assert there.connection.path[0] == known
    there.connection.peer_proved()
    network.run(lambda: there.data[0] == b"x")
    assert there.connection.path[0] == here.address


@each_engine
def test_a_stateless_reset_is_recognized_by_its_token(engine: str) -> None:
    network = Network(engine, engine)
    network.establish()
    network.wait(0.5)
    here, there = network.dialer.connection, network.listener
    resets = [b"\x41" + bytes(24) + TOKENS.of(each) for each in there.ids]
    if here.reset_token:
        assert here.reset_token in {each[-16:] for each in resets}
        return
    assert not here.is_reset(b"\x41" + bytes(40), network.now)
    assert here.closed is None
    assert any(here.is_reset(each, network.now) for each in resets)


# -- the end --------------------------------------------------------------------------------------


@each_pair
def test_an_application_close_reaches_the_peer(dialer: str, listener: str) -> None:
    network = Network(dialer, listener)
    network.establish()
    network.listener.connection.close(7, "bye\n")
    network.run(lambda: network.dialer.connection.closed)
    closed = network.dialer.connection.closed
    assert closed is not None
    assert (closed.by_peer, closed.is_application, closed.error_code) == (True, True, 7)
    assert closed.text == "application close 7: bye?"


@each_engine
def test_a_silent_peer_is_noticed_after_the_idle_timeout(engine: str) -> None:
    limits = CarrierLimits(idle_timeout=5.0)
    network = Network(settings(engine, limits=limits), engine)
    network.establish()
    assert network.listener.connection.idle_timeout() == 5.0
    network.wait(1.0)
    network.is_cut = True
    before = network.now
    network.dialer.connection.ping()
    network.run(lambda: network.dialer.connection.closed)
    closed = network.dialer.connection.closed
    assert closed is not None
    assert closed.is_idle
    assert 4.0 <= network.now - before <= 8.0


@pytest.mark.parametrize("engine", [*ENGINES, "aioquic-plain"])
def test_copies_of_a_datagram_do_not_put_off_the_idle_timeout(engine: str) -> None:
    network = opened("aioquic", settings(engine, limits=CarrierLimits(idle_timeout=5.0)))
    listener = network.listener.connection
    network.dialer.write(0, b"once")
    ((datagram, _, _),) = network.dialer.connection.transmit(network.now)
    before = network.now
    network.is_cut = True
    while listener.closed is None:
        assert network.now - before < 8.0
        listener.receive(datagram, len(datagram), (HERE, None), network.now)
        listener.drain(network.listener)
        network.wait(0.5)
    assert listener.closed.is_idle
    assert network.listener.data[0] == b"once"


@each_engine
def test_keys_are_logged(engine: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    network = Network(settings(engine, tracing=Tracing(key_log=file)), engine)
    network.establish()
    labels = {line.split()[0] for line in file.read_text().splitlines()}
    assert {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0"} <= labels


@each_engine
def test_junk_costs_nothing(engine: str) -> None:
    network = Network(engine, engine)
    network.establish()
    there = network.listener.connection
    own = next(iter(network.listener.ids))
    for junk in (b"\x41" + own + bytes(40), b"\xc0" + bytes(1300), b"\x41" + bytes(60)):
        there.receive(junk, len(junk), (HERE, None), network.now)
        there.receive(junk * 3, len(junk), (HERE, None), network.now)
    network.dialer.write(0, b"on")
    network.run(lambda: network.listener.data[0] == b"on")


# -- the native engine alone --------------------------------------------------------------------


@needs_native
def test_a_panic_costs_one_connection() -> None:
    network, other = Network("native", "native"), Network("native", "native")
    for each in (network, other):
        each.establish()
    connection = network.listener.connection
    connection._core.fail_for_test()  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(EngineError, match="a test asked for it"):
            connection.transmit(network.now)
    with pytest.raises(EngineError):
        connection.receive(b"x", 1, (HERE, None), network.now)
    connection.ping()
    connection.handle_timer(network.now)
    assert connection.progress().timer is None
    connection.close(0, "over")
    connection.release()
    other.dialer.write(0, b"on")
    other.run(lambda: other.listener.data[0] == b"on")


@needs_native
def test_a_verification_that_fails_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(certificates: Sequence[object]) -> None:
        raise RuntimeError("the verification failed")

    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told_of: told.append(str(told_of.exc_value)))
    network = Network("native", "native", verify=(accept, fails))
    network.run(lambda: network.dialer.connection.closed)
    assert told == ["the verification failed"]
    closed = network.dialer.connection.closed
    assert closed is not None
    assert closed.error_code == 0x100 + 80


@needs_native
def test_data_for_an_address_that_fails_validation_goes_to_the_former_one() -> None:
    """quinn-proto keeps no probe timeout for it."""
    network = opened("native", "native")
    network.wait(1.0)
    here, there = network.dialer, network.listener
    known, here.address = here.address, ("203.0.113.9", 3000)
    here.write(0, b"x")
    network.run(lambda: there.connection.path[0] == here.address)
    network.muted, here.address = here, known
    there.write(1, b"y")
    network.run(lambda: here.data[1] == b"y", 10.0)
    assert there.connection.path[0] == known


@needs_native
def test_a_released_connection_does_nothing() -> None:
    network = Network("native", "native")
    network.establish()
    connection = network.listener.connection
    connection.release()
    assert not connection.transmit(network.now)
    assert connection.progress().timer is None


@pytest.mark.skipif(IS_BUILT, reason="the native engine is built")
def test_a_missing_native_engine_is_an_error_with_advice() -> None:
    with pytest.raises(ValueError, match="pip install"):
        load_engine(settings("native"), TOKENS.of)
