"""Which event loop the tests run on: QUICDIST_TEST_LOOP."""

from __future__ import annotations

import asyncio
import os
import sys
import warnings

import pytest

VARIABLE = "QUICDIST_TEST_LOOP"


def set_eager(loop: asyncio.AbstractEventLoop) -> None:
    """Its tasks begin at once (asyncio.eager_task_factory)."""
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)


class EagerPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes loops with eager tasks."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = super().new_event_loop()
        set_eager(loop)
        return loop


def set_event_loop_policy() -> None:
    """Takes the policy that the variable names, `uvloop` or `eager`, for every loop that a test, a
    thread or the library makes in this process; asyncio's own where it is not set.

    Raises pytest.UsageError where that one cannot be had, rather than test another loop.
    """
    name = os.environ.get(VARIABLE, "")
    if not name:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # policies, from Python 3.14 on
        asyncio.set_event_loop_policy(_policy(name))


def _policy(name: str) -> asyncio.AbstractEventLoopPolicy:
    if name == "uvloop":
        try:
            import uvloop
        except ImportError as error:
            raise pytest.UsageError(f"{VARIABLE}=uvloop: {error}") from error
        policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
        return policy
    if name == "eager":
        if sys.version_info < (3, 12):
            raise pytest.UsageError(f"{VARIABLE}=eager needs Python 3.12 or newer")
        return EagerPolicy()
    raise pytest.UsageError(f"invalid {VARIABLE} '{name}': expected uvloop or eager")
