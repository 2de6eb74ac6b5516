"""Libraries that only some programs need: imported when first used, and asked for by name."""

from __future__ import annotations

import importlib
from typing import Any

from quicdist.etf.errors import QuicdistError


class MissingExtra(QuicdistError, ImportError):
    """An optional library is not installed; the text says how to install it."""

    def __init__(self, what: str, library: str, extra: str) -> None:
        super().__init__(
            f"{what} needs {library}, which is not installed: pip install 'quicdist[{extra}]'",
            name=library,
        )
        self._library = library

    def __setstate__(self, state: dict[str, object] | None) -> None:
        super().__setstate__(state)
        self.name = self._library  # which is not in __dict__


def optional(module: str, *, what: str, library: str, extra: str) -> Any:
    """The module of an optional library that `what` needs. Raises MissingExtra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and not module.startswith(error.name):
            raise  # it is there, and lacks something itself
        raise MissingExtra(what, library, extra) from error
