"""Options and arguments that several subcommands share, alone and in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from quicdist.cli.exit_codes import ExitCode, Problem

if TYPE_CHECKING:
    from quicdist.carriers.quic.tracing import Tracing
    from quicdist.carriers.trust import Identity, Trust
    from quicdist.cluster.access import Access
    from quicdist.cluster.lan import Lan
    from quicdist.cluster.lookup import Lookup
    from quicdist.cluster.policy import Policy

PeerNode = Annotated[
    str,
    typer.Argument(
        metavar="NODE",
        help="The node: its UDP port and address, such as 5555@127.0.0.1, or its name in the "
        "EPMD of its host, such as rabbit@host1.",
        show_default=False,
    ),
]
Cookie = Annotated[
    str | None,
    typer.Option(
        "--cookie",
        envvar="QUICDIST_COOKIE",
        metavar="COOKIE",
        help="The cookie of the cluster; by default from ~/.erlang.cookie. Other users of this "
        "machine can see the command line.",
        show_default=False,
    ),
]
OwnName = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="The name of this node, PORT@IP or NAME@HOST; by default a free port of the "
        "address that is used to reach NODE.",
        show_default=False,
    ),
]
MOST_SECONDS = 4_294_967
"""The largest timeout of Erlang in seconds, the maximum of options."""

Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", min=0.001, max=MOST_SECONDS, metavar="SECONDS", help="The time limit."
    ),
]
Lookups = Annotated[
    list[str] | None,
    typer.Option(
        "--lookup",
        metavar="WHERE",
        help="How addresses of nodes are found: `name` (from port@ip), `epmd` or `epmd:PORT`, "
        "`dns` or `dns:SERVER` (SRV records), `lan` (multicast DNS; NODE may then be a short "
        "name), or one address, NODE=quic:HOST:PORT or NODE=tcp:HOST:PORT. May be repeated; "
        "tried in that order. By default `name`, then `epmd`.",
        show_default=False,
    ),
]
LanName = Annotated[
    str | None,
    typer.Option(
        "--lan",
        metavar="NAME",
        help="Announce the node in the local network with this short name, by multicast DNS, and "
        "find other nodes there. Requires the extra `lan`.",
        show_default=False,
    ),
]
Trusted = Annotated[
    str,
    typer.Option(
        "--trust",
        "--ca",
        metavar="HOW",
        help="How peers are verified: `first-use` accepts the key of the first connection to a "
        "node and rejects other keys later; FILE has certificates of authorities (PEM); "
        "`pins:FILE` has a node name and a fingerprint in each line; `none` accepts every peer.",
    ),
]
AllowUncertified = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-uncertified",
        "--let-in",
        metavar="NODES",
        help="Nodes that may connect without a certificate, with the cookie alone: a name, or a "
        "pattern such as '*@10.0.0.7'. May be repeated. `--let-in` is the old name.",
        show_default=False,
    ),
]
Crl = Annotated[
    Path | None,
    typer.Option(
        "--crl",
        metavar="FILE",
        help="Certificates that the authorities of --ca have revoked (PEM), as `cert revoke` "
        "writes it. Read again when it changes.",
        show_default=False,
    ),
]
CookieFile = Annotated[
    Path | None,
    typer.Option(
        "--cookie-file",
        metavar="FILE",
        help="A file of cookies, one per line. The first is used for own connections, all are "
        "accepted. SIGHUP reloads it.",
        show_default=False,
    ),
]
RequireTls = Annotated[
    bool,
    typer.Option(
        "--require-tls",
        help="Refuse unencrypted connections: TCP only with TLS, and no embedded EPMD.",
    ),
]
RequireBinding = Annotated[
    bool,
    typer.Option(
        "--require-binding",
        help="Refuse peers that do not bind the proof of the cookie to the TLS session. Only "
        "quicdist nodes over QUIC do; stock nodes and gateways do not.",
    ),
]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        "--accept",
        metavar="NODES",
        help="Nodes that may connect: a name, or a pattern such as '*@10.0.0.7'; by default all. "
        "May be repeated.",
        show_default=False,
    ),
]
Dial = Annotated[
    list[str] | None,
    typer.Option(
        "--dial",
        metavar="NODES",
        help="Nodes that this node may connect to: a name, or a pattern; by default all. May be "
        "repeated.",
        show_default=False,
    ),
]
Calls = Annotated[
    list[str] | None,
    typer.Option(
        "--calls",
        metavar="NODES=M:F",
        help="Exported functions that nodes may call, such as '*@10.0.0.7=calc:add' or "
        "'4433@10.0.0.8=*'; by default all nodes may call all. May be repeated.",
        show_default=False,
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--cert",
        metavar="FILE",
        help="The certificate of this node (PEM); by default one that is made at the first start.",
        show_default=False,
    ),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="The key of --cert (PEM), if it is not in the same file.",
        show_default=False,
    ),
]
KeyPassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--key-passphrase-file",
        metavar="FILE",
        help="The passphrase of an encrypted --key: the first line of this file.",
        show_default=False,
    ),
]
PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="The permissions of peers, in TOML. Without it every node with the cookie may do "
        "everything. SIGHUP reloads it.",
        show_default=False,
    ),
]
AuditLog = Annotated[
    bool,
    typer.Option(
        "--audit",
        help="Log each call and each refusal, with the peer and the time taken, to the logger "
        "quicdist.audit.",
    ),
]
Listen = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="IP:PORT",
        help="The address to bind if it is not that of the name: behind a NAT, in a container.",
        show_default=False,
    ),
]
ViaRelay = Annotated[
    list[str] | None,
    typer.Option(
        "--via",
        metavar="RELAY",
        help="A relay for a node behind a NAT: PORT@HOST, PORT@HOST/TCPPORT or a domain with SRV "
        "records. The node is called PORT@HOST of the relay, and others can dial it. May be "
        "repeated; the first that answers is used.",
        show_default=False,
    ),
]
DialVia = Annotated[
    list[str] | None,
    typer.Option(
        "--via",
        metavar="RELAY",
        help="Connect through a relay, for a network that lets out TCP 443 but not UDP: "
        "PORT@HOST, or PORT@HOST/TCPPORT. NODE is then one that this relay names. The command gets "
        "a temporary port there; the ports of nodes with the same key are not affected. May be "
        "repeated; the first that answers is used.",
        show_default=False,
    ),
]
DirectPath = Annotated[
    str,
    typer.Option(
        "--path",
        metavar="PATH",
        help="Paths to nodes that a relay names: auto, which moves from the relay to a direct path "
        "where possible; direct-only, which closes connections without one; relay-only, which "
        "discloses no address of this node to the other one.",
    ),
]
MapPort = Annotated[
    bool,
    typer.Option(
        "--map-port",
        help="With --via, ask the router by UPnP to forward a UDP port to this node, so that more "
        "paths become direct. Requires the extra `nat`.",
    ),
]
Http = Annotated[
    str | None,
    typer.Option(
        "--http",
        "--prometheus",
        metavar="[IP:]PORT",
        help="Serve /healthz, /readyz and /metrics over HTTP at this address, by default on "
        "127.0.0.1. /metrics needs the extra `prometheus`. `--prometheus` is the old name.",
        show_default=False,
    ),
]
KeyLogFile = Annotated[
    Path | None,
    typer.Option(
        "--key-log",
        metavar="FILE",
        help="Append the TLS keys of every connection to this file, for Wireshark. The keys "
        "decrypt all traffic.",
        show_default=False,
    ),
]
QlogFiles = Annotated[
    Path | None,
    typer.Option(
        "--qlog",
        metavar="DIR",
        help="Write a qlog file with all QUIC packets for each connection.",
        show_default=False,
    ),
]
Visible = Annotated[
    bool,
    typer.Option(
        "--visible", help="Be a visible node, listed by nodes(). By default the node is hidden."
    ),
]
CipherSuites = Annotated[
    list[str] | None,
    typer.Option(
        "--cipher-suite",
        metavar="NAME",
        help="A TLS 1.3 cipher suite that may be used, such as TLS_AES_256_GCM_SHA384; by default "
        "all of the QUIC engine. May be repeated, the preferred one first.",
        show_default=False,
    ),
]
KeyExchanges = Annotated[
    list[str] | None,
    typer.Option(
        "--key-exchange",
        metavar="NAME",
        help="A TLS 1.3 key exchange group that may be used: x25519, secp256r1 or secp384r1; by "
        "default the engine selects. The engine aioquic has no post-quantum group. May be "
        "repeated.",
        show_default=False,
    ),
]
MessagesPerSecond = Annotated[
    float | None,
    typer.Option(
        "--messages-per-second",
        min=0.001,
        max=1_000_000_000,
        metavar="N",
        help="A peer that sends more than N messages and signals in a second on average has to "
        "wait; no message is lost.",
        show_default=False,
    ),
]
CallsPerSecond = Annotated[
    float | None,
    typer.Option(
        "--calls-per-second",
        min=0.001,
        max=1_000_000_000,
        metavar="N",
        help="A peer that makes more than N calls in a second on average has to wait. A gateway "
        "needs --policy for it.",
        show_default=False,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON, one object on one line."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print nothing on success, and log errors only."),
]
LogJson = Annotated[
    bool,
    typer.Option("--log-json", help="Log JSON objects with the fields of each event."),
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        help="Log more to standard error; twice for debug messages.",
        show_default=False,
    ),
]


def start_logging(
    verbose: int, *, quiet: bool = True, as_json: bool = False, audit: bool = False
) -> None:
    """Sends log records to standard error, from the level that the options require."""
    import logging

    from quicdist.cli.jsonlog import JsonFormatter, log_instead_of_printing
    from quicdist.cli.sanitize import SanitizingFormatter

    usual = logging.ERROR if quiet else logging.INFO
    level = {0: usual, 1: logging.INFO}.get(verbose, logging.DEBUG)
    handler = logging.StreamHandler()
    lines = SanitizingFormatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if as_json else lines)
    logging.basicConfig(handlers=[handler])
    if as_json:
        log_instead_of_printing()
    logging.getLogger("quicdist").setLevel(level)
    if audit:
        logging.getLogger("quicdist.audit").setLevel(logging.INFO)
    if verbose < 2:
        logging.getLogger("quic").setLevel(logging.CRITICAL)  # aioquic's own


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How this node and its peers prove who they are."""

    trust: Trusted = "first-use"
    cert: Certificate = None
    key: Key = None
    key_passphrase_file: KeyPassphraseFile = None
    crl: Crl = None

    def trusted(self, uncertified: Sequence[str] | None = None) -> Trust:
        """Returns the trust of --trust, --crl and --allow-uncertified.

        Raises CertificateError, Problem.
        """
        return _trusted(self.trust, uncertified or (), self.crl)

    def identity(self) -> Identity | None:
        """Returns the identity of --cert, --key and --key-passphrase-file, or None for the default.

        Raises CertificateError, Problem.
        """
        from quicdist.carriers.trust import Identity, files

        if self.cert is None:
            if self.key is not None:
                raise Problem(ExitCode.USAGE, "--key requires --cert, the certificate of the key")
            return None
        if self.key_passphrase_file is None:
            return Identity.load(self.cert, self.key)
        _first_line(self.key_passphrase_file)  # report an unusable file also for a plain key
        files.warn_of_exposed(self.key_passphrase_file)
        passphrase = partial(_first_line, self.key_passphrase_file)
        return Identity.load(self.cert, self.key, passphrase=passphrase)


@dataclass(frozen=True, slots=True)
class CookieOptions:
    """The cookie of the cluster."""

    cookie: Cookie = None
    cookie_file: CookieFile = None

    def cookies(self) -> str | Sequence[str] | None:
        """Returns the cookie, or the cookies of the file. Raises CookieError."""
        from quicdist.cluster.cookie import read_cookies

        return self.cookie if self.cookie_file is None else read_cookies(self.cookie_file)


@dataclass(frozen=True, slots=True)
class RequireOptions:
    """What each connection must have."""

    require_tls: RequireTls = False
    require_binding: RequireBinding = False

    def of(self, trust: Trust) -> Trust:
        """Returns `trust` with these requirements."""
        return trust.requiring(tls=self.require_tls, binding=self.require_binding)


@dataclass(frozen=True, slots=True)
class DialOptions:
    """How a command connects to a node."""

    cookies: CookieOptions = field(default_factory=CookieOptions)
    name: OwnName = None
    via: DialVia = None
    lookups: Lookups = None
    tls: TlsOptions = field(default_factory=TlsOptions)

    async def own_name(self, node: str, lookups: Sequence[Lookup], timeout: float) -> str:
        """Returns the name of --name, or one for a command that connects to `node`.

        With --via it is a temporary port of the relay. Raises NodeNameError.
        """
        from quicdist.cluster.lookup import facing_found
        from quicdist.cluster.via import parse_via, temporary_name

        if self.name is not None:
            return self.name
        if self.via:
            return temporary_name(parse_via(self.via))
        return await facing_found(node, lookups, timeout)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The options of a command that is a node while it runs."""

    dial: DialOptions = field(default_factory=DialOptions)
    require: RequireOptions = field(default_factory=RequireOptions)
    verbose: Verbose = 0


class TlsChoices(TypedDict):
    """Arguments of QuicOptions."""

    cipher_suites: Sequence[str]
    key_exchanges: Sequence[str]


class Rates(TypedDict):
    """Arguments of NodeLimits and GatewaySettings."""

    messages_per_second: float | None
    calls_per_second: float | None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of the rates of peers, and the choices of TLS."""

    messages_per_second: MessagesPerSecond = None
    calls_per_second: CallsPerSecond = None
    cipher_suites: CipherSuites = None
    key_exchanges: KeyExchanges = None

    def tls(self) -> TlsChoices:
        """Returns the arguments of QuicOptions that were given. Raises Problem."""
        from quicdist.carriers.quic.tls_choices import CIPHER_SUITES, check

        suites, groups = tuple(self.cipher_suites or CIPHER_SUITES), tuple(self.key_exchanges or ())
        try:
            check("aioquic", suites, groups)
        except ValueError as error:
            raise Problem(ExitCode.USAGE, str(error)) from None
        return {"cipher_suites": suites, "key_exchanges": groups}

    def rates(self) -> Rates:
        """Returns the rates as arguments of NodeLimits or GatewaySettings."""
        return {
            "messages_per_second": self.messages_per_second,
            "calls_per_second": self.calls_per_second,
        }


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options of a command that serves until it is stopped."""

    via: ViaRelay = None
    path: DirectPath = "auto"
    map_port: MapPort = False
    listen: Listen = None
    lan: LanName = None
    tls: TlsOptions = field(default_factory=TlsOptions)
    uncertified: AllowUncertified = None
    accept: Accept = None
    dial: Dial = None
    policy: PolicyFile = None
    audit: AuditLog = False
    bounds: Bounds = field(default_factory=Bounds)
    http: Http = None
    key_log: KeyLogFile = None
    qlog: QlogFiles = None
    log_json: LogJson = False
    quiet: Quiet = False
    verbose: Verbose = 0

    def path_mode(self) -> str:
        """Returns the value of --path. Raises Problem."""
        from quicdist.carriers.relay.paths import path_mode
        from quicdist.errors import NodeError

        try:
            return path_mode(self.path).value
        except NodeError as error:
            raise Problem(ExitCode.USAGE, f"--path: {error}") from None

    def maps_port(self) -> bool:
        """Returns the setting of --map-port. Raises Problem."""
        if self.map_port and not self.via:
            raise Problem(ExitCode.USAGE, "--map-port requires a relay: --via NODE")
        return self.map_port

    def trusted(self) -> Trust:
        """Returns the trust settings. Raises CertificateError, Problem."""
        return self.tls.trusted(self.uncertified)

    def announcement(self) -> Lan | None:
        """Returns the setting of --lan. Raises MissingExtra, NodeNameError."""
        from quicdist.cluster.lan import Lan

        return None if self.lan is None else Lan(self.lan)

    def tracing(self) -> Tracing:
        """Returns the files of --key-log and --qlog."""
        from quicdist.carriers.quic.tracing import Tracing

        return Tracing(self.key_log, self.qlog)

    def start_logging(self, *, quiet: bool | None = None) -> None:
        """Starts logging; `quiet` overrides --quiet."""
        is_quiet = self.quiet if quiet is None else quiet
        start_logging(self.verbose, quiet=is_quiet, as_json=self.log_json, audit=self.audit)


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """The options of a command that runs a node until it is stopped."""

    cookies: CookieOptions = field(default_factory=CookieOptions)
    visible: Visible = False
    require: RequireOptions = field(default_factory=RequireOptions)
    server: ServerOptions = field(default_factory=ServerOptions)


def _first_line(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "not UTF-8"
        raise Problem(ExitCode.LOCAL, f"--key-passphrase-file {path}: {what}") from None
    return text.partition("\n")[0].rstrip("\r")


def read_policy(path: Path | None) -> Policy | None:
    """Reads the file of --policy. Raises Problem."""
    from quicdist.cluster import policy_file

    try:
        return None if path is None else policy_file.read_policy(path)
    except policy_file.PolicyError as error:
        raise Problem(ExitCode.LOCAL, f"--policy {error}") from None


def looked_up(texts: Sequence[str] | None) -> tuple[Lookup, ...]:
    """Returns the lookups of --lookup. Raises Problem, MissingExtra."""
    from quicdist.cluster.lookup import DEFAULT_LOOKUPS

    return tuple(_lookup(text) for text in texts) if texts else DEFAULT_LOOKUPS


def peer_of(text: str, lookups: Sequence[str] | None) -> str:
    """Returns the node name for a NODE argument, which may be a short name with --lookup lan.

    Raises Problem, MissingExtra.
    """
    if "@" in text or "lan" not in (lookups or ()):
        return text
    import asyncio

    from quicdist.cluster.lan import Lan
    from quicdist.cluster.lookup import NotFound

    try:
        return asyncio.run(Lan().node_named(text))
    except NotFound as error:
        raise Problem(ExitCode.UNREACHABLE, str(error)) from None


def _lookup(text: str) -> Lookup:
    from quicdist.cluster.dns import DnsSrv
    from quicdist.cluster.lan import Lan
    from quicdist.cluster.lookup import Epmd, PortInName, Table
    from quicdist.errors import NodeNameError

    kind, _, rest = text.partition(":")
    node, is_place, place = text.partition("=")
    if is_place:
        try:
            return Table({node: place})
        except NodeNameError as error:
            raise Problem(ExitCode.USAGE, f"--lookup {text!r}: {error}") from None
    if text == "name":
        return PortInName()
    if kind == "epmd" and (not rest or rest.isdecimal()):
        return Epmd(int(rest) if rest else None)
    if text == "lan":
        return Lan()
    if kind == "dns":
        return DnsSrv([rest] if rest else [])
    raise Problem(
        ExitCode.USAGE,
        f"--lookup {text!r}: expected name, epmd, epmd:PORT, dns, dns:SERVER, lan or "
        "NODE=quic:HOST:PORT",
    )


def access(
    accept: Sequence[str] | None,
    dial: Sequence[str] | None = None,
    calls: Sequence[str] | None = None,
    policy_file: Path | None = None,
) -> Access:
    """Returns the rules of --accept, --dial, --calls and --policy. Raises Problem."""
    if calls and policy_file is not None:
        raise Problem(ExitCode.USAGE, "--calls and --policy exclude each other")
    from quicdist.cluster.access import Access

    allowed: dict[str, list[str]] = {}
    for text in calls or ():
        nodes, equals, function = text.rpartition("=")
        if not nodes or not equals or not (function == "*" or ":" in function):
            what = "expected NODES=MODULE:FUNCTION, such as '*@10.0.0.7=calc:add', or NODES=*"
            raise Problem(ExitCode.USAGE, f"--calls {text!r}: {what}")
        allowed.setdefault(nodes, []).append(function)
    return Access(
        accept=tuple(accept or ("*",)),
        dial=tuple(dial or ("*",)),
        calls=allowed or {"*": ("*",)},
        policy=read_policy(policy_file),
    )


def _trusted(how: str, uncertified: Sequence[str], crl: Path | None) -> Trust:
    from quicdist.carriers.trust import Trust
    from quicdist.carriers.trust.known_nodes import KnownNodes

    if crl is not None and (how in ("none", "first-use") or how.startswith("pins:")):
        raise Problem(ExitCode.USAGE, "--crl requires authorities: --ca FILE")
    if how == "none":
        return Trust.nothing()
    if how == "first-use":
        trust = Trust.first_use(uncertified=uncertified)
        KnownNodes(trust.known_nodes).pins()  # report an unreadable file before connecting
        return trust
    if how.startswith("pins:"):
        return Trust.pinned(Path(how.removeprefix("pins:")), uncertified=uncertified)
    if not Path(how).exists():
        what = "expected first-use, none, pins:FILE or a FILE of authorities"
        raise Problem(ExitCode.LOCAL, f"--trust {how}: No such file or directory; {what}")
    return Trust.authority(how, crl_file=crl, uncertified=uncertified)
