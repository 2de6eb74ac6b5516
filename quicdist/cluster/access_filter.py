"""Applies what `Access` allows a peer to the signals that it sends.

Answers always pass: replies by alias, DOWN of our monitors, exits of links that exist, replies to
our spawn requests. So does what is checked where it is carried out: spawn requests, `rex`, and the
exported modules, whose every function is looked up in `Access.calls`.
"""

from __future__ import annotations

import logging
from typing import Protocol, TypeAlias

from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.cluster.access import Rights
from quicdist.cluster.access_rules import atom_text, is_request_tag, is_runtime_tag
from quicdist.etf import Atom, Pid, Reference, Term
from quicdist.protocol.signals import (
    ExitSignal,
    GroupLeader,
    Link,
    Message,
    Monitor,
    Payload,
    Signal,
)
from quicdist.runtime.process import NOPROC, Watcher

_log = logging.getLogger("quicdist.access")
_log.addFilter(LogRateLimit("access_refused"))

_MOST_HEARD = 10_000
"""Processes of ours that a peer has heard of and may answer by their pid."""

_NET_KERNEL = "net_kernel"

Target: TypeAlias = "Pid | Atom"


class Answering(Protocol):
    """The node's side of a refusal: as where there is no such process."""

    def send_down(
        self, watcher: Watcher, sender: Pid, reference: Reference, reason: Term
    ) -> None: ...

    def send_exit(self, sender: Pid, to: Pid, reason: Term) -> None: ...


class AccessFilter:
    """What one peer may do, and the processes of ours that it has heard of."""

    def __init__(self, peer: str, rights: Rights, system: Answering) -> None:
        self._peer = peer
        self._rights = rights
        self._system = system
        self._heard: dict[Pid, None] = {}

    def heard(self, sender: Pid) -> None:
        """A process of ours sends to the peer, which may answer to its pid."""
        if sender in self._heard:
            return
        if len(self._heard) >= _MOST_HEARD:
            del self._heard[next(iter(self._heard))]
        self._heard[sender] = None

    def admits(self, signal: Signal, payload: Payload) -> bool:
        """Whether this signal is carried out. One that is not is logged, and answered where the
        peer would wait for an answer."""
        if isinstance(signal, Message):
            refused = self._refused_message(signal.to, payload)
        elif isinstance(signal, ExitSignal):
            refused = "" if self._rights.exits else f"an exit signal to {signal.to}"
        elif isinstance(signal, Link):
            refused = self._refused_link(signal)
        elif isinstance(signal, Monitor):
            refused = self._refused_monitor(signal)
        elif isinstance(signal, GroupLeader):
            allowed = self._rights.group_leaders
            refused = "" if allowed else f"another group leader for {signal.to}"
        else:
            return True
        if refused:
            extra = {"event": "access_refused", "peer": self._peer, "what": refused}
            _log.warning("%s is refused %s", self._peer, refused, extra=extra)
        return not refused

    def _refused_message(self, to: Target | Reference, message: Payload) -> str:
        if isinstance(to, Reference):
            return ""
        tag = _tag(message)
        if is_runtime_tag(tag) and not self._rights.system_messages:
            return f"a message {tag!r} to {to}, which only the runtime system sends"
        if not self._may_reach(to):
            return f"a message to {to}"
        if is_request_tag(tag) and isinstance(to, Pid) and not self._rights.any_pid:
            return f"a request to {to}: it may answer, and not ask"
        return ""

    def _refused_link(self, signal: Link) -> str:
        if self._rights.links and self._may_reach(signal.to):
            return ""
        self._system.send_exit(signal.to, signal.sender, NOPROC)
        return f"a link to {signal.to}"

    def _refused_monitor(self, signal: Monitor) -> str:
        target = signal.to
        # `net_adm:ping`, and each call of a server, monitor the name that they ask.
        if self._may_reach(target) and (self._rights.monitors or target == _NET_KERNEL):
            return ""
        watcher = Watcher(signal.sender, target)
        self._system.send_down(watcher, signal.sender, signal.ref, NOPROC)
        return f"a monitor of {target}"

    def _may_reach(self, target: Target) -> bool:
        if isinstance(target, Pid):
            return self._rights.any_pid or target in self._heard
        return self._rights.may_send_to(target)


def _tag(message: Payload) -> str | None:
    """The atom at the beginning of a tuple."""
    return atom_text(message[0]) if type(message) is tuple and message else None
