"""`Mailbox`: a process whose messages are read by Python code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import NewType, TypeAlias

from quicdist.errors import (
    MailboxFull,
    NoConnection,
    NoProcess,
    ProcessExited,
    ReceiveTimeout,
)
from quicdist.etf import Pid, Reference, Term, footprint
from quicdist.limits import MailboxLimits, WhenFull
from quicdist.runtime.aliases import AliasMode
from quicdist.runtime.backpressure import Backpressure, Source
from quicdist.runtime.calls import (
    SPAWN_REPLY,
    CallRequest,
    GenCall,
    Spawn,
    SpawnCall,
    Spawned,
    SpawnMessage,
    check_args,
    check_atom,
    check_timeout,
    gen_call,
    server_of,
)
from quicdist.runtime.exit_reasons import exit_reason
from quicdist.runtime.process import KILLED, Process
from quicdist.runtime.process_table import Destination, ProcessTable, Route
from quicdist.runtime.system_process import GEN_CAST

_log = logging.getLogger("quicdist.node")

Match: TypeAlias = Callable[[Term], bool]
Mark = NewType("Mark", int)
"""A position in the history of a mailbox. See `Mailbox.mark`."""

_Entry: TypeAlias = tuple[Term, int]

_REPORT_PAUSE = 5.0
"""Seconds between two log lines about dropped messages."""


class Mailbox(Process):
    """A process with a pid and a message queue.

        async with node.mailbox("counter") as me:
            print(await me.receive())

    `node.mailbox()` creates one, and `node.spawn` passes one to the function that it runs. The
    process ends when the body of the `async with` or the function ends. The exit reason is
    `normal`, or describes the exception. An exit signal with another reason than `normal` cancels
    the task that runs the body, unless `trap_exit` is True; see `trap_exit`, `link` and `monitor`.
    """

    def __init__(self, system: ProcessTable, limits: MailboxLimits) -> None:
        super().__init__(system, Backpressure(self, limits.low, limits.high, limits.hard))
        self.is_refusing_calls_in_drain = True
        self._check_affinity = system.affinity.check
        self.run_overhead = limits.least
        """Bytes that a queued message counts in addition to its own size."""
        self._when_full = limits.when_full
        self._holds = limits.when_full is WhenFull.HOLD
        kind = type(self)
        is_plain = kind.deliver is Mailbox.deliver and kind.signalled is Mailbox.signalled
        self._takes_runs = self._holds and is_plain
        self.dropped = 0
        """The number of messages dropped because the mailbox was full (`WhenFull.DROP`)."""
        self._next_report = 0.0
        self._fresh: deque[_Entry] = deque()
        """Messages that no receive has examined."""
        self._skipped: deque[_Entry] = deque()
        """Messages that a receive has examined and that did not match."""
        self._looked_at = 0
        """The total number of messages ever taken out of `_fresh`."""
        self._route: Route | None = None
        """The route of the last message. The next message mostly has the same destination."""
        self._waiter: asyncio.Future[bool] | None = None
        self._is_receiving = False
        self._task: asyncio.Task[object] | None = None
        self._ended: asyncio.Future[Term] | None = None

    def __str__(self) -> str:
        return f"mailbox {super().__str__()}"

    @property
    def message_count(self) -> int:
        """The number of queued messages."""
        return len(self._skipped) + len(self._fresh)

    # -- public --

    async def send(self, to: Destination, message: Term) -> None:
        """Sends a message to a pid, an alias, a registered name, or a (name, node) tuple.

        Connects first if necessary. Waits while more than `NodeLimits.send_high` bytes are queued
        for that node. As in Erlang, the return of this method does not mean that the message has
        arrived. If the method is cancelled while it waits, the message is still sent.

        Messages of this mailbox to one process arrive in the order in which they were sent. Calls,
        `Node.send` and other mailboxes are other processes, whose messages may overtake these.

        Raises NoConnection, NoProcess if no process of this node has that name, and EtfEncodeError.
        """
        self._check_affinity()
        if not self.is_alive:
            raise ProcessExited(self.pid, self.exit_reason)
        route = self._route
        if route is None or (to is not route.to and (type(to) is not tuple or to != route.to)):
            route = self._route = self.system.route(self.pid, to)
        waits = route.send(route, message)
        if waits is not None:
            await waits

    def mark(self) -> Mark:
        """Returns the current position, for `receive(..., since=mark)`.

        A receive with a mark skips the messages that were queued before. Use it to wait for an
        answer without searching a long queue:

            mark = me.mark()
            reference = me.monitor(server)
            down = await me.receive(lambda message: message[1] == reference, since=mark)

        Create the mark before the request.
        """
        self.system.affinity.check()
        # Messages that no receive has examined are moved behind the skipped ones, each once.
        self._looked_at += len(self._fresh)
        if self._skipped:
            self._skipped.extend(self._fresh)
            self._fresh.clear()
        else:
            self._skipped, self._fresh = self._fresh, self._skipped
        return Mark(self._looked_at)

    async def receive(
        self,
        match: Match | None = None,
        timeout: float | None = None,
        *,
        since: Mark | None = None,
    ) -> Term:
        """Returns the first message, or the first for which `match(message)` is true.

        Messages that do not match stay queued, in order. Waits for ever if `timeout` is None,
        otherwise `timeout` seconds; 0 does not wait. `since` is a mark; messages from before it are
        not considered. Only one task can receive at a time.

        Raises ReceiveTimeout, MailboxFull if the mailbox is at its hard bound and no message in it
        matches, and ProcessExited if the process has ended.
        """
        self._check_affinity()
        if not self.is_alive:
            raise ProcessExited(self.pid, self.exit_reason)
        if timeout is not None:
            check_timeout(timeout)
        if self._is_receiving:
            raise RuntimeError(f"{self}: another task is already receiving from this mailbox")
        if match is None and self._fresh and not self._skipped:
            self._looked_at += 1
            message, size = self._fresh.popleft()
            level = self.level
            if level.held:
                level.take(size)
            else:
                level.size -= size
            return message
        self._is_receiving = True
        try:
            has_any = self._fresh or self._skipped
            entry = self._find(match, since) if has_any else None
            if entry is None:
                entry = await self._wait(match, timeout)
        finally:
            self._is_receiving = False
        self.level.take(entry[1])
        return entry[0]

    async def wait(self) -> Term:
        """Waits until this process has ended, and returns its exit reason."""
        self.system.affinity.check()
        if self.is_alive:
            if self._ended is None:
                self._ended = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._ended)
        return self.exit_reason

    async def spawn_remote(
        self,
        node: str,
        module: str,
        function: str,
        args: Sequence[Term] = (),
        *,
        link: bool = False,
        monitor: bool = False,
        alias: AliasMode | None = None,
        group_leader: Pid | None = None,
        timeout: float | None = 5.0,
    ) -> Spawned:
        """Spawns a process on another node and returns its pid, as `erlang:spawn_opt/5`.

        `link` and `monitor` take effect from the first moment of the process. `reference` of the
        result is the monitor. `alias` makes the monitor an alias of this process as well, for as
        long as the mode says. Output of the new process goes to `group_leader`, by default that of
        this process. Waits at most `timeout` seconds, or for ever if it is None. After a timeout, a
        process that the node spawns later has no link to this process and no monitor.

        Raises SpawnError if the node rejects the request, CallTimeout, NoConnection,
        EtfEncodeError.
        """
        check_timeout(timeout)
        spawn = self._spawn(node, module, function, args, link, monitor, alias, group_leader)
        call = SpawnCall(self, spawn)
        call.begin()
        await call.wait(timeout)
        assert call.spawned is not None
        return call.spawned

    def spawn_request(
        self,
        node: str,
        module: str,
        function: str,
        args: Sequence[Term] = (),
        *,
        link: bool = False,
        monitor: bool = False,
        alias: AliasMode | None = None,
        group_leader: Pid | None = None,
        reply_tag: Term = SPAWN_REPLY,
    ) -> Reference:
        """Spawns a process on another node without waiting, as `erlang:spawn_request/5`.

        The reply is a message (reply_tag, reference, 'ok', pid) or (reply_tag, reference, 'error',
        reason). The reason is `noconnection` if the node cannot be reached.

        Raises EtfEncodeError.
        """
        spawn = self._spawn(node, module, function, args, link, monitor, alias, group_leader)
        call = SpawnMessage(self, spawn, reply_tag)
        call.begin()
        return call.reference

    async def gen_call(
        self, to: Pid | str | tuple[str, str], request: Term, *, timeout: float | None = 5.0
    ) -> Term:
        """Calls a server and returns its answer, as `gen_server:call/3`.

        The server is a gen_server, a gen_statem, an Elixir GenServer or a `quicdist.otp.GenServer`.
        `to` is a pid, a registered name of this node, or a (name, node) tuple. Waits at most
        `timeout` seconds, or for ever if it is None. Other messages stay queued. An answer that
        arrives later is dropped.

        Raises NoProcess, NoConnection, CallTimeout, CallError if the server ends before it answers,
        MailboxFull if this mailbox is full, and EtfEncodeError.
        """
        self.system.affinity.check()
        self._check_alive()
        return await gen_call(self, server_of(to, self.system.name), request, timeout)

    def gen_send_request(self, to: Pid | str | tuple[str, str], request: Term) -> CallRequest:
        """Starts a call of a server and returns at once, as `gen_server:send_request/2`.

        `await request.receive_response()` returns the answer, or raises what `gen_call` raises.

        Raises EtfEncodeError.
        """
        self.system.affinity.check()
        self._check_alive()
        return CallRequest(GenCall(self, server_of(to, self.system.name), request))

    async def gen_cast(self, to: Pid | str | tuple[str, str], request: Term) -> None:
        """Sends a server a request without an answer, as `gen_server:cast/2`.

        Connects first if necessary. A missing server or a failed connection is not reported.

        Raises EtfEncodeError.
        """
        self.system.affinity.check()
        with contextlib.suppress(NoConnection, NoProcess):
            await self.send(to, (GEN_CAST, request))

    def drop(self, match: Match, *, since: Mark | None = None) -> int:
        """Removes queued messages for which `match(message)` is true, and returns how many.

        With `since`, only messages that arrived after that mark are considered.
        """
        self.system.affinity.check()
        looked_at = [
            (queue, [entry for _, entry in _last(queue, count)])
            for queue, count in (
                (self._skipped, self._count_since(since)),
                (self._fresh, len(self._fresh)),
            )
        ]
        # `match` may raise, so all messages are tested before any is removed.
        tested = [
            (queue, entries, [bool(match(entry[0])) for entry in entries])
            for queue, entries in looked_at
        ]
        dropped = 0
        for queue, entries, unwanted in tested:
            if not any(unwanted):
                continue
            for _ in entries:
                queue.pop()
            queue.extend(entry for entry, out in zip(entries, unwanted, strict=True) if not out)
            dropped += sum(unwanted)
            sizes = (entry[1] for entry, out in zip(entries, unwanted, strict=True) if out)
            self.level.take(sum(sizes))
        return dropped

    def spawn_request_abandon(self, reference: Reference) -> bool:
        """Cancels a spawn request, as `erlang:spawn_request_abandon/1`.

        Returns True if no reply had arrived. Then no reply is delivered. If the request included a
        link, a process that is still spawned ends with the reason `abandoned`.
        """
        self.system.affinity.check()
        call = self.calls.get(reference)
        if not isinstance(call, SpawnMessage):
            return False
        call.close()
        return True

    def _spawn(
        self,
        node: str,
        module: str,
        function: str,
        args: Sequence[Term],
        link: bool,
        monitor: bool,
        alias: AliasMode | None,
        group_leader: Pid | None,
    ) -> Spawn:
        self._check_alive()
        return Spawn(
            check_atom("node", node),
            check_atom("module", module),
            check_atom("function", function),
            check_args(args),
            link,
            monitor,
            alias,
            group_leader or self.group_leader or self.pid,
        )

    def _count_since(self, mark: Mark | None) -> int:
        """Returns the number of messages in `_skipped` that may have arrived after the mark.

        They are at its end.
        """
        count = len(self._skipped)
        return count if mark is None else min(count, self._looked_at - mark)

    def _find(self, match: Match | None, since: Mark | None = None) -> _Entry | None:
        skipped = self._skipped
        if match is None and since is None:
            return skipped.popleft() if skipped else self._find_fresh(None)
        for index, entry in _last(skipped, self._count_since(since)):
            if match is None or match(entry[0]):
                del skipped[index]
                return entry
        return self._find_fresh(match)

    def _find_fresh(self, match: Match | None) -> _Entry | None:
        fresh = self._fresh
        while fresh:
            is_wanted = match is None or match(fresh[0][0])
            self._looked_at += 1
            entry = fresh.popleft()
            if is_wanted:
                return entry
            self._skipped.append(entry)
        return None

    async def _wait(self, match: Match | None, timeout: float | None) -> _Entry:
        loop = self.system.affinity.running()
        deadline = None if timeout is None else loop.time() + timeout
        while deadline is None or loop.time() < deadline:
            if self.level.held and self.level.is_at_bound:
                raise MailboxFull(
                    f"{self.level}, its hard bound, and no queued message matches: receive "
                    f"messages, or raise MailboxLimits.hard"
                )
            self._waiter = waiter = loop.create_future()
            self.level.is_waited_on = True
            if self.level.held:
                self.level.resume_all()
            timer = None if deadline is None else loop.call_at(deadline, _expire, waiter)
            try:
                await waiter
            finally:
                self._waiter = None
                self.level.is_waited_on = False
                if timer is not None:
                    timer.cancel()
            if not self.is_alive:
                raise ProcessExited(self.pid, self.exit_reason)
            entry = self._find_fresh(match)
            if entry is not None:
                return entry
        raise ReceiveTimeout(f"{self}: no {'matching ' if match else ''}message in {timeout:g} s")

    # -- for the system --

    def deliver(self, message: Term, source: Source) -> None:
        """Queues a message, or does what `when_full` says if the mailbox is full."""
        if not self._holds and self.level.is_at_bound:
            self._overflow()
        else:
            self.signalled(message, source)

    def signalled(self, message: Term, source: Source) -> None:
        """Queues a message that a signal to this process makes, even if the mailbox is full."""
        size = footprint(message) + self.run_overhead
        self._fresh.append((message, size))
        level = self.level
        level.size += size
        if self._waiter is not None:
            self._wake()
        if self._holds and level.size > level.high:
            source.pause(level)

    @property
    def run_room(self) -> int:
        """Bytes up to the high watermark of a mailbox that pauses its senders."""
        return self.level.high - self.level.size if self._takes_runs else -1

    def deliver_run(self, messages: Sequence[_Entry], size: int, source: Source) -> None:
        """Queues messages. The source is paused if the last one fills the mailbox."""
        self._fresh.extend(messages)
        level = self.level
        level.size += size
        self._wake()
        if level.size > level.high:
            source.pause(level)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            # A woken task counts as not waiting even before it runs.
            self._waiter = None
            self.level.is_waited_on = False
            if not waiter.done():
                waiter.set_result(True)

    def _overflow(self) -> None:
        if self._when_full is WhenFull.KILL:
            _log.warning("%s, its hard bound: it is killed", self.level)
            self.system.overflows.killed += 1
            self.die(KILLED)
            return
        self.system.overflows.dropped += 1
        self.dropped += 1
        now = time.monotonic()
        if now >= self._next_report:
            self._next_report = now + _REPORT_PAUSE
            _log.warning("%s, its hard bound: %d messages dropped", self.level, self.dropped)

    def stopped(self) -> None:
        """Called when the process has ended: drops its messages and wakes its tasks."""
        self._fresh.clear()
        self._skipped.clear()
        self.level.size = 0
        self.level.resume_all()
        # The receiving task may differ from the task of this process.
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)
        if self._task is not None:
            self._task.cancel()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def runs_in(self, task: asyncio.Task[object] | None) -> None:
        """Sets the task that an exit signal cancels."""
        self._task = task

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of the task of this process, or None if it has ended."""
        return None if self._task is None else self._task.get_loop()

    # -- context manager --

    async def __aenter__(self) -> Mailbox:
        self.system.affinity.check()
        self._task = asyncio.current_task()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if self.is_alive:
            self.die(exit_reason(error))
            return
        if error is None:
            # The exit signal arrived after the last await, so its cancellation is still pending.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        elif not isinstance(error, asyncio.CancelledError):
            return
        if _other_cancellations(task):
            return
        raise ProcessExited(self.pid, self.exit_reason) from None


def _other_cancellations(task: asyncio.Task[object] | None) -> int:
    """Withdraws the cancellation by the exit signal, and returns how many others are pending."""
    uncancel = getattr(task, "uncancel", None)
    return int(uncancel()) if uncancel is not None else 0


def _last(queue: deque[_Entry], count: int) -> Iterable[tuple[int, _Entry]]:
    """The last `count` entries of a queue with their indexes.

    Indexing a deque is fast near its ends only, so a scan of the whole queue iterates instead.
    """
    if count == len(queue):
        return enumerate(queue)
    return ((index, queue[index]) for index in range(len(queue) - count, len(queue)))


def _expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
