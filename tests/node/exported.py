"""Functions that tests call from other nodes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from quicdist import (
    Atom,
    ErlangError,
    ErlangExit,
    ErlangThrow,
    Run,
    current_call,
    current_process,
    export,
    shell,
)
from quicdist.etf import Pid, Reference, Term


@export(module="py")
def add(a: int, b: int) -> int:
    return a + b


@export(module="py")
async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


@export(module="py")
def echo(term: Term) -> Term:
    return term


@export(module="py")
def zeros(count: int) -> bytes:
    return bytes(count)


@export(module="py")
def nested(depth: int) -> Term:
    """Returns nested lists of the given depth."""
    term: Term = []
    for _ in range(depth):
        term = [term]
    return term


@export(module="py", name="boom")
def explode(what: bytes) -> None:
    raise ValueError(f"cannot do {what.decode()}")


@export(module="py", run=Run.INLINE)
def thread_inline() -> bool:
    return threading.current_thread() is threading.main_thread()


@export(module="py")
def thread_plain() -> bool:
    return threading.current_thread() is threading.main_thread()


@export(module="py")
def fail(kind: Atom, reason: Term) -> None:
    raise {"error": ErlangError, "exit": ErlangExit, "throw": ErlangThrow}[kind](reason)


@export(module="py")
def unencodable() -> object:
    return object()


@export(module="py")
def leave() -> None:
    sys.exit(3)


class Unprintable(BaseException):
    """An exception that is no `Exception`, without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


ENDS: dict[str, type[BaseException]] = {
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "Unprintable": Unprintable,
}
"""Exceptions that would end the program of the node, by name."""


@export(module="py")
def end_program(kind: Atom) -> None:
    raise ENDS[kind]


@export(module="py")
async def end_program_later(kind: Atom) -> None:
    await asyncio.sleep(0)
    raise ENDS[kind]


@export(module="py", run=Run.INLINE)
def end_program_inline(kind: Atom) -> None:
    raise ENDS[kind]


@export(module="py")
def stream_until_end(kind: Atom) -> Iterator[int]:
    yield 1
    raise ENDS[kind]


@export(module="py")
async def stream_until_end_later(kind: Atom) -> AsyncIterator[int]:
    yield 1
    raise ENDS[kind]


@export(module="py")
async def self_pid() -> Pid:
    return current_process.get().pid


@export(module="py")
def optional(a: int, b: int = 10) -> int:
    return a * b


@export(module="py")
def slow(seconds: float) -> Atom:
    time.sleep(seconds)
    return Atom("done")


@export(module="py")
async def forever() -> None:
    await asyncio.Event().wait()


def hidden() -> None:
    """A function without `@export`."""


@export(module="py")
def greet(name: bytes) -> Atom:
    print("hello,", name.decode(), file=shell)
    return Atom("ok")


@export(module="py")
async def greet_and_wait(name: bytes) -> None:
    print("hello,", name.decode(), file=shell)
    await asyncio.Event().wait()


@export(module="py")
async def tell(to: Pid | Reference, what: Term) -> None:
    await current_process.get().send(to, what)


@export(module="py")
async def cancel_itself() -> None:
    raise asyncio.CancelledError


@export(module="py")
async def end_itself() -> None:
    current_process.get().exit(current_process.get().pid, Atom("kill"))
    await asyncio.sleep(3600)


@export(module="py")
def fail_unencodably() -> None:
    raise ErlangError(object())


@export(module="py")
async def end_at_once() -> Atom:
    return Atom("done")


@export(module="py")
async def await_message(name: Atom) -> Term:
    """Receives messages under this registered name while the call runs."""
    me = current_process.get()
    me.system.register(name, me)
    return await me.receive()


@export(module="py")
def stop() -> Term:
    return next(iter([]))


@export(module="py")
def wide(count: int) -> Term:
    """Returns a list of `count` empty lists."""
    return [[]] * count


closed: list[str] = []
"""The generators below that have ended."""


@export(module="py")
async def count(limit: int) -> AsyncIterator[int]:
    """Yields the numbers below `limit`."""
    try:
        for number in range(limit):
            yield number
    finally:
        closed.append("count")


@export(module="py")
def count_in_thread(limit: int) -> Iterator[int]:
    """Yields the numbers below `limit`, in a thread."""
    try:
        yield from range(limit)
    finally:
        closed.append("count_in_thread")


@export(module="py", run=Run.INLINE)
def count_inline(limit: int) -> Iterator[int]:
    """Yields the numbers below `limit`, in the event loop."""
    try:
        yield from range(limit)
    finally:
        closed.append("count_inline")


@export(module="py")
async def blocks(count: int, size: int) -> AsyncIterator[bytes]:
    """Yields `count` binaries of `size` bytes."""
    for _ in range(count):
        yield bytes(size)


@export(module="py")
def fail_after(count: int) -> Iterator[int]:
    """Yields some numbers, then raises ValueError."""
    yield from range(count)
    raise ValueError("no more numbers")


@export(module="py")
async def slowly(count: int) -> AsyncIterator[int]:
    """Yields numbers, then waits for ever."""
    for number in range(count):
        yield number
        await asyncio.sleep(0)
    try:
        await asyncio.Event().wait()
    finally:
        closed.append("slowly")


started: list[object] = []
"""What the functions below have noted."""


@export(module="py", cancel_with_caller=True)
async def wait_with_caller() -> None:
    """Waits for ever, and notes its start and its end."""
    started.append("wait_with_caller")
    try:
        await asyncio.Event().wait()
    finally:
        closed.append("wait_with_caller")


@export(module="py")
def poll_caller() -> str:
    """Runs in a thread until the caller has given up."""
    started.append("poll_caller")
    call = current_call()
    while not call.is_cancelled:
        time.sleep(0.01)
    closed.append("poll_caller")
    return "cancelled"


@export(module="py")
async def who_calls() -> Term:
    """Returns the caller, and the seconds until its deadline."""
    call = current_call()
    left = None if call.deadline is None else call.deadline - asyncio.get_running_loop().time()
    return Atom(call.node), call.pid or Atom("none"), Atom("infinity") if left is None else left


gate: asyncio.Event | None = None


@export(module="py", concurrency=2, queue=1)
async def limited() -> Atom:
    """Waits for the event `gate`."""
    assert gate is not None
    started.append("limited")
    await gate.wait()
    return Atom("ok")


@export(module="py", run=Run.PROCESS)
def process_of(number: int) -> tuple[int, int]:
    """Returns the process id and the square."""
    return os.getpid(), number * number


@export(module="py", run=Run.PROCESS)
def die_in_process() -> None:
    """Kills its process."""
    os.kill(os.getpid(), signal.SIGKILL)


@export(module="py")
async def add_at_gate(one: int, two: int) -> int:
    """Adds when the event `gate` is set."""
    assert gate is not None
    await gate.wait()
    closed.append("add_at_gate")
    return one + two


class Unpicklable(Exception):
    """An exception whose pickle cannot be read: its arguments differ from those of its type."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@export(module="py", run=Run.PROCESS)
def fail_in_process(kind: Atom) -> None:
    """Raises an exception of a kind that futures or pickle do not handle."""
    if kind == "unpicklable":
        raise Unpicklable(1, 2)
    if kind == "stop_iteration":
        raise StopIteration
    if kind == "exit":
        raise SystemExit(3)
    raise ValueError("in a worker")


@export(module="py", run=Run.PROCESS)
def wait_in_process() -> None:
    """Returns after a time that no test waits for."""
    time.sleep(3600)


@export(module="py", run=Run.PROCESS)
def wait_for_file(begun: bytes, ends: bytes) -> Atom:
    """Makes a file, and returns when another file exists."""
    Path(begun.decode()).touch()
    while not Path(ends.decode()).exists():
        time.sleep(0.01)
    return Atom("ok")


@export(module="py", run=Run.PROCESS)
def list_in_process(count: int) -> list[int]:
    """Returns numbers, and the process id as the last item."""
    return [*range(count), os.getpid()]


streaming: list[int] = []
"""The number of streams that ran at the same time, each time one began."""


@export(module="py", concurrency=1, queue=1)
async def limited_stream() -> AsyncIterator[int]:
    """Yields one number while it holds its turn."""
    streaming.append(1)
    try:
        yield len(streaming)
        assert gate is not None
        await gate.wait()
    finally:
        streaming.pop()
