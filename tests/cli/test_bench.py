"""`quicdist bench`: the load, the verdict, and the command on nodes of both kinds."""

from __future__ import annotations

import json
import math
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicdist.cli.bench.load import (
    LEAST_CHUNK,
    LEAST_OPEN,
    MOST_CHUNK,
    MOST_OPEN,
    Load,
    shortest_steady,
)
from quicdist.cli.bench.measuring import NotAllowed, busy_share
from quicdist.cli.bench.report import Report
from quicdist.cli.bench.verdict import (
    Direction,
    Limit,
    RoundTrips,
    Transfer,
    explained,
    limit_of,
)
from quicdist.cli.exit_codes import ExitCode
from quicdist.errors import ErlangError
from quicdist.gateway import PeerRules, Policy
from quicdist.kernel.introspection import MOST_BENCH, bench
from tests.cli.conftest import CALC, COOKIE, Command, Result
from tests.support.erlang import Erlang
from tests.support.gatewayed import GatewayThread, gatewayed_erl, loopback_settings
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, wait_until

MIB = 1024 * 1024


# -- the load -----------------------------------------------------------------------------------


def test_the_rate_leaves_out_the_start_up() -> None:
    """A quarter of a transfer, and the round trips in which congestion control finds the rate."""
    trip = 0.1
    load = Load(10.0, 10**12, 0, 0.0, trip)
    assert 0 < load.start_up < shortest_steady(trip) < 5.0
    for step in range(1, 51):
        slow = min(step / 10, load.start_up)
        load.sample(int(1e6 * slow + 50e6 * (step / 10 - slow)), step / 10)
    assert load.start_up <= load.steady_since() < load.start_up + 0.2
    assert load.steady_rate() == pytest.approx(50e6)
    load.sample(10**9, 10.0)
    assert load.steady_since() == 2.5


def test_a_transfer_that_is_shorter_than_the_start_up_has_a_rate() -> None:
    load = Load(1.0, 10**12, 0, 0.0, 0.1)
    load.sample(500, 0.5)
    load.sample(1500, 1.0)
    assert load.steady_rate() == 2000.0


def run(rate: float, round_trip: float, *, seconds: float, most: int) -> Load:
    """Runs a load on a path that carries `rate` bytes per second, in steps of a millisecond."""
    now, moved = 0.0, 0.0
    load = Load(seconds, most, 0, now)
    calls: list[tuple[float, int]] = []
    while not load.is_over(now):
        while size := load.next_chunk(round_trip, now):
            free = max(calls[-1][0] if calls else now, now)
            calls.append((free + size / rate, size))
        now += 0.001
        moved += sum(size for end, size in calls if end <= now)
        for end, size in calls:
            if end <= now:
                load.ended(size)
        calls = [one for one in calls if one[0] > now]
        load.sample(int(moved), now)
    return load


@pytest.mark.parametrize("round_trip", [0.001, 0.1])
@pytest.mark.parametrize("rate", [2e6, 50e6])
def test_the_load_keeps_a_path_busy(rate: float, round_trip: float) -> None:
    load = run(rate, round_trip, seconds=3.0, most=10**12)
    assert load.steady_rate() == pytest.approx(rate, rel=0.15)
    assert load.elapsed == pytest.approx(3.0, abs=0.01)


def test_a_transfer_ends_when_its_bytes_are_moved() -> None:
    load = run(50e6, 0.001, seconds=60.0, most=3 * MIB + 5)
    assert (load.moved, load.requested, load.open) == (3 * MIB + 5, 3 * MIB + 5, 0)
    assert load.elapsed < 1.0
    assert load.is_done


@given(
    st.lists(st.tuples(st.floats(0.001, 5), st.integers(0, 10**9)), max_size=30),
    st.floats(0, 10),
)
def test_open_calls_are_bounded(steps: list[tuple[float, int]], round_trip: float) -> None:
    load, now, moved = Load(1e9, 10**15, 0, 0.0), 0.0, 0
    for pause, count in steps:
        now, moved = now + pause, moved + count
        load.sample(moved, now)
        while size := load.next_chunk(round_trip, now):
            assert LEAST_CHUNK <= size <= MOST_CHUNK
        assert LEAST_OPEN <= load.open < MOST_OPEN + MOST_CHUNK
    assert math.isfinite(load.steady_rate())


def test_a_load_stalls_while_nothing_moves() -> None:
    load = Load(60.0, 10**9, 0, 0.0)
    load.sample(0, 3.0)
    assert load.stalled_for(3.0) == 0.0, "no call is open"
    load.next_chunk(0.01, 3.0)
    load.sample(5, 4.0)
    load.sample(5, 6.5)
    assert load.stalled_for(6.5) == 2.5
    load.sample(6, 7.0)
    assert load.stalled_for(7.0) == 0.0


# -- the verdict --------------------------------------------------------------------------------

IDLE = RoundTrips(10, 0.020, 0.021)
UNLIMITED = Transfer(
    Direction.TO,
    bytes=100 * MIB,
    seconds=2.0,
    rate=50e6,
    trips=IDLE,
    loss=0.0,
    cpu_here=0.3,
    machine_here=0.5,
    cpu_there=None,
    pacing_rate=0.0,
)
LIMITS = [
    (UNLIMITED, Limit.PEER),
    (replace(UNLIMITED, cpu_here=0.97, loss=0.1), Limit.CPU_HERE),
    (replace(UNLIMITED, cpu_there=0.97, loss=0.1), Limit.CPU_THERE),
    (replace(UNLIMITED, machine_here=0.99), Limit.MACHINE_HERE),
    (replace(UNLIMITED, machine_here=0.99, pacing_rate=52e6), Limit.PATH),
    (replace(UNLIMITED, blocked=0.5), Limit.WINDOW),
    (replace(UNLIMITED, blocked=0.5, trips=RoundTrips(9, 0.04, 0.04)), Limit.WINDOW),
    (replace(UNLIMITED, blocked=0.5, machine_here=0.99), Limit.WINDOW),
    (replace(UNLIMITED, blocked=0.5, cpu_there=0.97), Limit.CPU_THERE),
    (replace(UNLIMITED, blocked=0.5, path_trip=0.021), Limit.WINDOW),
    (replace(UNLIMITED, blocked=0.5, path_trip=0.04), Limit.PATH),
    (replace(UNLIMITED, blocked=0.9, rate=1e6), Limit.PEER),
    (replace(UNLIMITED, blocked=0.1, trips=RoundTrips(9, 0.2, 0.2)), Limit.PATH),
    (
        replace(UNLIMITED, direction=Direction.FROM, rate=125e6, trips=RoundTrips(9, 0.2, 0.2)),
        Limit.WINDOW,
    ),
    (replace(UNLIMITED, loss=0.05), Limit.LOSS),
    (replace(UNLIMITED, loss=0.05, trips=RoundTrips(9, 0.04, 0.04)), Limit.PATH),
    (replace(UNLIMITED, loss=0.05, path_trip=0.04), Limit.PATH),
    (replace(UNLIMITED, loss=0.05, path_trip=0.021, trips=RoundTrips(9, 0.04, 0.04)), Limit.LOSS),
    (replace(UNLIMITED, loss=0.3, least_seconds=2.1), Limit.START_UP),
    (replace(UNLIMITED, loss=0.3, least_seconds=2.0), Limit.LOSS),
    (replace(UNLIMITED, pacing_rate=52e6, machine_here=0.99, least_seconds=2.1), Limit.START_UP),
    (replace(UNLIMITED, blocked=0.5, least_seconds=2.1), Limit.WINDOW),
    (replace(UNLIMITED, loss=0.01, pacing_rate=52e6), Limit.PATH),
    (replace(UNLIMITED, trips=RoundTrips(9, 0.05, 0.06)), Limit.PATH),
]


@pytest.mark.parametrize(("transfer", "limit"), LIMITS)
def test_what_limits_a_transfer(transfer: Transfer, limit: Limit) -> None:
    assert limit_of(transfer, IDLE) is limit
    assert "\n" not in explained(transfer, limit, IDLE, "a@b")


def test_the_verdict_about_a_window_names_the_setting_and_what_suffices() -> None:
    far = RoundTrips(10, 0.1, 0.11)
    slow = replace(UNLIMITED, rate=256 * 1024 / 0.1, blocked=0.9, cpu_there=0.1)
    assert limit_of(slow, far) is Limit.WINDOW
    text = explained(slow, Limit.WINDOW, far, "a@b")
    assert "of a@b, which grants 256 KiB in a round trip; raise max_receive_window" in text
    assert "at 100 ms, 1.8 MiB for 100 Mbit/s and 17.9 MiB for 1000 Mbit/s suffice" in text
    assert "reads slowly" not in text
    unknown = explained(replace(slow, cpu_there=None), Limit.WINDOW, far, "a@b")
    assert unknown.endswith("reads slowly looks the same")
    from_it = explained(replace(slow, direction=Direction.FROM), Limit.WINDOW, far, "a@b")
    assert "of `quicdist bench`, which is the default one; raise" in from_it


def test_a_transfer_that_is_too_short_says_how_long_it_must_last() -> None:
    short = replace(UNLIMITED, loss=0.3, least_seconds=2.11)
    assert "must last 2.2 s" in explained(short, Limit.START_UP, IDLE, "a@b")


def test_a_full_queue_explains_the_loss() -> None:
    full = replace(UNLIMITED, loss=0.05, path_trip=0.04)
    assert "queue is full and drops 5.0%" in explained(full, Limit.PATH, IDLE, "a@b")


@pytest.mark.parametrize(
    ("blocked", "words"),
    [(0.9, "grants little credit"), (0.0, "answers slowly"), (None, "or the path")],
)
def test_a_sender_that_is_held_by_the_peer(blocked: float | None, words: str) -> None:
    slow = replace(UNLIMITED, rate=1e6, blocked=blocked)
    assert limit_of(slow, IDLE) is Limit.PEER
    assert words in explained(slow, Limit.PEER, IDLE, "a@b")


def test_on_a_short_path_a_busy_machine_explains_missing_credit() -> None:
    short = RoundTrips(10, 0.001, 0.002)
    slow = replace(UNLIMITED, rate=200e6, blocked=0.8)
    assert limit_of(slow, short) is Limit.WINDOW
    assert limit_of(replace(slow, machine_here=0.99), short) is Limit.MACHINE_HERE


def test_a_receiver_does_not_see_what_limits_the_sender() -> None:
    text = explained(replace(UNLIMITED, direction=Direction.FROM), Limit.PEER, IDLE, "a@b")
    assert text.startswith("the path, or a@b")


def test_little_loss_explains_a_slow_sender_that_may_use_cubic() -> None:
    lossy = replace(UNLIMITED, direction=Direction.FROM, loss=0.006)
    assert "0.6% if a@b sends with CUBIC" in explained(lossy, Limit.PATH, IDLE, "a@b")
    for other in (replace(lossy, direction=Direction.TO), replace(lossy, loss=None)):
        assert "CUBIC" not in explained(other, Limit.PATH, IDLE, "a@b")


def test_on_a_short_path_a_busy_machine_explains_a_queue() -> None:
    short = RoundTrips(10, 0.0005, 0.001)
    slow = replace(UNLIMITED, trips=RoundTrips(10, 0.010, 0.02))
    assert limit_of(replace(slow, machine_here=0.99), short) is Limit.MACHINE_HERE
    assert limit_of(slow, short) is Limit.PATH


def test_every_limit_has_an_example() -> None:
    assert {limit for _, limit in LIMITS} == set(Limit)


def test_percentiles() -> None:
    assert RoundTrips.of([]) == RoundTrips(0, None, None)
    assert RoundTrips.of([3.0]) == RoundTrips(1, 3.0, 3.0)
    assert RoundTrips.of([float(one) for one in range(101)]) == RoundTrips(101, 50.0, 99.0)


def test_unknown_figures_are_null_and_said_to_be_unknown() -> None:
    report = Report("a@b", "tcp", IDLE)
    report.add(replace(UNLIMITED, loss=None, machine_here=None, trips=RoundTrips(0, None, None)))
    assert "round trip unknown; loss unknown" in report.last_lines()[0]
    told = report.fields()["to"]
    assert isinstance(told, dict)
    assert (told["loss"], told["cpu_there"], told["machine_here"]) == (None, None, None)
    json.dumps(report.fields(), allow_nan=False)


def test_busy_share() -> None:
    assert busy_share((10, 10), (13, 11)) == 0.75
    assert busy_share((10, 10), (10, 10)) is None
    assert busy_share(None, (1, 1)) is None


# -- what a Python node answers -----------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MOST_BENCH])
def test_bench_returns_that_many_bytes(size: int) -> None:
    assert bench(size) == bytes(size)


@pytest.mark.parametrize("size", [-1, MOST_BENCH + 1, True, 2.0, b"1", [1], 10**30])
def test_bench_refuses_other_sizes(size: object) -> None:
    with pytest.raises(ErlangError, match="badarg"):
        bench(size)


def test_chunks_are_answered() -> None:
    assert MOST_CHUNK <= MOST_BENCH


# -- the command --------------------------------------------------------------------------------


@pytest.mark.io
def test_a_python_node(quicdist: Command, calc: str) -> None:
    done = quicdist("bench", calc, "--seconds", "0.3", "--mib", "2")
    assert (done.code, done.err) == (0, "")
    head, idle, *transfers = done.out.splitlines()
    assert head.startswith(f"{calc} over quicdist/")
    assert idle.startswith("idle    round trip ")
    assert [line.split()[0] for line in transfers] == ["to", "limited", "from", "limited"]
    assert all("MiB/s" in line and "lost" in line for line in transfers[::2])


@pytest.mark.io
def test_json(quicdist: Command, calc: str) -> None:
    told = json.loads(quicdist("bench", calc, "--seconds", "5", "--mib", "1", "--json").out)
    assert (told["node"], told["problem"]) == (calc, None)
    assert told["idle"]["p50_ms"] > 0
    for direction in ("to", "from"):
        assert 0.9 * MIB < told[direction]["bytes"] < 2 * MIB
        assert told[direction]["bytes_per_s"] > 0
        assert 0 <= told[direction]["loss"] <= 1
        assert told[direction]["limit"] in [one.value for one in Limit]
        assert told[direction]["cpu_there"] is not None


@pytest.mark.io
def test_a_node_that_permits_no_calls_is_only_pinged(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    with quicdist.node("run", "0@127.0.0.1", "calc", "--calls", "*=calc:add") as (name, _):
        done = quicdist("bench", name, "--seconds", "0.2")
        done.refused(1, "permits neither quicdist:bench nor erlang:byte_size")
        assert "idle    round trip " in done.out
        told = json.loads(quicdist("bench", name, "--seconds", "0.2", "--json").out)
        assert (told["to"], told["from"]) == (None, None)
        assert "quicdist:bench" in told["problem"]


def cpu_time(process: subprocess.Popen[str]) -> int:
    """Returns the CPU time of a process in clock ticks (proc(5), /proc/pid/stat)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.io
def test_a_node_that_stops_during_the_transfer_is_an_error(quicdist: Command) -> None:
    (quicdist.home / "calc.py").write_text(CALC)
    bounds = ("--seconds", "600", "--mib", str(1024 * 1024), "--timeout", "3")
    with (
        quicdist.node("run", "0@127.0.0.1", "calc.py") as (name, process),
        quicdist.started("bench", name, *bounds) as bench,
    ):
        assert bench.stdout is not None
        while not bench.stdout.readline().startswith("idle"):
            assert bench.poll() is None
        before = cpu_time(process)
        wait_until(lambda: cpu_time(process) >= before + 50)
        process.send_signal(signal.SIGSTOP)
        out, err = bench.communicate(timeout=PATIENCE)
    Result(bench.returncode, out, err).refused(ExitCode.TIMEOUT, "no data has moved for 3 s")


@pytest.mark.io
def test_nobody(quicdist: Command) -> None:
    quicdist("bench", f"{free_port()}@127.0.0.1", "--timeout", "0.5").refused(3)


@pytest.mark.erlang
def test_a_beam_node(quicdist: Command, beam: tuple[str, Erlang]) -> None:
    name, _ = beam
    told = json.loads(quicdist("bench", name, "--seconds", "5", "--mib", "1", "--json").out)
    assert (told["node"], told["problem"]) == (name, None)
    for direction in ("to", "from"):
        assert 0.9 * MIB < told[direction]["bytes"] < 2 * MIB
        assert told[direction]["cpu_there"] is None
    assert told["to"]["loss"] is not None
    assert told["from"]["loss"] is None


@pytest.mark.erlang
def test_a_beam_node_over_tcp(quicdist: Command, named_beam: tuple[str, int]) -> None:
    name, port = named_beam
    done = quicdist(
        "bench", name, "--mib", "1", "--json", "--lookup", f"epmd:{port}", "--name", "b@localhost"
    )
    told = json.loads(done.out)
    assert (told["carrier"], told["problem"], told["to"]["loss"]) == ("tcp", None, None)


@pytest.mark.erlang
def test_a_policy_that_permits_one_direction(quicdist: Command) -> None:
    policy = Policy((PeerRules(nodes=("*",), calls=("erlang:byte_size",)),))
    settings = replace(loopback_settings(), policy=policy)
    with GatewayThread(settings) as gateway, gatewayed_erl(gateway, cookie=COOKIE):
        done = quicdist("bench", gateway.name, "--mib", "1", "--json")
        done.refused(1, "does not permit binary:copy")
        told = json.loads(done.out)
        assert told["to"]["bytes"] > 0.9 * MIB
        assert told["from"] is None


def test_the_error_can_be_pickled() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(NotAllowed("no")))
    assert (error.code, error.text) == (1, "no")
