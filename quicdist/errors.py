"""What can go wrong on a node, each with what came, what was expected, and what to do.

`NodeError` is the root of all of them. `ErlangError` and its two kin go the other way: raise one
in an exported function or a process to end it with exactly that Erlang reason.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from quicdist.etf import Atom, Pid, Term
from quicdist.etf.notation import format_bounded

_SHOWN_REASON = 2000
"""Characters of a reason in the text of an error."""

_SHOWN_FRAMES = 50


class NodeError(Exception):
    """Anything this floor raises on purpose."""


class NodeNameError(NodeError, ValueError):
    """A node name that is neither `port@ip` nor `name@host`, or an address that is none."""


class CookieError(NodeError):
    """No cookie can be had."""


class StartError(NodeError):
    """The node could not be started, e.g. because its port is in use."""


class NotRunning(NodeError, RuntimeError):
    """Something was asked of a node that has not started, or has stopped."""


class NotVisible(NodeError):
    """Something was asked of a hidden node that only a visible one takes part in."""


class NoConnection(NodeError, ConnectionError):
    """A node cannot be reached, or the connection to it went away meanwhile.

    `is_refusal` is true when the node is there and did not want the connection: another cookie,
    not allowed.
    """

    def __init__(self, node: str, reason: str, *, is_refusal: bool = False) -> None:
        super().__init__(f"no connection to {node}: {reason}")
        self.node = node
        self.reason = reason
        self.is_refusal = is_refusal


class NameTaken(NodeError, ValueError):
    """A registered name that some process holds already, or that cannot be one."""


class NoProcess(NodeError, LookupError):
    """There is no process here with this name."""


class ExportError(NodeError, ValueError):
    """Something given to a node as export that cannot be one."""


class ReceiveTimeout(NodeError, TimeoutError):
    """No matching message came in time."""


class MailboxFull(NodeError):
    """A mailbox is at its hard bound, and what is waited for is behind its backlog.

    Take messages out of it, or raise `MailboxLimits.hard`.
    """


class ProcessExited(NodeError):
    """This process was ended by an exit signal; `reason` is the Erlang term it came with."""

    def __init__(self, pid: Pid, reason: Term) -> None:
        text = format_bounded(reason, _SHOWN_REASON)
        super().__init__(f"process {pid} was ended by an exit signal: {text}")
        self.pid = pid
        self.reason = reason


class ErrorClass(enum.Enum):
    """How an Erlang function ended other than by returning."""

    ERROR = "error"
    EXIT = "exit"
    THROW = "throw"


class CallError(NodeError):
    """A remote function was called and did not return.

    `kind` is its Erlang class, `reason` the term, `stack` the Erlang stack trace as terms.
    """

    def __init__(self, what: str, kind: ErrorClass, reason: Term, stack: Sequence[Term]) -> None:
        text = f"{what} ended with {kind.value}: {format_bounded(reason, _SHOWN_REASON)}"
        text += _elixir_hint(reason, stack)
        for frame in stack[:_SHOWN_FRAMES]:
            text += f"\n  in {format_bounded(frame, _SHOWN_REASON)}"
        if len(stack) > _SHOWN_FRAMES:
            text += f"\n  and {len(stack) - _SHOWN_FRAMES} more"
        super().__init__(text)
        self.kind = kind
        self.reason = reason
        self.stack = tuple(stack)


def _elixir_hint(reason: Term, stack: Sequence[Term]) -> str:
    """An Elixir module is called by its whole name, as in 'Elixir.String'."""
    match stack:
        case [(Atom() as module, _, _, _), *_] if reason == "undef" and module[:1].isupper():
            if not module.startswith("Elixir."):
                name = format_bounded(Atom(f"Elixir.{module}"))
                return f" (the module {module} of Elixir is called {name})"
    return ""


class CallNotPossible(NodeError):
    """The node answered that it does not do such calls; `reason` is its term (`notsup`, ...)."""

    def __init__(self, what: str, reason: Term) -> None:
        super().__init__(f"{what} was refused by the node: {format_bounded(reason)}")
        self.reason = reason


class SpawnError(NodeError):
    """A node answered that it does not spawn that; `reason` is its atom, e.g. `notsup`."""

    def __init__(self, what: str, reason: Term) -> None:
        super().__init__(f"{what} was not spawned: {format_bounded(reason)}")
        self.reason = reason


class CallTimeout(NodeError, TimeoutError):
    """No answer came in time. The function may still be running over there."""

    def __init__(self, what: str, timeout: float) -> None:
        super().__init__(f"{what} was not answered within {timeout:g} s")
        self.timeout = timeout


class ErlangError(Exception):
    """Raise it to fail with class `error` and this reason, as `erlang:error(Reason)` does."""

    def __init__(self, reason: Term) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return format_bounded(self.reason, _SHOWN_REASON)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({format_bounded(self.reason)})"


class ErlangExit(ErlangError):
    """Raise it to end with this reason, as `exit(Reason)` does."""


class ErlangThrow(ErlangError):
    """Raise it to leave an exported function as `throw(Term)` does."""
