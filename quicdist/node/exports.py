"""Python functions that other nodes can call, and nothing else can be called.

`@export` only marks a function. What a node serves is what it is given: `Node(...,
exports=[...])` takes marked functions, modules and objects that contain some.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from quicdist.etf import Atom, Term
from quicdist.node.errors import ExportError

_F = TypeVar("_F", bound=Callable[..., object])
_MARK = "__quicdist_export__"


class Run(enum.Enum):
    """Where a plain (not async) function runs."""

    THREAD = "thread"
    """In one of the node's threads, so that a slow function stops nothing else. The default."""

    INLINE = "inline"
    """In the event loop: for short functions, and those that must not run in another thread."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What `@export` writes on a function."""

    module: str | None
    name: str | None
    run: Run


@dataclass(frozen=True, slots=True)
class Exported:
    """A function as a node serves it."""

    module: Atom
    name: Atom
    function: Callable[..., Any]
    run: Run
    is_async: bool
    least: int
    most: int | None


@overload
def export(function: _F, /) -> _F: ...


@overload
def export(
    *, module: str | None = None, name: str | None = None, run: Run = Run.THREAD
) -> Callable[[_F], _F]: ...


def export(
    function: _F | None = None,
    /,
    *,
    module: str | None = None,
    name: str | None = None,
    run: Run = Run.THREAD,
) -> _F | Callable[[_F], _F]:
    """Marks a function as callable from other nodes; bare or with settings.

    `module` and `name` are what Erlang calls it by (`"Elixir.Calc"` for an Elixir alias); by
    default the last part of the Python module's name, and the function's own. Async functions
    run in the event loop; `run` says where plain ones do.
    """

    def mark(marked: _F) -> _F:
        setattr(marked, _MARK, Mark(module, name, run))
        return marked

    return mark if function is None else mark(function)


class Exports:
    """What one node serves. Raises ExportError for what is not marked, or marked twice alike."""

    def __init__(self, given: Iterable[object], threads: int) -> None:
        self._functions: dict[tuple[Atom, Atom], list[Exported]] = {}
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        for one in given:
            for function, mark in _marked(one):
                self._add(function, mark)

    @property
    def modules(self) -> Sequence[Atom]:
        """The Erlang modules that have functions here."""
        return list(dict.fromkeys(module for module, _ in self._functions))

    def find(self, module: Term, name: Term, arity: int) -> Exported | None:
        """The function of that module, name and arity."""
        if not isinstance(module, Atom) or not isinstance(name, Atom):
            return None
        for one in self._functions.get((module, name), ()):
            if one.least <= arity and (one.most is None or arity <= one.most):
                return one
        return None

    async def run(self, exported: Exported, args: Sequence[Term]) -> Term:
        """Calls it. Raises what it raises. Cancelled, an async function is cancelled with it; a
        plain one runs on in its thread, to nobody's use."""
        try:
            return await self._run(exported, args)
        except SystemExit as error:
            # Who calls a function may end that function, not the program.
            raise RuntimeError(f"{exported.name} wanted to end the program: {error!r}") from error

    async def _run(self, exported: Exported, args: Sequence[Term]) -> Term:
        if exported.is_async:
            return await exported.function(*args)
        if exported.run is Run.INLINE:
            return exported.function(*args)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="quicdist")
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, context.run, _run_in_thread, exported, args)

    def close(self) -> None:
        """Threads end when their function does."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _add(self, function: Callable[..., Any], mark: Mark) -> None:
        module = mark.module or _default_module(function)
        name = mark.name or getattr(function, "__name__", None)
        if name is None:
            raise ExportError(f"{function!r} has no name: give one, @export(name=...)")
        least, most = _arity(function)
        exported = Exported(
            Atom(module),
            Atom(name),
            function,
            mark.run,
            inspect.iscoroutinefunction(inspect.unwrap(function)),
            least,
            most,
        )
        same = self._functions.setdefault((exported.module, exported.name), [])
        for other in same:
            if other.function == function:
                return
            if not _apart(other, exported):
                raise ExportError(
                    f"{module}:{name} is exported twice, by {other.function!r} and {function!r}"
                )
        same.append(exported)


def _run_in_thread(exported: Exported, args: Sequence[Term]) -> Term:
    """Calls it. A StopIteration becomes a RuntimeError, as it does in a coroutine: no asyncio
    future takes one, so that the call would never end (before Python 3.12)."""
    try:
        return exported.function(*args)
    except StopIteration as error:
        raise RuntimeError(f"{exported.name} raised StopIteration") from error


def _marked(given: object) -> Iterator[tuple[Callable[..., Any], Mark]]:
    mark = getattr(given, _MARK, None)
    if isinstance(mark, Mark) and callable(given):
        yield given, mark
        return
    if callable(given) and not isinstance(given, type):
        raise ExportError(f"{given!r} is not marked: put @export above its definition")
    found = False
    for attribute in dir(given):
        member = inspect.getattr_static(given, attribute)
        mark = getattr(getattr(member, "__func__", member), _MARK, None)
        if isinstance(mark, Mark):
            found = True
            yield getattr(given, attribute), mark
    if not found:
        name = getattr(given, "__name__", None) or repr(given)
        raise ExportError(f"nothing in {name} is marked with @export: put it above what is served")


def _default_module(function: Callable[..., Any]) -> str:
    module = str(getattr(function, "__module__", None) or "python")
    return "main" if module == "__main__" else module.rpartition(".")[2]


def _arity(function: Callable[..., Any]) -> tuple[int, int | None]:
    """The least and most positional arguments it takes; None is any number."""
    least = most = 0
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0, None
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            return least, None
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += parameter.default is parameter.empty
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise ExportError(
                f"{function!r} cannot be called from Erlang: {parameter.name} is keyword-only"
            )
    return least, most


def _apart(one: Exported, other: Exported) -> bool:
    return (one.most is not None and one.most < other.least) or (
        other.most is not None and other.most < one.least
    )
