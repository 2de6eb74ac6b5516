"""`print(..., file=shell)`: to the shell of whoever called or spawned the running function.

OTP, "The Erlang I/O Protocol".
"""

from __future__ import annotations

import asyncio
import io
import sys

from quicdist.etf import Atom, Term
from quicdist.protocol.signals import Message
from quicdist.runtime.local_spawn import current_process
from quicdist.runtime.mailbox import Mailbox

_IO_REQUEST = Atom("io_request")
_PUT_CHARS = Atom("put_chars")
_UNICODE = Atom("unicode")


class Shell(io.TextIOBase):
    """A text stream that sends what is written to the group leader of the running process.

    It works in async functions and in threads that the node runs functions in. Writing does not
    wait: what is printed is on its way, in order. Outside of a process it is standard output.
    """

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Sends text as it is. Raises TypeError for what is no str."""
        if not isinstance(text, str):
            raise TypeError(f"text is written to a shell, not {type(text).__name__}")
        me = current_process.get(None)
        if me is None:
            return sys.stdout.write(text)
        loop = me.loop
        if loop is None or not text:
            return len(text)
        try:
            inside = asyncio.get_running_loop() is loop
        except RuntimeError:
            inside = False
        if inside:
            _put(me, text)
        else:
            loop.call_soon_threadsafe(_put, me, text)
        return len(text)


def _put(me: Mailbox, text: str) -> None:
    leader = me.group_leader
    if leader is None:
        return
    system = me.system
    # The answers go to a process that has no use for them, so that the mailbox stays its owner's.
    reply_to = system.reply_sink or me.pid
    request: Term = (_PUT_CHARS, _UNICODE, text.encode(errors="replace"))
    message = (_IO_REQUEST, reply_to, system.identifiers.reference(), request)
    system.emit_if_connected(leader.node, me.pid, Message(me.pid, leader), message)


shell = Shell()
