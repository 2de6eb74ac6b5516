"""Watches the files of a trust setting.

After a change, live connections are verified again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from quicdist.carriers.trust.verifiers import Verifier

LOOK_AGAIN: Final = 2.0
"""Seconds between two checks of the files."""


async def watch(verifier: Verifier, changed: Callable[[], None]) -> None:
    """Calls `changed` after each change of one of the verifier's files, until cancelled."""
    before = verifier.stamp()
    while True:
        await asyncio.sleep(LOOK_AGAIN)
        now = verifier.stamp()
        if now != before:
            before = now
            changed()
