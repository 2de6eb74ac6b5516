"""Objects that `@export` supports, and decorators below it.

Each object is served or rejected at the start of the node. None is silently omitted.
"""

from __future__ import annotations

import asyncio
import functools
import math
import threading
import types
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any

import pytest

from quicdist import Atom, ExportError, Run, export
from quicdist.etf import Term
from quicdist.kernel.exports import Exports
from quicdist.typed import typed


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator without `__wrapped__`."""

    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def async_around(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(function)
    async def wrapper(*args: Any) -> Any:
        return await asyncio.to_thread(function, *args)

    return wrapper


def plain_around(function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Like asgiref's async_to_sync, which raises an error in an event loop's thread."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return asyncio.run(function(*args))  # type: ignore[arg-type]

    return wrapper


class ToAsync:
    """Like asgiref's sync_to_async: an object whose `__call__` is async."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        functools.update_wrapper(self, function)

    async def __call__(self, *args: Any) -> Any:
        return await asyncio.to_thread(self._function, *args)

    def __get__(self, instance: object, owner: type) -> Any:
        return functools.partial(self.__call__, instance)


class Plus:
    def __init__(self, one: int) -> None:
        self.one = one

    def __call__(self, two: int) -> int:
        return self.one + two


class Money:
    def __init__(self, amount: int) -> None:
        self.amount = amount


def add(one: int, two: int) -> int:
    return one + two


async def add_later(one: int, two: int) -> int:
    await asyncio.sleep(0)
    return one + two


class Calc:
    base = 10

    @export
    @staticmethod
    def above_static(one: int, two: int) -> int:
        return one + two

    @staticmethod
    @export
    def below_static(one: int, two: int) -> int:
        return one + two

    @export
    @classmethod
    def above_class(cls, two: int) -> int:
        return cls.base + two

    @classmethod
    @export
    def below_class(cls, two: int) -> int:
        return cls.base + two

    @export
    def method(self, two: int) -> int:
        return self.base + two

    @export
    async def later(self, two: int) -> int:
        return self.base + two

    bound_first = export(functools.partialmethod(method, 5))  # type: ignore[call-overload]

    @export
    @ToAsync
    def object_method(self, two: int) -> int:
        return self.base + two

    @export
    @typed
    def typed_method(self, two: str) -> str:
        return f"{self.base}{two}"

    @export
    @typed
    @classmethod
    def typed_class(cls, two: str) -> str:
        return f"{cls.base}{two}"


def module_of(**members: Any) -> types.ModuleType:
    made = types.ModuleType("shop.calc")
    vars(made).update(members)
    return made


async def call(given: object, name: str, *args: Term, module: str | None = None) -> Term:
    exports = Exports([given], 2)
    (found,) = exports.modules if module is None else [module]
    try:
        exported = exports.find(Atom(found), Atom(name), len(args))
        assert exported is not None, f"{found}:{name}/{len(args)} is undef"
        return await exports.run(exported, list(args))
    finally:
        exports.close()


FUNCTIONS: list[tuple[Any, str]] = [
    (export(wrapped(add)), "add"),
    (export(wrapped(add_later)), "add_later"),
    (export(async_around(add)), "add"),
    (export(plain_around(add_later)), "add_later"),
    (export(ToAsync(add)), "add"),
    (export(functools.partial(add)), "add"),
    (export(functools.partial(add_later)), "add_later"),
    (export(functools.lru_cache(add)), "add"),
    (export(run=Run.INLINE)(wrapped(add_later)), "add_later"),
    (export(ToAsync(add).__call__), "__call__"),
]


@pytest.mark.parametrize(("function", "name"), FUNCTIONS)
async def test_functions(function: Any, name: str) -> None:
    assert await call(function, name, 1, 2, module="test_exports") == 3


METHODS: list[tuple[str, list[Term], Term]] = [
    ("above_static", [1, 2], 3),
    ("below_static", [1, 2], 3),
    ("above_class", [2], 12),
    ("below_class", [2], 12),
    ("method", [2], 12),
    ("later", [2], 12),
    ("bound_first", [], 15),
    ("object_method", [2], 12),
    ("typed_method", [b"2"], b"102"),
    ("typed_class", [b"2"], b"102"),
]


@pytest.mark.parametrize(("name", "args", "answer"), METHODS)
async def test_methods_of_an_object(name: str, args: list[Term], answer: Term) -> None:
    got = await call(Calc(), name, *args, module="test_exports")
    assert got == (answer.decode() if isinstance(answer, bytes) else answer)


async def test_a_method_by_itself() -> None:
    assert await call(export(Calc().method), "method", 2) == 12
    assert await call(Calc.above_static, "above_static", 1, 2) == 3
    assert await call(Calc.above_class, "above_class", 2) == 12


async def test_a_callable_object_needs_a_name() -> None:
    assert await call(export(name="plus")(Plus(1)), "plus", 2) == 3
    with pytest.raises(ExportError, match="has no name"):
        Exports([export(Plus(1))], 1)
    assert await call(module_of(plus=export(Plus(1))), "plus", 2) == 3


async def test_a_decorator_that_says_nothing_hides_no_name() -> None:
    module = module_of(total=export(bare(add)))
    assert await call(module, "total", 1, 2, module="calc") == 3


async def test_a_decorator_above_a_typed_function_is_not_left_out() -> None:
    seen: list[object] = []

    def seeing(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            seen.extend(args)
            return function(*args)

        return wrapper

    @export(module="m")
    @seeing
    @typed
    def shout(text: str) -> str:
        return text.upper()

    assert shout("a") == "A"
    assert await call(shout, "shout", b"b") in ("B", b"B")
    assert seen == ["a", "b"]


async def test_where_they_run() -> None:
    @export(module="m")
    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert await call(where, "where") is False
    assert await call(export(module="m")(async_around(where)), "where") is False


def test_what_cannot_be_marked_says_so() -> None:
    unmarkable: list[Any] = [math.sqrt, [].append, property(lambda _: 1)]
    for one in unmarkable:
        with pytest.raises(ExportError, match="cannot be marked"):
            export(one)
    with pytest.raises(ExportError, match="is a class"):
        export(Money)


def test_what_is_not_marked_says_so() -> None:
    for one in (add, Plus(1), Money(1), module_of(add=add)):
        with pytest.raises(ExportError, match="marked"):
            Exports([one], 1)


def every_name(exports: Exports) -> Iterator[str]:
    for module in exports.modules:
        for name in dir(Calc):
            if any(exports.find(module, Atom(name), arity) for arity in range(4)):
                yield name


def test_nothing_that_is_marked_is_missing() -> None:
    assert set(every_name(Exports([Calc()], 1))) == {name for name, _, _ in METHODS}


@functools.cache
async def _cached(value: int) -> int:
    return value


def test_a_cached_coroutine_can_be_awaited_only_once() -> None:
    with pytest.raises(ExportError, match="caches coroutines"):
        Exports([export(module="m", name="f")(_cached)], 1)


async def test_a_coroutine_made_of_a_generator() -> None:
    @types.coroutine
    def later(value: int) -> Generator[Any, None, int]:
        yield from asyncio.sleep(0).__await__()
        return value

    assert await call(export(module="m", name="later")(later), "later", 5) == 5


def test_a_method_needs_an_instance() -> None:
    with pytest.raises(ExportError, match=r"Calc\.\w+ is a method: export an instance of Calc"):
        Exports([Calc], 1)
