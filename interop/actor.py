"""The server that both nodes of a scenario run, and the scenarios that one node runs with it.

The names are those of erlang/quicdist_interop.erl, so that any two kinds of nodes can be combined.
"""

from __future__ import annotations

import array
import asyncio
import hashlib
import sys
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from quicdist import (
    Atom,
    BitString,
    CallError,
    ErlangError,
    ErlangExit,
    ErlMap,
    ErrorClass,
    ImproperList,
    Mailbox,
    Node,
    Pid,
    Reference,
    current_process,
    export,
)
from quicdist.etf import Term
from quicdist.etf.notation import format_term

MODULE = "quicdist_interop"
"""The module name in calls, on both sides."""

SERVER = "interop"
"""The registered name of each server."""

TIMEOUT = 60.0
"""Timeout in seconds; only a hang takes so long."""

Scenario: TypeAlias = "Callable[[Node, str], Awaitable[Term]]"
"""Runs on this node with the named node; its result goes into the notes of the table."""


class Unexpected(Exception):
    """An unexpected or missing result; the text is one line."""


class Calls:
    """Functions that the other node calls with rpc, erpc and gen_server:call."""

    def __init__(self) -> None:
        self.node: Node | None = None

    @export(module=MODULE)
    async def add(self, a: int, b: int) -> int:
        """Returns the sum."""
        return a + b

    @export(module=MODULE)
    async def fail(self, reason: Term) -> None:
        """Raises an error."""
        raise ErlangError(reason)

    @export(module=MODULE)
    async def start(self) -> Pid:
        """Starts a separate server for the caller."""
        assert self.node is not None
        return self.node.spawn(serve).pid

    @export(module=MODULE)
    async def serve(self) -> None:
        """Runs a server in the process that another node spawns here."""
        await serve(current_process.get())


async def serve(me: Mailbox) -> None:
    """Answers each `{From, Request}`; reports link and monitor events to the process that asked."""
    me.trap_exit = True
    watching: dict[Pid | Reference, Pid] = {}
    counted: dict[Pid, int] = {}
    while True:
        message = await me.receive()
        match message:
            case (Pid() as sender, ("echo", term)):
                await me.send(sender, (me.pid, (Atom("echo"), term)))
            case (Pid() as sender, ("digest", bytes() as binary)):
                digest = hashlib.md5(binary, usedforsecurity=False).digest()
                await me.send(sender, (me.pid, (Atom("digest"), len(binary), digest)))
            case (Pid() as sender, ("item", int(number), int(last), _)):
                await _count(me, sender, number, last, counted)
            case (Pid() as sender, ("link", Pid() as other)):
                me.link(other)
                watching[other] = sender
                await me.send(sender, (me.pid, Atom("linked")))
            case (Pid() as sender, ("monitor", Pid() as other)):
                watching[me.monitor(other)] = sender
                await me.send(sender, (me.pid, Atom("monitored")))
            case (Pid() as sender, ("register", Atom() as name)):
                me.system.register(name, me)
                await me.send(sender, (me.pid, Atom("registered")))
            case (Pid(), ("die", reason)):
                raise ErlangExit(reason)
            case ("EXIT", Pid() as other, reason):
                if other in watching:
                    await me.send(watching[other], (me.pid, (Atom("exit"), other, reason)))
            case ("DOWN", Reference() as reference, _, _, reason):
                await me.send(watching[reference], (me.pid, (Atom("down"), reason)))


async def _count(me: Mailbox, sender: Pid, number: int, last: int, counted: dict[Pid, int]) -> None:
    expected = counted.get(sender, 1)
    if number != expected:
        await me.send(sender, (me.pid, (Atom("disorder"), expected, number)))
    elif number == last:
        counted.pop(sender, None)
        await me.send(sender, (me.pid, (Atom("ordered"), last)))
    else:
        counted[sender] = number + 1


# -- scenarios -----------------------------------------------------------------------------------


async def ping(node: Node, peer: str) -> Term:
    """Runs `net_adm:ping`."""
    _expect(await node.ping(peer, timeout=TIMEOUT), True)
    return None


async def rpc(node: Node, peer: str) -> Term:
    """Runs `rpc:call`: a result, an error, and an undefined function."""
    _expect(await node.rpc(peer, MODULE, "add", [1, 2], timeout=TIMEOUT), 3)
    for function, args in (("fail", [Atom("oops")]), ("nothing", [])):
        try:
            value = await node.rpc(peer, MODULE, function, args, timeout=TIMEOUT)
        except CallError:
            continue
        raise Unexpected(f"rpc to {function} returned {format_term(value)}")
    return None


async def erpc(node: Node, peer: str) -> Term:
    """Runs `erpc:call` like `rpc`, and checks the class and reason of each error."""
    _expect(await node.call(peer, MODULE, "add", [1, 2], timeout=TIMEOUT), 3)
    wanted: list[tuple[str, list[Term], str]] = [
        ("fail", [Atom("oops")], "oops"),
        ("nothing", [], "undef"),
    ]
    for function, args, reason in wanted:
        try:
            value = await node.call(peer, MODULE, function, args, timeout=TIMEOUT)
        except CallError as error:
            _expect((error.kind, error.reason), (ErrorClass.ERROR, Atom(reason)))
            continue
        raise Unexpected(f"erpc to {function} returned {format_term(value)}")
    return None


async def echo(node: Node, peer: str) -> Term:
    """Sends by name, and by the pid that answered."""
    async with node.mailbox() as me:
        server, answer = await _ask(me, (SERVER, peer), (Atom("echo"), Atom("one")))
        _expect(answer, (Atom("echo"), Atom("one")))
        _expect(server.node, peer)
        term = (
            me.pid,
            me.alias(),
            ErlMap([(1, Atom("a")), (1.0, Atom("b"))]),
            "text",
            BitString(b"\xa0", 3),
            ImproperList([1], 2),
            2**100,
        )
        _, answer = await _ask(me, server, (Atom("echo"), term))
        _expect(answer, (Atom("echo"), (*term[:3], b"text", *term[4:])))
    return None


async def gen_call(node: Node, peer: str) -> Term:
    """Runs `gen_server:call`: an answer, and a server that crashes on the next request."""
    server = (MODULE, peer)
    answer = await node.gen_call(server, (Atom("add"), 1, 2), timeout=TIMEOUT)
    _expect(answer, 3)
    try:
        answer = await node.gen_call(server, (Atom("fail"), Atom("oops")), timeout=TIMEOUT)
    except CallError as error:
        _expect((error.kind, error.reason), (ErrorClass.EXIT, Atom("oops")))
        return None
    raise Unexpected(f"the server answered {format_term(answer)}")


async def spawned(node: Node, peer: str) -> Term:
    """Spawns plain, monitored and linked processes, and an undefined function."""
    async with node.mailbox() as me:
        me.trap_exit = True
        one = await me.spawn_remote(peer, MODULE, "serve", timeout=TIMEOUT)
        _, answer = await _ask(me, one.pid, (Atom("echo"), Atom("two")))
        _expect(answer, (Atom("echo"), Atom("two")))
        two = await me.spawn_remote(peer, MODULE, "serve", monitor=True, timeout=TIMEOUT)
        await _tell(me, two.pid, (Atom("die"), (Atom("bye"), 1)))
        _expect(await _down(me, two.reference, two.pid), (Atom("bye"), 1))
        three = await me.spawn_remote(peer, MODULE, "serve", link=True, timeout=TIMEOUT)
        await _tell(me, three.pid, (Atom("die"), (Atom("bye"), 2)))
        _expect(await _exit_of(me, three.pid), (Atom("bye"), 2))
        none = await me.spawn_remote(peer, MODULE, "nothing", monitor=True, timeout=TIMEOUT)
        match await _down(me, none.reference, none.pid):
            case ("undef", [(Atom() as module, "nothing", [], _), *_]) if module == MODULE:
                return None
            case reason:
                raise Unexpected(f"expected undef, got {format_term(reason)}")


async def links(node: Node, peer: str) -> Term:
    """Tests link exits from either side, unlink, `exit/2`, and a link to a dead process."""
    async with node.mailbox() as me:
        me.trap_exit = True
        one = await _start_on(node, peer)
        me.link(one)
        await _tell(me, one, (Atom("die"), (Atom("bye"), 1)))
        _expect(await _exit_of(me, one), (Atom("bye"), 1))
        two = await _start_on(node, peer)
        helper = node.spawn(_obey)
        _, answer = await _ask(me, two, (Atom("link"), helper.pid))
        _expect(answer, Atom("linked"))
        await _tell(me, helper.pid, (Atom("die"), (Atom("bye"), 2)))
        _, answer = await _answer_of(me, two)
        _expect(answer, (Atom("exit"), helper.pid, (Atom("bye"), 2)))
        me.link(two)
        me.unlink(two)
        reference = me.monitor(two)
        await _tell(me, two, (Atom("die"), (Atom("bye"), 3)))
        _expect(await _down(me, reference, two), (Atom("bye"), 3))
        _expect(me.message_count, 0)
        three = await _start_on(node, peer)
        reference = me.monitor(three)
        me.exit(three, Atom("kill"))
        _expect(await _down(me, reference, three), Atom("killed"))
        me.link(three)
        _expect(await _exit_of(me, three), Atom("noproc"))
    return None


async def monitors(node: Node, peer: str) -> Term:
    """Monitors a pid, a dead process and a name, demonitors, and is monitored by the peer."""
    async with node.mailbox() as me:
        one = await _start_on(node, peer)
        reference = me.monitor(one)
        await _tell(me, one, (Atom("die"), (Atom("bye"), 1)))
        _expect(await _down(me, reference, one), (Atom("bye"), 1))
        _expect(await _down(me, me.monitor(one), one), Atom("noproc"))
        nobody = (Atom("interop_nobody"), Atom(peer))
        _expect(await _down(me, me.monitor(nobody), nobody), Atom("noproc"))
        two = await _start_on(node, peer)
        named = (Atom("interop_named"), Atom(peer))
        _, answer = await _ask(me, two, (Atom("register"), named[0]))
        _expect(answer, Atom("registered"))
        by_name, dropped = me.monitor(named), me.monitor(two)
        _expect(me.demonitor(dropped), True)
        await _tell(me, two, (Atom("die"), (Atom("bye"), 2)))
        _expect(await _down(me, by_name, named), (Atom("bye"), 2))
        _expect(me.message_count, 0)
        three = await _start_on(node, peer)
        helper = node.spawn(_obey)
        _, answer = await _ask(me, three, (Atom("monitor"), helper.pid))
        _expect(answer, Atom("monitored"))
        await _tell(me, helper.pid, (Atom("die"), (Atom("bye"), 3)))
        _, answer = await _answer_of(me, three)
        _expect(answer, (Atom("down"), (Atom("bye"), 3)))
    return None


async def binary(node: Node, peer: str, size: int) -> Term:
    """Sends one binary and compares the digest in the answer."""
    data = counting_bytes(size)
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    async with node.mailbox() as me:
        _, answer = await _ask(me, (SERVER, peer), (Atom("digest"), data))
        _expect(answer, (Atom("digest"), size, digest))
    return None


async def ordered(node: Node, peer: str, count: int) -> Term:
    """Sends messages, every hundredth one large; the peer counts them in order."""
    async with node.mailbox() as me:
        server = await _start_on(node, peer)
        item = Atom("item")
        for number in range(1, count + 1):
            await me.send(server, (me.pid, (item, number, count, padding(number))))
        _, answer = await _answer_of(me, server)
        _expect(answer, (Atom("ordered"), count))
    return None


def counting_bytes(size: int) -> bytes:
    """Returns big-endian 32-bit numbers from 1, so that no two positions are alike."""
    words = array.array("I", range(1, size // 4 + 1))
    if sys.byteorder == "little":
        words.byteswap()
    return words.tobytes()


def padding(number: int) -> bytes:
    """Returns the payload; large ones give small messages something to overtake."""
    return number.to_bytes(4, "big") * 5000 if number % 100 == 0 else b""


# -- the parts of scenarios ----------------------------------------------------------------------


async def _obey(me: Mailbox) -> None:
    """Starts a process on the peer that exits on request."""
    match await me.receive():
        case (_, ("die", reason)):
            raise ErlangExit(reason)


async def _start_on(node: Node, peer: str) -> Pid:
    pid = await node.call(peer, MODULE, "start", [], timeout=TIMEOUT)
    if not isinstance(pid, Pid) or pid.node != peer:
        raise Unexpected(f"start on {peer} returned {format_term(pid)}")
    return pid


async def _tell(me: Mailbox, to: Pid, request: Term) -> None:
    await me.send(to, (me.pid, request))


async def _ask(me: Mailbox, to: Pid | tuple[str, str], request: Term) -> tuple[Pid, Term]:
    await me.send(to, (me.pid, request))
    return await _answer_of(me, to)


async def _answer_of(me: Mailbox, to: Pid | tuple[str, str]) -> tuple[Pid, Term]:
    def is_answer(message: Term) -> bool:
        return isinstance(message, tuple) and len(message) == 2 and isinstance(message[0], Pid)

    try:
        answer = await me.receive(is_answer, TIMEOUT)
    except TimeoutError:
        raise Unexpected(f"{_text(to)} did not answer within {TIMEOUT:g} s") from None
    assert isinstance(answer, tuple)
    return answer[0], answer[1]


async def _exit_of(me: Mailbox, pid: Pid) -> Term:
    def is_exit(message: Term) -> bool:
        return isinstance(message, tuple) and message[:2] == ("EXIT", pid)

    try:
        return (await me.receive(is_exit, TIMEOUT))[2]
    except TimeoutError:
        raise Unexpected(f"no exit signal of {pid} within {TIMEOUT:g} s") from None


async def _down(me: Mailbox, reference: Reference | None, what: Term) -> Term:
    def is_down(message: Term) -> bool:
        return isinstance(message, tuple) and message[:2] == ("DOWN", reference)

    try:
        message = await me.receive(is_down, TIMEOUT)
    except TimeoutError:
        raise Unexpected(f"no DOWN for {_text(what)} within {TIMEOUT:g} s") from None
    _expect(message[3], what)
    return message[4]


def _expect(came: object, wanted: object) -> None:
    if came != wanted:
        raise Unexpected(f"expected {_text(wanted)}, got {_text(came)}")


def _text(value: object) -> str:
    try:
        text = format_term(value)
    except Exception:
        text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."


async def gather(*jobs: Awaitable[object]) -> None:
    """Runs all concurrently; the first error cancels the others."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
