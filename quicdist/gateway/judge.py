"""Whether a control message from a peer may pass, by the rules for that peer.

A refusal is what OTP says where there is no such process: nothing to a message, an exit signal or
a new group leader, `noproc` to a monitor or a link, and to one that waits for the answer to a
call; and `notsup`, as of a node that spawns nothing for others, to a spawn request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from quicdist.dist import control as ctl
from quicdist.dist.errors import ProtocolError
from quicdist.etf.notation import format_bounded
from quicdist.etf.terms import Atom, Pid, Reference, Term
from quicdist.gateway.otp_names import NET_KERNEL, OTP_NAMES, REX
from quicdist.gateway.peek import (
    Asked,
    Call,
    Features,
    Passed,
    Peek,
    Ping,
    Request,
    requested,
    spawned,
    system_message,
)
from quicdist.gateway.policy import EVERYTHING, PeerRules, Pids

_NOPROC = Atom("noproc")
_NOTSUP = Atom("notsup")
_NONEXISTING = Atom("nonexisting_name")

_MAX_CALLERS = 65536
"""Processes remembered that may be answered; of more, those that were quiet longest are
forgotten."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What does not pass, in a few words, and what its sender is told."""

    what: str
    answer: ctl.Control | None = None
    message: Term | None = None
    """What goes with an answer that is a message."""


class Judge:
    """Applies one peer's rules to what it sends, and learns from what is sent to it."""

    def __init__(self, rules: PeerRules, *, own_name: Atom, peer_name: str) -> None:
        self.rules = rules
        self._own_name = own_name
        self._peer_name = peer_name
        self._callers: dict[int, None] = {}
        """Pids of the node's own that may be answered, the last used at the end."""

    @property
    def learns(self) -> bool:
        """Whether it has to be shown what the node sends."""
        return self.rules.pids is Pids.CALLERS

    def refusal(self, control: ctl.Control, payload: Peek) -> Refusal | None:
        """None when the message passes. Raises ProtocolError for what no node sends."""
        sender = getattr(control, "from_pid", None) or getattr(control, "from_proc", None)
        if isinstance(sender, Pid) and sender.node != self._peer_name:
            kind = type(control).__name__
            raise ProtocolError(f"{kind} in another node's name, {sender.node[:64]}")
        handler = _HANDLERS.get(type(control))
        if handler is None:
            return Refusal(
                f"a control message of an unknown kind ({format_bounded(control.to_tuple()[0])})"
            )
        return handler(self, control, payload)

    def learn(self, control: ctl.Control) -> None:
        """The node sends this: whom does it let the peer answer to?"""
        match control:
            case ctl.RegSend() | ctl.RegSendTT():
                self._spoke_to(control.to_name, control.from_pid)
            case ctl.AltactSigSend(to=Atom() as name):
                self._spoke_to(name, control.from_pid)
            case ctl.SpawnRequest() | ctl.SpawnRequestTT():
                self._remember(control.from_pid)
            case ctl.SpawnReply(result=Pid() as child) | ctl.SpawnReplyTT(result=Pid() as child):
                self._remember(child)

    def _spoke_to(self, name: Atom, sender: Pid) -> None:
        """What OTP's processes say to their like at the peer opens none of them; everybody talks
        to rex and net_kernel."""
        if name in (REX, NET_KERNEL) or name not in OTP_NAMES or self.rules.may_send_to(name):
            self._remember(sender)

    def _remember(self, pid: Pid) -> None:
        number = _number(pid)
        self._callers.pop(number, None)
        self._callers[number] = None
        if len(self._callers) > _MAX_CALLERS:
            del self._callers[next(iter(self._callers))]

    def _reaches(self, pid: Pid) -> bool:
        if self.rules.pids is Pids.ANY:
            return True
        if pid.node != self._own_name or _number(pid) not in self._callers:
            return False
        self._remember(pid)
        return True

    # -- one for each kind ----------------------------------------------------------------------

    def _passes(self, control: Any, payload: Peek) -> None:
        """Ends or answers what the node itself began; without that it means nothing to OTP."""

    def _to_name(self, control: ctl.RegSend | ctl.RegSendTT, payload: Peek) -> Refusal | None:
        return self._message_to_name(control, control.to_name, payload)

    def _to_pid(self, control: Any, payload: Peek) -> Refusal | None:
        return self._message_to_pid(control, control.to_pid, payload)

    def _to_alias(self, control: ctl.AliasSend | ctl.AliasSendTT, payload: Peek) -> Refusal | None:
        """Nobody guesses an alias: it was given away to be answered to."""
        return self._system_message(control, control.alias, payload)

    def _altact(self, control: ctl.AltactSigSend, payload: Peek) -> Refusal | None:
        to = control.to
        if control.flags & ctl.ALTACT_EXIT:
            return self._exit_signal(to)
        if isinstance(to, Atom):
            return self._message_to_name(control, to, payload)
        if isinstance(to, Pid):
            return self._message_to_pid(control, to, payload)
        return self._system_message(control, to, payload)

    def _link(self, control: ctl.Link, payload: Peek) -> Refusal | None:
        if self.rules.links and self._reaches(control.to_pid):
            return None
        answer = ctl.Exit(control.to_pid, control.from_pid, _NOPROC)
        return Refusal(f"a link to {control.to_pid}", answer)

    def _monitor(self, control: ctl.MonitorP, payload: Peek) -> Refusal | None:
        target = control.to_proc
        if isinstance(target, Pid):
            passes = self.rules.monitors and self._reaches(target)
        else:
            passes = self.rules.may_monitor(target)
        if passes:
            return None
        answer = ctl.MonitorPExit(target, control.from_pid, control.ref, _NOPROC)
        return Refusal(f"a monitor of {target}", answer)

    def _exit2(self, control: Any, payload: Peek) -> Refusal | None:
        return self._exit_signal(control.to_pid)

    def _group_leader(self, control: ctl.GroupLeader, payload: Peek) -> Refusal | None:
        if self.rules.group_leaders and self._reaches(control.to_pid):
            return None
        return Refusal(f"a group leader for {control.to_pid}")

    def _spawn(
        self, control: ctl.SpawnRequest | ctl.SpawnRequestTT, payload: Peek
    ) -> Refusal | None:
        if EVERYTHING in self.rules.calls:
            return None
        call = spawned(control, payload)
        if call is not None and self.rules.may_call(call.module, call.function):
            return None
        answer = ctl.SpawnReply(control.req_id, control.from_pid, 0, _NOTSUP)
        return Refusal(str(call or Call(*control.mfa[:2])), answer)

    # -- what they share ------------------------------------------------------------------------

    def _message_to_name(self, control: ctl.Control, name: Atom, payload: Peek) -> Refusal | None:
        if self.rules.may_send_to(name):
            return self._system_message(control, name, payload)
        if name not in (REX, NET_KERNEL):
            return Refusal(f"a message to {name}")
        # These run what they are told.
        asked = requested(payload)
        if self._may_ask(asked.request):
            return None
        what = "a message" if asked.request is None else str(asked.request)
        what += f" by way of {name}"
        plain = self._plain_answer(what, control, asked) if name == REX else None
        return plain or _unanswered(what, control, name, asked)

    def _plain_answer(self, what: str, control: ctl.Control, asked: Asked) -> Refusal | None:
        """What rex sends to who asks without a monitor: there is no such name, or no such call."""
        sender = getattr(control, "from_pid", None)
        if not asked.is_plain or sender is None:
            return None
        match asked.request:
            case Passed(name):
                answer: Term = (Atom(REX), self._own_name, (_NONEXISTING, Atom(name)))
            case Call():
                answer = (Atom(REX), (Atom("badrpc"), _NOTSUP))
            case _:
                return None
        return Refusal(what, ctl.Send(sender), answer)

    def _may_ask(self, request: Request | None) -> bool:
        """Of rex or net_kernel."""
        match request:
            case Call(module, function):
                return self.rules.may_call(module, function)
            case Passed(name):
                # Not back to these two: what it asks of them would not be read.
                return name not in (REX, NET_KERNEL) and self.rules.may_send_to(name)
            case Ping():
                return self.rules.ping
            case Features():
                return True
            case None:
                return False

    def _message_to_pid(self, control: ctl.Control, pid: Pid, payload: Peek) -> Refusal | None:
        if not self._reaches(pid):
            return Refusal(f"a message to {pid}")
        return self._system_message(control, pid, payload)

    def _system_message(
        self, control: ctl.Control, to: Atom | Pid | Reference, payload: Peek
    ) -> Refusal | None:
        if self.rules.system_messages:
            return None
        asked = system_message(payload)
        if asked is None:
            return None
        name = "an alias" if isinstance(to, Reference) else str(to)
        return _unanswered(f"a system message to {name}", control, to, asked)

    def _exit_signal(self, to: Pid | Atom | Reference) -> Refusal | None:
        if isinstance(to, Pid):
            reached = self._reaches(to)
        else:
            reached = isinstance(to, Reference) or self.rules.may_send_to(to)
        return None if self.rules.exits and reached else Refusal(f"an exit signal to {to}")


_Handler: TypeAlias = Callable[[Judge, Any, Peek], "Refusal | None"]

_HANDLERS: dict[type[ctl.Control], _Handler] = {
    ctl.Send: Judge._to_pid,
    ctl.SendTT: Judge._to_pid,
    ctl.SendSender: Judge._to_pid,
    ctl.SendSenderTT: Judge._to_pid,
    ctl.RegSend: Judge._to_name,
    ctl.RegSendTT: Judge._to_name,
    ctl.AliasSend: Judge._to_alias,
    ctl.AliasSendTT: Judge._to_alias,
    ctl.AltactSigSend: Judge._altact,
    ctl.Link: Judge._link,
    ctl.MonitorP: Judge._monitor,
    ctl.Exit2: Judge._exit2,
    ctl.Exit2TT: Judge._exit2,
    ctl.PayloadExit2: Judge._exit2,
    ctl.PayloadExit2TT: Judge._exit2,
    ctl.GroupLeader: Judge._group_leader,
    ctl.SpawnRequest: Judge._spawn,
    ctl.SpawnRequestTT: Judge._spawn,
    ctl.Unlink: Judge._passes,
    ctl.UnlinkId: Judge._passes,
    ctl.UnlinkIdAck: Judge._passes,
    ctl.DemonitorP: Judge._passes,
    ctl.Exit: Judge._passes,
    ctl.ExitTT: Judge._passes,
    ctl.PayloadExit: Judge._passes,
    ctl.PayloadExitTT: Judge._passes,
    ctl.MonitorPExit: Judge._passes,
    ctl.PayloadMonitorPExit: Judge._passes,
    ctl.SpawnReply: Judge._passes,
    ctl.SpawnReplyTT: Judge._passes,
}


def _unanswered(
    what: str, control: ctl.Control, to: Atom | Pid | Reference, asked: Asked
) -> Refusal:
    """To who waits for an answer the process is gone."""
    sender = getattr(control, "from_pid", None)
    if asked.monitor is None or sender is None or isinstance(to, Reference):
        return Refusal(what)
    return Refusal(what, ctl.MonitorPExit(to, sender, asked.monitor, _NOPROC))


def _number(pid: Pid) -> int:
    """Tells a node's own pids apart; one of another creation is nobody's."""
    return pid.id << 32 | pid.serial
