"""`print(..., file=shell)` prints to the group leader of the caller of the running function.

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
    """A text stream to the group leader of the running process.

    It works in async functions and in threads in which the node runs functions. Writing does not
    wait; output keeps its order. Outside of a process it writes to standard output.
    """

    def writable(self) -> bool:
        """Returns True."""
        return True

    def write(self, text: str) -> int:
        """Sends text. Raises TypeError if `text` is not a str."""
        if not isinstance(text, str):
            raise TypeError(f"expected str, got {type(text).__name__}")
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
    # Answers go to another process, so that they do not fill the mailbox.
    reply_to = system.reply_sink or me.pid
    request: Term = (_PUT_CHARS, _UNICODE, text.encode(errors="replace"))
    message = (_IO_REQUEST, reply_to, system.identifiers.reference(), request)
    system.emit_if_connected(leader.node, me.pid, Message(me.pid, leader), message)


shell = Shell()
