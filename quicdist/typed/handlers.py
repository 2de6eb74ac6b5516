"""What code that handles messages uses: `Shape` for what a message may be, `typed` for functions.

An editor that knows what `Shape[A | B]` reads can check that a handler looks at A and at B.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

from quicdist.etf import Term
from quicdist.kernel.exports import TYPED
from quicdist.typed.conversion import Conversion
from quicdist.typed.errors import TermError, UnsupportedType
from quicdist.typed.resolve import DEFAULT, Terms, read, write

T = TypeVar("T")


class Shape(Generic[T]):
    """A type to read and write again and again; any type, unions too, with its name for editors.

        MESSAGE = Shape[Deposit | Withdraw]()
        ...
        match MESSAGE.read(await me.receive(MESSAGE.matches)):
            case Deposit(amount): ...
            case Withdraw(amount): ...

    The type is looked at on first use, which may raise UnsupportedType.
    """

    def __init__(self, terms: Terms = DEFAULT) -> None:
        self._terms = terms

    @functools.cached_property
    def _conversion(self) -> Conversion:
        made = getattr(self, "__orig_class__", None)  # set by typing, after __init__
        if made is None:
            raise UnsupportedType("a Shape of what? As in Shape[int | None]()")
        return self._terms.conversion(typing.get_args(made)[0])

    def read(self, term: Term) -> T:
        """The value of a term. Raises TermError."""
        value: T = read(self._conversion, term)
        return value

    def write(self, value: T) -> Term:
        """The term of a value. Raises TermError."""
        return write(self._conversion, value)

    def matches(self, term: Term) -> bool:
        """Whether `read` would read it."""
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
    """Lets other nodes call a function, plain or async, with terms, as it is annotated.

        @export
        @typed
        def total(order: Order, currency: AtomText) -> Decimal: ...

    For Python it stays as it is: called from Python it takes an Order and returns a Decimal;
    `with_terms(total)` is what other nodes call. Other decorators may stand above it, if they use
    `functools.wraps`. What has no annotation is left as it is. A caller whose arguments do not fit
    gets a TermError that names the argument and the place in it, as
    `total(order).items[3].price`. Annotations are looked at on the first call.

    Raises UnsupportedType for what takes no attributes, as a function written in C.
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
    """A typed function as other nodes call it: it takes terms and returns one, or raises TermError.
    Raises UnsupportedType for a function that is not `typed`."""
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
    """What `typed` writes on a function."""

    def __init__(self, function: Callable[..., Any], terms: Terms) -> None:
        self._function = function
        self._terms = terms

    def conversions(self, function: Callable[..., Any]) -> _Signature:
        """Those of the function, or of what it was bound to or wrapped in."""
        return _Signature(self._function, function, self._terms)


class _Signature:
    """The conversions of a function's arguments and of what it returns."""

    def __init__(
        self, function: Callable[..., Any], called: Callable[..., Any], terms: Terms
    ) -> None:
        """`function` has the annotations, `called` the parameters: it is bound to the first, or
        wraps it, or is the same."""
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
        """Name, whether it takes all the rest, conversion; of what can be given by position."""
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

    def arguments(self, args: Sequence[Term]) -> list[Any]:
        """The values of terms. Raises TermError."""
        values = []
        for place, term in enumerate(args):
            # A term too many is the function's own TypeError.
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
