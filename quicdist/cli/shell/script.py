"""The shell without a terminal: runs the calls of standard input one by one."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.shell import errors
from quicdist.cli.shell.session import Session


async def run(session: Session) -> None:
    """Runs calls until the end of the input. Raises Problem for the first that fails."""
    number = 0
    async for line in _lines():
        number += 1
        try:
            call = session.take(line)
            if call is not None:
                print(await session.evaluate(call), flush=True)
        except Exception as error:
            found = errors.described(error)
            raise Problem(found.code, f"line {number}: {found}") from None
    if session.is_amid_a_call:
        raise Problem(ExitCode.USAGE, f"line {number}: incomplete call at the end of the input")


async def _lines() -> AsyncIterator[str]:
    """Reads lines in a daemon thread, which does not delay the end of the program."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str] = asyncio.Queue(1000)

    def read() -> None:
        while True:
            line = sys.stdin.readline()
            asyncio.run_coroutine_threadsafe(queue.put(line), loop).result()
            if not line:
                return

    threading.Thread(target=read, daemon=True, name="standard input").start()
    while line := await queue.get():
        yield line.removesuffix("\n")
