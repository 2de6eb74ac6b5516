"""Trying again until a node can be reached, for who asks for it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from quicdist.errors import NoConnection

logger = logging.getLogger("quicdist.node")


@dataclass(frozen=True, slots=True)
class Retry:
    """How patiently: `await node.connect("5555@10.0.0.7", retry=Retry())`.

    Pauses double from `first` to `most` seconds. Each is cut by up to a half, by chance, so that
    many who have lost the same node don't come back to it all at once. After `attempts`, if there
    is such a number, it is given up. A refusal ends it at once: another try would meet the same.
    """

    first: float = 0.5
    most: float = 30.0
    attempts: int | None = None

    def pauses(self, chance: random.Random | None = None) -> Iterator[float]:
        """Seconds before the second attempt, the third, and so on."""
        source = chance or random.Random()
        pause = self.first
        while True:
            yield min(pause, self.most) * source.uniform(0.5, 1)
            pause = min(pause * 2, self.most)

    async def connect(self, attempt: Callable[[], Awaitable[object]]) -> None:
        """Makes attempts until one succeeds. Raises the NoConnection of the last."""
        for made, pause in enumerate(self.pauses(), 1):
            try:
                await attempt()
                return
            except NoConnection as error:
                if error.is_refusal or made == self.attempts:
                    raise
                extra = {
                    "event": "retry",
                    "peer": error.node,
                    "cause": error.cause.value,
                    "reason": error.reason,
                }
                logger.info("%s; tried again in %.1f s", error, pause, extra=extra)
            await asyncio.sleep(pause)
