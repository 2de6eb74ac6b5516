"""`ssl.SSLContext`s for carriers that speak TLS over TCP, and what the peer of one presented.

OpenSSL verifies a dialer's certificate by authority only. With pins or first use a listener here
can ask nobody for a certificate: it takes a setting that lets everybody in without, and no other.
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
    """For a connection that we make: one context each, as the identity may have changed.

    Nothing is verified by the context itself: ask `verifier.dialed` once TLS is done.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _present(context, credentials.identity)
    return context


def listening(credentials: Credentials) -> ssl.SSLContext:
    """For a connection made to us; ask `verifier.dialer` once TLS is done.

    Raises TrustError for a setting that OpenSSL cannot follow here.
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
            f"over TCP, nodes that dial us cannot be asked for certificates by {trust.by.value}: "
            "it takes an authority, or uncertified=['*']"
        )
    _present(context, credentials.identity)
    return context


def presented(tls: ssl.SSLSocket | ssl.SSLObject) -> Certificates:
    """What the peer has presented, its own certificate first; empty where that is nothing."""
    return [x509.load_der_x509_certificate(one) for one in _chain(tls)]


def _chain(tls: Any) -> Sequence[bytes]:
    if hasattr(tls, "get_unverified_chain"):  # Python 3.13
        return list(tls.get_unverified_chain() or ())
    # Before, the same is there under a private name.
    found = tls._sslobj.get_unverified_chain() or ()
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in found]


def _present(context: ssl.SSLContext, identity: Identity) -> None:
    # `ssl` takes a key from a file alone.
    with tempfile.TemporaryDirectory(prefix="quicdist-") as place:
        file = Path(place) / "identity.pem"
        file.touch(mode=0o600)
        file.write_bytes(key_pem(identity.key) + pem([identity.certificate, *identity.chain]))
        context.load_cert_chain(file)
