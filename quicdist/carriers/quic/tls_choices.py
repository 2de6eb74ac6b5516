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

_OF_AIOQUIC: Mapping[str, int] = {"secp256r1": 0x17, "secp384r1": 0x18, "x25519": 0x1D}

_POST_QUANTUM, _HAS_IT = "X25519MLKEM768", "qh3"

KEY_EXCHANGES: Mapping[str, Mapping[str, int]] = {
    "aioquic": _OF_AIOQUIC,
    "aioquic-plain": _OF_AIOQUIC,
}
"""Key exchange groups (RFC 8446, 4.2.7) by engine, for engines in which they can be configured.

qh3 has no such setting. Its listener uses the dialer's first key share with a group that it
supports, and its dialer offers X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem) first, so two qh3
endpoints use that group."""


def check(engine: str, cipher_suites: Sequence[str], key_exchanges: Sequence[str]) -> None:
    """Raises ValueError if the engine does not support a name, or if `cipher_suites` is empty."""
    if not cipher_suites:
        raise ValueError("cipher_suites: expected at least one")
    _check("cipher suite", cipher_suites, CIPHER_SUITES, engine)
    if not key_exchanges:
        return
    groups = KEY_EXCHANGES.get(engine)
    if groups is None:
        raise ValueError(f"key_exchanges: the engine {engine} does not support this setting")
    _check("key exchange", key_exchanges, groups, engine)


def _check(kind: str, names: Sequence[str], known: Mapping[str, int], engine: str) -> None:
    for name in names:
        if name not in known:
            hint = f"; two nodes with the engine {_HAS_IT} use it" if name == _POST_QUANTUM else ""
            raise ValueError(
                f"{kind} {name!r}: the engine {engine} only supports {', '.join(known)}{hint}"
            )
