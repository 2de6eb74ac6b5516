"""The scenario of `quicdist demo`: two nodes talk over QUIC, and each line shows a result."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quicdist.cli.exit_codes import ExitCode, Problem

if TYPE_CHECKING:
    from quicdist.carriers.trust import Identity
    from quicdist.gateway import Gateway
    from quicdist.node.node import Node
    from quicdist.runtime.mailbox import Mailbox

_HOST = "127.0.0.1"
_PATIENCE = 30.0
"""Time limit of each step in seconds. A step usually takes less than a second."""

# The process echo answers each sender, and reports the end of a process that it monitors. The node
# ends with the pipe LIFELINE, so that it does not outlive the demo.
_ECHO = """
spawn(fun() ->
    Port = open_port({fd, LIFELINE, LIFELINE}, [in, eof]),
    receive {Port, eof} -> halt(0, [{flush, false}]) end
end),
register(echo, spawn(fun() ->
    (fun Loop() ->
        receive
            {From, Message} -> From ! {echo, node(), Message}, Loop();
            {watch, Pid, From} ->
                Monitor = monitor(process, Pid),
                From ! watching,
                receive {'DOWN', Monitor, process, Pid, Reason} -> From ! {seen, Reason} end,
                Loop();
            stop -> exit(done)
        end
    end)()
end)).
"""


async def show_all(without_erlang: bool) -> None:
    """Runs all steps. Raises Problem if a result is not the expected one."""
    story = _Scenario()
    with tempfile.TemporaryDirectory(prefix="quicdist-demo-") as place:
        if not without_erlang:
            await _with_erlang(story, Path(place))
        else:
            if shutil.which("erl") is None:
                _say_no_erlang(story)
            await _two_pythons(story)
    story.tell(f"\nAll {story.seen} steps succeeded.")


def _say_no_erlang(story: _Scenario) -> None:
    story.tell("Erlang was not found (no erl on the PATH): the demo uses two Python nodes.")
    story.tell("For a real Erlang node: sudo apt-get install erlang-base erlang-dev")
    story.tell("(or the package of your system), then run this again.\n")


class _Scenario:
    """Prints the results of the steps, and stops at an unexpected one."""

    def __init__(self) -> None:
        self.seen = 0
        self._mark = "\033[32m✔\033[0m" if _is_colourful() else "*"

    def tell(self, text: str) -> None:
        print(text, flush=True)

    async def see(self, what: str, happening: Awaitable[Any], wanted: Any = None) -> Any:
        """Runs a step and prints its result. Raises Problem if it is not `wanted`."""
        from quicdist.etf.notation import format_bounded

        try:
            got = await asyncio.wait_for(happening, _PATIENCE)
        except TimeoutError:
            raise Problem(ExitCode.TIMEOUT, f"no result within 30 s: {what}") from None
        if wanted is not None and got != wanted:
            raise Problem(ExitCode.NO, f"{what}: {format_bounded(got)}")
        self.seen += 1
        self.tell(f" {self._mark} {what:<58} {format_bounded(got)}")
        return got

    def show(self, what: str, text: str) -> None:
        """Prints a result that is already known."""
        self.seen += 1
        self.tell(f" {self._mark} {what:<58} {text}")


def _is_colourful() -> bool:
    encoding = (sys.stdout.encoding or "").lower()
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and encoding.startswith("utf")


# -- with a real Erlang -------------------------------------------------------------------------


async def _with_erlang(story: _Scenario, place: Path) -> None:
    from quicdist.carriers.trust import Identity
    from quicdist.etf import Atom

    cookie = secrets.token_hex(8)
    identity = Identity.ephemeral([_HOST])
    async with (
        _gateway(identity) as gateway,
        _erlang(gateway, cookie, place) as erlang,
        _python(cookie, identity) as node,
    ):
        erl = gateway.name
        story.tell("A Python node, and a stock Erlang node with its plain TCP distribution.")
        story.tell("A gateway next to the Erlang node carries that over QUIC:\n")
        story.tell(
            f"   Python {node.name}  <== QUIC, UDP {gateway.quic_address[1]} ==>"
            f"  gateway  <-- TCP, loopback -->  Erlang {erl}\n"
        )
        await _registered(gateway, erlang)
        await story.see("Python pings Erlang", _pong(node, erl), Atom("pong"))
        _show_quic(story, node, erl)
        await _calls(story, node, erl)
        async with node.mailbox("py") as me:
            await _messages(story, node, me, erl)
            await _monitors(story, node, me, erl)


async def _calls(story: _Scenario, node: Node, erl: str) -> None:
    from quicdist.etf import Atom

    py = Atom(node.name)
    await story.see(
        "Python calls erlang:system_info(otp_release)",
        node.call(erl, "erlang", "system_info", [Atom("otp_release")]),
    )
    squares = [list(b"QUIC"), {Atom("n"): 1, "xs": [1, 2.5, 1 << 70]}]
    await story.see(
        "Python calls erlang:list_to_tuple/1, terms of every kind",
        node.call(erl, "erlang", "list_to_tuple", [squares]),
        (squares[0], {Atom("n"): 1, b"xs": [1, 2.5, 1 << 70]}),
    )
    await story.see(
        "Erlang pings Python (net_adm:ping)",
        node.call(erl, "net_adm", "ping", [py]),
        Atom("pong"),
    )
    await story.see(
        "Erlang calls Python (erpc:call), which answers",
        node.call(erl, "erpc", "call", [py, Atom("demo"), Atom("greet"), ["Erlang"]]),
        b"Hello Erlang, this is Python",
    )
    await story.see(
        "Erlang calls Python (rpc:call)",
        node.call(erl, "rpc", "call", [py, Atom("demo"), Atom("add"), [40, 2]]),
        42,
    )


async def _messages(story: _Scenario, node: Node, me: Mailbox, erl: str) -> None:
    from quicdist.etf import Atom

    await asyncio.wait_for(_started(node, erl), _PATIENCE)

    async def round_trip(message: object) -> object:
        await me.send(("echo", erl), (me.pid, message))
        return await me.receive(lambda got: got[:1] == ("echo",))

    await story.see(
        "Python sends to the process echo, which answers",
        round_trip([1, 2, 3]),
        (Atom("echo"), Atom(erl), [1, 2, 3]),
    )
    blob = os.urandom(1 << 20)
    back = await asyncio.wait_for(round_trip(blob), _PATIENCE)
    if not isinstance(back, tuple) or back[2] != blob:
        raise Problem(ExitCode.NO, "a binary of 1 MiB was returned changed")
    story.show("A binary of 1 MiB there and back, in fragments", "identical")

    async def from_erlang() -> object:
        to = (Atom("py"), Atom(node.name))
        await node.call(erl, "erlang", "send", [to, Atom("hello_from_erlang")])
        return await me.receive(lambda got: got == "hello_from_erlang")

    await story.see("Erlang sends to the mailbox py of Python", from_erlang())


async def _started(node: Node, erl: str) -> None:
    """Waits for echo: a node accepts connections before it has run its start-up code."""
    from quicdist.etf import Atom

    while await node.call(erl, "erlang", "whereis", [Atom("echo")]) == "undefined":
        await asyncio.sleep(0.02)


async def _monitors(story: _Scenario, node: Node, me: Mailbox, erl: str) -> None:
    from quicdist.etf import Atom

    async def short_life(other: Mailbox) -> None:
        await other.receive(lambda got: got == "end")

    watched = node.spawn(short_life, name="short")

    async def erlang_watches() -> object:
        await me.send(("echo", erl), (Atom("watch"), watched.pid, me.pid))
        await me.receive(lambda got: got == "watching")
        await me.send(watched.pid, Atom("end"))
        return await me.receive(lambda got: got[:1] == ("seen",))

    await story.see(
        "Erlang monitors a Python process, and sees it end",
        erlang_watches(),
        (Atom("seen"), Atom("normal")),
    )

    async def python_watches() -> object:
        monitor = me.monitor(("echo", erl))
        await me.send(("echo", erl), Atom("stop"))
        down = await me.receive(lambda got: got[:2] == ("DOWN", monitor))
        return down[4]

    await story.see("Python monitors echo, and sees it end", python_watches(), Atom("done"))


@asynccontextmanager
async def _gateway(identity: Identity) -> AsyncIterator[Gateway]:
    from quicdist.carriers.trust import Trust
    from quicdist.gateway import Gateway, GatewaySettings

    name = f"{_free_udp_port()}@{_HOST}"
    trust = Trust.pinned({"*": identity.fingerprint})
    settings = GatewaySettings(name, epmd_port=0, identity=identity, trust=trust)
    async with Gateway(settings) as gateway:
        yield gateway


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def _erlang(
    gateway: Gateway, cookie: str, place: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a stock Erlang node. Its output goes to a file."""
    from quicdist.gateway import emit_module, erl_arguments

    emitted = await asyncio.get_running_loop().run_in_executor(None, emit_module, place)
    if emitted.beam is None:
        raise Problem(
            ExitCode.LOCAL,
            "there is no erl to compile the gateway's module: sudo apt-get install "
            "erlang-dev, or run quicdist demo --without-erlang",
        )
    lifeline, held = os.pipe()
    command = [
        *("erl", "-noinput", "-noshell", "-name", gateway.name, "-setcookie", cookie),
        *erl_arguments(place),
        *("-eval", _ECHO.replace("LIFELINE", str(lifeline))),
    ]
    # HOME: Erlang creates ~/.erlang.cookie if there is none.
    environment = {**os.environ, "ERL_EPMD_PORT": str(gateway.epmd_port), "HOME": str(place)}
    with (place / "erlang.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=place,
            pass_fds=(lifeline,),
        )
        try:
            yield process
        finally:
            os.close(lifeline)
            os.close(held)
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _registered(gateway: Gateway, erlang: asyncio.subprocess.Process) -> None:
    """Waits until the Erlang node has registered with its gateway."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    while gateway.beam_port is None:
        if erlang.returncode is not None or loop.time() > deadline:
            raise Problem(ExitCode.LOCAL, "the Erlang node did not start; check that `erl` works")
        await asyncio.sleep(0.05)


# -- two Python nodes ---------------------------------------------------------------------------


async def _two_pythons(story: _Scenario) -> None:
    from quicdist.carriers.trust import Identity
    from quicdist.etf import Atom

    cookie = secrets.token_hex(8)
    identity = Identity.ephemeral([_HOST])
    async with _python(cookie, identity) as one, _python(cookie, identity) as two:
        story.tell("Two Python nodes, each with one UDP port:\n")
        story.tell(f"   Python {one.name}  <== QUIC ==>  Python {two.name}\n")
        await story.see("One pings the other", _pong(one, two.name), Atom("pong"))
        _show_quic(story, one, two.name)
        await story.see("The other pings back", _pong(two, one.name), Atom("pong"))
        greeting = b"Hello one, this is Python"
        await story.see(
            "One calls the other", one.call(two.name, "demo", "greet", ["one"]), greeting
        )
        await story.see("The other calls one", two.call(one.name, "demo", "add", [40, 2]), 42)
        async with one.mailbox("here") as here:
            await _python_messages(story, here, two)


async def _python_messages(story: _Scenario, here: Mailbox, two: Node) -> None:
    from quicdist.etf import Atom

    async def echo(me: Mailbox) -> None:
        while (message := await me.receive()) != "stop":
            await me.send(message[0], (Atom("echo"), message[1]))

    two.spawn(echo, name="echo")
    there = ("echo", two.name)

    async def round_trip() -> object:
        await here.send(there, (here.pid, [1, 2, 3]))
        return await here.receive()

    async def watch() -> object:
        monitor = here.monitor(there)
        await here.send(there, Atom("stop"))
        down = await here.receive(lambda got: got[:2] == ("DOWN", monitor))
        return down[4]

    await story.see(
        "One sends to the process echo of the other, which answers",
        round_trip(),
        (Atom("echo"), [1, 2, 3]),
    )
    await story.see("One monitors it, and sees it end", watch(), Atom("normal"))


# -- both ---------------------------------------------------------------------------------------


@asynccontextmanager
async def _python(cookie: str, identity: Identity) -> AsyncIterator[Node]:
    """Runs a Python node. Both nodes use one key and trust no other."""
    from quicdist.carriers.trust import Trust
    from quicdist.kernel.exports import export
    from quicdist.node.node import Node

    @export(module="demo")
    def greet(who: list[int] | bytes) -> str:
        return f"Hello {bytes(who).decode()}, this is Python"

    @export(module="demo")
    async def add(a: int, b: int) -> int:
        return a + b

    async with Node(
        f"0@{_HOST}",
        cookie=cookie,
        identity=identity,
        trust=Trust.pinned({"*": identity.fingerprint}),
        exports=[greet, add],
    ) as node:
        yield node


async def _pong(node: Node, peer: str) -> str:
    from quicdist.etf import Atom

    await node.connect(peer)
    return Atom("pong" if await node.ping(peer) else "pang")


def _show_quic(story: _Scenario, node: Node, peer: str) -> None:
    info = node.peer(peer)
    story.show("Carrier agreed on in the TLS handshake (ALPN)", info.alpn)
    story.show("Cipher suite (TLS 1.3)", info.cipher)
    ports = f"{info.local_address[1]} and {info.peer_address[1]}"
    story.show("UDP ports of the QUIC connection", ports)
