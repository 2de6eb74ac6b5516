"""The modules and functions of a node that begin with the typed text."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quicdist.cli.exit_codes import Problem
from quicdist.cli.exported_functions import Function, functions_of
from quicdist.cli.sanitize import sanitized_term
from quicdist.errors import NodeError
from quicdist.etf import Atom, Term
from quicdist.etf.notation import format_atom

if TYPE_CHECKING:
    from quicdist.node.node import Node

_FRESH = 10.0
"""Seconds for which an answer is cached."""

_PATIENCE = 5.0
"""Seconds to wait for the node after Tab is pressed."""

_MODULE = re.compile(r"\s*(?P<typed>'?(?P<name>[\w.@]*))\Z")
_FUNCTION = re.compile(r"\s*(?P<module>'[^']+'|[a-z][\w@]*):(?P<typed>'?(?P<name>[\w.@?!]*))\Z")


@dataclass(frozen=True, slots=True)
class Found:
    """A completion."""

    text: str
    """What replaces the typed characters."""

    typed: int
    """The number of typed characters."""

    shown: str


class Names:
    """Asks a node for names, and caches the answers. No module is loaded on the node."""

    def __init__(self, node: Node, peer: str) -> None:
        self._node = node
        self._peer = peer
        self._python: tuple[float, list[Function]] = (-_FRESH, [])
        self._known: dict[tuple[str, ...], tuple[float, list[Term]]] = {}

    async def matching(self, typed: str) -> list[Found]:
        """Returns completions for the line up to the cursor, or none if the node is silent."""
        function = _FUNCTION.match(typed)
        if function:
            module_name = function["module"].strip("'")
            exports = await self._ask("get_module_info", module_name, "exports")
            exports = exports or await self._python_exports(module_name)
            return _functions(exports, function["name"], len(function["typed"]))
        module = _MODULE.match(typed)
        if module:
            loaded = await self._ask("loaded") or await self._python_modules()
            return _modules(loaded, module["name"], len(module["typed"]))
        return []

    async def _python_modules(self) -> list[Term]:
        return [Atom(one) for one in {found.module for found in await self._functions()}]

    async def _python_exports(self, module: str) -> list[Term]:
        """Pairs of name and arity, as in the exports of an Erlang module."""
        return [
            (one.name, arity)
            for one in await self._functions()
            if one.module == module
            for arity in range(one.least, (one.least if one.most is None else one.most) + 1)
        ]

    async def _functions(self) -> list[Function]:
        """The exports of a Python node; none of another node."""
        asked, functions = self._python
        if time.monotonic() - asked >= _FRESH:
            try:
                functions = await functions_of(self._node, self._peer, _PATIENCE)
            except (NodeError, Problem):
                functions = []
            self._python = time.monotonic(), functions
        return functions

    async def _ask(self, *question: str) -> list[Term]:
        asked, answer = self._known.get(question, (-_FRESH, []))
        if time.monotonic() - asked < _FRESH:
            return answer
        function, *args = question
        try:
            value = await self._node.call(
                self._peer, "erlang", function, [Atom(one) for one in args], timeout=_PATIENCE
            )
        except (NodeError, ValueError):  # no such module, or not an atom
            value = []
        found = value if isinstance(value, list) else []
        self._known[question] = time.monotonic(), found
        return found


def _modules(loaded: Iterable[Term], name: str, typed: int) -> list[Found]:
    names = sorted({one for one in loaded if isinstance(one, Atom)})
    # An Elixir module is typed without the prefix `Elixir.`.
    starts = (name, f"Elixir.{name}") if name[:1].isupper() else (name,)
    return [Found(f"{_text(one)}:", typed, _text(one)) for one in names if one.startswith(starts)]


def _functions(exports: Iterable[Term], name: str, typed: int) -> list[Found]:
    arities: dict[Atom, list[int]] = {}
    for export in exports:
        match export:
            case (Atom() as function, int() as arity) if function.startswith(name):
                arities.setdefault(function, []).append(arity)
    return [
        Found(
            f"{_text(function)}({')' if arities[function] == [0] else ''}",
            typed,
            f"{_text(function)}/{','.join(map(str, sorted(arities[function])))}",
        )
        for function in sorted(arities)
    ]


def _text(atom: Atom) -> str:
    return sanitized_term(format_atom(atom))
