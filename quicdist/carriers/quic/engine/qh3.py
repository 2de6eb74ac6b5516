"""qh3 behind the contract of this package: the only module that knows it (`quicdist[fast]`).

Its packets are made and read by compiled code. What it does in its own way:

- it lets a peer send on as soon as data are taken out of its core, so they are left in there while
  the owner has not consumed what came before (`_Quic._drain_core`);
- it tells nobody what is acknowledged: that is reckoned from what is queued and in flight;
- the size of datagrams is fixed when a connection begins: a dialer on loopback begins with large
  ones and, if nothing answers, once more with small ones; a listener answers in the size that came;
- a listener with large ones, hence on loopback alone, cannot follow its dialer to another address:
  the core finds no room for a path, and the connection ends; with small ones it can, thrice;
- it knows a stateless reset, but shows no token; of the ids that it gives out, only a listener's
  first one has a token of ours, which we know again after a restart;
- qlog, keeping a message in one STREAM frame: not with it.
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
"""Of cipher suites, by the number of bits."""
_IDLE = "Idle timeout"
_CRYPTO_ERROR, _CRYPTO_FRAME = 0x100, 0x06
_MOST_PATHS = 16
"""Addresses that are kept with ours: anybody who knows a connection id may send from any."""
_INITIAL_RTT = 0.1
"""Seconds; as aioquic's. A first datagram that is not answered in twice that is sent again."""

# What it warns of is in the connection's end.
for _name in ("qh3", "quic"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


class _Quic(QuicConnection):
    """qh3's connection, whose core keeps what nobody wants to have yet."""

    is_held = False
    exporter_secret = b""
    """exporter_master_secret of the TLS session, once it is known."""
    exporter_hash: hashes.HashAlgorithm
    reset_token_of: ResetTokenOf

    def _create_tls(self, remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = super()._create_tls(remote_source_cid)
        if not self.configuration.is_client:
            # A dialer's first id has no token: it could tell nobody (RFC 9000, 18.2).
            bridge.stateless_reset_token = self.reset_token_of(self.host_cid)
            ((kind, _),) = bridge.tls.handshake_extensions
            bridge.tls.handshake_extensions = [(kind, bridge.serialize_transport_parameters())]
        self._keep_exporter_secret(bridge)
        return bridge

    def _keep_exporter_secret(self, bridge: QuicTlsBridge) -> None:
        """From the moment that the transcript ends with the server's Finished, which is that of
        the first 1-RTT key (RFC 8446, 7.1)."""
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
        """After the handshake a short header is that of one packet, and the core's business."""
        core = self._core
        if core is None or not self._handshake_complete or data[0] & 0x80:
            super().receive_datagram(data, addr, now)
            return
        core.receive_datagram(data, addr, now)
        if core.has_events:
            self._drain_core()

    def poll(self, now: float) -> list[tuple[bytes, SocketAddress]]:
        """Datagrams to send. Raises RuntimeError.

        Its listener stumbles over the little that it may send before it knows the dialer's
        address (RFC 9000, 8.1), and goes on with the dialer's next datagram.
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
        """The peer has closed it: nothing more comes."""
        return self._core is not None and self._core.state not in ("handshaking", "connected")


class Qh3Connection(LibraryEvents[_Quic]):
    """One connection (see engine.EngineConnection)."""

    kinds = events

    reset_token = b""

    def __init__(self, quic: _Quic, settings: QuicSettings) -> None:
        self._quic = quic
        self._settings = settings
        self.connection_ids: Sequence[bytes] = [quic.host_cid]
        self._paths: dict[SocketAddress, Path] = {}
        self._path: Path = (("", 0), None)
        self._pings = 0
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
        """The first datagram has the size of all."""
        self._quic.configuration.max_datagram_size = size
        self._quic.connect(self._path[0], now)

    def _begin_smaller(self, now: float) -> None:
        """Whoever is there may not take large ones: anew, as far as can be seen the same."""
        configuration, old = self._quic.configuration, self._quic
        self._quic = _Quic(configuration=configuration)
        self._quic.host_cid = old.host_cid
        self._begin(BASE, now)

    def receive(self, data: bytes, path: Path, now: float) -> None:
        """One datagram; hostile ones may make the library stumble, which ends the connection."""
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
        """TLS has checked that its key has signed this handshake, and nothing else."""
        own = self._quic.get_peercert()
        if own is None:
            return ()
        return tuple(
            load_der_x509_certificate(bytes(one.public_bytes()))
            for one in (own, *self._quic.get_issuercerts())
        )

    @property
    def is_confirmed(self) -> bool:
        """For a dialer: HANDSHAKE_DONE has come."""
        return self._quic._handshake_confirmed

    @property
    def closed(self) -> Closed | None:
        """From where qh3 notes it."""
        event = self._quic._close_event
        core = self._quic._core
        if event is None or core is None:
            return None
        return Closed(
            by_peer=core.state == "draining",
            is_idle=event.reason_phrase.lower() == _IDLE.lower(),
            is_application=event.frame_type is None,
            error_code=event.error_code,
            text=_describe(event),
        )

    @property
    def path(self) -> Path:
        """The one in use."""
        core = self._quic._core
        if core is None:
            return self._path
        return self._known(core.active_path[2])

    def _known(self, address: SocketAddress) -> Path:
        return self._paths.get(address) or (address, None)

    @property
    def allowance(self) -> float:
        """This engine hides it."""
        return math.inf

    @property
    def cipher(self) -> str:
        """As TLS names it."""
        cipher = self._quic.get_cipher()
        return "" if cipher is None else f"TLS_{cipher.name}"

    def export(self, label: bytes, length: int) -> bytes:
        """qh3 has no exporter: what it takes is kept by `_Quic`."""
        quic = self._quic
        if not quic.exporter_secret:
            return b""
        return export(quic.exporter_secret, quic.exporter_hash, label, b"", length)

    def write(self, stream: int, parts: Sequence[Buffer]) -> None:
        """Queues; qh3 wants its streams opened in ascending order, lower ones come along."""
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
        """RESET_STREAM and STOP_SENDING, once; what still comes is forgotten."""
        if stream not in self._refused:
            self._refused.add(stream)
            with contextlib.suppress(Exception):  # it may be over already
                self._quic.stop_stream(stream, error_code)
                self._quic.reset_stream(stream, error_code)

    def send_whole(self, whole: bool) -> None:
        """It cannot promise that; what is written alone leaves alone all the same."""

    def peer_proved(self) -> None:
        """This engine has no bounds of ours."""

    def transmit(self, now: float) -> Sequence[Datagram]:
        """Datagrams for the socket."""
        try:
            datagrams = self._quic.poll(now)
        except Exception as error:
            raise EngineError(f"{type(error).__name__}: {error}") from error
        self._must_reckon = True
        return [(data, self._known(address)) for data, address in datagrams]

    def _reckon(self) -> None:
        """What is lost is in flight or queued, but neither while the pacer holds it back or a
        timer is to notice it: as long as a timer runs besides that of the idle connection, not
        all is acknowledged, whatever the sum."""
        core = self._quic._core
        if core is None or not self._written:
            return
        timer = core.get_timer()
        is_busy = timer is not None and timer[0] not in ("idle", "close")
        away = self._quic.get_send_buffer_size() + core.bytes_in_flight
        self._acknowledged = max(self._acknowledged, self._written - max(away, int(is_busy)))

    @property
    def datagram_size(self) -> int:
        """What it began with."""
        return self._quic.configuration.max_datagram_size

    def timer(self) -> float | None:
        """When qh3 wants to be woken."""
        return self._quic.get_timer()

    def handle_timer(self, now: float) -> None:
        """Loss detection, idle timeout."""
        if not self.is_started and self._quic.configuration.max_datagram_size > BASE:
            self._begin_smaller(now)
        self._quic.handle_timer(now)

    def acknowledged(self) -> int:
        """As far as can be told; never all before it is. Known anew when all has been sent that
        may be."""
        if self._must_reckon:
            self._must_reckon = False
            self._reckon()
        return self._acknowledged

    def sent(self) -> int:
        """This engine hides it: what is acknowledged was sent."""
        return self.acknowledged()

    def pacing_rate(self) -> float:
        """This engine hides it."""
        return 0.0

    def received(self) -> int:
        """What was handed over."""
        return self._received

    def grant(self, credit: int) -> None:
        """What the core kept may come out, and the peer send on."""
        self._limit = max(self._limit, self._received + credit)
        was_held = self._quic.is_held
        self._hold()
        if was_held and not self._quic.is_held:
            self._quic._drain_core()

    def ping(self) -> None:
        """A PING frame; its acknowledgement is a sign of life."""
        self._pings += 1
        with contextlib.suppress(Exception):  # not up yet, or over
            self._quic.send_ping(self._pings)

    def is_reset(self, data: bytes, now: float) -> bool:
        """Its core, which knows the tokens, has then ended."""
        try:
            self._quic.receive_datagram(data, self.path[0], now)
        except Exception:
            return False
        core = self._quic._core
        return core is not None and core.state == "terminated"

    def renew_id(self) -> None:
        """Where the peer has given another."""
        with contextlib.suppress(Exception):
            self._quic.change_connection_id()

    def move(self, now: float) -> None:
        """The peer sees a datagram from another address, and challenges it."""
        self.renew_id()
        self.ping()

    def path_changed(self, now: float) -> None:
        """This engine cannot start anew. Its round trip and window adapt to what they measure."""
        self.ping()

    def close(self, error_code: int, reason: str) -> None:
        """CONNECTION_CLOSE of the application."""
        self._quic.close(error_code=error_code, reason_phrase=reason)

    def close_with_alert(self, alert: Alert) -> None:
        """CONNECTION_CLOSE of TLS."""
        self._quic.close(_CRYPTO_ERROR + alert, _CRYPTO_FRAME)

    def idle_timeout(self) -> float:
        """Ours; the peer's may be smaller."""
        return float(self._quic.configuration.idle_timeout)

    def probe_timeout(self) -> float:
        """From the round trip, generously (RFC 9002, 6.2.1)."""
        return 3 * (self.round_trip() or 0.3) + 0.025

    def round_trip(self) -> float | None:
        """Smoothed, once there is a sample."""
        core = self._quic._core
        return None if core is None else core.smoothed_rtt

    def least_round_trip(self) -> float:
        """This engine hides it."""
        return math.inf

    def datagrams_lost(self) -> int:
        """Packets declared lost."""
        core = self._quic._core
        return 0 if core is None else core.loss_total

    def release(self) -> None:
        """Its core with the rest."""
        self._quic.__dict__.clear()


class Qh3Engine:
    """qh3 with one endpoint's settings."""

    versions: Sequence[int] = _VERSIONS
    hides_tokens = True

    def __init__(self, settings: QuicSettings, reset_token_of: ResetTokenOf) -> None:
        if settings.credentials.verifier.demands_certificates:
            raise ValueError(
                "the QUIC engine qh3 cannot ask those who dial us for a certificate, which this "
                "trust demands: use engine='aioquic', or a Trust with uncertified=['*']"
            )
        if settings.tracing.qlog:
            raise ValueError("the QUIC engine qh3 writes no qlog files here: use engine='aioquic'")
        self._settings = settings
        self._reset_token_of = reset_token_of
        key_log = settings.tracing.key_log
        self._key_log = KeyLog(key_log) if key_log else None

    def dialer(self, host: str, alpns: Sequence[str]) -> Qh3Connection:
        """A client."""
        configuration = self._configuration(alpns, is_client=True)
        configuration.server_name = host
        configuration.verify_mode = ssl.CERT_NONE  # that is done outside, for every engine alike
        return Qh3Connection(_Quic(configuration=configuration), self._settings)

    def listener(self, opening: Opening) -> Qh3Connection:
        """A server."""
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
            # What bounds memory is the connection's window, as with aioquic.
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
    """The engine for one endpoint. Raises ValueError for settings that it cannot serve."""
    return Qh3Engine(settings, reset_token_of)


def _describe(event: Any) -> str:
    if event.frame_type is None:
        name = f"application close {event.error_code}"
    elif _CRYPTO_ERROR <= event.error_code < 2 * _CRYPTO_ERROR:
        name = f"TLS alert {event.error_code - _CRYPTO_ERROR}"
    else:
        name = f"error {event.error_code:#x}"
    # Whoever sends it may have proved nothing yet; it becomes a line of the log.
    reason = "".join(char if char.isprintable() else "?" for char in event.reason_phrase)
    return f"{name}: {reason}" if reason else name
