"""Applies the access rules to signals of a peer.

Answers always pass: replies by alias, DOWN signals of local monitors, exits of existing links, and
spawn replies. Spawn requests, `rex` and exported modules also pass here, since each function is
checked against `Access.calls` when it is called.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol, TypeAlias

from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.cluster.access_rules import (
    AccessRules,
    Pids,
    atom_text,
    is_request_tag,
    is_runtime_tag,
)
from quicdist.cluster.audit import Audit, Outcome, PeerIdentity
from quicdist.cluster.otp_names import NET_KERNEL, REX
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
from quicdist.runtime.calls import alias_of
from quicdist.runtime.process import NOPROC, Watcher

_log = logging.getLogger("quicdist.access")
_log.addFilter(LogRateLimit("access_refused"))

_MOST_SENDERS = 10_000
"""The maximum number of local processes whose pid a peer may answer."""

Target: TypeAlias = "Pid | Atom"


class RefusalAnswers(Protocol):
    """Sends the answers to refused signals, the same as for a nonexistent process."""

    def send_down(self, watcher: Watcher, sender: Pid, reference: Reference, reason: Term) -> None:
        """Sends DOWN for a monitor that is not allowed."""

    def send_exit(self, sender: Pid, to: Pid, reason: Term) -> None:
        """Sends an exit signal for a link that is not allowed."""


class AccessFilter:
    """The rules of one peer, and the local processes that have sent to it."""

    def __init__(
        self,
        caller: PeerIdentity,
        rules: AccessRules,
        system: RefusalAnswers,
        *,
        served: Iterable[str] = (),
        only_logs: bool = False,
        audit: Audit | None = None,
    ) -> None:
        """`served` are the exported modules, which are governed by `AccessRules.calls`.

        With `only_logs` every signal passes.
        """
        self._caller = caller
        self._system = system
        self._only_logs = only_logs
        self._audit = audit
        self._served = frozenset(served)
        self._senders: dict[Pid, None] = {}
        self.set_rules(rules, only_logs=only_logs)

    def set_rules(self, rules: AccessRules, *, only_logs: bool) -> None:
        """Replaces the rules."""
        self._rules = rules
        self._only_logs = only_logs
        self._by_calls = {*self._served, REX}
        if rules.ping or rules.may_call_everything:
            self._by_calls.add(NET_KERNEL)

    def note_sender(self, sender: Pid) -> None:
        """Notes that a local process sends to the peer, which may then answer its pid."""
        if sender in self._senders:
            return
        if len(self._senders) >= _MOST_SENDERS:
            del self._senders[next(iter(self._senders))]
        self._senders[sender] = None

    def allows(self, signal: Signal, payload: Payload) -> bool:
        """Returns whether a signal is allowed.

        A refused signal is logged, and answered if the peer would wait for an answer.
        """
        if isinstance(signal, Message):
            refused = self._refused_message(signal.to, payload)
        elif isinstance(signal, ExitSignal):
            refused = "" if self._rules.exits else f"an exit signal to {signal.to}"
        elif isinstance(signal, Link):
            refused = self._refused_link(signal)
        elif isinstance(signal, Monitor):
            refused = self._refused_monitor(signal)
        elif isinstance(signal, GroupLeader):
            allowed = self._rules.group_leaders
            refused = "" if allowed else f"another group leader for {signal.to}"
        else:
            return True
        if not refused:
            return True
        self._log_refusal(refused)
        if not self._only_logs:
            self._answer(signal)
        return self._only_logs

    def _log_refusal(self, refused: str) -> None:
        name = self._caller.name
        extra = {"event": "access_refused", "peer": name, "what": refused}
        text = "%s would be refused %s" if self._only_logs else "%s is refused %s"
        _log.warning(text, name, refused, extra=extra)
        if self._audit is not None:
            outcome = Outcome.WOULD_BE_REFUSED if self._only_logs else Outcome.REFUSED
            self._audit.refused(self._caller, refused, outcome)

    def _answer(self, signal: Signal) -> None:
        if isinstance(signal, Link):
            self._system.send_exit(signal.to, signal.sender, NOPROC)
        elif isinstance(signal, Monitor):
            watcher = Watcher(signal.sender, signal.to)
            self._system.send_down(watcher, signal.sender, signal.ref, NOPROC)

    def _refused_message(self, to: Target | Reference, message: Payload) -> str:
        tag = _tag(message)
        if self._is_for_another(tag, to, message):
            return f"a request to {to} whose answer goes to another process"
        if isinstance(to, Reference):
            return ""
        if is_runtime_tag(tag) and not self._rules.system_messages:
            return f"a message {tag!r} to {to}, which only the runtime system sends"
        if not self._may_reach(to):
            return f"a message to {to}"
        if isinstance(to, Pid):
            if is_request_tag(tag) and self._rules.pids is Pids.CALLERS:
                return f"a request to {to}, which only accepts answers"
        elif to == REX:
            return self._refused_through_rex(message)
        return ""

    def _is_for_another(self, tag: str | None, to: Target | Reference, message: Payload) -> bool:
        """Whether the answer would go to a process that is not the peer's.

        That process would accept it as a message of this node.
        """
        if self._rules.pids is Pids.ANY:
            return False
        match message:
            case (_, caller, _) if is_request_tag(tag):
                return not self._is_caller(caller)
            case (label, (Pid(), _) as caller, _) if isinstance(label, Pid) or to in self._by_calls:
                # The form of `gen_event:call`; system processes answer any label.
                return not self._is_caller(caller)
            case ("quicdist_stream", _, "subscribe", consumer, alias, _):
                return not self._is_caller((consumer, alias))
            case (Pid() as caller, _):
                return to in self._by_calls and caller.node != self._caller.name
        return False

    def _is_caller(self, caller: Term) -> bool:
        match caller:
            case (Pid() as asking, tag):
                alias = tag if isinstance(tag, Reference) else alias_of(tag)
                is_other = alias is not None and alias.node != self._caller.name
                return asking.node == self._caller.name and not is_other
        return False

    def _refused_through_rex(self, message: Payload) -> str:
        """Checks `rpc:sbcast` and the old `rpc:eval_everywhere`.

        `rex` forwards them to a registered name.
        """
        match message:
            case (Pid(), ("sbcast" | "send", Atom() as name, inner)):
                refused = self._refused_message(name, inner)
                return f"{refused}, through rex" if refused else ""
        return ""

    def _refused_link(self, signal: Link) -> str:
        allowed = self._rules.links and self._may_reach(signal.to)
        return "" if allowed else f"a link to {signal.to}"

    def _refused_monitor(self, signal: Monitor) -> str:
        target = signal.to
        # `net_adm:ping` and calls of servers monitor the name that they call.
        if self._may_reach(target) and (self._rules.monitors or target == NET_KERNEL):
            return ""
        return f"a monitor of {target}"

    def _may_reach(self, target: Target) -> bool:
        if isinstance(target, Pid):
            return self._rules.pids is Pids.ANY or target in self._senders
        return target in self._by_calls or self._rules.may_send_to(target)


def _tag(message: Payload) -> str | None:
    """Returns the first element of a tuple if it is an atom."""
    return atom_text(message[0]) if type(message) is tuple and message else None
