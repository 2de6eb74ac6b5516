"""Loads the compiled core from the file named by FUZZ_CORE instead of the installed one.

Import this module before quicdist. It is also a pytest plugin.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location

CORE = "quicdist.etf._compiled"


class Sanitized:
    """Finds the instrumented core before the installed one."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        file = os.environ.get("FUZZ_CORE")
        if name != CORE or not file:
            return None
        return spec_from_file_location(name, file, loader=ExtensionFileLoader(name, file))


sys.meta_path.insert(0, Sanitized())
