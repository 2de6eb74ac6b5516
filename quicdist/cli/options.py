"""Options and arguments that several subcommands take, and what they make of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem

if TYPE_CHECKING:
    from quicdist.carriers.trust import Identity, Trust
    from quicdist.cluster.access import Access
    from quicdist.cluster.lookup import Lookup

PeerNode = Annotated[
    str,
    typer.Argument(
        metavar="NODE",
        help="The node to talk to: its UDP port and address, such as 5555@127.0.0.1, or its name "
        "in the EPMD of its host, such as rabbit@host1.",
        show_default=False,
    ),
]
Cookie = Annotated[
    str | None,
    typer.Option(
        "--cookie",
        envvar="QUICDIST_COOKIE",
        metavar="COOKIE",
        help="The cluster's cookie; by default that in ~/.erlang.cookie. "
        "What is on the command line, other users of this machine can see.",
        show_default=False,
    ),
]
OwnName = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="This end's node name, PORT@IP or NAME@HOST; by default a free port of the address "
        "that faces NODE.",
        show_default=False,
    ),
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="How long to wait.")
]
Lookups = Annotated[
    list[str] | None,
    typer.Option(
        "--lookup",
        metavar="WHERE",
        help="Where to ask for nodes' places: `name` (port@ip says it), `epmd` or `epmd:PORT`, "
        "`dns` or `dns:SERVER` (SRV records), or a place itself, NODE=quic:HOST:PORT or "
        "NODE=tcp:HOST:PORT. May be repeated, and is asked in that order; by default `name`, then "
        "`epmd`.",
        show_default=False,
    ),
]
Trusted = Annotated[
    str,
    typer.Option(
        "--trust",
        "--ca",
        metavar="HOW",
        help="Whom to believe: `first-use`, a node's key when it is first met, and no other from "
        "then on; a FILE with the certificates of authorities (PEM); `pins:FILE`, with a node's "
        "name and fingerprint in each line; or `none`, whoever answers.",
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
        help="A file of cookies, one in a line: the first is offered, all are accepted. At SIGHUP "
        "it is read again.",
        show_default=False,
    ),
]
RequireTls = Annotated[
    bool,
    typer.Option(
        "--require-tls",
        help="No connection in the clear: TCP with TLS only, and no EPMD of our own.",
    ),
]
RequireBinding = Annotated[
    bool,
    typer.Option(
        "--require-binding",
        help="No peer whose proof of the cookie is not bound to the TLS session: quicdist nodes "
        "over QUIC alone, no stock node and no gateway.",
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
        help="Nodes that may be connected to from here: a name, or a pattern; by default all. May "
        "be repeated.",
        show_default=False,
    ),
]
Calls = Annotated[
    list[str] | None,
    typer.Option(
        "--calls",
        metavar="NODES=M:F",
        help="What nodes may call of what is exported, such as '*@10.0.0.7=calc:add' or "
        "'4433@10.0.0.8=*'; by default all may call all. May be repeated.",
        show_default=False,
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--cert",
        metavar="FILE",
        help="Our certificate (PEM); by default one of our own, made and kept. See `cert show`.",
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
Listen = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="IP:PORT",
        help="The address to bind when it is not the name's: behind a NAT, in a container.",
        show_default=False,
    ),
]
Prometheus = Annotated[
    str | None,
    typer.Option(
        "--prometheus",
        metavar="[IP:]PORT",
        help="Metrics for Prometheus over HTTP at this address, by default on 127.0.0.1; needs the "
        "extra `prometheus`.",
        show_default=False,
    ),
]
KeyLogFile = Annotated[
    Path | None,
    typer.Option(
        "--key-log",
        metavar="FILE",
        help="Append the TLS keys of every connection to this file, for Wireshark. Whoever has "
        "them can read everything.",
        show_default=False,
    ),
]
QlogFiles = Annotated[
    Path | None,
    typer.Option(
        "--qlog",
        metavar="DIR",
        help="Write down every QUIC packet, a qlog file for each connection.",
        show_default=False,
    ),
]
LogJson = Annotated[
    bool,
    typer.Option("--log-json", help="Log lines as JSON objects, with the fields of each event."),
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        help="Tell what is going on, on standard error; twice for more.",
        show_default=False,
    ),
]


def start_logging(verbose: int, *, quiet: bool = True, as_json: bool = False) -> None:
    """What is logged goes to standard error: warnings, and more where asked for."""
    import logging

    from quicdist.cli.jsonlog import JsonFormatter
    from quicdist.cli.sanitize import SanitizingFormatter

    usual = logging.ERROR if quiet else logging.INFO
    level = {0: usual, 1: logging.INFO}.get(verbose, logging.DEBUG)
    handler = logging.StreamHandler()
    lines = SanitizingFormatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if as_json else lines)
    logging.basicConfig(handlers=[handler])
    logging.getLogger("quicdist").setLevel(level)
    if verbose < 2:
        logging.getLogger("quic").setLevel(logging.CRITICAL)  # aioquic's own


def identity(certificate: Path | None, key: Path | None) -> Identity | None:
    """What --cert and --key name, None for our own. Raises CertificateError."""
    from quicdist.carriers.trust import Identity

    if certificate is None:
        if key is not None:
            raise Problem(ExitCode.USAGE, "--key needs --cert, the certificate that it belongs to")
        return None
    return Identity.load(certificate, key)


def looked_up(texts: Sequence[str] | None) -> tuple[Lookup, ...]:
    """What --lookup asks for. Raises Problem, MissingExtra."""
    from quicdist.cluster.lookup import DEFAULT_LOOKUPS

    return tuple(_lookup(text) for text in texts) if texts else DEFAULT_LOOKUPS


def _lookup(text: str) -> Lookup:
    from quicdist.cluster.dns import DnsSrv
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
    if kind == "dns":
        return DnsSrv([rest] if rest else [])
    raise Problem(
        ExitCode.USAGE,
        f"--lookup {text!r}: expected name, epmd, epmd:PORT, dns, dns:SERVER or "
        "NODE=quic:HOST:PORT",
    )


def access(
    accept: Sequence[str] | None, dial: Sequence[str] | None = None, calls: Sequence[str] = ()
) -> Access:
    """What --accept, --dial and --calls ask for. Raises Problem."""
    from quicdist.cluster.access import Access

    allowed: dict[str, list[str]] = {}
    for text in calls:
        nodes, equals, function = text.rpartition("=")
        if not nodes or not equals or not (function == "*" or ":" in function):
            what = "expected NODES=MODULE:FUNCTION, as in '*@10.0.0.7=calc:add', or NODES=*"
            raise Problem(ExitCode.USAGE, f"--calls {text!r}: {what}")
        allowed.setdefault(nodes, []).append(function)
    return Access(
        accept=tuple(accept or ("*",)),
        dial=tuple(dial or ("*",)),
        calls=allowed or {"*": ("*",)},
    )


def trusted_by(how: str, uncertified: Sequence[str] = (), crl: Path | None = None) -> Trust:
    """What --trust, --allow-uncertified and --crl ask for. Raises CertificateError, Problem."""
    from quicdist.carriers.trust import Trust
    from quicdist.carriers.trust.known_nodes import KnownNodes

    if crl is not None and (how in ("none", "first-use") or how.startswith("pins:")):
        raise Problem(ExitCode.USAGE, "--crl needs authorities: --ca FILE")
    if how == "none":
        return Trust.nothing()
    if how == "first-use":
        trust = Trust.first_use(uncertified=uncertified)
        KnownNodes(trust.known_nodes).pins()  # one that cannot be read is no refusal of a peer's
        return trust
    if how.startswith("pins:"):
        return Trust.pinned(Path(how.removeprefix("pins:")), uncertified=uncertified)
    if not Path(how).exists():
        what = "first-use, none, pins:FILE or a FILE of authorities is expected"
        raise Problem(ExitCode.LOCAL, f"--trust {how}: No such file or directory; {what}")
    return Trust.authority(how, crl_file=crl, uncertified=uncertified)
