"""The exceptions of a node, and `Cause`, the reason why a connection, call or start failed.

`QuicdistError` is the base class of every exception in the package. `NodeError` is the base class
of the exceptions that a node raises. Application code raises `ErlangError`, `ErlangExit` or
`ErlangThrow` in an exported function or a process to end it with exactly that Erlang reason.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from quicdist.etf import Atom, Pid, Term
from quicdist.etf.errors import QuicdistError as QuicdistError
from quicdist.etf.notation import format_bounded

_SHOWN_REASON = 2000
"""Maximum number of characters of a reason that an error text includes."""

_SHOWN_FRAMES = 50


class Cause(enum.Enum):
    """The reason for a failure, for programs. Error texts are for people and may change.

    The value of a member is its name in log records and JSON.
    """

    # -- finding the node --

    NAME = "name"
    """The node name is invalid, or it is the name of this node."""

    NOT_FOUND = "not_found"
    """No resolver returned an address for the node."""

    HOST_UNKNOWN = "host_unknown"
    """The host name does not resolve to an address."""

    EPMD_UNREACHABLE = "epmd_unreachable"
    """No EPMD answers on the host of the node."""

    EPMD_PROTOCOL = "epmd_protocol"
    """The service on the EPMD port does not follow the EPMD protocol."""

    NOT_IN_EPMD = "not_in_epmd"
    """EPMD answers, but no node with that name is registered."""

    NAME_TAKEN = "name_taken"
    """A node with the name of this node is already registered with EPMD."""

    # -- this machine --

    ADDRESS_IN_USE = "address_in_use"
    """Another socket uses the port to listen on (EADDRINUSE)."""

    ADDRESS_NOT_AVAILABLE = "address_not_available"
    """The address to listen on is not an address of this machine (EADDRNOTAVAIL)."""

    ADDRESS_FAMILY = "address_family"
    """The local and the remote address have different families, IPv4 and IPv6 (EAFNOSUPPORT)."""

    PERMISSION = "permission"
    """The operating system denied the operation (EACCES, EPERM)."""

    SYSTEM = "system"
    """The operating system reported any other error."""

    SETTING = "setting"
    """A setting is invalid: a value, a file, or an engine that is not installed."""

    CERTIFICATE = "certificate"
    """A certificate or key of this node is unreadable or expired, or the two do not match."""

    # -- the path to the peer --

    UNREACHABLE = "unreachable"
    """There is no route to the host (ENETUNREACH, EHOSTUNREACH)."""

    PORT_CLOSED = "port_closed"
    """The host reports that no socket uses the port (ECONNREFUSED, ICMP port unreachable)."""

    NO_ANSWER = "no_answer"
    """No packet arrived from the address before the timeout."""

    BEHIND_NAT = "behind_nat"
    """Nothing answers at the private address in the name, which is outside the networks of this
    host. The node is behind a NAT or in another network."""

    ALPN = "alpn"
    """The peer supports none of the application protocols of this node (ALPN, RFC 7301)."""

    TLS = "tls"
    """The TLS handshake failed for a reason other than a certificate or ALPN."""

    CERTIFICATE_OURS = "certificate_ours"
    """The peer rejected the certificate of this node, or requires one (TLS alert)."""

    CERTIFICATE_THEIRS = "certificate_theirs"
    """This node rejected the certificate of the peer, or the peer sent none."""

    KEY_CHANGED = "key_changed"
    """The key of the peer differs from the stored or pinned key for its name."""

    NAME_AMBIGUOUS = "name_ambiguous"
    """Another node with another key has the same name, which contains a private address. The nodes
    are behind different NATs."""

    CARRIER = "carrier"
    """The peer violated the QUIC protocol or the carrier protocol above it."""

    # -- the distribution handshake --

    COOKIE = "cookie"
    """The cookies differ. OTP does not report this. A peer that closes the connection or stops
    responding after it received the cookie digest of this node is assumed to have another cookie.
    """

    NOT_ALLOWED = "not_allowed"
    """The peer refused the connection (handshake status `not_allowed`)."""

    REFUSED_HERE = "refused_here"
    """The access rules of this node refused the connection."""

    OTHER_NAME = "other_name"
    """The name of the peer is not the expected one, or it is the name of this node."""

    CAPABILITIES = "capabilities"
    """The peer does not offer all mandatory distribution flags."""

    BINDING = "binding"
    """The peer does not bind its cookie digest to the TLS session, although this is required."""

    SIMULTANEOUS = "simultaneous"
    """A simultaneous connection attempt of the peer takes precedence (handshake status `nok`)."""

    SUPERSEDED = "superseded"
    """Another connection to the same node replaced this one."""

    CROWDED = "crowded"
    """Too many handshakes from the address were unfinished; this one was closed for a newer one."""

    HANDSHAKE_TIMEOUT = "handshake_timeout"
    """The distribution handshake did not finish before the timeout."""

    # -- an established connection --

    PROTOCOL = "protocol"
    """The peer violated the distribution protocol or exceeded a limit."""

    TICK_TIMEOUT = "tick_timeout"
    """No data arrived from the peer for `net_ticktime`."""

    ANSWERS_UNREAD = "answers_unread"
    """The peer sent requests but did not read the answers."""

    PEER_CLOSED = "peer_closed"
    """The peer closed the connection."""

    PEER_RESTARTED = "peer_restarted"
    """The peer has no state for the connection (stateless reset, RFC 9000, 10.3)."""

    LOST = "lost"
    """The connection was lost for an unknown reason."""

    # -- this node --

    NOT_CONNECTED = "not_connected"
    """There is no connection, and the operation does not open one."""

    DISCONNECTED = "disconnected"
    """This node closed the connection with `disconnect`."""

    STOPPED = "stopped"
    """This node is stopping or is not running."""

    QUEUE_FULL = "queue_full"
    """The queue of signals for the connection is full."""

    INTERNAL = "internal"
    """An internal error of quicdist. The log contains the traceback."""

    @property
    def is_refusal(self) -> bool:
        """Whether the peer was reached and one of the two nodes refused the connection."""
        return self in _REFUSALS


_REFUSALS = frozenset(
    {
        *(Cause.COOKIE, Cause.NOT_ALLOWED, Cause.REFUSED_HERE, Cause.OTHER_NAME),
        *(Cause.CAPABILITIES, Cause.BINDING, Cause.SIMULTANEOUS),
        *(Cause.CERTIFICATE_OURS, Cause.CERTIFICATE_THEIRS, Cause.KEY_CHANGED),
        Cause.NAME_AMBIGUOUS,
    }
)


class NodeError(QuicdistError):
    """Base class of the exceptions that a node raises."""


class NodeNameError(NodeError, ValueError):
    """A node name is neither `port@ip` nor `name@host`, or an address is invalid."""

    cause: Cause = Cause.NAME


class SettingError(NodeError, ValueError):
    """A setting is out of range."""


class CookieError(NodeError):
    """No cookie is configured, or it is invalid."""


class CookieFileError(CookieError):
    """A file of cookies cannot be read, or its content is invalid."""


class StartError(NodeError):
    """The node could not start. `cause` is the reason, for example `Cause.ADDRESS_IN_USE`."""

    def __init__(self, text: str, cause: Cause = Cause.SYSTEM) -> None:
        super().__init__(text)
        self.cause = cause


class NotRunning(NodeError, RuntimeError):
    """The operation requires a running node, and the node has not started or has stopped."""


class NotVisible(NodeError):
    """The operation requires a visible node, and the node is hidden."""


class NoConnection(NodeError, ConnectionError):
    """A node cannot be reached, or the connection to it was lost.

    - `node`: the name of the node.
    - `reason`: the reason as one line of text.
    - `cause`: the reason for programs.
    """

    def __init__(self, node: str, reason: str, cause: Cause = Cause.LOST) -> None:
        super().__init__(f"no connection to {node}: {reason}")
        self.node = node
        self.reason = reason
        self.cause = cause

    @property
    def is_refusal(self) -> bool:
        """Whether the node was reached and one of the two nodes rejected the connection.

        The cause can be the cookie, the access rules or a certificate.
        """
        return self.cause.is_refusal


class NameTaken(NodeError, ValueError):
    """A name is already registered for another process, or cannot be registered."""


class NoProcess(NodeError, LookupError):
    """No process of this node is registered with this name."""


class ExportError(NodeError, ValueError):
    """An object passed to a node as an export cannot be exported."""


class ReceiveTimeout(NodeError, TimeoutError):
    """No matching message arrived before the timeout."""


class MailboxFull(NodeError):
    """A mailbox reached `MailboxLimits.hard`, so the awaited message or answer cannot arrive.

    Receive messages from the mailbox, or increase `MailboxLimits.hard`.
    """


class ProcessExited(NodeError):
    """An exit signal terminated this process. `reason` is the Erlang exit reason."""

    def __init__(self, pid: Pid, reason: Term) -> None:
        text = format_bounded(reason, _SHOWN_REASON)
        super().__init__(f"process {pid} was ended by an exit signal: {text}")
        self.pid = pid
        self.reason = reason


class ErrorClass(enum.Enum):
    """The class of an Erlang exception."""

    ERROR = "error"
    EXIT = "exit"
    THROW = "throw"


class CallError(NodeError):
    """A remote function raised an exception.

    `what` describes the call, such as `lists:nth/2 on a@b`. `kind` is the class of the exception,
    `reason` its term, and `stack` the Erlang stack trace as a tuple of terms.
    """

    def __init__(self, what: str, kind: ErrorClass, reason: Term, stack: Sequence[Term]) -> None:
        text = f"{what} ended with {kind.value}: {format_bounded(reason, _SHOWN_REASON)}"
        text += _elixir_hint(reason, stack)
        for frame in stack[:_SHOWN_FRAMES]:
            text += f"\n  in {format_bounded(frame, _SHOWN_REASON)}"
        if len(stack) > _SHOWN_FRAMES:
            text += f"\n  and {len(stack) - _SHOWN_FRAMES} more"
        super().__init__(text)
        self.what = what
        self.kind = kind
        self.reason = reason
        self.stack = tuple(stack)


def _elixir_hint(reason: Term, stack: Sequence[Term]) -> str:
    """A hint that the full name of an Elixir module starts with `Elixir.`, or an empty string."""
    match stack:
        case [(Atom() as module, _, _, _), *_] if reason == "undef" and module[:1].isupper():
            if not module.startswith("Elixir."):
                name = format_bounded(Atom(f"Elixir.{module}"))
                return f" (the module {module} of Elixir is called {name})"
    return ""


class CallNotPossible(NodeError):
    """The node does not support the call. `reason` is the term it answered, such as `notsup`."""

    def __init__(self, what: str, reason: Term) -> None:
        super().__init__(f"{what} was refused by the node: {format_bounded(reason)}")
        self.reason = reason


class SpawnError(NodeError):
    """The node refused to spawn the process. `reason` is the atom it answered, such as `notsup`."""

    def __init__(self, what: str, reason: Term) -> None:
        super().__init__(f"{what} was not spawned: {format_bounded(reason)}")
        self.reason = reason


class CallTimeout(NodeError, TimeoutError):
    """No answer arrived before the timeout (seconds). The remote function may still be running."""

    def __init__(self, what: str, timeout: float) -> None:
        super().__init__(f"{what} was not answered within {timeout:g} s")
        self.timeout = timeout


class ErlangError(QuicdistError):
    """Raise this to fail with class `error` and this reason, like `erlang:error(Reason)`."""

    def __init__(self, reason: Term) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return format_bounded(self.reason, _SHOWN_REASON)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({format_bounded(self.reason)})"


class ErlangExit(ErlangError):
    """Raise this to exit with this reason, like `exit(Reason)`."""


class ErlangThrow(ErlangError):
    """Raise this to leave an exported function like `throw(Term)`."""
