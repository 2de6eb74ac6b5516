"""Identity of a node and verification of its peers, for all carriers with TLS.

`Identity` is the key and certificate of a node. `Trust` is the setting that defines which peers
are trusted. A node creates `Credentials` from both, which its carriers share. A carrier presents
`credentials.identity` and passes the peer's certificates to `credentials.verifier`; the sequence is
empty if the peer presents none:

    dialer     TLS handshake complete -> verifier.verify_dialed(node, certificates)
    listener   TLS handshake complete -> verifier.verify_dialer(certificates)
               peer's name received   -> verifier.verify_name(node, certificates)
    both       cookie proved          -> verifier.learn_dialed, learn_dialer(node, certificates)

The carrier calls the first two, which raise PeerRefused before any data of the peer is processed.
The owner of the connection calls the others. `quicdist.carriers.trust.contexts` creates the
`ssl.SSLContext`s for carriers over TCP.
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
