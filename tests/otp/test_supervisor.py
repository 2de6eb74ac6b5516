"""Supervisors: strategies, intensity, order of stops, and calls by a BEAM node."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from quicdist import Mailbox, Node
from quicdist.etf import Term
from quicdist.otp import Child, InitError, Restart, Stop, Strategy, Supervisor, start
from tests.node.conftest import Beam, MakeNode, atom
from tests.node.memory import Hub
from tests.otp.servers import Counter, Trapping
from tests.support.waiting import until


@pytest.fixture
def node() -> Node:
    return Node("0@127.0.0.1", cookie="c", carriers=[Hub()])


async def forever(me: Mailbox) -> None:
    await me.receive()


def counters(*names: str, restart: Restart = Restart.PERMANENT) -> list[Child]:
    return [Child(name, Counter, name=name, restart=restart) for name in names]


@pytest.mark.parametrize(
    ("strategy", "again"),
    [
        (Strategy.ONE_FOR_ONE, "b"),
        (Strategy.REST_FOR_ONE, "bc"),
        (Strategy.ONE_FOR_ALL, "abc"),
    ],
)
async def test_strategies(node: Node, strategy: Strategy, again: str) -> None:
    async with node:
        tree = Supervisor(node, counters("a", "b", "c"), strategy=strategy)
        await start(node, tree, name="tree")
        before = {name: node.whereis(name) for name in "abc"}
        await node.gen_cast("b", (atom("stop"), atom("bad")))
        await until(lambda: node.whereis("b") not in (None, before["b"]))
        await until(lambda: all(node.whereis(name) for name in "abc"))
        # The call waits for pending work of the supervisor.
        await node.gen_call("tree", atom("which_children"))
        after = {name: node.whereis(name) for name in "abc"}
        assert [name for name in "abc" if before[name] != after[name]] == list(again)


async def test_when_children_are_started_again(node: Node) -> None:
    async with node:
        children = [
            Child(restart.value, Counter, name=restart.value, restart=restart)
            for restart in Restart
        ]
        tree = Supervisor(node, children, intensity=10)
        await start(node, tree, name="tree")

        async def stopped(name: str, reason: Term) -> bool:
            """Whether the child is running again."""
            await node.gen_cast(name, (atom("stop"), reason))
            old = node.whereis(name)
            await until(lambda: node.whereis(name) != old)
            await node.gen_call("tree", atom("which_children"))
            return node.whereis(name) is not None

        for reason in (atom("normal"), atom("shutdown"), (atom("shutdown"), 1), atom("bad")):
            assert await stopped("permanent", reason)
        assert await stopped("transient", atom("bad"))
        assert not await stopped("transient", (atom("shutdown"), 1))
        assert not await stopped("temporary", atom("bad"))
        counted = await node.gen_call("tree", atom("count_children"))
        assert counted == [
            (atom("specs"), 2),
            (atom("active"), 1),
            (atom("supervisors"), 0),
            (atom("workers"), 2),
        ]


async def test_intensity(node: Node) -> None:
    async with node:
        tree = Supervisor(node, [*counters("a"), Child("b", forever)], intensity=2, period=60)
        process = await start(node, tree)
        other = tree.child("b")
        for _ in range(3):
            assert process.is_alive
            old = node.whereis("a")
            await node.gen_cast("a", (atom("stop"), atom("bad")))
            await until(functools.partial(lambda old: node.whereis("a") != old, old))
            await until(lambda: node.whereis("a") or not process.is_alive)
        assert await process.wait() == "shutdown"
        assert other is not None
        assert not other.is_alive
        assert node.whereis("a") is None


async def test_a_crash_loop_at_start_ends(node: Node) -> None:
    """Each failed restart of a child counts."""

    class Once(Counter):
        starts = 0

        async def init(self) -> None:
            type(self).starts += 1
            if type(self).starts > 1:
                raise Stop(atom("no_more"))

    async with node:
        process = await start(node, Supervisor(node, [Child("once", Once)], intensity=4))
        (child,) = process.links
        async with node.mailbox() as me:
            me.exit(child, atom("bad"))
            assert await process.wait() == "shutdown"
        assert Once.starts == 5


async def test_children_end_in_reverse_order(node: Node) -> None:
    told: list[Any] = []

    def tells(name: str) -> Any:
        class Telling(Trapping):
            async def terminate(self, reason: Term) -> None:
                await super().terminate((name, reason))

        return lambda: Telling(told)

    async def stubborn(me: Mailbox) -> None:
        me.trap_exit = True
        while True:
            await me.receive()

    async with node:
        tree = Supervisor(
            node,
            [Child("a", tells("a")), Child("s", stubborn, shutdown=0.05), Child("b", tells("b"))],
        )
        process = await start(node, tree)
        hanging = tree.child("s")
        async with node.mailbox() as me:
            me.exit(process.pid, atom("shutdown"))
            # An exit signal of another process is passed to handle_info, as in OTP.
            assert await node.gen_call(process.pid, atom("count_children"))
        await node.gen_call(process.pid, (atom("terminate_child"), atom("a")))
        assert told == [("a", "shutdown")]
        answer = await node.gen_call(process.pid, (atom("restart_child"), atom("a")))
        assert isinstance(answer, tuple)
        assert answer[0] == "ok"
        told.clear()
        async with node.mailbox() as me:
            sender = (me.pid, me.alias())
            await me.send(process.pid, (atom("system"), sender, (atom("terminate"), atom("x"))))
            assert await process.wait() == "x"
        assert told == [("b", "shutdown"), ("a", "shutdown")]
        assert hanging is not None
        assert hanging.exit_reason == "killed"


async def test_a_tree_that_cannot_start_leaves_nothing(node: Node) -> None:
    class Failing(Counter):
        async def init(self) -> None:
            raise Stop(atom("no"))

    async with node:
        with pytest.raises(InitError) as caught:
            await start(node, Supervisor(node, [*counters("a"), Child("f", Failing)]))
        assert caught.value.reason == (
            atom("shutdown"),
            (atom("failed_to_start_child"), atom("f"), atom("no")),
        )
        assert node.whereis("a") is None
        with pytest.raises(ValueError, match="same id"):
            Supervisor(node, counters("a", "a"))


@pytest.mark.erlang
async def test_a_beam_looks_into_a_tree(beam: Beam, make_node: MakeNode) -> None:
    async with make_node() as node:
        inner = [Child("leaf", Counter, name="leaf")]
        tree = Supervisor(
            node,
            [Child("inner", lambda: Supervisor(node, inner)), Child("work", forever)],
        )
        await start(node, tree, name="tree")
        there = f"{{tree, '{node.name}'}}"
        shown = await beam.eval(f"supervisor:which_children({there})")
        assert [one[0] for one in shown] == ["work", "inner"]
        assert [one[2] for one in shown] == ["worker", "supervisor"]
        leaf = await beam.eval(
            f"""{{_, P, _, _}} = lists:keyfind(inner, 1, supervisor:which_children({there})),
            supervisor:which_children(P)"""
        )
        assert leaf[0][:2] == (atom("leaf"), node.whereis("leaf"))
        assert (
            await beam.eval(f"proplists:get_value(active, supervisor:count_children({there}))") == 2
        )
        old = node.whereis("leaf")
        await beam.eval(f"exit(element(2, hd(supervisor:which_children({there}))), kill), ok")
        ended = await beam.eval(
            f"""R = {{supervisor:terminate_child({there}, inner),
                supervisor:terminate_child({there}, nobody)}},
            {{ok, _}} = supervisor:restart_child({there}, inner), R"""
        )
        assert ended == (atom("ok"), (atom("error"), atom("not_found")))
        assert node.whereis("leaf") not in (None, old)
