"""`Trust`: whom a node, a gateway or a command believes, in one frozen setting."""

from __future__ import annotations

import dataclasses
import enum
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from quicdist.carriers.trust import files
from quicdist.carriers.trust.chains import read_revocations
from quicdist.carriers.trust.identity import check_times, read_certificates
from quicdist.carriers.trust.known_nodes import KnownNodes
from quicdist.carriers.trust.names import parse_fingerprint
from quicdist.carriers.trust.verifiers import (
    AcceptAll,
    AuthorityVerification,
    FirstUseVerification,
    PinVerification,
    Verification,
    Verifier,
)


class TrustBy(enum.Enum):
    """What a peer is believed by."""

    AUTHORITY = "authority"
    PINS = "pins"
    FIRST_USE = "first use"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom we believe. Make one with `first_use`, `authority`, `pinned` or `nothing`.

    It goes both ways: nodes that we dial, and nodes that dial us, which are asked for their
    certificate in the TLS handshake. `uncertified` names those that are let in without one, for
    the cookie alone: node names, in which `*` stands for anything (fnmatch). Erlang's own QUIC
    carriers can present none.
    """

    by: TrustBy
    file: Path | None = None
    """The authorities (PEM), the pins, or the nodes met so far, which are by default in
    `known_nodes` in the state directory."""
    pins: Mapping[str, Sequence[str]] = field(default_factory=lambda: MappingProxyType({}))
    """Fingerprints by node name."""
    uncertified: Sequence[str] = ()

    crl_file: Path | None = None
    """The revocation lists of the authorities (PEM)."""

    require_tls: bool = False
    """No connection in the clear, and no EPMD embedded: see `requiring`."""

    require_binding: bool = False
    """No peer whose proof of the cookie is not bound to the TLS session: see `requiring`."""

    @classmethod
    def first_use(
        cls, known_nodes: Path | str | None = None, *, uncertified: Sequence[str] = ()
    ) -> Trust:
        """Believes a node when it is first met, and from then on only its key, as ssh does.

        Keys are kept in the file `known_nodes`. The default.
        """
        path = None if known_nodes is None else Path(known_nodes)
        return cls(TrustBy.FIRST_USE, path, uncertified=tuple(uncertified))

    @classmethod
    def authority(
        cls,
        ca_file: Path | str,
        *,
        crl_file: Path | str | None = None,
        uncertified: Sequence[str] = (),
    ) -> Trust:
        """Believes what the authorities in `ca_file` (PEM) have signed for the node's host, and
        have not revoked in `crl_file` (PEM).

        A certificate that names nodes is good for these alone. Raises CertificateError.
        """
        path = Path(ca_file)
        crl = None if crl_file is None else Path(crl_file)
        if crl is not None:
            read_revocations(crl)
        for certificate in read_certificates(path):
            check_times(certificate, path)
        return cls(TrustBy.AUTHORITY, path, uncertified=tuple(uncertified), crl_file=crl)

    @classmethod
    def pinned(
        cls,
        pins: Mapping[str, str | Sequence[str]] | Path | str,
        *,
        uncertified: Sequence[str] = (),
    ) -> Trust:
        """Believes the nodes named, each by the fingerprint of its key, or several of them.

        In names `*` stands for anything. Nobody else is dialed or let in. A file has lines as
        `known_nodes` has, and is read again when it changes. Raises CertificateError for what is
        no fingerprint, and for a file that has none.
        """
        if isinstance(pins, (str, Path)):
            path = Path(pins)
            files.read(path)
            KnownNodes(path, has_patterns=True).pins()
            return cls(TrustBy.PINS, path, uncertified=tuple(uncertified))
        parsed = {
            node: tuple(map(parse_fingerprint, [ones] if isinstance(ones, str) else ones))
            for node, ones in pins.items()
        }
        return cls(TrustBy.PINS, pins=MappingProxyType(parsed), uncertified=tuple(uncertified))

    @classmethod
    def nothing(cls) -> Trust:
        """Believes whoever answers, and whoever dials: only the cookie tells who a node is."""
        return cls(TrustBy.NOTHING)

    def letting_in(self, *patterns: str) -> Trust:
        """The same, and nodes of these names are let in without a certificate."""
        return dataclasses.replace(self, uncertified=(*self.uncertified, *patterns))

    def requiring(self, *, tls: bool = False, binding: bool = False) -> Trust:
        """The same, which requires more of peers.

        `tls`: nodes are neither dialed nor accepted in the clear, and no EPMD is embedded.
        `binding`: peers must bind their proof of the cookie to the TLS session, so that nobody
        can relay it. quicdist nodes do so over QUIC; stock nodes and gateways cannot, and are
        refused. A quicdist node that has done so once must always do so, with or without this.
        """
        return dataclasses.replace(
            self,
            require_tls=self.require_tls or tls,
            require_binding=self.require_binding or binding,
        )

    @property
    def known_nodes(self) -> Path:
        """The file of first use."""
        return self.file or files.state_directory() / "known_nodes"

    def verifier(self) -> Verifier:
        """What decides, for one node. Its files are read when it is asked, and when they change."""
        return Verifier(self._way(), self.uncertified, require_binding=self.require_binding)

    def _way(self) -> Verification:
        if self.by is TrustBy.AUTHORITY:
            assert self.file is not None
            return AuthorityVerification(self.file, self.crl_file)
        if self.by is TrustBy.PINS:
            return PinVerification(self.file or self.pins)
        if self.by is TrustBy.FIRST_USE:
            return FirstUseVerification(self.known_nodes)
        return AcceptAll()

    @property
    def log_level(self) -> int:
        """How loud `describe` is said: who believes everybody is to notice."""
        return logging.WARNING if self.by is TrustBy.NOTHING else logging.INFO

    def describe(self, whom: str = "those that we dial and those that dial us") -> str:
        """One line for the log: what is verified and what is not. `whom` are those who are."""
        if self.by is TrustBy.NOTHING:
            return (
                "TLS: traffic is encrypted, but no certificate is verified, of no peer: "
                "only the cookie tells who a node is"
            )
        how = {
            TrustBy.AUTHORITY: f"authority {self.file}, host in the certificate",
            TrustBy.PINS: f"keys pinned {f'in {self.file}' if self.file else 'for each name'}",
            TrustBy.FIRST_USE: f"first use, keys kept in {self.known_nodes}",
        }[self.by]
        line = f"TLS: nodes are verified, {whom} ({how})"
        if self.uncertified:
            line += f"; let in without a certificate: {', '.join(self.uncertified)}"
        return line
