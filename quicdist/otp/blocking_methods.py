"""Methods of an object in the event loop of a node, for other threads.

A class for threads repeats neither the parameters nor the documentation of the methods that it
offers: `send = waits(Mailbox.send)` is a method with the parameters of `Mailbox.send`, for type
checkers, `help` and the reference.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class LoopThread(Protocol):
    """Runs functions in the event loop of a node, called from other threads."""

    def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **named: P.kwargs) -> T:
        """Awaits `function(...)` in the event loop. Returns its result, or raises its error."""

    def do(self, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Calls `function(...)` in the event loop. Returns its result, or raises its error."""


class Blocking:
    """An object of the event loop as other threads see it."""

    def __init__(self, inner: Any, thread: LoopThread) -> None:
        """`inner` is the object, and `thread` runs the event loop."""
        self._inner = inner
        self._thread = thread


def waits(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """Returns a method that waits for an async method of the inner object."""
    name = method.__name__

    def blocking(self: Blocking, /, *args: P.args, **named: P.kwargs) -> T:
        inner: Callable[P, Coroutine[Any, Any, T]] = getattr(self._inner, name)
        return self._thread.run(inner, *args, **named)

    return _described(blocking, method)


def does(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Returns a method that calls a method of the inner object in its event loop."""
    name = method.__name__

    def blocking(self: Blocking, /, *args: P.args, **named: P.kwargs) -> T:
        inner: Callable[P, T] = getattr(self._inner, name)
        return self._thread.do(inner, *args, **named)

    return _described(blocking, method)


def _described(blocking: Callable[P, T], method: Callable[..., object]) -> Callable[P, T]:
    """Gives a method the name, the parameters and the documentation of another one.

    `functools.wraps` would also say that it wraps a coroutine function, which it is not.
    """
    blocking.__name__ = blocking.__qualname__ = method.__name__
    blocking.__doc__ = (method.__doc__ or "").replace("await ", "")  # in examples
    blocking.__annotations__ = method.__annotations__
    blocking.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    return blocking
