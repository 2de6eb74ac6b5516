"""The exceptions of a node, and `Cause`: why a connection, a call or a start failed.

`QuicdistError` is the root of every exception of the package, `NodeError` that of what a node
raises. `ErlangError`, `ErlangExit` and `ErlangThrow` are for callers: raise one in an exported
function or a process to end it with exactly that Erlang reason.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from quicdist.etf import Atom, Pid, Term
from quicdist.etf.errors import QuicdistError as QuicdistError
from quicdist.etf.notation import format_bounded

_SHOWN_REASON = 2000
"""Characters of a reason in the text of an error."""

_SHOWN_FRAMES = 50


class Cause(enum.Enum):
    """Why something failed. It is set where that is known; texts are for people alone.

    The value is the cause's name in log records and JSON.
    """

    # -- finding the node --

    NAME = "name"
    """The node name is invalid, or is this node's own."""

    NOT_FOUND = "not_found"
    """Nothing that was asked says where the node is."""

    HOST_UNKNOWN = "host_unknown"
    """The host name does not resolve to an address."""

    EPMD_UNREACHABLE = "epmd_unreachable"
    """No EPMD answers at the host of the node."""

    EPMD_PROTOCOL = "epmd_protocol"
    """What answers at the port of EPMD does not follow its protocol."""

    NOT_IN_EPMD = "not_in_epmd"
    """EPMD answers, and no node of that name is registered with it."""

    NAME_TAKEN = "name_taken"
    """EPMD has a node of our name already."""

    # -- this machine --

    ADDRESS_IN_USE = "address_in_use"
    """The port to listen at belongs to another socket (EADDRINUSE)."""

    ADDRESS_NOT_AVAILABLE = "address_not_available"
    """The address to listen at is not one of this machine's (EADDRNOTAVAIL)."""

    ADDRESS_FAMILY = "address_family"
    """Our address and the peer's are not of one family, IPv4 or IPv6 (EAFNOSUPPORT)."""

    PERMISSION = "permission"
    """The operating system does not permit it (EACCES, EPERM)."""

    SYSTEM = "system"
    """Any other error of the operating system."""

    SETTING = "setting"
    """A setting cannot be followed: a value, a file, an engine that is not installed."""

    CERTIFICATE = "certificate"
    """A certificate or key of ours cannot be used: unreadable, expired, not a pair."""

    # -- the way to the peer --

    UNREACHABLE = "unreachable"
    """There is no route to the host (ENETUNREACH, EHOSTUNREACH)."""

    PORT_CLOSED = "port_closed"
    """The host answers that no socket has the port (ECONNREFUSED, ICMP port unreachable)."""

    NO_ANSWER = "no_answer"
    """Nothing came from the address in time."""

    ALPN = "alpn"
    """The peer speaks TLS, and none of our application protocols (RFC 7301)."""

    TLS = "tls"
    """The TLS handshake failed for another reason than a certificate or the ALPN."""

    CERTIFICATE_OURS = "certificate_ours"
    """The peer rejects our certificate, or the lack of one (TLS alert)."""

    CERTIFICATE_THEIRS = "certificate_theirs"
    """We reject the certificate of the peer, or the lack of one."""

    KEY_CHANGED = "key_changed"
    """The peer presents another key than the one that is known for its name (first use, pin)."""

    CARRIER = "carrier"
    """The peer broke the rules of QUIC or of the carrier above it."""

    # -- the distribution handshake --

    COOKIE = "cookie"
    """The cookies differ. OTP does not say so: a peer that goes away or silent when it has our
    proof of the cookie counts as one."""

    NOT_ALLOWED = "not_allowed"
    """The peer does not allow the connection (status `not_allowed`)."""

    REFUSED_HERE = "refused_here"
    """Our own access rules do not allow the connection."""

    OTHER_NAME = "other_name"
    """The peer has another name than expected, or our own."""

    CAPABILITIES = "capabilities"
    """The peer lacks mandatory capabilities (distribution flags)."""

    BINDING = "binding"
    """The peer does not bind its proof of the cookie to the TLS session, as it must."""

    SIMULTANEOUS = "simultaneous"
    """The peer's own attempt to connect goes first (status `nok`)."""

    SUPERSEDED = "superseded"
    """Another connection to the same node goes first."""

    CROWDED = "crowded"
    """Too many unfinished handshakes came from its address; it made room for another."""

    HANDSHAKE_TIMEOUT = "handshake_timeout"
    """The distribution handshake was not finished in time."""

    # -- an established connection --

    PROTOCOL = "protocol"
    """The peer broke the distribution protocol, or one of its limits."""

    TICK_TIMEOUT = "tick_timeout"
    """Nothing was heard from the peer for net_ticktime."""

    ANSWERS_UNREAD = "answers_unread"
    """The peer asked and read none of the answers."""

    PEER_CLOSED = "peer_closed"
    """The peer closed the connection."""

    PEER_RESTARTED = "peer_restarted"
    """The peer knows nothing of the connection (stateless reset)."""

    LOST = "lost"
    """The connection is gone, and nothing more is known."""

    # -- our side --

    NOT_CONNECTED = "not_connected"
    """There is no connection, and none is to be made."""

    DISCONNECTED = "disconnected"
    """This node ended the connection: `disconnect`."""

    STOPPED = "stopped"
    """This node stops, or does not run."""

    QUEUE_FULL = "queue_full"
    """More signals wait for the connection than may."""

    INTERNAL = "internal"
    """A fault of quicdist; the log has the traceback."""

    @property
    def is_refusal(self) -> bool:
        """Whether the node answers, and one of the two sides does not want the connection."""
        return self in _REFUSALS


_REFUSALS = frozenset(
    {
        *(Cause.COOKIE, Cause.NOT_ALLOWED, Cause.REFUSED_HERE, Cause.OTHER_NAME),
        *(Cause.CAPABILITIES, Cause.BINDING, Cause.SIMULTANEOUS),
        *(Cause.CERTIFICATE_OURS, Cause.CERTIFICATE_THEIRS, Cause.KEY_CHANGED),
    }
)


class NodeError(QuicdistError):
    """Base of what a node raises."""


class NodeNameError(NodeError, ValueError):
    """A node name that is neither `port@ip` nor `name@host`, or an address that is none."""

    cause: Cause = Cause.NAME


class CookieError(NodeError):
    """No cookie can be had."""


class StartError(NodeError):
    """The node could not be started; `cause` says why, such as `Cause.ADDRESS_IN_USE`."""

    def __init__(self, text: str, cause: Cause = Cause.SYSTEM) -> None:
        super().__init__(text)
        self.cause = cause


class NotRunning(NodeError, RuntimeError):
    """Something was asked of a node that has not started, or has stopped."""


class NotVisible(NodeError):
    """Something was asked of a hidden node that only a visible one takes part in."""


class NoConnection(NodeError, ConnectionError):
    """A node cannot be reached, or the connection to it was lost.

    - `node`: its name.
    - `reason`: why, in one line.
    - `cause`: why, for programs.
    """

    def __init__(self, node: str, reason: str, cause: Cause = Cause.LOST) -> None:
        super().__init__(f"no connection to {node}: {reason}")
        self.node = node
        self.reason = reason
        self.cause = cause

    @property
    def is_refusal(self) -> bool:
        """Whether the node answers, and one of the two sides does not want the connection: another
        cookie, not allowed, a certificate."""
        return self.cause.is_refusal


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


class ErlangError(QuicdistError):
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
