"""docs/limits.md names every bound, with the default and the unit that the code has."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import quicdist
from quicdist.etf.settings import UNBOUNDED

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
OPTIONAL = ("prometheus", "opentelemetry", "native", "shell")
NOT_OF_A_NODE = ("quicdist.cli", "quicdist.doctor")
"""Their `Settings` are the options of a command."""
LAST = re.compile(r"^### `(\w+)`$|^### Fixed bounds$", re.MULTILINE)


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(quicdist.__path__, "quicdist."):
        skipped = found.name.startswith(NOT_OF_A_NODE) or found.name.endswith("__main__")
        if not skipped and not found.name.endswith(OPTIONAL):
            yield importlib.import_module(found.name)


def classes() -> dict[str, Any]:
    """Every dataclass of limits or settings, and those named otherwise."""
    return {
        name: value
        for module in modules()
        for name, value in vars(module).items()
        if dataclasses.is_dataclass(value)
        and value.__module__ == module.__name__
        and (name.endswith(("Bounds", "Limits", "Settings")) or name == "Retry")
        and name != "ListenerSettings"  # made by the node for its carriers
    }


def tables() -> dict[str, dict[str, tuple[str, str, str]]]:
    """Returns the names of each class on the page, with default, unit and cost."""
    text = PAGE.read_text(encoding="utf-8")
    parts = re.split(r"^##+ ", text, flags=re.MULTILINE)
    found = {}
    for part in parts:
        title, _, body = part.partition("\n")
        rows = {}
        for line in body.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) == 4 and cells[0].startswith("`"):
                rows[cells[0].strip("`")] = (cells[1], cells[2], cells[3])
        if rows:
            found[title.strip("`")] = rows
    return found


def shown(value: object, unit: str) -> str:
    if isinstance(value, enum.Enum):
        return f"`{type(value).__name__}.{value.name}`"
    if isinstance(value, bool):
        return f"`{value}`"
    if value is None or value == UNBOUNDED:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, int):
        return ""
    for size, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if unit == "bytes" and value and value % size == 0:
            return f"{value // size} {name}"
    return f"{value:,}"


@pytest.mark.parametrize("name", sorted(classes()))
def test_every_field_of_limits_and_settings_is_named_with_its_default(name: str) -> None:
    rows = tables()[name]
    fields = {field.name: field for field in dataclasses.fields(classes()[name])}
    assert set(rows) == set(fields)
    for field, (default, unit, cost) in rows.items():
        value = fields[field].default
        expected = "" if value is dataclasses.MISSING else shown(value, unit)
        assert (field, default) == (field, expected)
        assert cost


def test_fixed_bounds_are_those_of_the_code() -> None:
    rows = tables()["Fixed bounds"]
    assert len(rows) > 15
    for place, (value, _, cost) in rows.items():
        module, _, name = place.rpartition(".")
        assert (place, f"{getattr(importlib.import_module(module), name):,}") == (place, value)
        assert cost
