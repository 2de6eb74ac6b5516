"""A pytest plugin for runs with pytest-xdist: what its workers need beyond what it does."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest


def encodable(value: Any) -> Any:
    """The same report with an escape for each character that UTF-8 cannot encode: captured output
    may have lone surrogates, at which execnet ends the worker."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {encodable(key): encodable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(encodable, value))
    return value


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    return encodable((yield))
