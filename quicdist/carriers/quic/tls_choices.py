"""Which cipher suites and key exchanges of TLS 1.3 an endpoint takes, by their IANA names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CIPHER_SUITES: Mapping[str, int] = {
    # The cheapest first; erlang_quic has no other.
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
}
"""RFC 8446, B.4."""

_OF_AIOQUIC: Mapping[str, int] = {"secp256r1": 0x17, "secp384r1": 0x18, "x25519": 0x1D}

KEY_EXCHANGES: Mapping[str, Mapping[str, int]] = {
    "aioquic": _OF_AIOQUIC,
    "aioquic-plain": _OF_AIOQUIC,
}
"""Groups (RFC 8446, 4.2.7) of the engines that take a choice. qh3 takes none: as a listener it uses
the first key share of the dialer's whose group it knows. Its own dialers offer X25519MLKEM768
(draft-ietf-tls-ecdhe-mlkem) first, so two qh3 endpoints use that one."""


def check(engine: str, cipher_suites: Sequence[str], key_exchanges: Sequence[str]) -> None:
    """Raises ValueError for a name that the engine does not have, and where no cipher suite is
    left."""
    if not cipher_suites:
        raise ValueError("cipher_suites: at least one expected")
    _check("cipher suite", cipher_suites, CIPHER_SUITES, engine)
    if not key_exchanges:
        return
    groups = KEY_EXCHANGES.get(engine)
    if groups is None:
        raise ValueError(f"key_exchanges: the engine {engine} makes the choice itself")
    _check("key exchange", key_exchanges, groups, engine)


def _check(kind: str, names: Sequence[str], known: Mapping[str, int], engine: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(
                f"{kind} {name!r}: the engine {engine} does not have it; it has {', '.join(known)}"
            )
