"""Address validation of dialers with Retry packets (RFC 9000, 8.1.2).

Before the endpoint creates state for a dialer, it can answer the first datagram with a Retry
packet. The dialer must repeat its datagram with the token from that packet, which proves that it
receives at its address. The token is encrypted with a key of this endpoint and contains all state.
It is valid for 30 s, for one address and one connection ID.
"""

from __future__ import annotations

import os
import struct

from aioquic.quic.packet import encode_quic_retry
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quicdist.carriers.quic.engine import CONNECTION_ID_LENGTH, Opening, SocketAddress
from quicdist.carriers.quic.initial import Initial

_LIFETIME = 30.0
_NONCE = 12
_TIME = struct.Struct("!d")
_PADDING = bytes(16)
"""Makes a token long enough for an engine that decodes one of its own format in the same place."""


class AddressValidation:
    """Retry packets and tokens of one endpoint, with a random key."""

    def __init__(self) -> None:
        self._seal = AESGCM(AESGCM.generate_key(bit_length=128))

    def ask(self, initial: Initial, address: SocketAddress, now: float) -> bytes:
        """Returns a Retry packet for an Initial packet from `address`.

        `now` is a time in seconds; all calls must use the same clock.
        """
        source_id = os.urandom(CONNECTION_ID_LENGTH)
        nonce = os.urandom(_NONCE)
        content = _TIME.pack(now) + _PADDING + initial.destination_id
        token = nonce + self._seal.encrypt(nonce, content, _holder(address, source_id))
        return encode_quic_retry(
            version=initial.version,
            source_cid=source_id,
            destination_cid=initial.source_id,
            original_destination_cid=initial.destination_id,
            retry_token=token,
        )

    def check(self, initial: Initial, address: SocketAddress, now: float) -> Opening | None:
        """Checks the token of an Initial packet; returns None if it is not valid.

        Otherwise returns how the connection was opened.
        """
        nonce, sealed = initial.token[:_NONCE], initial.token[_NONCE:]
        if len(nonce) < _NONCE:
            return None
        try:
            content = self._seal.decrypt(nonce, sealed, _holder(address, initial.destination_id))
        except InvalidTag:
            return None
        (asked_at,) = _TIME.unpack_from(content)
        if now - asked_at > _LIFETIME:
            return None
        return Opening(content[_TIME.size + len(_PADDING) :], retry_id=initial.destination_id)


def _holder(address: SocketAddress, connection_id: bytes) -> bytes:
    """Returns the associated data of a token: the address and connection ID it is valid for."""
    return repr(address[:2]).encode() + connection_id
