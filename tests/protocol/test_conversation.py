"""A long exchange of two sessions: random messages, interleaved fragments, atom cache turnover."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quicdist.etf import Atom
from quicdist.limits import SessionLimits
from quicdist.protocol.channel import FragmentStored, MessageReceived, TickReceived, UnknownReceived
from quicdist.protocol.packet import FramePacket
from quicdist.protocol.session import Session
from quicdist.protocol.signals import NO_PAYLOAD, UnknownSignal
from tests.protocol import strategies
from tests.protocol.forms import Control, encode, meaning
from tests.protocol.talk import FORMS, connected_pair
from tests.support.examples import examples

LIMITS = SessionLimits(fragment_size=50)

crowds = st.builds(
    lambda start, step, count: [Atom(f"atom{start + step * at}") for at in range(count)],
    st.integers(0, 5000),
    st.integers(1, 20),
    st.integers(0, 300),
)
"""Lists of atoms; there are many more than the cache can hold."""


class Direction:
    """The frames and messages in transit from one session to the other."""

    def __init__(self, source: Session, target: Session) -> None:
        self.source = source
        self.target = target
        self.waiting: list[tuple[Iterator[tuple[bytes | memoryview, ...]], Any]] = []
        self.on_the_wire: deque[tuple[bytes, Any]] = deque()
        """Frames in transit, and the message that they complete."""
        self.stored = 0

    def deliver(self) -> None:
        frame, complete = self.on_the_wire.popleft()
        (event,) = self.target.receive(FramePacket(frame))
        if isinstance(event, FragmentStored):
            assert complete is None
            assert event.size == len(frame)
            self.stored += event.size
        elif isinstance(event, MessageReceived):
            assert (event.signal, event.payload) == complete
            assert event.size >= len(frame)
            self.stored -= event.size - len(frame)
        elif isinstance(event, UnknownReceived):
            assert (event.signal, NO_PAYLOAD) == complete
        else:
            assert isinstance(event, TickReceived)
            assert frame == b""


class Conversation(RuleBasedStateMachine):
    """Messages start, advance by frames, and arrive, in any order and direction."""

    @initialize(form=st.sampled_from(sorted(FORMS)))
    def connect(self, form: str) -> None:
        dialer, listener = connected_pair(FORMS[form], limits=LIMITS)
        self.directions = (Direction(dialer, listener), Direction(listener, dialer))

    @rule(
        way=st.integers(0, 1),
        control=strategies.controls
        | st.builds(UnknownSignal, st.integers(38), st.tuples(strategies.terms)),
        payload=strategies.terms | crowds | st.binary(max_size=1000),
    )
    def begin(self, way: int, control: Control | UnknownSignal, payload: Any) -> None:
        direction = self.directions[way]
        if not control.HAS_PAYLOAD:
            payload = NO_PAYLOAD
        message = encode(direction.source, control, payload)
        told = meaning(control, payload) if isinstance(control, Control) else (control, payload)
        direction.waiting.append((direction.source.frames(message), told))

    @rule(way=st.integers(0, 1), data=st.data())
    def advance(self, way: int, data: st.DataObject) -> None:
        direction = self.directions[way]
        if not direction.waiting:
            direction.on_the_wire.append((b"", None))
            return
        at = data.draw(st.integers(0, len(direction.waiting) - 1))
        frames, message = direction.waiting[at]
        parts = next(frames)
        last = not self._more(direction, at, frames)
        direction.on_the_wire.append((b"".join(parts), message if last else None))
        if last:
            direction.waiting = [one for one in direction.waiting if one[0] is not frames]

    @staticmethod
    def _more(direction: Direction, at: int, frames: Iterator[Any]) -> bool:
        """Whether another frame follows. The frame is put back."""
        following = next(frames, None)
        if following is None:
            return False
        direction.waiting[at] = (chain((following,), frames), direction.waiting[at][1])
        return True

    @precondition(lambda self: any(one.on_the_wire for one in self.directions))
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        busy = [one for one in self.directions if one.on_the_wire]
        direction = data.draw(st.sampled_from(range(len(busy))))
        for _ in range(data.draw(st.integers(1, len(busy[direction].on_the_wire)))):
            busy[direction].deliver()

    @invariant()
    def both_are_connected(self) -> None:
        for one in getattr(self, "directions", ()):
            assert one.target.connected

    def teardown(self) -> None:
        for direction in getattr(self, "directions", ()):
            while direction.on_the_wire:
                direction.deliver()
            for frames, message in direction.waiting:
                rest = [b"".join(parts) for parts in frames]
                direction.on_the_wire.extend((frame, None) for frame in rest[:-1])
                direction.on_the_wire.append((rest[-1], message))
            while direction.on_the_wire:
                direction.deliver()
            assert direction.stored == 0


TestConversation = Conversation.TestCase
TestConversation.settings = settings(
    max_examples=examples(50), stateful_step_count=60, deadline=None
)


def test_thousands_of_atoms_through_both_caches() -> None:
    dialer, listener = connected_pair()
    directions = (Direction(dialer, listener), Direction(listener, dialer))
    for start in range(0, 20_000, 97):
        for direction in directions:
            atoms = tuple(Atom(f"turn{(start + at * at) % 7001}") for at in range(180))
            message = UnknownSignal(99, atoms)
            for parts in direction.source.frames(direction.source.encode(message)):
                direction.on_the_wire.append((b"".join(parts), (message, NO_PAYLOAD)))
            direction.deliver()
