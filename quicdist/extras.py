"""Optional libraries, imported on first use."""

from __future__ import annotations

import importlib
from typing import Any

from quicdist.etf.errors import QuicdistError


class MissingExtra(QuicdistError, ImportError):
    """An optional library is not installed. The error text contains the command to install it."""

    def __init__(self, what: str, library: str, extra: str) -> None:
        super().__init__(
            f"{what} needs {library}, which is not installed: pip install 'quicdist[{extra}]'",
            name=library,
        )
        self._library = library

    def __setstate__(self, state: dict[str, object] | None) -> None:
        super().__setstate__(state)
        self.name = self._library  # ImportError keeps its name outside of __dict__


def optional(module: str, *, what: str, library: str, extra: str) -> Any:
    """Imports and returns a module of an optional library that `what` needs.

    Raises MissingExtra if the library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and not module.startswith(error.name):
            raise  # the library is installed, but one of its own dependencies is missing
        raise MissingExtra(what, library, extra) from error
