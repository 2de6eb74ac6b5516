"""TCP as a carrier of `Node`: the protocol of stock Erlang nodes, with ports registered in EPMD."""

from __future__ import annotations

import enum
import ipaddress
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quicdist.carriers import epmd, tcp
from quicdist.carriers.base import CertificateRejected, Connection, FirstMessage
from quicdist.carriers.epmd import (
    EpmdAddress,
    EpmdError,
    EpmdServer,
    NodeInfo,
    NodeTable,
    NodeType,
    Registration,
)
from quicdist.carriers.reject_reason import RejectReason
from quicdist.carriers.relay.client import RelayStatus
from quicdist.carriers.trust import CertificateError, Credentials
from quicdist.cluster.carrier import Accept, Carrier, ListenerSettings, Transport, TransportAddress
from quicdist.errors import NodeError
from quicdist.limits import CarrierLimits
from quicdist.protocol.role import Role
from quicdist.setting_types import Port, RemotePort, check_fields

_log = logging.getLogger("quicdist.node")

_LOOPBACK = "127.0.0.1"
_EVERYWHERE = ("0.0.0.0", "::")


class EpmdUse(enum.Enum):
    """How a node that listens on TCP publishes its port."""

    REGISTER = "register"
    """In the EPMD of this host, which must be running at the start."""
    EMBED = "embed"
    """In the EPMD of this host, or in an EPMD server in this process if there is none."""
    NONE = "none"
    """Not at all. Peers must know the port."""


@dataclass(frozen=True, slots=True)
class Tcp:
    """TCP without encryption, for names of the form `name@host`.

    A node with such a name listens on `port` (0: any free port). It binds the address in its name,
    or all addresses if the name contains a host other than localhost, as OTP does.
    `Node(listen=...)` overrides that. `epmd_port` is by default ERL_EPMD_PORT, or 4369.
    """

    port: Port = 0
    epmd: EpmdUse = EpmdUse.EMBED
    epmd_port: RemotePort | None = None
    limits: CarrierLimits = field(default_factory=CarrierLimits)

    def __post_init__(self) -> None:
        """Raises TypeError and SettingError."""
        check_fields(self)

    def make(self, credentials: Credentials) -> Carrier:
        """Returns a carrier with these settings. It opens no socket until it is used.

        Raises NodeError if the trust setting requires TLS.
        """
        if credentials.trust.require_tls:
            raise NodeError("Tcp() excludes Trust(require_tls=True): use Tls(), or omit `carriers`")
        return TcpCarrier(self, credentials)


class TcpCarrier:
    """A listener and its EPMD registration, if the name of this node needs them."""

    transport = Transport.TCP

    def __init__(self, settings: Tcp, credentials: Credentials) -> None:
        self._settings = settings
        self._credentials = credentials
        self._listener: tcp.TcpListener | None = None
        self._entry: Registration | None = None
        self._epmd: EpmdServer | None = None

    async def open(self, own: ListenerSettings | None, accept: Accept) -> str | None:
        """Listens and registers in EPMD if the name of this node has the form `name@host`."""
        if own is None or own.name.address is not None:
            return None
        host, port = own.listen or (_listening_host(own.name.host), self._settings.port)
        self._listener = await self._listen(host, port, accept)
        if self._settings.epmd is not EpmdUse.NONE:
            self._entry = await self._register(own, *self._listener.local_address)
        return str(own.name)

    async def _listen(
        self, host: str | Sequence[str], port: int, accept: Accept
    ) -> tcp.TcpListener:
        limits = self._settings.limits

        def make() -> tcp.TcpConnection:
            connection = tcp.TcpConnection(Role.LISTENER, limits, accept)
            connection.verifier = self._credentials.verifier
            return connection

        return await tcp.TcpListener.open(host, port, accept=accept, limits=limits, make=make)

    async def dial(
        self,
        node: str,
        place: TransportAddress,
        timeout: float,
        first: FirstMessage | None = None,
    ) -> Connection:
        """Dials a node. Raises CertificateRejected if the node has a known key, which needs TLS."""
        verifier = self._credentials.verifier
        try:
            verifier.verify_unencrypted(node)
        except CertificateError as error:
            raise CertificateRejected(f"{place}: {error}", error.cause) from error
        limits = self._settings.limits
        connection = await tcp.dial(place.host, place.port, timeout=timeout, limits=limits)
        connection.verifier = verifier
        return connection

    async def close(self, timeout: float) -> None:
        """Unregisters the node, stops the embedded EPMD, and closes the listener."""
        # The registration is closed first, since it starts an EPMD server when EPMD disappears.
        if self._entry is not None:
            await self._entry.close()
        for server in (self._epmd, self._listener):
            if server is not None:
                await server.close()
        self._entry = self._epmd = self._listener = None

    def rebind(self) -> None:
        """Does nothing: a TCP connection cannot move to another socket."""

    def bound(self) -> tuple[str, int] | None:
        """Returns None: it has no UDP socket."""
        return None

    def relay(self) -> RelayStatus | None:
        """Returns None: relays are for QUIC."""
        return None

    def rejected(self) -> Mapping[RejectReason, int]:
        """Returns nothing: TCP accepts every connection before the distribution handshake."""
        return {}

    def describe(self) -> str:
        """Returns a log line that warns of the missing encryption."""
        return "TCP for nodes named name@host: no encryption and no authentication"

    async def _register(self, own: ListenerSettings, host: str, port: int) -> Registration:
        kind = NodeType.HIDDEN if own.is_hidden else NodeType.NORMAL
        node = NodeInfo(own.name.alive, port, kind)
        address = EpmdAddress(port=self._settings.epmd_port or epmd.default_port())

        async def embed() -> None:
            hosts = [host] if host in _EVERYWHERE else list(dict.fromkeys((_LOOPBACK, host)))
            self._epmd = await EpmdServer.open(hosts, address.port, NodeTable())
            _log.info("no EPMD at %s: %s starts one in its process", address, own.name)

        # If TLS is required, no unencrypted EPMD port is opened.
        requires_tls = self._credentials.trust.require_tls
        is_embedding = self._settings.epmd is EpmdUse.EMBED and not requires_tls
        try:
            return await Registration.open(node, address, absent=embed if is_embedding else None)
        except ConnectionRefusedError:
            raise EpmdError(
                f"no EPMD answers at {address}: start it with `epmd -daemon`, "
                f"or use Tcp(epmd=EpmdUse.EMBED)"
            ) from None


def _listening_host(host: str) -> str | Sequence[str]:
    """Returns the addresses to bind for a host by default."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return (_LOOPBACK, "::1") if host == "localhost" else "0.0.0.0"
    return host
