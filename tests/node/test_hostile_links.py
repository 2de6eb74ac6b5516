"""A peer that sends arbitrary link and monitor signals.

It can end only the processes that it is linked to, and cannot prevent unlinking.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from quicdist.etf import Atom, Pid
from quicdist.runtime.links import Links
from tests.support.examples import examples

THEIRS = [Pid(Atom("evil@x"), number, 0, 5) for number in range(3)]
others = st.sampled_from(THEIRS)
ids = st.integers(1, 6)


class HostileLinks(RuleBasedStateMachine):
    """The local process links and unlinks while arbitrary signals arrive."""

    @initialize()
    def begin(self) -> None:
        self.links = Links()
        self.linked: set[Pid] = set()
        self.awaited: dict[Pid, int] = {}
        """Returns the id of the last unlink that is not acknowledged."""

    @rule(other=others)
    def we_link(self, other: Pid) -> None:
        assert self.links.link(other) == (other not in self.linked)
        self.linked.add(other)
        self.awaited.pop(other, None)

    @rule(other=others)
    def we_unlink(self, other: Pid) -> None:
        identifier = self.links.unlink(other)
        assert (identifier is None) == (other not in self.linked)
        if identifier is not None:
            assert identifier not in self.awaited.values()
            self.linked.remove(other)
            self.awaited[other] = identifier

    @rule(other=others)
    def it_links(self, other: Pid) -> None:
        self.links.link_received(other)
        if other not in self.awaited:
            self.linked.add(other)

    @rule(other=others)
    def it_unlinks(self, other: Pid) -> None:
        self.links.unlink_received(other)
        self.linked.discard(other)

    @rule(other=others, identifier=ids)
    def it_acknowledges(self, other: Pid, identifier: int) -> None:
        self.links.unlink_acknowledged(other, identifier)
        if self.awaited.get(other) == identifier:
            del self.awaited[other]

    @rule(other=others)
    def it_ends(self, other: Pid) -> None:
        assert self.links.exit_received(other) == (other in self.linked)
        self.linked.discard(other)

    @rule()
    def it_is_gone(self) -> None:
        assert set(self.links.forget_node("evil@x")) == self.linked
        assert not self.links
        self.linked.clear()
        self.awaited.clear()

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "links"):
            assert set(self.links) == self.linked
            assert len(self.links._state) == len(self.linked) + len(self.awaited)


TestHostileLinks = HostileLinks.TestCase
TestHostileLinks.settings = settings(
    max_examples=examples(100), stateful_step_count=40, deadline=None
)
