"""Stateless resets: how a peer learns at once that we know nothing of its connection any more.

RFC 9000, 10.3. Each connection id of ours has a token that only its peer is told. A datagram for
an id that we do not know, after a restart, is answered with that token: whoever dialed it then
knows. Tokens are derived from a key that survives the restart, so none has to be kept.
"""

from __future__ import annotations

import hmac
import os

TOKEN_LENGTH = 16

_SHORTEST = 21
"""RFC 9000, 10.3: 5 bytes that cannot be guessed, and the token."""
_LONGEST = 43
"""Looks like a short packet; longer says no more."""


class StatelessResetTokens:
    """The tokens of one endpoint.

    `secret` is kept, and does not change with the certificate or its key: a node that returns with
    another one must still be able to say that it has restarted. `port` is bound into the tokens:
    two nodes that share a secret would else hand out each other's to whoever saw a connection id
    (RFC 9000, 21.11).
    """

    def __init__(self, secret: bytes, port: int) -> None:
        self._key = hmac.digest(secret, b"quicdist stateless reset %d" % port, "sha256")

    def of(self, connection_id: bytes) -> bytes:
        """The token of an id of ours."""
        return hmac.digest(self._key, connection_id, "sha256")[:TOKEN_LENGTH]

    def answer(self, data: bytes, connection_id: bytes) -> bytes | None:
        """The reset for a datagram that nobody here knows; None where there must be none.

        It is shorter than what it answers: two endpoints that know nothing of each other fall
        silent instead of answering each other for ever (RFC 9000, 10.3.3).
        """
        size = min(len(data) - 1, _LONGEST)
        if size < _SHORTEST:
            return None
        head = bytearray(os.urandom(size - TOKEN_LENGTH))
        head[0] = 0x40 | head[0] & 0x3F
        return bytes(head) + self.of(connection_id)


def token_in(data: bytes) -> bytes:
    """What would be the token if this datagram were a reset; empty where it cannot be one."""
    return data[-TOKEN_LENGTH:] if len(data) >= _SHORTEST else b""
