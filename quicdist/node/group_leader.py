"""What a function called over there prints: it lands in the log `quicdist.io` here.

Only output is served, and formatting is Erlang's business: `io:format` comes as its arguments
and is shown as such. OTP, "The Erlang I/O Protocol".
"""

from __future__ import annotations

import logging

from quicdist.etf import Atom, Pid, Term
from quicdist.etf.notation import format_term
from quicdist.node.level import Source
from quicdist.node.service import Service
from quicdist.node.system import System

logger = logging.getLogger("quicdist.io")

_IO_REPLY = Atom("io_reply")
_OK = Atom("ok")
_REFUSED = (Atom("error"), Atom("enotsup"))
_EOF = Atom("eof")
_INPUT = frozenset({"get_chars", "get_line", "get_until", "get_password"})


def start_group_leader(system: System) -> Service:
    """Starts it. It has no name: callers are given its pid."""

    def handle(me: Service, message: Term, source: Source) -> None:
        match message:
            case ("io_request", Pid() as sender, reply_as, request):
                answer = _serve(request)
                me.system.post(me.pid, sender, (_IO_REPLY, reply_as, answer))
            case _:
                pass

    return Service(system, handle)


def _serve(request: Term) -> Term:
    match request:
        case ("put_chars", _, chars) | ("put_chars", chars):
            logger.info("%s", _text(chars))
            return _OK
        case ("put_chars", _, "io_lib", _, [form, arguments]):
            logger.info("%s %s", _text(form), format_term(arguments))
            return _OK
        case ("put_chars", _, _, _, arguments):
            logger.info("%s", format_term(arguments))
            return _OK
        case ("requests", list(requests)):
            answers = [_serve(one) for one in requests]
            return answers[-1] if answers else _OK
        case (str(kind), *_) if kind in _INPUT:
            return _EOF
        case _:
            return _REFUSED


def _text(chars: Term) -> str:
    if isinstance(chars, bytes):
        return chars.decode(errors="replace").rstrip("\n")
    if isinstance(chars, str):
        return chars.rstrip("\n")
    if isinstance(chars, list) and all(type(c) is int and 0 <= c < 0x110000 for c in chars):
        return "".join(map(chr, chars)).rstrip("\n")
    return format_term(chars)
