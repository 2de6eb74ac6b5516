"""Exporter values of a TLS 1.3 session: RFC 8446, 7.5.

Both ends of a session compute the same value. Whoever stands between two ends and terminates TLS
towards both has two sessions, and cannot make their values equal (RFC 9266).
"""

from __future__ import annotations

import struct
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

LABEL: Final = b"EXPORTER-quicdist-cookie"
"""Label of the value that a proof of the cookie is bound to. Private: `EXPORTER-Channel-Binding`
(RFC 9266) belongs to whatever else may bind to the same session."""

LENGTH: Final = 32
"""Bytes of that value."""


def export(
    master: bytes, algorithm: hashes.HashAlgorithm, label: bytes, context: bytes, length: int
) -> bytes:
    """TLS-Exporter(label, context, length). `master` is the session's exporter_master_secret,
    `algorithm` the hash of its cipher suite."""
    secret = expand_label(master, algorithm, label, _hash(algorithm, b""), algorithm.digest_size)
    return expand_label(secret, algorithm, b"exporter", _hash(algorithm, context), length)


def expand_label(
    secret: bytes, algorithm: hashes.HashAlgorithm, label: bytes, context: bytes, length: int
) -> bytes:
    """HKDF-Expand-Label (RFC 8446, 7.1)."""
    full = b"tls13 " + label
    info = struct.pack(">HB", length, len(full)) + full + bytes([len(context)]) + context
    return HKDFExpand(algorithm, length, info).derive(secret)


def _hash(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()
