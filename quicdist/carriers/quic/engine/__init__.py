"""The contract with a QUIC library: one connection of it, sans-IO, and how to get one.

Each library has one adapter module here, the only place that touches it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.trust import Alert, Certificates
from quicdist.errors import QuicdistError
from quicdist.protocol.dialects.base import Buffer

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""As the socket module gives and takes it, for either family."""

Path: TypeAlias = tuple[SocketAddress, bytes | None]
"""The peer's address and our own one (packed) that it uses, where the socket has several."""

Datagram: TypeAlias = tuple[bytes, Path]

BURST = 48
"""Datagrams, about, that a connection hands out at a time: the peer can begin with them, and the
event loop has its turn, while the next ones are made."""

CONNECTION_ID_LENGTH = 8
"""Of the connection ids that we choose, in bytes."""


ResetTokenOf: TypeAlias = Callable[[bytes], bytes]
"""The stateless reset token of a connection id of ours (RFC 9000, 10.3.2)."""


class EngineError(QuicdistError):
    """The library did what it should not; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How a connection that others opened began."""

    destination_id: bytes
    """Where its first datagram of all was sent to."""

    retry_id: bytes | None = None
    """The id that our Retry packet gave the dialer, where there was one."""


@dataclass(frozen=True, slots=True)
class Closed:
    """How a connection ended."""

    by_peer: bool
    is_idle: bool
    is_application: bool
    """An application's close, as opposed to a transport or TLS error."""
    error_code: int
    text: str
    exceeded: RejectReason | None = None
    """The bound that the peer exceeded, where that ended it."""


class EngineSink(Protocol):
    """What a connection tells. Calls come from `EngineConnection.drain` alone."""

    def handshake_completed(self, alpn: str) -> None: ...

    def stream_data(self, stream: int, data: bytes) -> None: ...

    def stream_ended(self, stream: int, how: str) -> None:
        """The peer finished it, reset it, or wants no more of it."""

    def connection_id_issued(self, connection_id: bytes) -> None: ...

    def connection_id_retired(self, connection_id: bytes) -> None: ...


class EngineConnection(Protocol):
    """One QUIC connection. `now` is a time in seconds, of one clock throughout."""

    connection_ids: Sequence[bytes]
    """By which datagrams reach it from the start."""

    def connect(self, path: Path, now: float) -> None:
        """The dialer's first move."""

    def receive(self, data: bytes, path: Path, now: float) -> None:
        """One datagram. Raises EngineError."""

    def drain(self, sink: EngineSink) -> None:
        """Tells the sink all that happened since."""

    @property
    def is_started(self) -> bool:
        """False while nothing authentic has come, as long as this is a listener's."""

    @property
    def certificates(self) -> Certificates:
        """What the peer presented in TLS, its own first, of whose key it has proved to be the
        owner; empty where that was nothing. Not verified in any other way."""

    @property
    def is_confirmed(self) -> bool:
        """Whether the peer has taken the handshake as well (RFC 9001, 4.1.2)."""

    @property
    def closed(self) -> Closed | None:
        """Set once it is over, at once, whatever the protocol still has to do."""

    @property
    def path(self) -> Path: ...

    @property
    def allowance(self) -> float:
        """Bytes that may still be sent on the path in use: three times those that came, until the
        peer has shown that it receives there (RFC 9000, 8.1); infinite after that."""

    @property
    def cipher(self) -> str:
        """The TLS cipher suite (RFC 8446, B.4), once agreed on."""

    def export(self, label: bytes, length: int) -> bytes:
        """The TLS session's exporter value for this label, without context (RFC 8446, 7.5), once
        the handshake is complete; empty where the engine has none."""

    def write(self, stream: int, parts: Sequence[Buffer]) -> None:
        """Queues bytes; a stream of ours is opened by its first ones, in any order.

        Raises EngineError for a stream that is over.
        """

    def refuse(self, stream: int, error_code: int) -> None:
        """Wants nothing of this stream, and gives nothing."""

    def send_whole(self, whole: bool) -> None:
        """Whether what is queued of a stream must leave in one STREAM frame where it fits."""

    def peer_proved(self) -> None:
        """The peer has shown that it has the cookie: the bounds for strangers end (see
        bounds.ConnectionBounds)."""

    def transmit(self, now: float) -> Sequence[Datagram]:
        """What is to be sent now; where it is BURST or more, there may be more. Raises
        EngineError."""

    @property
    def datagram_size(self) -> int:
        """Bytes of UDP payload that it sends at most."""

    def timer(self) -> float | None:
        """When `handle_timer` is wanted."""

    def handle_timer(self, now: float) -> None: ...

    def acknowledged(self) -> int:
        """Bytes that the peer has, without gaps, over all streams written to."""

    def sent(self) -> int:
        """Bytes that have left at least once, over all streams written to."""

    def pacing_rate(self) -> float:
        """Bytes a second at which the congestion controller lets them leave; 0 where it sets no
        rate, or this engine does not tell."""

    def received(self) -> int:
        """Bytes that have come in order, over all streams, those refused included."""

    def grant(self, credit: int) -> None:
        """Lets the peer send `credit` bytes more than it has by now (`received`)."""

    def ping(self) -> None: ...

    @property
    def reset_token(self) -> bytes:
        """By which the peer would say that it knows this connection no more; empty where it has
        given none, or the engine hides it."""

    def is_reset(self, data: bytes, now: float) -> bool:
        """Whether a datagram from the peer's address is its reset, as far as an engine that hides
        the tokens can tell."""

    def renew_id(self) -> None:
        """Sends to another of the peer's connection ids from now on, where there is one."""

    def move(self, now: float) -> None:
        """Our address is another: tells the peer, with another connection id (RFC 9000, 9.5)."""

    def close(self, error_code: int, reason: str) -> None: ...

    def close_with_alert(self, alert: Alert) -> None:
        """Ends it as TLS would, had it said no to the peer's certificate."""

    def idle_timeout(self) -> float:
        """What both sides agreed on, in seconds."""

    def probe_timeout(self) -> float:
        """How long an answer may take, in seconds."""

    def round_trip(self) -> float | None: ...

    def least_round_trip(self) -> float:
        """Seconds; infinite while unknown, or where this engine does not tell."""

    def datagrams_lost(self) -> int: ...

    def release(self) -> None:
        """It is over, and will not be asked for anything again: lets go of all that it holds."""


class Engine(Protocol):
    """A QUIC library, set up for one endpoint."""

    versions: Sequence[int]
    """Spoken, the preferred one first."""

    hides_tokens: bool
    """Whether `reset_token` is always empty, and `is_reset` is to be asked."""

    def dialer(self, host: str, alpns: Sequence[str]) -> EngineConnection:
        """A connection to `host`. It presents our certificate where the peer asks for one, and
        verifies nothing: whoever owns the connection looks at `certificates`, before it transmits
        what follows the handshake."""

    def listener(self, opening: Opening) -> EngineConnection:
        """The answer to a first datagram. It asks for a certificate where the settings want that,
        and verifies as little. No session tickets, no early data: who comes back proves anew who
        it is."""


_MODULES = {"aioquic": "aioquic", "aioquic-plain": "aioquic", "qh3": "qh3"}
"""Where each engine is; `aioquic-plain` leaves the library to itself."""


def load_engine(settings: QuicSettings, reset_token_of: ResetTokenOf) -> Engine:
    """The engine that the settings name. Raises ValueError for one that is not there, or that
    cannot do what the settings ask of it."""
    name = _MODULES.get(settings.engine)
    if name is None:
        known = ", ".join(_MODULES)
        raise ValueError(f"no QUIC engine called {settings.engine!r}; there are: {known}")
    module = importlib.import_module(f"{__name__}.{name}")
    return cast(Engine, module.engine(settings, reset_token_of))
