"""Imports point down: no package of quicdist imports from a higher layer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "quicdist"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("doctor", "metrics"),
    ("gateway", "blocking"),
    ("arrays", "otp", "typed"),
    ("node",),
    ("kernel",),
    ("cluster",),
    ("runtime",),
    ("carriers",),
    ("protocol",),
    ("limits",),
    ("setting_types",),
    ("arrow_sizes", "errors", "extras"),
    ("etf", "log_escaping", "stopping"),
)
"""Layers from top to bottom. Packages of one layer do not import each other."""

HEIGHT = {name: -number for number, floor in enumerate(FLOORS) for name in floor}

ENTRANCES = {"__init__", "__main__"}
"""Public names of the whole package, and the command."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the line and full name of each quicdist import, at any nesting level."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            names = [alias.name for alias in node.names] if module == "quicdist" else [""]
            yield from ((node.lineno, f"{module}.{name}".rstrip(".")) for name in names)


def floor_of(module: str) -> str:
    """The package or module directly below `quicdist`."""
    return module.split(".")[1]


def test_each_package_has_one_floor() -> None:
    found = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    found -= {"__pycache__", "py"} | ENTRANCES
    assert found == set(HEIGHT)
    assert len(HEIGHT) == sum(map(len, FLOORS))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own in ENTRANCES:
        return
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for line, module in imports_of(path)
        if module.startswith("quicdist.")
        and floor_of(module) != own
        and HEIGHT[floor_of(module)] >= HEIGHT[own]
    ]
    assert upward == []


IMPURE = {"asyncio", "select", "socket", "ssl", "time"}


@pytest.mark.parametrize("package", ["etf", "protocol"])
def test_the_core_has_no_clock_no_socket_and_no_coroutine(package: str) -> None:
    for path in sorted((PACKAGE / package).rglob("*.py")):
        used = {module.partition(".")[0] for _, module in imports_of(path)} & IMPURE
        assert used == set(), path
        tree = ast.walk(ast.parse(path.read_text("utf-8")))
        assert not any(isinstance(node, ast.AsyncFunctionDef) for node in tree), path


TAKE_NOW = [
    *(f"carriers/{name}.py" for name in ("half_open", "token_bucket")),
    *(f"carriers/quic/{name}.py" for name in ("admission", "closed_port", "closing", "gaps")),
    *(f"carriers/quic/{name}.py" for name in ("keep_alive", "receive_window", "send_window")),
    "carriers/quic/strays.py",
    *(f"cluster/{name}.py" for name in ("handshake_deadlines", "liveness")),
    "runtime/rate_limit.py",
]
"""Modules whose objects take the time and return what to do, besides congestion control."""


def test_what_takes_the_time_has_no_clock_and_no_timer() -> None:
    congestion = sorted((PACKAGE / "carriers/quic/congestion").rglob("*.py"))
    for path in [*(PACKAGE / name for name in TAKE_NOW), *congestion]:
        used = {module.partition(".")[0] for _, module in imports_of(path)} & IMPURE
        assert used == set(), path


@pytest.mark.parametrize("shell", ["carriers/quic/connection.py", "cluster/peer.py"])
def test_a_connection_has_one_timer(shell: str) -> None:
    """All its deadlines are decided elsewhere and share an `Alarm`."""
    tree = list(ast.walk(ast.parse((PACKAGE / shell).read_text("utf-8"))))
    names = [node.attr for node in tree if isinstance(node, ast.Attribute)]
    assert not {"call_later", "call_at"} & set(names)
    assert [node.id for node in tree if isinstance(node, ast.Name)].count("Alarm") == 1
