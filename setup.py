"""The compiled core of the term codec, left out where it cannot be built; all else is in
pyproject.toml."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = Path("quicdist", "etf", "_core")


class BuildIfPossible(build_ext):
    """Builds the extension, or says in one line that quicdist does without."""

    def run(self) -> None:
        if os.environ.get("QUICDIST_PURE_PYTHON"):
            self._left_out("QUICDIST_PURE_PYTHON is set")
            return
        try:
            super().run()
        except Exception as error:  # whatever a strange compiler does, installing goes on
            self._left_out(error)

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            self._left_out(error)

    def copy_extensions_to_source(self) -> None:
        built = [ext for ext in self.extensions if Path(self.get_ext_fullpath(ext.name)).exists()]
        self.extensions, all_extensions = built, self.extensions
        super().copy_extensions_to_source()
        self.extensions = all_extensions

    def _left_out(self, why: object) -> None:
        reason = " ".join(str(why).split())
        print(
            f"quicdist: the compiled core is left out, pure Python does its work: {reason}",
            file=sys.stderr,
        )


setup(
    ext_modules=[
        Extension(
            "quicdist.etf._compiled",
            sources=[str(path) for path in sorted(CORE.glob("*.c"))],
            depends=[str(CORE / "core.h")],
            extra_compile_args=[] if os.name == "nt" else ["-O3", "-g0", "-fvisibility=hidden"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildIfPossible},
)
