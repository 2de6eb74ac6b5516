"""Output for programs: one JSON object on one line of standard output.

The keys of a command's objects are stable: keys are added, none is renamed or removed. The shapes
are documented in docs/command-json.md.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias, Union

if TYPE_CHECKING:
    from quicdist.etf import Term

Value: TypeAlias = Union[bool, int, float, str, "list[Value]", "dict[str, Value]", None]
"""The types of JSON values."""

_DEEPEST = 100
"""Maximum nesting depth of a term in JSON. Deeper terms are text in Erlang notation."""


def print_object(fields: dict[str, Value]) -> None:
    """Prints one JSON object. Other characters than ASCII are escaped."""
    print(json.dumps(fields, allow_nan=False), flush=True)


def json_value(term: Term, node: str | None = None, depth: int = 0) -> Value:
    """The JSON value for a term. It is lossy; Erlang notation is not.

    Atoms and UTF-8 binaries are strings, `undefined` and `nil` are null, tuples are arrays, a map
    is an object in which keys other than atoms and UTF-8 binaries are in Erlang notation. All other
    terms (pids, references, other binaries, floats without a JSON form) are strings in Erlang
    notation.
    """
    from quicdist.etf import Atom
    from quicdist.etf.notation import format_term

    if depth < _DEEPEST:
        match term:
            case bool() | int():
                return term
            case Atom():
                return None if term in ("undefined", "nil") else str(term)
            case str():
                return term
            case float() if term - term == 0:
                return term
            case list() | tuple() if type(term) in (list, tuple):
                return [json_value(one, node, depth + 1) for one in term]
            case dict():
                return {
                    _key(key, node): json_value(value, node, depth + 1)
                    for key, value in term.items()
                }
    if isinstance(term, bytes):
        try:
            return term.decode()
        except UnicodeDecodeError:
            pass
    return format_term(term, node=node)


def _key(term: Term, node: str | None) -> str:
    from quicdist.etf.notation import format_term

    if isinstance(term, str):  # an atom
        return str(term)
    if isinstance(term, bytes):
        try:
            return term.decode()
        except UnicodeDecodeError:
            pass
    return format_term(term, node=node)
