"""Handles messages whose payload cannot be decoded.

Signals are never lost: they are handled with the reason `{undecodable, Text}`. An answer to an
alias that is also a monitor, such as that of a call, makes the monitor fire and ends the call. A
spawn request is answered with `badarg`. Other messages are dropped.
"""

from __future__ import annotations

from quicdist.etf import Atom, Reference, Term
from quicdist.protocol.signals import (
    Down,
    Exit,
    ExitSignal,
    Message,
    Signal,
    SpawnReply,
    SpawnRequest,
)
from quicdist.runtime.backpressure import Source
from quicdist.runtime.process_table import ProcessTable

UNDECODABLE = Atom("undecodable")
_BADARG = Atom("badarg")


def payload_refused(system: ProcessTable, signal: Signal, text: str, source: Source) -> None:
    """Informs the processes concerned. `text` describes the error in the payload."""
    reason = (UNDECODABLE, text.encode())
    match signal:
        case SpawnRequest():
            caller = signal.sender
            system.emit_if_connected(
                caller.node, caller, SpawnReply(signal.req_id, caller, 0, _BADARG)
            )
        case Message(to=Reference() as alias):
            _answer_refused(system, alias, reason, source)
        case Exit() | ExitSignal() | Down():
            system.handlers[type(signal)](signal, reason, source)


def _answer_refused(system: ProcessTable, alias: Reference, reason: Term, source: Source) -> None:
    if system.calls.answer_refused(alias, reason, source):
        return
    process = system.aliases.get(alias)
    watched = None if process is None else process.monitoring.get(alias)
    if process is not None and watched is not None:
        system.send_demonitor(process.pid, watched, alias)
        process.monitor_fired(alias, reason, source)
