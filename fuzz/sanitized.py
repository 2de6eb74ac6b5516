"""Takes the compiled core from the file that FUZZ_CORE names instead of the installed one.

To be imported before quicdist; a plugin for pytest, too.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location

CORE = "quicdist.etf._compiled"


class Sanitized:
    """Finds the core that was built for finding faults before the installed one."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        file = os.environ.get("FUZZ_CORE")
        if name != CORE or not file:
            return None
        return spec_from_file_location(name, file, loader=ExtensionFileLoader(name, file))


sys.meta_path.insert(0, Sanitized())
