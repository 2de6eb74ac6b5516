"""Commands that stay until they are told to go."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def until_signal(main: Coroutine[object, object, None]) -> bool:
    """Runs it until it ends, or SIGINT or SIGTERM cancels it; True if a signal did."""
    task = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    was_told = False

    def stop() -> None:
        nonlocal was_told
        was_told = True
        task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    return was_told
