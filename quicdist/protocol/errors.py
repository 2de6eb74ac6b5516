"""What can go wrong on this floor: the peer's mistake, the peer's refusal, our own mistake."""

from __future__ import annotations

from quicdist.errors import Cause, QuicdistError


class DistError(QuicdistError):
    """Base of everything raised by quicdist.protocol."""

    cause: Cause = Cause.PROTOCOL


class ProtocolError(DistError):
    """The peer sent what the protocol does not allow; the connection is to be dropped.

    The text says what came and what was expected. Caused by an EtfDecodeError when a term
    did not decode.
    """


class HandshakeRefused(DistError):
    """One of the two nodes does not want this connection; it is to be dropped.

    `cause` says why. `status` is the refusing status as text where there was one (`nok`,
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
    """The peer has another cookie than this node."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, Cause.COOKIE)


class UsageError(DistError):
    """The caller asked for what this session, or this state of it, cannot do."""
