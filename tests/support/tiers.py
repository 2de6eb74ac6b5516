"""The two tiers of tests, and what holds the fast one to its rule.

A test belongs to the fast tier (`make check`) unless it has the mark `io`. One of the fast tier
opens no socket, starts no process and does not wait for time to pass; if it does, it fails and
says what it did.
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
"""Audit events (Python's table of audit events) that no test of the fast tier causes. An event loop
makes a pair of sockets, which is none of them."""


class NotInFastTier(Exception):
    """A test without the mark `io` did what needs it."""


class Watch:
    """What one test of the fast tier did against the rule."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        # Threads of fixtures that outlive tests, as a gateway's, do what they like.
        self._others = {one.ident for one in threading.enumerate()} - {threading.get_ident()}

    def concerns_this_thread(self) -> bool:
        return threading.get_ident() not in self._others

    def refuse(self, what: str) -> None:
        """Notes it, and raises NotInFastTier where it happens."""
        self.broken.append(f"{what}\n{''.join(traceback.format_stack(limit=12)[:-2])}")
        raise NotInFastTier(f"{what} in a test without the mark io")


_watch: Watch | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event in _FORBIDDEN and (watch := _watch) is not None and watch.concerns_this_thread():
        watch.refuse(event)


def _without_delay(sleep: Callable[..., Any]) -> Callable[..., Any]:
    """asyncio.sleep that no test calls to let time pass. The library may, and so may `until`."""

    async def guarded(delay: float, result: Any = None) -> Any:
        caller = sys._getframe(1).f_code.co_filename
        is_test = caller.startswith(_TESTS) and not caller.startswith(_SUPPORT)
        is_virtual = isinstance(asyncio.get_running_loop(), VirtualClockLoop)
        if delay > 0 and is_test and not is_virtual and _watch is not None:
            _watch.refuse(f"asyncio.sleep({delay})")
        return await sleep(delay, result)

    return guarded


def _without_pause(sleep: Callable[[float], None]) -> Callable[[float], None]:
    """time.sleep, which causes an audit event from Python 3.13 on."""

    def guarded(seconds: float) -> None:
        if seconds > 0 and _watch is not None and _watch.concerns_this_thread():
            _watch.refuse(f"time.sleep({seconds})")
        sleep(seconds)

    return guarded


def _watched(start: Callable[..., None]) -> Callable[..., None]:
    """multiprocessing.Process.start, which causes no audit event where it spawns."""

    def guarded(process: BaseProcess) -> None:
        if _watch is not None and _watch.concerns_this_thread():
            _watch.refuse("multiprocessing.Process.start")
        start(process)

    return guarded


def is_fast(item: pytest.Item) -> bool:
    """Whether the test belongs to the fast tier."""
    return item.get_closest_marker("io") is None


class Tiers:
    """The plugin: watches each test of the fast tier from its fixtures to its end."""

    @pytest.hookimpl(tryfirst=True)  # before `-m` chooses
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
            self._judge()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        yield
        self._judge()

    def _judge(self) -> None:
        if _watch is not None and _watch.broken:
            broken, _watch.broken = _watch.broken, []
            pytest.fail(f"needs the mark io: {broken[0]}", pytrace=False)


def register(config: pytest.Config) -> None:
    """Adds the watch to a run, for good: an audit hook cannot be removed."""
    sys.addaudithook(_audit)
    time.sleep = _without_pause(time.sleep)  # type: ignore[assignment]  # its own wrapper
    asyncio.sleep = _without_delay(asyncio.sleep)
    BaseProcess.start = _watched(BaseProcess.start)  # type: ignore[method-assign]  # its own wrapper
    config.pluginmanager.register(Tiers(), "tiers")
