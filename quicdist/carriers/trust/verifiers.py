"""Verification of peers: the four methods, and `Verifier`, which carriers and nodes use.

A dialer knows the name of the node and calls `dialed` after the TLS handshake. A listener calls
`dialer` after the TLS handshake, and `named` when it receives the peer's name in the distribution
handshake. Both call `learn_dialed` or `learn_dialer` after the peer has proved the cookie.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from quicdist.carriers.private_addresses import is_seen_elsewhere, scope_of
from quicdist.carriers.trust import files
from quicdist.carriers.trust.chains import (
    Usage,
    check_chain,
    check_length,
    check_revoked,
    read_revocations,
)
from quicdist.carriers.trust.errors import Alert, CertificateError, PeerRefused
from quicdist.carriers.trust.identity import OVERLAP, read_certificates
from quicdist.carriers.trust.known_nodes import KnownNodes
from quicdist.carriers.trust.names import (
    Certificates,
    fingerprint,
    host_of,
    hosts_of,
    is_for_host,
    is_for_node,
    is_quic_name,
    nodes_of,
    speaks_of,
    written,
)
from quicdist.errors import Cause

_log = logging.getLogger("quicdist.trust")


_MOST_BOUND = 10_000
"""Maximum number of nodes that are remembered in memory to bind their cookie proof."""


class Verification(Protocol):
    """A verification method.

    `certificates` is never empty, and TLS has verified that the peer has the key of the first one.
    The methods raise PeerRefused if the peer is rejected, and CertificateError if a file cannot be
    used.
    """

    def verify_chain(self, certificates: Certificates, usage: Usage) -> None:
        """Checks whether the certificates can belong to any accepted node."""

    def verify_node(self, node: str, certificates: Certificates) -> None:
        """Checks whether the certificates belong to this node. Called after `verify_chain`."""

    def learn(self, node: str, certificates: Certificates, *, bound: bool) -> None:
        """Reports an accepted node that has proved the cookie.

        `bound` states whether the proof was bound to the TLS session.
        """

    @property
    def files(self) -> Sequence[Path]:
        """The files that it uses."""

    def knows(self, node: str) -> bool:
        """Returns whether a node with that name must use TLS, because its key is known.

        A name of the form `name@host` implies TCP, so for it only a pinned key counts.
        """

    def is_bound(self, node: str) -> bool:
        """Returns whether a file states that the node binds its cookie proof."""


class AuthorityVerification:
    """Accepts certificates for the node's host that an authority has signed."""

    def __init__(self, ca_file: Path, crl_file: Path | None = None) -> None:
        self._file = ca_file
        self._crl_file = crl_file
        self._stamp: files.Stamp | None = None
        self._authorities: Certificates = ()
        self._lists: Sequence[x509.CertificateRevocationList] = ()

    @property
    def files(self) -> Sequence[Path]:
        return (self._file,) if self._crl_file is None else (self._file, self._crl_file)

    def verify_chain(self, certificates: Certificates, usage: Usage) -> None:
        authorities = self._current()
        check_chain(certificates, authorities, usage)
        check_revoked(certificates, authorities, self._lists)

    def verify_node(self, node: str, certificates: Certificates) -> None:
        own = certificates[0]
        if not is_for_host(own, host_of(node)):
            names = ", ".join(hosts_of(own)) or "no host"
            raise PeerRefused(
                f"the peer's certificate does not name the host of {written(node)}: "
                f"it is for {names}"
            )

    def learn(self, node: str, certificates: Certificates, *, bound: bool) -> None:
        pass

    def knows(self, node: str) -> bool:
        return is_quic_name(node)

    def is_bound(self, node: str) -> bool:
        return False

    def _current(self) -> Certificates:
        stamp = files.stamp(self.files)
        if stamp != self._stamp:
            try:
                lists = () if self._crl_file is None else read_revocations(self._crl_file)
                self._take(read_certificates(self._file))
                self._lists = lists
            except CertificateError as error:
                if self._stamp is None:
                    raise
                extra = {"event": "authority_failed", "reason": str(error)}
                _log.error("%s; the authorities read before stay trusted", error, extra=extra)
            self._stamp = stamp
        return self._authorities

    def _take(self, authorities: Certificates) -> None:
        if self._stamp is not None and authorities != self._authorities:
            names = ", ".join(one.subject.rfc4514_string() for one in authorities)
            extra = {"event": "authority_renewed", "path": str(self._file)}
            _log.info("%s has changed; trusted from now on: %s", self._file, names, extra=extra)
        self._authorities = authorities


class PinVerification:
    """Accepts the keys that are pinned for the node's name."""

    def __init__(self, pins: Mapping[str, Sequence[str]] | Path) -> None:
        self._file = KnownNodes(pins, has_patterns=True) if isinstance(pins, Path) else None
        self._pins = {} if isinstance(pins, Path) else pins

    @property
    def files(self) -> Sequence[Path]:
        return () if self._file is None else (self._file.path,)

    def verify_chain(self, certificates: Certificates, usage: Usage) -> None:
        pinned = {one for keys in self._current().values() for one in keys}
        if not _vouching(certificates, pinned):
            raise PeerRefused(
                f"the peer's key {fingerprint(certificates[0])} is not pinned for any node",
                Alert.CERTIFICATE_UNKNOWN,
            )

    def verify_node(self, node: str, certificates: Certificates) -> None:
        if not _vouching(certificates, self._keys(node)):
            raise PeerRefused(
                f"the peer's key {fingerprint(certificates[0])} is not pinned for {written(node)}",
                Alert.CERTIFICATE_UNKNOWN,
            )

    def learn(self, node: str, certificates: Certificates, *, bound: bool) -> None:
        pass

    def knows(self, node: str) -> bool:
        return bool(self._keys(node))

    def is_bound(self, node: str) -> bool:
        return False

    def _keys(self, node: str) -> set[str]:
        return {
            one
            for pattern, ones in self._current().items()
            if fnmatchcase(node, pattern)
            for one in ones
        }

    def _current(self) -> Mapping[str, Sequence[str]]:
        return self._pins if self._file is None else self._file.pins()


class FirstUseVerification:
    """Accepts the key that the node presented on first use."""

    def __init__(self, known_nodes: Path) -> None:
        self._known = KnownNodes(known_nodes)

    @property
    def files(self) -> Sequence[Path]:
        return (self._known.path,)

    def verify_chain(self, certificates: Certificates, usage: Usage) -> None:
        pass

    def verify_node(self, node: str, certificates: Certificates) -> None:
        keys = {one.fingerprint for one in self._known.keys(node)}
        if keys and not _vouching(certificates, keys):
            raise self._known.changed(node, fingerprint(certificates[0]))

    def knows(self, node: str) -> bool:
        return is_quic_name(node) and bool(self._known.keys(node))

    def is_bound(self, node: str) -> bool:
        return any(one.is_bound for one in self._known.keys(node))

    def learn(self, node: str, certificates: Certificates, *, bound: bool) -> None:
        key = fingerprint(certificates[0])
        keys = {one.fingerprint for one in self._known.keys(node)}
        if keys and key not in keys and _vouching(certificates, keys):
            self._known.supersede(node, key, OVERLAP, bound=bound or self.is_bound(node))
            extra = {"event": "key_renewed", "peer": node, "fingerprint": key}
            text = "%s has a new key, %s, signed with its old key"
            _log.warning(text, written(node), key, extra=extra)
        elif self._known.learn(node, key, bound=bound):
            extra = {"event": "key_learned", "peer": node, "fingerprint": key}
            text = "first connection with %s; its key is %s"
            _log.info(text, written(node), key, extra=extra)


class AcceptAll:
    """Accepts all peers."""

    @property
    def files(self) -> Sequence[Path]:
        return ()

    def verify_chain(self, certificates: Certificates, usage: Usage) -> None:
        pass

    def verify_node(self, node: str, certificates: Certificates) -> None:
        pass

    def learn(self, node: str, certificates: Certificates, *, bound: bool) -> None:
        pass

    def knows(self, node: str) -> bool:
        return False

    def is_bound(self, node: str) -> bool:
        return False


class Verifier:
    """Verifies the peers of carriers, nodes and gateways. Created by `Trust.verifier`.

    The methods raise PeerRefused if the peer is rejected, and CertificateError if a file cannot be
    used.
    """

    def __init__(
        self,
        verification: Verification,
        uncertified: Sequence[str] = (),
        *,
        require_binding: bool = False,
    ) -> None:
        self._verification = verification
        self._uncertified = tuple(uncertified)
        self._require_binding = require_binding
        self._bound: dict[str, None] = {}
        """Nodes that have bound their cookie proof since the process started, oldest first."""

    @property
    def asks_dialers(self) -> bool:
        """Whether dialers are asked for a certificate. A presented certificate is verified."""
        return not isinstance(self._verification, AcceptAll)

    @property
    def demands_certificates(self) -> bool:
        """Whether some dialers must present a certificate.

        A carrier that cannot request certificates must reject such a setting.
        """
        return self.asks_dialers and "*" not in self._uncertified

    def verify_dialed(self, node: str, certificates: Certificates) -> None:
        """Verifies the certificates of a node that this node dials."""
        if not self.asks_dialers:
            return
        if not certificates:
            raise PeerRefused("the peer presents no certificate", Alert.CERTIFICATE_REQUIRED)
        with _readable():
            check_length(certificates)
            self._verification.verify_chain(certificates, Usage.SERVER)
            self._check_node(node, certificates)

    def verify_dialer(self, certificates: Certificates) -> None:
        """Verifies the certificates of a dialer before its name is known."""
        if not self.asks_dialers:
            return
        if certificates:
            with _readable():
                check_length(certificates)
                self._verification.verify_chain(certificates, Usage.CLIENT)
        elif not self._uncertified:
            raise PeerRefused(
                "the peer presents no certificate, but all dialers must present one",
                Alert.CERTIFICATE_REQUIRED,
            )

    def verify_name(self, node: str, certificates: Certificates, observed: str = "") -> None:
        """Verifies that a dialer with these certificates may use the node name that it claims.

        `observed` is the host from which it connected. If the key differs from the known one, and
        the private address in the name is another address than `observed`, the error has the cause
        `Cause.NAME_AMBIGUOUS`: it is probably another node behind another NAT.
        """
        if not self.asks_dialers:
            return
        if certificates:
            with _readable(), _explaining_ambiguity(node, observed):
                self._check_node(node, certificates)
        elif not self._is_uncertified(node):
            raise PeerRefused(
                f"{written(node)} presents no certificate, but a dialer with this name must "
                "present one",
                Alert.CERTIFICATE_REQUIRED,
            )

    def verify_again(
        self, node: str, certificates: Certificates, *, dialed: bool, observed: str = ""
    ) -> None:
        """Verifies a connected node again with the certificates that it presented.

        `dialed` is True if this node has dialed it. `observed` is as in `verify_name`.
        """
        if dialed:
            self.verify_dialed(node, certificates)
        else:
            self.verify_dialer(certificates)
            self.verify_name(node, certificates, observed)

    def stamp(self) -> files.Stamp:
        """Returns a value that changes when one of the files of the trust setting changes."""
        return files.stamp(self._verification.files)

    def verify_unencrypted(self, node: str) -> None:
        """Verifies a connection without TLS, to or from this node.

        Raises PeerRefused if a key is known for that name, unless `uncertified` lists it.
        """
        if self._verification.knows(node) and not self._is_uncertified(node):
            raise PeerRefused(
                f"the key of {written(node)} is known, but a connection without TLS presents none: "
                "another node may use its name"
            )

    def must_bind(self, node: str, *, over_tcp: bool = False) -> bool:
        """Returns whether the node's cookie proof must be bound to the TLS session.

        This is required by `Trust.requiring(binding=True)`, and for nodes that have bound a proof
        before. The second rule does not apply to nodes in `uncertified`, nor over TCP to names of
        the form `name@host`: these names imply TCP, and such a node can bind only over QUIC.
        """
        if self._require_binding:
            return True
        if over_tcp and not is_quic_name(node):
            return False
        was_bound = node in self._bound or self._verification.is_bound(node)
        return was_bound and not self._is_uncertified(node)

    def learn_dialed(self, node: str, certificates: Certificates, *, bound: bool = False) -> None:
        """Reports that a node that this node dialed has proved the cookie.

        `bound` states whether the proof was bound to the TLS session.
        """
        self._learn_bound(node, bound)
        if certificates:
            self._verification.learn(node, certificates, bound=bound)

    def learn_dialer(
        self, node: str, certificates: Certificates, *, bound: bool = False, observed: str = ""
    ) -> None:
        """Reports that a dialer has proved the cookie.

        `bound` states whether the proof was bound to the TLS session. `observed` is as in
        `verify_name`. The key is only stored if the certificate names the node or its host.
        Commands that run once use certificates without names, and their node names are not used
        again.
        """
        if certificates and speaks_of(certificates[0], node):
            with _explaining_ambiguity(node, observed):
                self._verification.learn(node, certificates, bound=bound)
            self._learn_bound(node, bound)

    def _learn_bound(self, node: str, bound: bool) -> None:
        if not bound:
            return
        self._bound.pop(node, None)
        if len(self._bound) >= _MOST_BOUND:
            del self._bound[next(iter(self._bound))]
        self._bound[node] = None

    def _is_uncertified(self, node: str) -> bool:
        return any(fnmatchcase(node, pattern) for pattern in self._uncertified)

    def _check_node(self, node: str, certificates: Certificates) -> None:
        own = certificates[0]
        if not is_for_node(own, node):
            others = ", ".join(map(written, nodes_of(own)))[:300]
            raise PeerRefused(
                f"the peer's certificate is not for {written(node)}: it is for {others}"
            )
        self._verification.verify_node(node, certificates)


class RecordingVerifier(Verifier):
    """Accepts all peers and stores the presented certificates in `seen`."""

    def __init__(self) -> None:
        super().__init__(AcceptAll(), ())
        self.seen: Certificates = ()

    def verify_dialed(self, node: str, certificates: Certificates) -> None:
        self.seen = tuple(certificates)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Converts errors of malformed certificates, which are parsed on access, to PeerRefused."""
    try:
        yield
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise PeerRefused("the peer's certificates cannot be read") from None


@contextlib.contextmanager
def _explaining_ambiguity(node: str, observed: str) -> Iterator[None]:
    """Tells a changed key from another node with the same private address in its name."""
    try:
        yield
    except PeerRefused as error:
        if error.cause is not Cause.KEY_CHANGED or not is_seen_elsewhere(node, observed):
            raise
        raise another_node(node, observed) from None


def another_node(node: str, observed: str) -> PeerRefused:
    """Returns the error for a node with a name that belongs to another node behind another NAT."""
    host = host_of(node)
    scope = scope_of(host)
    what = "not unique" if scope is None else scope.value
    return PeerRefused(
        f"another node, with another key, is known as {written(node)}. This one connected from "
        f"{observed}, and {host} is {what}: nodes behind different NATs can have the same. Each "
        "needs a unique name, for example at a relay: Node(via=...) or --via. If it is the same "
        "node with a new key, remove the known key: "
        + shlex.join(["quicdist", "cert", "forget", written(node)]),
        cause=Cause.NAME_AMBIGUOUS,
    )


def _vouching(certificates: Certificates, keys: set[str]) -> bool:
    """Returns whether the first certificate has one of these keys, or is signed by one of them.

    After a rotation, a node presents the certificate of its former key as the second one (see
    `Identity.rotate`).
    """
    own = certificates[0]
    if fingerprint(own) in keys:
        return True
    return (
        len(certificates) == 2
        and fingerprint(certificates[1]) in keys
        and _signed(own, certificates[1])
    )


def vouched_keys(certificates: Certificates) -> Sequence[str]:
    """Returns the fingerprints of the keys of a peer; empty if it presents no certificate.

    The first is that of its key. After a rotation (see `Identity.rotate`), the former key follows,
    which has signed the certificate.
    """
    if not certificates:
        return ()
    keys = [fingerprint(certificates[0])]
    if len(certificates) == 2 and _signed(certificates[0], certificates[1]):
        keys.append(fingerprint(certificates[1]))
    return keys


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
