"""`net_kernel`: the process that answers pings of other nodes.

OTP, net_kernel: handle_call/3. Requests that would change this node are not supported.
"""

from __future__ import annotations

import logging

from quicdist.etf import Atom, Term
from quicdist.runtime.backpressure import Source
from quicdist.runtime.calls import GEN_CALL, is_from
from quicdist.runtime.process_table import ProcessTable
from quicdist.runtime.system_process import SystemProcess, ignore

logger = logging.getLogger("quicdist.node")

NET_KERNEL = Atom("net_kernel")
IS_AUTH = Atom("is_auth")
YES = Atom("yes")


def start_net_kernel(system: ProcessTable, net_ticktime: float) -> SystemProcess:
    """Starts and registers the `net_kernel` process."""
    answers: dict[str, Term] = {
        "longnames": True,
        "nodename": system.name,
        "ticktime": round(net_ticktime),
    }

    def handle(me: SystemProcess, message: Term, source: Source) -> None:
        match message:
            case ("$gen_call", to, ("is_auth", _)) if is_from(to):
                me.reply(to, YES)
            case ("$gen_call", to, str(question)) if is_from(to) and question in answers:
                me.reply(to, answers[question])
            case ("$gen_call", to, request) if is_from(to):
                extra = me.fields("message_ignored")
                logger.debug("net_kernel does not support %s", request, extra=extra)
                me.reply(to, (Atom("error"), Atom("notsup")))
            case _:
                ignore(me, message, source)

    service = SystemProcess(system, handle)
    system.register(NET_KERNEL, service)
    return service


def is_auth_call(sender_tag: Term, node: Atom) -> Term:
    """Returns the message of `net_adm:ping/1`. `sender_tag` is its From."""
    return GEN_CALL, sender_tag, (IS_AUTH, node)
