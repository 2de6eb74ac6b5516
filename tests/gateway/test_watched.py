"""Gateway statistics, policy changes at run time, and limits on cookie guessing."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from quicdist.cluster.cookie_throttle import FREE
from quicdist.errors import NotRunning
from quicdist.etf import Atom, Pid, encode_bare
from quicdist.gateway import Gateway, PeerRules, Policy, run
from quicdist.metrics import prometheus
from quicdist.protocol.role import Role
from tests.carriers.owners import NAME
from tests.gateway.test_gateway import Beam, connect, gateway_and_beam, policed, prove
from tests.protocol import forms as ctl
from tests.support.gatewayed import loopback_settings
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io

COUNTER = Policy((PeerRules(nodes=("*",), names=("counter",)),))
KITCHEN = Policy((PeerRules(nodes=("*",), names=("kitchen",)),))
STRAYS = ("reset", "stray")
NOBODY = Policy((PeerRules(nodes=("nobody@here",)),))


def to(name: str, sender: Gateway) -> bytes:
    """Returns the frame of a message to a registered name."""
    send = ctl.RegSend(Pid(Atom(sender.name), 1, 0, 5), Atom(name))
    return b"\x83D\0" + encode_bare(send.to_tuple()) + encode_bare(1)


# -- statistics ---------------------------------------------------------------------------------


async def test_both_gateways_of_a_connection_tell_of_it() -> None:
    async with gateway_and_beam() as (one, beam_one), gateway_and_beam() as (two, beam_two):
        dialer, listener = await connect(beam_one, beam_two, two.name)
        dialer.connection.send_frame((bytes(100_000),))
        await listener.has(3)
        (here,), (there,) = one.stats().connections, two.stats().connections
        assert (here.name, here.role, there.role) == (two.name, Role.DIALER, Role.LISTENER)
        assert here.carrier == there.carrier == "quicdist"
        assert here.traffic.bytes_sent > 100_000
        assert there.traffic.bytes_received >= 100_000
        assert here.round_trip is not None
        assert (one.stats().dialed, two.stats().accepted) == (1, 1)
        assert one.stats().is_registered
        dialer.connection.close("enough")
        await until(lambda: not one.connections and not two.connections)
        assert (one.stats().connections, one.stats().dialed) == ([], 1)
        assert (one.stats().ended, two.stats().ended) == ({"left": 1}, {"lost": 1})
        assert two.stats().traffic.bytes_received >= 100_000
    with pytest.raises(NotRunning):
        one.stats()


async def test_what_a_policy_refuses_is_counted_beyond_the_connection() -> None:
    async with (
        gateway_and_beam() as (one, beam_one),
        gateway_and_beam(replace(loopback_settings(), policy=COUNTER)) as (two, beam_two),
    ):
        peer, _ = await policed(one, beam_one, two, beam_two)
        for _ in range(3):
            peer.connection.send_frame((to("kitchen", one),))
        await until(lambda: two.stats().policy_refusals == 3)
        assert two.stats().connections[0].policy_refusals == 3
        peer.connection.close("enough")
        await until(lambda: not two.connections)
        assert two.stats().policy_refusals == 3


async def test_prometheus_scrapes_a_gateway() -> None:
    client = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry()
    async with gateway_and_beam() as (one, beam_one), gateway_and_beam() as (two, beam_two):
        await connect(beam_one, beam_two, two.name)
        registry.register(prometheus.NodeCollector(one))
        text = client.generate_latest(registry).decode()
    mine = f'node="{one.name}"'
    assert f"quicdist_registered{{{mine}}} 1.0" in text
    assert f"quicdist_policy_refusals_total{{{mine}}} 0.0" in text
    peer = f'carrier="quicdist",{mine},peer="{two.name}",role="dialer"'
    assert f"quicdist_peer_untaken_bytes{{{peer}}} " in text
    assert "quicdist_processes" not in text


# -- another policy -----------------------------------------------------------------------------


async def test_another_policy_holds_for_what_is_up_and_ends_whom_it_does_not_want() -> None:
    async with (
        gateway_and_beam() as (one, beam_one),
        gateway_and_beam(replace(loopback_settings(), policy=COUNTER)) as (two, beam_two),
    ):
        peer, node = await policed(one, beam_one, two, beam_two)
        peer.connection.send_frame((to("counter", one),))
        assert (await node.has(3))[2].data == to("counter", one)
        two.use_policy(KITCHEN)
        peer.connection.send_frame((to("counter", one),))
        peer.connection.send_frame((to("kitchen", one),))
        await until(lambda: node.packets[-1].data == to("kitchen", one))
        assert [packet.data for packet in node.packets].count(to("counter", one)) == 1
        two.use_policy(NOBODY)
        await peer.is_lost()
        await until(lambda: two.stats().ended == {"refused": 1})


async def test_a_first_policy_ends_what_was_made_without() -> None:
    async with gateway_and_beam() as (_, beam_one), gateway_and_beam() as (two, beam_two):
        dialer, _ = await connect(beam_one, beam_two, two.name)
        two.use_policy(COUNTER)
        await dialer.is_lost()
        await until(lambda: two.stats().ended == {"left": 1})


async def test_a_hangup_has_the_file_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "quicdist.gateway")
    path = tmp_path / "policy.toml"
    path.write_text('[[peers]]\nnodes = ["*"]\nnames = ["counter"]\n')
    up: asyncio.Future[Gateway] = asyncio.get_running_loop().create_future()
    settings = replace(loopback_settings(), policy=COUNTER)
    running = asyncio.create_task(run(settings, started=up.set_result, policy_file=path))
    gateway = await asyncio.wait_for(up, PATIENCE)

    def logged(event: str) -> int:
        return sum(getattr(record, "event", "") == event for record in caplog.records)

    path.write_text('[[peers]]\nnodes = ["*"]\nnames = [1]\n')
    signal.raise_signal(signal.SIGHUP)
    await until(lambda: logged("policy_failed") == 1)
    assert str(path) in caplog.text
    assert gateway._policy is COUNTER
    path.write_text('[[peers]]\nnodes = ["*"]\nnames = ["kitchen"]\n')
    signal.raise_signal(signal.SIGHUP)
    await until(lambda: logged("policy_changed") == 1)
    assert gateway._policy == KITCHEN
    assert "policy replaced: the policy restricts what peers may do on the node" in caplog.text
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(running, PATIENCE)


# -- guessing -----------------------------------------------------------------------------------


async def guess(one: Beam, two: Beam, name: str) -> None:
    """The BEAM node rejects the proof: it closes without an answer."""
    dialer, listener = await prove(one, two, name, b"rguess")
    listener.connection.close("no")
    await dialer.is_lost()


async def test_who_guesses_cookies_waits_and_locks_nobody_out() -> None:
    async with gateway_and_beam() as (_, beam_one), gateway_and_beam() as (two, beam_two):
        for number in range(FREE + 2):
            assert (two._patience("127.0.0.1") > 0.0) == (number > FREE)
            await guess(beam_one, beam_two, two.name)
            await until(lambda: not two.connections)
        assert two.stats().refused == {"cookie": FREE + 2}
        assert two._patience("127.0.0.2") == 0.0
        await connect(beam_one, beam_two, two.name)


async def test_a_connection_that_fails_for_another_reason_is_no_guess() -> None:
    async with gateway_and_beam() as (_, beam_one), gateway_and_beam() as (two, beam_two):
        for _ in range(FREE + 1):
            dialer = await beam_one.dial(two.name)
            dialer.connection.send_handshake(NAME)
            listener = await asyncio.wait_for(beam_two.accepted.get(), PATIENCE)
            listener.connection.send_handshake(b"snok")
            await listener.connection.flush(PATIENCE)
            listener.connection.close("not now")
            await dialer.is_lost()
            await until(lambda: not two.connections)
        # Datagrams for a previous user of the port may also arrive and be answered.
        refused = {kind: n for kind, n in two.stats().refused.items() if kind not in STRAYS}
        assert refused == {"refused": FREE + 1}
        assert two._patience("127.0.0.1") == 0.0
