"""Waits for a condition that nothing reports: it can only be asked for again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


async def poll_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Asks until `condition` is true, for at most `timeout` seconds. Returns its last answer.

    The pauses double from 1 ms to 50 ms. So the answer is at most as late again as the wait was
    long, at most 50 ms late, and a wait of a minute costs about 1,200 questions.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    pause = _FIRST_PAUSE
    while not condition():
        left = deadline - loop.time()
        if left <= 0:
            return False
        await asyncio.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
    return True
