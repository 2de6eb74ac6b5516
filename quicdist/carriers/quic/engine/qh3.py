"""The adapter of qh3 (`quicdist[fast]`), whose packets are processed in compiled code.

Compared to the adapter of aioquic:

- It extends the credit of a peer when data is read from its core. Therefore data is left in the
  core until the owner has consumed the data before (`_Quic._drain_core`).
- It does not report acknowledgements. They are computed from the queued bytes and those in flight.
- The datagram size is fixed at the start of a connection. A dialer on loopback starts with large
  datagrams, and again with small ones if there is no answer. A listener uses the dialer's size.
- A listener with large datagrams, and therefore on loopback, cannot follow a dialer to another
  address: the core has no room for a path, and the connection ends. With small datagrams it can
  follow three times.
- It recognizes a stateless reset, but does not provide the tokens. Of the connection IDs that it
  issues, only the first one of a listener has a token that is still known after a restart.
- It has no qlog here, and cannot keep a message in one STREAM frame.
"""

from __future__ import annotations

import contextlib
import logging
import math
import ssl
from collections.abc import Sequence
from typing import Any, TextIO, cast

try:
    from qh3.quic import events
    from qh3.quic.configuration import QuicConfiguration
    from qh3.quic.connection import QuicConnection
    from qh3.quic.packet import QuicProtocolVersion
    from qh3.quic.tls_bridge import QuicTlsBridge
    from qh3.tls import CipherSuite
except ImportError:
    raise ValueError("the QUIC engine qh3 is not installed: pip install 'quicdist[fast]'") from None

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import load_der_x509_certificate

from quicdist.carriers.coalesce import joined
from quicdist.carriers.quic.engine import (
    BURST,
    CONNECTION_ID_LENGTH,
    Closed,
    Datagram,
    EngineError,
    Opening,
    Path,
    ResetTokenOf,
    SocketAddress,
)
from quicdist.carriers.quic.engine.library_events import LibraryEvents
from quicdist.carriers.quic.mtu import BASE, is_loopback
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.tls_choices import CIPHER_SUITES
from quicdist.carriers.quic.tls_exporter import export
from quicdist.carriers.quic.tracing import KeyLog
from quicdist.carriers.trust import Alert, Certificates
from quicdist.protocol.dialects import LARGEST_WINDOW
from quicdist.protocol.dialects.base import Buffer

_VERSIONS = [int(QuicProtocolVersion.VERSION_1), int(QuicProtocolVersion.VERSION_2)]
_HASHES: dict[int, type[hashes.HashAlgorithm]] = {256: hashes.SHA256, 384: hashes.SHA384}
"""The hash algorithm of cipher suites by its number of bits."""
_IDLE = "idle timeout"
"""qh3's reason for a close by the idle timeout."""
_CRYPTO_ERROR, _CRYPTO_FRAME = 0x100, 0x06
_MOST_PATHS = 16
"""Maximum number of stored peer addresses. A sender with a connection ID can forge any address."""
_INITIAL_RTT = 0.1
"""Initial round trip in seconds, the same as in aioquic. The first datagram is repeated after twice
this time."""

# The end of the connection reports these errors.
for _name in ("qh3", "quic"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


class _Quic(QuicConnection):
    """qh3's connection, which leaves data in its core until it is requested."""

    is_held = False
    exporter_secret = b""
    """The exporter_master_secret of the TLS session; empty until it is known."""
    exporter_hash: hashes.HashAlgorithm
    reset_token_of: ResetTokenOf

    def _create_tls(self, remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = super()._create_tls(remote_source_cid)
        if not self.configuration.is_client:
            # The first connection ID of a dialer has no token (RFC 9000, 18.2).
            bridge.stateless_reset_token = self.reset_token_of(self.host_cid)
            ((kind, _),) = bridge.tls.handshake_extensions
            bridge.tls.handshake_extensions = [(kind, bridge.serialize_transport_parameters())]
        self._keep_exporter_secret(bridge)
        return bridge

    def _keep_exporter_secret(self, bridge: QuicTlsBridge) -> None:
        """Stores the exporter_master_secret.

        It is derived when the transcript ends with the server's Finished, together with the first
        1-RTT key (RFC 8446, 7.1).
        """
        tls: Any = bridge.tls
        update = tls.update_traffic_key_cb

        def updated(direction: Any, epoch: Any, cipher_suite: Any, secret: bytes) -> None:
            if epoch.name == "ONE_RTT" and not self.exporter_secret:
                self.exporter_secret = tls.key_schedule.derive_secret(b"exp master")
                self.exporter_hash = _HASHES[tls.key_schedule.algorithm]()
            update(direction, epoch, cipher_suite, secret)

        tls.update_traffic_key_cb = updated

    def _drain_core(self) -> None:
        if not self.is_held or self.is_draining:
            super()._drain_core()

    def receive_datagram(self, data: bytes, addr: SocketAddress, now: float) -> None:
        """Passes short-header packets to the core after the handshake."""
        core = self._core
        if core is None or not self._handshake_complete or data[0] & 0x80:
            super().receive_datagram(data, addr, now)
            return
        core.receive_datagram(data, addr, now)
        if core.has_events:
            self._drain_core()

    def poll(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        """Returns the datagrams to send. Raises RuntimeError.

        A listener of qh3 raises an exception if the amplification limit (RFC 9000, 8.1) is too
        small for its packets. It continues after the dialer's next datagram.
        """
        datagrams: list[tuple[bytes, SocketAddress]] = []
        if self._core is None:
            return datagrams
        poll = self._core.poll_transmit
        while len(datagrams) < BURST:
            try:
                transmit = poll(now)
            except RuntimeError:
                if self._handshake_confirmed:
                    raise
                return datagrams
            if transmit is None:
                return datagrams
            datagrams.append((transmit[0], transmit[1]))
        return datagrams

    @property
    def is_draining(self) -> bool:
        """Handles the close by the peer."""
        return self._core is not None and self._core.state not in ("handshaking", "connected")


class Qh3Connection(LibraryEvents[_Quic]):
    """One connection (see `engine.EngineConnection`)."""

    kinds = events

    reset_token = b""

    def __init__(self, quic: _Quic, settings: QuicSettings) -> None:
        self._quic = quic
        self._settings = settings
        self.connection_ids: Sequence[bytes] = [quic.host_cid]
        self._paths: dict[SocketAddress, Path] = {}
        self._path: Path = (("", 0), None)
        self._pings = 0
        self._is_idle = False
        self._refused: set[int] = set()
        self._opened: set[int] = set()
        self._written = 0
        self._acknowledged = 0
        self._must_reckon = False
        self._received = 0
        self._limit = settings.limits.receive_window

    def connect(self, path: Path, now: float) -> None:
        """Starts the TLS handshake."""
        self._take_path(path)
        if is_loopback(path[0][0]):
            self._begin(self._settings.max_datagram_size, now)
        else:
            self._begin(min(BASE, self._settings.max_datagram_size), now)

    def _begin(self, size: int, now: float) -> None:
        """Creates the core for this datagram size, which is fixed."""
        self._quic.configuration.max_datagram_size = size
        self._quic.connect(self._path[0], now)

    def _begin_smaller(self, now: float) -> None:
        """Restarts the connection with small datagrams, because the path may drop large ones."""
        configuration, old = self._quic.configuration, self._quic
        self._quic = _Quic(configuration=configuration)
        self._quic.host_cid = old.host_cid
        self._begin(BASE, now)

    def receive(self, data: bytes, path: Path, now: float) -> None:
        """Processes one datagram. An exception of the library ends the connection."""
        self._take_path(path)
        self._hold()
        if self._quic._core is None:
            largest = self._settings.max_datagram_size
            self._quic.configuration.max_datagram_size = max(
                min(BASE, largest), min(len(data), largest)
            )
        try:
            self._quic.receive_datagram(data, path[0], now)
        except Exception as error:
            raise EngineError(f"{type(error).__name__}: {error}") from error

    def _take_path(self, path: Path) -> None:
        if path is self._path:
            return
        if len(self._paths) >= _MOST_PATHS and path[0] not in self._paths:
            used = self.path
            self._paths = {used[0]: used}
        self._path = path
        self._paths[path[0]] = path

    def _hold(self) -> None:
        self._quic.is_held = self._received >= self._limit

    @property
    def is_started(self) -> bool:
        """Whether a first packet could be decrypted."""
        core = self._quic._core
        return core is not None and core.received_authenticated_packet

    @property
    def certificates(self) -> Certificates:
        """TLS has only verified that the key of the first one has signed this handshake."""
        own = self._quic.get_peercert()
        if own is None:
            return ()
        return tuple(
            load_der_x509_certificate(bytes(one.public_bytes()))
            for one in (own, *self._quic.get_issuercerts())
        )

    @property
    def is_confirmed(self) -> bool:
        """For a dialer: whether HANDSHAKE_DONE has arrived."""
        return self._quic._handshake_confirmed

    @property
    def closed(self) -> Closed | None:
        """Read from a private attribute of qh3."""
        event = self._quic._close_event
        core = self._quic._core
        if event is None or core is None:
            return None
        return Closed(
            by_peer=core.state == "draining",
            is_idle=self._is_idle,
            is_application=event.frame_type is None,
            error_code=event.error_code,
            text=_describe(event),
        )

    @property
    def path(self) -> Path:
        """The current path."""
        core = self._quic._core
        if core is None:
            return self._path
        return self._known(core.active_path[2])

    def _known(self, address: SocketAddress) -> Path:
        return self._paths.get(address) or (address, None)

    @property
    def allowance(self) -> float:
        """Always infinite, because qh3 does not provide it."""
        return math.inf

    @property
    def cipher(self) -> str:
        """The IANA name of the cipher suite."""
        cipher = self._quic.get_cipher()
        return "" if cipher is None else f"TLS_{cipher.name}"

    def export(self, label: bytes, length: int) -> bytes:
        """Derived from the secret that `_Quic` stores, because qh3 has no exporter."""
        quic = self._quic
        if not quic.exporter_secret:
            return b""
        return export(quic.exporter_secret, quic.exporter_hash, label, b"", length)

    def write(self, stream: int, parts: Sequence[Buffer]) -> None:
        """Queues bytes. Lower stream IDs are opened first, because qh3 requires that order."""
        try:
            if stream not in self._opened:
                self._open(stream)
            core = self._quic._core
            assert core is not None
            for part in joined(parts):
                core.send_stream(stream, part)
                self._written += len(part)
        except Exception as error:
            raise EngineError(f"stream {stream}: {error}") from error

    def _open(self, stream: int) -> None:
        quic = self._quic
        if stream % 2 == (0 if quic.configuration.is_client else 1):
            for mine in range(quic.get_next_available_stream_id(), stream + 1, 4):
                quic.send_stream_data(mine, b"")
        self._opened.add(stream)

    def refuse(self, stream: int, error_code: int) -> None:
        """Sends RESET_STREAM and STOP_SENDING once, and drops later data."""
        if stream not in self._refused:
            self._refused.add(stream)
            with contextlib.suppress(Exception):  # the stream may have ended
                self._quic.stop_stream(stream, error_code)
                self._quic.reset_stream(stream, error_code)

    def send_whole(self, whole: bool) -> None:
        """Does nothing: qh3 cannot guarantee this. A single write usually is one frame."""

    def peer_proved(self) -> None:
        """Does nothing: this engine has no limits to lift."""

    def transmit(self, now: float) -> Sequence[Datagram]:
        """Returns the datagrams to send."""
        try:
            datagrams = self._quic.poll(now)
        except Exception as error:
            raise EngineError(f"{type(error).__name__}: {error}") from error
        self._must_reckon = True
        return [(data, self._known(address)) for data, address in datagrams]

    def _reckon(self) -> None:
        """Whether data is unacknowledged.

        Lost data counts neither as queued nor as in flight while the pacer delays it or a timer
        must detect the loss. Therefore data is unacknowledged while another timer than the idle
        timeout is set.
        """
        core = self._quic._core
        if core is None or not self._written:
            return
        timer = core.get_timer()
        is_busy = timer is not None and timer[0] not in ("idle", "close")
        away = self._quic.get_send_buffer_size() + core.bytes_in_flight
        self._acknowledged = max(self._acknowledged, self._written - max(away, int(is_busy)))

    @property
    def datagram_size(self) -> int:
        """The initial size, which is fixed."""
        return self._quic.configuration.max_datagram_size

    def timer(self) -> float | None:
        """The time of the next timer."""
        return self._quic.get_timer()

    def handle_timer(self, now: float) -> None:
        """Runs loss detection and the idle timeout."""
        if not self.is_started and self._quic.configuration.max_datagram_size > BASE:
            self._begin_smaller(now)
        was_open = self._quic._close_event is None
        self._quic.handle_timer(now)
        event = self._quic._close_event
        if was_open and event is not None:
            self._is_idle = event.reason_phrase.lower() == _IDLE

    def acknowledged(self) -> int:
        """Returns a lower bound, which is updated when all data that may be sent was sent.

        It includes the last byte only after its acknowledgement.
        """
        if self._must_reckon:
            self._must_reckon = False
            self._reckon()
        return self._acknowledged

    def sent(self) -> int:
        """Returns the acknowledged bytes, because qh3 does not report the sent ones."""
        return self.acknowledged()

    def pacing_rate(self) -> float:
        """Returns 0, because qh3 does not provide it."""
        return 0.0

    def received(self) -> int:
        """The number of bytes read from the core."""
        return self._received

    def grant(self, credit: int) -> None:
        """Reads data from the core, which extends the credit of the peer."""
        self._limit = max(self._limit, self._received + credit)
        was_held = self._quic.is_held
        self._hold()
        if was_held and not self._quic.is_held:
            self._quic._drain_core()

    def ping(self) -> None:
        """Sends a PING frame, which the peer must acknowledge."""
        self._pings += 1
        with contextlib.suppress(Exception):  # not established yet, or closed
            self._quic.send_ping(self._pings)

    def is_reset(self, data: bytes, now: float) -> bool:
        """Whether the core, which knows the tokens, has ended after this datagram."""
        try:
            self._quic.receive_datagram(data, self.path[0], now)
        except Exception:
            return False
        core = self._quic._core
        return core is not None and core.state == "terminated"

    def renew_id(self) -> None:
        """Switches the ID, if the peer has issued another."""
        with contextlib.suppress(Exception):
            self._quic.change_connection_id()

    def move(self, now: float) -> None:
        """Sends a datagram from the new address, which the peer then validates."""
        self.renew_id()
        self.ping()

    def path_changed(self, now: float) -> None:
        """This engine cannot start anew. Its round trip and window adapt to what they measure."""
        self.ping()

    def close(self, error_code: int, reason: str) -> None:
        """Sends CONNECTION_CLOSE of the application."""
        self._quic.close(error_code=error_code, reason_phrase=reason)

    def close_with_alert(self, alert: Alert) -> None:
        """Sends CONNECTION_CLOSE with a TLS alert."""
        self._quic.close(_CRYPTO_ERROR + alert, _CRYPTO_FRAME)

    def idle_timeout(self) -> float:
        """The value of this node. The peer's value may be smaller."""
        return float(self._quic.configuration.idle_timeout)

    def probe_timeout(self) -> float:
        """An upper bound from the round trip (RFC 9002, 6.2.1)."""
        return 3 * (self.round_trip() or 0.3) + 0.025

    def round_trip(self) -> float | None:
        """The smoothed round trip; None before the first sample."""
        core = self._quic._core
        return None if core is None else core.smoothed_rtt

    def least_round_trip(self) -> float:
        """Returns infinity, because qh3 does not provide it."""
        return math.inf

    def datagrams_lost(self) -> int:
        """The number of packets declared lost."""
        core = self._quic._core
        return 0 if core is None else core.loss_total

    def release(self) -> None:
        """Releases the core and all other attributes."""
        self._quic.__dict__.clear()


class Qh3Engine:
    """qh3 with the settings of one endpoint."""

    versions: Sequence[int] = _VERSIONS
    hides_tokens = True

    def __init__(self, settings: QuicSettings, reset_token_of: ResetTokenOf) -> None:
        if settings.credentials.verifier.demands_certificates:
            raise ValueError(
                "the QUIC engine qh3 cannot request client certificates, which this trust setting "
                "requires: use engine='aioquic', or a Trust with uncertified=['*']"
            )
        if settings.tracing.qlog:
            raise ValueError("the QUIC engine qh3 does not support qlog: use engine='aioquic'")
        self._settings = settings
        self._reset_token_of = reset_token_of
        key_log = settings.tracing.key_log
        self._key_log = KeyLog(key_log) if key_log else None

    def dialer(self, host: str, alpns: Sequence[str]) -> Qh3Connection:
        """Returns a client connection."""
        configuration = self._configuration(alpns, is_client=True)
        configuration.server_name = host
        configuration.verify_mode = (
            ssl.CERT_NONE
        )  # the connection verifies certificates for all engines
        return Qh3Connection(_Quic(configuration=configuration), self._settings)

    def listener(self, opening: Opening) -> Qh3Connection:
        """Returns a server connection."""
        quic = _Quic(
            configuration=self._configuration(self._settings.alpns, is_client=False),
            original_destination_connection_id=opening.destination_id,
            retry_source_connection_id=opening.retry_id,
        )
        quic.reset_token_of = self._reset_token_of
        return Qh3Connection(quic, self._settings)

    def _configuration(self, alpns: Sequence[str], *, is_client: bool) -> QuicConfiguration:
        limits = self._settings.limits
        configuration = QuicConfiguration(
            is_client=is_client,
            alpn_protocols=list(alpns),
            supported_versions=list(_VERSIONS),
            cipher_suites=[
                CipherSuite(CIPHER_SUITES[name]) for name in self._settings.cipher_suites
            ],
            connection_id_length=CONNECTION_ID_LENGTH,
            idle_timeout=limits.idle_timeout,
            max_data=limits.receive_window,
            # The window of the connection limits the memory, as with aioquic.
            max_stream_data=max(limits.receive_window, LARGEST_WINDOW),
            initial_rtt=_INITIAL_RTT,
            secrets_log_file=cast("TextIO | None", self._key_log),  # type: ignore[arg-type]
        )
        identity = self._settings.credentials.identity
        configuration.load_cert_chain(
            b"".join(
                one.public_bytes(Encoding.PEM) for one in (identity.certificate, *identity.chain)
            ),
            identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )
        return configuration


def engine(settings: QuicSettings, reset_token_of: ResetTokenOf) -> Qh3Engine:
    """Creates the engine of one endpoint. Raises ValueError for unsupported settings."""
    return Qh3Engine(settings, reset_token_of)


def _describe(event: Any) -> str:
    if event.frame_type is None:
        name = f"application close {event.error_code}"
    elif _CRYPTO_ERROR <= event.error_code < 2 * _CRYPTO_ERROR:
        name = f"TLS alert {event.error_code - _CRYPTO_ERROR}"
    else:
        name = f"error {event.error_code:#x}"
    # The text is logged and may come from an unauthenticated peer.
    reason = "".join(char if char.isprintable() else "?" for char in event.reason_phrase)
    return f"{name}: {reason}" if reason else name
