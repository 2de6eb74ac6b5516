"""The table of outcomes and the definition of a failure."""

from __future__ import annotations

from interop.outcome import Column, Outcome, Verdict, is_failure, table

OK = Outcome(Verdict.OK)


def test_scenarios_go_down_and_peers_across() -> None:
    columns = [
        Column("quicdist", "we dial", "another Python", {"ping": OK, "rpc": OK}),
        Column("tcp", "they dial", "Erlang/OTP 25", {"ping": Outcome(Verdict.OK, short="30/30")}),
    ]
    assert table(["ping", "rpc"], columns).splitlines() == [
        "| scenario | quicdist | tcp       |",
        "|          | we dial  | they dial |",
        "|----------|----------|-----------|",
        "| ping     | ok       | ok 30/30  |",
        "| rpc      | ok       |           |",
        "",
        "quicdist: another Python",
        "tcp: Erlang/OTP 25",
    ]


def test_the_same_note_has_one_number() -> None:
    limit = Outcome(Verdict.LIMIT, "it cannot")
    failed = Outcome(Verdict.FAILED, "it broke")
    columns = [Column("x", "", "a peer", {"a": limit, "b": failed, "c": limit})]
    lines = table(["a", "b", "c"], columns).splitlines()
    assert [line.split("|")[2].strip() for line in lines[3:6]] == [
        "limit [1]",
        "FAILED [2]",
        "limit [1]",
    ]
    assert lines[-2:] == ["[1] it cannot", "[2] it broke"]


def test_limits_and_absence_are_no_failures() -> None:
    fine = {"a": OK, "b": Outcome(Verdict.LIMIT, "x"), "c": Outcome(Verdict.NOT_APPLICABLE, "y")}
    assert not is_failure([Column("x", "", "", fine)])
    bad = {**fine, "d": Outcome(Verdict.FAILED, "z")}
    assert is_failure([Column("x", "", "", fine), Column("y", "", "", bad)])
