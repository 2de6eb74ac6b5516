"""What a message that was dropped, because its payload cannot be read, means to who waits for it.

A signal is never lost: it is acted on with the reason `{undecodable, Text}`. So is an answer to an
alias that is a monitor, too, as those of calls are: the monitor fires, and the call ends. A spawn
request is answered with `badarg`. Other messages are gone, as if they had not been sent.
"""

from __future__ import annotations

from quicdist.dist import control as ctl
from quicdist.dist.control import Control
from quicdist.etf import Atom, Reference, Term
from quicdist.node.level import Source
from quicdist.node.system import System

UNDECODABLE = Atom("undecodable")
_BADARG = Atom("badarg")

_SIGNALS = (
    *(ctl.PayloadExit, ctl.PayloadExitTT, ctl.PayloadExit2, ctl.PayloadExit2TT),
    ctl.PayloadMonitorPExit,
)
"""Those whose payload is a reason."""


def payload_refused(system: System, control: Control, text: str, source: Source) -> None:
    """Tells those concerned. `text` says what is wrong with the payload."""
    reason = (UNDECODABLE, text.encode())
    match control:
        case ctl.SpawnRequest() | ctl.SpawnRequestTT():
            caller = control.from_pid
            answer = ctl.SpawnReply(control.req_id, caller, 0, _BADARG)
            system.emit_if_connected(caller.node, caller, answer)
        case ctl.AltactSigSend() if control.flags & ctl.ALTACT_EXIT:
            system.handlers[type(control)](control, reason, source)
        case ctl.AltactSigSend(to=Reference() as alias):
            _answer_refused(system, alias, reason, source)
        case ctl.AliasSend() | ctl.AliasSendTT():
            _answer_refused(system, control.alias, reason, source)
        case _ if isinstance(control, _SIGNALS):
            system.handlers[type(control)](control, reason, source)


def _answer_refused(system: System, alias: Reference, reason: Term, source: Source) -> None:
    process = system.aliases.get(alias)
    watched = None if process is None else process.monitoring.get(alias)
    if process is not None and watched is not None:
        system.send_demonitor(process.pid, watched, alias)
        process.monitor_fired(alias, reason, source)
