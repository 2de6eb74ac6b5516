"""Texts for the error codes of CONNECTION_CLOSE frames."""

from __future__ import annotations

from collections.abc import Mapping

_TRANSPORT: Mapping[int, str] = {
    0x00: "no error",
    0x01: "internal error",
    0x02: "connection refused",
    0x03: "flow control error",
    0x04: "stream limit error",
    0x05: "stream state error",
    0x06: "final size error",
    0x07: "frame encoding error",
    0x08: "transport parameter error",
    0x09: "connection id limit error",
    0x0A: "protocol violation",
    0x0B: "invalid token",
    0x0C: "application error",
    0x0D: "crypto buffer exceeded",
    0x0E: "key update error",
    0x0F: "aead limit reached",
    0x10: "no viable path",
    0x11: "version negotiation error",
}
"""RFC 9000, 20.1; RFC 9368, 10.2."""

_ALERTS: Mapping[int, str] = {
    0: "close notify",
    10: "unexpected message",
    20: "bad record mac",
    22: "record overflow",
    40: "handshake failure",
    42: "bad certificate",
    43: "unsupported certificate",
    44: "certificate revoked",
    45: "certificate expired",
    46: "certificate unknown",
    47: "illegal parameter",
    48: "unknown ca",
    49: "access denied",
    50: "decode error",
    51: "decrypt error",
    70: "protocol version",
    71: "insufficient security",
    80: "internal error",
    86: "inappropriate fallback",
    90: "user canceled",
    109: "missing extension",
    110: "unsupported extension",
    112: "unrecognized name",
    113: "bad certificate status response",
    115: "unknown psk identity",
    116: "certificate required",
    120: "no application protocol",
}
"""RFC 8446, 6; RFC 7301, 3.2."""

_CRYPTO_ERROR = range(0x100, 0x200)
"""Codes of TLS alerts (RFC 9001, 4.8)."""


def describe(*, is_application: bool, code: int, reason: str) -> str:
    """Returns the text of a close.

    The peer may not be authenticated, and the text is logged: characters that are not printable
    are replaced.
    """
    if is_application:
        name = f"application close {code}"
    elif code in _CRYPTO_ERROR:
        alert = code - _CRYPTO_ERROR.start
        name = f"TLS alert {_ALERTS.get(alert, f'{alert:#x}')}"
    else:
        name = _TRANSPORT.get(code, f"{code:#x}")
    plain = "".join(char if char.isprintable() else "?" for char in reason)
    return f"{name}: {plain}" if plain else name
