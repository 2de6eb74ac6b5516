"""Proof of a key on a TLS connection whose server does not ask for certificates.

The node signs a nonce of the relay together with the key of the relay's certificate, which it has
verified. A relay that forwards the nonce of another relay gets a signature over its own key, which
the other relay rejects.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from quicdist.carriers.trust import Identity
from quicdist.carriers.trust.names import fingerprint

DER = Encoding.DER
_CONTEXT = b"quicdist-relay/1 client key\0"
_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)


def signed_bytes(relay_key: str, nonce: bytes) -> bytes:
    """What a node signs: `relay_key` is the fingerprint of the relay's key."""
    return _CONTEXT + hashlib.sha256(relay_key.encode()).digest() + nonce


def sign(identity: Identity, data: bytes) -> bytes:
    """Returns the signature of `data` with the key of the identity."""
    key = identity.key
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, _PSS, hashes.SHA256())
    return key.sign(data)


def signer(certificate: bytes, signature: bytes, data: bytes) -> x509.Certificate | None:
    """Returns the certificate (DER) if its key made the signature of `data`, else None."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        key = parsed.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, _PSS, hashes.SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, data)
        else:
            return None
        fingerprint(parsed)
    except (ValueError, InvalidSignature, UnsupportedAlgorithm):
        return None
    return parsed
