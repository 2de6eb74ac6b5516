"""A node for code without asyncio: web applications, notebooks, scripts, threads.

    with quicdist.blocking_node("5555@10.0.0.7", cookie="secret") as node:
        print(node.call("5555@10.0.0.7", "erlang", "node"))

A `BlockingNode` runs a `Node` and its event loop in a background thread. Any number of threads may
use it at once. Its methods raise what the methods of `Node` raise. Ctrl-C ends the wait and cancels
the operation.

**Fork**: a node belongs to the process that started it. In a forked child its methods raise
NotRunning and its sockets are closed; the parent's node is not affected. The child needs its own
node. With a preforking server, connect after the fork (`post_fork` of gunicorn), or use `Shared`.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import logging
import selectors
import threading
import warnings
import weakref
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from types import TracebackType
from typing import Any, ParamSpec, TypeAlias, TypeVar

from quicdist import etf
from quicdist.carriers import forking
from quicdist.carriers.relay.client import RelayStatus
from quicdist.carriers.trust import Identity, Trust
from quicdist.cluster.access import AccessGiven
from quicdist.cluster.names import facing
from quicdist.errors import NotRunning
from quicdist.etf import Pid, Term
from quicdist.kernel.group_leader import Write
from quicdist.kernel.streams.consumer import Stream
from quicdist.kernel.streams.window import DEFAULT_WINDOW, StreamWindow
from quicdist.limits import MailboxLimits, NodeLimits
from quicdist.node.events import NodeEvent
from quicdist.node.node import Node
from quicdist.otp import pg, pubsub
from quicdist.otp.blocking import BlockingGlobalNames, BlockingGroups, BlockingTopics
from quicdist.otp.blocking_methods import Blocking, does, waits
from quicdist.otp.logger import LoggerHandler
from quicdist.runtime.calls import CallRequest
from quicdist.runtime.mailbox import Mailbox, Mark, Match

P = ParamSpec("P")
T = TypeVar("T")


def blocking_node(
    *peers: str,
    cookie: str | None = None,
    name: str | None = None,
    exports: Iterable[object] = (),
    identity: Identity | None = None,
    trust: Trust | None = None,
    access: AccessGiven | None = None,
    limits: NodeLimits | None = None,
    terms: etf.Options = etf.DEFAULT,
) -> BlockingNode:
    """Starts a hidden node that is connected to `peers`. `with` or `close()` stops it.

        with quicdist.connect("5555@10.0.0.7", cookie="secret") as node:
            print(node.call("5555@10.0.0.7", "erlang", "node"))

    `name` is by default a free port of the address from which this machine reaches the first peer.
    The other parameters are those of `Node`. For parameters that are missing here, use
    `BlockingNode(Node(...))`.

    Raises NoConnection if a peer cannot be reached, and what `Node` raises.
    """
    node = Node(
        name or facing(peers[0] if peers else ""),
        cookie=cookie,
        exports=exports,
        identity=identity,
        trust=trust,
        access=access,
        limits=limits,
        terms=terms,
    )
    return BlockingNode(node, *peers)


def connect(*peers: str, **settings: Any) -> BlockingNode:
    """Deprecated name of `blocking_node`, for one release."""
    warnings.warn("quicdist.connect is now quicdist.blocking_node", DeprecationWarning, 2)
    return blocking_node(*peers, **settings)


class Shared:
    """One node for all threads of a process, created by the first call.

        elixir = quicdist.Shared("5555@10.0.0.7", cookie="secret")
        elixir().call("5555@10.0.0.7", "Elixir.Shop", "report")

    A forked child creates its own node with its first call.
    """

    def __init__(self, *peers: str, **settings: Any) -> None:
        """What `blocking_node` takes."""
        self._start = functools.partial(blocking_node, *peers, **settings)
        # In a forked child, a lock of the parent may be held by a thread that does not exist.
        self._locks: dict[int, threading.Lock] = {}
        self._made: tuple[int, BlockingNode] | None = None

    def __call__(self) -> BlockingNode:
        """Returns the node, and creates it if necessary.

        Raises what `connect` raises. After an error the next call tries again.
        """
        generation = forking.generation
        made = self._made
        if made is not None and made[0] == generation and not made[1].is_closed:
            return made[1]
        with self._locks.setdefault(generation, threading.Lock()):
            made = self._made
            if made is None or made[0] != generation or made[1].is_closed:
                made = self._made = generation, self._start()
            return made[1]


class BlockingNode(Blocking):
    """A `Node` for use from threads. It starts at once; `with` or `close()` stops it.

    It also stops when nothing refers to it any more, and at the end of the program.
    """

    _inner: Node
    _thread: _LoopThread

    def __init__(self, node: Node, *peers: str) -> None:
        """Starts `node`, which must not be running, and connects to `peers`.

        Raises what the start and connecting raise.
        """
        super().__init__(node, _LoopThread(node, peers))
        # Must not wait: the caller may hold any lock, such as that of a log handler.
        weakref.finalize(self, self._thread.ask_to_stop).atexit = False

    def close(self) -> None:
        """Stops the node, as `Node.stop`. Pending operations raise NotRunning or NoConnection."""
        self._thread.close()

    @property
    def is_closed(self) -> bool:
        """Whether the node was closed, or belongs to the parent of this forked process."""
        return self._thread.is_closed

    def __enter__(self) -> BlockingNode:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The name of this node: `port@ip` or `name@host`."""
        return self._inner.name

    @property
    def creation(self) -> int:
        """The number of this incarnation. See `Node.creation`."""
        return self._thread.do(lambda: self._inner.creation)

    @property
    def pid(self) -> Pid:
        """The process that sends and calls for the methods of this node. See `Node.pid`."""
        return self._thread.do(lambda: self._inner.pid)

    @property
    def relay(self) -> RelayStatus | None:
        """The state of this node at its relay; None without `via`. See `Node.relay`."""
        return self._thread.do(lambda: self._inner.relay)

    drain = waits(Node.drain)
    change_cookies = does(Node.change_cookies)
    recheck_peers = does(Node.recheck_peers)

    @property
    def global_names(self) -> BlockingGlobalNames:
        """The names in `global`, as this visible node knows them. See `Node.global_names`."""
        names = self._thread.do(lambda: self._inner.global_names)
        return BlockingGlobalNames(names, self._thread)

    def pg(self, scope: str = "pg") -> BlockingGroups:
        """Starts a scope of process groups. See `pg.start`."""
        return BlockingGroups(self._thread.do(pg.start, self._inner, scope), self._thread)

    def pubsub(self, name: str, *, pool_size: int = 1) -> BlockingTopics:
        """Joins the topics of a Phoenix application. See `pubsub.start`."""
        topics = self._thread.do(pubsub.start, self._inner, name, pool_size=pool_size)
        return BlockingTopics(topics, self._thread)

    ping = waits(Node.ping)
    call = waits(Node.call)

    def stream(
        self,
        node: str,
        module: str,
        function: str,
        args: Sequence[Term] = (),
        *,
        window: StreamWindow = DEFAULT_WINDOW,
        timeout: float | None = 5.0,
    ) -> BlockingStream:
        """Calls an exported generator of another node. See `Node.stream`.

        for token in node.stream("5555@10.0.0.7", "model", "generate", [prompt]):
            print(token)
        """
        start = self._inner.stream
        stream = self._thread.do(
            start, node, module, function, args, window=window, timeout=timeout
        )
        return BlockingStream(stream, self._thread)

    def open_stream(self, offer: Term, *, window: StreamWindow = DEFAULT_WINDOW) -> BlockingStream:
        """Returns the items of a stream that another process offers. See `Node.open_stream`."""
        stream = self._thread.do(self._inner.open_stream, offer, window=window)
        return BlockingStream(stream, self._thread)

    @contextlib.contextmanager
    def offer_stream(self, items: Iterable[Term] | AsyncIterable[Term]) -> Iterator[Term]:
        """Offers items as a stream, while the body of the `with` runs. See `Node.offer_stream`."""
        manager = self._thread.do(self._inner.offer_stream, items)
        offer = self._thread.run(manager.__aenter__)
        try:
            yield offer
        finally:
            with contextlib.suppress(NotRunning):
                self._thread.run(manager.__aexit__, None, None, None)

    def send_request(
        self, node: str, module: str, function: str, args: Sequence[Term] = ()
    ) -> BlockingRequest:
        """Starts a call of a function and returns at once. See `Node.send_request`."""
        request = self._thread.do(self._inner.send_request, node, module, function, args)
        return BlockingRequest(request, self._thread)

    multicall = waits(Node.multicall)
    cast = waits(Node.cast)
    rpc = waits(Node.rpc)
    gen_call = waits(Node.gen_call)

    def gen_send_request(self, to: Pid | str | tuple[str, str], request: Term) -> BlockingRequest:
        """Starts a call of a server and returns at once. See `Node.gen_send_request`."""
        made = self._thread.do(self._inner.gen_send_request, to, request)
        return BlockingRequest(made, self._thread)

    gen_cast = waits(Node.gen_cast)
    multi_call = waits(Node.multi_call)
    send = waits(Node.send)
    connect = waits(Node.connect)
    disconnect = does(Node.disconnect)
    rebind = does(Node.rebind)
    change_access = does(Node.change_access)
    register = does(Node.register)
    unregister = does(Node.unregister)
    whereis = does(Node.whereis)
    nodes = does(Node.nodes)
    peer = does(Node.peer)
    stats = does(Node.stats)

    def log_handler(
        self, to: str, *, level: int = logging.NOTSET, limit: int = 1000
    ) -> logging.Handler:
        """Creates a `logging` handler that writes to the log of a BEAM node.

        See `otp.logger.LoggerHandler`.
        """
        return self._thread.do(LoggerHandler, self._inner, to, level=level, limit=limit)

    def spawn(
        self,
        main: BlockingMain,
        *,
        name: str | None = None,
        link: BlockingMailbox | None = None,
    ) -> BlockingMailbox:
        """Starts a process that runs the plain function `main(mailbox)` in its own thread.

        The process is linked to the process `link` from the start.

        The process exits with `normal` when `main` returns, or with the exception that it raises.
        An exit signal does not interrupt `main`; the methods of its mailbox then raise
        ProcessExited.

        Raises NameTaken.
        """

        async def run(me: Mailbox) -> None:
            await _in_thread(main, BlockingMailbox(me, self._thread), str(me))

        linked = None if link is None else link.process
        made = self._thread.do(self._inner.spawn, run, name=name, link=linked)
        return BlockingMailbox(made, self._thread)

    @contextlib.contextmanager
    def group_leader(self, write: Write) -> Iterator[Pid]:
        """Creates a process that other processes print to, while the body of the `with` runs.

        `write(text)` runs in the thread of the node and must not use the node. See
        `Node.group_leader`.
        """
        manager = self._thread.do(self._inner.group_leader, write)
        pid = self._thread.run(manager.__aenter__)
        try:
            yield pid
        finally:
            with contextlib.suppress(NotRunning):
                self._thread.run(manager.__aexit__, None, None, None)

    @contextlib.contextmanager
    def mailbox(
        self, name: str | None = None, *, limits: MailboxLimits | None = None
    ) -> Iterator[BlockingMailbox]:
        """Creates a process that lives as long as the body of the `with`, registered as `name`.

        The process exits with `normal` when the body ends, or with the exception that ends it. An
        exit signal does not interrupt the body; the methods of the mailbox and the end of the body
        then raise ProcessExited.

        Raises NameTaken.
        """
        manager = self._thread.do(self._inner.mailbox, name, limits=limits)
        me = self._thread.run(manager.__aenter__)
        try:
            yield BlockingMailbox(me, self._thread)
        except BaseException as error:
            with contextlib.suppress(NotRunning):
                self._thread.run(manager.__aexit__, type(error), error, error.__traceback__)
            raise
        else:
            self._thread.run(manager.__aexit__, None, None, None)

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[NodeEvent]]:
        """Subscribes to NodeUp and NodeDown events.

            with node.events() as events:
                for event in events:
                    print(event)

        Events from before the call are not delivered.
        """
        subscription = self._thread.do(self._inner.events)
        self._thread.do(subscription.__enter__)
        try:
            yield iter(lambda: self._thread.run(subscription.__anext__), None)
        finally:
            with contextlib.suppress(NotRunning):
                self._thread.do(subscription.__exit__, None, None, None)


class BlockingMailbox(Blocking):
    """A `Mailbox` for use from threads. One thread at a time can receive."""

    _inner: Mailbox

    @property
    def pid(self) -> Pid:
        """The pid of this process."""
        return self._inner.pid

    @property
    def process(self) -> Mailbox:
        """The `Mailbox` in the event loop of the node."""
        return self._inner

    @property
    def name(self) -> str | None:
        """The registered name of this process, or None."""
        return self._inner.name

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._inner.is_alive

    @property
    def exit_reason(self) -> Term:
        """The exit reason, once the process has ended."""
        return self._inner.exit_reason

    @property
    def message_count(self) -> int:
        """The number of queued messages."""
        return self._inner.message_count

    @property
    def dropped(self) -> int:
        """The number of messages dropped because the mailbox was full (`WhenFull.DROP`)."""
        return self._inner.dropped

    @property
    def trap_exit(self) -> bool:
        """Whether exit signals arrive as ('EXIT', pid, reason) messages. See `Mailbox`."""
        return self._inner.trap_exit

    @trap_exit.setter
    def trap_exit(self, value: bool) -> None:
        self._inner.trap_exit = value

    send = waits(Mailbox.send)
    mark = does(Mailbox.mark)

    def receive(
        self,
        match: Match | None = None,
        timeout: float | None = None,
        *,
        since: Mark | None = None,
    ) -> Term:
        """Returns the first message, or the first for which `match(message)` is true.

        `match` runs in the thread of the node and must not use the node. See `Mailbox.receive`.
        """
        return self._thread.run(self._inner.receive, match, timeout, since=since)

    wait = waits(Mailbox.wait)
    drop = does(Mailbox.drop)
    spawn_remote = waits(Mailbox.spawn_remote)
    spawn_request = does(Mailbox.spawn_request)
    spawn_request_abandon = does(Mailbox.spawn_request_abandon)
    gen_call = waits(Mailbox.gen_call)

    def gen_send_request(self, to: Pid | str | tuple[str, str], request: Term) -> BlockingRequest:
        """Starts a call of a server and returns at once. See `Mailbox.gen_send_request`."""
        made = self._thread.do(self._inner.gen_send_request, to, request)
        return BlockingRequest(made, self._thread)

    gen_cast = waits(Mailbox.gen_cast)
    link = does(Mailbox.link)
    unlink = does(Mailbox.unlink)
    exit = does(Mailbox.exit)
    monitor = does(Mailbox.monitor)
    demonitor = does(Mailbox.demonitor)
    alias = does(Mailbox.alias)
    unalias = does(Mailbox.unalias)
    set_group_leader = does(Mailbox.set_group_leader)
    monitor_node = does(Mailbox.monitor_node)
    demonitor_node = does(Mailbox.demonitor_node)
    monitor_nodes = does(Mailbox.monitor_nodes)
    demonitor_nodes = does(Mailbox.demonitor_nodes)


BlockingMain: TypeAlias = Callable[[BlockingMailbox], object]
"""A plain function that a process runs, with its mailbox as argument."""


class BlockingStream(Blocking):
    """The items of a remote generator. See `Stream`.

    When the loop ends, also by `break`, the remote generator is closed. `with` closes it at a
    defined moment.
    """

    _inner: Stream

    def __iter__(self) -> Iterator[Term]:
        batches = self._inner.batches()
        try:
            while batch := self._thread.run(_next_batch, batches):
                yield from batch
        finally:
            with contextlib.suppress(NotRunning):
                self._thread.run(batches.aclose)

    def close(self) -> None:
        """Ends the stream and closes the remote generator. Idempotent."""
        self._thread.run(self._inner.aclose)

    def __enter__(self) -> BlockingStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(NotRunning):
            self.close()


async def _next_batch(batches: AsyncIterator[list[Term]]) -> list[Term]:
    return await anext(batches, [])


class BlockingRequest(Blocking):
    """A started call whose answer is read later. See `CallRequest`."""

    _inner: CallRequest

    def __str__(self) -> str:
        return str(self._inner)

    @property
    def is_answered(self) -> bool:
        """Whether `receive_response` returns without waiting."""
        return self.answered(0)

    answered = waits(CallRequest.answered)
    receive_response = waits(CallRequest.receive_response)
    abandon = does(CallRequest.abandon)


async def _in_thread(main: BlockingMain, me: BlockingMailbox, name: str) -> None:
    """Runs `main` in a daemon thread, which does not delay the end of the program."""
    ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        if not ended.set_running_or_notify_cancel():
            return
        try:
            main(me)
        except BaseException as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    threading.Thread(target=run, name=name, daemon=True).start()
    await asyncio.wrap_future(ended)


class _LoopThread:
    """A node and its event loop in a thread."""

    def __init__(self, node: Node, peers: Sequence[str]) -> None:
        self._name = node.name
        self._generation = forking.generation
        self._lock = threading.RLock()
        self._is_closed = False
        # An explicit selector tells which file descriptors belong to the loop, for a fork.
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._main = self._loop.create_task(self._run_node(node, peers))
        # A daemon, so that a program can end without closing its node.
        self._thread = threading.Thread(
            target=self._serve, name=f"quicdist {node.name}", daemon=True
        )
        _threads.add(self)
        forking.keep_from_children(self)
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self.close()
            raise

    def run(self, function: Callable[P, Awaitable[T]], *args: P.args, **named: P.kwargs) -> T:
        """Awaits `function(...)` in that thread and returns its result.

        Raises what it raises, and NotRunning.
        """
        if self._is_of_parent:
            raise NotRunning(
                f"{self._name} belongs to the parent of this process: start a node after the fork"
            )
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a blocking node cannot be waited for in its own event loop: not in an async "
                "function that it exports, and not in the match of a receive"
            )

        async def awaited() -> T:
            return await function(*args, **named)

        future: concurrent.futures.Future[T] | None = None
        try:
            # The lock keeps `close` from running between the check and the submission.
            with self._lock:
                if self._is_closed:
                    raise NotRunning(f"{self._name} is closed")
                future = asyncio.run_coroutine_threadsafe(awaited(), self._loop)
            return future.result()
        except concurrent.futures.CancelledError:
            raise NotRunning(f"{self._name} was closed during the call") from None
        except BaseException:
            if future is not None:
                future.cancel()  # after Ctrl-C; has no effect if the function has raised
            raise

    def do(self, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Calls `function(...)` in that thread and returns its result.

        Raises what it raises, and NotRunning.
        """

        async def called() -> T:
            return function(*args, **named)

        return self.run(called)

    def close(self) -> None:
        """Stops the node and waits for it. Does nothing in a forked child."""
        if not self._is_of_parent:
            self.ask_to_stop()
            if threading.current_thread() is not self._thread:
                self._thread.join()

    def ask_to_stop(self) -> None:
        """Stops the node without waiting. Does nothing in a forked child."""
        if self._is_of_parent:
            return
        with self._lock:
            is_first, self._is_closed = not self._is_closed, True
        if is_first:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it did not start
                self._loop.call_soon_threadsafe(self._main.cancel)

    def descriptors(self) -> Sequence[int]:
        """The file descriptors of the event loop."""
        return [key.fd for key in self._selector.get_map().values()] + [self._selector.fileno()]

    @property
    def is_closed(self) -> bool:
        """Whether nothing can run in this thread any more."""
        return self._is_closed or self._is_of_parent

    @property
    def _is_of_parent(self) -> bool:
        return forking.generation != self._generation

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            _threads.discard(self)

    async def _run_node(self, node: Node, peers: Sequence[str]) -> None:
        try:
            async with node:
                for peer in peers:
                    await node.connect(peer)
                self._name = node.name
                self._started.set_result(None)
                await asyncio.get_running_loop().create_future()  # until `close` cancels
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)


_threads: weakref.WeakSet[_LoopThread] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for thread in list(_threads):
        thread.close()
