"""A pytest plugin for the workers of pytest-xdist."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest


def encodable(value: Any) -> Any:
    """Escapes each character of a report that UTF-8 cannot encode.

    Captured output may contain lone surrogates, on which execnet stops the worker.
    """
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
