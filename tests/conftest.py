"""Shared fixtures: hypothesis profiles and a real Erlang."""

from __future__ import annotations

import itertools
import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from quicdist.carriers.log_rate_limit import LogRateLimit
from tests.support import loops, parallel, second_attempt, skips, tiers, virtual_clock
from tests.support.erlang import Erlang, erlang_available, why_no_erlang
from tests.support.examples import USUAL

# `make check` uses "quick".
for _name, _examples in (("quick", 20), ("default", USUAL), ("thorough", 5000)):
    settings.register_profile(
        _name,
        max_examples=_examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# In the background of a script, or under nohup, this process and its children would ignore these
# signals.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

loops.set_event_loop_policy()

# The engine that nodes of the tests use, also in child processes. Tests of one engine name it.
os.environ["QUICDIST_ENGINE"] = os.environ.get("QUICDIST_TEST_ENGINE", "aioquic")

_places = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    skips.register(config)
    tiers.register(config)
    second_attempt.register(config)
    config.pluginmanager.register(parallel)
    config.pluginmanager.register(virtual_clock)


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the state of nodes out of the user's home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUICDIST_STATE_DIR", str(tmp_path_factory.getbasetemp() / "state"))
        yield


@pytest.fixture(autouse=True)
def _state_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gives each test a state folder, because nodes of different tests may have equal names."""
    place = tmp_path_factory.getbasetemp() / f"state-{next(_places)}"
    monkeypatch.setenv("QUICDIST_STATE_DIR", str(place))


@pytest.fixture(autouse=True)
def _log_of_its_own() -> None:
    """Resets the log rate limit for each test."""
    for name in ("node", "access", "gateway", "quic", "tls", "epmd"):
        for few in logging.getLogger(f"quicdist.{name}").filters:
            if isinstance(few, LogRateLimit):
                few.forget()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if erlang_available():
        return
    skip = pytest.mark.skip(reason=why_no_erlang())
    for item in items:
        if item.get_closest_marker("erlang"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def erl() -> Iterator[Erlang]:
    """One Erlang process for the whole run."""
    with Erlang() as erlang:
        yield erlang
