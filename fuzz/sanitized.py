"""Loads compiled modules from the files named by FUZZ_CORE and FUZZ_PACKETS instead.

Import this module before quicdist. It is also a pytest plugin.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location

FILES = {"quicdist.etf._compiled": "FUZZ_CORE", "quicdist.carriers.quic._packets": "FUZZ_PACKETS"}
"""The variable with the file of each module."""


class Sanitized:
    """Finds the instrumented modules before the installed ones."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        file = os.environ.get(FILES.get(name, ""))
        if not file:
            return None
        return spec_from_file_location(name, file, loader=ExtensionFileLoader(name, file))


sys.meta_path.insert(0, Sanitized())
