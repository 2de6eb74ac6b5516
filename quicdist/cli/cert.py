"""`quicdist cert`: the certificate that this machine's nodes show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exits import ExitCode, Problem

if TYPE_CHECKING:
    from cryptography import x509

app = typer.Typer(no_args_is_help=True, help="Make and show the certificate that nodes present.")

_Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="Where key.pem and cert.pem are kept; by default QUICDIST_STATE_DIR, or the user's "
        "state directory.",
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

    A node without --cert does the same by itself. The key stays the same for good; delete key.pem
    to have another.
    """
    from quicdist.carriers.trust import Identity, state_directory

    place = state_directory() if directory is None else directory
    for host in hosts or []:
        _check_host(host)
    kept = Identity.kept(hosts or ["127.0.0.1", "localhost"], place)
    _print(kept.certificate, place / "cert.pem")
    print(f"key          {place / 'key.pem'}")


@app.command()
def show(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="A certificate (PEM); by default our own.", show_default=False
        ),
    ] = None,
    directory: _Directory = None,
) -> None:
    """Show a certificate: whom it is good for, how long, its fingerprint.

    Exits with 1 if it is outside of its time, with 5 if it cannot be read.
    """
    import datetime

    from cryptography import x509

    from quicdist.carriers.trust import state_directory

    path = file or (directory or state_directory()) / "cert.pem"
    try:
        certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except OSError as error:
        advice = "" if file else "; `quicdist cert make` makes one"
        raise Problem(ExitCode.LOCAL, f"{path}: {error.strerror}{advice}") from None
    except ValueError:
        raise Problem(ExitCode.LOCAL, f"{path}: no PEM certificate in it") from None
    _print(certificate, path)
    now = datetime.datetime.now(datetime.timezone.utc)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Problem(
            ExitCode.NO, f"{path} is outside of its time: no peer that verifies it accepts it"
        )


def _print(certificate: x509.Certificate, path: Path) -> None:
    from cryptography.hazmat.primitives import hashes

    subject = certificate.subject.rfc4514_string() or "(none)"
    issuer = certificate.issuer.rfc4514_string()
    print(f"certificate  {path}")
    print(f"subject      {subject}")
    print(f"issuer       {'itself' if certificate.issuer == certificate.subject else issuer}")
    print(f"good for     {', '.join(_hosts(certificate)) or '(no host)'}")
    print(f"from         {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    print(f"until        {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    print(f"sha-256      {certificate.fingerprint(hashes.SHA256()).hex(':')}")


def _hosts(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return addresses + names.get_values_for_type(x509.DNSName)


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
