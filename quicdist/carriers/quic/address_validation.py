"""Proof that a dialer receives at the address it sends from, before any state is made for it.

RFC 9000, 8.1.2: instead of answering a first datagram we ask for it again with a token that
only its address gets to see. The token says all we need to know, sealed with a key of this
endpoint, and holds for 30 s, at that address, for the connection id that came with it.
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


class AddressValidation:
    """Of one endpoint: its key is made with it and never leaves it."""

    def __init__(self) -> None:
        self._seal = AESGCM(AESGCM.generate_key(bit_length=128))

    def ask(self, initial: Initial, address: SocketAddress, now: float) -> bytes:
        """The Retry packet that asks for a proof; `now` in seconds of one clock throughout."""
        source_id = os.urandom(CONNECTION_ID_LENGTH)
        nonce = os.urandom(_NONCE)
        content = _TIME.pack(now) + initial.destination_id
        token = nonce + self._seal.encrypt(nonce, content, _holder(address, source_id))
        return encode_quic_retry(
            version=initial.version,
            source_cid=source_id,
            destination_cid=initial.source_id,
            original_destination_cid=initial.destination_id,
            retry_token=token,
        )

    def check(self, initial: Initial, address: SocketAddress, now: float) -> Opening | None:
        """How the connection began, where the token is ours and good; None where it is not."""
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
        return Opening(content[_TIME.size :], retry_id=initial.destination_id)


def _holder(address: SocketAddress, connection_id: bytes) -> bytes:
    """Who alone can use a token: sealed with it, not in it."""
    return repr(address[:2]).encode() + connection_id
