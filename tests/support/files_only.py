"""A pytest plugin that collects each test file as one test, without importing it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


class TestFile(pytest.File):
    """A file that pytest would import."""

    def collect(self) -> Iterator[pytest.Item]:
        yield Whole.from_parent(self, name="file")


class Whole(pytest.Item):
    """Stands for all tests of a file."""

    def runtest(self) -> None:
        raise AssertionError("only with --collect-only")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.File:
    file: pytest.File = TestFile.from_parent(parent, path=module_path)
    return file
