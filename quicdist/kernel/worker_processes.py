"""The worker processes that run exported functions with `Run.PROCESS`."""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from quicdist.errors import ErlangExit, ExportError
from quicdist.etf import Atom

_WORKER_DOWN = Atom("worker_down")


class WorkerProcesses:
    """A pool of processes. It starts with the first call, and again after a worker has died."""

    def __init__(self, count: int | None) -> None:
        """`count` is the maximum number of processes; None means one for each processor."""
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    async def run(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        """Calls a function in a worker and returns its result.

        Raises what the function raises, and ErlangExit `worker_down` if the worker dies. The calls
        of the other workers then fail as well.
        """
        pool = self._started()
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
        except BrokenProcessPool as error:
            if self._pool is pool:
                self.close()
            raise ErlangExit(_WORKER_DOWN) from error

    def close(self) -> None:
        """Shuts the pool down. Workers end when their function returns."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # A forked worker would share the sockets and locks of the node.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, mp_context=context)
        return self._pool


def check_importable(function: Callable[..., Any]) -> None:
    """Raises ExportError if a function cannot run in a worker process."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ExportError(f"{function!r} is async: run=Run.PROCESS is for functions that compute")
    if inspect.isgeneratorfunction(function):
        raise ExportError(f"{function!r} is a generator: Run.PROCESS does not support streams")
    try:
        pickle.dumps(function)
    except Exception as error:
        raise ExportError(f"{function!r} cannot run in another process: {error}") from error
