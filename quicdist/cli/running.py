"""Commands that run until a signal ends them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import resource
import threading
from collections.abc import Coroutine

from quicdist.stopping import stop_signals


def raise_file_limit(wanted: int) -> None:
    """Raises the limit of open files of this process, as far as permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run_fast(main: Coroutine[object, object, object]) -> None:
    """Runs it as `asyncio.run`, on uvloop if that is installed."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def until_signal(main: Coroutine[object, object, None]) -> bool:
    """Runs it until it ends or a signal cancels it. Returns whether a signal did."""
    task = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    was_told = False

    def stop() -> None:
        nonlocal was_told
        was_told = True
        task.cancel()

    signals = stop_signals()
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
    return was_told


async def stdin_closed() -> None:
    """Waits until standard input ends, and discards what comes before its end.

    It is read in a daemon thread and not through `sys.stdin`, whose lock would be held at exit.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def read() -> None:
        try:
            while os.read(0, 65536):
                pass
        except OSError:  # it was closed before the start
            pass
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, daemon=True, name="standard input").start()
    await ended.wait()
