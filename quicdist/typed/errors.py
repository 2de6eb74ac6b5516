"""The exceptions of conversions between terms and typed values."""

from __future__ import annotations

from collections.abc import Mapping

from quicdist.etf import Atom, NativeRecord
from quicdist.etf.errors import QuicdistError

_SHOWN = 40
"""Maximum number of characters of a value in an error text. Peers send values of any size."""
_SHOWN_STEPS = 20


class UnsupportedType(QuicdistError, TypeError):
    """A type has no Erlang form. This is an error in the program, whatever the term is."""


class TermError(QuicdistError, ValueError):
    """A term or a value does not fit the type.

    `reason` is one line of text with the expected and the actual value, without the path.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self._steps: list[str] = []

    @classmethod
    def expected(cls, expected: str, got: object) -> TermError:
        """The error for a value that is not `expected`."""
        return cls(f"expected {expected}, got {describe(got)}")

    @property
    def path(self) -> str:
        """The path to the invalid part, such as `orders[3].price`. An empty path is the whole."""
        steps = self._steps[::-1]
        if len(steps) > _SHOWN_STEPS:
            steps[_SHOWN_STEPS // 2 : -_SHOWN_STEPS // 2] = ["..."]
        return "".join(steps).removeprefix(".")

    @property
    def depth(self) -> int:
        """The number of steps in the path."""
        return len(self._steps)

    def within(self, step: str) -> TermError:
        """Adds a step at the start of the path and returns the error."""
        self._steps.append(step)
        return self

    def __str__(self) -> str:
        path = self.path
        return f"{path}: {self.reason}" if path else self.reason


def describe(value: object) -> str:
    """A short description of a term or Python value of any size."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Atom):
        return f"the atom {_clip(str.__repr__(value))}"
    if isinstance(value, (int, float)):
        if isinstance(value, int) and value.bit_length() > 128:
            return f"an integer of {value.bit_length()} bits"
        return f"the {'integer' if isinstance(value, int) else 'float'} {value!r}"
    if isinstance(value, (bytes, memoryview)):
        return f"the binary {_clip(repr(bytes(value[: _SHOWN + 1])))}"
    if isinstance(value, str):
        return f"the text {_clip(repr(value[: _SHOWN + 1]))}"
    if isinstance(value, tuple):
        tag = describe_tag(value)
        return f"a tuple of {len(value)}{f' tagged {tag}' if tag else ''}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        struct = value.get("__struct__")
        return f"a %{alias(struct)}{{}}" if isinstance(struct, Atom) else f"a map of {len(value)}"
    if isinstance(value, NativeRecord):
        return f"a #{_clip(value.module)}:{_clip(value.name)}{{}}"
    return "None" if value is None else f"a {type(value).__qualname__}"


def describe_tag(term: tuple[object, ...]) -> str:
    """The atom that a tuple begins with, or an empty string."""
    return _clip(term[0]) if term and isinstance(term[0], Atom) else ""


def alias(module: str) -> str:
    """The name of a module in Elixir notation."""
    return _clip(module.removeprefix("Elixir."))


def _clip(text: str) -> str:
    return text if len(text) <= _SHOWN + 2 else f"{text[:_SHOWN]}..."
