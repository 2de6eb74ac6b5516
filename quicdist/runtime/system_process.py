"""System processes: `net_kernel`, `rex`, exported modules.

A system process has no mailbox. It handles each message at once or starts a process for it. Exit
signals do not end it. Each gen call and each system message is answered, or the caller's monitor
fires.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from quicdist.etf import Atom, Pid, Term
from quicdist.etf.notation import format_bounded
from quicdist.runtime import system_messages
from quicdist.runtime.backpressure import HERE, Source
from quicdist.runtime.calls import alias_of, fail_call, is_call, latest_monitor
from quicdist.runtime.exit_reasons import error_reason, stack_of
from quicdist.runtime.process import Process
from quicdist.runtime.process_table import ProcessTable

logger = logging.getLogger("quicdist.node")

GEN_CAST = Atom("$gen_cast")
NOTSUP = Atom("notsup")

_MAX_QUESTIONS = 100
"""The maximum number of `sys:get_state` answers that wait for the answer format of the caller's
node."""


class SystemProcess(Process):
    """A process that handles each message with a function."""

    def __init__(
        self, system: ProcessTable, handle: Callable[[SystemProcess, Term, Source], None]
    ) -> None:
        super().__init__(system)
        self._handle = handle
        self._questions: set[asyncio.Task[None]] = set()

    def deliver(self, message: Term, source: Source) -> None:
        """Handles a message. An error is logged and fails only the call that caused it."""
        try:
            if system_messages.is_system(message):
                self._on_system_message(message)
            elif is_call(message) and isinstance(message[0], Pid):
                # The form of `gen_event:call`.
                fail_call(self, message[1], NOTSUP)
            else:
                self._handle(self, message, source)
        except Exception as error:
            text = format_bounded(message, 500)
            logger.exception("%s cannot handle %s", self, text, extra=self.fields("message_failed"))
            if is_call(message):
                fail_call(self, message[1], (error_reason(error), stack_of(error)))

    def link_broken(self, other: Pid, reason: Term, source: Source = HERE) -> None:
        """Removes the link. A system process does not end."""
        self.links.exit_received(other)

    def exit_signalled(self, sender: Pid, reason: Term, source: Source = HERE) -> None:
        """Logs the exit signal. A system process does not end."""
        extra = {**self.fields("exit_ignored"), "sender": str(sender)}
        logger.warning("%s ignores an exit signal from %s", self, sender, extra=extra)

    def node_lost(self, node: Atom) -> None:
        """Removes links to the node. A system process does not end."""
        self.links.forget_node(node)
        super().node_lost(node)

    def stopped(self) -> None:
        """Cancels pending answers when the node stops."""
        for task in self._questions:
            task.cancel()

    def reply(self, to: Term, answer: Term) -> None:
        """Answers a gen call. `to` is its From. An answer that cannot be encoded fails the call."""
        try:
            reply(self.system, self.pid, to, answer)
        except Exception as error:
            logger.exception(
                "%s: an answer cannot be sent", self, extra=self.fields("answer_failed")
            )
            fail_call(self, to, (error_reason(error), stack_of(error)))

    # -- system messages --

    def sys_state(self) -> Term:
        """Returns the state for `sys:get_state`, which is empty by default."""
        return {}

    def _on_system_message(self, message: Term) -> None:
        assert isinstance(message, tuple)
        _, to, request = message
        match request:
            case "get_state":
                self._show_state(to)
            case "get_status":
                module = self.name or Atom("quicdist")
                misc = self.sys_state()
                answer = system_messages.status(self, module, Atom("running"), self.pid, misc)
                self.reply(to, answer)
            case "resume":
                self.reply(to, system_messages.OK)
            case ("debug", what):
                self.reply(to, system_messages.debug_answer(what))
            case "suspend" | ("terminate", _) | ("replace_state", _) | ("change_code", _, _, _):
                self.reply(to, (system_messages.ERROR, NOTSUP))
            case _:
                self.reply(to, system_messages.unknown_request(request))

    def _show_state(self, to: tuple[Pid, Term]) -> None:
        takes_ok = system_messages.known_form(self, to[0])
        if takes_ok is None and len(self._questions) < _MAX_QUESTIONS:
            task = asyncio.get_running_loop().create_task(self._ask_and_show_state(to))
            self._questions.add(task)
            task.add_done_callback(self._questions.discard)
        else:
            self._reply_state(to, takes_ok is not False)

    async def _ask_and_show_state(self, to: tuple[Pid, Term]) -> None:
        self._reply_state(to, await system_messages.takes_ok(self, to[0]))

    def _reply_state(self, to: tuple[Pid, Term], takes_ok: bool) -> None:
        state = self.sys_state()
        self.reply(to, (system_messages.OK, state) if takes_ok else state)


def reply(system: ProcessTable, sender: Pid, to: Term, answer: Term) -> None:
    """Answers `{'$gen_call', To, Request}`, to the alias if the caller created one.

    OTP, gen:reply/2. Raises EtfEncodeError.
    """
    pid, tag = to
    system.post(sender, alias_of(tag) or pid, (tag, answer))


def ignore(service: SystemProcess, message: Term, source: Source = HERE) -> None:
    """Handles the messages of a process without a service: fails calls and drops other messages.

    A call is also {From, Request} of a process that monitors the service, as `rpc:server_call/4`
    sends.
    """
    if is_call(message):
        assert isinstance(message, tuple)
        fail_call(service, message[1], NOTSUP)
        return
    match message:
        case (Pid() as caller, _) if monitor := latest_monitor(service, caller):
            fail_call(service, (caller, monitor), NOTSUP)
