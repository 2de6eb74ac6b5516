"""A node for code without asyncio: web applications, notebooks, scripts, threads.

    with quicdist.connect("5555@10.0.0.7", cookie="secret") as node:
        print(node.call("5555@10.0.0.7", "erlang", "node"))

It is the same `Node`, whose event loop runs in one background thread; any number of threads may
use it at once, each waiting for its own answer. What raises there raises here. Ctrl-C ends the
wait and cancels what was waited for.

**Fork**: a connection belongs to the process that made it. In a forked child the parent's node
raises NotRunning and its sockets are gone, so that neither process disturbs the other; the child
connects anew. With a preforking server, connect after the fork (gunicorn's `post_fork`), or on
first use.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import selectors
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import ParamSpec, TypeVar

from quicdist import etf
from quicdist.carriers import forking
from quicdist.carriers.trust import Identity, Trust
from quicdist.etf import Pid, Reference, Term
from quicdist.node.access import Access
from quicdist.node.errors import NotRunning
from quicdist.node.events import NodeEvent
from quicdist.node.info import NodeStatistics, PeerInfo
from quicdist.node.limits import MailboxLimits, NodeLimits
from quicdist.node.mailbox import Mailbox, Mark, Match
from quicdist.node.names import facing
from quicdist.node.node import Node
from quicdist.node.retry import Retry
from quicdist.node.system import Destination
from quicdist.otp.logger import LoggerHandler

P = ParamSpec("P")
T = TypeVar("T")


def connect(
    *peers: str,
    cookie: str | None = None,
    name: str | None = None,
    exports: Iterable[object] = (),
    identity: Identity | None = None,
    trust: Trust | None = None,
    access: Access | None = None,
    limits: NodeLimits | None = None,
    terms: etf.Options = etf.DEFAULT,
) -> BlockingNode:
    """A hidden node of one's own, up and connected to `peers`; `with`, or `close()`, ends it.

    Its `name` is by default a free port of the address from which the first peer is reached. For
    the other settings see `Node`; `BlockingNode(Node(...))` takes all of them.

    Raises NoConnection for a peer that cannot be reached, and what `Node` raises.
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


class BlockingNode:
    """A `Node` used from threads. It starts at once; `with`, or `close()`, ends it.

    Nobody need close it: it ends when nothing refers to it any more, and with the program.
    """

    def __init__(self, node: Node, *peers: str) -> None:
        """`node` has not been started. Raises what its start and connecting to `peers` raise."""
        self._node = node
        self._thread = _LoopThread(node, peers)
        # Without waiting: it may be called with any lock held, the log's for one.
        weakref.finalize(self, self._thread.ask_to_stop).atexit = False

    def close(self) -> None:
        """Ends it, as `Node.stop`. Calls that are waited for raise NotRunning or NoConnection."""
        self._thread.close()

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
        """`port@ip`, or `name@host`."""
        return self._node.name

    @property
    def creation(self) -> int:
        """This incarnation."""
        return self._thread.do(lambda: self._node.creation)

    @property
    def pid(self) -> Pid:
        """The process that sends and calls for code that is no process."""
        return self._thread.do(lambda: self._node.pid)

    def ping(self, node: str, *, timeout: float | None = 5.0) -> bool:
        """See `Node.ping`."""
        return self._thread.run(self._node.ping, node, timeout=timeout)

    def call(
        self,
        node: str,
        module: str,
        function: str,
        args: Sequence[Term] = (),
        *,
        timeout: float | None = 5.0,
    ) -> Term:
        """Calls a function on a node, as `erpc:call`. See `Node.call`."""
        return self._thread.run(self._node.call, node, module, function, args, timeout=timeout)

    def rpc(
        self,
        node: str,
        module: str,
        function: str,
        args: Sequence[Term] = (),
        *,
        timeout: float | None = 5.0,
    ) -> Term:
        """Calls a function on a node, as `rpc:call`. See `Node.rpc`."""
        return self._thread.run(self._node.rpc, node, module, function, args, timeout=timeout)

    def gen_call(
        self, to: Pid | str | tuple[str, str], request: Term, *, timeout: float | None = 5.0
    ) -> Term:
        """Calls a server, as `gen_server:call`. See `Node.gen_call`."""
        return self._thread.run(self._node.gen_call, to, request, timeout=timeout)

    def gen_cast(self, to: Pid | str | tuple[str, str], request: Term) -> None:
        """Sends a server a request that is not answered. See `Node.gen_cast`."""
        self._thread.run(self._node.gen_cast, to, request)

    def send(self, to: Destination, message: Term) -> None:
        """Sends a message to a pid, an alias, a name here, or a (name, node). See `Node.send`."""
        self._thread.run(self._node.send, to, message)

    def connect(self, node: str, *, retry: Retry | None = None) -> None:
        """Connects, if there is no connection yet. See `Node.connect`."""
        self._thread.run(self._node.connect, node, retry=retry)

    def disconnect(self, node: str) -> bool:
        """Ends the connection to a node, at once. True when there was one."""
        return self._thread.do(self._node.disconnect, node)

    def nodes(self, *, hidden: bool = True) -> list[str]:
        """The nodes we are connected to. See `Node.nodes`."""
        return self._thread.do(self._node.nodes, hidden=hidden)

    def peer(self, node: str) -> PeerInfo:
        """A node that we are connected to, and by what. Raises NoConnection when we are not."""
        return self._thread.do(self._node.peer, node)

    def stats(self) -> NodeStatistics:
        """The node at this moment. See `Node.stats`."""
        return self._thread.do(self._node.stats)

    def log_handler(
        self, to: str, *, level: int = logging.NOTSET, limit: int = 1000
    ) -> logging.Handler:
        """Puts what Python logs into the log of a BEAM node. See `otp.logger.LoggerHandler`."""
        return self._thread.do(LoggerHandler, self._node, to, level=level, limit=limit)

    @contextlib.contextmanager
    def mailbox(
        self, name: str | None = None, *, limits: MailboxLimits | None = None
    ) -> Iterator[BlockingMailbox]:
        """A process that lives as long as the body of the `with`, registered as `name`.

        How the body ends is its exit reason. An exit signal does not interrupt the body; the
        mailbox's methods, and the end of the body, raise ProcessExited. Raises NameTaken.
        """
        manager = self._thread.do(self._node.mailbox, name, limits=limits)
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
        """NodeUp and NodeDown from now on: `with node.events() as events: for ... in events`."""
        subscription = self._thread.do(self._node.events)
        self._thread.do(subscription.__enter__)
        try:
            yield iter(lambda: self._thread.run(subscription.__anext__), None)
        finally:
            with contextlib.suppress(NotRunning):
                self._thread.do(subscription.__exit__, None, None, None)


class BlockingMailbox:
    """A `Mailbox` used from threads; one of them may receive at a time."""

    def __init__(self, mailbox: Mailbox, thread: _LoopThread) -> None:
        self._mailbox = mailbox
        self._thread = thread

    @property
    def pid(self) -> Pid:
        """The process."""
        return self._mailbox.pid

    @property
    def trap_exit(self) -> bool:
        """True: exit signals arrive as ('EXIT', pid, reason) messages and do not end it."""
        return self._mailbox.trap_exit

    @trap_exit.setter
    def trap_exit(self, value: bool) -> None:
        self._mailbox.trap_exit = value

    def send(self, to: Destination, message: Term) -> None:
        """Sends a message to a pid, an alias, a name here, or a (name, node)."""
        self._thread.run(self._mailbox.send, to, message)

    def mark(self) -> Mark:
        """Now, for `receive(..., since=mark)`. See `Mailbox.mark`."""
        return self._thread.do(self._mailbox.mark)

    def receive(
        self,
        match: Match | None = None,
        timeout: float | None = None,
        *,
        since: Mark | None = None,
    ) -> Term:
        """The first message, or the first for which `match(message)` is true; others stay.

        `match` runs in the node's thread and must not use the node. See `Mailbox.receive`.
        """
        return self._thread.run(self._mailbox.receive, match, timeout, since=since)

    def link(self, other: Pid) -> None:
        """Links to another process."""
        self._thread.do(self._mailbox.link, other)

    def unlink(self, other: Pid) -> None:
        """Ends a link."""
        self._thread.do(self._mailbox.unlink, other)

    def exit(self, other: Pid, reason: Term) -> None:
        """Sends an exit signal, as `exit(Pid, Reason)` does."""
        self._thread.do(self._mailbox.exit, other, reason)

    def monitor(self, what: Pid | str | tuple[str, str]) -> Reference:
        """Watches a process: when it is gone, a ('DOWN', reference, ...) message comes."""
        return self._thread.do(self._mailbox.monitor, what)

    def demonitor(self, reference: Reference) -> bool:
        """Stops watching. True when the monitor was active."""
        return self._thread.do(self._mailbox.demonitor, reference)


class _LoopThread:
    """A node and its event loop in a thread, and the way there from other threads."""

    def __init__(self, node: Node, peers: Sequence[str]) -> None:
        self._name = node.name
        self._generation = forking.generation
        self._lock = threading.RLock()
        self._is_closed = False
        # A selector of our own knows which files are the loop's, when we fork.
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._main = self._loop.create_task(self._live(node, peers))
        # A daemon, else it would keep a program from ending that did not close its node.
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
        """Awaits it there, and waits for it here. Raises what it raises; NotRunning."""
        if self._is_of_parent:
            raise NotRunning(
                f"{self._name} belongs to the process that this one was forked from: connect anew"
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
            # In one step: between looking and submitting nobody may close it.
            with self._lock:
                if self._is_closed:
                    raise NotRunning(f"{self._name} is closed")
                future = asyncio.run_coroutine_threadsafe(awaited(), self._loop)
            return future.result()
        except concurrent.futures.CancelledError:
            raise NotRunning(f"{self._name} was closed meanwhile") from None
        except BaseException:
            if future is not None:
                future.cancel()  # Ctrl-C; where the function raised, it is over anyway
            raise

    def do(self, function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Calls it there, and waits for it here. Raises what it raises; NotRunning."""

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
        """The open files of its loop."""
        return [key.fd for key in self._selector.get_map().values()] + [self._selector.fileno()]

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

    async def _live(self, node: Node, peers: Sequence[str]) -> None:
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
