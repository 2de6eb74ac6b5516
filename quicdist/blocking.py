"""A node for code without asyncio: web applications, notebooks, scripts, threads.

    with quicdist.blocking_node("5555@10.0.0.7", cookie="secret") as node:
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
import functools
import logging
import selectors
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar

from quicdist import etf
from quicdist.carriers import forking
from quicdist.carriers.trust import Identity, Trust
from quicdist.cluster.access import Access
from quicdist.cluster.names import facing
from quicdist.cluster.retry import Retry
from quicdist.errors import NodeError, NotRunning
from quicdist.etf import Pid, Reference, Term
from quicdist.kernel.group_leader import Write
from quicdist.limits import MailboxLimits, NodeLimits
from quicdist.node.events import NodeEvent
from quicdist.node.info import NodeStatistics, PeerInfo
from quicdist.node.node import Node
from quicdist.otp import pg, pubsub
from quicdist.otp.blocking import BlockingGlobalNames, BlockingGroups, BlockingTopics
from quicdist.otp.logger import LoggerHandler
from quicdist.runtime.aliases import AliasMode
from quicdist.runtime.calls import SPAWN_REPLY, Spawned
from quicdist.runtime.mailbox import Mailbox, Mark, Match
from quicdist.runtime.process_table import Destination

P = ParamSpec("P")
T = TypeVar("T")


def blocking_node(
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
    """Starts a hidden node and connects it to `peers`. `with`, or `close()`, ends it.

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


def connect(*peers: str, **settings: Any) -> BlockingNode:
    """Deprecated name of `blocking_node`, for one release."""
    warnings.warn("quicdist.connect is now quicdist.blocking_node", DeprecationWarning, 2)
    return blocking_node(*peers, **settings)


class Shared:
    """One node for all threads of a process, made when it is first wanted; a forked child makes one
    of its own.

        elixir = quicdist.Shared("5555@10.0.0.7", cookie="secret")
        elixir().call("5555@10.0.0.7", "Elixir.Shop", "report")
    """

    def __init__(self, *peers: str, **settings: Any) -> None:
        """What `blocking_node` takes."""
        self._start = functools.partial(blocking_node, *peers, **settings)
        # A lock of the parent's may be held by a thread that a child does not have.
        self._locks: dict[int, threading.Lock] = {}
        self._made: tuple[int, BlockingNode] | None = None

    def __call__(self) -> BlockingNode:
        """The node. Raises what `blocking_node` raises; the next call then tries again."""
        generation = forking.generation
        made = self._made
        if made is not None and made[0] == generation and not made[1].is_closed:
            return made[1]
        with self._locks.setdefault(generation, threading.Lock()):
            made = self._made
            if made is None or made[0] != generation or made[1].is_closed:
                made = self._made = generation, self._start()
            return made[1]


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

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, or belongs to the process that this one was forked from."""
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

    def drain(self, timeout: float | None = 5.0) -> bool:
        """Refuses new calls and waits until running ones have ended. See `Node.drain`."""
        return self._thread.run(self._node.drain, timeout)

    @property
    def global_names(self) -> BlockingGlobalNames:
        """The names of the cluster that a visible node is part of. See `Node.global_names`."""
        names = self._thread.do(lambda: self._node.global_names)
        return BlockingGlobalNames(names, self._thread)

    def pg(self, scope: str = "pg") -> BlockingGroups:
        """Starts a scope of process groups on this node. See `pg.start`."""
        return BlockingGroups(self._thread.do(pg.start, self._node, scope), self._thread)

    def pubsub(self, name: str, *, pool_size: int = 1) -> BlockingTopics:
        """Joins the topics of an Elixir application on this node. See `pubsub.start`."""
        topics = self._thread.do(pubsub.start, self._node, name, pool_size=pool_size)
        return BlockingTopics(topics, self._thread)

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

    def send_request(
        self, node: str, module: str, function: str, args: Sequence[Term] = ()
    ) -> BlockingRequest:
        """Calls a function on a node and returns at once. See `Node.send_request`."""
        request = self._thread.do(self._node.send_request, node, module, function, args)
        return BlockingRequest(request, self._thread)

    def multicall(
        self,
        nodes: Iterable[str],
        module: str,
        function: str,
        args: Sequence[Term] = (),
        *,
        timeout: float | None = 5.0,
    ) -> list[Term | NodeError]:
        """Calls a function on many nodes at once, as `erpc:multicall`. See `Node.multicall`."""
        multicall = self._node.multicall
        return self._thread.run(multicall, nodes, module, function, args, timeout=timeout)

    def cast(self, node: str, module: str, function: str, args: Sequence[Term] = ()) -> None:
        """Has a function run on a node, as `erpc:cast`. See `Node.cast`."""
        self._thread.run(self._node.cast, node, module, function, args)

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

    def gen_send_request(self, to: Pid | str | tuple[str, str], request: Term) -> BlockingRequest:
        """Calls a server and returns at once. See `Node.gen_send_request`."""
        made = self._thread.do(self._node.gen_send_request, to, request)
        return BlockingRequest(made, self._thread)

    def gen_cast(self, to: Pid | str | tuple[str, str], request: Term) -> None:
        """Sends a server a request that is not answered. See `Node.gen_cast`."""
        self._thread.run(self._node.gen_cast, to, request)

    def multi_call(
        self,
        nodes: Iterable[str],
        name: str,
        request: Term,
        *,
        timeout: float | None = 5.0,
    ) -> tuple[dict[str, Term], list[str]]:
        """Calls the servers of one name on many nodes at once. See `Node.multi_call`."""
        return self._thread.run(self._node.multi_call, nodes, name, request, timeout=timeout)

    def send(self, to: Destination, message: Term) -> None:
        """Sends a message to a pid, an alias, a name here, or a (name, node). See `Node.send`."""
        self._thread.run(self._node.send, to, message)

    def connect(self, node: str, *, retry: Retry | None = None) -> None:
        """Connects, if there is no connection yet. See `Node.connect`."""
        self._thread.run(self._node.connect, node, retry=retry)

    def disconnect(self, node: str) -> bool:
        """Ends the connection to a node, at once. True when there was one."""
        return self._thread.do(self._node.disconnect, node)

    def rebind(self) -> None:
        """Opens a new socket and moves what can move. See `Node.rebind`."""
        self._thread.do(self._node.rebind)

    def register(self, name: str, pid: Pid) -> None:
        """Gives a process of this node a name. See `Node.register`."""
        self._thread.do(self._node.register, name, pid)

    def unregister(self, name: str) -> None:
        """Takes a name of this node away. See `Node.unregister`."""
        self._thread.do(self._node.unregister, name)

    def whereis(self, name: str) -> Pid | None:
        """The process of this node that has a name. See `Node.whereis`."""
        return self._thread.do(self._node.whereis, name)

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

    def spawn(self, main: BlockingMain, *, name: str | None = None) -> BlockingMailbox:
        """Starts a process that runs `main(mailbox)`, a plain function, in a thread of its own.
        Raises NameTaken.

        How it ends is the exit reason. An exit signal does not interrupt it: the methods of its
        mailbox raise ProcessExited from then on.
        """

        async def run(me: Mailbox) -> None:
            await _in_thread(main, BlockingMailbox(me, self._thread), str(me))

        return BlockingMailbox(self._thread.do(self._node.spawn, run, name=name), self._thread)

    @contextlib.contextmanager
    def group_leader(self, write: Write) -> Iterator[Pid]:
        """A process to print to, as long as the body of the `with`. `write(text)` is called in the
        node's thread and must not use the node. See `Node.group_leader`."""
        manager = self._thread.do(self._node.group_leader, write)
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
    def process(self) -> Mailbox:
        """The process itself, of the node's event loop."""
        return self._mailbox

    @property
    def name(self) -> str | None:
        """What it is registered as."""
        return self._mailbox.name

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._mailbox.is_alive

    @property
    def exit_reason(self) -> Term:
        """Why it has ended, once it has."""
        return self._mailbox.exit_reason

    @property
    def message_count(self) -> int:
        """Messages waiting."""
        return self._mailbox.message_count

    @property
    def dropped(self) -> int:
        """Messages thrown away because the mailbox was full (WhenFull.DROP)."""
        return self._mailbox.dropped

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

    def wait(self) -> Term:
        """Waits until this process has ended, and returns its exit reason."""
        return self._thread.run(self._mailbox.wait)

    def drop(self, match: Match, *, since: Mark | None = None) -> int:
        """Throws waiting messages away; how many. See `Mailbox.drop`."""
        return self._thread.do(self._mailbox.drop, match, since=since)

    def spawn_remote(
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
        """Spawns a process on another node. See `Mailbox.spawn_remote`."""
        return self._thread.run(
            self._mailbox.spawn_remote,
            node,
            module,
            function,
            args,
            link=link,
            monitor=monitor,
            alias=alias,
            group_leader=group_leader,
            timeout=timeout,
        )

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
        """The same without waiting. See `Mailbox.spawn_request`."""
        return self._thread.do(
            self._mailbox.spawn_request,
            node,
            module,
            function,
            args,
            link=link,
            monitor=monitor,
            alias=alias,
            group_leader=group_leader,
            reply_tag=reply_tag,
        )

    def spawn_request_abandon(self, reference: Reference) -> bool:
        """Takes a spawn request back. See `Mailbox.spawn_request_abandon`."""
        return self._thread.do(self._mailbox.spawn_request_abandon, reference)

    def gen_call(
        self, to: Pid | str | tuple[str, str], request: Term, *, timeout: float | None = 5.0
    ) -> Term:
        """Calls a server, as `gen_server:call`. See `Mailbox.gen_call`."""
        return self._thread.run(self._mailbox.gen_call, to, request, timeout=timeout)

    def gen_send_request(self, to: Pid | str | tuple[str, str], request: Term) -> BlockingRequest:
        """Calls a server and returns at once. See `Mailbox.gen_send_request`."""
        made = self._thread.do(self._mailbox.gen_send_request, to, request)
        return BlockingRequest(made, self._thread)

    def gen_cast(self, to: Pid | str | tuple[str, str], request: Term) -> None:
        """Sends a server a request that is not answered. See `Mailbox.gen_cast`."""
        self._thread.run(self._mailbox.gen_cast, to, request)

    def link(self, other: Pid) -> None:
        """Links to another process."""
        self._thread.do(self._mailbox.link, other)

    def unlink(self, other: Pid) -> None:
        """Ends a link."""
        self._thread.do(self._mailbox.unlink, other)

    def exit(self, other: Pid, reason: Term) -> None:
        """Sends an exit signal, as `exit(Pid, Reason)` does."""
        self._thread.do(self._mailbox.exit, other, reason)

    def monitor(
        self, what: Pid | str | tuple[str, str], *, alias: AliasMode | None = None
    ) -> Reference:
        """Watches a process: when it is gone, a ('DOWN', reference, ...) message comes."""
        return self._thread.do(self._mailbox.monitor, what, alias=alias)

    def demonitor(self, reference: Reference) -> bool:
        """Stops watching. True when the monitor was active."""
        return self._thread.do(self._mailbox.demonitor, reference)

    def alias(
        self,
        reference: Reference | None = None,
        *,
        mode: AliasMode = AliasMode.EXPLICIT_UNALIAS,
    ) -> Reference:
        """A reference that messages can be sent to, until `unalias`. See `Mailbox.alias`."""
        return self._thread.do(self._mailbox.alias, reference, mode=mode)

    def unalias(self, alias: Reference) -> bool:
        """What is sent to the alias from now on is dropped. True when it was active."""
        return self._thread.do(self._mailbox.unalias, alias)

    def set_group_leader(self, leader: Pid, of: Pid) -> None:
        """What `of` prints goes to `leader`. See `Mailbox.set_group_leader`."""
        self._thread.do(self._mailbox.set_group_leader, leader, of)

    def monitor_node(self, node: str) -> None:
        """Watches the connection to a node. See `Mailbox.monitor_node`."""
        self._thread.do(self._mailbox.monitor_node, node)

    def demonitor_node(self, node: str) -> bool:
        """Takes one `monitor_node` back. True when there was one."""
        return self._thread.do(self._mailbox.demonitor_node, node)

    def monitor_nodes(self, *, hidden: bool = False, info: bool = False) -> None:
        """From now on ('nodeup', node) and ('nodedown', node) messages come. See
        `Mailbox.monitor_nodes`."""
        self._thread.do(self._mailbox.monitor_nodes, hidden=hidden, info=info)

    def demonitor_nodes(self) -> None:
        """They come no more."""
        self._thread.do(self._mailbox.demonitor_nodes)


BlockingMain: TypeAlias = Callable[[BlockingMailbox], object]
"""What a process runs: a plain function of its own mailbox."""


class _Request(Protocol):
    """A call that was sent: that of a node, or of a mailbox."""

    async def answered(self, timeout: float | None = None) -> bool: ...

    async def receive_response(self, timeout: float | None = 5.0) -> Term: ...

    def abandon(self) -> bool: ...


class BlockingRequest:
    """A call whose answer is asked for later. See `CallRequest`."""

    def __init__(self, request: _Request, thread: _LoopThread) -> None:
        self._request = request
        self._thread = thread

    def __str__(self) -> str:
        return str(self._request)

    @property
    def is_answered(self) -> bool:
        """Whether `receive_response` would not wait."""
        return self.answered(0)

    def answered(self, timeout: float | None = None) -> bool:
        """Waits until there is an answer, or so many seconds. Whether there is one."""
        return self._thread.run(self._request.answered, timeout)

    def receive_response(self, timeout: float | None = 5.0) -> Term:
        """The answer. Raises CallTimeout, and what the call it stands for raises."""
        return self._thread.run(self._request.receive_response, timeout)

    def abandon(self) -> bool:
        """No answer is wanted any more. True when none had come."""
        return self._thread.do(self._request.abandon)


async def _in_thread(main: BlockingMain, me: BlockingMailbox, name: str) -> None:
    """Runs it in a thread, which nobody waits for at the end of the program."""
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
    def is_closed(self) -> bool:
        """Whether nothing can be run there any more."""
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
