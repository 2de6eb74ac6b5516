"""A dialer and a listener of the engines on a simulated network."""

from __future__ import annotations

import heapq
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from quicdist.carriers.quic.address_validation import AddressValidation
from quicdist.carriers.quic.ecn import ECT0, NOT_ECT
from quicdist.carriers.quic.engine import (
    Batch,
    Engine,
    EngineConnection,
    Opening,
    Path,
    SocketAddress,
    VerifyPeer,
    load_engine,
)
from quicdist.carriers.quic.initial import read_initial
from quicdist.carriers.quic.settings import QuicSettings
from quicdist.carriers.quic.stateless_reset import StatelessResetTokens
from tests.carriers.owners import CREDENTIALS

HERE: SocketAddress = ("192.0.2.1", 1000)
THERE: SocketAddress = ("198.51.100.1", 2000)
HERE_V6: SocketAddress = ("2001:db8::1", 1000, 0, 0)
THERE_V6: SocketAddress = ("2001:db8::2", 2000, 0, 0)
DELAY = 0.01
"""Seconds in one direction."""
LATE = 0.004
"""Seconds by which late datagrams are late."""

Treatment: TypeAlias = Callable[[int], int | None]
"""What a path does with an ECN codepoint; None if it drops the datagram."""

Datagrams: TypeAlias = tuple[bytes, int, int]
"""Datagrams, the size of each, and their ECN codepoint."""


def unchanged(ecn: int) -> int:
    """Leaves the codepoint alone."""
    return ecn


TOKENS = StatelessResetTokens(b"secret", 2000)


def settings(engine: str, **changes: Any) -> QuicSettings:
    return replace(QuicSettings(CREDENTIALS, engine=engine), **changes)


def engine_of(chosen: QuicSettings) -> Engine:
    return load_engine(chosen, TOKENS.of)


def accept(certificates: Sequence[object]) -> None:
    """Accepts any certificates."""


class End:
    """One end of a connection, with what its engine has reported."""

    def __init__(
        self, connection: EngineConnection, address: SocketAddress, verify_peer: VerifyPeer
    ) -> None:
        connection.verify_peer = verify_peer
        self.connection = connection
        self.address = address
        self.alpn: str | None = None
        self.data: dict[int, bytearray] = defaultdict(bytearray)
        self.ended: dict[int, str] = {}
        self.ids = set(connection.connection_ids)
        self.retired: set[bytes] = set()
        self.written = 0
        self.datagrams = self.dropped = 0
        """Datagrams that this end sent, and those of them that the network dropped."""

    def write(self, stream: int, data: bytes) -> None:
        self.connection.write(stream, [data])
        self.written += len(data)

    # -- EngineSink --

    def handshake_completed(self, alpn: str) -> None:
        self.alpn = alpn

    def stream_data(self, stream: int, data: bytes) -> None:
        self.data[stream] += data

    def stream_ended(self, stream: int, how: str) -> None:
        self.ended[stream] = how

    def connection_id_issued(self, connection_id: bytes) -> None:
        self.ids.add(connection_id)

    def connection_id_retired(self, connection_id: bytes) -> None:
        self.ids.discard(connection_id)
        self.retired.add(connection_id)


class Network:
    """Both ends, the datagrams under way, and a clock that advances to the next event."""

    def __init__(
        self,
        dialer: str | QuicSettings,
        listener: str | QuicSettings,
        *,
        alpns: Sequence[str] = ("quicdist/1",),
        loss: float = 0.0,
        seed: int = 1,
        treat: Treatment = unchanged,
        late: float = 0.0,
        verify: tuple[VerifyPeer, VerifyPeer] = (accept, accept),
        is_retried: bool = False,
        addresses: tuple[SocketAddress, SocketAddress] = (HERE, THERE),
    ) -> None:
        """`verify` are those of the dialer and of the listener.

        `treat` changes the ECN codepoints of datagrams. That share of them arrives `LATE` seconds
        later than the others.
        """
        chosen = [settings(each) if isinstance(each, str) else each for each in (dialer, listener)]
        self.now = 1.0
        self.loss = loss
        self.treat = treat
        self.late = late
        self.delay = DELAY
        """Seconds in one direction."""
        self.is_cut = False
        self.muted: End | None = None
        """An end whose datagrams are dropped."""
        self._dice = random.Random(seed)
        self._listening = engine_of(chosen[1])
        self._verify_peer = verify[1]
        self._proofs = AddressValidation() if is_retried else None
        self._flying: list[tuple[float, int, SocketAddress, SocketAddress, Datagrams]] = []
        self._count = 0
        self.dialer = End(
            engine_of(chosen[0]).dialer("localhost", list(alpns)), addresses[0], verify[0]
        )
        self._there = addresses[1]
        self._listener: End | None = None
        self.dialer.connection.connect((addresses[1], None), self.now)
        self._settle(self.dialer)

    @property
    def listener(self) -> End:
        assert self._listener is not None, "no datagram has arrived"
        return self._listener

    @property
    def ends(self) -> list[End]:
        return [self.dialer] if self._listener is None else [self.dialer, self._listener]

    def run(self, until: Callable[[], object], seconds: float = 60.0) -> None:
        """Lets time pass until a condition holds. Fails after `seconds` of simulated time."""
        stop = self.now + seconds
        while not until():
            assert self.now < stop, "the condition does not hold in time"
            self._step()

    def wait(self, seconds: float) -> None:
        """Lets time pass."""
        stop = self.now + seconds
        self.settle()
        while self._next() < stop:
            self._step()
        self.now = max(self.now, stop)

    def establish(self) -> None:
        """Runs until both ends have a confirmed connection, and ends their handshakes."""
        self.run(lambda: len(self.ends) == 2 and all(end.alpn is not None for end in self.ends))
        for end in self.ends:
            end.connection.peer_proved()
            end.connection.send_whole(False)
        self.run(lambda: self.dialer.connection.is_confirmed)

    def delay_share(self, late: float) -> None:
        """From now on, that share of the datagrams is late.

        Which ones does not depend on the handshake, whose datagrams vary with the certificates.
        """
        self.late = late
        self._dice.seed(1)

    def open(self) -> None:
        """Gives both ends much credit."""
        for end in self.ends:
            end.connection.grant(16 << 20)

    def settle(self) -> None:
        """Sends what both ends have to send."""
        for end in self.ends:
            self._settle(end)

    def lose(self, end: End, stream: int, data: bytes) -> None:
        """Writes data of which every datagram is dropped."""
        self.is_cut = True
        end.write(stream, data)
        self.settle()
        self.is_cut = False

    def _next(self) -> float:
        timers = [end.connection.progress().timer for end in self.ends]
        arrivals = [each[0] for each in self._flying[:1]]
        return min([at for at in timers if at is not None] + arrivals, default=math.inf)

    def _step(self) -> None:
        self.settle()
        self.now = max(self.now + 1e-6, self._next())
        for end in self.ends:
            timer = end.connection.progress().timer
            if timer is not None and timer <= self.now:
                end.connection.handle_timer(self.now)
        while self._flying and self._flying[0][0] <= self.now:
            _, _, source, target, datagrams = heapq.heappop(self._flying)
            self._arrive(source, target, datagrams)
        self.settle()

    def _settle(self, end: End) -> None:
        end.connection.drain(end)
        has_more = True
        while has_more:
            for batch in end.connection.transmit(self.now):
                self._send(end, batch)
            has_more = end.connection.progress().has_more
        end.connection.drain(end)

    def _send(self, end: End, batch: Batch) -> None:
        data, size, (target, _) = batch
        ecn = ECT0 if end.connection.progress().marks else NOT_ECT
        kept: dict[tuple[int | None, float], list[bytes]] = defaultdict(list)
        for at in range(0, len(data), size):
            if not self.is_cut and end is not self.muted and self._dice.random() >= self.loss:
                is_late = self.late and self._dice.random() < self.late
                kept[self.treat(ecn), LATE if is_late else 0.0].append(data[at : at + size])
        count = -(-len(data) // size)
        end.datagrams += count
        end.dropped += count
        for (codepoint, late), datagrams in kept.items():
            if codepoint is None:
                continue  # the path drops it
            end.dropped -= len(datagrams)
            # Datagrams of one size stay together, as the kernel keeps them.
            is_even = len({len(each) for each in datagrams[:-1]}) <= 1
            for part in [b"".join(datagrams)] if is_even else datagrams:
                self._count += 1
                sent = (part, min(size, len(part)), codepoint)
                flight = (self.now + self.delay + late, self._count, end.address, target, sent)
                heapq.heappush(self._flying, flight)

    def _arrive(self, source: SocketAddress, target: SocketAddress, datagrams: Datagrams) -> None:
        data, size, ecn = datagrams
        path: Path = (source, None)
        if target[:2] != self._there[:2]:
            if target[:2] == self.dialer.address[:2]:
                self.dialer.connection.receive(data, size, path, self.now, ecn)
        elif self._listener is None:
            self._listen(source, data, size, ecn)
        else:
            self._listener.connection.receive(data, size, path, self.now, ecn)

    def _listen(self, source: SocketAddress, data: bytes, size: int, ecn: int) -> None:
        initial = read_initial(data[:size])
        assert initial is not None
        opening: Opening | None = Opening(initial.destination_id)
        if self._proofs is not None:
            if not initial.token:
                answer = self._proofs.ask(initial, source, self.now)
                self.dialer.connection.receive(answer, len(answer), (self._there, None), self.now)
                return
            opening = self._proofs.check(initial, source, self.now)
        assert opening is not None
        connection = self._listening.listener(opening)
        connection.receive(data, size, (source, None), self.now, ecn)
        assert connection.is_started
        self._listener = End(connection, self._there, self._verify_peer)


def opened(dialer: str | QuicSettings, listener: str | QuicSettings, **options: Any) -> Network:
    """Returns a network after the handshakes, whose ends have much credit."""
    network = Network(dialer, listener, **options)
    network.establish()
    network.open()
    return network
