"""The two tiers of tests, and the enforcement of the rule for the fast tier.

A test belongs to the fast tier (`make check`) unless it has the mark `io`. A test of the fast tier
opens no socket, starts no process and does not sleep; if it does, it fails with a message that
names the action.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from tests.support.virtual_clock import VirtualClockLoop

_TESTS = str(Path(__file__).parent.parent)
_SUPPORT = str(Path(__file__).parent)

_FORBIDDEN = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.startfile",
        "os.system",
        "pty.spawn",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.sendto",
        "subprocess.Popen",
    }
)
"""Audit events (Python's audit events table) that fail a test of the fast tier. The socket pair of
an event loop causes none of them."""


class NotInFastTier(Exception):
    """A test without the mark `io` performed an action that needs it."""


class Watch:
    """Violations of the rule by one test of the fast tier."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        # Threads of fixtures that outlive tests, such as a gateway's, are not checked.
        self._others = {one.ident for one in threading.enumerate()} - {threading.get_ident()}

    def concerns_this_thread(self) -> bool:
        return threading.get_ident() not in self._others

    def refuse(self, what: str) -> None:
        """Records the violation and raises NotInFastTier at its location."""
        self.broken.append(f"{what}\n{''.join(traceback.format_stack(limit=12)[:-2])}")
        raise NotInFastTier(f"{what} in a test without the mark io")


_watch: Watch | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event in _FORBIDDEN and (watch := _watch) is not None and watch.concerns_this_thread():
        watch.refuse(event)


def _without_delay(sleep: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps asyncio.sleep to reject calls from tests. The library and `until` may sleep."""

    async def guarded(delay: float, result: Any = None) -> Any:
        caller = sys._getframe(1).f_code.co_filename
        is_test = caller.startswith(_TESTS) and not caller.startswith(_SUPPORT)
        is_virtual = isinstance(asyncio.get_running_loop(), VirtualClockLoop)
        if delay > 0 and is_test and not is_virtual and _watch is not None:
            _watch.refuse(f"asyncio.sleep({delay})")
        return await sleep(delay, result)

    return guarded


def _without_pause(sleep: Callable[[float], None]) -> Callable[[float], None]:
    """Wraps time.sleep, which raises an audit event only since Python 3.13."""

    def guarded(seconds: float) -> None:
        if seconds > 0 and _watch is not None and _watch.concerns_this_thread():
            _watch.refuse(f"time.sleep({seconds})")
        sleep(seconds)

    return guarded


def _watched(start: Callable[..., None]) -> Callable[..., None]:
    """Wraps multiprocessing.Process.start, which raises no audit event with spawn."""

    def guarded(process: BaseProcess) -> None:
        if _watch is not None and _watch.concerns_this_thread():
            _watch.refuse("multiprocessing.Process.start")
        start(process)

    return guarded


def is_fast(item: pytest.Item) -> bool:
    """Whether the test belongs to the fast tier."""
    return item.get_closest_marker("io") is None


class Tiers:
    """The plugin, which watches each test of the fast tier including its fixtures."""

    @pytest.hookimpl(tryfirst=True)  # before `-m` selects
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if item.get_closest_marker("erlang") and is_fast(item):
                item.add_marker(pytest.mark.io)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        global _watch
        _watch = Watch() if is_fast(item) else None
        try:
            return (yield)
        finally:
            _watch = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, None, None]:
        try:
            yield
        finally:
            self._assert_allowed()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> Generator[None, None, None]:
        global _watch
        if nextitem is None:
            # The fixtures of the session end after the last test, whichever that is.
            _watch = None
        yield
        self._assert_allowed()

    def _assert_allowed(self) -> None:
        if _watch is not None and _watch.broken:
            broken, _watch.broken = _watch.broken, []
            pytest.fail(f"needs the mark io: {broken[0]}", pytrace=False)


def register(config: pytest.Config) -> None:
    """Adds the watch to a run permanently, because an audit hook cannot be removed."""
    sys.addaudithook(_audit)
    time.sleep = _without_pause(time.sleep)  # type: ignore[assignment]  # its own wrapper
    asyncio.sleep = _without_delay(asyncio.sleep)
    BaseProcess.start = _watched(BaseProcess.start)  # type: ignore[method-assign]  # its own wrapper
    config.pluginmanager.register(Tiers(), "tiers")
