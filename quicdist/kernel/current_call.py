"""The call that an exported function answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar

from quicdist.etf import Pid


class CurrentCall:
    """The call that the current exported function answers."""

    def __init__(self, node: str, pid: Pid | None, deadline: float | None) -> None:
        self.node = node
        """The node of the caller."""
        self.pid = pid
        """The calling process. None if the request does not name it."""
        self.deadline = deadline
        """The time of the event loop (`loop.time()`) at which the caller gives up, if it is
        known."""
        self.is_cancelled = False
        """Whether the caller has ended or given up. A function in a thread cannot be interrupted;
        it can read this attribute from time to time."""
        self._end: Callable[[], None] | None = None

    def end_with_caller(self, end: Callable[[], None]) -> None:
        """Calls `end` when the caller has ended or given up."""
        self._end = end
        if self.is_cancelled:
            end()

    def cancel(self) -> None:
        """Called when the caller has ended or given up."""
        self.is_cancelled = True
        if self._end is not None:
            self._end()


_current: ContextVar[CurrentCall] = ContextVar("quicdist.current_call")


def current_call() -> CurrentCall:
    """Returns the call that the current exported function answers.

    Raises RuntimeError outside of an exported function.
    """
    call = _current.get(None)
    if call is None:
        raise RuntimeError("no call is being answered: use it in an exported function")
    return call


def set_current_call(call: CurrentCall) -> None:
    """Sets the call of the current task."""
    _current.set(call)


def remaining(timeout: float | None) -> float | None:
    """Returns the smaller of `timeout` and the time until the deadline of the current call."""
    call = _current.get(None)
    if call is None or call.deadline is None:
        return timeout
    left = max(0.0, call.deadline - asyncio.get_running_loop().time())
    return left if timeout is None else min(timeout, left)
