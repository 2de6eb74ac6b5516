"""The interface to QUIC libraries: sans-IO connections and the engines that create them.

Each library has one adapter module in this package; no other module uses the library.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeAlias, cast

from quicdist.carriers.quic.congestion.resume import Capacity
from quicdist.carriers.quic.ecn import NOT_ECT
from quicdist.carriers.quic.engine_choice import MODULES, choose
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.trust import Alert, Certificates
from quicdist.errors import QuicdistError
from quicdist.protocol.dialects.base import Buffer

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""An IPv4 or IPv6 address in the format of the `socket` module."""

Path: TypeAlias = tuple[SocketAddress, bytes | None]
"""The peer's address, and the packed local address if the socket has several.

The local address of a relayed path is that of our port at the relay: 4 or 16 bytes, and the port in
two bytes.
"""

Batch: TypeAlias = tuple[bytes, int, Path]
"""Datagrams in a row on one path, and the size of each in bytes; the last may be shorter. The
kernel sends and receives such a batch in one call (udp(7), UDP_SEGMENT, UDP_GRO)."""

Received: TypeAlias = tuple[bytes, int, Path, int]
"""A batch of received datagrams, and the ECN codepoint that all of them have (see `ecn`)."""

ResetTokenOf: TypeAlias = Callable[[bytes], bytes]
"""Returns the stateless reset token of a local connection ID (RFC 9000, 10.3.2)."""

MAX_SEGMENTS = 64
MAX_SEGMENTED = 60_000
"""Maximum datagrams and bytes that an engine puts into one batch: udp(7), UDP_SEGMENT. The kernel
sends 65,507 bytes; the rest is for the headers of a relay."""

_BURST = 48
"""Approximate number of datagrams that one `transmit` call returns."""

CONNECTION_ID_LENGTH = 8
"""Length in bytes of the connection IDs that this node issues."""


def burst(size: int) -> int:
    """Returns the number of datagrams of `size` bytes that one `transmit` call returns.

    The event loop runs between two calls, and the peer can process the first datagrams meanwhile.
    They fill whole batches: the rest of a burst in a system call of its own would cost a relay and
    the receiver as much as a full batch.
    """
    most = min(MAX_SEGMENTS, max(MAX_SEGMENTED // size, 1))
    return most * max(round(_BURST / most), 1)


VerifyPeer: TypeAlias = Callable[[Certificates], Alert | None]
"""Verifies the certificates that the peer presented, its own first; empty if it presented none.
Returns None to accept them, or the TLS alert that closes the connection (RFC 9001, 4.8)."""


def reject_all(certificates: Certificates) -> Alert | None:
    """The `VerifyPeer` of a connection without owner."""
    return Alert.CERTIFICATE_UNKNOWN


def is_relayed(local: bytes) -> bool:
    """Returns whether the local address of a path is that of a port at a relay."""
    return len(local) in (6, 18)


class EngineError(QuicdistError):
    """The QUIC library failed. The connection cannot continue."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The connection IDs with which an incoming connection was opened."""

    destination_id: bytes
    """The original destination connection ID (RFC 9000, 7.3)."""

    retry_id: bytes | None = None
    """The source connection ID of the Retry packet; None if none was sent."""


@dataclass(frozen=True, slots=True)
class Closed:
    """How a connection ended."""

    by_peer: bool
    is_idle: bool
    is_application: bool
    """True for an application close, False for a transport or TLS error (RFC 9000, 19.19)."""
    error_code: int
    text: str
    exceeded: RejectReason | None = None
    """The limit that the peer exceeded, if that closed the connection."""


class Progress(NamedTuple):
    """What `EngineConnection.transmit` has left behind."""

    acknowledged: int
    """Number of bytes acknowledged without gaps, on all streams."""
    sent: int
    """Number of bytes that were sent at least once, on all streams."""
    pacing_rate: float
    """Bytes per second; 0 if there is none or it is unknown."""
    round_trip: float | None
    """The smoothed round trip in seconds; None before the first sample."""
    least_round_trip: float
    """The minimum round trip in seconds; infinite while it is unknown."""
    datagram_size: int
    """Maximum UDP payload in bytes of the datagrams that it sends."""
    timer: float | None
    """The time at which to call `handle_timer`; None if no timer is set."""
    has_more: bool
    """Whether `transmit` must be called again soon: it returned all datagrams that it may."""
    has_events: bool
    """Whether `drain` may have something to report."""
    marks: bool
    """Whether the datagrams are to be sent with ECT(0). False after the path or the peer has failed
    the validation (RFC 9000, 13.4.2)."""
    is_blocked: bool
    """Whether data waits for the peer's credit and for nothing else (RFC 9000, 4.1)."""


class CompiledSocket(Protocol):
    """A socket that compiled code uses. It must be open and non-blocking."""

    def read(self, limit: int) -> tuple[list[Received], bool]:
        """Returns at most about `limit` received datagrams, and whether the socket has an error.

        Equal paths are one object.
        """


class EngineSink(Protocol):
    """Callbacks for the events of a connection, called by `EngineConnection.drain`."""

    def handshake_completed(self, alpn: str) -> None:
        """The TLS handshake is complete, with this ALPN protocol. Certificates are available."""

    def stream_data(self, stream: int, data: bytes) -> None:
        """The next data of a stream was received."""

    def stream_ended(self, stream: int, how: str) -> None:
        """The peer finished or reset the stream, or sent STOP_SENDING; `how` states which."""

    def connection_id_issued(self, connection_id: bytes) -> None:
        """The peer may use this connection ID from now on (RFC 9000, 5.1.1)."""

    def connection_id_retired(self, connection_id: bytes) -> None:
        """The peer no longer uses this connection ID (RFC 9000, 5.1.2)."""


class EngineConnection(Protocol):
    """One QUIC connection. `now` is a time in seconds; all calls must use the same clock."""

    connection_ids: Sequence[bytes]
    """The initial local connection IDs."""

    verify_peer: VerifyPeer
    """Called once TLS is complete, before the peer learns of that. The owner sets it before the
    first datagram is processed, or, for a listener, after the first one."""

    def connect(self, path: Path, now: float) -> None:
        """Starts the handshake of a dialer."""

    def receive(self, data: bytes, size: int, path: Path, now: float, ecn: int = NOT_ECT) -> None:
        """Processes a batch of datagrams (see `Batch`) with this ECN codepoint.

        Raises EngineError if the library fails.
        """

    def drain(self, sink: EngineSink) -> bool:
        """Reports all events since the last call to `sink`. Returns whether `closed` is set."""

    @property
    def is_started(self) -> bool:
        """For a listener: whether an authenticated packet was received."""

    @property
    def certificates(self) -> Certificates:
        """The certificates that the peer presented in TLS, its own first; empty if there are none.

        TLS has verified that the peer has the key of the first one, but nothing else.
        """

    @property
    def is_confirmed(self) -> bool:
        """Whether the handshake is confirmed (RFC 9001, 4.1.2)."""

    @property
    def closed(self) -> Closed | None:
        """How the connection ended; None while it is open.

        It is set immediately, before the closing or draining period (RFC 9000, 10.2).
        """

    @property
    def path(self) -> Path:
        """The current path, which changes when the peer migrates."""

    @property
    def allowance(self) -> float:
        """Number of bytes that may still be sent on the current path.

        Until the peer's address is validated, this is three times the bytes received, minus the
        bytes sent (RFC 9000, 8.1). After that it is infinite.
        """

    @property
    def cipher(self) -> str:
        """Name of the negotiated TLS cipher suite (RFC 8446, B.4)."""

    def export(self, label: bytes, length: int) -> bytes:
        """Returns the TLS exporter value for `label`, without context (RFC 8446, 7.5).

        The handshake must be complete. Returns empty bytes if the engine does not support it.
        """

    def write(self, stream: int, parts: Sequence[Buffer]) -> None:
        """Queues bytes. The first write to a local stream opens it; streams can be in any order.

        Raises EngineError if the stream has ended.
        """

    def refuse(self, stream: int, error_code: int) -> None:
        """Rejects a stream in both directions, with RESET_STREAM and STOP_SENDING."""

    def send_whole(self, whole: bool) -> None:
        """Sets whether the queued data of a stream must be in one STREAM frame if it fits."""

    def keep_frames(self) -> None:
        """Retransmits stream data in the STREAM frames in which it was first sent, if possible.

        See `DialectTraits.keeps_frames`. Called before any data is sent.
        """

    def peer_proved(self) -> None:
        """Lifts the limits for unauthenticated peers, after the peer has proved the cookie.

        See `quicdist.limits.ConnectionBounds`.
        """

    def transmit(self, now: float, socket: CompiledSocket | None = None) -> Sequence[Batch]:
        """Returns about `burst` datagrams to send now, without those that `socket` has sent.

        `socket` is that of this engine; an engine need not use it. Raises EngineError if the
        library fails.
        """

    def progress(self) -> Progress:
        """Returns the state after the last `transmit`, in one call because each one costs time."""

    def handle_timer(self, now: float) -> None:
        """Handles expired timers: loss detection, probes, and the idle timeout."""

    def measured(self) -> Capacity | None:
        """Returns what congestion control has measured on the path; None if nothing is known."""

    def resume(self, capacity: Capacity) -> None:
        """Starts congestion control with an earlier measurement (see `CarefulResume`)."""

    def received(self) -> int:
        """Returns the number of bytes that `drain` has read, also on rejected streams."""

    def behind_gaps(self) -> int | None:
        """Returns the sum of the highest received offsets minus `received`; None if unknown."""

    def grant(self, credit: int) -> None:
        """Allows the peer to send `credit` bytes beyond `received` (MAX_DATA; RFC 9000, 4.1)."""

    def ping(self) -> None:
        """Queues a PING frame (RFC 9000, 19.2)."""

    @property
    def reset_token(self) -> bytes:
        """The peer's stateless reset token.

        Empty if the peer has sent none, or if the engine does not provide it.
        """

    def is_reset(self, data: bytes, now: float) -> bool:
        """Returns whether a datagram from the peer's address is a stateless reset.

        Used for engines that do not provide the reset tokens.
        """

    def renew_id(self) -> None:
        """Switches to another connection ID of the peer, if one is available (RFC 9000, 5.1.1)."""

    def move(self, now: float) -> None:
        """Migrates the connection to another local address and connection ID (RFC 9000, 9.5)."""

    def path_changed(self, now: float) -> None:
        """Restarts congestion control, the round-trip estimate and the path MTU search.

        The datagrams take another path, of which the library sees nothing (RFC 9000, 9.4).
        """

    def close(self, error_code: int, reason: str) -> None:
        """Closes the connection with an application error code (RFC 9000, 19.19)."""

    def idle_timeout(self) -> float:
        """Returns the negotiated idle timeout in seconds (RFC 9000, 10.1)."""

    def probe_timeout(self) -> float:
        """Returns the probe timeout in seconds (RFC 9002, 6.2)."""

    def round_trip(self) -> float | None:
        """Returns the smoothed round trip in seconds, or None before the first sample."""

    def least_round_trip(self) -> float:
        """Returns the minimum round trip in seconds; infinite while it is unknown."""

    def datagrams_sent(self) -> int:
        """Returns the number of packets sent, including those without data."""

    def datagrams_lost(self) -> int:
        """Returns the number of packets declared lost (RFC 9002, 6.1)."""

    def release(self) -> None:
        """Frees all resources. The connection must have ended, and no other call may follow."""


SocketOf: TypeAlias = Callable[[int, bool], CompiledSocket]
"""Returns the compiled socket for a file descriptor. The second argument states whether its paths
contain the local address."""


class Engine(Protocol):
    """A QUIC library, configured for one endpoint."""

    uses_ecn: bool
    """Whether connections report and obey ECN marks."""

    socket_of: SocketOf | None
    """None if the library does not use sockets on this system."""

    versions: Sequence[int]
    """The supported QUIC versions, in order of preference."""

    batch: int
    """Maximum number of datagrams to read in one event loop iteration. A message waits until all of
    them are processed, while a larger batch saves iterations."""

    hides_tokens: bool
    """Whether `reset_token` is always empty, so that `is_reset` must be used."""

    def dialer(self, host: str, alpns: Sequence[str]) -> EngineConnection:
        """Returns a new connection to `host`.

        It presents this node's certificate on request. TLS verifies that the peer has the key of
        its certificate; `verify_peer` of the connection verifies the rest.
        """

    def listener(self, opening: Opening) -> EngineConnection:
        """Returns a new connection for an incoming first datagram.

        It requests a certificate if the settings require that; `verify_peer` verifies it. It sends
        no session tickets and accepts no early data, so every connection has a full handshake.
        """


def load_engine(settings: QuicSettings, reset_token_of: ResetTokenOf) -> Engine:
    """Returns the engine that the settings name.

    Raises ValueError if the engine is unknown or not installed, or if it does not support the
    settings.
    """
    name = choose(settings.engine)
    module = importlib.import_module(f"{__name__}.{MODULES[name]}")
    # The adapter must not see `auto`: one adapter has two engines.
    return cast(Engine, module.engine(replace(settings, engine=name), reset_token_of))
