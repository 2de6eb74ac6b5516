"""Whom a certificate speaks of: hosts and node names in it, and the fingerprint of its key.

A node is `port@host`. A certificate is good for a host by an IP or DNS name (RFC 5280, 4.2.1.6;
RFC 9525), and for one node of that host by the URI `quicdist:port@host`. Where it has such a URI,
it is good for the nodes that are named so, and for no other.
"""

from __future__ import annotations

import glob
import hashlib
import ipaddress
import re
from collections.abc import Sequence
from typing import TypeAlias
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from service_identity import VerificationError
from service_identity.exceptions import CertificateError as _NoNames
from service_identity.hazmat import DNS_ID, DNSPattern, verify_service_identity

from quicdist.carriers.trust.errors import CertificateError

Certificates: TypeAlias = Sequence[x509.Certificate]
"""What a peer presented, its own first; empty where it presented none."""

_SCHEME = "quicdist:"
_FINGERPRINT = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def general_name(host: str) -> x509.GeneralName:
    """How a certificate names a host: as IP address where it is one, else as DNS name.

    Raises CertificateError.
    """
    if is_address(host):
        return x509.IPAddress(ipaddress.ip_address(host))
    try:
        return x509.DNSName(host)
    except ValueError:
        raise CertificateError(f"{host!r}: no host name that a certificate can carry") from None


def is_address(host: str) -> bool:
    """Whether it is an IP address, not a DNS name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def node_uri(node: str) -> x509.UniformResourceIdentifier:
    """How a certificate names a node."""
    return x509.UniformResourceIdentifier(_SCHEME + written(node))


def hosts_of(certificate: x509.Certificate) -> Sequence[str]:
    """The IP addresses and DNS names in it."""
    names = _alternative_names(certificate)
    if names is None:
        return ()
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*addresses, *names.get_values_for_type(x509.DNSName)]


def nodes_of(certificate: x509.Certificate) -> Sequence[str]:
    """The nodes in it."""
    names = _alternative_names(certificate)
    if names is None:
        return ()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return [unquote(uri[len(_SCHEME) :]) for uri in uris if uri.startswith(_SCHEME)]


def is_for_host(certificate: x509.Certificate, host: str) -> bool:
    """Whether it is good for that IP address or DNS name."""
    names = _alternative_names(certificate)
    if names is None:
        return False
    if is_address(host):
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    # Given the whole certificate it would stumble over URIs, of which ours are no URLs.
    try:
        patterns = [
            DNSPattern.from_bytes(name.encode()) for name in names.get_values_for_type(x509.DNSName)
        ]
        verify_service_identity(patterns, obligatory_ids=[DNS_ID(host)], optional_ids=[])
    except (VerificationError, _NoNames, ValueError):
        return False
    return True


def is_for_node(certificate: x509.Certificate, node: str) -> bool:
    """Whether it may be that node's, as far as it says: one that names no node may be anyone's."""
    nodes = nodes_of(certificate)
    return not nodes or node in nodes


def speaks_of(certificate: x509.Certificate, node: str) -> bool:
    """Whether it claims to be that node's: by its name or, where it names no node, by its host."""
    nodes = nodes_of(certificate)
    return node in nodes if nodes else is_for_host(certificate, host_of(node))


def is_quic_name(node: str) -> bool:
    """Whether the name itself says that the node is reached over QUIC: `port@host`."""
    alive = node.rpartition("@")[0]
    return alive.isascii() and alive.isdigit()


def host_of(node: str) -> str:
    """What stands behind the `@`."""
    return node.rpartition("@")[2]


def fingerprint(certificate: x509.Certificate) -> str:
    """`sha256:` and the SHA-256 of its public key (SubjectPublicKeyInfo) in hex: the same for
    every certificate of that key."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(key).hexdigest()}"


def parse_fingerprint(text: str) -> str:
    """In the form that `fingerprint` has; capitals, colons and a missing `sha256:` are taken too.

    Raises CertificateError.
    """
    bare = text.strip().lower().removeprefix("sha256:").replace(":", "")
    found = _FINGERPRINT.fullmatch(bare)
    if found is None:
        raise CertificateError(
            f"{text!r} is no fingerprint: 'sha256:' and 64 hex digits are expected"
        )
    return f"sha256:{found[1]}"


def written(node: str) -> str:
    """A node name as one word of plain ASCII; peers choose them. It is never a pattern."""
    return quote(node, safe="@:.-_~")


def read(word: str) -> str:
    """The node name that `written` made a word of."""
    return unquote(word)


def is_pattern(word: str) -> bool:
    """Whether a word that a person wrote stands for several names."""
    return "*" in word or "?" in word


def read_pattern(word: str) -> str:
    """What a person wrote as a pattern for `fnmatch`: `*` and `?` are wildcards, whatever is
    percent-encoded, or a bracket, is literal."""
    return "".join(
        one if one in "*?" else glob.escape(unquote(one)) for one in re.split(r"([*?])", word)
    )


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        # Extensions are parsed only now, and whoever sends them may have made them up.
        return None
