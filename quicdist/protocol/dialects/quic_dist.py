"""`sample`: the carrier of quic_dist (mickel8; quicer, msquic).

`ping` and `pong`, four raw bytes each, go before a handshake of the manual's form. Both ends read
one event of the QUIC library as one message, so what must not merge is kept apart here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from quicdist.limits import CarrierLimits
from quicdist.protocol.dialects.base import (
    Buffer,
    DialectError,
    DialectTraits,
    Received,
    Step,
    Write,
)
from quicdist.protocol.dialects.single_stream import STREAM, SingleStreamDialect
from quicdist.protocol.role import Role

_PING, _PONG = b"ping", b"pong"


class QuicDistDialect(SingleStreamDialect):
    """Single stream with a preamble, and a listener that takes its time."""

    traits = DialectTraits(name="quic_dist", alpn="sample", ticks_may_stop=True)
    keeps_apart = True

    def __init__(self, role: Role, limits: CarrierLimits) -> None:
        super().__init__(role, limits)
        self._preamble = b""
        self._awaited = _PONG if role is Role.DIALER else _PING
        self._held: deque[bytes] = deque()

    @property
    def is_open(self) -> bool:
        """Whether `ping` or `pong` has come: before it, a connection may be tried again."""
        return not self._awaited

    def opened(self) -> Sequence[Step]:
        """The dialer's `ping`, at once: a connection without a stream wedges the acceptor."""
        return (Write(STREAM, (_PING,)),) if self.role is Role.DIALER else ()

    def handshake_bytes(self, message: bytes) -> Sequence[Step]:
        """One message; before `pong` it is held here.

        That protects the acceptor: a name with `ping` in one event wedges it for good.
        """
        if self._awaited:
            self._held.append(message)
            return ()
        return super().handshake_bytes(message)

    def receive(self, stream: int, data: Buffer) -> Received:
        """As the plain form, behind `ping` or `pong`. Raises DialectError."""
        if not self._awaited or stream != STREAM:
            return super().receive(stream, data)
        self._preamble += bytes(data)
        came, self._preamble = self._preamble, b""
        if not self._awaited.startswith(came[:4]):
            raise DialectError(f"{came[:4]!r} came where {self._awaited!r} was expected")
        if len(came) < 4:
            self._preamble = came
            return Received()
        self._awaited = b""
        steps: list[Step] = []
        if self.role is Role.LISTENER:
            steps.append(Write(STREAM, (_PONG,)))
        while self._held:
            steps += self.handshake_bytes(self._held.popleft())
        received = super().receive(stream, came[4:])
        return Received(received.packets, [*steps, *received.steps])
