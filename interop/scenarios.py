"""The one list of scenarios, and the bench they are played on."""

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
    """An `ok` with more to say."""

    short: str = ""
    note: str = ""


class Bench:
    """Our node, the peer, and what is needed to bring them together and apart."""

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
        """For a second Python node, one that can be killed."""
        self.connects = connects
        self.carries = True
        """Whether messages get through; `probe` has found out."""

    async def probe(self) -> None:
        """Whether a carrier that is known to end at the handshake does so here."""
        if not self.carrier.no_messages:
            return
        self.carries = False
        with contextlib.suppress(NoConnection, Unexpected, PeerError):
            await self.connected()
            self.carries = await self.node.ping(self.peer.name, timeout=5.0)

    @property
    def patience(self) -> float:
        """Seconds after which a dead peer must have been noticed, with room for a slow machine."""
        return 2 * self.limits.net_ticktime + 5

    async def connected(self) -> None:
        """Makes a connection in the role wanted, if there is none; and looks at what it is."""
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
        """The peer dials us. Raises NoConnection when it says that it could not."""
        await self._they_connect(self.node)

    async def _they_connect(self, node: Node) -> None:
        """Up here; where messages get through, the peer has said so too."""
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
        """Has the peer dial, by a function that may never return; for as long as that can take."""
        dialing = asyncio.ensure_future(self.peer.ask(function, _atom(node.name), *args))
        await asyncio.wait([dialing], timeout=node_timeout(self.limits))
        dialing.cancel()

    async def handshake(self, cookie: str) -> None:
        """With a node of ours that the peer has never heard of: no earlier one is in its way.

        Raises NoConnection, or Unexpected when the peer dials in vain.
        """
        async with self.new_node(f"0@{HOST}", cookie) as node:
            if self.dialer is Dialer.WE:
                await node.connect(self.peer.name)
            else:
                await self._they_connect(node)

    async def still_works(self) -> None:
        """The connection, or a new one, carries messages; or as much as this peer can."""
        if self.carries:
            await self.connected()
            await self.here(actor.ping)
        else:
            await self.handshake(self.double.cookie)

    async def disconnected(self) -> None:
        """Ends the connection from our side; both have noticed."""
        self.node.disconnect(self.peer.name)
        await self.they_lost_us()

    async def they_lost_us(self) -> float:
        """Waits until the peer is not connected to us; how long, in seconds."""
        milliseconds = round(self.patience * 1000)
        waited = await self.peer.ask("await_gone", _atom(self.node.name), milliseconds)
        assert isinstance(waited, int)
        return waited / 1000

    async def we_lost_them(self, events: AsyncIterator[NodeEvent]) -> float:
        """Waits for our NodeDown; how long, in seconds."""
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
        """Our node plays it with the peer."""
        return await scenario(self.node, self.peer.name)

    async def there(self, function: str, *args: Term) -> Term:
        """The peer plays it with our node."""
        return await self.peer.ask(function, _atom(self.node.name), *args)

    @contextlib.asynccontextmanager
    async def new_node(self, name: str, cookie: str) -> AsyncIterator[Node]:
        """Another node of ours, for as long as the body runs."""
        async with Node(
            name, cookie=cookie, identity=self.identity, trust=self.trust, limits=self.limits
        ) as node:
            yield node


def node_timeout(limits: NodeLimits) -> float:
    """Seconds after which no handshake can succeed any more."""
    return limits.connect_timeout + 1


Play: TypeAlias = "Callable[[Bench], Awaitable[Says | None]]"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A row of the table."""

    title: str
    play: Play
    carries: bool = True
    """Whether messages have to get through for it."""


# -- coming together -----------------------------------------------------------------------------


async def _cold_connects(bench: Bench) -> Says | None:
    """Again and again from nothing: every one must come up and carry a message."""
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


# -- talking -------------------------------------------------------------------------------------


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


# -- parting -------------------------------------------------------------------------------------


async def _we_disconnect(bench: Bench) -> Says:
    if not bench.node.disconnect(bench.peer.name):
        raise Unexpected("we were not connected")
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
    """Without a word; and back under the same name.

    Where we dial, we wait until we have noticed; where they dial, they are back before that, and
    their new connection takes the place of the old.
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
    """A Python node of ours, without a word: they notice."""
    async with _killable(bench) as (double, meet):
        await meet()
        await double.kill()
        patience = round(bench.patience * 1000)
        waited = await bench.peer.ask("await_gone", _atom(double.name), patience)
    assert isinstance(waited, int)
    return Says(_after(waited / 1000))


async def _we_return(bench: Bench) -> Says:
    """Killed, and back under the same name before anybody has noticed.

    Where we dial, our new connection takes the place of the old; where they dial, they have to
    notice first.
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
    """A second node of ours, and how it and the peer meet in the role wanted."""
    double = PythonPeer(bench.double)
    nodes = (double, bench.peer)
    asked, named = nodes if bench.dialer is Dialer.WE else reversed(nodes)
    try:
        await double.start()
        yield double, lambda: asked.ask("ping", _atom(named.name))
    finally:
        await double.leave()


async def _until(attempt: Callable[[], Awaitable[Term]], timeout: float) -> None:
    """Tries until it does not fail. Raises the last failure after `timeout` seconds."""
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
            raise Unexpected("a node with another cookie was let in")
        if other.name in _names(await bench.peer.ask("connected")):
            raise Unexpected("the peer counts a node with another cookie among its nodes")
    await bench.still_works()


async def _their_cookie_is_wrong(bench: Bench) -> None:
    wrong = _atom("not_the_cookie")
    if bench.carries:
        await bench.disconnected()
        came = await bench.there("wrong_cookie", wrong)
        if came is not False or bench.node.nodes():
            raise Unexpected("we let a node with another cookie in")
    else:
        async with bench.new_node(bench.double.name, bench.double.cookie) as other:
            await bench.attempt("wrong_cookie", other, wrong)
            if other.nodes():
                raise Unexpected("we let a node with another cookie in")
    await bench.still_works()


def _after(seconds: float) -> str:
    return f"{seconds:.1f} s"


def _names(nodes: Term) -> list[str]:
    return [str(node) for node in nodes] if isinstance(nodes, list) else []


def _atom(text: str) -> Term:
    return Atom(text)


SCENARIOS = (
    Scenario(CONNECT, _cold_connects, carries=False),
    Scenario("ping from us", _here(actor.ping)),
    Scenario("ping from them", _there("ping")),
    Scenario("rpc from us", _here(actor.rpc)),
    Scenario("rpc from them", _there("rpc")),
    Scenario("erpc from us", _here(actor.erpc)),
    Scenario("erpc from them", _there("erpc")),
    Scenario("gen_server:call from us", _here(actor.gen_call)),
    Scenario("gen_server:call from them", _there("gen_call")),
    Scenario("send by name and pid from us", _here(actor.echo)),
    Scenario("send by name and pid from them", _there("echo")),
    Scenario("spawn from us", _here(actor.spawned)),
    Scenario("spawn from them", _there("spawned")),
    Scenario("links from us", _here(actor.links)),
    Scenario("links from them", _there("links")),
    Scenario("monitors from us", _here(actor.monitors)),
    Scenario("monitors from them", _there("monitors")),
    Scenario("1 MB from us", _binary_here(MEGABYTE)),
    Scenario("1 MB from them", _there("binary", MEGABYTE)),
    Scenario("20 MB from us", _binary_here(20 * MEGABYTE)),
    Scenario("20 MB from them", _there("binary", 20 * MEGABYTE)),
    Scenario("20 MB both ways at once", _binaries_at_once),
    Scenario("10,000 in order from us", _ordered_here),
    Scenario("10,000 in order from them", _there("ordered", MESSAGES)),
    Scenario("we disconnect", _we_disconnect),
    Scenario("they disconnect", _they_disconnect),
    Scenario("our cookie is wrong", _our_cookie_is_wrong, carries=False),
    Scenario("their cookie is wrong", _their_cookie_is_wrong, carries=False),
    Scenario("they are killed and return", _they_are_killed),
    Scenario("we are killed", _we_are_killed),
    Scenario("we are killed and return", _we_return),
)
