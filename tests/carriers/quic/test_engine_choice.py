"""The choice of the QUIC engine."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest

from quicdist import Quic
from quicdist.carriers.quic import engine_choice
from quicdist.carriers.quic.engine import aioquic_short, load_engine
from quicdist.carriers.quic.engine.aioquic_short import TESTED, ShortPaths
from quicdist.carriers.quic.engine_choice import choose
from tests.carriers.owners import settings
from tests.support.engines import IS_BUILT, needs_native


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "_told", set())
    monkeypatch.delenv("QUICDIST_ENGINE")


@pytest.mark.parametrize(
    ("installed", "expected"),
    [(None, "aioquic"), ("0.1.0", "aioquic"), ("0.2.0", "native"), ("0.20.0", "aioquic")],
)
def test_auto_takes_the_native_engine_if_a_fitting_one_is_installed(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    installed: str | None,
    expected: str,
) -> None:
    monkeypatch.setattr(engine_choice, "native_version", lambda: installed)
    with caplog.at_level(logging.INFO):
        chosen = choose("auto")
        assert choose("auto") == chosen == expected
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
    with pytest.raises(ValueError, match="unknown QUIC engine 'quux' in QUICDIST_ENGINE"):
        choose("auto")


def uses_fast_paths(name: str) -> bool:
    dialer: Any = load_engine(settings(engine=name), lambda _: bytes(16)).dialer("a", ["b"])
    return isinstance(dialer._quic, ShortPaths)


@pytest.mark.parametrize("name", ["aioquic", "aioquic-plain"])
def test_the_environment_variable_decides_on_the_fast_paths(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(aioquic_short, "version", lambda _: min(TESTED))
    monkeypatch.setenv("QUICDIST_ENGINE", name)
    assert uses_fast_paths("auto") == uses_fast_paths(name) == (name == "aioquic")


@pytest.mark.parametrize(
    ("name", "installed", "level", "reason"),
    [
        ("aioquic", "0.0.1", logging.WARNING, "and 0.0.1 is installed"),
        ("aioquic-plain", min(TESTED), logging.INFO, "aioquic-plain does not use them"),
    ],
)
def test_the_log_tells_once_that_the_fast_paths_are_off(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    installed: str,
    level: int,
    reason: str,
) -> None:
    monkeypatch.setattr(aioquic_short, "version", lambda _: installed)
    aioquic_short._tell_off.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert not uses_fast_paths(name)
    events = [each for each in caplog.records if each.__dict__["event"] != "engine"]
    (record,) = events  # once
    assert (record.__dict__["event"], record.levelno) == ("fast_paths_off", level)
    assert reason in record.__dict__["reason"]


def test_the_log_is_silent_while_the_fast_paths_are_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(aioquic_short, "version", lambda _: min(TESTED))
    assert uses_fast_paths("aioquic")
    assert not caplog.records


def test_an_unknown_engine_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match="expected one of auto, native, aioquic, aioquic-plain"):
        Quic(engine="qh3")


@needs_native
@pytest.mark.io
def test_an_engine_of_another_series_is_a_clear_error() -> None:
    code = (
        "import quicdist_engine; quicdist_engine.__version__ = '0.1.0'\n"
        "from quicdist.carriers.quic.engine import native"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ValueError: the installed quicdist-engine 0.1.0 is not of 0.2" in run.stderr
