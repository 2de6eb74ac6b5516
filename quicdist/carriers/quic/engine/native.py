"""Adapter for the native engine, the package `quicdist-engine`. No other module imports it.

Packets, TLS, loss recovery and congestion control are compiled code. Differences to aioquic:

- Datagrams enter and leave in batches.
- The peer's certificate is verified inside the TLS handshake.
- The reset tokens of the peer are not known here; the engine recognizes a stateless reset itself.
- QUIC version 1 only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import Certificate, load_der_x509_certificate

try:
    import quicdist_engine as library
except ImportError:
    raise ValueError(
        "the QUIC engine native is not installed: make engine, or pip install ./engine, in a "
        "clone of quicdist"
    ) from None

from quicdist.carriers.quic.close_text import describe
from quicdist.carriers.quic.congestion.choice import algorithm
from quicdist.carriers.quic.congestion.resume import Capacity
from quicdist.carriers.quic.ecn import NOT_ECT
from quicdist.carriers.quic.engine import (
    Batch,
    Closed,
    CompiledSocket,
    EngineError,
    EngineSink,
    Opening,
    Path,
    Progress,
    ResetTokenOf,
    SocketAddress,
    SocketOf,
    VerifyPeer,
    burst,
    reject_all,
)
from quicdist.carriers.quic.engine_choice import NATIVE_SERIES, fits
from quicdist.carriers.quic.mtu import BASE
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.tls_choices import CIPHER_SUITES, KEY_EXCHANGES
from quicdist.carriers.quic.tracing import KeyLog, QlogDirectory
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.trust import Certificates, Identity
from quicdist.carriers.trust.certificate_cache import kept
from quicdist.protocol.dialects import LARGEST_WINDOW
from quicdist.protocol.dialects.base import Buffer

if not fits(library.__version__):
    raise ValueError(
        f"the installed quicdist-engine {library.__version__} is not of {NATIVE_SERIES}: "
        "build the one that came with this quicdist, as its engine/README.md describes"
    )

_progress = tuple.__new__
_NO_PROGRESS = Progress(0, 0, 0.0, None, math.inf, BASE, None, False, False, True, False)
_VERSIONS = [1]
_DATA, _ENDED, _COMPLETED, _ISSUED, _RETIRED = range(5)
"""Kinds of events, as in engine/src/connection.rs."""
_FIRST_PROBE_TIMEOUT = 0.3
"""Seconds; three times the initial round trip."""
_MAX_ACK_DELAY = 0.025


@kept(bytes.__len__)
def _parsed(data: bytes) -> Certificate:
    return load_der_x509_certificate(data)


class _PeerVerifier:
    """Passes the peer's certificates on to `verify_peer` of a connection.

    The engine holds this object, which does not hold the connection until there is an owner: a
    connection that never starts is freed without `release`.
    """

    __slots__ = ("certificates", "verify_peer")

    def __init__(self) -> None:
        self.verify_peer: VerifyPeer = reject_all
        self.certificates: Certificates = ()
        """What the peer has presented."""

    def __call__(self, chain: Sequence[bytes]) -> int | None:
        self.certificates = tuple(_parsed(each) for each in chain)
        alert = self.verify_peer(self.certificates)
        return None if alert is None else int(alert)


class NativeConnection:
    """One connection (see engine.EngineConnection)."""

    reset_token = b""

    def __init__(
        self, core: library.Connection, peer_verifier: _PeerVerifier, idle_timeout: float
    ) -> None:
        self._core = core
        self._peer_verifier = peer_verifier
        self._idle_timeout = idle_timeout
        self.connection_ids: Sequence[bytes] = core.ids
        self._paths: dict[int, Path] = {}
        self._path: Path = (("", 0), None)
        self._origin: SocketAddress | None = None
        self._is_proved = False
        self._closed: Closed | None = None
        self._burst_for = 0
        self._burst = burst(BASE)
        self._progress = _NO_PROGRESS
        self._received = 0

    @property
    def verify_peer(self) -> VerifyPeer:
        """Verifies the peer's certificates."""
        return self._peer_verifier.verify_peer

    @verify_peer.setter
    def verify_peer(self, verify_peer: VerifyPeer) -> None:
        self._peer_verifier.verify_peer = verify_peer

    def connect(self, path: Path, now: float) -> None:
        """Starts the handshake."""
        self._is_proved = True
        self._take_path(path)
        try:
            self._core.connect(now)
        except RuntimeError as error:
            raise EngineError(str(error)) from error

    def _take_path(self, path: Path) -> None:
        address, local = path
        scope = address[3] if len(address) == 4 else 0
        self._paths[self._core.take_path(address[0], address[1], scope, local)] = path
        self._path = path
        if self._origin is None:
            self._origin = address

    def receive(self, data: bytes, size: int, path: Path, now: float, ecn: int = NOT_ECT) -> None:
        """Processes a batch of datagrams."""
        try:
            if path != self._path:
                if not self._is_proved and self._origin not in (None, path[0]):
                    return  # a dialer may migrate only after the handshake (RFC 9000, 9)
                self._take_path(path)
            self._core.receive(data, size, now, ecn)
        except RuntimeError as error:
            raise EngineError(str(error)) from error

    def drain(self, sink: EngineSink) -> bool:
        """Reports the events since the last call."""
        events, self._received, has_ended = self._core.drain()
        for kind, stream, value in events:
            if kind == _DATA:
                sink.stream_data(stream, value)
            elif kind == _ENDED:
                sink.stream_ended(stream, value)
            elif kind == _COMPLETED:
                sink.handshake_completed(value)
            elif kind == _ISSUED:
                sink.connection_id_issued(value)
            elif kind == _RETIRED:
                sink.connection_id_retired(value)
        return has_ended

    @property
    def is_started(self) -> bool:
        """Whether the first datagram has begun a connection."""
        return self._core.is_started

    @property
    def certificates(self) -> Certificates:
        """The certificates of the peer. TLS has verified only that it has the key."""
        return self._peer_verifier.certificates

    @property
    def is_confirmed(self) -> bool:
        """Whether HANDSHAKE_DONE was received; for a listener, whether TLS is complete."""
        return self._core.is_confirmed

    @property
    def closed(self) -> Closed | None:
        """How the connection ended."""
        if self._closed is None:
            ending = self._core.closed
            if ending is not None:
                by_peer, is_idle, is_application, code, reason, exceeds_frames = ending
                text = describe(is_application=is_application, code=code, reason=reason)
                exceeded = RejectReason.FRAMES if exceeds_frames else None
                self._closed = Closed(by_peer, is_idle, is_application, code, text, exceeded)
        return self._closed

    @property
    def path(self) -> Path:
        """The path in use."""
        if len(self._paths) == 1:
            return self._path
        return self._paths.get(self._core.path, self._path)

    @property
    def allowance(self) -> float:
        """Bytes that may be sent before the address is validated."""
        return self._core.allowance

    @property
    def cipher(self) -> str:
        """IANA name of the cipher suite."""
        return self._core.cipher

    def export(self, label: bytes, length: int) -> bytes:
        """Returns a TLS exporter value."""
        return self._core.export(label, length)

    def write(self, stream: int, parts: Sequence[Buffer]) -> None:
        """Queues data. Large `bytes` and views of them are not copied."""
        try:
            self._core.write(stream, parts)
        except RuntimeError as error:
            raise EngineError(f"stream {stream}: {error}") from error

    def refuse(self, stream: int, error_code: int) -> None:
        """Rejects a stream; data that still arrives is discarded."""
        self._core.refuse(stream, error_code)

    def send_whole(self, whole: bool) -> None:
        """Sends each piece of data in a packet of its own while `whole` is set."""
        self._core.send_whole(whole)

    def keep_frames(self) -> None:
        """Does nothing: quinn-proto joins lost data only with lost data.

        It declares data lost only when later data was acknowledged, so it is rarely wrong.
        """

    def peer_proved(self) -> None:
        """Allows the peer to migrate and to send any number of frames."""
        self._is_proved = True
        self._core.prove()

    def transmit(self, now: float, socket: CompiledSocket | None = None) -> Sequence[Batch]:
        """Returns the datagrams to send that `socket` did not take."""
        try:
            found, progress = self._core.transmit(now, self._burst, socket)
        except RuntimeError as error:
            self._progress = _NO_PROGRESS
            raise EngineError(str(error)) from error
        self._progress = _progress(Progress, progress)
        size = self._progress.datagram_size
        if size != self._burst_for:
            self._burst_for, self._burst = size, burst(size or BASE)  # 0 after an internal error
        if not found:
            return ()
        paths, known = self._paths, self._path
        if len(paths) == 1:
            return [(data, size, known) for data, size, _ in found]
        return [(data, size, paths.get(index, known)) for data, size, index in found]

    def progress(self) -> Progress:
        """Returns the state after `transmit`. Acknowledged are pieces of at most 16 KiB."""
        return self._progress

    def handle_timer(self, now: float) -> None:
        """Runs loss detection, pacing and the idle timeout."""
        self._core.handle_timer(now)

    def measured(self) -> Capacity | None:
        """Returns the model of the congestion controller."""
        in_flight = self._core.capacity()
        return Capacity(in_flight, self._progress.least_round_trip) if in_flight else None

    def resume(self, capacity: Capacity) -> None:
        """Starts the congestion controller with an earlier measurement."""
        self._core.resume(capacity.in_flight, capacity.round_trip)

    def received(self) -> int:
        """Returns the bytes that were read."""
        return self._received

    def behind_gaps(self) -> None:
        """Returns None: quinn does not tell."""

    def grant(self, credit: int) -> None:
        """Lets the peer send `credit` bytes beyond `received`."""
        self._core.grant(credit)

    def ping(self) -> None:
        """Queues a PING frame."""
        self._core.ping()

    def is_reset(self, data: bytes, now: float) -> bool:
        """Whether the engine recognizes the datagram as a stateless reset."""
        return self._core.is_reset(data, now)

    def renew_id(self) -> None:
        """Switches to another connection ID of the peer."""
        self._core.renew_id()

    def move(self, now: float) -> None:
        """Switches to another connection ID and begins anew on the path."""
        self._core.migrate(now)

    def path_changed(self, now: float) -> None:
        """Begins anew on the path, with another connection ID."""
        self._core.migrate(now)

    def close(self, error_code: int, reason: str) -> None:
        """Sends CONNECTION_CLOSE of the application."""
        self._core.close(error_code, reason.encode())

    def idle_timeout(self) -> float:
        """Returns the minimum of the values of both peers."""
        theirs = self._core.peer_idle_timeout / 1000
        return min(theirs, self._idle_timeout) if theirs else self._idle_timeout

    def probe_timeout(self) -> float:
        """Returns an estimate from the round trip."""
        round_trip = self._core.round_trip()
        return _FIRST_PROBE_TIMEOUT if round_trip is None else 3 * round_trip + _MAX_ACK_DELAY

    def round_trip(self) -> float | None:
        """Returns the smoothed round trip, once measured."""
        return self._core.round_trip()

    def least_round_trip(self) -> float:
        """Returns the minimum round trip at the last `transmit`."""
        return self._progress.least_round_trip

    def datagrams_sent(self) -> int:
        """The count of quinn; nearly every datagram holds one packet."""
        return self._core.datagrams_sent()

    def datagrams_lost(self) -> int:
        """Returns the packets declared lost, without path MTU probes."""
        return self._core.datagrams_lost()

    def release(self) -> None:
        """Frees the connection."""
        self._core.release()
        self._peer_verifier.verify_peer = reject_all


class NativeEngine:
    """The native engine with the settings of one endpoint."""

    versions: Sequence[int] = _VERSIONS
    hides_tokens = True
    uses_ecn = True
    batch = 128
    socket_of: SocketOf | None = getattr(library, "Socket", None)

    def __init__(self, settings: QuicSettings, reset_token_of: ResetTokenOf, now: float) -> None:
        tracing = settings.tracing
        self._qlog = QlogDirectory(tracing.qlog) if tracing.qlog is not None else None
        self._key_log = KeyLog(tracing.key_log).write if tracing.key_log else None
        self._settings = settings
        self._reset_token_of = reset_token_of
        self._now = now
        self._identity = settings.credentials.identity
        self._core = self._made(self._identity)

    def _current(self) -> library.Engine:
        """Returns the engine with the current certificate, which may have been replaced on disk."""
        identity = self._settings.credentials.identity
        if identity is not self._identity:
            self._identity, self._core = identity, self._made(identity)
        return self._core

    def _made(self, identity: Identity) -> library.Engine:
        settings = self._settings
        limits, bounds = settings.limits, settings.bounds
        return library.Engine(
            now=self._now,
            chain=[
                each.public_bytes(Encoding.DER) for each in (identity.certificate, *identity.chain)
            ],
            key=identity.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            asks_certificate=settings.credentials.verifier.asks_dialers,
            alpns=list(settings.alpns),
            cipher_suites=[CIPHER_SUITES[name] for name in settings.cipher_suites],
            groups=[KEY_EXCHANGES["native"][name] for name in settings.key_exchanges],
            key_log=self._key_log,
            qlog=None if self._qlog is None else self._qlog_of,
            reset_token_of=self._reset_token_of,
            # The window of the connection is what limits memory.
            stream_window=max(limits.max_receive_window, LARGEST_WINDOW),
            max_streams=settings.max_streams,
            idle_timeout=limits.idle_timeout,
            max_datagram_size=settings.max_datagram_size,
            max_tls_message=bounds.max_tls_message,
            max_frames=bounds.max_frames,
            bytes_per_frame=bounds.bytes_per_frame,
            max_frames_unproved=bounds.max_frames_unproved,
            congestion=algorithm(settings.congestion).value,
            max_in_flight=settings.max_in_flight,
        )

    def _qlog_of(self, connection_id: bytes, is_client: bool) -> Callable[[str], None]:
        """Returns what writes the qlog records of one connection."""
        assert self._qlog is not None
        return self._qlog.file(connection_id, is_client=is_client).append

    def dialer(self, host: str, alpns: Sequence[str]) -> NativeConnection:
        """Creates a client connection."""
        peer_verifier = _PeerVerifier()
        window = self._settings.first_window(is_listener=False)
        core = self._current().dialer(host, list(alpns), peer_verifier, window)
        return NativeConnection(core, peer_verifier, self._settings.limits.idle_timeout)

    def listener(self, opening: Opening) -> NativeConnection:
        """Creates a server connection."""
        peer_verifier = _PeerVerifier()
        is_checked = opening.retry_id is not None
        window = self._settings.first_window(is_listener=True)
        core = self._current().listener(opening.destination_id, is_checked, peer_verifier, window)
        return NativeConnection(core, peer_verifier, self._settings.limits.idle_timeout)


def engine(settings: QuicSettings, reset_token_of: ResetTokenOf) -> NativeEngine:
    """Returns the engine. Raises ValueError if it does not support the settings."""
    return NativeEngine(settings, reset_token_of, 0.0)
