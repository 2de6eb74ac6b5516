"""Examines a connection to a node step by step, to find out why it fails.

    async for finding in examine("5555@127.0.0.1", Settings(cookie="secret")):
        print(finding.step.value, finding.text)

No node is started and nothing is stored. The steps run the same code as a node.
"""

from __future__ import annotations

import datetime
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from quicdist.carriers import causes, epmd, tcp
from quicdist.carriers.base import Connection, DialError, PathKind
from quicdist.carriers.polling import poll_until
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.settings import QuicOptions, QuicSettings
from quicdist.carriers.relay.client import RelayClient, RelayStatus
from quicdist.carriers.relay.direct import open_with_direct_paths
from quicdist.carriers.relay.frames import ALPN as RELAY_ALPN
from quicdist.carriers.trust import CertificateError, Credentials, Identity, Trust
from quicdist.carriers.trust.names import Certificates, fingerprint
from quicdist.carriers.trust.verifiers import RecordingVerifier
from quicdist.cluster.carrier import Transport, TransportAddress
from quicdist.cluster.cookie import find_cookie
from quicdist.cluster.lookup import DEFAULT_LOOKUPS, Lookup, NotFound, cause_of, facing_found
from quicdist.cluster.names import Address, NodeName, facing
from quicdist.cluster.relays import open_via
from quicdist.cluster.via import Relays, temporary_name
from quicdist.cluster.whereabouts import Whereabouts
from quicdist.doctor import nat
from quicdist.doctor.diagnosis import DIAGNOSES, Diagnosis, stopped
from quicdist.doctor.findings import Finding, Step, Stopped, Trouble
from quicdist.doctor.handshake_recorder import HandshakeRecorder
from quicdist.doctor.port import Answer, ask
from quicdist.doctor.relay import RelayConnection
from quicdist.errors import Cause, NodeNameError, StartError
from quicdist.protocol.flags import DEFAULT_FLAGS
from quicdist.protocol.handshake import LocalNode
from quicdist.runtime.identifiers import new_creation

__all__ = ["Finding", "Settings", "Step", "Stopped", "Trouble", "examine"]


_SEARCH = 5.0
"""Seconds to wait for a direct path to a relayed node. Pings are sent for 4 s."""

_OBSERVE_TIME = 2.0
"""Seconds for the answer with the observed address."""

_FIND_TIME = 2.0
"""Seconds to find the address of a node again, to choose the own address that routes to it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the examining node. Times are in seconds."""

    cookie: str | None = None
    """The cookie, by default that of ~/.erlang.cookie."""

    name: str | None = None
    """The name to use, by default a free port of the address that is used to reach the node."""

    identity: Identity | None = None
    """By default the stored key of this machine, which other nodes may know or have pinned."""

    trust: Trust = field(default_factory=Trust.first_use)
    lookups: tuple[Lookup, ...] = DEFAULT_LOOKUPS

    timeout: float = 5.0
    """The limit for each step."""

    tick: float = 20.0
    """The limit for a first frame after the handshake. OTP sends a tick every 15 s."""

    via: Relays = ()
    """The relays through which this node connects, in a network that lets out no UDP."""

    observers: tuple[str, ...] = ()
    """Further quicdist nodes, or relays, that tell the address at which they observe this host."""


async def examine(node: str, settings: Settings) -> AsyncIterator[Finding]:
    """Yields a finding for each step that succeeds.

    Raises Stopped at the first step that fails, and NodeNameError, CookieError, StartError or
    CertificateError for errors in the settings.
    """
    place, where = await _find(node, settings)
    yield Finding(Step.NAME, where)
    if place.transport is Transport.TCP:
        cookie = find_cookie(settings.cookie)
        connection = await _dial_tcp(place, settings)
        yield Finding(Step.PORT, f"TCP {place.host}:{place.port} answers")
        name = settings.name or _own_name_for(node)
        async for finding in _examine_node(connection, name, node, cookie, settings, _TCP_SILENCE):
            yield finding
        return
    looking = RecordingVerifier()
    answer = Answer.NOTHING
    if not settings.via:
        answer = await _ask_port(place, Whereabouts().doubt(node, place.host))
    if answer is Answer.QUIC:
        yield Finding(Step.PORT, f"UDP {place.host}:{place.port} answers: {answer.value}")
    endpoint, name, relay_client = await _endpoint(node, settings, looking)
    try:
        if relay_client is not None:
            yield Finding(Step.PORT, _describe_way(relay_client.status()))
        try:
            connection = await _dial_quic(endpoint, place, node, settings, answer)
        except Stopped as end:
            relay = (
                await _dial_relay(endpoint, place, node, settings)
                if end.cause is Cause.ALPN
                else None
            )
            if relay is None:
                raise
            seen: dict[str, nat.Address | None] = {}
            async for finding in _examine_relay(relay, node, settings, looking, seen):
                yield finding
            yield await _path_to(endpoint, name, seen, settings)
            return
        cookie = find_cookie(settings.cookie)  # a relay needs none
        traits = connection.traits
        yield Finding(Step.TLS, f"TLS 1.3, ALPN {traits.alpn} ({traits.name})")
        yield Finding(Step.CERTIFICATE, _describe_certificate(node, looking.seen, settings.trust))
        seen = {}
        async for finding in _examine_node(
            connection, name, node, cookie, settings, _QUIC_SILENCE, seen
        ):
            yield finding
        if relay_client is None:
            yield await _path_to(endpoint, name, seen, settings)
    finally:
        await endpoint.close()
        if relay_client is not None:
            relay_client.close()


# -- name, port ----------------------------------------------------------------------------------


async def _find(node: str, settings: Settings) -> tuple[TransportAddress, str]:
    try:
        name = NodeName.parse(node)
    except NodeNameError as error:
        raise stopped(Cause.NAME, str(error)) from error
    answers = []
    for lookup in settings.lookups:
        try:
            place = (await lookup.find(name, settings.timeout))[0]
        except NotFound as error:
            answers.append(error)
        else:
            kind = "UDP" if place.transport is Transport.QUIC else "TCP"
            return place, f"{node} is at {kind} {place.host}:{place.port}"
    raise stopped(cause_of(answers), "; ".join(map(str, answers)))


async def _ask_port(place: TransportAddress, doubt: str | None) -> Answer:
    where = f"UDP {place.host}:{place.port}"
    try:
        answer = await ask(place.host, place.port)
    except OSError as error:
        text = f"{place.host}: {error.strerror or error}"
        cause = causes.of_error(error)
        if doubt is not None and cause is Cause.UNREACHABLE:
            raise stopped(Cause.BEHIND_NAT, f"{text}: {doubt}") from error
        raise _at_port(cause, text) from error
    if doubt is not None and answer is Answer.NOTHING:
        raise stopped(Cause.BEHIND_NAT, f"{where} does not answer: {doubt}")
    if answer is Answer.NOBODY:
        text = f"{where}: the port is closed"
        raise stopped(Cause.PORT_CLOSED, text)
    if answer is Answer.OTHER:
        advice = "another program uses the port: see `ss -ulpn` there"
        other = Diagnosis(Step.PORT, Trouble.UNREACHABLE, advice)
        raise other.stopped(Cause.CARRIER, f"{where}: {answer.value}")
    return answer  # no answer is not an error: some carriers do not answer this question


async def _dial_tcp(place: TransportAddress, settings: Settings) -> Connection:
    try:
        return await tcp.dial(place.host, place.port, timeout=settings.timeout)
    except OSError as error:
        text = f"TCP {place.host}:{place.port}: {epmd.why(error)}"
        raise _TCP_BLOCKED.stopped(causes.of_error(error), text) from error


_TCP_BLOCKED = Diagnosis(
    Step.PORT,
    Trouble.UNREACHABLE,
    "the node is registered with EPMD, so it runs: a firewall blocks the port, or the node listens "
    "on another address (inet_dist_use_interface)",
)


def _at_port(cause: Cause, text: str) -> Stopped:
    """Assigns an error of the socket to this step, since nothing was sent yet."""
    known = DIAGNOSES.get(cause)
    if known is not None and known.step is Step.PORT:
        return known.stopped(cause, text)
    return replace(DIAGNOSES[Cause.UNREACHABLE], step=Step.PORT).stopped(cause, text)


def _own_name_for(node: str) -> str:
    """Returns an unused name, with a free port."""
    own = Address.parse(facing(node))
    family = socket.AF_INET6 if ":" in own.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as free:
        free.bind((own.host, 0))
        return Address(own.host, free.getsockname()[1]).name()


# -- TLS -----------------------------------------------------------------------------------------


async def _endpoint(
    node: str, settings: Settings, looking: RecordingVerifier
) -> tuple[Endpoint, str, RelayClient | None]:
    """Opens an endpoint. Raises NodeNameError, StartError, CertificateError, Stopped."""
    if settings.via:
        return await _relayed_endpoint(settings, looking)
    own = Address.parse(settings.name or await facing_found(node, settings.lookups, _FIND_TIME))
    # As in a node: peers remember a name in a certificate, so a temporary name must not be in it.
    hosts = [own.host] if own.port else []
    credentials = Credentials(settings.identity, Trust.nothing(), hosts)
    credentials.verifier = looking
    quic = QuicSettings(credentials)
    try:
        endpoint = await open_with_direct_paths(
            quic.path,
            lambda bind: Endpoint.open(own.host, own.port, settings=quic, accept=None, bind=bind),
        )
    except OSError as error:
        text = f"{own.host}:{own.port}, the address in this node's name: {error.strerror or error}"
        raise StartError(text, causes.of_error(error)) from error
    return endpoint, Address(own.host, endpoint.local_address[1]).name(), None


async def _relayed_endpoint(
    settings: Settings, looking: RecordingVerifier
) -> tuple[Endpoint, str, RelayClient]:
    """Opens an endpoint with a port at a relay, a temporary one unless the name asks for one.

    Raises NodeNameError, CertificateError, Stopped.
    """
    own = Address.parse(settings.name or temporary_name(settings.via))
    # The relay is verified; the node is examined.
    credentials = Credentials(settings.identity, settings.trust)
    try:
        relayed = await open_via(
            settings.via,
            credentials,
            asked=own,
            listen=None,
            timeout=settings.timeout,
            options=QuicOptions(),
            open_endpoint=lambda host, port, bind: Endpoint.open(
                host, port, settings=QuicSettings(credentials), accept=None, bind=bind
            ),
        )
    except DialError as error:
        raise _NO_RELAY.stopped(error.cause, str(error)) from error
    credentials.verifier = looking
    return relayed.endpoint, relayed.address.name(), relayed.client


def _describe_way(status: RelayStatus) -> str:
    if status.way == "udp":
        return f"the relay {status.relay} answers over UDP: this network lets out UDP"
    return f"the relay {status.relay} answers over TCP: this network lets out no UDP to it"


_NO_RELAY = Diagnosis(
    Step.PORT,
    Trouble.UNREACHABLE,
    "check the address in --via, and that the relay runs with --tcp if this network lets out no "
    "UDP. `quicdist doctor RELAY` examines the relay over UDP",
)


async def _dial_quic(
    endpoint: Endpoint, place: TransportAddress, node: str, settings: Settings, answer: Answer
) -> Connection:
    try:
        return await endpoint.dial(place.host, place.port, node=node, timeout=settings.timeout)
    except DialError as error:
        raise _why_no_tls(error, place, answer) from error


async def _dial_relay(
    endpoint: Endpoint, place: TransportAddress, node: str, settings: Settings
) -> Connection | None:
    """Returns a connection to the relay at the address; None if there is none."""
    try:
        return await endpoint.dial(
            place.host, place.port, node=node, alpns=(RELAY_ALPN,), timeout=settings.timeout
        )
    except DialError:
        return None


async def _examine_relay(
    connection: Connection,
    node: str,
    settings: Settings,
    looking: RecordingVerifier,
    seen: dict[str, nat.Address | None],
) -> AsyncIterator[Finding]:
    """Examines a relay. The address at which it sees this host is added to `seen`."""
    link = RelayConnection(connection)
    yield Finding(Step.TLS, f"TLS 1.3, ALPN {RELAY_ALPN}: this is a relay, not a node")
    yield Finding(Step.CERTIFICATE, _describe_certificate(node, looking.seen, settings.trust))
    begun = time.monotonic()
    try:
        seen[node] = await link.observed(settings.timeout)
    except (TimeoutError, ConnectionError) as error:
        text = f"the relay does not answer: {error}" if str(error) else "the relay does not answer"
        raise _RELAY_SILENT.stopped(Cause.NO_ANSWER, text) from None
    finally:
        connection.close("examined")
    yield Finding(Step.RELAY, f"the relay answers after {time.monotonic() - begun:.3f} s")


_RELAY_SILENT = Diagnosis(Step.RELAY, Trouble.SILENT, "see the log of the relay")


def _why_no_tls(error: DialError, place: TransportAddress, answer: Answer) -> Stopped:
    if error.cause is not Cause.NO_ANSWER:
        return stopped(error.cause, str(error))
    if answer is Answer.QUIC:
        return _TLS_SILENT.stopped(error.cause, str(error))
    where = f"UDP {place.host}:{place.port}"
    advice = (
        "a firewall drops the packets, the host is down, the address is wrong, or the program on "
        f"the port hangs; `tcpdump udp port {place.port}` there shows whether packets arrive. If "
        "this network lets out no UDP and a relay names the node, --via RELAY connects over TCP 443"
    )
    silent = Diagnosis(Step.PORT, Trouble.UNREACHABLE, advice)
    return silent.stopped(error.cause, f"{where} does not answer: {error}")


_TLS_SILENT = Diagnosis(
    Step.TLS,
    Trouble.UNREACHABLE,
    "the port answers, but the TLS handshake does not complete: the node may be overloaded, or "
    "datagrams of 1200 bytes are lost in one direction",
)


def _describe_certificate(node: str, certificates: Certificates, trust: Trust) -> str:
    """Describes the certificate of the node. Raises Stopped if it is not trusted."""
    if not certificates:
        return "the node presents no certificate"
    own = certificates[0]
    ends = own.not_valid_after_utc
    now = datetime.datetime.now(datetime.UTC)
    if not own.not_valid_before_utc <= now <= ends:
        advice = "issue a new certificate (`quicdist cert issue`), and compare the clocks"
        begins = own.not_valid_before_utc
        raise Diagnosis(Step.CERTIFICATE, Trouble.REFUSED, advice).stopped(
            Cause.CERTIFICATE_THEIRS,
            f"the certificate is valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}",
        )
    try:
        trust.verifier().verify_dialed(node, certificates)
    except CertificateError as error:
        raise stopped(error.cause, str(error)) from error
    return f"{fingerprint(own)}, valid until {ends:%Y-%m-%d}; {trust.describe()}"


# -- the node ------------------------------------------------------------------------------------


_QUIC_SILENCE = (
    "the port is open, but no node answers: check whether the BEAM node of the gateway runs or is "
    "suspended"
)
_TCP_SILENCE = (
    "the port is open, but no node answers: check whether the BEAM node is suspended or expects "
    "TLS (-proto_dist inet_tls)"
)


async def _examine_node(
    connection: Connection,
    name: str,
    node: str,
    cookie: str,
    settings: Settings,
    silence: str,
    seen: dict[str, nat.Address | None] | None = None,
) -> AsyncIterator[Finding]:
    """Examines the handshake, the cookie and the node behind a connection.

    `silence` is the advice if the node does not answer the name message. The observed address is
    added to `seen`; a relayed node observes none of this host.
    """
    recorder = HandshakeRecorder(
        connection, LocalNode(name, new_creation(), DEFAULT_FLAGS, cookie), node
    )
    recorder.begin()
    try:
        await recorder.until(lambda: recorder.is_up, settings.timeout)
        if not recorder.is_up:
            end = _why_no_node(recorder, settings.timeout, silence)
            if end.step is Step.COOKIE:
                yield Finding(Step.HANDSHAKE, f"the node does not reject the name {name}")
            raise end
        peer = recorder.session.peer
        yield Finding(
            Step.HANDSHAKE, f"{peer.name} accepts {name}; its creation is {peer.creation}"
        )
        yield Finding(Step.COOKIE, "the cookies are equal")
        begun = time.monotonic()
        recorder.ask()
        if not await recorder.until(lambda: recorder.frames > 0, settings.tick):
            what = (
                f"the connection was lost: {recorder.lost.text}"
                if recorder.lost
                else "nothing was received"
            )
            text = f"{what}, within {settings.tick:g} s after the handshake"
            raise stopped(Cause.TICK_TIMEOUT, text)
        yield Finding(Step.TICK, f"the node answers after {time.monotonic() - begun:.3f} s")
        if connection.statistics().path is not PathKind.PLAIN:
            yield Finding(Step.DIRECT, await _path_of(connection, settings))
        if seen is not None:
            seen[node] = await recorder.observe(_OBSERVE_TIME)
    finally:
        connection.close("examined")


async def _path_of(connection: Connection, settings: Settings) -> str:
    """Describes the path to a relayed node, after the time that a search takes."""
    seconds = min(_SEARCH, settings.timeout)
    if await poll_until(lambda: connection.statistics().path is PathKind.DIRECT, seconds):
        return "the node is behind a relay, and a direct path to it was found"
    return (
        f"the relay carries the datagrams: no direct path was found in {seconds:g} s. A public "
        "address, a forwarded UDP port or IPv6 on one of the two sides makes one possible"
    )


async def _path_to(
    endpoint: Endpoint, name: str, seen: dict[str, nat.Address | None], settings: Settings
) -> Finding:
    """Describes the path, by what was seen and what the observers see. Raises CookieError."""
    for observer in settings.observers:
        seen[observer] = await _observe(endpoint, name, observer, settings)
    return Finding(Step.PATH, nat.describe(endpoint.local_address, seen))


async def _observe(
    endpoint: Endpoint, name: str, observer: str, settings: Settings
) -> nat.Address | None:
    """Returns the address at which another node or a relay observes the endpoint.

    None if it does not tell. Raises CookieError.
    """
    timeout = settings.timeout
    try:
        place = (await _find(observer, settings))[0]
        connection = await endpoint.dial(place.host, place.port, node=observer, timeout=timeout)
    except Stopped:
        return None
    except DialError as error:
        return await _observe_at_relay(endpoint, place, observer, settings, error)
    local = LocalNode(name, new_creation(), DEFAULT_FLAGS, find_cookie(settings.cookie))
    recorder = HandshakeRecorder(connection, local, observer)
    recorder.begin()
    try:
        await recorder.until(lambda: recorder.is_up, timeout)
        return await recorder.observe(_OBSERVE_TIME) if recorder.is_up else None
    finally:
        connection.close("observed")


async def _observe_at_relay(
    endpoint: Endpoint,
    place: TransportAddress,
    observer: str,
    settings: Settings,
    error: DialError,
) -> nat.Address | None:
    """Asks an observer that speaks no ALPN of nodes whether it is a relay."""
    if error.cause is not Cause.ALPN:
        return None
    connection = await _dial_relay(endpoint, place, observer, settings)
    if connection is None:
        return None
    try:
        return await RelayConnection(connection).observed(_OBSERVE_TIME)
    except (TimeoutError, ConnectionError):
        return None
    finally:
        connection.close("observed")


def _why_no_node(recorder: HandshakeRecorder, timeout: float, silence: str) -> Stopped:
    if recorder.error is not None:
        return stopped(recorder.error.cause, str(recorder.error))
    text = recorder.lost.text if recorder.lost else f"no answer within {timeout:g} s"
    if recorder.session.awaits_ack:
        text = f"the node closed the connection or stopped answering after the digest: {text}"
        return stopped(Cause.COOKIE, text)
    cause = recorder.lost.cause if recorder.lost else Cause.HANDSHAKE_TIMEOUT
    if not recorder.has_answered:
        silent = Diagnosis(Step.HANDSHAKE, Trouble.UNREACHABLE, silence)
        return silent.stopped(cause, f"the node does not answer the name message: {text}")
    half_way = Diagnosis(Step.HANDSHAKE, Trouble.UNREACHABLE, "see the log of that node")
    return half_way.stopped(cause, f"the handshake stopped before its end: {text}")
