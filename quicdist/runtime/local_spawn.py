"""Processes that run a Python function."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TypeAlias

from quicdist.errors import ErlangExit, ProcessExited
from quicdist.etf import Term
from quicdist.limits import MailboxLimits
from quicdist.runtime.exit_reasons import exit_reason, log_info
from quicdist.runtime.mailbox import Mailbox
from quicdist.runtime.process import SHUTDOWN
from quicdist.runtime.process_table import ProcessTable

logger = logging.getLogger("quicdist.node")

Main: TypeAlias = Callable[[Mailbox], Awaitable[object]]
"""The main function of a process: an async function that takes its mailbox."""

current_process: ContextVar[Mailbox] = ContextVar("quicdist.current_process")
"""The current process, set in spawned and exported functions."""


class Spawner:
    """Starts processes and tracks their tasks."""

    def __init__(self, system: ProcessTable, limits: MailboxLimits) -> None:
        self._system = system
        self._limits = limits
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(
        self,
        main: Main,
        *,
        name: str | None = None,
        before: Callable[[Mailbox], None] | None = None,
        over: Callable[[Mailbox], None] | None = None,
    ) -> Mailbox:
        """Starts a process that runs `main`. `over` is called when the process has ended.

        `before` adds links and monitors before `main` runs. With an eager task factory `main` may
        have ended when this method returns. Raises NameTaken.
        """
        me = Mailbox(self._system, self._limits)
        parent = current_process.get(None)
        if parent is not None and parent.system is self._system:
            me.group_leader = parent.group_leader
        if name is not None:
            try:
                self._system.register(name, me)
            except Exception:
                me.die(SHUTDOWN)
                raise
        try:
            if before is not None:
                before(me)
            task = asyncio.get_running_loop().create_task(_run(me, main), name=str(me))
        except Exception:
            me.die(SHUTDOWN)
            raise
        if me.is_alive and not task.done():
            me.runs_in(task)
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._finished, me, over))
        return me

    def _finished(
        self, me: Mailbox, over: Callable[[Mailbox], None] | None, task: asyncio.Task[None]
    ) -> None:
        self._tasks.discard(task)
        # A task cancelled before its first step has run nothing, including `_run`.
        me.runs_in(None)
        me.die(SHUTDOWN)
        if over is not None:
            over(me)

    @property
    def count(self) -> int:
        """The number of processes whose function has not ended."""
        return len(self._tasks)

    async def stop(self, timeout: float) -> None:
        """Ends all processes with the reason `shutdown`, and waits at most `timeout` seconds."""
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel(_STOPPING)
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)


_STOPPING = "the node is stopping"


async def _run(me: Mailbox, main: Main) -> None:
    current_process.set(me)
    me.runs_in(asyncio.current_task())
    reason: Term
    try:
        await main(me)
    except asyncio.CancelledError as error:
        me.runs_in(None)
        me.die(SHUTDOWN if error.args == (_STOPPING,) else exit_reason(error))
    except BaseException as error:
        me.runs_in(None)
        reason = exit_reason(error)
        if not isinstance(error, (ErlangExit, ProcessExited)):
            _log_error(me, error)
        me.die(reason)
        if not isinstance(error, Exception):
            raise
    else:
        me.runs_in(None)
        me.die(exit_reason(None))


def _log_error(me: Mailbox, error: BaseException) -> None:
    """Logs what the main function raised. After the end of the process nobody else is told."""
    if me.is_alive:
        extra = me.fields("process_failed")
        logger.error("%s ended with an error", me, exc_info=log_info(error), extra=extra)
    else:
        extra = me.fields("cleanup_failed")
        kind = type(error).__name__
        logger.error("%s raised %s after its end", me, kind, exc_info=log_info(error), extra=extra)
