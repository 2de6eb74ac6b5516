"""`quicdist run --reload`: start again when a source file has changed.

The files are polled: their modification times are compared once in a while, which works on every
file system and needs no library. The process then replaces itself (execv) and keeps its pid, so
that a supervisor sees no end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path

_log = logging.getLogger("quicdist.cli")

_INTERVAL = 0.5
"""Seconds between two checks of the files."""

_PACKAGE = Path(__file__).parent.parent


def loaded_sources() -> set[Path]:
    """Returns the source files of all imported modules of the application.

    The standard library, installed packages and quicdist are omitted.
    """
    paths = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return _watched(map(Path, filter(None, paths)))


def failed_sources(error: BaseException | None) -> set[Path]:
    """The source files in the traceback of an import error."""
    found: set[Path] = set()
    while error is not None:
        if isinstance(error, SyntaxError) and error.filename:
            found.add(Path(error.filename))
        frames = traceback.extract_tb(error.__traceback__)
        found.update(Path(frame.filename) for frame in frames)
        error = error.__cause__ or error.__context__
    return _watched(found)


def _watched(paths: Iterable[Path]) -> set[Path]:
    names = ("stdlib", "purelib", "platlib")
    ignored = [_PACKAGE, *(Path(sysconfig.get_path(name)) for name in names)]
    return {
        path.absolute()
        for path in paths
        if path.suffix == ".py" and not any(path.absolute().is_relative_to(one) for one in ignored)
    }


def times(paths: Iterable[Path]) -> dict[Path, int]:
    """Returns the modification times in nanoseconds.

    A file that an editor replaces at this moment has the time 0.
    """
    found = {}
    for path in paths:
        try:
            found[path] = os.stat(path).st_mtime_ns
        except OSError:
            found[path] = 0
    return found


async def changed(before: Mapping[Path, int], interval: float = _INTERVAL) -> Path:
    """Waits until one of the files exists with another modification time, and returns it.

    `before` has the times of the files when they were read.
    """
    while True:
        await asyncio.sleep(interval)
        for path, time in times(before).items():
            if time and time != before[path]:
                return path


def restart(path: Path) -> None:
    """Replaces this process by one with the same command line. Does not return."""
    _log.info("%s has changed: restarting", path, extra={"event": "reload", "path": str(path)})
    logging.shutdown()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
