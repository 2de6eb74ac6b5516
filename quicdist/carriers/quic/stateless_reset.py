"""Stateless resets (RFC 9000, 10.3).

Each connection ID that this node issues has a token, which only the peer receives. After a restart,
a datagram with an unknown connection ID is answered with the token of that ID, so the peer detects
the restart immediately. Tokens are derived from a secret that survives the restart; they are not
stored.
"""

from __future__ import annotations

import hmac
import os

TOKEN_LENGTH = 16

_SHORTEST = 21
"""Minimum size of a reset in bytes: 5 bytes and the token (RFC 9000, 10.3)."""
_LONGEST = 43
"""Maximum size of a reset in bytes. It looks like a short-header packet (RFC 9000, 10.3)."""


class StatelessResetTokens:
    """The stateless reset tokens of one endpoint.

    `secret` is persistent and does not depend on the certificate or its key, so a node can send
    resets after a restart with another certificate. The tokens also depend on `port`: otherwise
    two nodes that share a secret would reveal each other's tokens to an attacker who has observed
    a connection ID (RFC 9000, 21.11).
    """

    def __init__(self, secret: bytes, port: int) -> None:
        self._key = hmac.digest(secret, b"quicdist stateless reset %d" % port, "sha256")

    def of(self, connection_id: bytes) -> bytes:
        """Returns the token of a connection ID of this endpoint."""
        return hmac.digest(self._key, connection_id, "sha256")[:TOKEN_LENGTH]

    def answer(self, data: bytes, connection_id: bytes) -> bytes | None:
        """Returns the reset for a datagram with an unknown connection ID.

        A reset is shorter than the datagram that it answers, which prevents loops between two
        endpoints (RFC 9000, 10.3.3). Returns None if the datagram is too short for that.
        """
        size = min(len(data) - 1, _LONGEST)
        if size < _SHORTEST:
            return None
        head = bytearray(os.urandom(size - TOKEN_LENGTH))
        head[0] = 0x40 | head[0] & 0x3F
        return bytes(head) + self.of(connection_id)


def token_in(data: bytes) -> bytes:
    """Returns the last 16 bytes of a datagram, which hold the token if it is a reset.

    Returns empty bytes if the datagram is too short to be a reset.
    """
    return data[-TOKEN_LENGTH:] if len(data) >= _SHORTEST else b""
