"""Decides whether a signal from a peer passes, by the rules for that peer and earlier signals.

A refusal is answered as OTP answers for a process that does not exist: a message, an exit signal
or a group leader gets no answer; a monitor, a link and a call get `noproc`. A spawn request is
answered with `notsup`, as by a node that does not support spawn requests.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from quicdist.cluster.access_rules import is_request_tag, is_runtime_tag
from quicdist.cluster.otp_names import GLOBAL, NET_KERNEL, REX
from quicdist.cluster.policy import PeerRules, Pids
from quicdist.etf.terms import Atom, Pid, Reference, Term
from quicdist.gateway.payload_inspection import (
    Asked,
    Call,
    Features,
    Passed,
    PayloadInspection,
    Ping,
    Request,
    answer_tag,
    answers_features,
    asker,
    first_tag,
    is_asked_for_another,
    is_of_event_manager,
    requested,
    spawned,
)
from quicdist.gateway.reachability import Reach, Reachability, ReferenceBudget
from quicdist.protocol.errors import ProtocolError
from quicdist.protocol.signals import (
    NO_PAYLOAD,
    Demonitor,
    Down,
    Exit,
    ExitSignal,
    GroupLeader,
    Link,
    Message,
    Monitor,
    Payload,
    Signal,
    SpawnReply,
    SpawnRequest,
    UnknownSignal,
    Unlink,
    UnlinkAck,
)

_NOPROC = Atom("noproc")
_NOTSUP = Atom("notsup")
_NONEXISTING = Atom("nonexisting_name")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal: the text for the log, and the answer to the sender."""

    what: str
    answer: Signal | None = None
    payload: Payload = NO_PAYLOAD
    """The payload of the answer."""


class Pass(enum.Enum):
    """Why a signal passes."""

    REQUEST = "request"
    """The peer starts an interaction. Funs are allowed only if the rules permit them."""
    GLOBAL = "global"
    """A request to `global`, which tells each node of the pids of all nodes."""
    CALL = "call"
    """A request to `rex` or `net_kernel` to run a function. Its last term is the group leader."""
    ANSWER = "answer"
    """The signal answers or ends an interaction that the node has started."""


Verdict: TypeAlias = Refusal | Pass


class PolicyRules:
    """Applies the rules of one peer to its signals."""

    def __init__(
        self,
        rules: PeerRules,
        *,
        own_name: Atom,
        peer_name: str,
        budget: ReferenceBudget | None = None,
    ) -> None:
        self.rules = rules
        self.remembered = Reachability(own_name, budget)
        self._own_name = own_name
        self._peer_name = Atom(peer_name)

    def verdict(self, signal: Signal, payload: PayloadInspection) -> Verdict:
        """Decides about a signal. Raises ProtocolError for signals that no node sends."""
        sender = getattr(signal, "sender", None)
        if isinstance(sender, Pid) and sender.node != self._peer_name:
            kind = type(signal).__name__
            raise ProtocolError(f"{kind} in another node's name, {sender.node[:64]}")
        to = getattr(signal, "to", None)
        if isinstance(to, Pid | Reference) and to.node != self._own_name:
            return Refusal(f"{type(signal).__name__} to a process of another node")
        return _HANDLERS[type(signal)](self, signal, payload)

    def called(self, signal: Signal, payload: PayloadInspection) -> str | None:
        """Returns the called `module:function` of a request that passes, or None."""
        match signal:
            case SpawnRequest():
                called = spawned(signal, payload.again()) or Call(*signal.mfa[:2])
            case Message(to=Atom() as name) if name in (REX, NET_KERNEL):
                request = requested(payload.again(), self._peer_name).request
                if not isinstance(request, Call):
                    return None
                called = request
            case _:
                return None
        return f"{called.module}:{called.function}"

    def refuse(self, signal: Signal, payload: PayloadInspection, what: str) -> Refusal:
        """Returns the refusal of a request because of its contents."""
        if isinstance(signal, SpawnRequest):
            answer = SpawnReply(signal.req_id, signal.sender, 0, _NOTSUP)
            return Refusal(f"{what} in {Call(*signal.mfa[:2])}", answer)
        if isinstance(signal, Message):
            name = _place(signal.to)
            return _unanswered(f"{what} in a message to {name}", signal, asker(payload.again()))
        return Refusal(f"{what} in {type(signal).__name__}")

    def foreign_pid(self, found: set[bytes], leader: bytes | None) -> str | None:
        """Describes a pid of the node that a request must not contain, or returns None.

        `found` are the pids in it, and `leader` is its group leader if that is one of the node's.
        """
        if self.rules.pids is Pids.ANY:
            return None
        if leader is not None and not self.remembered.is_child(leader):
            return "a process of the node as group leader"
        if not self.remembered.knows_pids(found):
            return "a pid of the node that was not sent there"
        return None

    def _reach(self, pid: Pid) -> Reach | None:
        """Returns how the peer may reach a process of the node, or None."""
        reach = self.remembered.reach(pid)
        return Reach.CHILD if self.rules.pids is Pids.ANY else reach

    # -- messages -------------------------------------------------------------------------------

    def _message(self, signal: Message, payload: PayloadInspection) -> Verdict:
        to = signal.to
        if self._is_asked_for_another(payload):
            return Refusal(f"a request to {_place(to)} whose answer goes to another process")
        if isinstance(to, Atom):
            return self._to_name(signal, to, payload)
        if isinstance(to, Pid):
            return self._to_pid(signal, to, payload)
        return self._to_alias(signal, to, payload)

    def _is_asked_for_another(self, payload: PayloadInspection) -> bool:
        """Whether a server would send its answer to a process that the peer may not reach.

        The peer determines the content of such an answer.
        """
        if self.rules.pids is Pids.ANY or self.rules.may_call_everything:
            return False
        return is_asked_for_another(payload.again(), self._peer_name)

    def _to_name(self, signal: Message, name: Atom, payload: PayloadInspection) -> Verdict:
        if self.rules.may_send_to(name):
            passes = Pass.GLOBAL if name == GLOBAL else Pass.REQUEST
            return self._runtime_message(signal, payload) or passes
        if name not in (REX, NET_KERNEL):
            return Refusal(f"a message to {_short(name)}")
        # These processes run functions on request.
        asked = requested(payload.again(), self._peer_name)
        if self._may_ask(asked.request):
            return Pass.CALL if isinstance(asked.request, Call) else Pass.REQUEST
        what = "a message" if asked.request is None else str(asked.request)
        what += f" by way of {name}"
        plain = self._plain_answer(what, signal, asked) if name == REX else None
        return plain or _unanswered(what, signal, asked.monitor)

    def _plain_answer(self, what: str, signal: Message, asked: Asked) -> Refusal | None:
        """The answer of rex to a caller without a monitor: no such name, or no such call."""
        if not asked.is_plain or signal.sender is None:
            return None
        match asked.request:
            case Passed(name):
                answer: Term = (Atom(REX), self._own_name, (_NONEXISTING, Atom(name)))
            case Call():
                answer = (Atom(REX), (Atom("badrpc"), _NOTSUP))
            case _:
                return None
        return Refusal(what, Message(None, signal.sender), answer)

    def _may_ask(self, request: Request | None) -> bool:
        """Whether the peer may send this request to rex or net_kernel."""
        match request:
            case Call(module, function):
                return self.rules.may_call(module, function)
            case Passed(name, tag, is_for_another):
                # A request that is forwarded to these two would not be checked.
                return (
                    name not in (REX, NET_KERNEL)
                    and self.rules.may_send_to(name)
                    and (self.rules.system_messages or not is_runtime_tag(tag))
                    and (self.rules.pids is Pids.ANY or not is_for_another)
                )
            case Ping():
                return self.rules.ping
            case Features():
                return True
            case None:
                return False

    def _to_pid(self, signal: Message, pid: Pid, payload: PayloadInspection) -> Verdict:
        if self._answers_call(pid, payload):
            return Pass.ANSWER
        reach = self._reach(pid)
        if reach is None:
            return Refusal(f"a message to {pid}")
        refusal = self._runtime_message(signal, payload)
        if refusal is not None:
            return refusal
        if reach is Reach.CHILD:
            return Pass.REQUEST
        if self._is_request(payload):
            if self.rules.pids is Pids.PARTNERS:
                return Pass.REQUEST
            return _unanswered(f"a request to {pid}", signal, asker(payload.again()))
        return Pass.ANSWER

    def _is_request(self, payload: PayloadInspection) -> bool:
        """Whether an OTP behaviour takes the message for a request."""
        return is_request_tag(first_tag(payload.again())) or is_of_event_manager(payload.again())

    def _answers_call(self, pid: Pid, payload: PayloadInspection) -> bool:
        tag = answer_tag(payload.again())
        if tag is not None:
            return self.remembered.takes_answer(pid, tag)
        return answers_features(payload.again()) and self.remembered.takes_features(pid)

    def _to_alias(self, signal: Message, alias: Reference, payload: PayloadInspection) -> Verdict:
        """Checks an alias. References are sequential, so an alias that was not sent is a guess."""
        refusal = self._runtime_message(signal, payload)
        if refusal is not None:
            return refusal
        if not self.remembered.takes_alias(alias):
            return Refusal("a message to an alias that was not sent there")
        return Pass.ANSWER

    def _runtime_message(self, signal: Message, payload: PayloadInspection) -> Refusal | None:
        """Refuses tuples that only the runtime system or a parent sends to a process."""
        if self.rules.system_messages:
            return None
        tag = first_tag(payload.again())
        if not is_runtime_tag(tag):
            return None
        kind = "system message" if tag == "system" else f"message '{tag}'"
        return _unanswered(f"a {kind} to {_place(signal.to)}", signal, asker(payload.again()))

    # -- exits, links, monitors -----------------------------------------------------------------

    def _exit_signal(self, signal: ExitSignal, payload: PayloadInspection) -> Verdict:
        to = signal.to
        if isinstance(to, Pid):
            reached = self._reach(to) is not None
        elif isinstance(to, Reference):
            reached = self.remembered.knows_alias(to)
        else:
            reached = self.rules.may_send_to(to)
        if self.rules.exits and reached:
            return Pass.REQUEST
        return Refusal(f"an exit signal to {_place(to)}")

    def _link(self, signal: Link, payload: PayloadInspection) -> Verdict:
        if self.rules.links and self._reach(signal.to) is not None:
            return Pass.REQUEST
        return Refusal(f"a link to {signal.to}", Exit(signal.to, signal.sender), _NOPROC)

    def _monitor(self, signal: Monitor, payload: PayloadInspection) -> Verdict:
        if signal.ref.node != self._peer_name:
            return Refusal("a monitor with another node's reference")
        if self._may_monitor(signal.to):
            return Pass.REQUEST
        answer = Down(signal.to, signal.sender, signal.ref)
        return Refusal(f"a monitor of {_place(signal.to)}", answer, _NOPROC)

    def _demonitor(self, signal: Demonitor, payload: PayloadInspection) -> Verdict:
        if isinstance(signal.to, Pid) or self._may_monitor(signal.to):
            return Pass.ANSWER
        return Refusal(f"the end of a monitor of {_place(signal.to)}")

    def _may_monitor(self, target: Pid | Atom) -> bool:
        if isinstance(target, Pid):
            return self.rules.monitors and self._reach(target) is not None
        return self.rules.may_monitor(target)

    def _down(self, signal: Down, payload: PayloadInspection) -> Verdict:
        if self.remembered.takes_down(signal.ref):
            return Pass.ANSWER
        return Refusal("a DOWN of a monitor that the node has not created")

    def _answer(self, signal: Signal, payload: PayloadInspection) -> Verdict:
        """Ends a link or monitor. OTP ignores the signal if there is none."""
        return Pass.ANSWER

    # -- spawning, group leaders ----------------------------------------------------------------

    def _spawn(self, signal: SpawnRequest, payload: PayloadInspection) -> Verdict:
        if self.rules.may_call_everything:
            return Pass.REQUEST
        call = spawned(signal, payload.again())
        what = str(call or Call(*signal.mfa[:2]))
        if call is not None and self.rules.may_call(call.module, call.function):
            if self._may_spawn_so(signal):
                return Pass.REQUEST
            what += " with options or a group leader of its own"
        return Refusal(what, SpawnReply(signal.req_id, signal.sender, 0, _NOTSUP))

    def _may_spawn_so(self, signal: SpawnRequest) -> bool:
        leader = signal.group_leader
        return (
            signal.req_id.node == self._peer_name
            and self.rules.may_spawn_with(signal.options)
            and (leader.node != self._own_name or self._reach(leader) is Reach.CHILD)
        )

    def _spawn_reply(self, signal: SpawnReply, payload: PayloadInspection) -> Verdict:
        result = signal.result
        is_spawned = isinstance(result, Pid)
        if isinstance(result, Pid) and result.node != self._peer_name:
            return Refusal("the reply to a spawn request with another node's process")
        if self.remembered.takes_spawn_reply(signal.req_id, is_spawned=is_spawned):
            return Pass.ANSWER
        return Refusal("the reply to a spawn request that the node has not sent")

    def _group_leader(self, signal: GroupLeader, payload: PayloadInspection) -> Verdict:
        if self.rules.group_leaders and self._reach(signal.to) is not None:
            return Pass.REQUEST
        return Refusal(f"a group leader for {signal.to}")

    def _unknown(self, signal: UnknownSignal, payload: PayloadInspection) -> Verdict:
        return Refusal(f"a control message of an unknown kind ({signal.op})")


_Handler: TypeAlias = Callable[[PolicyRules, Any, PayloadInspection], Verdict]

_HANDLERS: dict[type[Signal], _Handler] = {
    Message: PolicyRules._message,
    Exit: PolicyRules._answer,
    ExitSignal: PolicyRules._exit_signal,
    Link: PolicyRules._link,
    Unlink: PolicyRules._answer,
    UnlinkAck: PolicyRules._answer,
    Monitor: PolicyRules._monitor,
    Demonitor: PolicyRules._demonitor,
    Down: PolicyRules._down,
    SpawnRequest: PolicyRules._spawn,
    SpawnReply: PolicyRules._spawn_reply,
    GroupLeader: PolicyRules._group_leader,
    UnknownSignal: PolicyRules._unknown,
}


def _unanswered(what: str, signal: Message, monitor: Reference | None) -> Refusal:
    """A refusal that tells a caller that the process does not exist."""
    if monitor is None or signal.sender is None or isinstance(signal.to, Reference):
        return Refusal(what)
    return Refusal(what, Down(signal.to, signal.sender, monitor), _NOPROC)


def _place(to: Pid | Atom | Reference) -> str:
    """The receiver, abbreviated for the log."""
    if isinstance(to, Reference):
        return "an alias"
    return _short(to) if isinstance(to, Atom) else str(to)


def _short(name: Atom) -> str:
    return str(name)[:64]
