"""Pending calls under arbitrary signals.

Only the called node can answer, once, and a completed call leaves no state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quicdist.etf import Atom, ImproperList, Pid, Term
from quicdist.protocol import signals
from quicdist.protocol.signals import NO_PAYLOAD, Payload, Signal
from quicdist.runtime.backpressure import Backpressure, Source
from quicdist.runtime.calls import (
    CalledNode,
    ErpcCall,
    GenCall,
    PendingCall,
    Spawn,
    SpawnCall,
    SpawnMessage,
)
from quicdist.runtime.identifiers import Identifiers
from quicdist.runtime.process import Process
from quicdist.runtime.process_table import ProcessTable

HERE, ASKED, THIRD = Atom("a@x"), Atom("b@x"), Atom("c@x")
SERVER = Pid(ASKED, 1, 0, 5)
FROM = st.sampled_from([ASKED, THIRD])
KINDS = st.sampled_from(["gen", "erpc", "spawn", "message"])


class Connection:
    """The source of what a node sends, and what it is sent."""

    can_spawn = True
    takes_deadlines = False
    fingerprint = ""

    def __init__(self, name: Atom) -> None:
        self.name = name
        self.calls: set[object] = set()

    def throttle(self, seconds: float) -> None: ...

    def pause(self, level: Backpressure) -> None: ...

    def resume(self, level: Backpressure) -> None: ...

    def link_added(self, count: object) -> None: ...

    def call_begins(self, call: object, fail: object) -> None:
        self.calls.add(call)

    def call_ends(self, call: object) -> None:
        self.calls.discard(call)


class Network:
    """One node that is up, and a third."""

    def __init__(self) -> None:
        self.connections = {name: Connection(name) for name in (ASKED, THIRD)}
        self.sent: list[Signal] = []

    def post(self, node: Atom, sender: Pid, signal: Signal, payload: Payload = NO_PAYLOAD) -> None:
        self.sent.append(signal)

    post_if_connected = post

    def when_up(self, node: Atom, begin: Callable[[CalledNode], None], fail: object) -> None:
        begin(self.connections[node])

    def is_up(self, node: Atom) -> bool:
        return True

    def obstacle(self, node: Atom) -> None: ...

    def watch(self, node: Atom) -> None: ...

    def send(self, route: Any, payload: Term) -> None: ...


class Caller(Process):
    """Keeps what it is sent."""

    def __init__(self, system: ProcessTable) -> None:
        super().__init__(system)
        self.messages: list[Any] = []

    def deliver(self, message: Term, source: Source) -> None:
        self.messages.append(message)


class Calls(RuleBasedStateMachine):
    """Calls of one process to one node."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.network = Network()
        self.system = ProcessTable(Identifiers(HERE, 4), self.network)
        self.caller = Caller(self.system)
        self.calls: list[PendingCall] = []
        self.ended: dict[PendingCall, Any] = {}
        """The outcome of each call when it was first seen to be complete."""

    @rule(kind=KINDS)
    def call(self, kind: str) -> None:
        if not self.caller.is_alive:
            self.caller = Caller(self.system)
        spawn = Spawn(ASKED, Atom("m"), Atom("f"), [], True, True, None, self.caller.pid)

        async def start() -> PendingCall:
            made: PendingCall
            if kind == "gen":
                made = GenCall(self.caller, SERVER, 1)
            elif kind == "erpc":
                made = ErpcCall(self.caller, ASKED, Atom("m"), Atom("f"), [], self.caller.pid)
            elif kind == "spawn":
                made = SpawnCall(self.caller, spawn)
            else:
                made = SpawnMessage(self.caller, spawn, Atom("tag"))
            made.begin()
            return made

        self.calls.append(self.loop.run_until_complete(start()))

    def receive(self, node: Atom, signal: Signal, payload: Term = None) -> None:
        """A signal arrives; the state of every open call is the same where it is forged."""
        before = [call.result.done() for call in self.calls]
        refused, messages = self.system.calls.refused, len(self.caller.messages)
        self.system.handlers[type(signal)](signal, payload, self.network.connections[node])
        if node is THIRD:
            assert [call.result.done() for call in self.calls] == before
            assert len(self.caller.messages) == messages
        else:
            assert self.system.calls.refused == refused

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), node=FROM, by_pid=st.booleans())
    def answer(self, data: st.DataObject, node: Atom, by_pid: bool) -> None:
        call = data.draw(st.sampled_from(self.calls))
        if not isinstance(call, GenCall) or (by_pid and not call.is_open):
            return
        answer = (ImproperList((Atom("alias"),), call.reference), (node, 1))
        signal = (
            signals.Message(SERVER, call.caller.pid)
            if by_pid
            else signals.Message(SERVER, call.reference)
        )
        was_open = call.is_open
        self.receive(node, signal, answer)
        if was_open and node is ASKED:
            assert call.result.result() == (ASKED, 1)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), node=FROM)
    def down(self, data: st.DataObject, node: Atom) -> None:
        call = data.draw(st.sampled_from(self.calls))
        signal = signals.Down(SERVER, call.caller.pid, call.reference)
        was_open = call.is_open
        self.receive(node, signal, Atom("gone"))
        if was_open and node is ASKED and isinstance(call, (GenCall, ErpcCall)):
            assert "gone" in str(call.result.exception())

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), node=FROM, succeeds=st.booleans())
    def spawn_reply(self, data: st.DataObject, node: Atom, succeeds: bool) -> None:
        call = data.draw(st.sampled_from(self.calls))
        if isinstance(call, GenCall):
            return
        flags = signals.SPAWN_LINKED | signals.SPAWN_MONITORED if succeeds else 0
        result = SERVER if succeeds else Atom("badopt")
        reply = signals.SpawnReply(call.reference, call.caller.pid, flags, result)
        was_open = call.is_open
        self.receive(node, reply)
        if was_open and node is ASKED and not isinstance(call, ErpcCall):
            assert call.result.done()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.calls)).close()

    @rule()
    def lose_the_node(self) -> None:
        for process in [self.caller]:
            process.trap_exit = True
        self.system.node_lost(ASKED)
        assert not self.system.calls
        assert not any(call.is_open for call in self.calls)

    @rule()
    def end_the_caller(self) -> None:
        self.caller.die(Atom("enough"))
        assert not any(call.is_open for call in self.calls if call.caller is self.caller)

    @invariant()
    def what_is_over_stays_so(self) -> None:
        if not hasattr(self, "calls"):
            return
        for call in self.calls:
            assert call.is_open != call.result.done()
            if call.is_open:
                assert call in set(self.system.calls)
                assert call.reference in self.network.connections[ASKED].calls
            else:
                result = call.result
                state = result.cancelled() or result.exception() or result.result()
                assert self.ended.setdefault(call, state) is state
        for call in self.system.calls:
            # The reply is waited for, to end what it has begun.
            assert call.is_open or not isinstance(call, GenCall)
        is_open = [call.reference for call in self.calls if call.is_open]
        assert self.network.connections[ASKED].calls == set(is_open)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()


TestCalls = Calls.TestCase
