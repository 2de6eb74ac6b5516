"""Availability of peers, and the search for their compiled folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from interop.carriers import Carrier, Dialer, all_carriers
from interop.peers import CannotStart, ebin_folders, otp_release
from interop.scenarios import SCENARIOS

NO_ERLANG = {"QUICDIST_INTEROP_ERL": "/nonexistent/erl"}


def by_key(environment: dict[str, str]) -> dict[str, Carrier]:
    return {carrier.key: carrier for carrier in all_carriers(environment)}


def ebin(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "some.beam").touch()
    return path


def test_a_path_is_an_ebin_folder_or_holds_some(tmp_path: Path) -> None:
    own, library = ebin(tmp_path / "a" / "ebin"), ebin(tmp_path / "a" / "quicer" / "ebin")
    (tmp_path / "a" / "empty" / "ebin").mkdir(parents=True)
    assert ebin_folders(str(own)) == [own]
    assert ebin_folders(str(tmp_path / "a")) == [own, library]
    assert ebin_folders(f"{library}{os.pathsep}{own}") == [library, own]


def test_a_path_without_modules_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=f"{tmp_path}: no compiled modules"):
        ebin_folders(str(tmp_path))


@pytest.mark.io
def test_foreign_carriers_say_how_to_give_them() -> None:
    carriers = by_key({})
    for key in ("quic_dist", "erlang_quic", "macula_dist"):
        assert f"QUICDIST_PEER_{key.upper()}=path" in carriers[key].absent
    assert not carriers["quicdist"].absent


@pytest.mark.io
def test_a_path_that_holds_nothing_is_an_absence_with_a_reason(tmp_path: Path) -> None:
    carriers = by_key({"QUICDIST_PEER_QUIC_DIST": str(tmp_path)})
    assert "no compiled modules" in carriers["quic_dist"].absent


@pytest.mark.io
def test_without_an_erl_there_is_python_alone(tmp_path: Path) -> None:
    ebin(tmp_path / "ebin")
    given = {"QUICDIST_PEER_QUIC_DIST": str(tmp_path), **NO_ERLANG}
    carriers = by_key(given)
    assert "Erlang not found" in carriers["gateway"].absent
    assert "Erlang not found" in carriers["quic_dist"].absent
    assert not carriers["quicdist"].absent
    assert otp_release("/nonexistent/erl") is None


@pytest.mark.io
def test_each_carrier_may_have_an_erl_of_its_own(tmp_path: Path) -> None:
    ebin(tmp_path / "ebin")
    given = {
        "QUICDIST_PEER_QUIC_DIST": str(tmp_path),
        "QUICDIST_PEER_QUIC_DIST_ERL": "/other/erl",
    }
    assert "/other/erl" in by_key(given)["quic_dist"].absent


def test_limits_hold_for_one_dialer_or_for_both() -> None:
    def make(_: object) -> object:
        raise AssertionError

    limits = {("a", Dialer.WE): "when we dial", ("b", None): "always"}
    carrier = Carrier("x", "", "", make, limits=limits)  # type: ignore[arg-type]  # never made
    assert carrier.limit("a", Dialer.WE) == "when we dial"
    assert carrier.limit("a", Dialer.THEY) == ""
    assert carrier.limit("b", Dialer.THEY) == "always"


@pytest.mark.io
def test_known_limits_are_of_scenarios_that_exist() -> None:
    titles = {scenario.title for scenario in SCENARIOS}
    assert len(titles) == len(SCENARIOS)
    for carrier in all_carriers({}):
        assert {title for title, _ in carrier.limits} <= titles
