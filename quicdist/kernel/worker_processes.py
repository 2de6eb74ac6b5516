"""The worker processes that run exported functions with `Run.PROCESS`."""

from __future__ import annotations

import asyncio
import inspect
import io
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from quicdist.errors import ErlangExit, ExportError
from quicdist.etf import Atom

_WORKER_DOWN = Atom("worker_down")


class WorkerProcesses:
    """Processes that run one function at a time. They start as they are needed.

    Each is an executor of its own, so that a worker that dies ends only its own call.
    """

    def __init__(self, count: int | None) -> None:
        """`count` is the maximum number of processes; None means one for each processor."""
        self._count = count or os.cpu_count() or 1
        self._free = asyncio.Semaphore(self._count)
        self._idle: list[ProcessPoolExecutor] = []
        self._workers: set[ProcessPoolExecutor] = set()
        self._life: tuple[Connection, Connection] | None = None

    async def run(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        """Calls a function in a worker and returns its result. Waits while all workers run one.

        Raises what the function raises, and ErlangExit `worker_down` if the worker dies.
        """
        call = _pickled((function, tuple(args)))
        free = self._free
        await free.acquire()
        try:
            worker = self._idle.pop() if self._idle else self._start()
            running = asyncio.get_running_loop().run_in_executor(worker, _call, call)
        except BaseException:
            free.release()
            raise
        running.add_done_callback(partial(self._ended, worker, free))
        try:
            # A worker cannot be interrupted: after a cancellation it ends its function.
            outcome = await asyncio.shield(running)
        except BrokenProcessPool as error:
            raise ErlangExit(_WORKER_DOWN) from error
        return pickle.loads(outcome).value()

    def close(self) -> None:
        """Ends the workers, also those whose function has not returned."""
        for worker in self._workers:
            worker.shutdown(wait=False, cancel_futures=True)
        if self._life is not None:
            for end in self._life:
                end.close()
        self._life = None
        self._workers.clear()
        self._idle.clear()
        self._free = asyncio.Semaphore(self._count)

    def _start(self) -> ProcessPoolExecutor:
        # A forked worker would share the sockets and locks of the node.
        context = multiprocessing.get_context("spawn")
        if self._life is None:
            self._life = context.Pipe(duplex=False)
        worker = ProcessPoolExecutor(1, context, _begin, (self._life[0],))
        self._workers.add(worker)
        return worker

    def _ended(
        self, worker: ProcessPoolExecutor, free: asyncio.Semaphore, running: asyncio.Future[bytes]
    ) -> None:
        free.release()
        if worker not in self._workers:
            return
        if running.cancelled() or running.exception() is not None:
            self._workers.remove(worker)
            worker.shutdown(wait=False)
        else:
            self._idle.append(worker)


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


class _Pickler(pickle.Pickler):
    """Pickles a memoryview as bytes, for terms decoded with `Options(binaries="memoryview")`."""

    def reducer_override(self, value: object) -> Any:
        if type(value) is memoryview:
            return bytes, (bytes(value),)
        return NotImplemented


def _pickled(value: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


# -- in a worker ----------------------------------------------------------------------------------


def _begin(watched: Connection) -> None:
    """Prepares a worker: it ends when the node closes its end of a pipe, or is killed.

    The executor itself waits for running functions, and its workers do not notice that their parent
    was killed. Ctrl-C stops the node, which then ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        watched.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="quicdist-end").start()


def _call(call: bytes) -> bytes:
    """Calls a function. Takes and returns pickles.

    The executor ends all workers if it cannot unpickle an argument, a result or an exception.
    """
    try:
        function, args = pickle.loads(call)
        return _pickled(_Returned(function(*args)))
    except BaseException as error:
        raised = _Raised(error, "".join(traceback.format_exception(error)))
        try:
            pickled = pickle.dumps(raised)
            pickle.loads(pickled)
        except Exception:
            text = traceback.format_exception_only(error)[-1].strip()
            unpickled = RuntimeError(f"{text} (the exception cannot be pickled)")
            pickled = pickle.dumps(_Raised(unpickled, raised.trace))
        return pickled


@dataclass(frozen=True, slots=True)
class _Returned:
    """The result of a function."""

    result: Any

    def value(self) -> Any:
        return self.result


@dataclass(frozen=True, slots=True)
class _Raised:
    """The exception of a function, and its traceback as text."""

    error: BaseException
    trace: str

    def value(self) -> NoReturn:
        raise self.error from _WorkerTraceback(f"\n{self.trace}")


class _WorkerTraceback(Exception):
    """The traceback in the worker, shown as the cause of the exception."""
