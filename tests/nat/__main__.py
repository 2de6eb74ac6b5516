"""Measures direct paths with real NATs, and prints the tables of docs/nat.md.

    python -m tests.nat [--quick]

Needs Linux, root, iproute2 and nftables. `--quick` measures each figure once.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.nat.conftest import Sites, sites_of
from tests.nat.kinds import DOUBLE, KINDS, MASQ, OPEN, SHIFTED_CONE, SYMMETRIC, Kind
from tests.nat.lab import Lab, lab
from tests.nat.nodes import LabNode, Stage, staged
from tests.nat.sockets import punch

FAR = 0.02
"""One-way delay of the far lab in seconds."""

_PATIENCE = 2.0
_SIZE = 64 << 20
"""Bytes of a transfer for the throughput."""


def milliseconds(seconds: list[float]) -> str:
    """The median and the range."""
    ms = sorted(1000 * each for each in seconds)
    return f"{statistics.median(ms):.0f} ({ms[0]:.0f}-{ms[-1]:.0f})"


async def matrix(where: Lab, sites: Sites, kinds: tuple[Kind, ...], title: str) -> None:
    """Prints which pairs are direct. Rows are dialers, columns listeners."""
    names = [kind.name for kind in kinds]
    print(f"\n### {title}\n\n| dialer \\ listener | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    times, direct = [], 0
    for dialer in kinds:
        cells = []
        for listener in kinds:
            punched = await punch(where, sites(dialer, 0), sites(listener, 1), patience=_PATIENCE)
            cells.append("yes" if punched.is_direct else "no")
            if punched.is_direct:
                direct += 1
                times.append(punched.seconds)
        print(f"| {dialer.name} | {' | '.join(cells)} |", flush=True)
    print(f"\n{direct} of {len(kinds) ** 2} pairs are direct, after {milliseconds(times)} ms")


async def paired(
    stage: Stage, sites: Sites, one: Kind, other: Kind, **settings: Any
) -> tuple[LabNode, LabNode]:
    """Two nodes, not connected."""
    return (
        await stage.node(sites(one, 0), **settings),
        await stage.node(sites(other, 1), **settings),
    )


async def times_to_direct(where: Lab, sites: Sites, rounds: int) -> None:
    """Prints how long the first answer and the direct path take."""
    print("\n| nodes behind | first answer, ms | direct after the answer, ms |\n|---|---|---|")
    for kinds in ((MASQ, MASQ), (OPEN, SYMMETRIC), (DOUBLE, SHIFTED_CONE), (DOUBLE, SYMMETRIC)):
        answers, directs = [], []
        for _ in range(rounds):
            async with staged(where) as stage:
                one, other = await paired(stage, sites, *kinds)
                ping = await one.order("ping", node=other.name)
                answers.append(ping["seconds"])
                if kinds != (DOUBLE, SYMMETRIC):
                    await one.until_path(other, "direct")
                    changed = one.named("path_changed")[0]
                    directs.append(max(changed["at"] - ping["at"], 0.0))
        found = milliseconds(directs) if directs else "stays relayed"
        print(f"| {kinds[0]}, {kinds[1]} | {milliseconds(answers)} | {found} |", flush=True)


Fault = Callable[[Stage, Sites], Awaitable[None]]


async def cut_path(stage: Stage, sites: Sites) -> None:
    stage.cut(sites(MASQ, 0), sites(MASQ, 1))


async def kill_relay(stage: Stage, sites: Sites) -> None:
    await stage.relay.kill()


async def flush_dialer(stage: Stage, sites: Sites) -> None:
    sites(MASQ, 0).flush()


async def flush_listener(stage: Stage, sites: Sites) -> None:
    sites(MASQ, 1).flush()


FAULTS: dict[str, Fault] = {
    "the direct path drops everything": cut_path,
    "the relay is killed": kill_relay,
    "the NAT of the dialer forgets": flush_dialer,
    "the NAT of the listener forgets": flush_listener,
}


async def blackouts(where: Lab, sites: Sites, rounds: int) -> None:
    """Prints the longest pause between two answers, of a message every 50 ms."""
    print("\n| fault, on a direct path | longest pause, ms | nodedown |\n|---|---|---|")
    for title, fault in FAULTS.items():
        pauses, downs = [], 0
        for _ in range(rounds):
            async with staged(where) as stage:
                one, other = await paired(stage, sites, MASQ, MASQ)
                await one.order("ping", node=other.name)
                await one.until_path(other, "direct")
                beating = asyncio.create_task(one.order("beat", node=other.name, seconds=5))
                await one.order("status")
                await fault(stage, sites)
                pauses.append((await beating)["longest"])
                downs += len(one.named("nodedown")) + len(other.named("nodedown"))
        print(f"| {title} | {milliseconds(pauses)} | {downs} |", flush=True)


async def throughput(where: Lab, sites: Sites, rounds: int) -> None:
    """Prints the rate of a transfer and the CPU time of both nodes, relayed and direct."""
    print("\n| engine | path | MiB/s | CPU of both nodes, ms a MiB |\n|---|---|---|---|")
    for engine in ("aioquic", "native"):
        for path, wanted in (("relay-only", "relayed"), ("auto", "direct")):
            rates, costs = [], []
            for _ in range(rounds):
                async with staged(where) as stage:
                    one, other = await paired(stage, sites, MASQ, MASQ, engine=engine, path=path)
                    await one.order("ping", node=other.name)
                    if wanted == "direct":
                        await one.until_path(other, wanted)
                    before = [(await each.order("status"))["cpu"] for each in (one, other)]
                    sent = await one.order("send", node=other.name, size=_SIZE)
                    assert sent["ok"], sent
                    after = [(await each.order("status"))["cpu"] for each in (one, other)]
                    rates.append(_SIZE / 2**20 / sent["seconds"])
                    costs.append(1000 * (sum(after) - sum(before)) / (_SIZE / 2**20))
            rate, cost = statistics.median(rates), statistics.median(costs)
            print(f"| {engine} | {wanted} | {rate:.0f} | {cost:.1f} |", flush=True)


async def switches(where: Lab, sites: Sites, count: int) -> None:
    """Transfers data while the path changes."""
    async with staged(where) as stage:
        one, other = await paired(stage, sites, MASQ, MASQ)
        await one.order("ping", node=other.name)
        await one.until_path(other, "direct")
        is_over = asyncio.Event()

        async def transfers() -> tuple[int, bool]:
            done, is_exact = 0, True
            while not is_over.is_set():
                name = f"t{done}"
                sent = await one.order("send", node=other.name, size=8 << 20, name=name)
                done, is_exact = done + 1, is_exact and sent["ok"]
            return done, is_exact

        transferring = asyncio.create_task(transfers())
        began = time.monotonic()
        for _ in range(count // 2):
            stage.cut(sites(MASQ, 0), sites(MASQ, 1))
            await one.until_path(other, "relayed")
            stage.mend()
            await one.until_path(other, "direct")
        seconds = time.monotonic() - began
        is_over.set()
        done, is_exact = await transferring
        (peer,) = (await one.order("status"))["peers"].values()
        downs = len(one.named("nodedown")) + len(other.named("nodedown"))
        print(
            f"\n{peer['switches']} switches in {seconds:.0f} s during {8 * done} MiB: "
            f"{'exact and in order' if is_exact else 'NOT EXACT'}, {peer['lost']} datagrams lost, "
            f"{peer['migrations']} QUIC migrations, {downs} nodedown"
        )


async def main(*, is_quick: bool) -> None:
    """Prints all tables."""
    rounds = 1 if is_quick else 5
    passing = tuple(kind for kind in KINDS if kind.passes_udp)
    with lab() as near:
        sites = sites_of(near)
        await times_to_direct(near, sites, rounds)
        await blackouts(near, sites, rounds)
        await switches(near, sites, 10)
        await throughput(near, sites, 1 if is_quick else 3)
        await matrix(near, sites, passing, "IPv4, no delay")
    with lab(FAR) as far:
        title = f"IPv4, {1000 * FAR:.0f} ms one way"
        await matrix(far, sites_of(far), passing, title)


if __name__ == "__main__":
    asyncio.run(main(is_quick="--quick" in sys.argv))
