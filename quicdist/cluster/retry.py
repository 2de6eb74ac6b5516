"""Retries of `Node.connect`."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from quicdist.errors import NoConnection
from quicdist.setting_types import Positive, PositiveDuration, check_fields

logger = logging.getLogger("quicdist.node")


@dataclass(frozen=True, slots=True)
class Retry:
    """How to repeat failed connection attempts, as `node.connect(..., retry=Retry())`.

    Pauses double from `first` to `most` seconds. Each is reduced at random by up to a half, so that
    nodes that lose the same peer do not all reconnect at the same time. `attempts` limits the
    number of attempts. A rejection ends the attempts.
    """

    first: PositiveDuration = 0.5
    most: PositiveDuration = 30.0
    attempts: Positive | None = None

    def __post_init__(self) -> None:
        """Raises TypeError and SettingError."""
        check_fields(self)

    def pauses(self, chance: random.Random | None = None) -> Iterator[float]:
        """Yields the pauses in seconds before the second attempt, the third, and so on."""
        source = chance or random.Random()
        pause = self.first
        while True:
            yield min(pause, self.most) * source.uniform(0.5, 1)
            pause = min(pause * 2, self.most)

    async def connect(self, attempt: Callable[[], Awaitable[object]]) -> None:
        """Repeats `attempt` until it succeeds. Raises the last NoConnection."""
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
                logger.info("%s; retrying in %.1f s", error, pause, extra=extra)
            await asyncio.sleep(pause)
