"""The relay client of a node: keeps a port at a relay for the endpoint of the node."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quicdist.carriers import causes
from quicdist.carriers.base import CloseReason, DialError
from quicdist.carriers.log_rate_limit import LogRateLimit
from quicdist.carriers.quic.connection import QuicConnection
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.engine import SocketAddress
from quicdist.carriers.relay import proofs
from quicdist.carriers.relay.frames import (
    ALPN,
    INSTANCE_LENGTH,
    Address,
    Allocate,
    Allocated,
    Challenge,
    FrameError,
    KeepAlive,
    Lease,
    Message,
    Observed,
    Proof,
    Refusal,
    Refused,
    decode,
    encode,
    head_size,
)
from quicdist.carriers.relay.registration import (
    Action,
    Ask,
    Close,
    Dial,
    KeepAliveNow,
    Registration,
    State,
    Use,
    Way,
)
from quicdist.carriers.relay.slots import Slot
from quicdist.carriers.relay.stream import FrameConnection
from quicdist.carriers.relay.transport import Paths, binder, local_of
from quicdist.carriers.trust import CertificateError, Credentials, contexts
from quicdist.carriers.trust.names import fingerprint
from quicdist.errors import Cause
from quicdist.limits import MIB
from quicdist.protocol.packet import Packet

_log = logging.getLogger("quicdist.relay")
_log.addFilter(LogRateLimit("relay_lost", "relay_used", "relay_gives_no_port"))

_ATTEMPT = 7.0
"""Seconds for one attempt to connect."""

_REFUSALS = {
    Refusal.NOT_ALLOWED: "its allow-list does not contain the key of this node: `quicdist cert "
    "show` prints it",
    Refusal.PORTS_FULL: "all its ports belong to other nodes",
    Refusal.KEY_FULL: "the key of this node has the maximum number of ports",
    Refusal.PORT_TAKEN: "the port in the name belongs to another key, or is not one of its ports",
    Refusal.SUPERSEDED: "another process with the same key has taken the port over",
    Refusal.STOPPING: "it is stopping",
    Refusal.PROOF: "this node did not prove that it has the key of its certificate",
    Refusal.RATE: "a limit is reached: nodes, or new ports of one address",
}

_BACKLOG = MIB
"""Bytes of data frames that may wait for the TLS connection."""


@dataclass(frozen=True, slots=True)
class RelayAddress:
    """Where a relay is, and the name by which its certificate is verified."""

    host: str
    port: int
    tcp_port: int = 443
    """The port for TLS where UDP is blocked; 0 disables it."""

    @property
    def name(self) -> str:
        """The name of the relay in the form of a node name, which `Trust` knows."""
        return f"{self.port}@{self.host}"


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """The state of a node at its relay."""

    relay: str
    port: int
    way: str | None
    """`udp`, `tcp`, or None while the relay cannot be reached."""
    observed: Address | None
    """The address of the node as the relay sees it."""
    relayed_in: int
    relayed_out: int
    direct_in: int
    direct_out: int
    dropped: int
    forged: int


class RelayClient:
    """Keeps a port at one relay. `bind` makes the sockets of the endpoint, `register` starts.

    `paths` is where direct paths plug in (see `transport`).
    """

    def __init__(
        self,
        relay: RelayAddress,
        credentials: Credentials,
        *,
        slot: Slot,
        wanted: int = 0,
        lease: Lease = Lease.KEPT,
    ) -> None:
        """`slot` is the number of the node among those with its key, `wanted` a port or 0."""
        self.relay = relay
        self.paths = Paths()
        self.paths.is_used = True
        self.bind = binder(self.paths)
        self.on_change: Callable[[], None] = _nothing
        """Called when the way to the relay or the observed address has changed."""
        self._credentials = credentials
        self._slot, self._wanted, self._lease = slot, wanted, lease
        self._instance = os.urandom(INSTANCE_LENGTH)
        self._state = Registration(has_tcp=bool(relay.tcp_port), spread=random.random() / 2)
        self._loop = asyncio.get_running_loop()
        self._endpoint: Endpoint | None = None
        self._quic: QuicConnection | None = None
        self._stream: FrameConnection | None = None
        self._attempts: dict[Way, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._allocated: asyncio.Future[Allocated] = self._loop.create_future()
        self._failures: dict[Way, DialError] = {}
        """The last failure of each way."""
        self._observed: Address | None = None
        self._is_closed = False

    @property
    def observed(self) -> Address | None:
        """The address of this node as the relay sees its UDP datagrams; None if not known."""
        return self._observed

    def status(self) -> RelayStatus:
        """Returns the current state."""
        used, allocated = self._state.used, self._state.allocated
        count = self.paths.counters
        return RelayStatus(
            relay=self.relay.name,
            port=0 if allocated is None else allocated.port,
            way=None if used is None else used.value,
            observed=self._observed,
            relayed_in=count.relayed_in,
            relayed_out=count.relayed_out,
            direct_in=count.direct_in,
            direct_out=count.direct_out,
            dropped=count.dropped,
            forged=count.forged,
        )

    async def register(self, endpoint: Endpoint, timeout: float) -> int:
        """Connects to the relay and returns the port of this node there.

        Raises DialError if the relay cannot be reached, or gives no port within `timeout` seconds.
        """
        self._endpoint = endpoint
        self.paths.on_ready = endpoint.wake
        self._do(self._state.start(self._loop.time()))
        try:
            answer = await asyncio.wait_for(asyncio.shield(self._allocated), timeout)
        except TimeoutError:
            text = f"relay {self.relay.name}: no answer in {timeout:.3g} s"
            failures = list(self._failures.values()) or [DialError(text, Cause.NO_ANSWER)]
            cause = max((one.cause for one in failures), key=causes.rank)
            raise DialError("; ".join(dict.fromkeys(map(str, failures))), cause) from None
        return answer.port

    def leave(self) -> None:
        """Announces the end: the connections to the relay are used until `close`, not renewed."""
        self._is_closed = True

    def close(self) -> None:
        """Closes the connections to the relay. The port stays kept for this node."""
        self._is_closed = True
        self._slot.release()
        if self._timer is not None:
            self._timer.cancel()
        for way in Way:
            self._close(way)
        self._allocated.cancel()

    # -- actions of the state machine -----------------------------------------------------------

    def _do(self, actions: Sequence[Action]) -> None:
        if self._is_closed:
            return
        for action in actions:
            match action:
                case Dial(way):
                    self._attempts[way] = asyncio.create_task(self._dial(way))
                case Ask(way):
                    self._ask(way)
                case KeepAliveNow(way):
                    self._keep_alive(way)
                case Close(way):
                    self._close(way)
                case Use(way):
                    self._use(way)
        self._plan()

    def _plan(self) -> None:
        due = self._state.due
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self._quic is not None:
            self._state.heard(Way.UDP, self._quic.last_received)
        self._do(self._state.tick(max(now, self._state.due or now)))

    async def _dial(self, way: Way) -> None:
        try:
            if way is Way.UDP:
                await self._dial_udp()
            else:
                await self._dial_tcp()
        except (OSError, CertificateError) as error:
            self._failed(way, error)
            return
        self._do(self._state.opened(way, self._loop.time()))

    async def _dial_udp(self) -> None:
        assert self._endpoint is not None
        relay = self.relay
        connection = await self._endpoint.dial(
            relay.host, relay.port, node=relay.name, alpns=(ALPN,), timeout=_ATTEMPT
        )
        connection.handler = _Handler(self, connection)
        self._quic = connection

    async def _dial_tcp(self) -> None:
        stream = FrameConnection(
            self._frames_arrived, self._stream_lost, on_made=_nothing, backlog=_BACKLOG
        )
        async with asyncio.timeout(_ATTEMPT):
            await self._credentials.prepare()
            await self._loop.create_connection(
                lambda: stream,
                self.relay.host,
                self.relay.tcp_port,
                ssl=contexts.dialing(self._credentials),
                server_hostname="",
            )
        try:
            self._credentials.verifier.verify_dialed(
                self.relay.name, contexts.presented(stream.tls)
            )
        except CertificateError:
            stream.close()
            raise
        stream.expect_data()
        self._stream = stream

    def _failed(self, way: Way, error: OSError | CertificateError) -> None:
        text = self._reason(way, error)
        self._failures[way] = DialError(
            f"relay {self.relay.name} over {way.name}: {text}", causes.of_error(error)
        )
        if not self._is_closed:
            self._do(self._state.failed(way, self._loop.time()))

    def _ask(self, way: Way) -> None:
        if way is Way.UDP:
            self._tell(way, self._request(self._quic_peer()))
        # On TLS the request follows the proof, which waits for the challenge.

    def _request(self, relay: SocketAddress) -> Allocate:
        host = relay[0].removeprefix("::ffff:")
        allocated = self._state.allocated
        wanted = self._wanted if allocated is None else allocated.port
        return Allocate(self._slot.number, wanted, (host, relay[1]), self._instance, self._lease)

    def _quic_peer(self) -> SocketAddress:
        assert self._quic is not None
        return self._quic.peer_socket_address

    def _keep_alive(self, way: Way) -> None:
        if way is Way.UDP and self._quic is not None:
            self._quic.ping()
        elif way is Way.TCP:
            self._tell(way, KeepAlive())

    def _tell(self, way: Way, message: Message) -> None:
        if way is Way.UDP and self._quic is not None:
            self._quic.send_handshake(encode(message))
        elif way is Way.TCP and self._stream is not None:
            self._stream.send(encode(message))

    def _close(self, way: Way) -> None:
        attempt = self._attempts.pop(way, None)
        if attempt is not None:
            attempt.cancel()
        if way is Way.UDP and self._quic is not None:
            quic, self._quic = self._quic, None
            quic.close("the node needs the relay no more")
        elif way is Way.TCP and self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()

    def _use(self, way: Way | None) -> None:
        paths = self.paths
        paths.relay = self._quic_peer() if way is Way.UDP else None
        paths.stream = self._stream if way is Way.TCP else None
        if way is None:
            extra = {"event": "relay_lost", "relay": self.relay.name}
            text = "the relay %s is lost; other nodes cannot dial this one until it is back"
            _log.warning(text, self.relay.name, extra=extra)
        else:
            extra = {"event": "relay_used", "relay": self.relay.name, "way": way.value}
            text = "the relay %s is used over %s%s"
            _log.info(text, self.relay.name, way.name, self._why_tcp(way), extra=extra)
        self.on_change()

    def _why_tcp(self, way: Way) -> str:
        if way is Way.UDP:
            return ""
        failure = self._failures.get(Way.UDP)
        return f": {failure or 'no answer over UDP yet'}"

    def _reason(self, way: Way, error: OSError | CertificateError) -> str:
        # asyncio's text of a failed connection repeats the call.
        if way is Way.TCP and isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            where = f"{self.relay.host}:{self.relay.tcp_port}"
            if isinstance(error, socket.gaierror) or not error.errno:
                return f"{where}: {error.strerror or error or 'no answer'}"
            return f"{where}: {os.strerror(error.errno)}"
        return str(error) or "no answer"

    # -- what arrives ---------------------------------------------------------------------------

    def message(self, way: Way, message: Message) -> None:
        """Takes a control message of the relay."""
        now = self._loop.time()
        self._state.heard(way, now)
        match message:
            case Challenge(nonce) if way is Way.TCP and self._stream is not None:
                self._prove(self._stream, nonce)
            case Allocated():
                self._take(way, message, now)
            case Observed(address):
                self._observed = address
                self.on_change()
            case Refused(why):
                if why is not Refusal.STOPPING:
                    name = why.name.lower()
                    extra = {
                        "event": "relay_gives_no_port",
                        "relay": self.relay.name,
                        "reason": name,
                    }
                    text = "the relay %s gives this node no port: %s"
                    _log.warning(text, self.relay.name, name, extra=extra)
                self._failures[way] = DialError(
                    f"relay {self.relay.name} gives no port: {_REFUSALS[why]}", Cause.NOT_ALLOWED
                )
                self._do(self._state.refused(way, why, now))
            case _:
                pass

    def _prove(self, stream: FrameConnection, nonce: bytes) -> None:
        identity = self._credentials.identity
        key = fingerprint(contexts.presented(stream.tls)[0])
        signature = proofs.sign(identity, proofs.signed_bytes(key, nonce))
        certificate = identity.certificate.public_bytes(proofs.DER)
        stream.send(encode(Proof(certificate, signature)))
        stream.send(encode(self._request(stream.peer_address)))

    def _take(self, way: Way, answer: Allocated, now: float) -> None:
        if way is Way.UDP and self._quic is not None:
            self._quic.handshake_done()
            with contextlib.suppress(CertificateError):
                self._quic.remember(self.relay.name)
            self._observed = answer.observed
            host = self._quic_peer()[0]
        elif self._stream is not None:
            verifier = self._credentials.verifier
            with contextlib.suppress(CertificateError):
                verifier.learn_dialed(self.relay.name, contexts.presented(self._stream.tls))
            host = self._stream.peer_address[0]
        else:
            return
        # The address at the first time stays: it is part of the constant paths of peers.
        if not self.paths.local:
            self.paths.relay_host = host.removeprefix("::ffff:")
            self.paths.local = local_of((self.paths.relay_host, answer.port))
        self._do(self._state.answered(way, answer, now))
        if not self._allocated.done():
            self._allocated.set_result(answer)

    def _frames_arrived(self, frames: Sequence[bytes]) -> None:
        data = [frame for frame in frames if frame and head_size(frame[0])]
        for frame in frames:
            if not frame or not head_size(frame[0]):
                try:
                    self.message(Way.TCP, decode(frame))
                except FrameError:
                    self.paths.counters.forged += 1
        if data:
            self._state.heard(Way.TCP, self._loop.time())
            self.paths.frames_arrived(data)

    def _stream_lost(self) -> None:
        if self._stream is not None:
            self._stream = None
            self._lost(Way.TCP)

    def quic_lost(self, connection: QuicConnection, reason: CloseReason) -> None:
        """Takes the end of the QUIC connection to the relay."""
        if self._quic is connection:
            self._quic = None
            text = f"relay {self.relay.name}: {reason.text}"
            self._failures[Way.UDP] = DialError(text, reason.cause)
            self._lost(Way.UDP)

    def _lost(self, way: Way) -> None:
        if not self._is_closed and self._state.state(way) is not State.IDLE:
            self._do(self._state.failed(way, self._loop.time()))


class _Handler:
    """The owner of the QUIC connection to the relay (carriers.base.ConnectionHandler)."""

    def __init__(self, client: RelayClient, connection: QuicConnection) -> None:
        self._client = client
        self._connection = connection

    def packets_received(self, packets: Sequence[Packet]) -> int:
        for packet in packets:
            with contextlib.suppress(FrameError):
                self._client.message(Way.UDP, decode(packet.data))
        return sum(len(packet.data) for packet in packets)

    def writable_again(self) -> None:
        pass

    def connection_lost(self, reason: CloseReason) -> None:
        self._client.quic_lost(self._connection, reason)


def _nothing() -> None:
    """Nobody is told."""
