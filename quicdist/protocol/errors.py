"""The exceptions of the protocol layer."""

from __future__ import annotations

from quicdist.errors import Cause, QuicdistError


class DistError(QuicdistError):
    """Base class of the exceptions of quicdist.protocol."""

    cause: Cause = Cause.PROTOCOL


class ProtocolError(DistError):
    """The peer violated the protocol. The connection must be closed.

    The text contains the received and the expected data. `__cause__` is an EtfDecodeError if a term
    did not decode.
    """


class DialectError(QuicdistError):
    """The peer sent bytes that are invalid for the carrier. The connection must be closed."""


class HandshakeRefused(DistError):
    """One of the two nodes refused the connection. It must be closed.

    `cause` is the reason. `status` is the refusing status as text if one was sent (`nok`,
    `not_allowed`, ...). `answer` is a handshake message to send to the peer before the connection
    is closed.
    """

    def __init__(
        self,
        reason: str,
        cause: Cause,
        *,
        status: str | None = None,
        answer: bytes | None = None,
    ) -> None:
        super().__init__(reason)
        self.cause = cause
        self.status = status
        self.answer = answer


class WrongCookie(HandshakeRefused):
    """The cookie of the peer differs from the cookie of this node."""

    def __init__(self, reason: str, *, answer: bytes | None = None) -> None:
        super().__init__(reason, Cause.COOKIE, answer=answer)


class UsageError(DistError):
    """The session, or its current state, does not support the operation."""
