"""The list of scenarios, and the bench that they run on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from interop import actor
from interop.actor import Unexpected
from interop.carriers import Carrier, Dialer
from interop.control import HOST, PeerError
from interop.peers import Peer, PythonPeer, Setting
from quicdist import (
    Atom,
    Identity,
    NoConnection,
    Node,
    NodeDown,
    NodeEvent,
    NodeLimits,
    NodeUp,
    Trust,
)
from quicdist.etf import Term

MEGABYTE = 1_000_000
MESSAGES = 10_000

CONNECT = "cold connects"


@dataclass(frozen=True, slots=True)
class Says:
    """An `ok` with a note."""

    short: str = ""
    note: str = ""


class Bench:
    """The local node, the peer, and the means to connect and disconnect them."""

    def __init__(
        self,
        carrier: Carrier,
        dialer: Dialer,
        node: Node,
        peer: Peer,
        *,
        limits: NodeLimits,
        identity: Identity,
        trust: Trust,
        double: Setting,
        connects: int,
    ) -> None:
        self.carrier = carrier
        self.dialer = dialer
        self.node = node
        self.peer = peer
        self.limits = limits
        self.identity = identity
        self.trust = trust
        self.double = double
        """The setting of a second Python node, which can be killed."""
        self.connects = connects
        self.carries = True
        """Whether messages are delivered, as found by `probe`."""

    async def probe(self) -> None:
        """Whether a carrier that is known to stop at the handshake does so."""
        if not self.carrier.no_messages:
            return
        self.carries = False
        with contextlib.suppress(NoConnection, Unexpected, PeerError):
            await self.connected()
            self.carries = await self.node.ping(self.peer.name, timeout=5.0)

    @property
    def patience(self) -> float:
        """Seconds until a dead peer must be detected, with a margin for a slow machine."""
        return 2 * self.limits.net_ticktime + 5

    async def connected(self) -> None:
        """Connects in the requested role if there is no connection, and checks the ALPN."""
        name = self.peer.name
        if name not in self.node.nodes():
            if self.dialer is Dialer.WE:
                await self.node.connect(name)
            else:
                await self.they_connect()
        info = self.node.peer(name)
        if info.alpn != self.carrier.alpn:
            raise Unexpected(f"connected by {info.alpn!r}, not {self.carrier.alpn!r}")

    async def they_connect(self) -> None:
        """Makes the peer dial the local node. Raises NoConnection if the peer reports a failure."""
        await self._they_connect(self.node)

    async def _they_connect(self, node: Node) -> None:
        """Waits for the connection here, and for the peer's report if messages are delivered."""
        with node.events() as events:
            dialing = asyncio.ensure_future(self.peer.ask("connect", _atom(node.name)))
            try:
                if self.carries and await dialing is not True:
                    raise NoConnection(node.name, "the peer's own attempt failed")
                if self.peer.name not in node.nodes():
                    await self._event(events, NodeUp, node_timeout(self.limits))
            finally:
                dialing.cancel()

    async def attempt(self, function: str, node: Node, *args: Term) -> None:
        """Makes the peer dial with a function that may not return, for the longest attempt."""
        dialing = asyncio.ensure_future(self.peer.ask(function, _atom(node.name), *args))
        await asyncio.wait([dialing], timeout=node_timeout(self.limits))
        dialing.cancel()

    async def handshake(self, cookie: str) -> None:
        """Connects with a new local node, so that the peer has no earlier connection to it.

        Raises NoConnection, or Unexpected if the peer dials without success.
        """
        async with self.new_node(f"0@{HOST}", cookie) as node:
            if self.dialer is Dialer.WE:
                await node.connect(self.peer.name)
            else:
                await self._they_connect(node)

    async def still_works(self) -> None:
        """Checks that a connection delivers messages, or does what this peer supports."""
        if self.carries:
            await self.connected()
            await self.here(actor.ping)
        else:
            await self.handshake(self.double.cookie)

    async def disconnected(self) -> None:
        """Disconnects from the local side and waits until both nodes have detected it."""
        self.node.disconnect(self.peer.name)
        await self.they_lost_us()

    async def they_lost_us(self) -> float:
        """Waits until the peer is not connected to the local node; returns the seconds waited."""
        milliseconds = round(self.patience * 1000)
        waited = await self.peer.ask("await_gone", _atom(self.node.name), milliseconds)
        assert isinstance(waited, int)
        return waited / 1000

    async def we_lost_them(self, events: AsyncIterator[NodeEvent]) -> float:
        """Waits for NodeDown on the local node; returns the seconds waited."""
        return await self._event(events, NodeDown, self.patience)

    async def _event(
        self, events: AsyncIterator[NodeEvent], kind: type[NodeEvent], timeout: float
    ) -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def wait() -> None:
            async for event in events:
                if isinstance(event, kind) and event.node == self.peer.name:
                    return

        try:
            await asyncio.wait_for(wait(), timeout)
        except TimeoutError:
            raise Unexpected(f"no {kind.__name__} within {timeout:g} s") from None
        return loop.time() - start

    async def here(self, scenario: actor.Scenario) -> Term:
        """Runs a scenario on the local node with the peer."""
        return await scenario(self.node, self.peer.name)

    async def there(self, function: str, *args: Term) -> Term:
        """Runs a scenario on the peer with the local node."""
        return await self.peer.ask(function, _atom(self.node.name), *args)

    @contextlib.asynccontextmanager
    async def new_node(self, name: str, cookie: str) -> AsyncIterator[Node]:
        """Runs another local node while the body runs."""
        async with Node(
            name, cookie=cookie, identity=self.identity, trust=self.trust, limits=self.limits
        ) as node:
            yield node


def node_timeout(limits: NodeLimits) -> float:
    """Seconds after which a handshake has timed out."""
    return limits.connect_timeout + 1


Play: TypeAlias = "Callable[[Bench], Awaitable[Says | None]]"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A row of the table."""

    title: str
    play: Play
    carries: bool = True
    """Whether the scenario needs messages to be delivered."""


# -- connecting ----------------------------------------------------------------------------------


async def _cold_connects(bench: Bench) -> Says | None:
    """Connects repeatedly without a cached connection; each must deliver a message."""
    loop = asyncio.get_running_loop()
    failures: list[str] = []
    slowest = 0.0
    for _ in range(bench.connects):
        if bench.carries:
            await bench.disconnected()
        start = loop.time()
        try:
            await bench.still_works()
        except (NoConnection, Unexpected, PeerError) as error:
            failures.append(str(error))
        slowest = max(slowest, loop.time() - start)
    came_up = bench.connects - len(failures)
    if failures:
        raise Unexpected(f"{came_up}/{bench.connects} came up; {failures[0]}")
    return Says(f"{came_up}/{bench.connects}, <{_tenths(slowest)} s")


def _tenths(seconds: float) -> str:
    return f"{int(seconds * 10) / 10 + 0.1:.1f}"


# -- messages ------------------------------------------------------------------------------------


def _here(scenario: actor.Scenario) -> Play:
    async def play(bench: Bench) -> None:
        await bench.here(scenario)

    return play


def _there(function: str, *args: Term) -> Play:
    async def play(bench: Bench) -> None:
        await bench.there(function, *args)

    return play


def _binary_here(size: int) -> Play:
    async def play(bench: Bench) -> None:
        await actor.binary(bench.node, bench.peer.name, size)

    return play


async def _binaries_at_once(bench: Bench) -> None:
    size = 20 * MEGABYTE
    await actor.gather(actor.binary(bench.node, bench.peer.name, size), bench.there("binary", size))


async def _ordered_here(bench: Bench) -> None:
    await actor.ordered(bench.node, bench.peer.name, MESSAGES)


# -- disconnecting -------------------------------------------------------------------------------


async def _we_disconnect(bench: Bench) -> Says:
    if not bench.node.disconnect(bench.peer.name):
        raise Unexpected("the local node was not connected")
    waited = await bench.they_lost_us()
    await bench.connected()
    await bench.here(actor.ping)
    return Says(_after(waited))


async def _they_disconnect(bench: Bench) -> Says:
    with bench.node.events() as events:
        await bench.there("disconnect")
        waited = await bench.we_lost_them(events)
    await bench.they_lost_us()
    await bench.connected()
    await bench.here(actor.ping)
    return Says(_after(waited))


async def _they_are_killed(bench: Bench) -> Says:
    """Kills the peer and restarts it under the same name.

    If the local node dials, it waits for nodedown first. If the peer dials, it is back before that,
    and its new connection replaces the old one.
    """
    with bench.node.events() as events:
        await bench.peer.kill()
        if bench.dialer is Dialer.WE:
            waited = await bench.we_lost_them(events)
            await bench.peer.start()
            await bench.connected()
        else:
            await bench.peer.start()
            await bench.they_connect()
            waited = await bench.we_lost_them(events)
    await bench.here(actor.ping)
    await bench.there("ping")
    return Says(_after(waited))


async def _we_are_killed(bench: Bench) -> Says:
    """Kills a local Python node; the peer must detect it."""
    async with _killable(bench) as (double, meet):
        await meet()
        await double.kill()
        patience = round(bench.patience * 1000)
        waited = await bench.peer.ask("await_gone", _atom(double.name), patience)
    assert isinstance(waited, int)
    return Says(_after(waited / 1000))


async def _we_return(bench: Bench) -> Says:
    """Kills a local node and restarts it under the same name before the peer has detected it.

    If the local node dials, its new connection replaces the old one. If the peer dials, it must
    detect the loss first.
    """
    loop = asyncio.get_running_loop()
    async with _killable(bench) as (double, meet):
        await meet()
        await double.kill()
        await double.start()
        start = loop.time()
        await _until(meet, 0 if bench.dialer is Dialer.WE else bench.patience)
        waited = loop.time() - start
        await double.ask("erpc", _atom(bench.peer.name))
        await bench.peer.ask("erpc", _atom(double.name))
    return Says(_after(waited))


@contextlib.asynccontextmanager
async def _killable(
    bench: Bench,
) -> AsyncIterator[tuple[PythonPeer, Callable[[], Awaitable[Term]]]]:
    """Connects a second local node and the peer in the requested role."""
    double = PythonPeer(bench.double)
    nodes = (double, bench.peer)
    asked, named = nodes if bench.dialer is Dialer.WE else reversed(nodes)
    try:
        await double.start()
        yield double, lambda: asked.ask("ping", _atom(named.name))
    finally:
        await double.leave()


async def _until(attempt: Callable[[], Awaitable[Term]], timeout: float) -> None:
    """Retries until success. Raises the last failure after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        try:
            await attempt()
        except PeerError:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            return


async def _our_cookie_is_wrong(bench: Bench) -> None:
    async with bench.new_node(bench.double.name, "not the cookie") as other:
        try:
            await other.connect(bench.peer.name)
        except NoConnection:
            pass
        else:
            raise Unexpected("a node with another cookie was accepted")
        if other.name in _names(await bench.peer.ask("connected")):
            raise Unexpected("the peer lists a node with another cookie in nodes()")
    await bench.still_works()


async def _their_cookie_is_wrong(bench: Bench) -> None:
    wrong = _atom("not_the_cookie")
    if bench.carries:
        await bench.disconnected()
        came = await bench.there("wrong_cookie", wrong)
        if came is not False or bench.node.nodes():
            raise Unexpected("the local node accepted a node with another cookie")
    else:
        async with bench.new_node(bench.double.name, bench.double.cookie) as other:
            await bench.attempt("wrong_cookie", other, wrong)
            if other.nodes():
                raise Unexpected("the local node accepted a node with another cookie")
    await bench.still_works()


def _after(seconds: float) -> str:
    return f"{seconds:.1f} s"


def _names(nodes: Term) -> list[str]:
    return [str(node) for node in nodes] if isinstance(nodes, list) else []


def _atom(text: str) -> Term:
    return Atom(text)


SCENARIOS = (
    Scenario(CONNECT, _cold_connects, carries=False),
    Scenario("ping from the local node", _here(actor.ping)),
    Scenario("ping from the peer", _there("ping")),
    Scenario("rpc from the local node", _here(actor.rpc)),
    Scenario("rpc from the peer", _there("rpc")),
    Scenario("erpc from the local node", _here(actor.erpc)),
    Scenario("erpc from the peer", _there("erpc")),
    Scenario("gen_server:call from the local node", _here(actor.gen_call)),
    Scenario("gen_server:call from the peer", _there("gen_call")),
    Scenario("send by name and pid from the local node", _here(actor.echo)),
    Scenario("send by name and pid from the peer", _there("echo")),
    Scenario("spawn from the local node", _here(actor.spawned)),
    Scenario("spawn from the peer", _there("spawned")),
    Scenario("links from the local node", _here(actor.links)),
    Scenario("links from the peer", _there("links")),
    Scenario("monitors from the local node", _here(actor.monitors)),
    Scenario("monitors from the peer", _there("monitors")),
    Scenario("1 MB from the local node", _binary_here(MEGABYTE)),
    Scenario("1 MB from the peer", _there("binary", MEGABYTE)),
    Scenario("20 MB from the local node", _binary_here(20 * MEGABYTE)),
    Scenario("20 MB from the peer", _there("binary", 20 * MEGABYTE)),
    Scenario("20 MB in both directions at once", _binaries_at_once),
    Scenario("10,000 messages in order from the local node", _ordered_here),
    Scenario("10,000 messages in order from the peer", _there("ordered", MESSAGES)),
    Scenario("the local node disconnects", _we_disconnect),
    Scenario("the peer disconnects", _they_disconnect),
    Scenario("the local node has a wrong cookie", _our_cookie_is_wrong, carries=False),
    Scenario("the peer has a wrong cookie", _their_cookie_is_wrong, carries=False),
    Scenario("the peer is killed and restarts", _they_are_killed),
    Scenario("the local node is killed", _we_are_killed),
    Scenario("the local node is killed and restarts", _we_return),
)
