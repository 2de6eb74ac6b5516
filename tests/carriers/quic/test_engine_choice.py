"""The choice of the QUIC engine."""

from __future__ import annotations

import importlib.util
import logging

import pytest

from quicdist import Quic
from quicdist.carriers.quic import engine_choice
from quicdist.carriers.quic.engine_choice import choose
from tests.support.engines import IS_BUILT


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "_told", set())
    monkeypatch.delenv("QUICDIST_ENGINE")


@pytest.mark.parametrize("is_installed", [False, True])
def test_auto_takes_the_native_engine_if_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_installed: bool
) -> None:
    found = object() if is_installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with caplog.at_level(logging.INFO):
        chosen = choose("auto")
        assert choose("auto") == chosen == ("native" if is_installed else "aioquic")
    (record,) = caplog.records  # once
    assert record.__dict__["event"] == "engine"
    assert record.__dict__["engine"] == chosen
    assert "installed" in record.__dict__["reason"]


def test_the_environment_variable_is_for_auto_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICDIST_ENGINE", "aioquic-plain")
    assert choose("auto") == "aioquic-plain"
    assert choose("aioquic") == "aioquic"
    monkeypatch.setenv("QUICDIST_ENGINE", "auto")
    assert choose("auto") == ("native" if IS_BUILT else "aioquic")
    monkeypatch.setenv("QUICDIST_ENGINE", "quux")
    with pytest.raises(ValueError, match="unknown QUIC engine 'quux'"):
        choose("auto")


def test_an_unknown_engine_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match="expected one of auto, native, aioquic, aioquic-plain"):
        Quic(engine="qh3")
