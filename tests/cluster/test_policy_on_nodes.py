"""A policy file on a Python node has the format and meaning that it has on a gateway."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from quicdist import Access, CallError, NoConnection, Node, NodeError, NoProcess, export, gateway
from quicdist.cluster.access_filter import AccessFilter
from quicdist.cluster.access_rules import AccessRules, Pids
from quicdist.cluster.audit import Audit, PeerIdentity
from quicdist.cluster.policy import Policy
from quicdist.cluster.policy_file import PolicyError, parse_policy
from quicdist.etf import Atom, Term
from quicdist.otp import GenServer, start
from quicdist.protocol import signals
from tests.cluster.test_access import OURS, THEIRS, Answers
from tests.node.memory import Hub
from tests.node.test_two_nodes import make
from tests.support.waiting import until

ONLY_ADD = """
[[peers]]
nodes = ["*"]
names = ["counter"]
calls = ["calc:add"]
"""
ALL = '[[peers]]\nnodes = ["*"]\ncalls = ["*"]\n'
OPERATOR = '[[peers]]\nnodes = ["*"]\ncalls = ["*", "erlang:disconnect_node"]\n'


@export(module="calc")
def add(a: int, b: int) -> int:
    return a + b


@export(module="calc")
async def fail() -> None:
    raise ValueError("no")


class Pong(GenServer):
    async def handle_call(self, request: Term, sender: object) -> Term:
        return Atom("pong")


@asynccontextmanager
async def two(
    policy: str, hub: Hub | None = None, **settings: Any
) -> AsyncIterator[tuple[Node, Node]]:
    """Yields a node with two servers, and a peer that has the cookie."""
    hub = hub or Hub()
    given = parse_policy(policy)
    exports = [add, fail]
    async with make(hub, access=given, exports=exports, **settings) as ours, make(hub) as theirs:
        for name in ("counter", "secret"):
            await start(ours, Pong(), name=name)
        await theirs.connect(ours.name)
        yield ours, theirs


async def test_a_policy_says_what_may_be_called_and_sent_to() -> None:
    async with two(ONLY_ADD) as (ours, theirs):
        assert await theirs.call(ours.name, "calc", "add", [1, 2]) == 3
        assert await theirs.gen_call(("counter", ours.name), "ping") == "pong"
        assert await theirs.ping(ours.name)
        with pytest.raises(CallError, match="undef"):
            await theirs.call(ours.name, "calc", "fail")
        with pytest.raises(NoProcess):
            await theirs.gen_call(("secret", ours.name), "ping")


async def test_nothing_is_sent_by_way_of_rex_that_is_not_allowed() -> None:
    """`rex` relays messages of `rpc:sbcast`; a restricted peer cannot bypass the rules with it."""
    async with (
        two(ONLY_ADD) as (ours, theirs),
        ours.mailbox("box") as box,
        theirs.mailbox() as me,
    ):
        for how in ("sbcast", "send"):
            await me.send(("rex", ours.name), (me.pid, (Atom(how), Atom("box"), b"hello")))
        assert await theirs.ping(ours.name)
        assert box.message_count == 0


async def test_a_peer_that_no_entry_fits_does_not_connect() -> None:
    hub = Hub()
    policy = parse_policy('[[peers]]\nnodes = ["friend@h"]\n')
    async with make(hub, access=policy) as ours, make(hub) as theirs:
        with pytest.raises(NoConnection):
            await theirs.connect(ours.name)
        with pytest.raises(NoConnection, match="access rules"):
            await ours.connect(theirs.name)


async def test_a_policy_that_only_logs_lets_everything_pass(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with two('mode = "log"\n' + ONLY_ADD) as (ours, theirs):
        assert await theirs.gen_call(("secret", ours.name), "ping") == "pong"
        with pytest.raises(CallError, match="no"):
            await theirs.call(ours.name, "calc", "fail")
    assert "would be refused a message to secret" in caplog.text
    assert "is not allowed to call calc:fail" in caplog.text


async def test_another_policy_holds_for_connected_peers_and_ends_those_without_an_entry() -> None:
    async with two(ALL) as (ours, theirs):
        with pytest.raises(CallError, match="no"):
            await theirs.call(ours.name, "calc", "fail")
        ours.change_access(parse_policy(ONLY_ADD))
        with pytest.raises(CallError, match="undef"):
            await theirs.call(ours.name, "calc", "fail")
        ours.change_access(parse_policy('[[peers]]\nnodes = ["friend@h"]\n'))
        await until(lambda: not theirs.nodes(hidden=True))


def test_a_path_is_a_policy_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(ONLY_ADD)
    access = Access.of(path)
    assert access == Access(policy=parse_policy(ONLY_ADD)) == Access.of(str(path))
    path.write_text("peers = 1")
    with pytest.raises(PolicyError, match=r"policy\.toml"):
        Node("4433@127.0.0.1", cookie="c", access=path)


def test_access_and_policies_are_compiled_to_the_same_rules() -> None:
    access = Access(
        calls={"a@*": ["calc:*"]}, names={"a@*": ["counter"]}, exits=["a@*"], pids=["a@*"]
    )
    policy = parse_policy(
        '[[peers]]\nnodes = ["a@*"]\ncalls = ["calc:*"]\nnames = ["counter"]\nexits = true\n'
        'pids = "any"'
    )
    fields = [field.name for field in dataclasses.fields(AccessRules)]
    (one, other) = (access.rules_for("a@h"), policy.rules_for("a@h"))
    assert [getattr(one, name) for name in fields] == [getattr(other, name) for name in fields]


@pytest.mark.parametrize(
    ("pids", "heard", "request_passes", "answer_passes"),
    [
        (Pids.CALLERS, False, False, False),
        (Pids.CALLERS, True, False, True),
        (Pids.PARTNERS, False, False, False),
        (Pids.PARTNERS, True, True, True),
        (Pids.ANY, False, True, True),
    ],
)
def test_which_processes_are_reached_by_pid(
    pids: Pids, heard: bool, request_passes: bool, answer_passes: bool
) -> None:
    access_filter = AccessFilter(PeerIdentity("theirs@h"), AccessRules(pids=pids), Answers())
    if heard:
        access_filter.note_sender(OURS)
    request = (Atom("$gen_call"), (THEIRS, 1), 2)
    assert access_filter.allows(signals.Message(THEIRS, OURS), request) is request_passes
    assert access_filter.allows(signals.Message(THEIRS, OURS), Atom("answer")) is answer_passes


def test_ping_is_refused_where_the_rules_say_so() -> None:
    answers = Answers()
    access_filter = AccessFilter(PeerIdentity("theirs@h"), AccessRules(ping=False), answers)
    to = Atom("net_kernel")
    assert not access_filter.allows(
        signals.Message(THEIRS, to), (Atom("$gen_call"), (THEIRS, 1), 2)
    )


# -- disconnect ----------------------------------------------------------------------------------


async def test_an_operator_ends_a_live_connection_and_others_do_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "quicdist")
    hub = Hub()
    async with two(OPERATOR, hub) as (ours, operator), make(hub) as third:
        await third.connect(ours.name)
        disconnect = ("erlang", "disconnect_node", [Atom(third.name)])
        assert third.name in ours.nodes(hidden=True)
        assert await operator.call(ours.name, *disconnect) is True
        await until(lambda: ours.name not in third.nodes(hidden=True))
        assert await operator.call(ours.name, *disconnect) is False
        ours.change_access(parse_policy(ALL))
        with pytest.raises(CallError, match="undef"):
            await operator.call(ours.name, *disconnect)
        # A connection that was not there is not reported as ended.
        asked = [one for one in caplog.records if getattr(one, "event", "") == "disconnect_asked"]
        assert [one.getMessage() for one in asked] == [
            f"{operator.name} ends the connection to {third.name}"
        ]


def test_to_disconnect_is_part_of_no_wildcard() -> None:
    for calls in (("*",), ("erlang:*",), ()):
        assert not AccessRules(calls=calls).may_disconnect()
    assert AccessRules(calls=("erlang:disconnect_node",)).may_disconnect()


# -- audit ---------------------------------------------------------------------------------------


def entries(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    kept = ("event", "peer", "called", "outcome", "cause")
    records = [vars(one) for one in caplog.records if one.name == "quicdist.audit"]
    assert all(isinstance(one["duration"], float) and one["duration"] >= 0 for one in records)
    return [{key: one[key] for key in kept} for one in records]


async def test_calls_and_refusals_are_in_the_audit_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quicdist.audit")
    policy = ONLY_ADD.replace('"calc:add"', '"calc:*"')
    async with two(policy, audit=True) as (ours, theirs):
        await theirs.call(ours.name, "calc", "add", [1, 2])
        with pytest.raises(CallError):
            await theirs.rpc(ours.name, "calc", "fail")
        with pytest.raises(CallError):
            await theirs.call(ours.name, "os", "cmd", ["id"])
        await theirs.send(("secret", ours.name), "x")
        assert await theirs.ping(ours.name)
    peer = theirs.name
    assert entries(caplog) == [
        entry("audit_call", peer, "calc:add/2", "returned", ""),
        entry("audit_call", peer, "calc:fail/0", "raised", "ValueError"),
        entry("audit_call", peer, "os:cmd/1", "refused", "not exported"),
        entry("audit_refused", peer, "a message to secret", "refused", "access"),
    ]


async def test_calls_refused_while_draining_are_in_the_audit_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "quicdist.audit")
    async with two(ONLY_ADD, audit=True) as (ours, theirs):
        ours.system.is_draining = True
        with pytest.raises(NodeError):
            await theirs.call(ours.name, "calc", "add", [1, 2])
        with pytest.raises(NodeError):
            await theirs.rpc(ours.name, "calc", "add", [1, 2])
        with pytest.raises(NodeError):
            await theirs.gen_call(("calc", ours.name), (Atom("add"), 1, 2))
        await theirs.gen_cast(("calc", ours.name), (Atom("add"), 1, 2))
        cast: Term = (Atom("cast"), Atom("calc"), Atom("add"), [1, 2], theirs.pid)
        await theirs.gen_cast(("rex", ours.name), cast)
        assert await theirs.ping(ours.name)
    refused = entry("audit_call", theirs.name, "calc:add/2", "refused", "draining")
    assert entries(caplog) == [refused] * 5


def entry(event: str, peer: str, called: str, outcome: str, cause: str) -> dict[str, object]:
    return {"event": event, "peer": peer, "called": called, "outcome": outcome, "cause": cause}


async def test_there_is_no_audit_log_unless_it_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quicdist.audit")
    async with two(ONLY_ADD) as (ours, theirs):
        await theirs.call(ours.name, "calc", "add", [1, 2])
    assert entries(caplog) == []


def test_an_audit_entry_is_one_bounded_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quicdist.audit")
    audit = Audit("ours@h")
    audit.refused(PeerIdentity("a@b\nroot may all"), "x" * 10**6)
    (record,) = caplog.records
    line = record.getMessage()
    assert "\n" not in line
    assert len(line) < 1000
    assert len(str(vars(record)["called"])) <= 500


def test_a_policy_is_the_same_object_for_nodes_and_gateways() -> None:
    assert gateway.Policy is Policy
