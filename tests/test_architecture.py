"""Imports point down: a module imports its own floor and lower ones only (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import quicdist

ROOT = Path(quicdist.__file__).parent

FLOORS = (
    ("etf",),
    ("errors", "limits", "extras", "log_escaping", "stopping"),
    ("protocol",),
    ("carriers",),
    ("runtime",),
    ("cluster",),
    ("kernel",),
    ("node",),
    ("otp", "typed"),
    ("blocking", "metrics", "doctor", "gateway"),
    ("cli",),
)
"""The lowest first. `quicdist` itself, which only collects public names, is on none."""

LEVELS = {name: level for level, floor in enumerate(FLOORS) for name in floor}

EXCEPTIONS: set[tuple[str, str]] = {
    ("quicdist.limits", "quicdist.protocol.session"),
    ("quicdist.protocol.dialects", "quicdist.carriers.base"),
    ("quicdist.protocol.dialects.erlang_dist", "quicdist.carriers.base"),
    ("quicdist.protocol.dialects.framing", "quicdist.carriers.base"),
    ("quicdist.protocol.dialects.macula_dist", "quicdist.carriers.base"),
    ("quicdist.protocol.dialects.native", "quicdist.carriers.base"),
    ("quicdist.protocol.dialects.quic_dist", "quicdist.carriers.base"),
    ("quicdist.protocol.dialects.single_stream", "quicdist.carriers.base"),
    ("quicdist.protocol.dialects.tcp", "quicdist.carriers.base"),
    ("quicdist.protocol.dialects.tls", "quicdist.carriers.base"),
}
"""(module, what it imports) that point up; each goes with its import, and none is to be added."""

SANS_IO = ("etf", "protocol")

NOT_IN_SANS_IO = {"asyncio", "select", "selectors", "socket", "ssl", "time"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("quicdist", *path.relative_to(ROOT).with_suffix("").parts)
        name = ".".join(parts).removesuffix(".__init__")
        if name not in ("quicdist", "quicdist.__main__"):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imported(tree: ast.AST) -> Iterator[str]:
    """What a module imports, in functions too, but for what only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import():
                yield from (one.name for one in node.names)
            case ast.ImportFrom(module=str() as module):
                yield module
                yield from (f"{module}.{one.name}" for one in node.names)
            case _ if not _is_for_types(node):
                yield from imported(node)


def floor(module: str) -> str:
    """`protocol` of `quicdist.protocol.wire`; empty for what is not ours."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "quicdist" else ""


def upward() -> set[tuple[str, str]]:
    found = set()
    for name, tree in modules():
        for target in imported(tree):
            other = floor(target)
            if other and LEVELS.get(other, -1) > LEVELS[floor(name)]:
                found.add((name, target))
    # `from a.b import C` names both a.b and a.b.C; the module is enough.
    return {(name, what) for name, what in found if (name, what.rpartition(".")[0]) not in found}


def test_every_module_is_on_a_floor() -> None:
    assert {floor(name) for name, _ in modules()} == set(LEVELS)


def test_imports_point_down() -> None:
    assert upward() == EXCEPTIONS


def test_an_import_inside_a_function_counts() -> None:
    tree = ast.parse("def f():\n    from quicdist.cli import top\nif TYPE_CHECKING:\n    import a")
    assert list(imported(tree)) == ["quicdist.cli", "quicdist.cli.top"]


def test_terms_and_protocol_are_sans_io() -> None:
    kinds = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    found = set()
    for name, tree in modules():
        if floor(name) in SANS_IO:
            used = {target.partition(".")[0] for target in imported(tree)} & NOT_IN_SANS_IO
            has_async = any(isinstance(node, kinds) for node in ast.walk(tree))
            found |= {(name, one) for one in used} | ({(name, "async")} if has_async else set())
    assert found == set()
