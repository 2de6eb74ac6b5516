"""Notices that a file has changed that says whom we believe, so that live connections are looked at
again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from quicdist.carriers.trust.verifiers import Verifier

LOOK_AGAIN: Final = 2.0
"""Seconds between two looks at the files."""


async def watch(verifier: Verifier, changed: Callable[[], None]) -> None:
    """Calls `changed` when one of the verifier's files has changed, until it is cancelled."""
    before = verifier.stamp()
    while True:
        await asyncio.sleep(LOOK_AGAIN)
        now = verifier.stamp()
        if now != before:
            before = now
            changed()
