"""Hosts and node names in certificates, and key fingerprints.

A certificate is valid for a host if it contains its IP address or DNS name (RFC 5280, 4.2.1.6; RFC
9525). The URI `quicdist:port@host` names one node of a host. A certificate with such URIs is valid
only for the nodes that they name.
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

from quicdist.carriers.trust.certificate_cache import kept
from quicdist.carriers.trust.errors import CertificateError

Certificates: TypeAlias = Sequence[x509.Certificate]
"""The certificates that a peer presented, its own first; empty if it presented none."""

_SCHEME = "quicdist:"
_FINGERPRINT = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def _size(certificate: x509.Certificate) -> int:
    return len(certificate.tbs_certificate_bytes)


def general_name(host: str) -> x509.GeneralName:
    """Returns the subject alternative name for a host: an IP address or a DNS name.

    Raises CertificateError if a certificate cannot contain the name.
    """
    if is_address(host):
        return x509.IPAddress(ipaddress.ip_address(host))
    try:
        return x509.DNSName(host)
    except ValueError:
        raise CertificateError(
            f"invalid host name {host!r}: a certificate cannot contain it"
        ) from None


def is_address(host: str) -> bool:
    """Returns whether `host` is an IP address, not a DNS name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def node_uri(node: str) -> x509.UniformResourceIdentifier:
    """Returns the subject alternative name for a node: the URI `quicdist:<node name>`."""
    return x509.UniformResourceIdentifier(_SCHEME + written(node))


def hosts_of(certificate: x509.Certificate) -> Sequence[str]:
    """Returns the IP addresses and DNS names in a certificate."""
    names = _alternative_names(certificate)
    if names is None:
        return ()
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*addresses, *names.get_values_for_type(x509.DNSName)]


@kept(_size)
def nodes_of(certificate: x509.Certificate) -> Sequence[str]:
    """Returns the node names in a certificate."""
    names = _alternative_names(certificate)
    if names is None:
        return ()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return tuple(unquote(uri[len(_SCHEME) :]) for uri in uris if uri.startswith(_SCHEME))


def is_for_host(certificate: x509.Certificate, host: str) -> bool:
    """Returns whether a certificate is valid for an IP address or DNS name."""
    names = _alternative_names(certificate)
    if names is None:
        return False
    if is_address(host):
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    # service_identity rejects a whole certificate with `quicdist:` URIs, which are not URLs.
    try:
        patterns = [
            DNSPattern.from_bytes(name.encode()) for name in names.get_values_for_type(x509.DNSName)
        ]
        verify_service_identity(patterns, obligatory_ids=[DNS_ID(host)], optional_ids=[])
    except (VerificationError, _NoNames, ValueError):
        return False
    return True


def is_for_node(certificate: x509.Certificate, node: str) -> bool:
    """Returns whether a certificate names the node, or names no node at all."""
    nodes = nodes_of(certificate)
    return not nodes or node in nodes


def speaks_of(certificate: x509.Certificate, node: str) -> bool:
    """Returns whether a certificate names the node or, if it names no node, the node's host."""
    nodes = nodes_of(certificate)
    return node in nodes if nodes else is_for_host(certificate, host_of(node))


def is_quic_name(node: str) -> bool:
    """Returns whether the name has the form `port@host`, which implies QUIC."""
    alive = node.rpartition("@")[0]
    return alive.isascii() and alive.isdigit()


def host_of(node: str) -> str:
    """Returns the part of a node name after the `@`."""
    return node.rpartition("@")[2]


@kept(_size)
def fingerprint(certificate: x509.Certificate) -> str:
    """Returns `sha256:` and the SHA-256 hash of the public key (SubjectPublicKeyInfo) in hex.

    All certificates of one key have the same fingerprint.
    """
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(key).hexdigest()}"


def parse_fingerprint(text: str) -> str:
    """Converts a fingerprint to the format of `fingerprint`.

    Upper case, colons and a missing `sha256:` are accepted. Raises CertificateError if it is
    invalid.
    """
    bare = text.strip().lower().removeprefix("sha256:").replace(":", "")
    found = _FINGERPRINT.fullmatch(bare)
    if found is None:
        raise CertificateError(
            f"invalid fingerprint {text!r}: expected 'sha256:' and 64 hex digits"
        )
    return f"sha256:{found[1]}"


def written(node: str) -> str:
    """Returns a node name percent-encoded, as one ASCII word that is never a pattern.

    Peers choose their names, so a name can contain any character.
    """
    return quote(node, safe="@:.-_~")


def read(word: str) -> str:
    """Returns the node name that `written` has encoded."""
    return unquote(word)


def is_pattern(word: str) -> bool:
    """Returns whether a word contains the wildcards `*` or `?`."""
    return "*" in word or "?" in word


def read_pattern(word: str) -> str:
    """Converts a word to an `fnmatch` pattern.

    `*` and `?` are wildcards; brackets and percent-encoded characters are literal.
    """
    return "".join(
        one if one in "*?" else glob.escape(unquote(one)) for one in re.split(r"([*?])", word)
    )


@kept(_size)
def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        # Extensions are parsed on first access, and a peer can send invalid ones.
        return None
