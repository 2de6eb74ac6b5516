"""`net_kernel`: the process that answers pings of other nodes.

OTP, net_kernel: handle_call/3. Requests that would change this node are not supported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from quicdist.carriers.private_addresses import address_of
from quicdist.etf import Atom, Term
from quicdist.runtime.backpressure import Source
from quicdist.runtime.calls import GEN_CALL, is_from
from quicdist.runtime.process_table import ProcessTable
from quicdist.runtime.system_process import SystemProcess, ignore

logger = logging.getLogger("quicdist.node")

NET_KERNEL = Atom("net_kernel")
IS_AUTH = Atom("is_auth")
YES = Atom("yes")


OBSERVED_ADDRESS = Atom("observed_address")
"""A request of quicdist nodes: the address from which the caller's node is connected. The answer is
`{ok, {Host, Port}}`, with the host as a binary. OTP does not have it."""


def start_net_kernel(
    system: ProcessTable,
    net_ticktime: float,
    observed: Callable[[Atom], tuple[str, int] | None] = lambda node: None,
) -> SystemProcess:
    """Starts and registers the `net_kernel` process.

    `observed` returns the address (host, port) at which this node observes a connected node.
    """
    answers: dict[str, Term] = {
        "longnames": True,
        "nodename": system.name,
        "ticktime": round(net_ticktime),
    }

    def handle(me: SystemProcess, message: Term, source: Source) -> None:
        match message:
            case ("$gen_call", to, ("is_auth", _)) if is_from(to):
                me.reply(to, YES)
            case ("$gen_call", to, "observed_address") if is_from(to):
                me.reply(to, _observed_answer(observed(to[0].node)))
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


def _observed_answer(address: tuple[str, int] | None) -> Term:
    if address is None:
        return Atom("error"), Atom("noconnection")
    host, port = address
    return Atom("ok"), (host.encode(), port)


def observed_address(answer: Term) -> tuple[str, int] | None:
    """Parses the answer to `OBSERVED_ADDRESS`; None if it contains no address."""
    match answer:
        case ("ok", (bytes() as host, int() as port)) if 0 < port < 65536:
            text = host.decode("ascii", "replace")
            return (text, port) if address_of(text) is not None else None
    return None


def is_auth_call(sender_tag: Term, node: Atom) -> Term:
    """Returns the message of `net_adm:ping/1`. `sender_tag` is its From."""
    return GEN_CALL, sender_tag, (IS_AUTH, node)
