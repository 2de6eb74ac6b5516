"""`Trust`: how a node, a gateway or a command verifies its peers."""

from __future__ import annotations

import dataclasses
import enum
import logging
import warnings
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
from quicdist.setting_types import check_fields, check_type


class TrustBy(enum.Enum):
    """How peers are verified."""

    AUTHORITY = "authority"
    PINS = "pins"
    FIRST_USE = "first use"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Trust:
    """How peers are verified. Created by `first_use`, `authority`, `pinned` or `nothing`.

    The setting applies to nodes that this node dials and to dialers, from which the TLS handshake
    requests a certificate. `uncertified` lists the nodes that are accepted without a certificate,
    if they have the cookie. Its items are node names, in which `*` matches any text (fnmatch).
    Erlang's QUIC carriers cannot present a certificate.
    """

    by: TrustBy
    file: Path | None = None
    """The file of authorities (PEM), pins or known nodes. The default for known nodes is
    `known_nodes` in the state directory."""
    pins: Mapping[str, Sequence[str]] = field(default_factory=lambda: MappingProxyType({}))
    """Fingerprints by node name or pattern."""
    uncertified: Sequence[str] = ()

    crl_file: Path | None = None
    """The certificate revocation lists of the authorities (PEM)."""

    require_tls: bool = False
    """Whether connections without TLS and an embedded EPMD are disabled; see `requiring`."""

    require_binding: bool = False
    """Whether peers must bind their cookie proof to the TLS session; see `requiring`."""

    def __post_init__(self) -> None:
        """Raises TypeError."""
        check_fields(self)

    @classmethod
    def first_use(
        cls, known_nodes: Path | str | None = None, *, uncertified: Sequence[str] = ()
    ) -> Trust:
        """Trusts a node's key on first use and rejects any other key for that name later, as ssh.

        The keys are stored in the file `known_nodes`. This is the default setting.
        """
        path = None if known_nodes is None else Path(known_nodes)
        return cls(TrustBy.FIRST_USE, path, uncertified=uncertified)

    @classmethod
    def authority(
        cls,
        ca_file: Path | str,
        *,
        crl_file: Path | str | None = None,
        uncertified: Sequence[str] = (),
    ) -> Trust:
        """Trusts certificates for the node's host that an authority in `ca_file` (PEM) has signed.

        Certificates that `crl_file` (PEM) lists as revoked are rejected. A certificate that names
        nodes is valid only for those nodes. Raises CertificateError if a file is not readable or
        invalid, or if an authority is expired.
        """
        path = Path(ca_file)
        crl = None if crl_file is None else Path(crl_file)
        if crl is not None:
            read_revocations(crl)
        for certificate in read_certificates(path):
            check_times(certificate, path)
        return cls(TrustBy.AUTHORITY, path, uncertified=uncertified, crl_file=crl)

    @classmethod
    def pinned(
        cls,
        pins: Mapping[str, str | Sequence[str]] | Path | str,
        *,
        uncertified: Sequence[str] = (),
    ) -> Trust:
        """Trusts only the listed nodes, each with one or more key fingerprints.

        In node names `*` matches any text. All other nodes are rejected. `pins` is a mapping, or a
        file in the format of `known_nodes`, which is read again when it changes. Raises
        CertificateError if a fingerprint or the file is invalid.
        """
        if isinstance(pins, (str, Path)):
            path = Path(pins)
            files.read(path)
            KnownNodes(path, has_patterns=True).pins()
            return cls(TrustBy.PINS, path, uncertified=uncertified)
        check_type("pins=", pins, Mapping[str, str | Sequence[str]])
        parsed = {
            node: tuple(map(parse_fingerprint, [ones] if isinstance(ones, str) else ones))
            for node, ones in pins.items()
        }
        return cls(TrustBy.PINS, pins=MappingProxyType(parsed), uncertified=uncertified)

    @classmethod
    def nothing(cls) -> Trust:
        """Verifies no certificate: only the cookie authenticates peers."""
        return cls(TrustBy.NOTHING)

    def allowing_uncertified(self, *patterns: str) -> Trust:
        """Returns a copy that also accepts nodes with these names without a certificate."""
        return dataclasses.replace(self, uncertified=(*self.uncertified, *patterns))

    def letting_in(self, *patterns: str) -> Trust:
        """The deprecated name of `allowing_uncertified`."""
        text = "Trust.letting_in() is now Trust.allowing_uncertified()"
        warnings.warn(text, DeprecationWarning, 2)
        return self.allowing_uncertified(*patterns)

    def requiring(self, *, tls: bool = False, binding: bool = False) -> Trust:
        """Returns a copy with stricter requirements for peers.

        `tls`: connections without TLS are rejected in both directions, and no EPMD is embedded.
        `binding`: peers must bind their cookie proof to the TLS session, which prevents relay
        attacks. quicdist nodes do this over QUIC. Stock nodes and gateways do not support it and
        are rejected. A node that has bound its proof once must always do so, even without this
        setting.
        """
        return dataclasses.replace(
            self,
            require_tls=self.require_tls or tls,
            require_binding=self.require_binding or binding,
        )

    @property
    def known_nodes(self) -> Path:
        """The file in which trust on first use stores the keys."""
        return self.file or files.state_directory() / "known_nodes"

    def verifier(self) -> Verifier:
        """Returns a verifier for one node. It reads its files on first use and after changes."""
        return Verifier(
            self._verification(), self.uncertified, require_binding=self.require_binding
        )

    def _verification(self) -> Verification:
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
        """The log level for `describe`: a warning if no certificate is verified."""
        return logging.WARNING if self.by is TrustBy.NOTHING else logging.INFO

    def describe(self, peers: str = "dialed nodes and dialers") -> str:
        """Returns a log line about what is verified. `peers` tells which peers are verified."""
        if self.by is TrustBy.NOTHING:
            return (
                "TLS: traffic is encrypted, but no certificate is verified: "
                "only the cookie authenticates peers"
            )
        how = {
            TrustBy.AUTHORITY: f"authority {self.file}, host in the certificate",
            TrustBy.PINS: f"keys pinned {f'in {self.file}' if self.file else 'for each name'}",
            TrustBy.FIRST_USE: f"first use, keys kept in {self.known_nodes}",
        }[self.by]
        line = f"TLS: nodes are verified, {peers} ({how})"
        if self.uncertified:
            line += f"; accepted without a certificate: {', '.join(self.uncertified)}"
        return line
