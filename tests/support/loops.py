"""Selects the event loop of the tests by QUICDIST_TEST_LOOP."""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from collections.abc import Coroutine
from typing import Any

import pytest

VARIABLE = "QUICDIST_TEST_LOOP"


def set_eager(loop: asyncio.AbstractEventLoop) -> None:
    """Sets asyncio.eager_task_factory, on uvloop too, from Python 3.12 on."""
    if sys.version_info >= (3, 12):

        def eager(
            loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
        ) -> asyncio.Task[Any]:
            # uvloop passes this option, which the factory of Python 3.12 does not have.
            options.pop("eager_start", None)
            return asyncio.eager_task_factory(loop, coroutine, **options)

        loop.set_task_factory(eager)


class EagerPolicy(asyncio.DefaultEventLoopPolicy):
    """An event loop policy whose loops have eager tasks."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = super().new_event_loop()
        set_eager(loop)
        return loop


def set_event_loop_policy() -> None:
    """Sets the event loop policy that the variable names, `uvloop` or `eager`, for this process.

    The default is asyncio's own loop. Raises pytest.UsageError if the loop is not available.
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
