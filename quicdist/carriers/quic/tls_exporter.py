"""Exporter values of a TLS 1.3 session (RFC 8446, 7.5).

Both endpoints of a session compute the same value. A relay that terminates TLS on both sides has
two sessions with different values, which it cannot make equal (RFC 9266).
"""

from __future__ import annotations

import struct
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

LABEL: Final = b"EXPORTER-quicdist-cookie"
"""Label of the exporter value to which cookie proofs are bound. It is private to quicdist: other
protocols may use `EXPORTER-Channel-Binding` (RFC 9266) on the same session."""

LENGTH: Final = 32
"""Length of that exporter value in bytes."""


def export(
    master: bytes, algorithm: hashes.HashAlgorithm, label: bytes, context: bytes, length: int
) -> bytes:
    """Computes TLS-Exporter(label, context, length) (RFC 8446, 7.5).

    `master` is the exporter_master_secret of the session, and `algorithm` the hash of its cipher
    suite.
    """
    secret = expand_label(master, algorithm, label, _hash(algorithm, b""), algorithm.digest_size)
    return expand_label(secret, algorithm, b"exporter", _hash(algorithm, context), length)


def expand_label(
    secret: bytes, algorithm: hashes.HashAlgorithm, label: bytes, context: bytes, length: int
) -> bytes:
    """Computes HKDF-Expand-Label (RFC 8446, 7.1)."""
    full = b"tls13 " + label
    info = struct.pack(">HB", length, len(full)) + full + bytes([len(context)]) + context
    return HKDFExpand(algorithm, length, info).derive(secret)


def _hash(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()
