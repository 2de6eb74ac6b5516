"""`sample`: the carrier of quic_dist (mickel8; quicer, msquic).

`ping` and `pong`, four raw bytes each, precede the handshake of the ERTS manual. Both ends read one
event of the QUIC library as one message, so this dialect keeps messages in separate events.
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
    """A single stream with a preamble, and gaps in the messages of a listener."""

    traits = DialectTraits(name="quic_dist", alpn="sample", ticks_may_stop=True)
    keeps_apart = True

    def __init__(self, role: Role, limits: CarrierLimits) -> None:
        super().__init__(role, limits)
        self._preamble = b""
        self._awaited = _PONG if role is Role.DIALER else _PING
        self._held: deque[bytes] = deque()

    @property
    def is_open(self) -> bool:
        """Whether `ping` or `pong` has arrived. Before that, a connection may be retried."""
        return not self._awaited

    def opened(self) -> Sequence[Step]:
        """Returns the `ping` of a dialer. A connection without a stream blocks the acceptor."""
        return (Write(STREAM, (_PING,)),) if self.role is Role.DIALER else ()

    def handshake_bytes(self, message: bytes) -> Sequence[Step]:
        """Returns one message, or stores it until `pong` arrives.

        A name in the same event as `ping` blocks the acceptor permanently.
        """
        if self._awaited:
            self._held.append(message)
            return ()
        return super().handshake_bytes(message)

    def receive(self, stream: int, data: Buffer) -> Received:
        """Returns the packets after `ping` or `pong`. Raises DialectError if they are invalid."""
        if not self._awaited or stream != STREAM:
            return super().receive(stream, data)
        self._preamble += bytes(data)
        came, self._preamble = self._preamble, b""
        if not self._awaited.startswith(came[:4]):
            raise DialectError(f"got {came[:4]!r}, expected {self._awaited!r}")
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
