"""Conversion of Python exceptions to Erlang exit reasons and stack traces."""

from __future__ import annotations

import asyncio
import traceback
from types import TracebackType
from typing import TypeAlias

from quicdist.errors import ErlangError, ErlangExit, ErlangThrow, ProcessExited
from quicdist.etf import Atom, Term
from quicdist.runtime.process import NORMAL, SHUTDOWN

PYTHON_ERROR = Atom("python_error")
CANCELLED = Atom("cancelled")
_NOCATCH = Atom("nocatch")
_FILE = Atom("file")
_LINE = Atom("line")

_RUNNERS = (
    "quicdist.runtime.",
    "quicdist.kernel.",
    "quicdist.otp.",
    "concurrent.futures.",
    "asyncio.",
)
_MAX_FRAMES = 50
_MAX_TEXT = 16 * 1024


def exit_reason(error: BaseException | None) -> Term:
    """Returns the Erlang exit reason for a function that ended with `error`.

    None means that it returned.
    """
    if error is None:
        return NORMAL
    if isinstance(error, ProcessExited):
        return error.reason
    if isinstance(error, ErlangExit):
        return error.reason
    if isinstance(error, asyncio.CancelledError):
        return CANCELLED
    if isinstance(error, ErlangThrow):
        return (_NOCATCH, error.reason), stack_of(error)
    if isinstance(error, Exception):
        return error_reason(error), stack_of(error)
    return SHUTDOWN


def error_reason(error: Exception) -> Term:
    """Returns the reason of an exception of class `error`.

    `{python_error, 'ValueError', <<"message">>, <<"Traceback (most recent call last): ...">>}`, or
    the reason of an ErlangError.
    """
    if isinstance(error, ErlangError):
        return error.reason
    trace = _own(error.__traceback__)
    text = "".join(traceback.format_exception(type(error), error, trace))
    name = Atom(type(error).__name__[:255])
    return PYTHON_ERROR, name, _message(error), _clip(text)


LogInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]


def log_info(error: BaseException) -> LogInfo:
    """Returns the `exc_info` of a log record, without the frames of quicdist and asyncio."""
    return type(error), error, _own(error.__traceback__)


def stack_of(error: BaseException) -> list[Term]:
    """Returns the stack in Erlang format: `[{Module, Function, Arity, [{file, F}, {line, N}]}]`."""
    return [_frame(trace) for trace in reversed(_frames(_own(error.__traceback__))[-_MAX_FRAMES:])]


def _own(trace: TracebackType | None) -> TracebackType | None:
    """Removes the frames of quicdist and asyncio that ran the function."""
    start = trace
    while trace is not None:
        if not trace.tb_frame.f_globals.get("__name__", "").startswith(_RUNNERS):
            return trace
        trace = trace.tb_next
    return start


def _frames(trace: TracebackType | None) -> list[TracebackType]:
    frames = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    return frames


def _frame(trace: TracebackType) -> Term:
    code = trace.tb_frame.f_code
    module = str(trace.tb_frame.f_globals.get("__name__", "python"))
    place = [(_FILE, [ord(c) for c in code.co_filename]), (_LINE, trace.tb_lineno)]
    return Atom(module[:255]), Atom(code.co_name[:255]), code.co_argcount, place


def _message(error: BaseException) -> bytes:
    try:
        return _clip(str(error))
    except Exception:
        return b"(str() of the exception failed)"


def _clip(text: str) -> bytes:
    """Shortens a long text in the middle."""
    if len(text) > _MAX_TEXT:
        half = _MAX_TEXT // 2
        text = (
            f"{text[:half]}\n  ... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
        )
    return text.encode(errors="replace")
