"""The proof of the cookie without a challenge, which saves a round trip on `quicdist/2`.

A proof covers the exporter value of the TLS session, which is new in each session and known to its
two ends only, so it cannot be used in another session and needs no challenge. It also covers
everything that was said before it (`docs/channel-binding.md`).
"""

from __future__ import annotations

import hmac
import struct

from quicdist.protocol.handshake_messages import PROOF_SIZE, Prover

_LABEL = b"quicdist early cookie proof"
_LENGTH = struct.Struct(">H")


class Transcript:
    """The messages of one handshake, which the proofs cover."""

    __slots__ = ("_covered",)

    def __init__(self, binding: bytes) -> None:
        """`binding` is the exporter value of the TLS session (RFC 8446, 7.5)."""
        self._covered = binding

    def add(self, *messages: bytes) -> None:
        """Appends messages, each with its length."""
        for message in messages:
            self._covered += _LENGTH.pack(len(message)) + message

    def proof(self, cookie: bytes, prover: Prover) -> bytes:
        """The 32-byte proof of the cookie that covers all messages so far.

        The side is part of the text, so a proof cannot be sent back to its sender.
        """
        text = b"\0".join((_LABEL, prover.value, self._covered))
        return hmac.digest(cookie, text, "sha256")


def split_proof(message: bytes) -> tuple[bytes, bytes]:
    """Splits a message into the part that its proof covers and the proof."""
    return message[:-PROOF_SIZE], message[-PROOF_SIZE:]
