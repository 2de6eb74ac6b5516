"""Proof that a dialer receives at the address it sends from, before any state is made for it.

RFC 9000, 8.1.2: instead of answering a first datagram we ask for it again with a token that
only its address gets to see. The token says all we need to know, sealed with a key of this
endpoint, and holds for 30 s, at that address, for the connection id that came with it.
"""

from __future__ import annotations

import os

from aioquic.quic.packet import encode_quic_retry
from aioquic.quic.retry import QuicRetryTokenHandler

from quicdist.carriers.quic.engine import CONNECTION_ID_LENGTH, Opening, SocketAddress
from quicdist.carriers.quic.initial import Initial


class AddressProofs:
    """Of one endpoint: its key is made with it and never leaves it."""

    def __init__(self) -> None:
        self._tokens = QuicRetryTokenHandler()

    def ask(self, initial: Initial, address: SocketAddress, now: float) -> bytes:
        """The Retry packet that asks for a proof; `now` in seconds of one clock throughout."""
        source_id = os.urandom(CONNECTION_ID_LENGTH)
        token = self._tokens.create_token(
            address=address,
            original_destination_connection_id=initial.destination_id,
            retry_source_connection_id=source_id,
            now=now,
        )
        return encode_quic_retry(
            version=initial.version,
            source_cid=source_id,
            destination_cid=initial.source_id,
            original_destination_cid=initial.destination_id,
            retry_token=token,
        )

    def check(self, initial: Initial, address: SocketAddress, now: float) -> Opening | None:
        """How the connection began, where the token is ours and good; None where it is not."""
        try:
            original_id = self._tokens.validate_token(
                address=address,
                destination_cid=initial.destination_id,
                token=initial.token,
                now=now,
            )
        except ValueError:
            return None
        return Opening(original_id, retry_id=initial.destination_id)
