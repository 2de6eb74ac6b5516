"""A node without asyncio: from threads, across a fork, under Ctrl-C, with a real Erlang."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import quicdist
from quicdist import (
    Atom,
    BlockingNode,
    CallError,
    CallNotPossible,
    CallTimeout,
    Identity,
    NameTaken,
    NoConnection,
    Node,
    NodeDown,
    NodeNameError,
    NodeUp,
    NotRunning,
    Pid,
    ProcessExited,
    ReceiveTimeout,
    StartError,
    export,
)
from quicdist.etf import Term
from tests.support.gatewayed import GatewayThread, gatewayed_erl
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.io

COOKIE = "blocking-tests"


@export(module="py")
def add(one: int, two: int) -> int:
    return one + two


@export(module="py")
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


meeting = threading.Barrier(8)


@export(module="py")
def meet() -> Atom:
    """Returns when eight calls run at the same time."""
    meeting.wait(PATIENCE)
    return Atom("met")


is_held = threading.Event()
release = threading.Event()


@export(module="py")
def hold() -> Atom:
    """Returns when the test lets it."""
    is_held.set()
    release.wait(PATIENCE)
    return Atom("released")


@export(module="py")
def fail() -> None:
    raise ValueError("no")


@export(module="py")
async def forever() -> None:
    await asyncio.Event().wait()


closed: list[str] = []


@export(module="py")
async def numbers(limit: int) -> AsyncIterator[int]:
    """Yields the numbers below `limit`."""
    try:
        for number in range(limit):
            yield number
    finally:
        closed.append("numbers")


@export(module="py")
async def total(offer: Term) -> int:
    """Adds the items of an offered stream."""
    return sum([item async for item in quicdist.open_stream(offer)])


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity.ephemeral(["127.0.0.1"])


@pytest.fixture(scope="module")
def server(identity: Identity) -> Iterator[BlockingNode]:
    """A node to call."""
    functions = [add, nap, meet, fail, forever, numbers, total]
    serving = Node("0@127.0.0.1", cookie=COOKIE, identity=identity, exports=functions)
    with BlockingNode(serving) as node:
        yield node


@pytest.fixture
def connect(identity: Identity) -> Callable[..., BlockingNode]:
    def connected(*peers: str, **settings: Any) -> BlockingNode:
        return quicdist.blocking_node(
            *peers, **{"cookie": COOKIE, "identity": identity, **settings}
        )

    return connected


Connect = Callable[..., BlockingNode]


def test_streams(connect: Connect, server: BlockingNode) -> None:
    with connect(server.name) as node:
        assert list(node.stream(server.name, "py", "numbers", [2000])) == list(range(2000))
        with node.offer_stream(number for number in range(100)) as offer:
            assert node.call(server.name, "py", "total", [offer]) == sum(range(100))
        closed.clear()
        for number in node.stream(server.name, "py", "numbers", [10**9]):
            if number == 10:
                break
        wait_until(lambda: closed == ["numbers"])
        with pytest.raises(CallError, match="undef"):
            list(node.stream(server.name, "py", "missing"))


def test_it_calls_and_says_what_went_wrong(connect: Connect, server: BlockingNode) -> None:
    with connect(server.name) as node:
        port, _, host = node.name.partition("@")
        assert host == "127.0.0.1"
        assert int(port) > 0
        assert node.nodes() == [server.name]
        assert node.ping(server.name)
        assert node.call(server.name, "py", "add", [1, 2]) == 3
        assert node.rpc(server.name, "py", "add", [1, 2]) == 3
        assert node.peer(server.name).name == server.name
        assert isinstance(node.pid, Pid)
        assert node.creation == node.pid.creation
        with pytest.raises(CallError, match="no"):
            node.call(server.name, "py", "fail")
        with pytest.raises(CallTimeout):
            node.call(server.name, "py", "nap", [5.0], timeout=0.05)
        assert node.disconnect(server.name)
        assert not node.disconnect(server.name)
        node.connect(server.name)
        assert node.nodes() == [server.name]


def _loops() -> list[str]:
    """The threads that have a node's event loop."""
    return [one.name for one in threading.enumerate() if one.name.startswith("quicdist ")]


def test_what_cannot_start(connect: Connect, server: BlockingNode) -> None:
    before = _loops()
    with pytest.raises(StartError, match="in use"):
        connect(name=server.name)
    with pytest.raises(NoConnection, match="cookie") as caught:
        connect(server.name, cookie="other")
    assert caught.value.is_refusal
    with pytest.raises(NodeNameError):
        connect(name="nonsense")
    assert _loops() == before


def test_many_calls_from_many_threads(connect: Connect, server: BlockingNode) -> None:
    with connect(server.name) as node, ThreadPoolExecutor(32) as pool:

        def work(number: int) -> int:
            result = node.call(server.name, "py", "add", [number, 1], timeout=PATIENCE)
            assert isinstance(result, int)
            return result

        assert list(pool.map(work, range(2000))) == list(range(1, 2001))


def test_calls_are_in_flight_together(connect: Connect, server: BlockingNode) -> None:
    with connect(server.name) as node, ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(node.call, server.name, "py", "meet", timeout=PATIENCE) for _ in range(8)
        ]
        assert [one.result() for one in calls] == ["met"] * 8


def test_mailboxes(connect: Connect, server: BlockingNode) -> None:
    with connect(server.name) as node, server.mailbox("echo") as echo, node.mailbox("me") as me:
        me.send(("echo", server.name), (me.pid, b"hello"))
        sender, text = echo.receive(timeout=PATIENCE)
        assert text == b"hello"
        echo.send(sender, b"first")
        echo.send(sender, b"second")
        assert me.receive(lambda term: term == b"second", timeout=PATIENCE) == b"second"
        assert me.receive(timeout=PATIENCE) == b"first"
        with pytest.raises(ReceiveTimeout):
            me.receive(timeout=0)
        with pytest.raises(NameTaken), node.mailbox("me"):
            pass
        node.send(echo.pid, b"from the node")
        assert echo.receive(timeout=PATIENCE) == b"from the node"


def test_servers(connect: Connect, server: BlockingNode) -> None:
    with connect(server.name) as node, server.mailbox("counter") as counter:
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(node.gen_call, ("counter", server.name), 7, timeout=PATIENCE)
            tag, sender, request = counter.receive(timeout=PATIENCE)
            assert (tag, request) == ("$gen_call", 7)
            counter.send(sender[1].tail, (sender[1], 8))
            assert asked.result(PATIENCE) == 8
        node.gen_cast(("counter", server.name), 9)
        assert counter.receive(timeout=PATIENCE) == ("$gen_cast", 9)


def test_logging_from_threads(
    connect: Connect, server: BlockingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("blocking.app")
    log.setLevel(logging.INFO)
    with connect(server.name) as node, server.mailbox("logger_proxy") as proxy:
        handler = node.log_handler(server.name)
        log.addHandler(handler)
        try:
            threads = [threading.Thread(target=log.info, args=(str(n),)) for n in range(20)]
            for thread in threads:
                thread.start()
            texts = {proxy.receive(timeout=PATIENCE)[2] for _ in threads}
            assert texts == {b"%d" % number for number in range(20)}
            with monkeypatch.context() as forked:
                forked.setattr(os, "getpid", lambda: 1)
                log.info("from a forked child")
            log.info("last")
            assert proxy.receive(timeout=PATIENCE)[2] == b"last"
        finally:
            log.removeHandler(handler)
            handler.close()


def test_links_and_monitors(connect: Connect, server: BlockingNode) -> None:
    with connect(server.name) as node, node.mailbox() as me:
        watched = []

        def die() -> None:
            with server.mailbox() as other:
                watched.extend([me.monitor(other.pid), "process", other.pid])
                raise ZeroDivisionError("oops")

        with pytest.raises(ZeroDivisionError):
            die()
        down = me.receive(timeout=PATIENCE)
        assert list(down[:4]) == ["DOWN", *watched]
        assert down[4][0][:2] == ("python_error", "ZeroDivisionError")
        assert not me.demonitor(down[1])
        with server.mailbox() as other:
            assert me.demonitor(me.monitor(other.pid))
            me.link(other.pid)
            me.unlink(other.pid)
            me.link(other.pid)
            other.trap_exit = True
            assert other.trap_exit
            me.exit(other.pid, Atom("wake_up"))
            assert other.receive(timeout=PATIENCE) == ("EXIT", me.pid, "wake_up")


def test_an_exit_signal_shows_in_what_the_mailbox_does(
    connect: Connect, server: BlockingNode
) -> None:
    with connect(server.name) as node, server.mailbox() as other:

        def wait() -> None:
            with node.mailbox() as me:
                me.link(other.pid)
                other.trap_exit = True
                other.exit(me.pid, Atom("enough"))
                with pytest.raises(ProcessExited, match="enough"):
                    me.receive(timeout=PATIENCE)
                assert other.receive(timeout=PATIENCE) == ("EXIT", me.pid, "enough")

        with pytest.raises(ProcessExited, match="enough"):  # the end of the body does, too
            wait()


def test_events(connect: Connect, server: BlockingNode) -> None:
    with connect() as node, node.events() as events:
        node.connect(server.name)
        assert next(events) == NodeUp(server.name, True, "quicdist")
        node.disconnect(server.name)
        down = next(events)
        assert isinstance(down, NodeDown)
        assert down.node == server.name


def test_closing_ends_what_is_waited_for(connect: Connect, server: BlockingNode) -> None:
    node = connect(server.name)
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(node.call, server.name, "py", "forever", timeout=None)
        mailbox = node.mailbox()
        me = mailbox.__enter__()
        receiving = pool.submit(me.receive)
        time.sleep(0.2)
        node.close()
        with pytest.raises((NotRunning, NoConnection)):
            call.result(PATIENCE)
        with pytest.raises((NotRunning, ProcessExited)):
            receiving.result(PATIENCE)
    with pytest.raises(NotRunning, match="closed"):
        mailbox.__exit__(None, None, None)
    node.close()
    with pytest.raises(NotRunning, match="closed"):
        node.ping(server.name)
    with node:
        pass


def test_closing_while_many_threads_call(connect: Connect, server: BlockingNode) -> None:
    for _ in range(5):
        node = connect(server.name)
        errors: list[BaseException] = []

        def work(node: BlockingNode = node, errors: list[BaseException] = errors) -> None:
            try:
                while True:
                    node.call(server.name, "py", "add", [1, 2], timeout=PATIENCE)
            except BaseException as end:
                errors.append(end)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        node.close()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(errors) == 8
        assert {type(one) for one in errors} <= {NotRunning, NoConnection}


def test_a_node_nobody_refers_to_ends(connect: Connect, server: BlockingNode) -> None:
    before = set(threading.enumerate())
    node = connect(server.name)
    name = node.name
    threads = set(threading.enumerate()) - before
    assert threads
    del node
    gc.collect()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    wait_until(lambda: name not in server.nodes())


def test_it_does_not_wait_for_itself(connect: Connect, server: BlockingNode) -> None:
    @export(module="py", name="ask")
    async def ask() -> None:
        node.nodes()

    with (
        connect(server.name, exports=[ask]) as node,
        pytest.raises(CallError, match="its own event loop"),
    ):
        server.call(node.name, "py", "ask")


_PROGRAM = """
import os, signal, sys, threading, time, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
import quicdist
from quicdist import Identity
peer, cookie = sys.argv[1:3]
"""

_FORK = """
node = quicdist.blocking_node(peer, cookie=cookie, identity=Identity.ephemeral())
box = node.mailbox("me")
me = box.__enter__()
sockets = lambda: [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                   if os.path.exists(f"/proc/self/fd/{n}")]
udp = {line.split()[9] for line in open("/proc/net/udp").readlines()[1:]}
ours = lambda: [one for one in sockets() if one.strip("socket:[]") in udp]
assert len(ours()) == 1, ours()
for attempt in range(3):
    child = os.fork()
    if not child:
        try:
            assert ours() == [], ours()
            for use in (lambda: node.ping(peer), lambda: node.nodes(), lambda: me.receive(),
                        lambda: node.mailbox().__enter__()):
                try:
                    use()
                except quicdist.NotRunning as error:
                    assert "start a node after the fork" in str(error), error
                else:
                    raise AssertionError("the child used it")
            node.close()
            anew = quicdist.blocking_node(peer, cookie=cookie, identity=Identity.ephemeral())
            with anew as fresh:
                assert fresh.call(peer, "py", "add", [3, 4]) == 7
                assert fresh.name != node.name
            del node, me, box
            import gc; gc.collect()
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(1)
        if attempt == 1:
            sys.exit(0)  # with all that the interpreter does at its end
        os._exit(0)
    assert node.call(peer, "py", "add", [1, 2]) == 3
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for _ in range(20):
        assert node.call(peer, "py", "add", [1, 2]) == 3
node.close()
print("well")
"""


@contextlib.contextmanager
def _run(source: str, server: BlockingNode) -> Iterator[subprocess.Popen[str]]:
    """A Python program; it is killed should it hang."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM + source, server.name, COOKIE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        watchdog = threading.Timer(2 * PATIENCE, os.killpg, (program.pid, signal.SIGKILL))
        watchdog.start()
        try:
            yield program
        finally:
            watchdog.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_forked_child_does_not_use_it(server: BlockingNode) -> None:
    with _run(_FORK, server) as program:
        out, err = program.communicate()
    assert (program.returncode, out, err) == (0, "well\n", "")


_INTERRUPTED = """
with quicdist.blocking_node(peer, cookie=cookie, identity=Identity.ephemeral()) as node:
    for wait in (
        lambda: node.call(peer, "py", "forever", timeout=None),
        lambda: me.receive(),
    ):
        with node.mailbox("me") as me:
            try:
                print("waiting", flush=True)
                wait()
            except KeyboardInterrupt:
                assert node.call(peer, "py", "add", [1, 2]) == 3
                me.send(me.pid, 1)
                assert me.receive(timeout=5) == 1  # nobody else receives from it
                print("interrupted", flush=True)
    try:
        with node.mailbox("me") as me:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert node.call(peer, "py", "add", [1, 2]) == 3
print("well", flush=True)
node = quicdist.blocking_node(peer, cookie=cookie, identity=Identity.ephemeral())
print("waiting", flush=True)
node.call(peer, "py", "forever", timeout=None)
"""


def test_control_c(server: BlockingNode) -> None:
    with _run(_INTERRUPTED, server) as program:
        assert program.stdout is not None
        for _ in range(2):
            assert program.stdout.readline() == "waiting\n"
            time.sleep(0.3)
            program.send_signal(signal.SIGINT)
            assert program.stdout.readline() == "interrupted\n"
        assert program.stdout.readline() == "well\n"
        assert program.stdout.readline() == "waiting\n"
        time.sleep(0.5)
        program.send_signal(signal.SIGINT)
        _, err = program.communicate()
        assert err.endswith("KeyboardInterrupt\n")
        assert program.returncode in (1, 130, -signal.SIGINT)


_UNCLOSED = """
node = quicdist.blocking_node(peer, cookie=cookie, identity=Identity.ephemeral())
print(node.call(peer, "py", "add", [1, 2]))
threading.Thread(target=lambda: node.call(peer, "py", "forever", timeout=None),
                 daemon=True).start()
time.sleep(0.2)
"""


def test_a_program_ends_without_closing_it(server: BlockingNode) -> None:
    with _run(_UNCLOSED, server) as program:
        out, err = program.communicate()
    assert (program.returncode, out) == (0, "3\n"), err
    wait_until(lambda: not server.nodes())


@pytest.mark.erlang
def test_a_real_erlang(connect: Connect) -> None:
    with (
        GatewayThread() as gateway,
        gatewayed_erl(gateway, cookie=COOKIE) as erlang,
        connect(gateway.name, exports=[add]) as node,
    ):
        assert node.call(gateway.name, "erlang", "node") == gateway.name
        assert erlang.eval("atom_to_binary(hd(nodes(hidden))).").decode() == node.name
        source = f"integer_to_binary(erpc:call('{node.name}', py, add, [20, 22]))."
        assert erlang.eval(source) == b"42"
        with ThreadPoolExecutor(16) as pool, node.mailbox("box") as me:
            squares = pool.map(
                lambda n: node.call(gateway.name, "erlang", "*", [n, n], timeout=PATIENCE),
                range(500),
            )
            assert list(squares) == [n * n for n in range(500)]
            erlang.eval(f"{{box, '{node.name}'}} ! {{self(), hello}}, [].")
            sender, text = me.receive(timeout=PATIENCE)
            assert text == "hello"
            reference = me.monitor(("nobody", gateway.name))
            assert me.receive(timeout=PATIENCE)[1:3] == (reference, "process")
            assert isinstance(sender, Pid)
        with pytest.raises(CallError, match="undef"):
            node.call(gateway.name, "no_such", "function")
        erlang.kill()
        wait_until(lambda: not node.nodes())


def test_a_blocking_node_drains(connect: Connect, identity: Identity) -> None:
    with (
        BlockingNode(
            Node("0@127.0.0.1", cookie=COOKIE, identity=identity, exports=[hold, add])
        ) as own,
        connect(own.name) as node,
        ThreadPoolExecutor(2) as pool,
    ):
        held = pool.submit(node.call, own.name, "py", "hold", timeout=PATIENCE)
        wait_until(is_held.is_set)
        draining = pool.submit(own.drain, PATIENCE)
        wait_until(lambda: own.stats().is_draining)
        with pytest.raises(CallNotPossible, match="draining"):
            node.call(own.name, "py", "add", [1, 2])
        assert not draining.done()
        release.set()
        assert draining.result(PATIENCE)
        assert held.result(PATIENCE) == "released"


def test_what_is_no_timeout_and_no_list_of_arguments(connect: Connect) -> None:
    bad: Any = "5"
    with connect() as node, node.mailbox() as me:
        calls: list[Callable[[], Any]] = [
            lambda: node.call("1@127.0.0.1", "m", "f", [], timeout=bad),
            lambda: node.call("1@127.0.0.1", "m", "f", "abc"),
            lambda: node.rpc("1@127.0.0.1", "m", "f", "abc"),
            lambda: node.gen_call("x", 1, timeout=bad),
            lambda: node.ping("1@127.0.0.1", timeout=bad),
            lambda: node.drain(bad),
            lambda: me.receive(timeout=bad),
        ]
        for call in calls:
            with pytest.raises(TypeError, match="must be a"):
                call()
