"""Processes that are part of the node: `net_kernel`, `rex`, exported modules.

A service has no mailbox: it deals with each message at once, or starts a process for it. Exit
signals do not end it; it lives as long as the node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from quicdist.etf import Atom, ImproperList, Pid, Reference, Term
from quicdist.etf.notation import format_bounded
from quicdist.node.level import HERE, Source
from quicdist.node.process import Process
from quicdist.node.system import System

logger = logging.getLogger("quicdist.node")

GEN_CALL = Atom("$gen_call")
GEN_CAST = Atom("$gen_cast")
ALIAS = Atom("alias")


class Service(Process):
    """A process that is a function of its messages."""

    def __init__(self, system: System, handle: Callable[[Service, Term, Source], None]) -> None:
        super().__init__(system)
        self._handle = handle

    def deliver(self, message: Term, source: Source) -> None:
        """A message that makes no sense is reported, and costs nobody else anything."""
        try:
            self._handle(self, message, source)
        except Exception:
            text = format_bounded(message, 500)
            logger.exception(
                "%s cannot deal with %s", self, text, extra=self.fields("message_failed")
            )

    def link_broken(self, other: Pid, reason: Term, source: Source = HERE) -> None:
        """Whoever was linked to it: the service stays."""
        self.links.exit_received(other)

    def exit_signalled(self, sender: Pid, reason: Term, source: Source = HERE) -> None:
        """It stays."""
        extra = {**self.fields("exit_ignored"), "sender": str(sender)}
        logger.warning("%s was sent an exit signal by %s and stays", self, sender, extra=extra)

    def node_lost(self, node: Atom) -> None:
        """It stays."""
        self.links.forget_node(node)
        super().node_lost(node)

    def reply(self, to: Term, answer: Term) -> None:
        """Answers a gen call. `to` is its From."""
        reply(self.system, self.pid, to, answer)


def reply(system: System, sender: Pid, to: Term, answer: Term) -> None:
    """Answers `{'$gen_call', To, Request}`, to the alias where the caller made one.

    OTP, gen:reply/2.
    """
    pid, tag = to
    system.post(sender, alias_of(tag) or pid, (tag, answer))


def alias_of(tag: Term) -> Reference | None:
    """The alias in a gen call's tag: `[alias|Ref]`, or that as the head of a list."""
    if isinstance(tag, list) and tag:
        tag = tag[0]
    elif isinstance(tag, ImproperList) and isinstance(tag.items[0], ImproperList):
        tag = tag.items[0]
    if isinstance(tag, ImproperList) and tag.items == (ALIAS,) and isinstance(tag.tail, Reference):
        return tag.tail
    return None


def is_from(term: Term) -> bool:
    """Whether a term is the From of a gen call."""
    return isinstance(term, tuple) and len(term) == 2 and isinstance(term[0], Pid)
