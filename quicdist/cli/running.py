"""Commands that stay until they are told to go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine

from quicdist.stopping import stop_signals


async def until_signal(main: Coroutine[object, object, None]) -> bool:
    """Runs it until it ends, or a signal to stop cancels it; True if one did."""
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
