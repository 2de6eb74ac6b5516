"""The TLS 1.3 cipher suites and key exchange groups of the QUIC engines, by IANA name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CIPHER_SUITES: Mapping[str, int] = {
    # The fastest one is first; it is the only one that erlang_quic supports.
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
}
"""Cipher suite numbers by name (RFC 8446, B.4)."""

_GROUPS: Mapping[str, int] = {"secp256r1": 0x17, "secp384r1": 0x18, "x25519": 0x1D}

KEY_EXCHANGES: Mapping[str, Mapping[str, int]] = {
    "auto": _GROUPS,
    "native": _GROUPS,
    "aioquic": _GROUPS,
    "aioquic-plain": _GROUPS,
}
"""Key exchange groups (RFC 8446, 4.2.7) by engine. No engine supports X25519MLKEM768
(draft-ietf-tls-ecdhe-mlkem)."""


def check(engine: str, cipher_suites: Sequence[str], key_exchanges: Sequence[str]) -> None:
    """Raises ValueError if the engine does not support a name, or if `cipher_suites` is empty."""
    if not cipher_suites:
        raise ValueError("cipher_suites: expected at least one")
    _check("cipher suite", cipher_suites, CIPHER_SUITES, engine)
    if not key_exchanges:
        return
    _check("key exchange", key_exchanges, KEY_EXCHANGES[engine], engine)


def _check(kind: str, names: Sequence[str], known: Mapping[str, int], engine: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(
                f"{kind} {name!r}: the engine {engine} only supports {', '.join(known)}"
            )
