"""Calls that are sent now and whose answer is asked for later.

OTP: `erpc:send_request/4`, `receive_response/2`, `wait_response/2`; `gen_server:send_request/2`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from quicdist.etf import Term
from quicdist.node.errors import CallTimeout
from quicdist.runtime.affinity import LoopAffinity


class CallRequest:
    """One such call. Whoever wants many answers as they come waits for `answered` of each."""

    def __init__(self, what: str, call: Coroutine[Any, Any, Term]) -> None:
        self._what = what
        self._task = asyncio.ensure_future(call)
        self._affinity = LoopAffinity(f"the request {what}")
        # Nobody need ask for the answer; that it is an error is then no news.
        self._task.add_done_callback(_look_at)

    def __str__(self) -> str:
        return self._what

    @property
    def is_answered(self) -> bool:
        """Whether `receive_response` would not wait."""
        return self._task.done()

    async def answered(self, timeout: float | None = None) -> bool:
        """Waits until there is an answer, or so many seconds. Whether there is one."""
        self._affinity.check()
        await asyncio.wait([self._task], timeout=timeout)
        return self._task.done()

    async def receive_response(self, timeout: float | None = 5.0) -> Term:
        """The answer, as often as it is asked for. 5 s by default, None waits for ever; when they
        are over the request is abandoned.

        Raises CallTimeout, and what the call it stands for raises.
        """
        self._affinity.check()
        if not await self.answered(timeout):
            self.abandon()
            raise CallTimeout(self._what, timeout or 0)
        if self._task.cancelled():
            raise CallTimeout(f"{self._what}, abandoned,", 0)
        return self._task.result()

    def abandon(self) -> bool:
        """No answer is wanted any more; one that comes is dropped. True when none had come."""
        self._affinity.check()
        return self._task.cancel()


def _look_at(task: asyncio.Future[Term]) -> None:
    if not task.cancelled():
        task.exception()
