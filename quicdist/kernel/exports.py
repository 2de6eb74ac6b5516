"""Python functions that other nodes can call, and nothing else can be called.

`@export` only marks a function. What a node serves is what it is given: `Node(...,
exports=[...])` takes marked functions, modules and objects that contain some.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

from quicdist.errors import ExportError
from quicdist.etf import Atom, Term

_F = TypeVar("_F", bound=Callable[..., object])
_MARK = "__quicdist_export__"
TYPED = "__quicdist_typed__"
"""Where a function has its `Typed`, if it has types (see quicdist.typed)."""


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


class Conversions(Protocol):
    """Between terms and what a function takes and returns."""

    def arguments(self, args: Sequence[Term]) -> Sequence[Any]:
        """What the function is given for the terms of a call."""

    def result(self, value: Any) -> Term:
        """The term of what it returned."""


class Typed(Protocol):
    """What `quicdist.typed.typed` writes on a function."""

    def conversions(self, function: Callable[..., Any]) -> Conversions:
        """Those of the function itself, or of what it was bound to or wrapped in."""


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
    conversions: Conversions | None = None

    def begin(self, args: Sequence[Term]) -> Any:
        """Calls it; what it returned may have to be awaited, and is no term before `end`."""
        return self.function(
            *(args if self.conversions is None else self.conversions.arguments(args))
        )

    def end(self, value: Any) -> Term:
        """The term of what it returned."""
        return value if self.conversions is None else self.conversions.result(value)


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
    run in the event loop; `run` says where plain ones do. It may stand above `@staticmethod` and
    `@classmethod`, and be given bound methods, `functools.partial` and callable objects.

    Raises ExportError for what cannot be marked: a class, a function written in C.
    """

    def mark(marked: _F) -> _F:
        if isinstance(marked, type):
            raise ExportError(f"{marked!r} is a class: mark its methods, and export an object")
        try:
            # Of a method, bound or not, the function: the method itself is made anew each time.
            setattr(getattr(marked, "__func__", marked), _MARK, Mark(module, name, run))
        except AttributeError:
            raise ExportError(
                f"{marked!r} cannot be marked: define a function that calls it, and mark that"
            ) from None
        return marked

    return mark if function is None else mark(function)


class Exports:
    """What one node serves. Raises ExportError for what is not marked, or marked twice alike."""

    def __init__(self, given: Iterable[object], threads: int) -> None:
        self._functions: dict[tuple[Atom, Atom], list[Exported]] = {}
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        for one in given:
            for found in _marked(one):
                self._add(found)

    @property
    def modules(self) -> Sequence[Atom]:
        """The Erlang modules that have functions here."""
        return list(dict.fromkeys(module for module, _ in self._functions))

    def __iter__(self) -> Iterator[Exported]:
        """All functions, in the order of their modules and names."""
        for key in sorted(self._functions):
            yield from sorted(self._functions[key], key=lambda one: one.least)

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
        if exported.is_async or exported.run is Run.INLINE:
            value = exported.begin(args)
            return exported.end(await value if inspect.isawaitable(value) else value)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="quicdist")
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        value = await loop.run_in_executor(self._pool, context.run, _in_thread, exported, args)
        # A plain function may be the wrapper of an async one: its work is still to be done.
        return exported.end(await value.awaited) if isinstance(value, _ToAwait) else value

    def close(self) -> None:
        """Threads end when their function does."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _add(self, found: _Found) -> None:
        function, mark = found.function, found.mark
        module = mark.module or _default_module(found)
        name = mark.name or _default_name(found)
        if name is None:
            raise ExportError(f"{function!r} has no name: give one, @export(name=...)")
        least, most = _arity(function)
        exported = Exported(
            Atom(module),
            Atom(name),
            function,
            mark.run,
            _is_async(function),
            least,
            most,
            None if found.typed is None else found.typed.conversions(function),
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


@dataclass(frozen=True, slots=True)
class _Found:
    """A marked function, and where it was found."""

    function: Callable[..., Any]
    mark: Mark
    typed: Typed | None
    attribute: str | None = None
    module: str | None = None
    """The Python module that is exported, or that of the object's class."""


@dataclass(frozen=True, slots=True)
class _ToAwait:
    """What a plain function returned in its thread and the event loop is to await."""

    awaited: Awaitable[Any]


def _in_thread(exported: Exported, args: Sequence[Term]) -> Any:
    """Calls it. A StopIteration becomes a RuntimeError, as it does in a coroutine: no asyncio
    future takes one, so that the call would never end (before Python 3.12)."""
    try:
        value = exported.begin(args)
    except StopIteration as error:
        raise RuntimeError(f"{exported.name} raised StopIteration") from error
    return _ToAwait(value) if inspect.isawaitable(value) else exported.end(value)


def _marked(given: object) -> Iterator[_Found]:
    if isinstance(given, type) or not callable(given) or _written(given, _MARK) is None:
        yield from _marked_within(given)
    else:
        yield _found(given, given)


def _marked_within(given: object) -> Iterator[_Found]:
    is_found = False
    owner = given if inspect.ismodule(given) or isinstance(given, type) else type(given)
    module = getattr(owner, "__name__" if inspect.ismodule(owner) else "__module__", None)
    for attribute in dir(given):
        member = inspect.getattr_static(given, attribute)
        if isinstance(_written(member, _MARK), Mark):
            is_found = True
            yield _found(member, getattr(given, attribute), attribute, module)
    if is_found:
        return
    if callable(given) and not isinstance(given, type):
        raise ExportError(f"{given!r} is not marked: put @export above its definition")
    name = getattr(given, "__name__", None) or repr(given)
    raise ExportError(f"nothing in {name} is marked with @export: put it above what is served")


def _found(
    member: object,
    function: Callable[..., Any],
    attribute: str | None = None,
    module: str | None = None,
) -> _Found:
    mark = _written(member, _MARK)
    assert isinstance(mark, Mark)
    if not callable(function):
        raise ExportError(f"{function!r}, marked with @export, cannot be called")
    return _Found(function, mark, _written(_innermost(member), TYPED), attribute, module)


def _written(function: object, name: str) -> Any:
    """What a decorator wrote on a function, also below `staticmethod` and `classmethod`, or the
    class of a callable object says. A class that has such a mark says it of its objects."""
    below = getattr(function, "__func__", function)
    return getattr(below, name, None)


def _innermost(function: object) -> Any:
    """A partial function has none of the attributes of the one that it calls."""
    while isinstance(function, (functools.partial, functools.partialmethod)):
        function = function.func
    return function


def _is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it is no work yet. What it wraps does not say that: a wrapper may be async
    around a plain function, or the reverse."""
    call = getattr(type(function), "__call__", None)  # noqa: B004 - of callable objects
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _default_module(found: _Found) -> str:
    module = getattr(_innermost(found.function), "__module__", None)
    if _is_wrapper(found):
        module = found.module
    module = str(module or "python")
    return "main" if module == "__main__" else module.rpartition(".")[2]


def _default_name(found: _Found) -> str | None:
    if _is_wrapper(found):
        return found.attribute
    name = getattr(_innermost(found.function), "__name__", None)
    return found.attribute if name is None else str(name)


def _is_wrapper(found: _Found) -> bool:
    """Whether a decorator made it and did not say of what (functools.wraps), or a descriptor bound
    it: its name and module are then not those that it was defined with."""
    if found.attribute is None:
        return False
    if isinstance(found.function, functools.partial):
        return True
    qualified = str(getattr(found.function, "__qualname__", ""))
    return qualified.rpartition(".")[0].endswith("<locals>")


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
