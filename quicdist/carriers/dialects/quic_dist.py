"""`sample`: the carrier of quic_dist (mickel8; quicer, msquic).

`ping` and `pong`, four raw bytes each, go before a handshake of the manual's form. Both ends read
one event of the QUIC library as one message, so what must not merge is kept apart here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from quicdist.carriers.base import (
    Buffer,
    CarrierLimits,
    DialectError,
    DialectTraits,
    Gap,
    Received,
    Role,
    Step,
    Write,
)
from quicdist.carriers.dialects.single import STREAM, SingleStreamDialect

_PING, _PONG = b"ping", b"pong"

_STATUS_GAP = 0.05
"""Seconds between `sok` and the challenge; some tens of milliseconds are safe."""

_ACK_GAP = 0.25
"""Seconds that the first frame waits behind the challenge's ack, unless the dialer speaks."""


class QuicDistDialect(SingleStreamDialect):
    """Single stream with a preamble, and a listener that takes its time."""

    traits = DialectTraits(name="quic_dist", alpn="sample", ticks_may_stop=True)

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
        """One message; protects from messages that reach the peer as one event.

        Before `pong` a name is held here: with `ping` in one event it wedges the acceptor for
        good. Behind a status a gap: the dialer drops a challenge that comes with it.
        """
        if self._awaited:
            self._held.append(message)
            return ()
        steps = super().handshake_bytes(message)
        if self.role is Role.LISTENER and message[:1] == b"s":
            return (*steps, Gap(_STATUS_GAP, ends_on_receive=False))
        return steps

    def connected(self) -> Sequence[Step]:
        """Protects the first frames: a dialer throws away what comes with the final `a`."""
        if self.role is Role.LISTENER:
            return (Gap(_ACK_GAP, ends_on_receive=True),)
        return ()

    def receive(self, stream: int, data: Buffer) -> Received:
        """As the plain form, behind `ping` or `pong`. Raises DialectError."""
        if not self._awaited:
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
