"""Who we are and who may be believed, for every carrier that speaks TLS.

`Identity` is our key and certificate, `Trust` the setting that says whom we believe. A node makes
`Credentials` of the two, which its carriers share: they present `credentials.identity`, and ask
`credentials.verifier` about what the other side presents, an empty sequence where that is nothing:

    dialer    TLS is done       -> verifier.dialed(node, certificates)
    listener   TLS is done       -> verifier.dialer(certificates)
               the peer's name   -> verifier.named(node, certificates)
    both       it has the cookie -> verifier.learn_dialed, learn_dialer(node, certificates)

The first two are the carrier's, and raise PeerRefused before anything the peer says is believed;
the others are asked by who owns the connection. A carrier over TCP finds `ssl.SSLContext`s in
`quicdist.carriers.trust.contexts`.
"""

from __future__ import annotations

from quicdist.carriers.trust.credentials import Credentials
from quicdist.carriers.trust.errors import (
    Alert,
    CertificateError,
    CertificateExpired,
    CertificateMismatch,
    CertificateUnreadable,
    PeerRefused,
    TrustError,
)
from quicdist.carriers.trust.files import state_directory
from quicdist.carriers.trust.identity import Identity
from quicdist.carriers.trust.names import Certificates
from quicdist.carriers.trust.trust import Trust, TrustBy
from quicdist.carriers.trust.verifiers import Verifier

__all__ = [
    "Alert",
    "CertificateError",
    "CertificateExpired",
    "CertificateMismatch",
    "CertificateUnreadable",
    "Certificates",
    "Credentials",
    "Identity",
    "PeerRefused",
    "Trust",
    "TrustBy",
    "TrustError",
    "Verifier",
    "state_directory",
]
