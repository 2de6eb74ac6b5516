"""Builds the compiled cores of the term codec, of UDP sockets and of relays where possible.

The metadata is in pyproject.toml.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = Path("quicdist", "etf", "_core")

CARRIERS = Path("quicdist", "carriers")

DATAGRAMS = [
    Extension(
        f"quicdist.carriers.{package}._{name}",
        sources=[str(CARRIERS / package / "_fast" / f"{name}.c")],
        extra_compile_args=["-O2", "-g0", "-fvisibility=hidden"],
        optional=True,
    )
    for package, name in (("quic", "reader"), ("quic", "packets"), ("relay", "forward"))
    if sys.platform.startswith("linux")
]
"""UDP GSO and GRO exist on Linux only, and recvmmsg not everywhere."""


class BuildIfPossible(build_ext):
    """Builds the extension, or reports in one line that quicdist is installed without it."""

    def run(self) -> None:
        if os.environ.get("QUICDIST_PURE_PYTHON"):
            self._left_out("QUICDIST_PURE_PYTHON is set")
            return
        try:
            super().run()
        except Exception as error:  # no compiler failure may stop the installation
            self._left_out(error)

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            self._left_out(error)

    def copy_file(  # type: ignore[override]  # implements one of the overloads
        self, infile: str, outfile: str, *args: Any, **kwargs: Any
    ) -> Any:
        # In an editable install a running process may have the old file mapped.
        if os.path.isfile(outfile):
            os.unlink(outfile)
        return super().copy_file(infile, outfile, *args, **kwargs)

    def _left_out(self, why: object) -> None:
        reason = " ".join(str(why).split())
        print(
            f"quicdist: compiled core not built, using the pure Python codec: {reason:.120}",
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
        ),
        *DATAGRAMS,
    ],
    cmdclass={"build_ext": BuildIfPossible},
)
