"""Deprecated public names work for one release and warn with the new name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

import quicdist
from quicdist import Node, NodeLimits, Table, Trust
from quicdist.cli.options import AllowUncertified
from quicdist.gateway import GatewayStatistics
from quicdist.runtime.counters import Traffic


def test_dialled_is_dialed() -> None:
    stats = GatewayStatistics("1@127.0.0.1", 0.0, True, (), 0, 7, 1, {}, {}, 0, Traffic())
    with pytest.warns(DeprecationWarning, match="is now dialed"):
        assert stats.dialled == stats.dialed == 7


def test_printed_is_on_output() -> None:
    with pytest.warns(DeprecationWarning, match="is now Node\\(on_output=\\)"):
        node = Node("0@127.0.0.1", cookie="c", printed=print)
    assert node._on_output is print


def test_letting_in_is_allowing_uncertified() -> None:
    with pytest.warns(DeprecationWarning, match=r"is now Trust\.allowing_uncertified\(\)"):
        trust = Trust.first_use().letting_in("a@*")
    assert trust == Trust.first_use().allowing_uncertified("a@*")


def test_places_are_addresses() -> None:
    with pytest.warns(DeprecationWarning, match=r"is now Table\(addresses=\)"):
        table = Table(places={"a@h": "tcp:10.0.0.8:9100"})
    assert table == Table({"a@h": "tcp:10.0.0.8:9100"})
    assert replace(table, addresses={}) == Table()


def test_ties_are_links_and_monitors() -> None:
    with pytest.warns(DeprecationWarning, match="is now NodeLimits\\(links_and_monitors=\\)"):
        limits = NodeLimits(ties=7)
    assert limits == NodeLimits(links_and_monitors=7)
    assert replace(limits, threads=2).links_and_monitors == 7
    with pytest.raises(TypeError, match=r"invalid NodeLimits\.links_and_monitors"):
        NodeLimits(links_and_monitors="7")  # type: ignore[arg-type]


def test_connect_is_blocking_node(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def start(*peers: str, **settings: object) -> None:
        asked.append((peers, settings))

    monkeypatch.setattr("quicdist.blocking.blocking_node", start)
    with pytest.warns(DeprecationWarning, match="is now quicdist.blocking_node"):
        quicdist.connect("5555@127.0.0.1", cookie="c")
    assert asked == [(("5555@127.0.0.1",), {"cookie": "c"})]


@pytest.mark.parametrize("option", ["--allow-uncertified", "--let-in"])
def test_let_in_is_allow_uncertified(option: str) -> None:
    app, given = typer.Typer(), []

    @app.command()
    def command(uncertified: AllowUncertified = None) -> None:
        given.append(uncertified)

    assert CliRunner().invoke(app, [option, "1@127.0.0.1"]).exit_code == 0
    assert given == [["1@127.0.0.1"]]
