"""`Shape` for the types of messages, and `typed` for exported functions.

A type checker infers the result of `Shape[A | B]` and can check that a handler covers A and B.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from typing import Any, Generic, TypeVar, overload

from quicdist.etf import Term
from quicdist.kernel.exports import TYPED
from quicdist.typed.conversion import Conversion
from quicdist.typed.errors import TermError, UnsupportedType
from quicdist.typed.resolve import DEFAULT, Terms, read, write

T = TypeVar("T")

_ITERABLES = (AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, list)
"""The types of results whose first argument is the type of the items of a stream."""


class Shape(Generic[T]):
    """A reusable converter for any type, including unions, with static typing.

        MESSAGE = Shape[Deposit | Withdraw]()
        ...
        match MESSAGE.read(await me.receive(MESSAGE.matches)):
            case Deposit(amount): ...
            case Withdraw(amount): ...

    The type is resolved on first use, which raises UnsupportedType if it has no Erlang form.
    """

    def __init__(self, terms: Terms = DEFAULT) -> None:
        self._terms = terms

    @functools.cached_property
    def _conversion(self) -> Conversion:
        made = getattr(self, "__orig_class__", None)  # typing sets it after __init__
        if made is None:
            raise UnsupportedType("Shape requires a type, as in Shape[int | None]()")
        return self._terms.conversion(typing.get_args(made)[0])

    def read(self, term: Term) -> T:
        """The value of a term. Raises TermError."""
        value: T = read(self._conversion, term)
        return value

    def write(self, value: T) -> Term:
        """The term of a value. Raises TermError."""
        return write(self._conversion, value)

    def matches(self, term: Term) -> bool:
        """Whether `read` accepts the term."""
        try:
            read(self._conversion, term)
        except TermError:
            return False
        return True


_Function = TypeVar("_Function", bound=Callable[..., Any])


@overload
def typed(function: _Function, /) -> _Function: ...


@overload
def typed(*, terms: Terms = ...) -> Callable[[_Function], _Function]: ...


def typed(
    function: _Function | None = None, /, *, terms: Terms = DEFAULT
) -> _Function | Callable[[_Function], _Function]:
    """Makes other nodes call a synchronous or async function with terms converted by annotations.

        @export
        @typed
        def total(order: Order, currency: AtomText) -> Decimal: ...

    The function is unchanged for Python callers: it takes an Order and returns a Decimal. Other
    nodes call `with_terms(total)`. Decorators above it must use `functools.wraps`. Parameters
    without an annotation are not converted. If arguments do not fit, the caller receives a
    TermError with the argument and the path in it, such as `total(order).items[3].price`.
    Annotations are resolved on the first call.

    Raises UnsupportedType if the function has no attributes, like a function written in C.
    """

    def mark(marked: _Function) -> _Function:
        inner = getattr(marked, "__func__", marked)
        try:
            setattr(inner, TYPED, _Typed(inner, terms))
        except AttributeError:
            raise UnsupportedType(
                f"{marked!r} cannot be typed: define a function that calls it"
            ) from None
        return marked

    return mark if function is None else mark(function)


def with_terms(function: Callable[..., Any]) -> Callable[..., Any]:
    """The form of a typed function that other nodes call: it takes terms and returns a term.

    Raises UnsupportedType for a function that is not `typed`.
    """
    made = getattr(function, TYPED, None)
    if not isinstance(made, _Typed):
        raise UnsupportedType(f"{function!r} is not typed: put @typed above its definition")
    signature = made.conversions(function)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_async(*args: Term) -> Term:
            return signature.result(await function(*signature.arguments(args)))

        return run_async

    @functools.wraps(function)
    def run(*args: Term) -> Term:
        return signature.result(function(*signature.arguments(args)))

    return run


class _Typed:
    """The attribute that `typed` adds to a function."""

    def __init__(self, function: Callable[..., Any], terms: Terms) -> None:
        self._function = function
        self._terms = terms

    def conversions(self, function: Callable[..., Any]) -> _Signature:
        """The conversions of the function, or of the function that is bound to it or wraps it."""
        return _Signature(self._function, function, self._terms)


class _Signature:
    """The conversions of the parameters and the result of a function."""

    def __init__(
        self, function: Callable[..., Any], called: Callable[..., Any], terms: Terms
    ) -> None:
        """`function` has the annotations.

        `called` has the parameters: it is `function` itself, a bound method of it, or a wrapper.
        """
        self._function = function
        self._called = called
        self._terms = terms

    @functools.cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return typing.get_type_hints(self._function, include_extras=True)
        except NameError as error:
            raise UnsupportedType(
                f"{self._function.__qualname__} has an annotation that cannot be read: {error}"
            ) from None

    @functools.cached_property
    def _parameters(self) -> list[tuple[str, bool, Conversion | None]]:
        """Name, whether it is variadic, and conversion of each positional parameter."""
        positional = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        )
        return [
            (
                name,
                one.kind is inspect.Parameter.VAR_POSITIONAL,
                self._terms.conversion(self._hints[name]) if name in self._hints else None,
            )
            for name, one in inspect.signature(self._called).parameters.items()
            if one.kind in positional
        ]

    @functools.cached_property
    def _returns(self) -> Conversion:
        return self._terms.conversion(self._hints.get("return", Any))

    @functools.cached_property
    def _items(self) -> Conversion:
        """The conversion of the items if the function is a generator."""
        returned = self._hints.get("return", Any)
        if typing.get_origin(returned) in _ITERABLES:
            return self._terms.conversion(typing.get_args(returned)[0])
        return self._terms.conversion(Any)

    def arguments(self, args: Sequence[Term]) -> list[Any]:
        """Converts terms to arguments. Raises TermError if one does not fit."""
        values = []
        for place, term in enumerate(args):
            # The function itself raises TypeError for an extra argument.
            name, takes_rest, conversion = (
                self._parameters[min(place, len(self._parameters) - 1)]
                if self._parameters
                else ("", True, None)
            )
            if conversion is None or (place >= len(self._parameters) and not takes_rest):
                values.append(term)
                continue
            try:
                values.append(read(conversion, term))
            except TermError as error:
                if takes_rest:
                    name = f"{name}[{place - len(self._parameters) + 1}]"
                error.within(f"{self._function.__name__}({name})")
                raise
        return values

    def result(self, value: Any) -> Term:
        """The term of a value. Raises TermError."""
        try:
            return write(self._returns, value)
        except TermError as error:
            error.within(f"{self._function.__name__}()")
            raise

    def item(self, value: Any) -> Term:
        """The term of an item of a stream. Raises TermError."""
        try:
            return write(self._items, value)
        except TermError as error:
            error.within(f"{self._function.__name__}()")
            raise
