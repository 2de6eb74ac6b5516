"""The faults, one function each. A function returns figures and raises an error on failure."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.behind import gatewayed_stage
from faults.namespaces import HERE, THERE, two_hosts
from faults.peer import CHUNK
from faults.stage import PeerProcess, Stage, stage
from tests.support.lossy import Weather
from tests.support.ports import free_port

MB = 1_000_000
TICKTIME = 4.0
"""Seconds without traffic after which a peer is down.

OTP detects it between three quarters and five quarters of this time (kernel, net_ticktime).
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Options of a run: the factor for transfer sizes and the QUIC engine."""

    scale: float = 1.0
    engine: str = "aioquic"

    def size(self, size: float) -> int:
        """Returns the size of a transfer in bytes."""
        return int(size * self.scale)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named scenario; `play` returns its figures as text."""

    group: str
    name: str
    play: Callable[[Run], Awaitable[str]]
    in_ci: bool = False


# -- lossy paths --------------------------------------------------------------------------------


async def _through(weather: Weather, size: float, run: Run) -> str:
    async with stage(run.engine, weather) as scene:
        figures = await scene.transfer(run.size(size))
        assert not scene.downs
        return figures


def _weathers() -> list[Scenario]:
    found = []
    for loss in (0.0, 0.01, 0.05, 0.2):
        for round_trip in (0.0, 0.05, 0.3):
            is_bad = loss >= 0.05 and round_trip > 0
            size = 200_000 if is_bad and loss > 0.1 else MB if is_bad else 5 * MB
            weather = Weather(loss=loss, latency=round_trip / 2)
            name = f"loss {loss:.0%}, round trip {round_trip * 1000:.0f} ms"
            play = functools.partial(_through, weather, size)
            found.append(Scenario("way", name, play, in_ci=loss == 0.05 and round_trip == 0.05))
    rough = {
        "10 % of the datagrams duplicated": Weather(duplicate=0.1),
        "20 % of the datagrams reordered": Weather(reorder=0.2),
        "10 % of the datagrams also sent with a changed bit": Weather(corrupt=0.1),
        "50 ms of jitter": Weather(latency=0.005, jitter=0.05),
        "1 MB/s, 100 ms of queue": Weather(latency=0.01, rate=MB),
        "all of these at once": Weather(
            loss=0.05, duplicate=0.05, reorder=0.1, corrupt=0.05, latency=0.02, jitter=0.01
        ),
    }
    for name, weather in rough.items():
        play = functools.partial(_through, weather, 2 * MB)
        found.append(Scenario("way", name, play, in_ci=name.startswith("all")))
    return found


# -- moves --------------------------------------------------------------------------------------


async def _while_moving(move: Callable[[Stage, int], None], run: Run) -> str:
    async with stage(run.engine) as scene:
        moves = 0

        async def keep_moving() -> None:
            nonlocal moves
            while True:
                moves += 1
                move(scene, moves)
                await asyncio.sleep(max(0.1, min(1.0, run.scale)))

        moving = asyncio.create_task(keep_moving())
        try:
            figures = await scene.transfer(run.size(100 * MB))
        finally:
            moving.cancel()
        assert not scene.downs, scene.downs
        return f"{figures}, {moves} moves, no nodedown"


def _nat(scene: Stage, number: int) -> None:
    scene.network.rebind()


def _address(scene: Stage, number: int) -> None:
    scene.network.rebind(f"127.0.0.{2 + number % 100}")


def _own(scene: Stage, number: int) -> None:
    scene.node.rebind()


# -- real networks of the kernel -----------------------------------------------------------------


async def _netem(words: Sequence[str], size: int, run: Run) -> str:
    async with two_hosts(run.engine, 60.0) as (here, there):
        for host in (here, there):
            await host.weather(*words)
        began = time.monotonic()
        figures = await here.send(there, run.size(size))
        assert not here.downs()
        return f"{figures} in {time.monotonic() - began:.1f} s"


async def _dialer_moves(run: Run) -> str:
    async with two_hosts(run.engine, 60.0) as (here, there):
        old = HERE
        for number in range(3, 6):
            new = f"10.77.0.{number}"
            there.peer.events.clear()
            sending = asyncio.create_task(here.send(there, run.size(20 * MB)))
            await there.peer.until(lambda event: event["event"] == "chunk")
            await here.address(old, new)
            old = new
            figures = await sending
            here.peer.events.clear()
        assert not here.downs(), here.downs()
        assert not there.downs(), there.downs()
        return f"{figures} each time, no nodedown"


async def _cable_pulled(run: Run) -> str:
    async with two_hosts(run.engine, TICKTIME) as (here, there):
        sending = asyncio.create_task(here.send(there, run.size(20 * MB)))
        await there.peer.until(lambda event: event["event"] == "chunk")
        await here.run("ip", "link", "set", here.device, "down")
        await asyncio.sleep(TICKTIME / 2)
        await here.run("ip", "link", "set", here.device, "up")
        figures = await sending
        assert not here.downs(), here.downs()
        return f"{figures}, no nodedown"


async def _listener_moves(run: Run) -> str:
    async with two_hosts(run.engine, TICKTIME) as (here, there):
        await here.send(there, MB // 4)
        began = time.monotonic()
        await there.address(THERE, "10.77.0.9")
        down = await here.peer.until(lambda event: event["event"] == "nodedown")
        await there.address("10.77.0.9", THERE)
        here.peer.events.clear()
        await here.send(there, MB // 4)
        after = down["at"] - began
        return (
            f"nodedown after {after:.1f} s ({down['reason'].split(':')[0]}; tick time "
            f"{TICKTIME:g} s), connected again when the address is back"
        )


# -- silence ------------------------------------------------------------------------------------


async def _short_hole(run: Run) -> str:
    async with stage(run.engine, ticktime=TICKTIME) as scene:
        sending = asyncio.create_task(scene.transfer(run.size(20 * MB)))
        await asyncio.sleep(0.1)
        scene.network.is_black_hole = True
        await asyncio.sleep(TICKTIME / 2)
        scene.network.is_black_hole = False
        figures = await sending
        assert not scene.downs, scene.downs
        return f"{figures}, no nodedown"


async def _long_hole(run: Run) -> str:
    async with stage(run.engine, ticktime=TICKTIME) as scene:
        scene.network.is_black_hole = True
        began = time.monotonic()
        at, reason = await scene.down()
        assert "net_tick_timeout" in reason, reason
        theirs = await scene.peer.until(lambda event: event["event"] == "nodedown")
        assert "net_tick_timeout" in theirs["reason"], theirs
        scene.network.is_black_hole = False
        await scene.recovers()
        return (
            f"nodedown here after {at - began:.1f} s, there after {theirs['at'] - began:.1f} s "
            f"(tick time {TICKTIME:g} s), connected again"
        )


async def _stands_still(seconds: float, run: Run) -> str:
    async with stage(run.engine, ticktime=TICKTIME) as scene:
        sending = asyncio.create_task(scene.transfer(run.size(20 * MB)))
        await asyncio.sleep(0.1)
        scene.peer.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        scene.peer.process.send_signal(signal.SIGCONT)
        if seconds < TICKTIME:
            return f"{await sending}, no nodedown"
        _, reason = await scene.down()
        with contextlib.suppress(Exception):
            await sending
        await scene.recovers()
        return f"nodedown ({reason}), connected again"


# -- ends ---------------------------------------------------------------------------------------


async def _peer_killed(run: Run) -> str:
    async with stage(run.engine, ticktime=TICKTIME) as scene:
        sending = asyncio.create_task(scene.transfer(run.size(100 * MB)))
        await scene.peer.until(lambda event: event["event"] == "chunk")
        killed = await scene.peer.kill()
        at, reason = await scene.down()
        with contextlib.suppress(Exception):
            await sending
        assert "net_tick_timeout" in reason, reason
        await scene.peer.start()
        await scene.recovers()
        return f"nodedown after {at - killed:.1f} s (tick time {TICKTIME:g} s), connected again"


async def _peer_restarts(run: Run) -> str:
    async with stage(run.engine, ticktime=60.0) as scene:
        sending = asyncio.create_task(scene.transfer(run.size(100 * MB)))
        await scene.peer.until(lambda event: event["event"] == "chunk")
        await scene.peer.kill()
        await scene.peer.start()
        ready = scene.peer.events[0]["at"]
        at, reason = await scene.down()
        with contextlib.suppress(Exception):
            await sending
        assert "restarted" in reason, reason
        await scene.recovers()
        return f"nodedown {max(0.0, at - ready):.2f} s after the restart ({reason.split(':')[0]})"


async def _sender_killed(run: Run) -> str:
    async with stage(run.engine, ticktime=TICKTIME) as scene:
        async with scene.node.mailbox("sink") as sink:
            scene.peer.order("send", scene.node.name, run.size(100 * MB), "theirs")
            numbers = [await _number(sink.receive(timeout=60)) for _ in range(5)]
            killed = await scene.peer.kill()
            at, reason = await scene.down()
            while sink.message_count:
                numbers.append(await _number(sink.receive(timeout=60)))
        assert numbers == list(range(len(numbers))), "reordered or duplicated"
        await scene.peer.start()
        await scene.recovers()
        return (
            f"{len(numbers)} chunks in order, nodedown after {at - killed:.1f} s "
            f"({reason.split(':')[0]}), connected again"
        )


async def _number(received: Awaitable[object]) -> int:
    message = await received
    assert isinstance(message, tuple)
    number = message[2]
    assert isinstance(number, int)
    return number


# -- gateways -----------------------------------------------------------------------------------


async def _gateway_killed(run: Run) -> str:
    async with gatewayed_stage(run.engine, TICKTIME) as scene:
        numbers = await scene.stream_until(5)
        killed = await scene.gateway.kill()
        at, reason = await scene.down()
        numbers += scene.rest()
        assert numbers == list(range(len(numbers))), "reordered or duplicated"
        theirs = await scene.erlang_sees_down()
        await scene.gateway.start()
        await scene.recovers()
        return (
            f"{len(numbers)} chunks in order; nodedown at the BEAM after {theirs - killed:.1f} s, "
            f"here after {at - killed:.1f} s ({reason.split(':')[0]}), connected again"
        )


async def _gateway_moves(run: Run) -> str:
    async with gatewayed_stage(run.engine, 60.0) as scene:
        numbers = await scene.stream_until(20)
        for _ in range(5):
            scene.gateway.order("away")
            numbers += await scene.stream_until(20, begin=False)
        assert numbers == list(range(len(numbers))), "reordered or duplicated"
        assert not scene.downs, scene.downs
        assert not await scene.erlang_downs(), "the Erlang node saw a nodedown"
        return f"{len(numbers)} chunks in order, 5 moves, no nodedown here or there"


# -- machines -----------------------------------------------------------------------------------


async def _clock(seconds: float, run: Run) -> str:
    async with stage(run.engine, ticktime=TICKTIME) as scene:
        sending = asyncio.create_task(scene.transfer(run.size(20 * MB)))
        await scene.peer.until(lambda event: event["event"] == "chunk")
        scene.peer.order("jump", seconds)
        figures = await sending
        await asyncio.sleep(TICKTIME * 1.5)
        assert not scene.downs, scene.downs
        await scene.recovers()
        return f"{figures}, no nodedown"


async def _out_of_files(run: Run) -> str:
    async with stage(run.engine, ticktime=TICKTIME) as scene:
        scene.peer.order("starve")
        starved = await scene.peer.until(lambda event: event["event"] == "starved")
        scene.peer.order("rebind")
        figures = await scene.transfer(run.size(5 * MB))
        await asyncio.sleep(TICKTIME * 1.5)
        assert not scene.downs, scene.downs
        scene.peer.order("feed")
        return f"{starved['files']} files opened, then rebind(); {figures}, no nodedown"


async def _refused_start(name: str, state: Path, expected: str) -> str:
    peer = PeerProcess(name, name.replace("@", ":"), 60.0, state)
    address, _, port = name.partition("@")
    peer = PeerProcess(name, f"{port}:{address}", 60.0, state)
    await peer.start()
    text = str(peer.events[0].get("text", peer.events[0]))
    await peer.kill()
    assert peer.events[0]["event"] == "failed", peer.events
    assert expected in text, text
    return f"does not start: `{text}`"


async def _port_taken(run: Run) -> str:
    with (
        tempfile.TemporaryDirectory() as state,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken,
    ):
        taken.bind(("127.0.0.1", 0))
        name = f"{taken.getsockname()[1]}@127.0.0.1"
        text = await _refused_start(name, Path(state), "in use")
        return text.replace(name.partition("@")[0], "PORT")


async def _disk_full(run: Run) -> str:
    """Provides a file system of one page. Needs root; otherwise limits the size of files."""
    with tempfile.TemporaryDirectory() as state:
        name = f"{free_port()}@127.0.0.1"
        mount = await asyncio.create_subprocess_exec(
            "mount", "-t", "tmpfs", "-o", "size=4k", "quicdist-faults", state
        )
        assert await mount.wait() == 0, "cannot mount a file system: root is needed"
        try:
            (Path(state) / "full").write_bytes(bytes(4096))
            text = await _refused_start(name, Path(state), "No space left")
            return text.replace(name.partition("@")[0], "PORT").replace(state, "DIRECTORY")
        finally:
            umount = await asyncio.create_subprocess_exec("umount", state)
            await umount.wait()


SCENARIOS: tuple[Scenario, ...] = (
    *_weathers(),
    Scenario("move", "a NAT rebinding every second", functools.partial(_while_moving, _nat), True),
    Scenario("move", "a new address every second", functools.partial(_while_moving, _address)),
    Scenario("move", "rebind() every second", functools.partial(_while_moving, _own)),
    *(
        Scenario("kernel", f"tc netem {words}", functools.partial(_netem, words.split(), size), ci)
        for words, size, ci in (
            ("loss 5% delay 25ms 5ms", MB, True),
            ("loss 20%", MB, False),
            ("delay 150ms 20ms", 5 * MB, False),
            ("delay 10ms reorder 25% 50% duplicate 5% corrupt 2%", 5 * MB, False),
            ("rate 10mbit", 5 * MB, False),
        )
    ),
    Scenario("kernel", "the dialer's address changes three times", _dialer_moves, True),
    Scenario("kernel", "the link is down for 2 s", _cable_pulled),
    Scenario("kernel", "the listener's address changes for some time", _listener_moves),
    Scenario("silence", f"black hole of {TICKTIME / 2:g} s during a transfer", _short_hole),
    Scenario("silence", "black hole longer than the tick time", _long_hole, True),
    Scenario(
        "silence", "the peer is stopped for 2 s", functools.partial(_stands_still, TICKTIME / 2)
    ),
    Scenario(
        "silence",
        "the peer is stopped for 10 s",
        functools.partial(_stands_still, TICKTIME * 2.5),
    ),
    Scenario("end", "kill -9 of the receiver during a transfer", _peer_killed),
    Scenario("end", "kill -9 of the receiver, which restarts", _peer_restarts, True),
    Scenario("end", "kill -9 of the sender during a transfer", _sender_killed),
    Scenario("end", "kill -9 of a gateway during a transfer", _gateway_killed),
    Scenario("move", "the gateway of a sending BEAM moves five times", _gateway_moves),
    Scenario(
        "machine", "the peer's clock jumps forward by 10 years", functools.partial(_clock, 3.2e8)
    ),
    Scenario("machine", "the peer's clock jumps back", functools.partial(_clock, -1e6)),
    Scenario("machine", "the peer is out of file descriptors", _out_of_files),
    Scenario("machine", "the port is in use", _port_taken, True),
    Scenario("machine", "the disk is full, so no key can be stored", _disk_full),
)

__all__ = ["CHUNK", "SCENARIOS", "Run", "Scenario"]
