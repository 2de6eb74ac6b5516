"""Applies what `Access` allows a peer to the signals that it sends.

Answers always pass: replies by alias, DOWN of our monitors, exits of links that exist, replies to
our spawn requests. So does what is checked where it is carried out: spawn requests, `rex`, and the
exported modules, whose every function is looked up in `Access.calls`.
"""

from __future__ import annotations

import logging
from typing import Protocol, TypeAlias

from quicdist.carriers.few_lines import FewLines
from quicdist.dist import control as ctl
from quicdist.dist.control import Control
from quicdist.dist.session import NoPayload
from quicdist.etf import Atom, Pid, Reference, Term
from quicdist.node.access import Rights
from quicdist.node.process import NOPROC, Watcher

_log = logging.getLogger("quicdist.access")
_log.addFilter(FewLines("access_refused"))

_MOST_HEARD = 10_000
"""Processes of ours that a peer has heard of and may answer by their pid."""

_RUNTIME_TAGS = frozenset(
    {
        *("EXIT", "DOWN", "nodeup", "nodedown", "spawn_reply", "CHANGE", "system"),
        *("io_request", "io_reply", "get_parent", "trace", "trace_ts", "seq_trace", "monitor"),
        *("profile", "large_heap", "garbage_collect", "handle_debug", "suspend", "resume"),
    }
)
"""First elements of tuples that the runtime and OTP's behaviours send to processes."""

_REQUESTS = ("$",)
"""First characters of the tags of requests to OTP's behaviours."""

_NET_KERNEL = "net_kernel"

Target: TypeAlias = "Pid | Atom"

_TO_PID = (ctl.Send, ctl.SendTT, ctl.SendSender, ctl.SendSenderTT)
_TO_NAME = (ctl.RegSend, ctl.RegSendTT)
_EXITS = (ctl.Exit2, ctl.Exit2TT, ctl.PayloadExit2, ctl.PayloadExit2TT)


class Answering(Protocol):
    """The node's side of a refusal: as where there is no such process."""

    def send_down(
        self, watcher: Watcher, sender: Pid, reference: Reference, reason: Term
    ) -> None: ...

    def send_exit(self, sender: Pid, to: Pid, reason: Term) -> None: ...


class PeerGuard:
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

    def admits(self, control: Control, payload: Term | NoPayload) -> bool:
        """Whether this signal is carried out. One that is not is logged, and answered where the
        peer would wait for an answer."""
        if isinstance(control, _TO_PID):
            refused = self._refused_message(control.to_pid, payload)
        elif isinstance(control, _TO_NAME):
            refused = self._refused_message(control.to_name, payload)
        elif isinstance(control, ctl.AltactSigSend):
            refused = self._refused_altact(control, payload)
        elif isinstance(control, _EXITS):
            refused = "" if self._rights.exits else f"an exit signal to {control.to_pid}"
        elif isinstance(control, ctl.Link):
            refused = self._refused_link(control)
        elif isinstance(control, ctl.MonitorP):
            refused = self._refused_monitor(control)
        elif isinstance(control, ctl.GroupLeader):
            allowed = self._rights.group_leaders
            refused = "" if allowed else f"another group leader for {control.to_pid}"
        else:
            return True
        if refused:
            extra = {"event": "access_refused", "peer": self._peer, "what": refused}
            _log.warning("%s is refused %s", self._peer, refused, extra=extra)
        return not refused

    def _refused_message(self, to: Target, message: Term | NoPayload) -> str:
        tag = _tag(message)
        if tag in _RUNTIME_TAGS and not self._rights.system_messages:
            return f"a message {tag!r} to {to}, which only the runtime system sends"
        if not self._may_reach(to):
            return f"a message to {to}"
        is_request = tag is not None and tag.startswith(_REQUESTS)
        if is_request and isinstance(to, Pid) and not self._rights.any_pid:
            return f"a request to {to}: it may answer, and not ask"
        return ""

    def _refused_altact(self, control: ctl.AltactSigSend, payload: Term | NoPayload) -> str:
        if control.flags & ctl.ALTACT_EXIT:
            return "" if self._rights.exits else f"an exit signal to {control.to}"
        if isinstance(control.to, Reference):
            return ""
        return self._refused_message(control.to, payload)

    def _refused_link(self, control: ctl.Link) -> str:
        if self._rights.links and self._may_reach(control.to_pid):
            return ""
        self._system.send_exit(control.to_pid, control.from_pid, NOPROC)
        return f"a link to {control.to_pid}"

    def _refused_monitor(self, control: ctl.MonitorP) -> str:
        target = control.to_proc
        # `net_adm:ping`, and each call of a server, monitor the name that they ask.
        if self._may_reach(target) and (self._rights.monitors or target == _NET_KERNEL):
            return ""
        watcher = Watcher(control.from_pid, target)
        self._system.send_down(watcher, control.from_pid, control.ref, NOPROC)
        return f"a monitor of {target}"

    def _may_reach(self, target: Target) -> bool:
        if isinstance(target, Pid):
            return self._rights.any_pid or target in self._heard
        return self._rights.may_send_to(target)


def _tag(message: Term | NoPayload) -> str | None:
    """The atom at the beginning of a tuple."""
    if type(message) is tuple and message and isinstance(message[0], Atom):
        return str(message[0])
    return None
