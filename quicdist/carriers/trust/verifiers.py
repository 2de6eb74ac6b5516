"""The four ways to tell whether a peer is who it says; `Verifier` is what carriers and nodes ask.

Who dials knows which node it wants, and asks `dialed` once TLS has shown the certificate. Who is
dialed asks `dialer` then, and `named` when the peer says its name in the distribution handshake.
`learn` follows once the peer has proved the cookie.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

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

_log = logging.getLogger("quicdist.trust")


_MOST_BOUND = 10_000
"""Nodes of which a process remembers that they bind, besides those in a file."""


class Verification(Protocol):
    """One way. Certificates are at least one, and its key's owner is at the other end: TLS has
    seen to that. Each method raises PeerRefused, and CertificateError where it cannot tell."""

    def anyone(self, certificates: Certificates, usage: Usage) -> None:
        """Whether there is any node that this could be."""

    def node(self, node: str, certificates: Certificates) -> None:
        """Whether it is this node, `anyone` having been asked."""

    def learn(self, node: str, certificates: Certificates, *, bound: bool) -> None:
        """It was believed, and has proved the cookie, `bound` to the TLS session or not."""

    @property
    def files(self) -> Sequence[Path]:
        """What it goes by."""

    def knows(self, node: str) -> bool:
        """Whether the name belongs to a key, so that nobody has it without TLS. `name@host` says
        TCP by itself: such a name belongs to a key where that is pinned."""

    def is_bound(self, node: str) -> bool:
        """Whether it is written down that the node binds its proof of the cookie."""


class AuthorityVerification:
    """A certificate that an authority has signed, for the node's host."""

    def __init__(self, ca_file: Path, crl_file: Path | None = None) -> None:
        self._file = ca_file
        self._crl_file = crl_file
        self._stamp: files.Stamp | None = None
        self._authorities: Certificates = ()
        self._lists: Sequence[x509.CertificateRevocationList] = ()

    @property
    def files(self) -> Sequence[Path]:
        return (self._file,) if self._crl_file is None else (self._file, self._crl_file)

    def anyone(self, certificates: Certificates, usage: Usage) -> None:
        authorities = self._current()
        check_chain(certificates, authorities, usage)
        check_revoked(certificates, authorities, self._lists)

    def node(self, node: str, certificates: Certificates) -> None:
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
                _log.error(
                    "%s; the authorities read before go on being believed", error, extra=extra
                )
            self._stamp = stamp
        return self._authorities

    def _take(self, authorities: Certificates) -> None:
        if self._stamp is not None and authorities != self._authorities:
            names = ", ".join(one.subject.rfc4514_string() for one in authorities)
            extra = {"event": "authority_renewed", "path": str(self._file)}
            _log.info("%s has changed; believed from now on: %s", self._file, names, extra=extra)
        self._authorities = authorities


class PinVerification:
    """A key that is written down for the node's name."""

    def __init__(self, pins: Mapping[str, Sequence[str]] | Path) -> None:
        self._file = KnownNodes(pins, has_patterns=True) if isinstance(pins, Path) else None
        self._pins = {} if isinstance(pins, Path) else pins

    @property
    def files(self) -> Sequence[Path]:
        return () if self._file is None else (self._file.path,)

    def anyone(self, certificates: Certificates, usage: Usage) -> None:
        pinned = {one for keys in self._current().values() for one in keys}
        if not _vouching(certificates, pinned):
            raise PeerRefused(
                f"the peer's key {fingerprint(certificates[0])} is pinned for no node",
                Alert.CERTIFICATE_UNKNOWN,
            )

    def node(self, node: str, certificates: Certificates) -> None:
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
    """The key that the node had when it was met first."""

    def __init__(self, known_nodes: Path) -> None:
        self._known = KnownNodes(known_nodes)

    @property
    def files(self) -> Sequence[Path]:
        return (self._known.path,)

    def anyone(self, certificates: Certificates, usage: Usage) -> None:
        pass

    def node(self, node: str, certificates: Certificates) -> None:
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
            text = "%s has a new key, %s, which its old one vouches for"
            _log.warning(text, written(node), key, extra=extra)
        elif self._known.learn(node, key, bound=bound):
            extra = {"event": "key_learned", "peer": node, "fingerprint": key}
            text = "%s is met for the first time; its key is %s"
            _log.info(text, written(node), key, extra=extra)


class AcceptAll:
    """Whoever it is."""

    @property
    def files(self) -> Sequence[Path]:
        return ()

    def anyone(self, certificates: Certificates, usage: Usage) -> None:
        pass

    def node(self, node: str, certificates: Certificates) -> None:
        pass

    def learn(self, node: str, certificates: Certificates, *, bound: bool) -> None:
        pass

    def knows(self, node: str) -> bool:
        return False

    def is_bound(self, node: str) -> bool:
        return False


class Verifier:
    """Tells carriers, nodes and gateways whom to believe. Made by `Trust.verifier`.

    Every method raises PeerRefused, and CertificateError where a file says nothing usable.
    """

    def __init__(
        self, way: Verification, uncertified: Sequence[str] = (), *, require_binding: bool = False
    ) -> None:
        self._way = way
        self._uncertified = tuple(uncertified)
        self._require_binding = require_binding
        self._bound: dict[str, None] = {}
        """Nodes that have bound their proofs since this process began, the oldest first."""

    @property
    def asks_dialers(self) -> bool:
        """Whether those who dial us are asked for a certificate. What they present counts."""
        return not isinstance(self._way, AcceptAll)

    @property
    def demands_certificates(self) -> bool:
        """Whether some of those who dial us must present one. A carrier that cannot ask for it
        must refuse such a setting."""
        return self.asks_dialers and "*" not in self._uncertified

    def dialed(self, node: str, certificates: Certificates) -> None:
        """The node that we dial has presented these."""
        if not self.asks_dialers:
            return
        if not certificates:
            raise PeerRefused("the node presents no certificate", Alert.CERTIFICATE_REQUIRED)
        with _readable():
            check_length(certificates)
            self._way.anyone(certificates, Usage.SERVER)
            self._check_node(node, certificates)

    def dialer(self, certificates: Certificates) -> None:
        """Somebody who dials us has presented these, its name is to come."""
        if not self.asks_dialers:
            return
        if certificates:
            with _readable():
                check_length(certificates)
                self._way.anyone(certificates, Usage.CLIENT)
        elif not self._uncertified:
            raise PeerRefused(
                "it presents no certificate, and the setting lets nobody in without",
                Alert.CERTIFICATE_REQUIRED,
            )

    def named(self, node: str, certificates: Certificates) -> None:
        """Whoever presented these to us says that it is this node."""
        if not self.asks_dialers:
            return
        if certificates:
            with _readable():
                self._check_node(node, certificates)
        elif not self._is_uncertified(node):
            raise PeerRefused(
                f"{written(node)} presents no certificate, and the setting does not let it in "
                "without",
                Alert.CERTIFICATE_REQUIRED,
            )

    def again(self, node: str, certificates: Certificates, *, dialed: bool) -> None:
        """A connected node has presented these: whether it would be believed now."""
        if dialed:
            self.dialed(node, certificates)
        else:
            self.dialer(certificates)
            self.named(node, certificates)

    def stamp(self) -> files.Stamp:
        """Differs once a file has changed that says whom we believe."""
        return files.stamp(self._way.files)

    def in_the_clear(self, node: str) -> None:
        """A connection without TLS is to be, or says that it is, this node's: a name whose key is
        known is not given away, unless the setting says that the cookie will do for it."""
        if self._way.knows(node) and not self._is_uncertified(node):
            raise PeerRefused(
                f"the key of {written(node)} is known, and a connection in the clear shows none: "
                "somebody else may have taken its name"
            )

    def must_bind(self, node: str, *, over_tcp: bool = False) -> bool:
        """Whether its proof of the cookie must be bound to the TLS session: by the setting, or
        because it was before. That is not asked of those that are accepted for the cookie alone,
        nor over TCP of `name@host`, a name that says TCP: it binds where it dials over QUIC."""
        if self._require_binding:
            return True
        if over_tcp and not is_quic_name(node):
            return False
        was_bound = node in self._bound or self._way.is_bound(node)
        return was_bound and not self._is_uncertified(node)

    def learn_dialed(self, node: str, certificates: Certificates, *, bound: bool = False) -> None:
        """The node that we dialed has proved the cookie, `bound` to the TLS session or not."""
        self._learn_bound(node, bound)
        if certificates:
            self._way.learn(node, certificates, bound=bound)

    def learn_dialer(self, node: str, certificates: Certificates, *, bound: bool = False) -> None:
        """A node that dialed us has proved the cookie.

        Its key is remembered where its certificate claims the name; one that names nobody, such
        as that of a command run once, on any free port, is nobody whom we will meet again.
        """
        if certificates and speaks_of(certificates[0], node):
            self._learn_bound(node, bound)
            self._way.learn(node, certificates, bound=bound)

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
                f"the peer's certificate is another node's than {written(node)}'s: "
                f"it is for {others}"
            )
        self._way.node(node, certificates)


class RecordingVerifier(Verifier):
    """Believes everybody, and keeps what was presented, for people to look at."""

    def __init__(self) -> None:
        super().__init__(AcceptAll(), ())
        self.seen: Certificates = ()

    def dialed(self, node: str, certificates: Certificates) -> None:
        self.seen = tuple(certificates)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Parts of a certificate are read when they are asked for, and may hold anything."""
    try:
        yield
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise PeerRefused("the peer's certificates cannot be read") from None


def _vouching(certificates: Certificates, keys: set[str]) -> bool:
    """Whether the first certificate has one of these keys, or one of them has signed it: the
    node's former key, which it presents next to the new one (see Identity.rotate)."""
    own = certificates[0]
    if fingerprint(own) in keys:
        return True
    return (
        len(certificates) == 2
        and fingerprint(certificates[1]) in keys
        and _signed(own, certificates[1])
    )


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
