"""`quicdist cert`: the certificates of the nodes of this machine, and keys of other nodes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exit_codes import ExitCode, Problem
from quicdist.cli.json_output import Value, print_object
from quicdist.cli.options import MOST_SECONDS, Json, Quiet

if TYPE_CHECKING:
    from cryptography import x509

    from quicdist.carriers.trust import Certificates

app = typer.Typer(no_args_is_help=True, help="Make, show and revoke the certificates of nodes.")

_Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="The directory of key.pem and the certificates; by default QUICDIST_STATE_DIR, or the "
        "state directory of the user.",
        show_default=False,
    ),
]


_KnownNodes = Annotated[
    Path | None,
    typer.Option(
        "--known-nodes",
        metavar="FILE",
        help="The file of known keys; by default known_nodes in the state directory.",
        show_default=False,
    ),
]


@app.command()
def make(
    hosts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="HOST",
            help="Addresses and host names of the certificate: the part after the @ of node names.",
            show_default=False,
        ),
    ] = None,
    directory: _Directory = None,
    as_json: Json = False,
) -> None:
    """Make a certificate and its key, unless there is one for all of HOST.

    A node without --cert does the same. The key stays the same until `cert rotate`.
    """
    from quicdist.carriers.trust import Identity, state_directory
    from quicdist.carriers.trust.identity import certificate_file

    place = state_directory() if directory is None else directory
    for host in hosts or []:
        _check_host(host)
    wanted = hosts or ["127.0.0.1", "localhost"]
    certificates: list[Value] = []
    for host in wanted:
        others = [other for other in wanted if other != host]
        kept = Identity.kept([host, *others], place)
        fields = _fields(kept.certificate, certificate_file(host, place))
        certificates.append(fields)
        if not as_json:
            _print_fields(fields)
    key: dict[str, Value] = {"key": str(place / "key.pem")}
    _print({"certificates": certificates, **key} if as_json else key, as_json=as_json)


@app.command()
def show(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A certificate (PEM); by default those of this machine.",
            show_default=False,
        ),
    ] = None,
    directory: _Directory = None,
    as_json: Json = False,
) -> None:
    """Show certificates: their names, their validity and the fingerprint of the key.

    All certificates of FILE are shown. Before the first node has run there may only be a key. The
    exit code is 1 if a certificate is not valid at this time, 5 if it cannot be read.
    """
    from quicdist.carriers.trust import Identity, state_directory

    place = directory or state_directory()
    paths = [file] if file else sorted(place.glob("cert-*.pem"))
    if paths:
        shown: list[Value] = []
        try:
            for path in paths:
                _show(path, shown.append if as_json else _print_fields)
        finally:
            if as_json:
                print_object({"certificates": shown})
    elif (place / "key.pem").exists():
        fingerprint = Identity.kept([], place).fingerprint
        key = {"key": str(place / "key.pem"), "fingerprint": fingerprint}
        _print({"certificates": [], **key} if as_json else {**key}, as_json=as_json)
    else:
        raise Problem(ExitCode.LOCAL, f"{place}: no certificate; `quicdist cert make` makes one")


def _show(path: Path, show: Callable[[dict[str, Value]], None]) -> None:
    """All certificates of a file. Raises Problem after one that is not valid at this time."""
    import datetime

    from quicdist.carriers.trust.identity import read_certificates

    now = datetime.datetime.now(datetime.UTC)
    certificates = read_certificates(path)
    for number, certificate in enumerate(certificates, 1):
        which = f", {number} of {len(certificates)}" if len(certificates) > 1 else ""
        show(_fields(certificate, f"{path}{which}"))
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise Problem(
                ExitCode.NO,
                f"{path}{which} is not valid at this time: peers that verify it refuse it",
            )


@app.command()
def ca(
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="The directory to write to.")
    ] = Path("."),
    name: Annotated[
        str, typer.Option("--name", metavar="TEXT", help="The name of the authority.")
    ] = "quicdist authority",
    days: Annotated[int, typer.Option("--days", min=1, help="The validity in days.")] = 3650,
    as_json: Json = False,
) -> None:
    """Make an authority: ca.pem for every node, and ca-key.pem, which must stay secret.

    crl.pem is its list of revoked certificates, empty at first, so that nodes can start with --crl.
    Files that exist are not overwritten.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from quicdist.carriers.trust.authority import make_authority, revocation_list
    from quicdist.carriers.trust.identity import key_pem, pem

    certificate, key = directory / "ca.pem", directory / "ca-key.pem"
    crl = directory / "crl.pem"
    for path in (certificate, key, crl):
        if path.exists():
            raise Problem(ExitCode.LOCAL, f"{path} exists already")
    made = make_authority(name, days)
    _write(key, key_pem(made.key), 0o600)
    _write(crl, revocation_list(made, [], days).public_bytes(Encoding.PEM), 0o644)
    _write(certificate, pem([made.certificate]), 0o644)
    fields = {**_fields(made.certificate, certificate), "key": str(key)}
    _print({**fields, **_list(crl, 0)}, as_json=as_json)


@app.command()
def issue(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            help="Node names (PORT@IP), or hosts for a certificate of every node there.",
            show_default=False,
        ),
    ],
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="The directory of ca.pem and ca-key.pem.")
    ] = Path("."),
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="By default NAME.pem.", show_default=False),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, help="The validity in days.")] = 365,
    as_json: Json = False,
) -> None:
    """Issue a certificate for a node. The file has the certificate and its key, for --cert.

    A second call replaces both. A running node uses the new ones for its next connection.
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
    _print(_fields(issued.certificate, path), as_json=as_json)


@app.command()
def revoke(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The certificate (PEM) to revoke."),
    ],
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="The directory of ca.pem and ca-key.pem.")
    ] = Path("."),
    days: Annotated[
        int, typer.Option("--days", min=1, help="Days until the next update of the list.")
    ] = 3650,
    as_json: Json = False,
) -> None:
    """Revoke a certificate: add it to crl.pem next to ca.pem, the file for --crl.

    Copy the file to every node. Running nodes read it again, and close the connections of the node
    with the revoked certificate.
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
    serial: dict[str, Value] = {"serial": f"{certificate.serial_number:x}"}
    _print({**serial, **_list(path, len(revoked))}, as_json=as_json)


@app.command()
def rotate(directory: _Directory = None, as_json: Json = False) -> None:
    """Make a new key for the nodes of this machine.

    Running nodes use it for their next connection. For 30 days the old key signs the new one, and
    peers that trust on first use accept both. Pinned keys must be changed by hand in that time.
    """
    from quicdist.carriers.trust import Identity, state_directory

    place = state_directory() if directory is None else directory
    Identity.rotate(place)
    _print({"fingerprint": Identity.kept([], place).fingerprint}, as_json=as_json)


@app.command()
def peer(
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="The name of the node.", show_default=False)
    ],
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", min=0.001, max=MOST_SECONDS, metavar="SECONDS", help="The time limit."
        ),
    ] = 5.0,
    as_json: Json = False,
) -> None:
    """Show the certificates that a running node presents over QUIC, and whether its key is known.

    Nothing is verified and nothing is stored. The exit code is 1 if a different key is known.
    """
    import asyncio

    from quicdist.carriers.trust.known_nodes import KnownNodes
    from quicdist.carriers.trust.names import fingerprint

    certificates = asyncio.run(_presented(node, timeout))
    shown: list[Value] = []
    for number, certificate in enumerate(certificates):
        fields = _fields(certificate, f"{number + 1} of {len(certificates)}")
        shown.append(fields)
        if not as_json:
            _print_fields(fields)
    known_nodes = KnownNodes(_known_nodes(None))
    keys = {one.fingerprint for one in known_nodes.keys(node)}
    presented = fingerprint(certificates[0])
    if as_json:
        print_object({"node": node, "certificates": shown, "is_known": presented in keys})
    if keys and presented not in keys:
        raise Problem(ExitCode.NO, str(known_nodes.changed(node, presented)))
    if not as_json:
        print(f"known        {'yes' if keys else 'no, there was no connection yet'}")


@app.command()
def accept(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A node's name.", show_default=False)],
    fingerprint: Annotated[
        str,
        typer.Argument(
            metavar="FINGERPRINT",
            help="The fingerprint of its key, sha256:..., as `cert show` prints it there.",
            show_default=False,
        ),
    ],
    known_nodes: _KnownNodes = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Trust a node with this key, and with no other key."""
    from quicdist.carriers.trust import CertificateError
    from quicdist.carriers.trust.known_nodes import KnownNodes
    from quicdist.carriers.trust.names import parse_fingerprint, read

    path = _known_nodes(known_nodes)
    try:
        wanted = parse_fingerprint(fingerprint)
    except CertificateError as error:
        raise Problem(ExitCode.USAGE, str(error)) from None
    KnownNodes(path).accept(read(node), wanted)
    if as_json:
        print_object({"accepted": node, "known_nodes": str(path)})
    elif not quiet:
        print(f"accepted     {node}, in {path}")


@app.command()
def forget(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A node's name.", show_default=False)],
    known_nodes: _KnownNodes = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove the known key of a node. The next key that it presents is trusted.

    The exit code is 1 if no key is known.
    """
    from quicdist.carriers.trust.known_nodes import KnownNodes
    from quicdist.carriers.trust.names import read

    path = _known_nodes(known_nodes)
    if not os.path.lexists(path) or not KnownNodes(path).forget(read(node)):
        raise Problem(ExitCode.NO, f"{path}: no key of {node} is known")
    if as_json:
        print_object({"forgotten": node, "known_nodes": str(path)})
    elif not quiet:
        print(f"forgotten    {node}, in {path}")


async def _presented(node: str, timeout: float) -> Certificates:
    """The certificates that a node presents, even if it then rejects this node. Raises Problem."""
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


def _list(path: Path, revoked: int) -> dict[str, Value]:
    """Returns the fields of a list of revoked certificates."""
    return {"list": str(path), "revoked": revoked}


def _print(fields: dict[str, Value], *, as_json: bool) -> None:
    if as_json:
        print_object(fields)
    else:
        _print_fields(fields)


def _print_fields(fields: dict[str, Value]) -> None:
    for name, value in fields.items():
        shown = (", ".join(map(str, value)) or "(no host)") if isinstance(value, list) else value
        print(f"{name.replace('_', ' '):12} {shown}")


def _fields(certificate: x509.Certificate, path: Path | str) -> dict[str, Value]:
    from quicdist.carriers.trust.names import fingerprint, hosts_of, nodes_of

    subject = certificate.subject.rfc4514_string() or "(none)"
    issuer = certificate.issuer.rfc4514_string()
    return {
        "certificate": str(path),
        "subject": subject,
        "issuer": "itself" if certificate.issuer == certificate.subject else issuer,
        "good_for": [*nodes_of(certificate), *hosts_of(certificate)],
        "from": f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
        "until": f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
        "fingerprint": fingerprint(certificate),
    }


def _check_host(host: str) -> None:
    import ipaddress
    import re

    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9*-]{1,63}(\.[A-Za-z0-9-]{1,63})*", host):
            raise Problem(
                ExitCode.USAGE, f"invalid host {host!r}: expected an IP address or a DNS name"
            ) from None
