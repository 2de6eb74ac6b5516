"""`quicdist cert`: the certificates that this machine's nodes show, and those of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem

if TYPE_CHECKING:
    from cryptography import x509

    from quicdist.carriers.trust import Certificates

app = typer.Typer(no_args_is_help=True, help="Make and show the certificates that nodes present.")

_Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="Where key.pem and certificates are kept; by default QUICDIST_STATE_DIR, or the "
        "user's state directory.",
        show_default=False,
    ),
]


_KnownNodes = Annotated[
    Path | None,
    typer.Option(
        "--known-nodes",
        metavar="FILE",
        help="The file of nodes met so far; by default known_nodes in the state directory.",
        show_default=False,
    ),
]


@app.command()
def make(
    hosts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="HOST",
            help="Addresses and names that it is good for: what stands behind the @ of node names.",
            show_default=False,
        ),
    ] = None,
    directory: _Directory = None,
) -> None:
    """Make a certificate and its key, where there is none that serves all of HOST.

    A node without --cert does the same by itself. The key stays the same until `cert rotate`.
    """
    from quicdist.carriers.trust import Identity, state_directory
    from quicdist.carriers.trust.identity import certificate_file

    place = state_directory() if directory is None else directory
    for host in hosts or []:
        _check_host(host)
    wanted = hosts or ["127.0.0.1", "localhost"]
    for host in wanted:
        others = [other for other in wanted if other != host]
        kept = Identity.kept([host, *others], place)
        _print(kept.certificate, certificate_file(host, place))
    print(f"key          {place / 'key.pem'}")


@app.command()
def show(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="A certificate (PEM); by default our own ones.", show_default=False
        ),
    ] = None,
    directory: _Directory = None,
) -> None:
    """Show a certificate: whom it is good for, how long, the fingerprint of its key.

    Of a FILE with several, all. Where only commands such as `ping` were run so far, there is but
    the key. Exits with 1 if one is outside of its time, with 5 if it cannot be read.
    """
    from quicdist.carriers.trust import Identity, state_directory

    place = directory or state_directory()
    paths = [file] if file else sorted(place.glob("cert-*.pem"))
    if paths:
        for path in paths:
            _show(path)
    elif (place / "key.pem").exists():
        print(f"key          {place / 'key.pem'}")
        print(f"fingerprint  {Identity.kept([], place).fingerprint}")
    else:
        raise Problem(
            ExitCode.LOCAL, f"{place}: no certificate there; `quicdist cert make` makes one"
        )


def _show(path: Path) -> None:
    """All that are in a file. Raises Problem after one that is outside of its time."""
    import datetime

    from quicdist.carriers.trust.identity import read_certificates

    now = datetime.datetime.now(datetime.UTC)
    certificates = read_certificates(path)
    for number, certificate in enumerate(certificates, 1):
        which = f", {number} of {len(certificates)}" if len(certificates) > 1 else ""
        _print(certificate, f"{path}{which}")
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise Problem(
                ExitCode.NO,
                f"{path}{which} is outside of its time: no peer that verifies it accepts it",
            )


@app.command()
def ca(
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where it is written.")
    ] = Path("."),
    name: Annotated[
        str, typer.Option("--name", metavar="TEXT", help="What it is called.")
    ] = "quicdist authority",
    days: Annotated[int, typer.Option("--days", min=1, help="How long it is good.")] = 3650,
) -> None:
    """Make an authority: ca.pem, which every node gets, and ca-key.pem, which none does.

    What is there already is left alone.
    """
    from quicdist.carriers.trust.authority import make_authority
    from quicdist.carriers.trust.identity import key_pem, pem

    certificate, key = directory / "ca.pem", directory / "ca-key.pem"
    for path in (certificate, key):
        if path.exists():
            raise Problem(ExitCode.LOCAL, f"{path} is there already")
    made = make_authority(name, days)
    _write(key, key_pem(made.key), 0o600)
    _write(certificate, pem([made.certificate]), 0o644)
    _print(made.certificate, certificate)
    print(f"key          {key}")


@app.command()
def issue(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            help="Node names (PORT@IP), or hosts: then it is good for every node there.",
            show_default=False,
        ),
    ],
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where ca.pem and ca-key.pem are.")
    ] = Path("."),
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="By default NAME.pem.", show_default=False),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, help="How long it is good.")] = 365,
) -> None:
    """Issue a node a certificate, with a key of its own in the same file: give it as --cert.

    Done again, it replaces both, and a node that runs takes the new ones for its next connection.
    """
    from quicdist.carriers.trust import Identity
    from quicdist.carriers.trust.authority import issue as issue_by
    from quicdist.carriers.trust.identity import key_pem, pem
    from quicdist.cluster.names import NodeName

    nodes = [str(NodeName.parse(name)) for name in names if "@" in name]
    hosts = [name for name in names if "@" not in name]
    for host in hosts:
        _check_host(host)
    authority = Identity.load(directory / "ca.pem", directory / "ca-key.pem")
    issued = issue_by(authority, nodes, hosts, days)
    path = out or Path(f"{names[0]}.pem")
    _write(path, key_pem(issued.key) + pem([issued.certificate, *issued.chain]), 0o600)
    _print(issued.certificate, path)


@app.command()
def revoke(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The certificate (PEM) that is to count no more."),
    ],
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where ca.pem and ca-key.pem are.")
    ] = Path("."),
    days: Annotated[
        int, typer.Option("--days", min=1, help="Until when the next list is promised.")
    ] = 3650,
) -> None:
    """Revoke a certificate: it is added to crl.pem beside ca.pem, which nodes are given as --crl.

    Copy the file to every node: those that run read it again, and end the connections of the node
    whose certificate it was.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from quicdist.carriers.trust import Identity
    from quicdist.carriers.trust.authority import revoke as revoke_by
    from quicdist.carriers.trust.chains import read_revocations
    from quicdist.carriers.trust.identity import read_certificates

    authority = Identity.load(directory / "ca.pem", directory / "ca-key.pem")
    path = directory / "crl.pem"
    former = read_revocations(path)[0] if path.exists() else None
    certificate = read_certificates(file)[0]
    revoked = revoke_by(authority, certificate, former, days)
    _write(path, revoked.public_bytes(Encoding.PEM), 0o644)
    print(f"serial       {certificate.serial_number:x}")
    print(f"list         {path}: {len(revoked)} revoked")


@app.command()
def rotate(directory: _Directory = None) -> None:
    """Give this machine's nodes a new key; those who know the old one learn the new one by it.

    Nodes that run take it for their next connection. For 30 days the old key vouches for the new
    one, and those who know nodes by first use take both. Pins are to be changed by hand meanwhile.
    """
    from quicdist.carriers.trust import Identity, state_directory

    place = state_directory() if directory is None else directory
    Identity.rotate(place)
    print(f"fingerprint  {Identity.kept([], place).fingerprint}")


@app.command()
def peer(
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="The node to look at.", show_default=False)
    ],
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.001, metavar="SECONDS", help="How long to wait.")
    ] = 5.0,
) -> None:
    """Show the certificates that a live node presents over QUIC, and whether its key is known.

    Nothing is verified, and nothing kept. Exits with 1 if another key is known.
    """
    import asyncio

    from quicdist.carriers.trust.known_nodes import KnownNodes
    from quicdist.carriers.trust.names import fingerprint

    certificates = asyncio.run(_presented(node, timeout))
    for number, certificate in enumerate(certificates):
        _print(certificate, f"{number + 1} of {len(certificates)}")
    known_nodes = KnownNodes(_known_nodes(None))
    keys = {one.fingerprint for one in known_nodes.keys(node)}
    presented = fingerprint(certificates[0])
    if keys and presented not in keys:
        raise Problem(ExitCode.NO, str(known_nodes.changed(node, presented)))
    print(f"known        {'yes' if keys else 'no, it was not met yet'}")


@app.command()
def accept(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A node's name.", show_default=False)],
    fingerprint: Annotated[
        str,
        typer.Argument(
            metavar="FINGERPRINT",
            help="Its key: sha256:... from `cert show` there.",
            show_default=False,
        ),
    ],
    known_nodes: _KnownNodes = None,
) -> None:
    """From now on believe a node by this key, and by no other."""
    from quicdist.carriers.trust import CertificateError
    from quicdist.carriers.trust.known_nodes import KnownNodes
    from quicdist.carriers.trust.names import parse_fingerprint, read

    path = _known_nodes(known_nodes)
    try:
        wanted = parse_fingerprint(fingerprint)
    except CertificateError as error:
        raise Problem(ExitCode.USAGE, str(error)) from None
    KnownNodes(path).accept(read(node), wanted)
    print(f"accepted     {node}, in {path}")


@app.command()
def forget(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A node's name.", show_default=False)],
    known_nodes: _KnownNodes = None,
) -> None:
    """Forget a node's key and believe the next one that it shows. Exits with 1 if none is known."""
    from quicdist.carriers.trust.known_nodes import KnownNodes
    from quicdist.carriers.trust.names import read

    path = _known_nodes(known_nodes)
    if not path.exists() or not KnownNodes(path).forget(read(node)):
        raise Problem(ExitCode.NO, f"{path}: no key of {node} is known")
    print(f"forgotten    {node}, in {path}")


async def _presented(node: str, timeout: float) -> Certificates:
    """What a node shows, whether it goes on talking to us or not. Raises Problem."""
    from quicdist.carriers.base import DialError
    from quicdist.carriers.quic.endpoint import Endpoint
    from quicdist.carriers.quic.settings import QuicSettings
    from quicdist.carriers.trust import Credentials, Identity, Trust
    from quicdist.carriers.trust.verifiers import RecordingVerifier
    from quicdist.cluster.names import Address

    address = Address.parse(node)
    credentials = Credentials(Identity.ephemeral(), Trust.nothing())
    credentials.verifier = looking = RecordingVerifier()
    settings = QuicSettings(credentials)
    here = "::" if ":" in address.host else "0.0.0.0"
    endpoint = await Endpoint.open(here, 0, settings=settings, accept=None)
    why = "it presents no certificate"
    try:
        await endpoint.dial(address.host, address.port, node=node, timeout=timeout)
    except DialError as error:
        why = str(error)
    finally:
        await endpoint.close()
    if not looking.seen:
        raise Problem(ExitCode.UNREACHABLE, why)
    return looking.seen


def _known_nodes(path: Path | None) -> Path:
    from quicdist.carriers.trust import Trust

    return Trust.first_use(path).known_nodes


def _write(path: Path, data: bytes, mode: int) -> None:
    from quicdist.carriers.trust import files

    files.make_directory(path.parent)
    files.write(path, data, mode=mode)


def _print(certificate: x509.Certificate, path: Path | str) -> None:
    from quicdist.carriers.trust.names import fingerprint, hosts_of, nodes_of

    subject = certificate.subject.rfc4514_string() or "(none)"
    issuer = certificate.issuer.rfc4514_string()
    print(f"certificate  {path}")
    print(f"subject      {subject}")
    print(f"issuer       {'itself' if certificate.issuer == certificate.subject else issuer}")
    print(
        f"good for     {', '.join([*nodes_of(certificate), *hosts_of(certificate)]) or '(no host)'}"
    )
    print(f"from         {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    print(f"until        {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    print(f"fingerprint  {fingerprint(certificate)}")


def _check_host(host: str) -> None:
    import ipaddress
    import re

    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9*-]{1,63}(\.[A-Za-z0-9-]{1,63})*", host):
            raise Problem(
                ExitCode.USAGE, f"{host!r} is no host: an IP address or a DNS name is expected"
            ) from None
