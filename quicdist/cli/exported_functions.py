"""The exported functions of a Python node, from its answer to `quicdist:exports()`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.json_output import Value
from quicdist.cli.sanitize import sanitized, sanitized_term
from quicdist.errors import CallError
from quicdist.etf import Atom
from quicdist.etf.notation import format_atom
from quicdist.typed import TermError, from_term

if TYPE_CHECKING:
    from quicdist.node.node import Node


@dataclass(frozen=True, slots=True)
class _ExportedFunction:
    """A map in the answer of `quicdist:exports()`."""

    module: Atom
    function: Atom
    least: int
    most: int | Literal["infinity"]
    doc: str


@dataclass(frozen=True, slots=True)
class Function:
    """An exported function of a node."""

    module: Atom
    name: Atom
    least: int
    """The minimum number of arguments."""

    most: int | None
    """The maximum number of arguments; None if there is none."""

    doc: str

    @property
    def arity(self) -> str:
        """`2`, `1..2`, or `1..` for any number from 1."""
        if self.most is None:
            return f"{self.least}.."
        return str(self.least) if self.most == self.least else f"{self.least}..{self.most}"

    @property
    def shown(self) -> str:
        """`calc:add/2`."""
        return sanitized_term(f"{format_atom(self.module)}:{format_atom(self.name)}/{self.arity}")

    @property
    def summary(self) -> str:
        """The first line of the docstring, without control characters."""
        return sanitized(self.doc)

    def as_json(self) -> dict[str, Value]:
        """Returns the fields for JSON output."""
        return {
            "module": str(self.module),
            "function": str(self.name),
            "min_arity": self.least,
            "max_arity": self.most,
            "doc": self.doc,
        }


async def functions_of(ours: Node, node: str, timeout: float) -> list[Function]:
    """Returns the exports of a connected node. Raises Problem, and as Node.call."""
    try:
        answer = await ours.call(node, "quicdist", "exports", [], timeout=timeout)
        told = from_term(answer, list[_ExportedFunction])
    except CallError as error:
        if not is_undefined(error):
            raise
        text = f"{node} is not a Python node, or does not permit quicdist:exports to this node"
        raise Problem(ExitCode.NO, text) from None
    except TermError as error:
        text = f"{node} answered quicdist:exports with an unexpected term: {error}"
        raise Problem(ExitCode.NO, text) from None
    return [Function(one.module, one.function, one.least, _most(one.most), one.doc) for one in told]


def is_undefined(error: CallError) -> bool:
    """Whether the call failed because there is no such function."""
    match error.reason:
        case "undef" | ("exception", "undef", *_):
            return True
    return False


def _most(told: int | Literal["infinity"]) -> int | None:
    return told if isinstance(told, int) else None
