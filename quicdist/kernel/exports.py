"""Python functions that other nodes can call.

`@export` only marks a function. A node serves what it is passed: `Node(..., exports=[...])` takes
marked functions, and modules and objects that contain some.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import functools
import inspect
import traceback
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

from quicdist.errors import ExportError
from quicdist.etf import Atom, Term
from quicdist.kernel.call_limits import Limiter, check_limit
from quicdist.kernel.worker_processes import WorkerProcesses, check_importable
from quicdist.setting_types import check_type

_F = TypeVar("_F", bound=Callable[..., object])
_Result = TypeVar("_Result")
_MARK = "__quicdist_export__"
TYPED = "__quicdist_typed__"
"""The attribute of a function that holds its `Typed`; see quicdist.typed."""


class Run(enum.Enum):
    """Where a function that is not async runs."""

    THREAD = "thread"
    """In a thread of the node, so that a slow function does not block the event loop. The
    default."""

    INLINE = "inline"
    """In the event loop, for short functions and functions that must not run in another thread."""

    PROCESS = "process"
    """In a worker process of the node, for functions that compute for long: threads of one process
    share one interpreter lock. The function must be importable by its name, and its arguments and
    result must be picklable."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The attribute that `@export` sets on a function."""

    module: str | None
    name: str | None
    run: Run
    cancel_with_caller: bool
    concurrency: int | None
    queue: int | None


class Conversions(Protocol):
    """Conversions between terms and the arguments and result of a function."""

    def arguments(self, args: Sequence[Term]) -> Sequence[Any]:
        """Converts the arguments of a call."""

    def result(self, value: Any) -> Term:
        """Converts the result to a term."""

    def item(self, value: Any) -> Term:
        """Converts an item of a stream to a term."""


class Typed(Protocol):
    """The attribute that `quicdist.typed.typed` sets on a function."""

    def conversions(self, function: Callable[..., Any]) -> Conversions:
        """Returns the conversions of the function, or of the function that it binds or wraps."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported function."""

    module: Atom
    name: Atom
    function: Callable[..., Any]
    run: Run
    is_async: bool
    least: int
    most: int | None
    conversions: Conversions | None
    cancel_with_caller: bool
    limiter: Limiter | None

    def begin(self, args: Sequence[Term]) -> Any:
        """Calls the function. The result may be awaitable and must be passed to `end`."""
        return self.function(*self.converted(args))

    def converted(self, args: Sequence[Term]) -> Sequence[Any]:
        """Converts the arguments of a call."""
        return args if self.conversions is None else self.conversions.arguments(args)

    def end(self, value: Any) -> Term:
        """Converts the result to a term. Raises TypeError for a generator."""
        if isinstance(value, (Generator, AsyncGenerator)):
            raise TypeError(
                f"{self.module}:{self.name} is a generator: call it as a stream, with"
                " `Node.stream`, or in Elixir `Quicdist.stream`"
            )
        return value if self.conversions is None else self.conversions.result(value)

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Waits until the limit of the function allows a call. Raises ErlangError `busy`."""
        return contextlib.nullcontext() if self.limiter is None else self.limiter.turn()

    def item(self, value: Any) -> Term:
        """Converts an item of a stream to a term."""
        return value if self.conversions is None else self.conversions.item(value)


@contextlib.contextmanager
def contained(name: str) -> Iterator[None]:
    """Raises RuntimeError if a function raises what would end the program, not only the call.

    That is any exception that is no `Exception`, such as SystemExit and KeyboardInterrupt, except
    CancelledError. asyncio would raise it from the event loop.
    """
    task = asyncio.current_task()
    try:
        yield
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        if isinstance(error, GeneratorExit) and not _runs(task):
            raise  # the coroutine is closed
        text = traceback.format_exception_only(error)[-1].strip()
        raise RuntimeError(f"{name} raised {text}") from error


def _runs(task: asyncio.Task[Any] | None) -> bool:
    try:
        return asyncio.current_task() is task
    except RuntimeError:  # no event loop runs
        return False


@overload
def export(function: _F, /) -> _F: ...


@overload
def export(
    *,
    module: str | None = None,
    name: str | None = None,
    run: Run = Run.THREAD,
    cancel_with_caller: bool = False,
    concurrency: int | None = None,
    queue: int | None = None,
) -> Callable[[_F], _F]: ...


def export(
    function: _F | None = None,
    /,
    *,
    module: str | None = None,
    name: str | None = None,
    run: Run = Run.THREAD,
    cancel_with_caller: bool = False,
    concurrency: int | None = None,
    queue: int | None = None,
) -> _F | Callable[[_F], _F]:
    """Marks a function as callable from other nodes. Used bare or with arguments.

    `module` and `name` are the Erlang names (`"Elixir.Calc"` for an Elixir alias). The defaults are
    the last component of the Python module's name, and the name of the function. Async functions
    run in the event loop; `run` selects where other functions run. It can be applied above
    `@staticmethod` and `@classmethod`, and to bound methods, `functools.partial` objects and
    callable objects.

    With `cancel_with_caller` a call is cancelled when its caller has ended, has given up after a
    timeout, or is on a node whose connection was lost: an async function gets CancelledError, and
    `current_call().is_cancelled` becomes true for one in a thread.

    At most `concurrency` calls of the function run at a time, and at most `queue` wait for one of
    them to end. Further calls fail at once with the error `busy`. By default there is no limit.

    Raises ExportError for a class and for a function written in C, TypeError for an argument of a
    wrong type, and ValueError for a limit that is not positive.
    A node raises ExportError for cached async functions, and for methods of a class that is
    exported instead of an instance.
    """
    check_type("module=", module, str | None)
    check_type("name=", name, str | None)
    check_type("run=", run, Run)
    check_type("cancel_with_caller=", cancel_with_caller, bool)
    check_type("concurrency=", concurrency, int | None)
    check_type("queue=", queue, int | None)
    check_limit(concurrency, queue)

    def mark(marked: _F) -> _F:
        if isinstance(marked, type):
            raise ExportError(f"{marked!r} is a class: mark its methods and export an instance")
        try:
            # For a method the function is marked, since a method object is created at each access.
            setattr(
                getattr(marked, "__func__", marked),
                _MARK,
                Mark(module, name, run, cancel_with_caller, concurrency, queue),
            )
        except AttributeError:
            raise ExportError(
                f"{marked!r} cannot be marked: mark a function that calls it"
            ) from None
        return marked

    return mark if function is None else mark(function)


class Exports:
    """The exported functions of one node.

    Raises ExportError for unmarked objects and for duplicate names.
    """

    def __init__(self, given: Iterable[object], threads: int, processes: int | None = None) -> None:
        self._functions: dict[tuple[Atom, Atom], list[Exported]] = {}
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._workers = WorkerProcesses(processes)
        for one in given:
            for found in _marked(one):
                self._add(found)

    @property
    def modules(self) -> Sequence[Atom]:
        """The Erlang modules with exported functions."""
        return list(dict.fromkeys(module for module, _ in self._functions))

    def __iter__(self) -> Iterator[Exported]:
        """Iterates over the functions, sorted by module, name and arity."""
        for key in sorted(self._functions):
            yield from sorted(self._functions[key], key=lambda one: one.least)

    def find(self, module: Term, name: Term, arity: int) -> Exported | None:
        """Returns the function with that module, name and arity, or None."""
        if not isinstance(module, Atom) or not isinstance(name, Atom):
            return None
        for one in self._functions.get((module, name), ()):
            if one.least <= arity and (one.most is None or arity <= one.most):
                return one
        return None

    async def run(self, exported: Exported, args: Sequence[Term]) -> Term:
        """Calls a function and returns its result as a term. Raises what the function raises.

        Cancellation cancels an async function. A function in a thread continues, and its result is
        dropped.
        """
        with contained(exported.name):
            async with exported.turn():
                return await self._run(exported, args)

    async def _run(self, exported: Exported, args: Sequence[Term]) -> Term:
        if exported.is_async or exported.run is not Run.THREAD:
            return exported.end(await self.open(exported, args))
        # The result is converted in the thread as well.
        context = contextvars.copy_context()
        value = await self.in_thread(context.run, _in_thread, exported, args)
        # A function that is not async may return an awaitable, for example a wrapper of an async
        # one.
        return exported.end(await value.awaited) if isinstance(value, _ToAwait) else value

    async def open(self, exported: Exported, args: Sequence[Term]) -> Any:
        """Calls a function and returns its result unconverted. Raises what the function raises."""
        if exported.is_async or exported.run is Run.INLINE:
            value = exported.begin(args)
        elif exported.run is Run.PROCESS:
            value = await self._workers.run(exported.function, exported.converted(args))
        else:
            context = contextvars.copy_context()
            value = await self.in_thread(context.run, exported.begin, args)
        return await value if inspect.isawaitable(value) else value

    def in_thread(
        self, function: Callable[..., _Result], /, *args: object
    ) -> asyncio.Future[_Result]:
        """Calls a function in a thread of the node.

        StopIteration and GeneratorExit become RuntimeError. An asyncio future does not accept
        StopIteration before Python 3.12, so the call would never end, and GeneratorExit would close
        the coroutine that waits.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="quicdist")
        return asyncio.get_running_loop().run_in_executor(self._pool, _finished, function, args)

    def close(self) -> None:
        """Shuts the threads and worker processes down. They end when their function returns."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        self._workers.close()

    def _add(self, found: _Found) -> None:
        function, mark = found.function, found.mark
        module = mark.module or _default_module(found)
        name = mark.name or _default_name(found)
        if name is None:
            raise ExportError(f"{function!r} has no name: use @export(name=...)")
        _check_not_cached(function)
        least, most = _arity(function)
        if mark.run is Run.PROCESS:
            check_importable(function)
        exported = Exported(
            Atom(module),
            Atom(name),
            function,
            mark.run,
            _is_async(function),
            least,
            most,
            None if found.typed is None else found.typed.conversions(function),
            mark.cancel_with_caller,
            Limiter.of(mark.concurrency, mark.queue),
        )
        same = self._functions.setdefault((exported.module, exported.name), [])
        for other in same:
            if other.function == function:
                return
            if not _are_distinguishable(other, exported):
                raise ExportError(
                    f"{module}:{name} is exported twice, by {other.function!r} and {function!r}"
                )
        same.append(exported)


@dataclass(frozen=True, slots=True)
class _Found:
    """A marked function and where it was found."""

    function: Callable[..., Any]
    mark: Mark
    typed: Typed | None
    attribute: str | None = None
    module: str | None = None
    """The name of the exported Python module, or the module of the object's class."""


@dataclass(frozen=True, slots=True)
class _ToAwait:
    """An awaitable that a function in a thread returned, for the event loop."""

    awaited: Awaitable[Any]


def _finished(function: Callable[..., _Result], args: Sequence[object]) -> _Result:
    try:
        return function(*args)
    except (StopIteration, GeneratorExit) as error:
        raise RuntimeError(f"the function raised {type(error).__name__}") from error


def _in_thread(exported: Exported, args: Sequence[Term]) -> Any:
    """Calls an exported function and converts its result."""
    value = exported.begin(args)
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
            if isinstance(given, type) and _needs_instance(member):
                raise ExportError(
                    f"{given.__qualname__}.{attribute} is a method: export an instance of "
                    f"{given.__name__}, or make it a staticmethod or classmethod"
                )
            is_found = True
            yield _found(member, getattr(given, attribute), attribute, module)
    if is_found:
        return
    if callable(given) and not isinstance(given, type):
        raise ExportError(f"{given!r} is not marked with @export")
    name = getattr(given, "__name__", None) or repr(given)
    raise ExportError(f"nothing in {name} is marked with @export")


def _found(
    member: object,
    function: Callable[..., Any],
    attribute: str | None = None,
    module: str | None = None,
) -> _Found:
    mark = _written(member, _MARK)
    assert isinstance(mark, Mark)
    if not callable(function):
        raise ExportError(f"{function!r} is marked with @export but not callable")
    return _Found(function, mark, _written(_innermost(member), TYPED), attribute, module)


def _needs_instance(member: object) -> bool:
    """Returns whether this attribute of a class takes an instance as its first argument."""
    return hasattr(type(member), "__get__") and not isinstance(member, (staticmethod, classmethod))


def _check_not_cached(function: Callable[..., Any]) -> None:
    """Raises ExportError for a cache of coroutines."""
    if hasattr(function, "cache_info") and inspect.iscoroutinefunction(inspect.unwrap(function)):
        raise ExportError(
            f"{function!r} caches coroutines, and each can be awaited only once: cache the results"
        )


def _written(function: object, name: str) -> Any:
    """Returns an attribute that a decorator set on a function.

    The function can be below `staticmethod` and `classmethod`, or the attribute on the class of a
    callable object. On a class it applies to the instances.
    """
    below = getattr(function, "__func__", function)
    return getattr(below, name, None)


def _innermost(function: object) -> Any:
    """Unwraps partial functions, which have no attributes of the function that they call."""
    while isinstance(function, (functools.partial, functools.partialmethod)):
        function = function.func
    return function


def _is_async(function: Callable[..., Any]) -> bool:
    """Returns whether calling the function only creates an awaitable or an async generator.

    `__wrapped__` is not considered: an async wrapper may wrap a function that is not async, and
    vice versa.
    """
    call = getattr(type(function), "__call__", None)  # noqa: B004 - of callable objects
    return any(
        inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one)
        for one in (function, call)
    )


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
    """Returns whether the function is a wrapper without functools.wraps, or a bound descriptor.

    Its name and module then differ from those of its definition.
    """
    if found.attribute is None:
        return False
    if isinstance(found.function, functools.partial):
        return True
    qualified = str(getattr(found.function, "__qualname__", ""))
    return qualified.rpartition(".")[0].endswith("<locals>")


def _arity(function: Callable[..., Any]) -> tuple[int, int | None]:
    """Returns the minimum and maximum number of positional arguments. None means no maximum."""
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


def _are_distinguishable(one: Exported, other: Exported) -> bool:
    return (one.most is not None and one.most < other.least) or (
        other.most is not None and other.most < one.least
    )
