"""`Node`: a Python program as a node of an Erlang cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType

from quicdist import etf
from quicdist.carriers import causes
from quicdist.carriers.epmd import EpmdError
from quicdist.carriers.relay.client import RelayStatus
from quicdist.carriers.trust import CertificateError, Credentials, Identity, Trust
from quicdist.carriers.trust.expiry import watch_expiry
from quicdist.carriers.trust.file_watcher import watch
from quicdist.cluster import tracebacks
from quicdist.cluster.access import Access, AccessControl, AccessGiven
from quicdist.cluster.access_filter import AccessFilter
from quicdist.cluster.audit import Audit, PeerIdentity
from quicdist.cluster.carrier import Accept, Carrier, CarrierSettings, ListenerSettings
from quicdist.cluster.connection_manager import Connections
from quicdist.cluster.cookie import check_cookies, find_cookie
from quicdist.cluster.lan import Announcement, Lan, LocalHosts, check_announced
from quicdist.cluster.lookup import DEFAULT_LOOKUPS, Lookup
from quicdist.cluster.names import NodeName, facing, parse_listen
from quicdist.cluster.peer import Peer
from quicdist.cluster.quic import Quic
from quicdist.cluster.resolver import Resolver
from quicdist.cluster.retry import Retry
from quicdist.cluster.short_names import ShortNames
from quicdist.cluster.tls import tcp_or_tls
from quicdist.cluster.via import Via, check_via_name, parse_via
from quicdist.errors import (
    CallError,
    CallTimeout,
    Cause,
    ErlangError,
    NoConnection,
    NodeError,
    NodeNameError,
    NoProcess,
    NotRunning,
    NotVisible,
    StartError,
)
from quicdist.etf import Atom, Pid, Term
from quicdist.kernel import introspection
from quicdist.kernel.caller import Caller, ConnectedCaller
from quicdist.kernel.current_call import remaining
from quicdist.kernel.exports import Exports
from quicdist.kernel.global_.names import GlobalNames
from quicdist.kernel.group_leader import GroupLeader, LogLines, Write
from quicdist.kernel.introspection import Introspection
from quicdist.kernel.net_kernel import NET_KERNEL, is_auth_call, start_net_kernel
from quicdist.kernel.rpc_server import RpcServer
from quicdist.kernel.streams.consumer import OfferedStream, Origin, RemoteFunction, Stream
from quicdist.kernel.streams.messages import Offer
from quicdist.kernel.streams.producer import offered
from quicdist.kernel.streams.window import DEFAULT_WINDOW, StreamWindow
from quicdist.limits import MailboxLimits, NodeLimits
from quicdist.node.events import Events, NodeDown, NodeUp, Subscription
from quicdist.node.info import (
    NodeStatistics,
    PeerInfo,
    connection_term,
    node_statistics,
    peer_info,
)
from quicdist.protocol.flags import DEFAULT_FLAGS, Flag
from quicdist.protocol.handshake import LocalNode
from quicdist.runtime.affinity import check_loop
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
from quicdist.setting_types import Port, check_arguments, check_type

logger = logging.getLogger("quicdist.node")

_NODEUP = Atom("nodeup")
_NODEDOWN = Atom("nodedown")

_CONNECTION_CLOSED = Atom("connection_closed")
_DOWN_REASONS = {
    Ending.LEFT: Atom("disconnect"),
    Ending.TICK_TIMEOUT: Atom("net_tick_timeout"),
}
"""The values of `nodedown_reason` in `net_kernel:monitor_nodes/2`."""

_EXPECTED_ENDINGS = (Ending.LEFT, Ending.SUPERSEDED)
"""Endings that are logged as information, not as a warning."""

_CLOSE_TIME = 1.0
"""Seconds to wait for the last packets of connections, and for a router to delete a mapping."""

_FORMATTING = 5.0
"""Seconds that a remote node has to format a term which it prints here."""


class Node:
    """A node of an Erlang cluster. It runs inside `async with`, or between `start` and `stop`.

        async with Node("4433@127.0.0.1", cookie="secret") as node:
            assert await node.ping("5555@127.0.0.1")

    Parameters:

    - `name`: the name of this node, which determines how others reach it. `port@ip` listens for
      QUIC on that UDP port of that address; port 0 selects a free port, and the name changes
      accordingly. Any other `name@host` listens on TCP and registers in the EPMD of the host. A
      node connects to nodes of both kinds, independent of its own name.
    - `named_by`: the node that gives this one its name, instead of `name`. Use it for nodes behind
      NATs. The node then only dials and is hidden, so `listen` and `visible` are not allowed.
      `name` is omitted or gives the host, as in "@site7". When the connection to the naming node is
      lost, all processes end with `noconnection`, and the node must be started again.
    - `via`: a relay, or several in order, for a node behind a NAT that others can dial. The node
      is called `port@relay`: the first relay that answers gives it a port of its own address, and
      the same one after a restart. `"4433@203.0.113.10"` is a relay, `"4433@203.0.113.10/8443"` one
      whose TCP port for networks without UDP is not 443, and `"relays.example.org"` a domain whose
      SRV records list relays. `name` is omitted, or `port@relay` asks for that port, and `0@relay`
      for a temporary one, which the relay does not keep: for a program that runs beside a node with
      the same key. See the page "Nodes behind NATs".
    - `path`: which paths connections to nodes with `via` may take, `auto`, `direct-only` or
      `relay-only`; see `Quic.path`. With `carriers`, use `Quic(path=...)`.
    - `cookie`: the cookie of the cluster, or several. The first is offered to nodes that this node
      dials, all are accepted from nodes that dial it. Default: that of `~/.erlang.cookie`.
    - `listen`: the address to bind if it differs from the name, behind a NAT or in a container, as
      `"0.0.0.0:4433"` or `("0.0.0.0", 4433)`.
    - `visible`: whether the node appears in `nodes()` of others and takes part in `global`. A
      visible node connects to all visible nodes of the cluster, so all of them must be able to
      reach it. Default: False. A hidden node appears in `nodes(hidden)` only.
    - `exports`: functions marked with `@export`, and modules or objects that contain some. Other
      nodes can call them. Each exported module is also a registered process for `gen_server:call`.
    - `carriers`: the transports, by default `Quic()` and `Tcp()`, or `Quic()` and `Tls()` if
      `trust` is by authority or pins.
    - `lookups`: how the address of a node is found, in order. Default: `PortInName()`, `Epmd()`.
    - `identity`: the key and certificate of this node. Default: quicdist creates a key on first
      start and keeps it.
    - `trust`: which keys and certificates of peers are accepted. Default: `Trust.first_use()`,
      which trusts a node's key on first use and rejects any other key for that name later.
    - `access`: which nodes may connect, and what each may call and do: an `Access`, a `Policy`, or
      the path of a policy file. Default: `Access()`, which allows everything.
    - `audit`: whether each call and refusal is logged to `quicdist.audit`. Default: False.
    - `limits`: bounds on memory and time. Default: `NodeLimits()`.
    - `terms`: options of decoding, such as binaries as `str`.
    - `lan`: announces the node in the local network by multicast DNS, and finds nodes there that
      `lookups` do not. Requires a name `port@ip` or `port@host`, and the extra `lan`. Default:
      None.
    - `on_output`: a function `on_output(text)` for the output of functions that this node calls on
      others. Default: the output goes to the log `quicdist.io`.

    A node belongs to the event loop in which it was started. Used from another event loop or
    thread, its methods raise RuntimeError. In a forked child its sockets are closed and its methods
    raise NotRunning; create a node after the fork.

    Raises NodeNameError, CookieError, ExportError or PolicyError. `start` and `async with` also
    raise StartError.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        named_by: str | None = None,
        via: Via | None = None,
        path: str | None = None,
        cookie: str | Sequence[str] | None = None,
        listen: str | tuple[str, Port] | None = None,
        visible: bool = False,
        exports: Iterable[object] = (),
        carriers: Sequence[CarrierSettings] | None = None,
        lookups: Sequence[Lookup] = DEFAULT_LOOKUPS,
        identity: Identity | None = None,
        trust: Trust | None = None,
        access: AccessGiven | None = None,
        limits: NodeLimits | None = None,
        terms: etf.Options = etf.DEFAULT,
        on_output: Write | None = None,
        printed: Write | None = None,
        audit: bool = False,
        lan: Lan | None = None,
    ) -> None:
        check_arguments(Node.__init__, locals())
        where = None if listen is None else parse_listen(listen)
        relays = () if via is None else parse_via(via)
        if relays and named_by is not None:
            raise NodeNameError("named_by= excludes via=")
        if relays:
            own = NodeName.own(name) if name else NodeName.unnamed(f"@{relays[0].host}")
            if name and own.address is None:
                raise NodeNameError(f"invalid name {name!r} with via=: expected port@relay")
            if name:
                check_via_name(name, relays)
        elif named_by is None:
            own = NodeName.own(name or "")
        else:
            own = NodeName.unnamed(name or facing(named_by))
            if where is not None or visible:
                raise NodeNameError("named_by= excludes listen= and visible=True")
        self._named_by = named_by
        self._limits = limits or NodeLimits()
        self._own = ListenerSettings(own, where, not visible, relays, self._limits.connect_timeout)
        self._name = str(own)
        if cookie is None or isinstance(cookie, str):
            self._cookies: tuple[str, ...] = (find_cookie(cookie),)
        else:
            self._cookies = check_cookies(cookie)
        self._terms = terms
        if printed is not None:
            warnings.warn("Node(printed=) is now Node(on_output=)", DeprecationWarning, 2)
        self._on_output = on_output or printed
        self._exports = Exports(exports, self._limits.threads, self._limits.processes)
        if lan is not None:
            if name or not relays:  # otherwise the relay gives the name
                check_announced(str(own))
            lookups = (LocalHosts(lan), *lookups, lan)
        self._lan = lan
        self._announcement: Announcement | None = None
        self._lookups = lookups
        self._short_names = ShortNames(lookups)
        self._access = AccessControl(Access.of(access))
        self._is_audited = audit
        # With port 0 the name differs at each start, so the certificate does not contain the host.
        is_lasting = own.address is None or own.address.port
        hosts = list(dict.fromkeys([own.host, *(one.host for one in relays)]))
        self._trust = trust or Trust.first_use()
        self._credentials = credentials = Credentials(
            identity, self._trust, hosts if is_lasting else []
        )
        if carriers is None:
            quic = Quic() if path is None else Quic(path=path)
            carriers = (quic, tcp_or_tls(self._trust))
        elif path is not None:
            raise NodeError("path= excludes carriers=: use Quic(path=...)")
        self._carriers: Sequence[Carrier] = [one.make(credentials) for one in carriers]
        self._events = Events()
        self._life: _Life | None = None

    # -- start and stop ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the node: opens its sockets and accepts connections.

        Each start is a new incarnation. Pids of an earlier one are no longer valid.

        Raises StartError.
        """
        if self._life is not None:
            self._life.system.affinity.check()
            raise StartError(f"{self.name} is running already", Cause.NAME_TAKEN)
        check_loop(f"{self.name} cannot start")
        resolver = Resolver(self._carriers, self._lookups, self._log_carrier)
        life = _Life(
            self._limits,
            self._access,
            self._terms,
            resolver,
            self._events,
            self._exports,
            self._local(),
            self._on_output,
            is_audited=self._is_audited,
        )
        try:
            self._name = await self._open_carriers(resolver, life.connections.accept)
            if self._named_by is None:
                if not self._own.via:
                    self._own = replace(self._own, name=NodeName.own(self._name))
                life.begin(self._name, new_creation())
            else:
                self._name = await life.be_named(Atom(self._named_by))
        except (OSError, CertificateError, EpmdError, ValueError) as error:
            await self._give_up(life)
            who = f"a node at {self.name[1:]}" if self.name.startswith("@") else self.name
            text = f"{who} cannot start: {self._obstacle(error)}"
            raise StartError(text, causes.of_error(error)) from error
        except BaseException:
            await self._give_up(life)
            raise
        self._life = life
        self._announce()
        life.watch_trust(self._credentials)
        self._credentials.say_objection(self.name)
        logger.info("%s is up", self.name, extra={"event": "node_up", "node": self.name})

    def _announce(self) -> None:
        """Announces the node in the local network if `lan` is given."""
        if self._lan is None:
            return
        found = (carrier.bound() for carrier in self._carriers)
        host, port = next(one for one in found if one is not None)
        self._announcement = Announcement(self._lan, self._name, host, port)

    async def _open_carriers(self, book: Resolver, accept: Accept) -> str:
        """Opens the carriers and returns the name of this node.

        The first carrier that supports the name listens; the others only dial.
        """
        name = None if self._named_by is None else self._name
        for carrier in self._carriers:
            own = self._own if name is None else None
            listens_as = await carrier.open(own, accept)
            if listens_as is not None:
                self._name = name = listens_as
                book.use(carrier)
        if name is None:
            text = f"{self.name} cannot start: no carrier of this node supports that form of name"
            raise StartError(text, Cause.SETTING)
        return name

    def _log_carrier(self, carrier: Carrier) -> None:
        """Logs the security of a carrier. Called at its first use."""
        extra = {"event": "carrier_open", "node": self.name}
        logger.log(self._trust.log_level, "%s", carrier.describe(), extra=extra)

    def _obstacle(self, error: Exception) -> str:
        """Describes an error of the start in one line, with the address if it concerns a socket."""
        text = str(getattr(error, "strerror", None) or error)
        address = self._own.name.address
        where = self._own.listen
        if where is None and address is not None:
            where = (address.host, address.port)
        if where is None or self._own.via or not isinstance(error, OSError):
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
        """Stops the node.

        All processes end with the reason `shutdown`. The node then waits until peers have
        acknowledged what was sent, at most `NodeLimits.stop_timeout` seconds, and closes all
        connections. In a forked child this does nothing.
        """
        life = self._life
        if life is None or life.system.affinity.is_of_parent:
            return
        life.system.affinity.check()
        announcement, self._announcement = self._announcement, None
        if announcement is not None:
            await announcement.close()
        self._short_names.close()
        try:
            await life.end()
        finally:
            self._life = None
            self._exports.close()
            await self._close_carriers(_CLOSE_TIME)
        extra = {"event": "node_stopped", "node": self.name}
        logger.info("%s has stopped", self.name, extra=extra)

    async def drain(self, timeout: float | None = 5.0) -> bool:
        """Refuses new work from other nodes and waits until running work has ended.

        New calls from other nodes fail with the reason `draining`: erpc and rpc calls, spawn
        requests, and gen calls to processes of this node. Members of `pg` groups leave them, so
        that callers find other nodes. Running calls, connections, messages and calls that this node
        makes continue.

        Waits at most `timeout` seconds, or for ever if it is None. Returns whether all calls have
        ended. Call `stop` next. Raises NotRunning.
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
        """Replaces the cookies for new connections.

        The first cookie is offered to nodes that this node dials. All are accepted from nodes that
        dial it. To change the cookie of a cluster, set the cookies of every node to the old and the
        new one, then to the new and the old one, then to the new one.

        Raises CookieError.
        """
        if self._life is not None:
            self._life.system.affinity.check()
        check_type("cookies=", cookies, Sequence[str])
        self._cookies = check_cookies(cookies)
        if self._life is not None:
            self._life.connections.change_cookies(self._cookies)
        extra = {"event": "cookies_changed", "node": self.name}
        logger.info("%s has changed its cookies: %d", self.name, len(self._cookies), extra=extra)

    def change_access(self, access: AccessGiven) -> None:
        """Replaces the access rules, also for connected nodes.

        Nodes that may no longer be connected are disconnected. Raises PolicyError; the rules are
        then unchanged.
        """
        if self._life is not None:
            self._life.system.affinity.check()
        check_type("access=", access, AccessGiven)
        self._access.change(Access.of(access))
        if self._life is not None:
            self._life.access_changed()
        extra = {"event": "access_changed", "node": self.name}
        logger.info("%s has changed its access rules", self.name, extra=extra)

    def recheck_peers(self) -> None:
        """Verifies the certificates of all connected peers again.

        Connections to peers that are no longer trusted end. A change of a file of `Trust` triggers
        this within seconds.

        Raises NotRunning.
        """
        self._running.connections.recheck()

    def rebind(self) -> None:
        """Opens a new socket, at the same address if this machine still has it.

        QUIC connections that this node dialed move to the new socket, and their peers notice
        nothing. Connections that peers dialed continue if the address has not changed, and end with
        `nodedown` otherwise. The node rebinds when its address disappears. Call this method when
        the route to the peers has changed.

        Raises OSError if no socket can be opened, and NotRunning.
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

    # -- properties ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of this node: `port@ip` or `name@host`."""
        return self._name

    @property
    def creation(self) -> int:
        """The number of this incarnation, 32 bits, new at each start. Raises NotRunning."""
        return self._running.system.identifiers.creation

    @property
    def system(self) -> ProcessTable:
        """The process table, for libraries that extend a node. Raises NotRunning."""
        return self._running.system

    @property
    def global_names(self) -> GlobalNames:
        """The names in `global`, as this visible node knows them. Raises NotVisible, NotRunning."""
        names = self._running.global_names
        if names is None:
            raise NotVisible(f"{self.name} is hidden: `global` requires visible=True")
        return names

    @property
    def pid(self) -> Pid:
        """The process that sends and calls for `Node.send`, `Node.call` and similar methods.

        Raises NotRunning.
        """
        return self._running.caller.pid

    # -- processes -------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def mailbox(
        self, name: str | None = None, *, limits: MailboxLimits | None = None
    ) -> AsyncIterator[Mailbox]:
        """Creates a process that lives as long as the body of the `async with`.

            async with node.mailbox("counter") as me:
                message = await me.receive()

        `name` registers the process. `limits` replace those of the node. The process exits with
        `normal` when the body ends, or with the exception that ends it. An exit signal cancels the
        body, and the `async with` raises ProcessExited.

        Raises NameTaken, NotRunning.
        """
        check_type("limits=", limits, MailboxLimits | None)
        system = self._running.system
        me = Mailbox(system, limits or self._limits.mailbox)
        async with me:
            if name is not None:
                system.register(name, me)
            yield me

    def spawn(self, main: Main, *, name: str | None = None, link: Mailbox | None = None) -> Mailbox:
        """Starts a process that runs the async function `main(mailbox)`, and returns its mailbox.

        `name` registers the process. `link` links it to another process from its first moment. The
        process exits with `normal` when `main` returns, or with the exception that it raises, which
        is logged. An exit signal cancels `main`.

        Raises NameTaken, NotRunning.
        """

        def before(me: Mailbox) -> None:
            if link is not None:
                link.link(me.pid)

        return self._running.spawner.spawn(main, name=name, before=before)

    @contextlib.asynccontextmanager
    async def group_leader(self, write: Write) -> AsyncIterator[Pid]:
        """Creates a process that other processes print to.

        It exists while the body of the `async with` runs, and passes the text to `write(text)`, a
        plain function. Pass its pid to `Mailbox.spawn_remote` or `Mailbox.set_group_leader`. Text
        that is printed to no such process goes to the parameter `on_output` of the node.
        """
        life = self._running
        leader = GroupLeader(life.system, write, life.apply)
        try:
            yield leader.pid
        finally:
            leader.close()

    def register(self, name: str, pid: Pid) -> None:
        """Registers a process of this node under a name. Raises NameTaken, NoProcess."""
        system = self._running.system
        process = system.processes.get(pid)
        if process is None:
            raise NoProcess(f"{pid} is not a process of this node")
        system.register(name, process)

    def unregister(self, name: str) -> None:
        """Removes a registered name. Raises NoProcess."""
        self._running.system.unregister(name)

    def whereis(self, name: str) -> Pid | None:
        """Returns the pid of the process registered under a name on this node, or None."""
        process = self._running.system.names.get(Atom(name))
        return None if process is None else process.pid

    async def send(self, to: Destination, message: Term) -> None:
        """Sends a message to a pid, an alias, a registered name here, or a (name, node) tuple.

        The sender is `Node.pid`. See `Mailbox.send`.

        Raises NoConnection, NoProcess, EtfEncodeError.
        """
        life = self._running
        waits = life.system.send(life.system.route(life.caller.pid, to), message)
        if waits is not None:
            await waits

    # -- other nodes -----------------------------------------------------------------------------

    async def ping(self, node: str, *, timeout: float | None = 5.0) -> bool:
        """Returns whether a node answers, as `net_adm:ping`. Connects first if necessary.

        Waits at most `timeout` seconds. The log has the reason if the node does not answer.

        Raises NodeNameError.
        """
        if _is_short(node):
            try:
                node, timeout = await self._node_named(node, timeout)
            except NoConnection as error:
                self._running.unreachable(Atom(node), error.reason, error.cause)
                return False
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
        """Calls a function on another node, as `erpc:call`, and returns its result.

            await node.call("5555@127.0.0.1", "lists", "seq", [1, 3])

        Connects first if necessary. Waits at most `timeout` seconds, or for ever if it is None.

        Raises CallError if the function raises or exits, CallTimeout, NoConnection, EtfEncodeError,
        CallNotPossible if the node is older than OTP 23 (use `rpc`), and MailboxFull if a full
        mailbox of this node blocks the answer.
        """
        if _is_short(node):
            node, timeout = await self._node_named(node, timeout)
        caller = self._running.caller
        request = _request(node, module, function, args)
        with arguments_of(module, function, args, IN_ERPC_CALL):
            return await caller.erpc(*request, timeout)

    def stream(
        self,
        node: str,
        module: str,
        function: str,
        args: Sequence[Term] = (),
        *,
        window: StreamWindow = DEFAULT_WINDOW,
        timeout: float | None = 5.0,
    ) -> Stream:
        """Calls an exported generator of another node and returns its items as they are made.

            async for token in node.stream("5555@10.0.0.7", "model", "generate", [prompt]):
                print(token)

        `window` bounds the items and bytes that are sent and not yet taken by the loop. When the
        loop ends, the generator is closed. The stream must start within `timeout` seconds. See
        `Stream` for what an iteration raises.
        """
        check_timeout(timeout)
        life = self._running
        leader = life.system.group_leader
        assert leader is not None
        request = _request(node, module, function, args)
        return life.stream(RemoteFunction(*request, leader, timeout), window)

    def open_stream(self, offer: Term, *, window: StreamWindow = DEFAULT_WINDOW) -> Stream:
        """Returns the items of a stream that another process offers.

        The offer is passed in a message or as an argument of a call. It can be opened once.

        Raises ValueError if the term is not the offer of a stream.
        """
        return self._running.stream(OfferedStream(Offer.from_term(offer)), window)

    @contextlib.asynccontextmanager
    async def offer_stream(
        self, items: Iterable[Term] | AsyncIterable[Term]
    ) -> AsyncIterator[Term]:
        """Offers items as a stream, inside the `async with`.

        Its value is the offer, a term that another process needs to open the stream.

            async with node.offer_stream(rows()) as offer:
                await node.call("5555@10.0.0.7", "Elixir.Sink", "load", [offer])

        An iterable that is not async runs in a thread.
        """
        async with self._running.offer(items) as offer:
            yield offer

    def send_request(
        self, node: str, module: str, function: str, args: Sequence[Term] = ()
    ) -> CallRequest:
        """Starts a call of a function and returns at once, as `erpc:send_request`.

        `await request.receive_response()` returns the answer, or raises what `call` raises.

        Raises EtfEncodeError.
        """
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
        """Calls a function on several nodes at once, as `erpc:multicall`.

        Returns one element for each node, in order: the result, or the exception that `call`
        raises.

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
        """Runs a function on another node without waiting for it, as `erpc:cast`.

        Connects first if necessary. Errors, including a failed connection, are not reported.

        Raises EtfEncodeError.
        """
        if _is_short(node):
            try:
                node, _ = await self._node_named(node, None)
            except NoConnection:
                return
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
        """Calls a function through the `rex` server of a node, as `rpc:call`.

        All OTP releases support it. Output of the function goes to the console of that node. A
        thrown term is returned, as `rpc:call` does. Waits at most `timeout` seconds, or for ever if
        it is None.

        Raises CallError (also for `{badrpc, Reason}`), CallTimeout, NoConnection, NoProcess.
        """
        if _is_short(node):
            node, timeout = await self._node_named(node, timeout)
        caller = self._running.caller
        request = _request(node, module, function, args)
        with arguments_of(module, function, args, IN_REX_CALL):
            return await caller.rpc(*request, timeout)

    async def gen_call(
        self, to: Pid | str | tuple[str, str], request: Term, *, timeout: float | None = 5.0
    ) -> Term:
        """Calls a server and returns its answer, as `gen_server:call/3`.

        The server is a gen_server, a gen_statem, an Elixir GenServer or a `quicdist.otp.GenServer`.
        `to` is a pid, a registered name of this node, or a (name, node) tuple. The caller is
        `Node.pid`; see `Mailbox.gen_call` to call from another process. Waits at most `timeout`
        seconds, or for ever if it is None.

        Raises NoProcess, NoConnection, CallTimeout, CallError if the server ends before it answers,
        and MailboxFull if a full mailbox of this node blocks the answer.
        """
        life = self._running
        return await life.caller.gen_call(server_of(to, life.system.name), request, timeout)

    def gen_send_request(self, to: Pid | str | tuple[str, str], request: Term) -> CallRequest:
        """Starts a call of a server and returns at once, as `gen_server:send_request`.

        `await request.receive_response()` returns the answer, or raises what `gen_call` raises.

        Raises EtfEncodeError.
        """
        life = self._running
        return life.caller.gen_request(server_of(to, life.system.name), request)

    async def gen_cast(self, to: Pid | str | tuple[str, str], request: Term) -> None:
        """Sends a server a request without an answer, as `gen_server:cast/2`.

        Connects first if necessary. A missing server or a failed connection is not reported.

        Raises EtfEncodeError.
        """
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
        """Calls the servers of one name on several nodes at once, as `gen_server:multi_call/4`.

        Returns the answers by node, and a list of the nodes without an answer: no connection, no
        such process, it ended, or it did not answer within `timeout` seconds.
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

    async def connect(self, node: str, *, retry: Retry | None = None) -> str:
        """Connects to a node unless it is connected, and returns its name.

        Waits at most `NodeLimits.connect_timeout` seconds, 7 by default. `retry` repeats failed
        attempts.

        A node with `lan=`, or with `Lan()` among its lookups, also finds a node of the local
        network by the short name with which it is announced. So do `ping`, `call`, `rpc`, `cast`
        and `multicall`. All other functions take the node name, which `connect` returns:

            app = await node.connect("app")

        Raises NoConnection with the reason.
        """
        check_type("retry=", retry, Retry | None)
        name = node

        async def attempt() -> None:
            nonlocal name
            if _is_short(node):
                name, _ = await self._node_named(node, self._limits.connect_timeout)
            await self._running.connections.connect(Atom(name))

        await (attempt() if retry is None else retry.connect(attempt))
        return name

    async def _node_named(self, name: str, timeout: float | None) -> tuple[str, float | None]:
        """Returns the node name for a short name, and what is left of `timeout` seconds.

        Raises NoConnection.
        """
        check_timeout(timeout)
        timeout = remaining(timeout)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        connections = self._running.connections
        found = await self._short_names.node_named(
            name, lambda node: connections.is_up(Atom(node)), timeout
        )
        return found, None if timeout is None else max(0.0, timeout - (loop.time() - begun))

    def disconnect(self, node: str) -> bool:
        """Closes the connection to a node at once. Returns whether there was one."""
        return self._running.connections.disconnect(Atom(node))

    def nodes(self, *, hidden: bool = True) -> list[str]:
        """Returns the names of the connected nodes.

        `hidden=False` omits hidden nodes, as `nodes()` in Erlang does.
        """
        up = self._running.connections.up
        return [str(name) for name, peer in up.items() if hidden or not peer.is_hidden]

    def peer(self, node: str) -> PeerInfo:
        """Returns information about a connected node and its connection.

        Raises NoConnection if the node is not connected.
        """
        peer = self._running.connections.up.get(Atom(node))
        if peer is None:
            raise NoConnection(node, "not connected", Cause.NOT_CONNECTED)
        return peer_info(peer)

    @property
    def relay(self) -> RelayStatus | None:
        """The state of this node at its relay; None without `via`. Raises NotRunning."""
        assert self._running
        found = (carrier.relay() for carrier in self._carriers)
        return next((one for one in found if one is not None), None)

    def stats(self) -> NodeStatistics:
        """Returns the state of the node at this moment.

        It has the processes, the mailboxes, each connection, and counters since the start.
        Collecting it takes about 1 us for each process and 10 us for each connection. Raises
        NotRunning.
        """
        return self._running.statistics()

    def events(self) -> Subscription:
        """Subscribes to NodeUp and NodeDown events.

            with node.events() as events:
                async for event in events:
                    print(event)

        Events from before the call are not delivered.
        """
        return Subscription(self._events)

    # -- internal --------------------------------------------------------------------------------

    @property
    def _running(self) -> _Life:
        if self._life is None:
            raise NotRunning(f"{self.name} is not running: use it inside `async with Node(...)`")
        if self._life.lost_name is not None:
            raise NotRunning(f"{self.name} has lost its name: {self._life.lost_name}")
        self._life.system.affinity.check()
        return self._life

    def _local(self) -> LocalNode:
        """Returns this node as the handshake presents it, before the name is final."""
        flags = DEFAULT_FLAGS if self._own.is_hidden else DEFAULT_FLAGS | Flag.PUBLISHED
        if self._named_by is None:
            return LocalNode(self.name, 0, flags, self._cookies[0], self._cookies[1:])
        flags |= Flag.NAME_ME
        return LocalNode(self._own.name.host, 0, flags, self._cookies[0], self._cookies[1:])


def _is_short(node: str) -> bool:
    return isinstance(node, str) and "@" not in node


def _request(
    node: str, module: str, function: str, args: Sequence[Term]
) -> tuple[Atom, Atom, Atom, list[Term]]:
    """Validates the node, function and arguments of a call. Raises TypeError."""
    return (
        check_atom("node", node),
        check_atom("module", module),
        check_atom("function", function),
        check_args(args),
    )


class _Life:
    """One incarnation of a node, from start to stop."""

    system: ProcessTable
    caller: Caller
    spawner: Spawner
    global_names: GlobalNames | None = None
    """Set if the node is visible."""

    def __init__(
        self,
        limits: NodeLimits,
        access: AccessControl,
        terms: etf.Options,
        resolver: Resolver,
        events: Events,
        exports: Exports,
        local: LocalNode,
        on_output: Write | None,
        *,
        is_audited: bool,
    ) -> None:
        self._is_audited = is_audited
        self._audit: Audit | None = None
        self.lost_name: str | None = None
        """The reason why a node that was named by another node has lost its name."""
        self._watching: list[asyncio.Task[None]] = []
        self._credentials: Credentials | None = None
        self._limits = limits
        self._access = access
        self._events = events
        self._exports = exports
        self._local = local
        self._log_lines = LogLines()
        self._on_output = on_output or self._log_lines
        self._carriers = resolver.carriers
        self._counters = NodeCounters()
        self._since = time.time()
        self.connections = Connections(resolver, self, limits, access, terms, self._counters)

    async def be_named(self, by: Atom) -> str:
        """Gets the name of this node from the node `by`. Raises NoConnection, NodeNameError."""
        await self.connections.be_named(by, self._local)
        return str(self.system.name)

    def begin(self, name: str, creation: int) -> None:
        """Starts the processes of the node and accepts peers, now that its name is known."""
        identifiers = Identifiers(Atom(name), creation)
        self.system = system = ProcessTable(identifiers, self.connections)
        self.spawner = Spawner(system, self._limits.mailbox)
        leader = GroupLeader(system, self._on_output, self.apply)
        system.group_leader = leader.pid
        self.caller = Caller(system, leader.pid)
        system.reply_sink = self.caller.pid
        start_net_kernel(system, self._limits.net_ticktime, self._observed)
        if self._is_audited:
            self._audit = Audit(name)
        rpc_server = RpcServer(
            system,
            self.spawner,
            self._exports,
            self._access,
            self._limits.calls_at_once,
            self._limits.calls_per_second,
            self._audit,
        )
        rpc_server.provide("erlang", "disconnect_node", 1, self._disconnect_for)
        flags = self._local.flags & ~Flag.NAME_ME
        if Flag.PUBLISHED in flags:
            self.global_names = names = GlobalNames(
                system, self._caller_of_connected, self.connections.connect, self._disconnect
            )
            rpc_server.provide("global", "resolve_it", 4, names.conflicts.asked)
        self._provide_introspection(rpc_server)
        local = replace(self._local, name=name, creation=creation, flags=flags)
        self.connections.begin(
            local, system.handlers, partial(payload_refused, system), system.receiver_of_run
        )

    def _provide_introspection(self, rpc_server: RpcServer) -> None:
        asked = Introspection(
            self.system,
            self._exports,
            rpc_server.may_call,
            lambda: rpc_server.running,
            lambda: map(connection_term, map(peer_info, self.connections.up.values())),
        )

        async def exports(caller: Atom | None, args: Sequence[Term]) -> Term:
            return asked.exports(caller)

        async def status(caller: Atom | None, args: Sequence[Term]) -> Term:
            return asked.status(caller)

        async def bench(caller: Atom | None, args: Sequence[Term]) -> Term:
            return introspection.bench(args[1])

        rpc_server.provide(introspection.MODULE, introspection.EXPORTS, 0, exports)
        rpc_server.provide(introspection.MODULE, introspection.STATUS, 0, status)
        rpc_server.provide(introspection.MODULE, introspection.BENCH, 2, bench)

    async def end(self) -> None:
        """Ends all processes, which may still send messages, then the connections."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.stop_timeout
        for task in self._watching:
            task.cancel()
        try:
            await self.spawner.stop(self._limits.stop_timeout / 2)
            for process in list(self.system.processes.values()):
                process.die(SHUTDOWN)
            await self.connections.drain(deadline - loop.time())
        finally:
            self._log_lines.end()
            self.connections.close()

    def _observed(self, node: Atom) -> tuple[str, int] | None:
        """Returns the address at which a connected node is observed."""
        peer = self.connections.up.get(node)
        return None if peer is None else peer.connection.peer_address

    def watch_trust(self, credentials: Credentials) -> None:
        """Rechecks the peers after a change of a file of `Trust`.

        It also warns in the log before the certificate of this node expires.
        """
        self._credentials = credentials
        self._watching = [
            asyncio.create_task(watch(credentials.verifier, self.connections.recheck)),
            asyncio.create_task(watch_expiry(credentials, str(self.system.name))),
        ]

    def statistics(self) -> NodeStatistics:
        """Returns the state of the node at this moment."""
        expires = None if self._credentials is None else self._credentials.expires
        return node_statistics(
            self.system,
            self.connections,
            self._carriers,
            self._counters,
            self._since,
            None if expires is None else expires.timestamp(),
        )

    def stream(self, origin: Origin, window: StreamWindow) -> Stream:
        """Returns the items of a stream."""
        return Stream(self.system, origin, window)

    @contextlib.asynccontextmanager
    async def offer(self, items: Iterable[Term] | AsyncIterable[Term]) -> AsyncIterator[Term]:
        """Offers items as a stream."""
        tag = self.system.identifiers.reference()
        main = offered(self._exports, tag, items)
        me = self.spawner.spawn(main)
        try:
            yield Offer(me.pid, tag).to_term()
        finally:
            # `normal` would present an unfinished stream as complete.
            me.die(SHUTDOWN)

    async def apply(self, node: Atom, module: Atom, function: Atom, args: list[Term]) -> Term:
        """Calls a function on a node to format a term for a group leader."""
        return await self.caller.erpc(node, module, function, args, _FORMATTING)

    def _caller_of_connected(self) -> Caller:
        leader = self.system.group_leader
        assert leader is not None
        return ConnectedCaller(self.system, leader)

    def _disconnect(self, node: Atom) -> None:
        self.connections.disconnect(node)

    async def _disconnect_for(self, caller: Atom | None, args: Sequence[Term]) -> Term:
        """`erlang:disconnect_node/1`, for operators."""
        (node,) = args
        if not isinstance(node, Atom):
            raise ErlangError(Atom("badarg"))
        was_connected = self.connections.disconnect(node)
        if was_connected:
            extra = {"event": "disconnect_asked", "node": str(self.system.name), "peer": str(node)}
            logger.info("%s ends the connection to %s", caller or "a node", node, extra=extra)
        return was_connected

    # -- events of connections --

    def peer_up(self, peer: Peer) -> None:
        """Called when a connection is up."""
        assert peer.name is not None
        self._apply_access(peer, peer.name)
        carrier = peer.connection.traits.name
        extra = {**peer.fields("peer_up"), "role": peer.connection.role.value}
        logger.info("%s is up (%s)", peer, carrier, extra=extra)
        self.system.node_changed(_NODEUP, peer.name, peer.is_hidden)
        self._events.publish(NodeUp(str(peer.name), peer.is_hidden, carrier))

    def _apply_access(self, peer: Peer, name: str) -> None:
        control = self._access
        rules = control.rules_for(name)
        if peer.access_filter is not None:
            peer.access_filter.set_rules(rules, only_logs=control.only_logs)
        elif not rules.is_everything:
            peer.access_filter = AccessFilter(
                PeerIdentity(name, peer.fingerprint),
                rules,
                self.system,
                served=self._exports.modules,
                only_logs=control.only_logs,
                audit=self._audit,
            )
        host = peer.connection.peer_address[0]
        peer.gets_tracebacks = tracebacks.are_for(control.access.tracebacks, host)

    def access_changed(self) -> None:
        """Applies changed access rules to established connections.

        Peers that may no longer be connected are disconnected.
        """
        access = self._access.access
        for name, peer in list(self.connections.up.items()):
            may_be = access.dials(name) if peer.is_dialer else access.accepts(name)
            if may_be:
                self._apply_access(peer, name)
            else:
                peer.fail(
                    "the access rules no longer allow the peer",
                    Cause.REFUSED_HERE,
                )

    def peer_down(self, peer: Peer, reason: str) -> None:
        """Called when a connection is lost. Informs linked and monitoring processes."""
        assert peer.name is not None
        is_expected = peer.ending in _EXPECTED_ENDINGS or peer.is_ended_orderly
        level = logging.INFO if is_expected else logging.WARNING
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
        """Called when another node has given this one its name."""
        self.begin(name, creation)

    def name_lost(self, reason: str) -> None:
        """Ends all processes. Without the naming node the name of this node is no longer valid."""
        extra = {"event": "name_lost", "node": str(self.system.name), "reason": reason}
        logger.error("%s has lost its name: %s", self.system.name, reason, extra=extra)
        self.lost_name = reason
        for process in list(self.system.processes.values()):
            process.die(NOCONNECTION)
        self.connections.close()

    def unreachable(self, node: Atom, reason: str, cause: Cause) -> None:
        """Called when the connection for queued signals did not come up."""
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
        """Sends a request that every node answers, to find out whether the peer still exists."""
        assert peer.name is not None
        asker = (self.caller.pid, self.system.identifiers.reference())
        self.caller.ask(peer.name, NET_KERNEL, is_auth_call(asker, self.system.name))
