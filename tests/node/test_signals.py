"""Links, unlinks, monitors and exits between two systems whose signals cross in random order."""

from __future__ import annotations

from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from quicdist.etf import Atom, Pid, Reference, Term
from quicdist.protocol.signals import NO_PAYLOAD, Link, Payload, Signal
from quicdist.runtime.backpressure import Backpressure, Source
from quicdist.runtime.identifiers import Identifiers
from quicdist.runtime.process import NOCONNECTION, Process
from quicdist.runtime.process_table import ProcessTable, Route

ONE, TWO = Atom("1@127.0.0.1"), Atom("2@127.0.0.1")
SIDES = st.sampled_from([0, 1])
INDEXES = st.integers(0, 2)


class Recorder(Process):
    """A process that records its messages and traps exits."""

    def __init__(self, system: ProcessTable) -> None:
        super().__init__(system, Backpressure(self, 0, 1, 1))
        self.messages: list[Term] = []
        self.trap_exit = True

    def deliver(self, message: Term, source: Source) -> None:
        self.messages.append(message)

    def exits_from(self, other: Pid) -> int:
        return sum(message[:2] == ("EXIT", other) for message in self.messages)

    def downs(self, reference: Reference) -> list[Term]:
        return [m[4] for m in self.messages if m[:2] == ("DOWN", reference)]


class Connection:
    """A source of signals, in place of the connection to a node."""

    fingerprint = ""

    def __init__(self, name: Atom) -> None:
        self.name = name

    def pause(self, level: Backpressure) -> None:
        pass

    def throttle(self, seconds: float) -> None:
        pass

    resume = pause

    def link_added(self, count: object) -> None:
        pass


class Wire:
    """The channel to the other system: ordered, with delays that the test controls."""

    def __init__(self) -> None:
        self.queue: deque[tuple[Signal, Payload]] = deque()

    def post(self, node: Atom, sender: Pid, control: Signal, payload: Payload = NO_PAYLOAD) -> None:
        self.queue.append((control, payload))

    post_if_connected = post

    def watch(self, node: Atom) -> None:
        pass

    def when_up(self, node: Atom, begin: object, fail: object) -> None:
        raise NotImplementedError

    def is_up(self, node: Atom) -> bool:
        return True

    def obstacle(self, node: Atom) -> None:
        return None

    def send(self, route: Route, payload: Payload) -> None:
        self.post(route.node, route.sender, route.signal, payload)


class CrossingSignals(RuleBasedStateMachine):
    """Three processes on each side; after any actions both ends of a link agree."""

    @initialize()
    def begin(self) -> None:
        self.wires = [Wire(), Wire()]
        self.systems = [
            ProcessTable(Identifiers(name, 4 + side), self.wires[side])
            for side, name in enumerate((ONE, TWO))
        ]
        self.processes = [[Recorder(system) for _ in range(3)] for system in self.systems]
        self.everyone = [process for side in self.processes for process in side]
        self.unlinked: dict[tuple[Pid, Pid], int] = {}
        self.monitors: dict[Reference, tuple[Recorder, Recorder]] = {}
        self.demonitored: dict[Reference, int] = {}

    def pair(self, side: int, one: int, two: int) -> tuple[Recorder, Recorder]:
        return self.processes[side][one], self.processes[1 - side][two]

    @rule(side=SIDES, one=INDEXES, two=INDEXES)
    def link(self, side: int, one: int, two: int) -> None:
        me, other = self.pair(side, one, two)
        if me.is_alive:
            me.link(other.pid)
            self.unlinked.pop((me.pid, other.pid), None)

    @rule(side=SIDES, one=INDEXES, two=INDEXES)
    def unlink(self, side: int, one: int, two: int) -> None:
        me, other = self.pair(side, one, two)
        if me.is_alive:
            me.unlink(other.pid)
            self.unlinked[me.pid, other.pid] = me.exits_from(other.pid)

    @rule(side=SIDES, one=INDEXES, two=INDEXES)
    def monitor(self, side: int, one: int, two: int) -> None:
        me, other = self.pair(side, one, two)
        if me.is_alive:
            self.monitors[me.monitor(other.pid)] = (me, other)

    @rule(data=st.data())
    def demonitor(self, data: st.DataObject) -> None:
        if self.monitors:
            reference = data.draw(st.sampled_from(sorted(self.monitors)))
            me, _ = self.monitors[reference]
            was_active = me.demonitor(reference)
            assert was_active == (me.is_alive and not me.downs(reference)) or (
                reference in self.demonitored
            )
            self.demonitored.setdefault(reference, len(me.downs(reference)))

    @rule(side=SIDES, one=INDEXES)
    def end(self, side: int, one: int) -> None:
        self.processes[side][one].die(Atom("enough"))

    @rule(side=SIDES, count=st.integers(1, 4))
    def arrive(self, side: int, count: int) -> None:
        """Delivers some signals to the other side."""
        queue = self.wires[side].queue
        target = self.systems[1 - side]
        for _ in range(min(count, len(queue))):
            control, payload = queue.popleft()
            if isinstance(control, Link):
                self.link_arrives(control)
            target.handlers[type(control)](control, payload, Connection((ONE, TWO)[side]))

    def link_arrives(self, control: Link) -> None:
        """A link from the other side counts, unless it was sent before the unlink arrived there."""
        me = next(process for process in self.everyone if process.pid == control.to)
        if control.sender not in me.links._state:
            self.unlinked.pop((me.pid, control.sender), None)

    @rule()
    def lose_the_connection(self) -> None:
        for wire in self.wires:
            wire.queue.clear()
        self.systems[0].node_lost(TWO)
        self.systems[1].node_lost(ONE)
        assert not any(process.links for process in self.everyone)
        assert not any(process.watchers or process.monitoring for process in self.everyone)

    @invariant()
    def unlink_is_final(self) -> None:
        """After unlink, exit signals of that link are ignored until a new link exists."""
        for (mine, other), count in self.unlinked.items():
            me = next(process for process in self.everyone if process.pid == mine)
            assert other not in set(me.links)
            assert me.exits_from(other) == count

    @invariant()
    def a_monitor_fires_once(self) -> None:
        for reference, (me, _) in self.monitors.items():
            downs = me.downs(reference)
            assert len(downs) <= 1
            if reference in self.demonitored:
                assert len(downs) == self.demonitored[reference]

    def teardown(self) -> None:
        """After all signals are delivered, both sides agree."""
        if not hasattr(self, "wires"):
            return
        while any(wire.queue for wire in self.wires):
            for side in (0, 1):
                self.arrive(side, 100)
        for me in self.everyone:
            for other in self.everyone:
                if me is other or not me.is_alive:
                    continue
                linked = other.pid in set(me.links)
                assert linked == (other.is_alive and me.pid in set(other.links))
        for reference, (me, other) in self.monitors.items():
            if not me.is_alive or reference in self.demonitored:
                assert reference not in other.watchers
            elif other.is_alive:
                lost = me.downs(reference) == [NOCONNECTION]
                assert lost or other.watchers[reference].pid == me.pid
            else:
                assert me.downs(reference)[0] in ("enough", "noproc", "noconnection")


TestCrossingSignals = CrossingSignals.TestCase
