"""Why is there no connection to that node? Each step on the way to it, one after another.

    async for finding in examine("5555@127.0.0.1", Settings(cookie="secret")):
        print(finding.step.value, finding.text)

Nothing is kept, and no node is started: what is found is found by the same code that a node runs.
"""

from __future__ import annotations

import datetime
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from quicdist.carriers import epmd, tcp
from quicdist.carriers.base import Connection, DialError
from quicdist.carriers.quic.endpoint import Endpoint
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.trust import CertificateError, Credentials, Identity, Trust
from quicdist.carriers.trust.names import Certificates, fingerprint
from quicdist.carriers.trust.verifiers import RecordingVerifier
from quicdist.cluster.carrier import Transport, TransportAddress
from quicdist.cluster.cookie import find_cookie
from quicdist.cluster.lookup import DEFAULT_LOOKUPS, Lookup, NotFound
from quicdist.cluster.names import Address, NodeName, facing
from quicdist.doctor.findings import Finding, Step, Stopped, Trouble
from quicdist.doctor.link import Link
from quicdist.doctor.port import Answer, ask
from quicdist.errors import NodeNameError, StartError
from quicdist.protocol.errors import HandshakeRefused, WrongCookie
from quicdist.protocol.flags import DEFAULT_FLAGS
from quicdist.protocol.handshake import LocalNode
from quicdist.runtime.identifiers import new_creation

__all__ = ["Finding", "Settings", "Step", "Stopped", "Trouble", "examine"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Who examines. Times in seconds."""

    cookie: str | None = None
    """By default that in ~/.erlang.cookie."""

    name: str | None = None
    """Ours, by default a free port of the address that faces the node."""

    identity: Identity | None = None
    """By default the one that is kept for nodes here: others may know it, or have pinned it."""

    trust: Trust = field(default_factory=Trust.first_use)
    lookups: tuple[Lookup, ...] = DEFAULT_LOOKUPS

    timeout: float = 5.0
    """For each step."""

    tick: float = 20.0
    """For a first sign of life after the handshake: OTP ticks every 15 s, and answers at once."""


async def examine(node: str, settings: Settings) -> AsyncIterator[Finding]:
    """What is found at each step, up to the last. Raises Stopped at the first that fails, and
    NodeNameError, CookieError, StartError, CertificateError for what is our own."""
    cookie = find_cookie(settings.cookie)
    place, where = await _find(node, settings)
    yield Finding(Step.NAME, where)
    if place.transport is Transport.TCP:
        connection = await _dial_tcp(place, settings)
        yield Finding(Step.PORT, f"TCP {place.host}:{place.port} answers")
        name = settings.name or _passing_name(node)
        async for finding in _examine_node(connection, name, node, cookie, settings, _TCP_SILENCE):
            yield finding
        return
    answer = await _ask_port(place)
    if answer is Answer.QUIC:
        yield Finding(Step.PORT, f"UDP {place.host}:{place.port} answers: {answer.value}")
    looking = RecordingVerifier()
    endpoint, name = await _endpoint(node, settings, looking)
    try:
        connection = await _dial_quic(endpoint, place, node, settings, answer)
        traits = connection.traits
        yield Finding(Step.TLS, f"TLS 1.3 is done; the ALPN is {traits.alpn} ({traits.name})")
        yield Finding(Step.CERTIFICATE, _judge(node, looking.seen, settings.trust))
        async for finding in _examine_node(connection, name, node, cookie, settings, _QUIC_SILENCE):
            yield finding
    finally:
        await endpoint.close()


# -- name, port ----------------------------------------------------------------------------------


async def _find(node: str, settings: Settings) -> tuple[TransportAddress, str]:
    try:
        name = NodeName.parse(node)
    except NodeNameError as error:
        raise Stopped(
            Step.NAME, Trouble.NAME, str(error), "give the name as it stands in nodes()"
        ) from None
    answers = []
    for lookup in settings.lookups:
        try:
            place = (await lookup.find(name, settings.timeout))[0]
        except NotFound as error:
            answers.append(str(error))
        else:
            kind = "UDP" if place.transport is Transport.QUIC else "TCP"
            return place, f"{node} is at {kind} {place.host}:{place.port}"
    raise Stopped(
        Step.NAME,
        Trouble.UNREACHABLE,
        "; ".join(answers),
        "does it run? a node on QUIC is called PORT@IP; one on TCP is found by the EPMD of its "
        "host, which `quicdist names HOST` asks",
    )


async def _ask_port(place: TransportAddress) -> Answer:
    where = f"UDP {place.host}:{place.port}"
    try:
        answer = await ask(place.host, place.port)
    except OSError as error:
        text = f"{place.host}: {error.strerror or error}"
        advice = "is the host in its name right, and known to DNS here?"
        raise Stopped(Step.PORT, Trouble.UNREACHABLE, text, advice) from None
    if answer is Answer.NOBODY:
        raise Stopped(
            Step.PORT,
            Trouble.UNREACHABLE,
            f"{where}: the host says that nobody listens there",
            "start the node, or its gateway; does it listen at this address, and at this port?",
        )
    if answer is Answer.OTHER:
        raise Stopped(
            Step.PORT,
            Trouble.UNREACHABLE,
            f"{where}: {answer.value}",
            "another program has the port: see `ss -ulpn` there",
        )
    return answer  # silence proves nothing: not every carrier answers this question


async def _dial_tcp(place: TransportAddress, settings: Settings) -> Connection:
    try:
        return await tcp.dial(place.host, place.port, timeout=settings.timeout)
    except OSError as error:
        raise Stopped(
            Step.PORT,
            Trouble.UNREACHABLE,
            f"TCP {place.host}:{place.port}: {epmd.why(error)}",
            "EPMD knows the node, so it runs: a firewall is between, or it listens at another "
            "address (inet_dist_use_interface)",
        ) from None


def _passing_name(node: str) -> str:
    """A name that nobody has: that of a free port, as our commands take one."""
    own = Address.parse(facing(node))
    family = socket.AF_INET6 if ":" in own.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as free:
        free.bind((own.host, 0))
        return Address(own.host, free.getsockname()[1]).name()


# -- TLS -----------------------------------------------------------------------------------------


async def _endpoint(
    node: str, settings: Settings, looking: RecordingVerifier
) -> tuple[Endpoint, str]:
    """A port of our own, and our name by it. Raises NodeNameError, StartError, CertificateError."""
    own = Address.parse(settings.name or facing(node))
    # As a node does: a certificate that claims a name met once would be remembered for it.
    hosts = [own.host] if own.port else []
    credentials = Credentials(settings.identity, Trust.nothing(), hosts)
    credentials.verifier = looking
    quic = QuicSettings(credentials)
    try:
        endpoint = await Endpoint.open(own.host, own.port, settings=quic, accept=None)
    except OSError as error:
        text = f"{own.host}:{own.port}, which our name says: {error.strerror or error}"
        raise StartError(text) from None
    return endpoint, Address(own.host, endpoint.local_address[1]).name()


async def _dial_quic(
    endpoint: Endpoint, place: TransportAddress, node: str, settings: Settings, answer: Answer
) -> Connection:
    try:
        return await endpoint.dial(place.host, place.port, node=node, timeout=settings.timeout)
    except DialError as error:
        raise _why_no_tls(str(error), place, answer) from None


def _why_no_tls(text: str, place: TransportAddress, answer: Answer) -> Stopped:
    # The alert of RFC 7301; older versions of aioquic send another, and says so in words.
    if "no application protocol" in text or "ALPN" in text:
        return Stopped(
            Step.TLS,
            Trouble.REFUSED,
            text,
            "it speaks QUIC, and none of our ALPNs: it is no Erlang node, or its carrier is newer",
        )
    if "certificate" in text or "access denied" in text or "unknown ca" in text:
        return Stopped(
            Step.CERTIFICATE,
            Trouble.REFUSED,
            text,
            "it does not believe us: give the certificate that it does with --cert and --key, or "
            "have it let us in (--allow-uncertified, --trust there)",
        )
    if answer is Answer.QUIC:
        return Stopped(
            Step.TLS,
            Trouble.UNREACHABLE,
            text,
            "the port answers and the TLS handshake does not: it may be overloaded, or datagrams "
            "of 1200 bytes do not pass both ways",
        )
    return Stopped(
        Step.PORT,
        Trouble.UNREACHABLE,
        f"UDP {place.host}:{place.port} swallows what is sent there: {text}",
        "a firewall drops it, the host is down, its address is another, or the program that has "
        f"the port hangs; `tcpdump udp port {place.port}` there shows whether anything arrives",
    )


def _judge(node: str, certificates: Certificates, trust: Trust) -> str:
    """What is presented, if we believe it. Raises Stopped."""
    if not certificates:
        return "it presents none"
    own = certificates[0]
    ends = own.not_valid_after_utc
    now = datetime.datetime.now(datetime.UTC)
    if not own.not_valid_before_utc <= now <= ends:
        raise Stopped(
            Step.CERTIFICATE,
            Trouble.REFUSED,
            f"its certificate is good from {own.not_valid_before_utc:%Y-%m-%d} to {ends:%Y-%m-%d}",
            "issue it another (`quicdist cert issue`), and compare the clocks",
        )
    try:
        trust.verifier().dialed(node, certificates)
    except CertificateError as error:
        raise Stopped(
            Step.CERTIFICATE,
            Trouble.REFUSED,
            str(error),
            "`quicdist cert peer` shows what it presents; --trust says what we believe",
        ) from None
    return f"{fingerprint(own)}, good until {ends:%Y-%m-%d}; {trust.describe()}"


# -- the node ------------------------------------------------------------------------------------


_QUIC_SILENCE = (
    "the port is there and no node behind it: does the BEAM next to its gateway run, or is it "
    "suspended?"
)
_TCP_SILENCE = (
    "the port is there and no node behind it: is the BEAM suspended, or does it expect TLS "
    "(-proto_dist inet_tls)?"
)


async def _examine_node(
    connection: Connection, name: str, node: str, cookie: str, settings: Settings, silence: str
) -> AsyncIterator[Finding]:
    """`silence` is what it may mean that our name is not answered."""
    link = Link(connection, LocalNode(name, new_creation(), DEFAULT_FLAGS, cookie), node)
    link.begin()
    try:
        await link.until(lambda: link.is_up, settings.timeout)
        if not link.is_up:
            stopped = _why_no_node(link, settings.timeout, silence)
            if stopped.step is Step.COOKIE:
                yield Finding(Step.HANDSHAKE, f"it does not refuse {name}, which is our name")
            raise stopped
        peer = link.session.peer
        yield Finding(
            Step.HANDSHAKE, f"{peer.name} takes us as {name}; its creation {peer.creation}"
        )
        yield Finding(Step.COOKIE, "it is the same")
        begun = time.monotonic()
        link.ask()
        if not await link.until(lambda: link.frames > 0, settings.tick):
            what = f"the connection was lost: {link.lost}" if link.lost else "it says nothing"
            raise Stopped(
                Step.TICK,
                Trouble.SILENT,
                f"{what}, for {settings.tick:g} s after the handshake",
                "its network process lives, its node does not answer: look for a blocked or "
                "suspended VM; peers take it for down after net_ticktime",
            )
        yield Finding(Step.TICK, f"it says something {time.monotonic() - begun:.3f} s later")
    finally:
        connection.close("examined")


def _why_no_node(link: Link, timeout: float, silence: str) -> Stopped:
    text = str(link.error or link.lost or f"no answer within {timeout:g} s")
    is_judged = link.error is None and link.session.is_judged
    if isinstance(link.error, WrongCookie) or is_judged:
        return Stopped(
            Step.COOKIE,
            Trouble.REFUSED,
            f"it went silent or away when it saw our digest: {text}" if is_judged else text,
            "its cookie is another: give the cluster's with --cookie or QUICDIST_COOKIE, and "
            "compare erlang:get_cookie() there",
        )
    if isinstance(link.error, HandshakeRefused):
        return Stopped(
            Step.HANDSHAKE,
            Trouble.REFUSED,
            text,
            "the two do not want each other: it has another name than was given, or it does not "
            "take ours (our certificate is for another, net_kernel:allow/1, --accept, a policy, a "
            "connection under that name): its log says which",
        )
    if link.error is not None:
        return Stopped(
            Step.HANDSHAKE,
            Trouble.UNREACHABLE,
            text,
            "what is there is no Erlang node, or another one than the name says",
        )
    if not link.has_answered:
        return Stopped(
            Step.HANDSHAKE, Trouble.UNREACHABLE, f"our name was not answered: {text}", silence
        )
    return Stopped(
        Step.HANDSHAKE,
        Trouble.UNREACHABLE,
        f"it stopped half way: {text}",
        "see the log of that node",
    )
