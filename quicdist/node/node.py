"""`Node`: Python as a node of an Erlang cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType

from quicdist import etf
from quicdist.carriers import causes
from quicdist.carriers.epmd import EpmdError
from quicdist.carriers.trust import CertificateError, Credentials, Identity, Trust, Verifier
from quicdist.carriers.trust.file_watcher import watch
from quicdist.cluster import tracebacks
from quicdist.cluster.access import Access
from quicdist.cluster.access_filter import AccessFilter
from quicdist.cluster.carrier import Accept, Carrier, CarrierSettings, ListenerSettings
from quicdist.cluster.connection_manager import Connections
from quicdist.cluster.cookie import check_cookies, find_cookie
from quicdist.cluster.lookup import DEFAULT_LOOKUPS, Lookup
from quicdist.cluster.names import NodeName, facing, parse_listen
from quicdist.cluster.peer import Peer
from quicdist.cluster.quic import Quic
from quicdist.cluster.resolver import Resolver
from quicdist.cluster.retry import Retry
from quicdist.cluster.tls import tcp_or_tls
from quicdist.errors import (
    CallError,
    CallTimeout,
    Cause,
    NoConnection,
    NodeError,
    NodeNameError,
    NoProcess,
    NotRunning,
    NotVisible,
    StartError,
)
from quicdist.etf import Atom, Pid, Term
from quicdist.kernel.caller import Caller, ConnectedCaller
from quicdist.kernel.exports import Exports
from quicdist.kernel.global_.names import GlobalNames
from quicdist.kernel.group_leader import GroupLeader, LogLines, Write
from quicdist.kernel.net_kernel import NET_KERNEL, is_auth_call, start_net_kernel
from quicdist.kernel.rpc_server import RpcServer
from quicdist.limits import MailboxLimits, NodeLimits
from quicdist.node.events import Events, NodeDown, NodeUp, Subscription
from quicdist.node.info import NodeStatistics, PeerInfo, node_statistics, peer_info
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag
from quicdist.protocol.session import LocalNode
from quicdist.runtime.arguments import (
    IN_ERPC_CALL,
    IN_ERPC_CAST,
    IN_REX_CALL,
    arguments_of,
)
from quicdist.runtime.calls import (
    CallRequest,
    check_args,
    check_atom,
    check_nodes,
    check_timeout,
    server_of,
)
from quicdist.runtime.counters import Ending, NodeCounters
from quicdist.runtime.identifiers import Identifiers, new_creation
from quicdist.runtime.local_spawn import Main, Spawner
from quicdist.runtime.mailbox import Mailbox
from quicdist.runtime.process import NOCONNECTION, SHUTDOWN
from quicdist.runtime.process_table import Destination, ProcessTable
from quicdist.runtime.refused_payload import payload_refused
from quicdist.runtime.system_process import GEN_CAST

logger = logging.getLogger("quicdist.node")

_NODEUP = Atom("nodeup")
_NODEDOWN = Atom("nodedown")

_CONNECTION_CLOSED = Atom("connection_closed")
_DOWN_REASONS = {
    Ending.LEFT: Atom("disconnect"),
    Ending.TICK_TIMEOUT: Atom("net_tick_timeout"),
}
"""As `nodedown_reason` of `net_kernel:monitor_nodes/2` has them."""

_FORMATTING = 5.0
"""Seconds for a node to format what it prints here."""


class Node:
    """A node, up between `async with` and its end.

        async with Node("4433@127.0.0.1", cookie="secret") as node:
            assert await node.ping("5555@127.0.0.1")

    `name` says how others reach it. `port@ip` is QUIC, at this UDP port of this address; port 0
    takes a free one, and the name with it. Any other `name@host` is TCP, at a port that the host's
    EPMD tells. Whatever it is called itself, a node reaches nodes of both kinds.
    `named_by` is a node to be asked for a name instead, which makes this one dial-only and hidden:
    the way for many nodes whose addresses mean nothing to others. `name` is then left out, or says
    the host, as in "@site7". The name goes with the connection to that node: when it is lost, the
    processes end with `noconnection`, and the node must be started anew.
    A node belongs to the event loop in which it was started: used from another loop or thread,
    each method raises RuntimeError. It belongs to its process, too: in a forked child its sockets
    are closed and each method raises NotRunning; make a node there, after the fork.
    `listen` is where to bind when that differs from the name, behind a NAT or in a container:
    `"0.0.0.0:4433"`. Without a `cookie`, that of `~/.erlang.cookie`; of
    several the first is offered to others, and all are accepted. A node is hidden unless
    `visible`: it shows up in others' `nodes(hidden)` only and takes no part in `global`. A visible
    one is connected to all visible nodes of the cluster, so each must be able to reach it.
    `exports` are functions marked with `@export`, and modules or objects that contain some; each
    of their modules is also a registered process, for `gen_server:call`.
    `identity` is our key and certificate, by default one that we make and keep; `trust` says whom
    we believe, by default a node's key when we first meet it, and no other from then on; `access`
    which nodes we talk to, and what each may call, by default all.
    `carriers` are the ways to reach nodes, by default `Quic()` and `Tcp()`; `lookups` are the
    places to ask where a node is (see `quicdist.cluster.lookup`). `limits` bound memory and waiting,
    `terms` are choices in how terms come to Python. `printed(text)` is given what the functions
    print that are called on others; by default it goes to the log `quicdist.io`.

    Raises NodeNameError, CookieError, ExportError; `start` (and `async with`) also StartError.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        named_by: str | None = None,
        cookie: str | Sequence[str] | None = None,
        listen: str | tuple[str, int] | None = None,
        visible: bool = False,
        exports: Iterable[object] = (),
        carriers: Sequence[CarrierSettings] | None = None,
        lookups: Sequence[Lookup] = DEFAULT_LOOKUPS,
        identity: Identity | None = None,
        trust: Trust | None = None,
        access: Access | None = None,
        limits: NodeLimits | None = None,
        terms: etf.Options = etf.DEFAULT,
        printed: Write | None = None,
    ) -> None:
        where = None if listen is None else parse_listen(listen)
        if named_by is None:
            own = NodeName.own(name or "")
        else:
            own = NodeName.unnamed(name or facing(named_by))
            if where is not None or visible:
                raise NodeNameError("a node that is named by another listens to nobody, unseen")
        self._named_by = named_by
        self._own = ListenerSettings(own, where, not visible)
        self._name = str(own)
        if cookie is None or isinstance(cookie, str):
            self._cookies: tuple[str, ...] = (find_cookie(cookie),)
        else:
            self._cookies = check_cookies(cookie)
        self._limits = limits or NodeLimits()
        self._terms = terms
        self._printed = printed
        self._exports = Exports(exports, self._limits.threads)
        self._lookups = lookups
        self._access = access or Access()
        # A name with any port at all is met once: the certificate makes no claim to it.
        is_lasting = own.address is None or own.address.port
        hosts = [own.host] if is_lasting else []
        self._trust = trust or Trust.first_use()
        self._credentials = credentials = Credentials(identity, self._trust, hosts)
        if carriers is None:
            carriers = (Quic(), tcp_or_tls(self._trust))
        self._carriers: Sequence[Carrier] = [one.make(credentials) for one in carriers]
        self._events = Events()
        self._life: _Life | None = None

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens the carriers; from here on others can connect. Raises StartError.

        Each start is a new incarnation: pids of an earlier one reach nobody.
        """
        if self._life is not None:
            self._life.system.affinity.check()
            raise StartError(f"{self.name} is running already", Cause.NAME_TAKEN)
        book = Resolver(self._carriers, self._lookups)
        life = _Life(
            self._limits,
            self._access,
            self._terms,
            book,
            self._events,
            self._exports,
            self._local(),
            self._printed,
        )
        try:
            self._name = await self._open_carriers(life.connections.accept)
            if self._named_by is None:
                self._own = replace(self._own, name=NodeName.own(self._name))
                life.begin(self._name, new_creation())
            else:
                self._name = await life.be_named(Atom(self._named_by))
        except (OSError, CertificateError, EpmdError, ValueError) as error:
            await self._give_up(life)
            text = f"{self.name} cannot start: {self._obstacle(error)}"
            raise StartError(text, causes.of_error(error)) from error
        except BaseException:
            await self._give_up(life)
            raise
        self._life = life
        life.watch_trust(self._credentials.verifier)
        self._credentials.say_objection(self.name)
        logger.info("%s is up", self.name, extra={"event": "node_up", "node": self.name})

    async def _open_carriers(self, accept: Accept) -> str:
        """The first that our name speaks of listens, the others only dial. Returns our name."""
        name = None if self._named_by is None else self._name
        for carrier in self._carriers:
            own = self._own if name is None else None
            name = await carrier.open(own, accept) or name
            extra = {"event": "carrier_open", "node": name or self.name}
            logger.log(self._trust.log_level, "%s", carrier.describe(), extra=extra)
        if name is None:
            text = f"{self.name} cannot start: no carrier here is for such a name"
            raise StartError(text, Cause.SETTING)
        return name

    def _obstacle(self, error: Exception) -> str:
        """In one line; what is wrong with a socket, with the address that it was to have."""
        text = str(getattr(error, "strerror", None) or error)
        address = self._own.name.address
        where = self._own.listen
        if where is None and address is not None:
            where = (address.host, address.port)
        if where is None or not isinstance(error, OSError):
            return text
        host, port = where
        return f"[{host}]:{port}: {text}" if ":" in host else f"{host}:{port}: {text}"

    async def _give_up(self, life: _Life) -> None:
        life.connections.close()
        await self._close_carriers(0)

    async def _close_carriers(self, timeout: float) -> None:
        for carrier in self._carriers:
            await carrier.close(timeout)

    async def stop(self) -> None:
        """Ends it: processes with reason `shutdown`, then waits, at most `NodeLimits.stop_timeout`
        seconds, until what was sent is acknowledged, then closes all connections. Does nothing in
        a forked child, to which the node does not belong."""
        life = self._life
        if life is None or life.system.affinity.is_of_parent:
            return
        life.system.affinity.check()
        try:
            await life.end()
        finally:
            self._life = None
            self._exports.close()
            await self._close_carriers(1.0)
        extra = {"event": "node_stopped", "node": self.name}
        logger.info("%s has stopped", self.name, extra=extra)

    async def drain(self, timeout: float | None = 5.0) -> bool:
        """Lets the work that others have given to this node end, before `stop`.

        New calls from other nodes are refused with the reason `draining`: erpc and rpc calls,
        spawn requests, gen calls of exported modules and of processes here. Members of `pg` groups
        leave them, so that others find other nodes. Calls that run go on, and so do our own
        calls, connections, and messages. Waits until those have ended, at most `timeout` seconds,
        5 by default, None for ever. Whether all have ended. Raises NotRunning.
        """
        check_timeout(timeout)
        system = self._running.system
        extra = {"event": "node_draining", "node": self.name}
        logger.info("%s is draining: new calls are refused", self.name, extra=extra)
        left = await system.drain(timeout)
        if left:
            extra = {"event": "node_not_drained", "node": self.name}
            text = "%s: calls that have not ended within %g s: %d"
            logger.warning(text, self.name, timeout or 0, left, extra=extra)
        return not left

    def change_cookies(self, cookies: Sequence[str]) -> None:
        """For connections made from now on: the first is offered to those that we dial, all are
        accepted of those that dial us. To change a cluster's cookie, give every node the old and
        the new one, then the new and the old one, then the new one alone. Raises CookieError.
        """
        self._cookies = check_cookies(cookies)
        if self._life is not None:
            self._life.connections.change_cookies(self._cookies)
        extra = {"event": "cookies_changed", "node": self.name}
        logger.info("%s has other cookies: %d", self.name, len(self._cookies), extra=extra)

    def recheck_peers(self) -> None:
        """Looks again at the certificates of all connected nodes, and ends the connections of those
        that are not believed any more. It happens by itself, within some seconds, when a file of
        `Trust` has changed. Raises NotRunning."""
        self._running.connections.recheck()

    def rebind(self) -> None:
        """Opens a new socket, at the same address where that is still ours, and moves what can
        move: over QUIC the connections that we dialled, whose peers notice nothing. Those made to
        us go on where our address has not changed, and else end with `nodedown`. It happens by
        itself when the address goes away; call it when the way to the others has changed.

        Raises OSError where no socket can be had, NotRunning.
        """
        assert self._running
        for carrier in self._carriers:
            carrier.rebind()

    async def __aenter__(self) -> Node:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # -- who it is -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """`port@ip`, or `name@host`."""
        return self._name

    @property
    def creation(self) -> int:
        """This incarnation: 32 bits, above 3, new at each start. Raises NotRunning."""
        return self._running.system.identifiers.creation

    @property
    def system(self) -> ProcessTable:
        """Its processes and the signals between them, for what is built on top of a node.
        Raises NotRunning."""
        return self._running.system

    @property
    def global_names(self) -> GlobalNames:
        """The names of the cluster that a visible node is part of, as `global` has them.
        Raises NotVisible, NotRunning."""
        names = self._running.global_names
        if names is None:
            raise NotVisible(f"{self.name} is hidden and so no part of `global`: make it visible")
        return names

    @property
    def pid(self) -> Pid:
        """The process that sends and calls for code that is no process. Raises NotRunning."""
        return self._running.caller.pid

    # -- processes -------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def mailbox(
        self, name: str | None = None, *, limits: MailboxLimits | None = None
    ) -> AsyncIterator[Mailbox]:
        """A process that lives as long as the body of the `async with`, registered as `name`.

        How the body ends is its exit reason. Ended by an exit signal, the body is cancelled and
        ProcessExited raised. Raises NameTaken.
        """
        system = self._running.system
        me = Mailbox(system, limits or self._limits.mailbox)
        async with me:
            if name is not None:
                system.register(name, me)
            yield me

    def spawn(self, main: Main, *, name: str | None = None, link: Mailbox | None = None) -> Mailbox:
        """Starts a process that runs `main(mailbox)`, an async function, linked to the process
        `link` from its first moment. Raises NameTaken.

        An exit signal cancels it; how it ends is the exit reason. An error in it is logged.
        """

        def before(me: Mailbox) -> None:
            if link is not None:
                link.link(me.pid)

        return self._running.spawner.spawn(main, name=name, before=before)

    @contextlib.asynccontextmanager
    async def group_leader(self, write: Write) -> AsyncIterator[Pid]:
        """A process to print to, as long as the body of the `async with`: what comes goes to
        `write(text)`, a plain function. Give its pid to `Mailbox.spawn_remote` or
        `Mailbox.set_group_leader`. What is printed to no such process, `printed` of the node has.
        """
        life = self._running
        leader = GroupLeader(life.system, write, life.apply)
        try:
            yield leader.pid
        finally:
            leader.close()

    def register(self, name: str, pid: Pid) -> None:
        """Gives a process of this node a name. Raises NameTaken, NoProcess."""
        system = self._running.system
        process = system.processes.get(pid)
        if process is None:
            raise NoProcess(f"{pid} is no process of this node")
        system.register(name, process)

    def unregister(self, name: str) -> None:
        """Takes a name away. Raises NoProcess."""
        self._running.system.unregister(name)

    def whereis(self, name: str) -> Pid | None:
        """The process registered here under a name."""
        process = self._running.system.names.get(Atom(name))
        return None if process is None else process.pid

    async def send(self, to: Destination, message: Term) -> None:
        """Sends a message to a pid, an alias, a name here, or a (name, node).

        See `Mailbox.send`; the sender is the node's own process. Raises NoConnection, NoProcess,
        EtfEncodeError.
        """
        life = self._running
        waits = life.system.send(life.system.route(life.caller.pid, to), message)
        if waits is not None:
            await waits

    # -- other nodes -----------------------------------------------------------------------------

    async def ping(self, node: str, *, timeout: float | None = 5.0) -> bool:
        """Whether the node answers, connecting first: as `net_adm:ping`. 5 s by default.

        Why not is in the log, and what `connect` raises. Raises NodeNameError.
        """
        return await self._running.caller.ping(check_atom("node", node), timeout)

    async def call(
        self,
        node: str,
        module: str,
        function: str,
        args: Sequence[Term] = (),
        *,
        timeout: float | None = 5.0,
    ) -> Term:
        """Calls a function on a node, as `erpc:call`, and returns what it returns. 5 s by default,
        None waits for ever.

        Raises CallError when it does not return, CallTimeout, NoConnection, CallNotPossible from
        a node older than OTP 23 (see `rpc`), MailboxFull when a full mailbox of this node stands
        in the way of the answer.
        """
        caller = self._running.caller
        request = _request(node, module, function, args)
        with arguments_of(module, function, args, IN_ERPC_CALL):
            return await caller.erpc(*request, timeout)

    def send_request(
        self, node: str, module: str, function: str, args: Sequence[Term] = ()
    ) -> CallRequest:
        """Calls a function on a node and returns at once, as `erpc:send_request`: the answer, or
        the error that `call` raises, is `await request.receive_response()`. Raises
        EtfEncodeError."""
        return self._running.caller.erpc_request(*_request(node, module, function, args))

    async def multicall(
        self,
        nodes: Iterable[str],
        module: str,
        function: str,
        args: Sequence[Term] = (),
        *,
        timeout: float | None = 5.0,
    ) -> list[Term | NodeError]:
        """Calls a function on many nodes at once, as `erpc:multicall`: for each node, in order,
        what it returned, or the error that `call` would have raised. 5 s by default.

        Raises NotRunning.
        """
        assert self._running

        args = check_args(args)

        async def one(node: str) -> Term | NodeError:
            try:
                return await self.call(node, module, function, args, timeout=timeout)
            except NodeError as error:
                return error

        return list(await asyncio.gather(*map(one, check_nodes(nodes))))

    async def cast(self, node: str, module: str, function: str, args: Sequence[Term] = ()) -> None:
        """Has a function run on a node, as `erpc:cast`, connecting first where needed. What comes
        of it is not said, nor whether the node is there. Raises EtfEncodeError."""
        caller = self._running.caller
        request = _request(node, module, function, args)
        with (
            contextlib.suppress(NoConnection),
            arguments_of(module, function, args, IN_ERPC_CAST),
        ):
            await caller.cast(*request)

    async def rpc(
        self,
        node: str,
        module: str,
        function: str,
        args: Sequence[Term] = (),
        *,
        timeout: float | None = 5.0,
    ) -> Term:
        """Calls a function through the node's `rex` server, as `rpc:call` of every OTP. 5 s by
        default, None waits for ever.

        What it prints goes to that node's console. A thrown term is returned, as rpc does.
        Raises CallError (also for `{badrpc, Reason}`), CallTimeout, NoConnection, NoProcess.
        """
        caller = self._running.caller
        request = _request(node, module, function, args)
        with arguments_of(module, function, args, IN_REX_CALL):
            return await caller.rpc(*request, timeout)

    async def gen_call(
        self, to: Pid | str | tuple[str, str], request: Term, *, timeout: float | None = 5.0
    ) -> Term:
        """Calls a gen_server or gen_statem, an Elixir GenServer or one of ours, as
        `gen_server:call/3`: a pid, a name here, or a (name, node). 5 s by default, None waits
        for ever. The caller is the node's own process; see `Mailbox.gen_call` for another.

        Raises NoProcess, NoConnection, CallTimeout, CallError when the server ends meanwhile,
        MailboxFull when a full mailbox of this node stands in the way of the answer.
        """
        life = self._running
        return await life.caller.gen_call(server_of(to, life.system.name), request, timeout)

    def gen_send_request(self, to: Pid | str | tuple[str, str], request: Term) -> CallRequest:
        """Calls a server and returns at once, as `gen_server:send_request`: the answer, or the
        error that `gen_call` raises, is `await request.receive_response()`. Raises
        EtfEncodeError."""
        life = self._running
        return life.caller.gen_request(server_of(to, life.system.name), request)

    async def gen_cast(self, to: Pid | str | tuple[str, str], request: Term) -> None:
        """Sends a request that is not answered, as `gen_server:cast/2`, connecting first where
        needed. Whether anybody is there is not said. Raises EtfEncodeError."""
        with contextlib.suppress(NoConnection, NoProcess):
            await self.send(to, (GEN_CAST, request))

    async def multi_call(
        self,
        nodes: Iterable[str],
        name: str,
        request: Term,
        *,
        timeout: float | None = 5.0,
    ) -> tuple[dict[str, Term], list[str]]:
        """Calls the servers of one name on many nodes at once, as `gen_server:multi_call/4`.

        Returns the answers by node, and the nodes that have not given one: no connection, no
        such process, it ended meanwhile, or it was too slow. 5 s by default.
        """

        async def one(node: str) -> tuple[Term] | None:
            try:
                return (await self.gen_call((name, node), request, timeout=timeout),)
            except (NoConnection, NoProcess, CallError, CallTimeout, NodeNameError):
                return None

        asked = list(dict.fromkeys(check_nodes(nodes)))
        answers = await asyncio.gather(*map(one, asked))
        found = {
            node: answer[0]
            for node, answer in zip(asked, answers, strict=True)
            if answer is not None
        }
        return found, [node for node in asked if node not in found]

    async def connect(self, node: str, *, retry: Retry | None = None) -> None:
        """Connects, if there is no connection yet. Raises NoConnection with the reason.

        Waits at most `NodeLimits.connect_timeout` seconds, 7 by default; with `retry` it is tried
        again, as that says.
        """

        async def attempt() -> None:
            await self._running.connections.connect(Atom(node))

        await (attempt() if retry is None else retry.connect(attempt))

    def disconnect(self, node: str) -> bool:
        """Ends the connection to a node, at once. True when there was one."""
        return self._running.connections.disconnect(Atom(node))

    def nodes(self, *, hidden: bool = True) -> list[str]:
        """The nodes we are connected to; without `hidden` ones, what `nodes()` shows in Erlang."""
        up = self._running.connections.up
        return [str(name) for name, peer in up.items() if hidden or not peer.is_hidden]

    def peer(self, node: str) -> PeerInfo:
        """A node that we are connected to, and by what. Raises NoConnection when we are not."""
        peer = self._running.connections.up.get(Atom(node))
        if peer is None:
            raise NoConnection(node, "not connected", Cause.NOT_CONNECTED)
        return peer_info(peer)

    def stats(self) -> NodeStatistics:
        """The node at this moment, with what it has counted since its start: its processes, its
        connections one by one, whom it refused and why. Raises NotRunning.

        It is made when asked for, and takes about 1 us a process and 10 us a connection.
        """
        return self._running.statistics()

    def events(self) -> Subscription:
        """NodeUp and NodeDown from now on: `with node.events() as events: async for ...`."""
        return Subscription(self._events)

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _running(self) -> _Life:
        if self._life is None:
            raise NotRunning(f"{self.name} is not running: use it inside `async with Node(...)`")
        if self._life.lost_name is not None:
            raise NotRunning(f"{self.name} has lost its name: {self._life.lost_name}")
        self._life.system.affinity.check()
        return self._life

    def _local(self) -> LocalNode:
        """Who we are, as far as we know it before the start."""
        flags = DEFAULT_FLAGS if self._own.is_hidden else DEFAULT_FLAGS | Flag.PUBLISHED
        if self._named_by is None:
            return LocalNode(self.name, 0, flags, self._cookies[0], self._cookies[1:])
        flags |= Flag.NAME_ME
        return LocalNode(self._own.name.host, 0, flags, self._cookies[0], self._cookies[1:])


def _request(
    node: str, module: str, function: str, args: Sequence[Term]
) -> tuple[Atom, Atom, Atom, list[Term]]:
    """What is called where. Raises TypeError."""
    return (
        check_atom("node", node),
        check_atom("module", module),
        check_atom("function", function),
        check_args(args),
    )


class _Life:
    """One incarnation of a node, between start and stop."""

    system: ProcessTable
    caller: Caller
    spawner: Spawner
    global_names: GlobalNames | None = None
    """A visible node's."""

    def __init__(
        self,
        limits: NodeLimits,
        access: Access,
        terms: etf.Options,
        book: Resolver,
        events: Events,
        exports: Exports,
        local: LocalNode,
        printed: Write | None,
    ) -> None:
        self.lost_name: str | None = None
        """Why it is over, for a node that was named by another."""
        self._watching: asyncio.Task[None] | None = None
        self._limits = limits
        self._access = access
        self._events = events
        self._exports = exports
        self._local = local
        self._log_lines = LogLines()
        self._printed = printed or self._log_lines
        self._carriers = book.carriers
        self._counters = NodeCounters()
        self._since = time.time()
        self.connections = Connections(book, self, limits, access, terms, self._counters)

    async def be_named(self, by: Atom) -> str:
        """Has a node give us a name, and begins with it. Raises NoConnection, NodeNameError."""
        await self.connections.be_named(by, self._local)
        return str(self.system.name)

    def begin(self, name: str, creation: int) -> None:
        """The name is known: the node's own processes start, peers are let in."""
        identifiers = Identifiers(Atom(name), creation)
        self.system = system = ProcessTable(identifiers, self.connections)
        self.spawner = Spawner(system, self._limits.mailbox)
        leader = GroupLeader(system, self._printed, self.apply)
        system.group_leader = leader.pid
        self.caller = Caller(system, leader.pid)
        system.reply_sink = self.caller.pid
        start_net_kernel(system, self._limits.net_ticktime)
        serving = RpcServer(
            system, self.spawner, self._exports, self._access, self._limits.calls_at_once
        )
        flags = self._local.flags & ~Flag.NAME_ME
        if Flag.PUBLISHED in flags:
            self.global_names = names = GlobalNames(
                system, self._caller_of_connected, self.connections.connect, self._disconnect
            )
            serving.provide("global", "resolve_it", names.conflicts.resolve_it)
        local = replace(self._local, name=name, creation=creation, flags=flags)
        self.connections.begin(local, system.handlers, partial(payload_refused, system))

    async def end(self) -> None:
        """Processes first, as they may have last words; then the connections."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.stop_timeout
        if self._watching is not None:
            self._watching.cancel()
        try:
            await self.spawner.stop(self._limits.stop_timeout / 2)
            for process in list(self.system.processes.values()):
                process.die(SHUTDOWN)
            await self.connections.drain(deadline - loop.time())
        finally:
            self._log_lines.end()
            self.connections.close()

    def watch_trust(self, verifier: Verifier) -> None:
        """Connections end whose peers a changed file says no more of."""
        watching = watch(verifier, self.connections.recheck)
        self._watching = asyncio.create_task(watching, name="watch trust")

    def statistics(self) -> NodeStatistics:
        """At this moment."""
        return node_statistics(
            self.system, self.connections, self._carriers, self._counters, self._since
        )

    async def apply(self, node: Atom, module: Atom, function: Atom, args: list[Term]) -> Term:
        """For a group leader: calls what formats."""
        return await self.caller.erpc(node, module, function, args, _FORMATTING)

    def _caller_of_connected(self) -> Caller:
        leader = self.system.group_leader
        assert leader is not None
        return ConnectedCaller(self.system, leader)

    def _disconnect(self, node: Atom) -> None:
        self.connections.disconnect(node)

    # -- told by connections --

    def peer_up(self, peer: Peer) -> None:
        """A link is up."""
        assert peer.name is not None
        rights = self._access.rights(peer.name, self._exports.modules)
        if not rights.is_everything:
            peer.guard = AccessFilter(peer.name, rights, self.system)
        host = peer.connection.peer_address[0]
        peer.gets_tracebacks = tracebacks.are_for(self._access.tracebacks, host)
        carrier = peer.connection.traits.name
        extra = {**peer.fields("peer_up"), "role": peer.connection.role.value}
        logger.info("%s is up (%s)", peer, carrier, extra=extra)
        self.system.node_changed(_NODEUP, peer.name, peer.is_hidden)
        self._events.publish(NodeUp(str(peer.name), peer.is_hidden, carrier))

    def peer_down(self, peer: Peer, reason: str) -> None:
        """A link is gone: whoever is tied to somebody there is told."""
        assert peer.name is not None
        level = logging.INFO if peer.ending is Ending.LEFT else logging.WARNING
        extra = {
            **peer.fields("peer_down"),
            "ending": peer.ending.value,
            "cause": peer.cause.value,
            "reason": reason,
        }
        logger.log(level, "%s is down: %s", peer, reason, extra=extra)
        why = _DOWN_REASONS.get(peer.ending, _CONNECTION_CLOSED)
        self.system.node_lost(peer.name)
        self.system.node_changed(_NODEDOWN, peer.name, peer.is_hidden, why)
        self._events.publish(NodeDown(str(peer.name), reason))

    def named(self, name: str, creation: int) -> None:
        """Another node has given us a name."""
        self.begin(name, creation)

    def name_lost(self, reason: str) -> None:
        """Nobody can know any more who we are: it is over, and everybody here is told."""
        extra = {"event": "name_lost", "node": str(self.system.name), "reason": reason}
        logger.error("%s has lost its name: %s", self.system.name, reason, extra=extra)
        self.lost_name = reason
        for process in list(self.system.processes.values()):
            process.die(NOCONNECTION)
        self.connections.close()

    def unreachable(self, node: Atom, reason: str, cause: Cause) -> None:
        """Signals waited for a connection that did not come up."""
        extra = {
            "event": "peer_unreachable",
            "node": str(self.system.name),
            "peer": str(node),
            "cause": cause.value,
            "reason": reason,
        }
        logger.warning("%s cannot be reached: %s", node, reason, extra=extra)
        self.system.node_lost(node)

    def probe(self, peer: Peer) -> None:
        """Asks what every node answers; that anything comes back is enough."""
        assert peer.name is not None
        asker = (self.caller.pid, self.system.identifiers.reference())
        self.caller.ask(peer.name, NET_KERNEL, is_auth_call(asker, self.system.name))
