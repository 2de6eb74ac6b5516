"""`ssl.SSLContext`s for carriers with TLS over TCP, and the certificates of their peers.

`ssl` can request a dialer's certificate only if it verifies it against an authority. With pins or
trust on first use, a listener cannot request certificates, so it requires `uncertified=['*']`.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509

from quicdist.carriers.trust.credentials import Credentials
from quicdist.carriers.trust.errors import TrustError
from quicdist.carriers.trust.identity import Identity, key_pem, pem
from quicdist.carriers.trust.names import Certificates
from quicdist.carriers.trust.trust import TrustBy


def dialing(credentials: Credentials) -> ssl.SSLContext:
    """Returns a context for one outgoing connection, with the current identity.

    The context verifies nothing. The caller must call `verifier.dialed` after the handshake. Raises
    CertificateError if the identity cannot be loaded.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _present(context, credentials.identity)
    return context


def listening(credentials: Credentials) -> ssl.SSLContext:
    """Returns a context for incoming connections, with the current identity.

    The caller must call `verifier.dialer` after the handshake. Raises TrustError if the trust
    setting requires certificates from dialers but names no authority.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    trust = credentials.trust
    if trust.by is TrustBy.AUTHORITY:
        assert trust.file is not None
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(trust.file)
    elif credentials.verifier.demands_certificates:
        raise TrustError(
            f"over TCP, dialers cannot be asked for certificates by {trust.by.value}: "
            "use an authority, or uncertified=['*']"
        )
    _present(context, credentials.identity)
    return context


def serving(credentials: Credentials) -> ssl.SSLContext:
    """Returns a context for incoming connections that asks for no certificate.

    It presents the current identity. The caller authenticates the peers in another way. Raises
    CertificateError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    _present(context, credentials.identity)
    return context


def presented(tls: ssl.SSLSocket | ssl.SSLObject) -> Certificates:
    """Returns the certificates that the peer presented, its own first; empty if none."""
    return [x509.load_der_x509_certificate(one) for one in _chain(tls)]


def _chain(tls: Any) -> Sequence[bytes]:
    if hasattr(tls, "get_unverified_chain"):  # Python 3.13
        return list(tls.get_unverified_chain() or ())
    # Older versions only have it in a private attribute.
    found = tls._sslobj.get_unverified_chain() or ()
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in found]


def _present(context: ssl.SSLContext, identity: Identity) -> None:
    # `ssl` can only load a key from a file.
    with tempfile.TemporaryDirectory(prefix="quicdist-") as place:
        file = Path(place) / "identity.pem"
        file.touch(mode=0o600)
        file.write_bytes(key_pem(identity.key) + pem([identity.certificate, *identity.chain]))
        context.load_cert_chain(file)
