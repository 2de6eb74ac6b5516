"""Runs of the harness with Python, with stock Erlang, and with failing scenarios."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from interop import actor
from interop.__main__ import main
from interop.carriers import Carrier, Dialer, all_carriers
from interop.harness import Options, run
from interop.outcome import Column, Outcome, Verdict, is_failure
from interop.peers import CannotStart, Peer, Setting
from interop.python_peer import PythonPeer
from interop.scenarios import SCENARIOS, Bench, Says, Scenario
from quicdist import Node, NodeError, NodeLimits

pytestmark = pytest.mark.io

SLOW = ("cookie", "killed", "20 MB")
"""In titles: those that take seconds, by waiting or by size."""

QUICK = [one for one in SCENARIOS if not any(word in one.title for word in SLOW)]


def carrier(key: str) -> Carrier:
    (found,) = [one for one in all_carriers() if one.key == key]
    return found


async def outcomes(
    carrier: Carrier, scenarios: Sequence[Scenario], *, dialer: Dialer = Dialer.WE
) -> dict[str, Outcome]:
    options = Options(scenarios=scenarios, dialers=[dialer], connects=2, timeout=30)
    (column,) = await run([carrier], options)
    return dict(column.outcomes)


def failures(columns: Sequence[Column]) -> list[str]:
    return [
        f"{column.dialer}: {title}: {outcome.note}"
        for column in columns
        for title, outcome in column.outcomes.items()
        if outcome.verdict is Verdict.FAILED
    ]


async def test_python_to_python() -> None:
    columns = await run([carrier("quicdist")], Options(scenarios=QUICK, connects=3))
    assert failures(columns) == []
    assert [column.dialer for column in columns] == ["the local node dials", "the peer dials"]
    assert all(len(column.outcomes) == len(QUICK) for column in columns)


@pytest.mark.erlang
async def test_stock_erlang_behind_the_gateway() -> None:
    columns = await run([carrier("gateway")], Options(scenarios=QUICK, connects=3))
    assert failures(columns) == []


# -- what goes wrong ----------------------------------------------------------------------------


async def _fine(bench: Bench) -> Says:
    await bench.here(actor.ping)
    return Says("fine")


async def _fails(bench: Bench) -> None:
    raise actor.Unexpected("this came\nand that was expected")


async def _kills_the_peer(bench: Bench) -> None:
    await bench.peer.kill()
    await bench.there("ping")


FINE = Scenario("fine", _fine)


async def test_one_failure_is_not_the_next_ones_trouble() -> None:
    got = await outcomes(
        carrier("quicdist"),
        [
            Scenario("fails", _fails),
            FINE,
            Scenario("kills", _kills_the_peer),
            replace(FINE, title="fine again"),
        ],
    )
    assert got["fails"].verdict is Verdict.FAILED
    assert got["fails"].note == "this came and that was expected"
    assert (got["fine"].verdict, got["fine"].short) == (Verdict.OK, "fine")
    assert got["kills"].verdict is Verdict.FAILED
    assert got["fine again"].verdict is Verdict.OK


async def test_a_known_limit_is_no_failure_and_its_end_is_told() -> None:
    limits = {("fails", None): "known", ("fine", Dialer.WE): "gone"}
    limited = replace(carrier("quicdist"), limits=limits)
    got = await outcomes(limited, [Scenario("fails", _fails), FINE])
    assert (got["fails"].verdict, got["fails"].note) == (Verdict.LIMIT, "known")
    assert (got["fine"].verdict, got["fine"].note) == (
        Verdict.OK,
        "passes despite the known limit: gone",
    )


async def test_a_scenario_that_hangs_ends() -> None:
    async def hangs(bench: Bench) -> None:
        await actor.echo(bench.node, bench.peer.name)
        await bench.they_lost_us()

    options = Options([Scenario("hangs", hangs)], [Dialer.WE], timeout=1.0)
    (column,) = await run([carrier("quicdist")], options)
    assert column.outcomes["hangs"].note == "timeout after 1 s"


async def test_a_peer_by_another_carrier_is_a_failure() -> None:
    other = replace(carrier("quicdist"), alpn="sample")
    got = await outcomes(other, [FINE])
    assert got["fine"].note == "connected by 'quicdist/2', not 'sample'"


async def test_a_peer_that_does_not_come_up_is_a_failure() -> None:
    class Broken(Peer):
        async def launch(self, control_port: int) -> None:
            await self.run("sh", "-c", "echo no such luck; exit 1")

    got = await outcomes(replace(carrier("quicdist"), make=Broken), [FINE])
    assert got["fine"].verdict is Verdict.FAILED
    assert "no such luck" in got["fine"].note


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    class Missing(Peer):
        async def launch(self, control_port: int) -> None:
            await self.run("/nonexistent/program")

    setting = Setting("1@127.0.0.1", "c", (), 8, tmp_path, tmp_path, tmp_path)
    with pytest.raises(CannotStart, match="/nonexistent/program"):
        await Missing(setting).start()


async def test_an_absent_peer_is_a_column_of_its_own() -> None:
    absent = replace(carrier("quicdist"), absent="not here")
    columns = await run([absent], Options(scenarios=[FINE]))
    assert [dict(column.outcomes) for column in columns] == [
        {"fine": Outcome(Verdict.NOT_APPLICABLE, "not here")}
    ]
    assert not is_failure(columns)


async def test_a_carrier_known_to_end_at_the_handshake_is_asked_first() -> None:
    """This peer delivers messages: known limits are verified."""
    known = replace(carrier("quicdist"), no_messages="handshake only")
    got = await outcomes(known, [FINE])
    assert got["fine"].verdict is Verdict.OK


async def test_what_needs_messages_is_left_out_where_none_get_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def no_answer(self: Node, node: str, *, timeout: float | None = 5.0) -> bool:
        return False

    monkeypatch.setattr(Node, "ping", no_answer)
    known = replace(carrier("quicdist"), no_messages="handshake only")
    for dialer in Dialer:
        got = await outcomes(known, [SCENARIOS[0], FINE], dialer=dialer)
        assert got["fine"] == Outcome(Verdict.LIMIT, "handshake only")
        assert got[SCENARIOS[0].title].short.startswith("2/2")


# -- the command --------------------------------------------------------------------------------


def test_the_command_lists_peers_and_scenarios(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["interop", "--list", "--carrier", "quicdist"])
    assert main() == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("quicdist: another Python process")
    assert [line.strip() for line in printed[1:]] == [scenario.title for scenario in SCENARIOS]


@pytest.mark.parametrize("words", [["--carrier", "pigeon"], ["--scenario", "pigeon"]])
def test_the_command_refuses_what_it_does_not_know(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["interop", *words])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    assert "pigeon" in capsys.readouterr().err


def test_the_command_prints_a_table_and_ends_with_zero(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--carrier", "quicdist", "--scenario", "ping from the local node", "--dialer", "we"]
    monkeypatch.setattr("sys.argv", ["interop", *words])
    assert main() == 0
    printed = capsys.readouterr()
    assert "| ping from the local node | ok" in printed.out
    assert "quicdist, the local node dials: ping from the local node: ok" in printed.err


# -- two halves ---------------------------------------------------------------------------------


async def test_both_halves_know_the_same_questions() -> None:
    """What Erlang's half answers the harness, Python's does too."""
    source = (Path(actor.__file__).parent / "erlang" / "quicdist_interop.erl").read_text()
    *_, scenarios, itself = re.findall(r"-export\(\[(.*?)\]\)", source, re.DOTALL)
    functions = set(re.findall(r"(\w+)/(\d)", f"{scenarios},{itself}"))
    assert len(functions) > 10
    peer = PythonPeer(Node("0@127.0.0.1", cookie="c"), NodeLimits())
    unknown = set()
    for name, arity in functions:
        try:
            second = "cookie" if name == "wrong_cookie" else 1
            await peer.answer(name, ["nobody", second][: int(arity)])
        except LookupError as error:
            if "a Python peer has no" in str(error):
                unknown.add(name)
        except NodeError:
            pass  # it is not running
    assert not unknown


def test_payloads_have_no_two_places_alike() -> None:
    data = actor.counting_bytes(1_000_000)
    assert len(data) == 1_000_000
    assert data[:8] == b"\x00\x00\x00\x01\x00\x00\x00\x02"
    assert actor.padding(99) == b""
    assert len(actor.padding(100)) == 20_000
