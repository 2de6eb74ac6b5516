"""`quicdist cert`: the certificates that this machine's nodes show, and those of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicdist.cli.exits import ExitCode, Problem

if TYPE_CHECKING:
    from cryptography import x509

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

    Exits with 1 if it is outside of its time, with 5 if it cannot be read.
    """
    import datetime

    from quicdist.carriers.trust import state_directory
    from quicdist.carriers.trust.identity import read_certificates

    place = directory or state_directory()
    paths = [file] if file else sorted(place.glob("cert-*.pem"))
    if not paths:
        raise Problem(
            ExitCode.LOCAL, f"{place}: no certificate there; `quicdist cert make` makes one"
        )
    now = datetime.datetime.now(datetime.timezone.utc)
    for path in paths:
        certificate = read_certificates(path)[0]
        _print(certificate, path)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise Problem(
                ExitCode.NO, f"{path} is outside of its time: no peer that verifies it accepts it"
            )


def _print(certificate: x509.Certificate, path: Path) -> None:
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
