"""aioquic's loss recovery with quicdist's congestion controllers, for many packets in flight.

The cost of an ACK is proportional to the packets that it acknowledges. aioquic's own recovery scans
all packets in flight. Loss is detected as in RFC 9002, section 6.1, until an ACK shows that packets
were reordered. After that, it is detected only by time, with a tolerance that grows (RFC 8985,
section 6.2, RACK). aioquic's own recovery handles the packets of the handshake.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Any, Protocol, TypeAlias, cast

from aioquic.quic.congestion.base import (
    QuicCongestionControl,
    QuicCongestionControlFactory,
    register_congestion_control,
)
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import (
    K_PACKET_THRESHOLD,
    K_TIME_THRESHOLD,
    QuicPacketRecovery,
    QuicPacketSpace,
)
from aioquic.quic.stream import QuicStreamSender

from quicdist.carriers.quic.congestion.bbr import HOST_DELAY
from quicdist.carriers.quic.congestion.choice import CONTROLLERS
from quicdist.carriers.quic.congestion.controller import Ack, Algorithm, Controller
from quicdist.carriers.quic.congestion.pacer import Pacer
from quicdist.carriers.quic.congestion.rate_sample import SendState
from quicdist.carriers.quic.congestion.resume import Capacity, CarefulResume
from quicdist.carriers.quic.ecn import EcnCounts, EcnValidation
from quicdist.carriers.quic.engine import burst
from quicdist.carriers.quic.engine.aioquic_packets import Handlers, Piece, SentPacket
from quicdist.carriers.quic.engine.aioquic_ranges import Ranges
from quicdist.carriers.quic.mtu import BASE

AnyPacket: TypeAlias = QuicSentPacket | SentPacket

_ACKED = QuicDeliveryState.ACKED
_NEW_SENT = partial(tuple.__new__, SentPacket)
_MAX_LOST = 256
"""Maximum number of lost packets that are stored to detect spurious losses."""
_MAX_TOLERANCE = 8
"""Maximum tolerated delay in quarters of the minimum round trip."""
_TELL_EVERY = 0.001
_TELL_EVERY_SHORT = 0.004
"""Minimum time in seconds between two reports to the controller while it is application-limited.
The second is for a path with a shorter round trip than HOST_DELAY, whose window is fixed."""
_GRANULARITY = 0.001
"""Timer granularity in seconds (RFC 9002, section 6.1.2)."""


class Sizes(Protocol):
    """The receiver of acknowledgements and losses of datagrams, by size in bytes."""

    def arrived(self, size: int) -> None: ...

    def lost(self, size: int) -> None: ...


class Congestion(QuicCongestionControl):
    """The adapter of a congestion controller to aioquic's interface."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.max_in_flight = 1 << 62
        """Maximum bytes in flight, in addition to the controller's window."""
        self.congestion_window = controller.window
        self.lost = 0
        """Number of lost datagrams."""
        self.sizes: Sizes | None = None
        self._state: SendState | None = None
        self._acked_size = 0
        self._lost_size = 0
        self._marked = 0
        """Number of packets newly reported with CE."""
        self._newest: SendState | None = None
        self._newest_lost: SendState | None = None
        self._rtt: float | None = None
        self._told_at = -math.inf

    @property
    def _max_datagram_size(self) -> int:
        return self.controller.datagram_size

    @_max_datagram_size.setter
    def _max_datagram_size(self, size: int) -> None:
        self.controller.datagram_size = size
        self._take_window()

    def restart(self, controller: Controller) -> None:
        """Another controller, for another path."""
        self.controller = controller
        self._state = self._newest = self._newest_lost = self._rtt = None
        self._take_window()

    def resume(self, capacity: Capacity) -> None:
        """Starts with what an earlier connection measured on the path."""
        self.controller = CarefulResume(self.controller, capacity)

    def _take_window(self) -> None:
        self.congestion_window = min(self.controller.window, self.max_in_flight)

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        state = self.on_burst_sent(packet.sent_time or 0.0, packet.sent_bytes)
        packet.state = state  # type: ignore[attr-defined]

    def on_burst_sent(self, now: float, size: int) -> SendState:
        """Reports packets of `size` bytes in all. Returns the state that they share."""
        state = self._state
        if state is not None and state.sent_at == now:
            state.in_flight += size
        else:
            state = self._state = self.controller.on_sent(now, self.bytes_in_flight, size)
        self.bytes_in_flight += size
        return state

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        self.acknowledged(packet.sent_bytes, packet.sent_bytes, packet)

    def acknowledged(self, size: int, largest: int, newest: AnyPacket) -> None:
        """Reports acknowledged packets: total size, size of the largest, and the newest packet."""
        self.bytes_in_flight -= size
        self._acked_size += size
        state: SendState | None = getattr(newest, "state", None)
        if state is not None and (self._newest is None or state.sent_at >= self._newest.sent_at):
            self._newest = state
        self._state = None
        if self.sizes is not None:
            self.sizes.arrived(largest)

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        largest = 0
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes
            self._lost_size += packet.sent_bytes
            self.lost += 1
            largest = max(largest, packet.sent_bytes)
            self._newest_lost = getattr(packet, "state", None) or self._newest_lost
        self._tell_lost(largest)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        largest = 0
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes
            largest = max(largest, packet.sent_bytes)
        self._tell_lost(largest)

    def _tell_lost(self, largest: int) -> None:
        if self.sizes is not None and largest:
            self.sizes.lost(largest)

    def on_persistent_congestion(self) -> None:
        self.controller.on_persistent_congestion()
        self._take_window()

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        self._rtt = rtt if self._rtt is None else min(self._rtt, rtt)

    def marked(self, packets: int) -> None:
        """Reports the number of acknowledged packets that were marked with CE."""
        self._marked += packets

    def spurious(self, now: float, size: int) -> None:
        """Reports that `size` bytes that were declared lost are acknowledged."""
        self.controller.on_spurious_loss(now, size)

    def tell(self, now: float, pause: float) -> bool:
        """Reports the results of ACKs or of a loss timer to the controller.

        `pause` is the minimum time in seconds between two reports while it is application-limited.
        Returns False if there is nothing to report, or if it can wait: acknowledgements of little
        data tell the controller little, and come often on a short path.
        """
        if not self._lost_size and not self._marked:
            newest = self._newest
            is_idle = newest is not None and newest.is_app_limited
            if not self._acked_size or (is_idle and now - self._told_at < pause):
                return False
        self._told_at = now
        marked = 0
        if self._marked:
            marked = min(self._marked * self.controller.datagram_size, self._acked_size)
        self.controller.on_ack(
            Ack(
                now=now,
                acknowledged=self._acked_size,
                lost=self._lost_size,
                in_flight=self.bytes_in_flight,
                newest=self._newest,
                newest_lost=self._newest_lost,
                rtt=self._rtt,
                ecn_ce=marked,
            )
        )
        self._acked_size = self._lost_size = self._marked = 0
        self._newest = self._newest_lost = self._rtt = None
        self._take_window()
        return True


class EnginePacer:
    """The adapter of the pacer to aioquic's interface. It also limits the size of a burst."""

    def __init__(self, datagram_size: int) -> None:
        self.pacer = Pacer(datagram_size)
        self.left = self.burst = burst(datagram_size)
        """Number of datagrams left in the current burst, and that of a whole one."""

    @property
    def _max_datagram_size(self) -> int:
        return self.pacer.datagram_size

    @_max_datagram_size.setter
    def _max_datagram_size(self, size: int) -> None:
        self.pacer.datagram_size = size
        self.burst = burst(size)

    def next_send_time(self, now: float) -> float | None:
        if self.left <= 0:
            return now
        return None if self.pacer.has_room(now) else self.pacer.next_time(now)

    def update_after_send(self, now: float) -> None:
        self.left -= 1  # `on_packet_sent` counts the bytes of the packet

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """Does nothing: the rate of the controller is used (see Recovery)."""


class Recovery(QuicPacketRecovery):
    """aioquic's loss recovery, with a faster implementation for 1-RTT packets."""

    _cc: Congestion

    def __init__(
        self,
        algorithm: Algorithm,
        *,
        initial_rtt: float,
        max_datagram_size: int,
        peer_completed_address_validation: bool,
        send_probe: Callable[[], None],
        logger: Any,
        quic_logger: Any,
    ) -> None:
        super().__init__(
            congestion_control_algorithm=name_of(algorithm),
            initial_rtt=initial_rtt,
            max_datagram_size=max_datagram_size,
            peer_completed_address_validation=peer_completed_address_validation,
            send_probe=send_probe,
            logger=logger,
            quic_logger=quic_logger,
        )
        self._algorithm = algorithm
        self._pacer: Any = EnginePacer(max_datagram_size)
        self._lowest = 0
        """No 1-RTT packet below this number is in flight."""
        self._acked = Ranges()
        """Acknowledged 1-RTT packets from `_lowest` on, which are skipped in later ACKs."""
        self._end = 0
        """The next 1-RTT packet number."""
        self._lost: dict[int, int] = {}
        """Sizes of lost 1-RTT packets by packet number."""
        self._expired: dict[int, float] = {}
        """Send times of 1-RTT packets that a probe timeout has retransmitted, by packet number."""
        self._tail: list[AnyPacket] = []
        """The newest packets with stream data, if each was sent alone; at most BASE bytes."""
        self._tail_size = 0
        """Size of the packets in `_tail`."""
        self._repeated_in = -1
        """Number of the packet that has sent the data of a tail again."""
        self._tolerance = 0
        """Observed reordering in quarters of the minimum round trip; 0 if there was none."""
        self.acked = 0
        """Bytes acknowledged at the start of streams, which the reader subtracts."""
        self.has_acked = self.has_lost = False
        """Whether frames were acknowledged that `acked` does not count, or lost. The reader clears
        it."""
        self.ecn = EcnValidation()
        self.counts: EcnCounts | None = None
        """The ECN counts of the ACK frame that aioquic processes."""
        self._marked_from = 0
        """The first packet number on the current path."""

    def restart(self, datagram_size: int) -> None:
        """Begins again as on a new path (RFC 9000, 9.4).

        What is in flight still counts as such, but says nothing about the rate of the new path.
        """
        self._pto_count = 0
        self._rtt_initialized = False
        self._rtt_latest = self._rtt_smoothed = self._rtt_variance = 0.0
        self._rtt_min = math.inf
        self._tolerance = 0
        self._expired.clear()
        self._cc.restart(CONTROLLERS[self._algorithm](datagram_size))
        self.ecn.restart()
        self._marked_from = self._end
        sent: dict[int, Any] = self.spaces[-1].sent_packets
        for number, packet in sent.items():
            if type(packet) is SentPacket:
                sent[number] = packet._replace(state=None)
            else:
                packet.state = None
        self._pacer.pacer = Pacer(datagram_size)

    def on_packet_sent(self, *, packet: QuicSentPacket, space: QuicPacketSpace) -> None:
        if not space.is_application_data:
            super().on_packet_sent(packet=packet, space=space)
            if packet.in_flight:
                self._pacer.pacer.on_sent(packet.sent_bytes)
            return
        space.sent_packets[packet.packet_number] = packet
        self._end = packet.packet_number + 1
        if packet.is_ack_eliciting:
            space.ack_eliciting_in_flight += 1
            if packet.in_flight and self.handshake_confirmed:
                self._time_of_last_sent_ack_eliciting_packet = packet.sent_time or 0.0
        if packet.in_flight:
            self._cc.on_packet_sent(packet=packet)
            self._pacer.pacer.on_sent(packet.sent_bytes)
            if self._quic_logger is not None:
                self._log_metrics_updated()
            if _has_stream_data(packet):
                self._extend_tail(packet, 1)

    def on_burst_sent(
        self,
        number: int,
        sizes: Sequence[int],
        pieces: Sequence[Sequence[Piece]],
        handlers: Handlers,
        now: float,
        space: QuicPacketSpace,
    ) -> None:
        """Reports 1-RTT packets from `number` on, with their sizes and stream data.

        `handlers` are those of the first packet for frames without stream data. All packets contain
        stream data, or there is one that contains none.
        """
        sent: dict[int, Any] = space.sent_packets
        self._end = number + len(sizes)
        state = None
        if pieces[0]:
            size = sum(sizes)
            state = self._cc.on_burst_sent(now, size)
            self._pacer.left -= len(sizes)
            self._pacer.pacer.on_sent(size)
            space.ack_eliciting_in_flight += len(sizes)
            if self.handshake_confirmed:
                self._time_of_last_sent_ack_eliciting_packet = now
        numbers = range(number, self._end)
        each_handlers = chain((handlers,), repeat(()))
        fields = zip(numbers, repeat(now), sizes, pieces, repeat(state), each_handlers)
        sent.update(zip(numbers, map(_NEW_SENT, fields), strict=True))
        if state is not None:
            self._extend_tail(sent[self._end - 1], len(sizes))

    def _extend_tail(self, newest: AnyPacket, count: int) -> None:
        """Records the last of `count` packets with stream data that were sent together."""
        size = newest.sent_bytes
        if self._tail_size + size > BASE or count > 1:
            self._tail.clear()
            self._tail_size = 0
        if count == 1 and size <= BASE and newest.packet_number != self._repeated_in:
            self._tail.append(newest)
            self._tail_size += size

    def repeat_tail(self, now: float, space: QuicPacketSpace) -> bool:
        """Queues the data of the last packets again if they are in flight. Returns whether it did.

        No later packet with data reveals the loss of these packets, so it would last until the
        probe timeout. Called before an ACK frame is sent alone, whose datagram has room. As at a
        probe timeout (RFC 9002, 6.2.4), the original packets are no longer tracked. It happens once
        for each packet, and not on a short path, where an acknowledgement arrives soon.
        """
        packets: list[Any] = [
            packet for packet in self._tail if packet.packet_number in space.sent_packets
        ]
        self._tail.clear()
        self._tail_size = 0
        if not packets or self._rtt_min < HOST_DELAY:
            return False
        self._repeated_in = self._end
        self._on_packets_lost(congestion_event=False, now=now, packets=packets, space=space)
        return True

    def on_ack_received(
        self, *, ack_rangeset: RangeSet, ack_delay: float, now: float, space: QuicPacketSpace
    ) -> None:
        if space.is_application_data:
            ranges = [(each.start, each.stop) for each in ack_rangeset]
            self.on_ack_ranges(ranges, ack_delay, now, space, self.counts)
        else:
            super().on_ack_received(
                ack_rangeset=ack_rangeset, ack_delay=ack_delay, now=now, space=space
            )
            self._tell(now)

    def on_loss_detection_timeout(self, *, now: float) -> None:
        super().on_loss_detection_timeout(now=now)
        self._tell(now)

    def _tell(self, now: float) -> None:
        is_short = self._rtt_min < HOST_DELAY
        if self._cc.tell(now, _TELL_EVERY_SHORT if is_short else _TELL_EVERY):
            self._pacer.pacer.set_rate(self._cc.controller.pacing_rate, now)

    def on_ack_ranges(
        self,
        ranges: list[tuple[int, int]],
        ack_delay: float,
        now: float,
        space: QuicPacketSpace,
        counts: EcnCounts | None = None,
    ) -> None:
        """Processes an ACK of 1-RTT packets. `ranges` are ascending, with exclusive ends."""
        self._take_ack(ranges, ack_delay, now, space, counts)
        self._tell(now)

    def _take_ack(
        self,
        ranges: list[tuple[int, int]],
        ack_delay: float,
        now: float,
        space: QuicPacketSpace,
        counts: EcnCounts | None,
    ) -> None:
        largest = ranges[-1][1] - 1
        is_ahead = largest > space.largest_acked_packet
        if is_ahead and largest in self._expired:
            self._measure(now - self._expired.pop(largest), ack_delay, now)
        space.largest_acked_packet = max(space.largest_acked_packet, min(largest, self._end - 1))
        taken = self._take(ranges, space)
        if self._lost and next(reversed(self._lost)) >= ranges[0][0]:
            self._find_spurious(ranges, now)
        if not taken:
            return
        if is_ahead and self.ecn.marks:
            self._look_at_marks(taken, counts)
        newest = taken[-1]
        sent_at = newest.sent_time or 0.0
        self._count(taken, space)
        if newest.packet_number == largest and any(each.is_ack_eliciting for each in taken):
            self._measure(now - sent_at, ack_delay, now)
        self._detect_loss(now=now, space=space)
        if self.peer_completed_address_validation:
            self._pto_count = 0
        if self._quic_logger is not None:
            self._log_metrics_updated(log_rtt=True)

    def _take(self, ranges: list[tuple[int, int]], space: QuicPacketSpace) -> list[AnyPacket]:
        """Returns the newly acknowledged packets in ascending order."""
        take = space.sent_packets.pop
        acked = self._acked
        taken: list[AnyPacket] = []
        for first, end in ranges:
            first, end = max(first, self._lowest), min(end, self._end)
            if first >= end:
                continue
            for start, stop in acked.missing(first, end) if acked.parts else ((first, end),):
                found = map(take, range(start, stop), repeat(None))
                taken += [packet for packet in found if packet is not None]
            if first == self._lowest:
                self._advance(end)
            else:
                acked.add(first, end)
        return taken

    def _advance(self, lowest: int) -> None:
        """Records that no 1-RTT packet below `lowest` is in flight."""
        if lowest <= self._lowest:
            return
        self._lowest = lowest
        if self._acked.parts:
            self._acked.subtract(0, lowest)

    def _count(self, taken: list[AnyPacket], space: QuicPacketSpace) -> None:
        if set(map(type, taken)) == {SentPacket}:
            self._count_sent(cast("list[SentPacket]", taken), space)
            return
        size = largest = eliciting = 0
        newest: AnyPacket | None = None
        self.has_acked = True
        for packet in taken:
            if packet.is_ack_eliciting:
                eliciting += 1
            if packet.in_flight:
                newest = packet
                size += packet.sent_bytes
                largest = max(largest, packet.sent_bytes)
            for handler, args in packet.delivery_handlers:
                handler(_ACKED, *args)
        space.ack_eliciting_in_flight -= eliciting
        if newest is not None:
            self._cc.acknowledged(size, largest, newest)

    def _count_sent(self, taken: list[SentPacket], space: QuicPacketSpace) -> None:
        """Does so for packets of the fast path. Data in a row is acknowledged at once."""
        _, _, sizes, pieces, _, handlers = zip(*taken, strict=True)
        for handler, args in chain.from_iterable(handlers):
            handler(_ACKED, *args)
        sender: QuicStreamSender | None = None
        start = stop = 0
        for one, begin, end in chain.from_iterable(pieces):
            if one is sender and begin == stop:
                stop = end
                continue
            if sender is not None:
                self.acked += _delivered(sender, start, stop)
            sender, start, stop = one, begin, end
        if sender is None:
            return
        self.acked += _delivered(sender, start, stop)
        if not all(pieces):
            taken = [packet for packet in taken if packet.pieces]
            sizes = tuple(packet.sent_bytes for packet in taken)
        space.ack_eliciting_in_flight -= len(taken)
        self._cc.acknowledged(sum(sizes), max(sizes), taken[-1])

    def _look_at_marks(self, taken: list[AnyPacket], counts: EcnCounts | None) -> None:
        """Validates ECN counts, and reports marks (RFC 9000, 13.4.2; RFC 9002, 7.1)."""
        packets = len(taken)
        if self._marked_from:
            packets = sum(packet.packet_number >= self._marked_from for packet in taken)
        marked = self.ecn.acknowledged(packets, counts, self._end)
        if marked:
            self._cc.marked(marked)

    def _find_spurious(self, ranges: list[tuple[int, int]], now: float) -> None:
        """Detects acknowledged packets that were declared lost, which shows reordering."""
        starts = [first for first, _ in ranges]
        for number in list(self._lost):
            at = bisect_right(starts, number) - 1
            if at >= 0 and number < ranges[at][1]:
                self._cc.spurious(now, self._lost.pop(number))
                self._tolerance = min(self._tolerance + 1, _MAX_TOLERANCE)

    def _measure(self, latest: float, ack_delay: float, now: float) -> None:
        """Updates the round-trip estimates (RFC 9002, section 5)."""
        self._cc.on_rtt_measurement(now=now, rtt=latest)
        delay = min(ack_delay, self.max_ack_delay)
        adjusted = max(latest, _GRANULARITY)
        self._rtt_min = min(self._rtt_min, adjusted)
        if adjusted >= self._rtt_min + delay:
            adjusted -= delay
        self._rtt_latest = adjusted
        if not self._rtt_initialized:
            self._rtt_first_sample_time = now
            self._rtt_initialized = True
            self._rtt_variance, self._rtt_smoothed = latest / 2, latest
            return
        self._rtt_variance += (abs(self._rtt_smoothed - adjusted) - self._rtt_variance) / 4
        self._rtt_smoothed += (adjusted - self._rtt_smoothed) / 8

    def _detect_loss(self, *, now: float, space: QuicPacketSpace) -> None:
        if not space.is_application_data:
            super()._detect_loss(now=now, space=space)
            return
        patience = self._patience()
        largest = space.largest_acked_packet
        below = -1 if self._tolerance else largest - K_PACKET_THRESHOLD
        space.loss_time = None
        lowest = max(self._lowest, largest + 1)
        lost: list[AnyPacket] = []
        for number in range(self._lowest, largest + 1):
            packet = space.sent_packets.get(number)
            if packet is None:
                continue
            at = (packet.sent_time or 0.0) + patience
            if number > below and at > now:
                # All further packets were sent later, so none of them is lost.
                lowest, space.loss_time = number, at
                break
            lost.append(packet)
        self._advance(lowest)
        if lost:
            self._declare_lost(lost, now, space)

    def _on_packets_lost(
        self,
        *,
        congestion_event: bool = True,
        packets: Iterable[QuicSentPacket],
        space: QuicPacketSpace,
        **arguments: Any,
    ) -> None:
        self.has_lost = True
        if space.is_application_data and not congestion_event:
            self._expire(packets)
        super()._on_packets_lost(
            congestion_event=congestion_event, packets=packets, space=space, **arguments
        )

    def _expire(self, packets: Iterable[QuicSentPacket]) -> None:
        """Stores the send times of packets that a probe timeout retransmits.

        If the round trip has become longer than the timeout, their acknowledgements are the only
        ones that measure it (RFC 9002, 5.1).
        """
        for packet in packets:
            self._expired[packet.packet_number] = packet.sent_time or 0.0
        while len(self._expired) > _MAX_LOST:
            del self._expired[next(iter(self._expired))]

    def _patience(self) -> float:
        """Returns the time after sending when a packet is lost, if a later one is acknowledged."""
        round_trip = max(self._rtt_latest, self._rtt_smoothed)
        if not self._rtt_initialized:
            round_trip = self._rtt_initial
        if not self._tolerance:
            return max(K_TIME_THRESHOLD * round_trip, _GRANULARITY)
        late = min(self._tolerance * self._rtt_min / 4, self._rtt_smoothed)
        return max(round_trip + max(late, round_trip / 8), _GRANULARITY)

    def _declare_lost(self, packets: list[AnyPacket], now: float, space: QuicPacketSpace) -> None:
        for packet in packets:
            if packet.in_flight:
                self._lost[packet.packet_number] = packet.sent_bytes
        while len(self._lost) > _MAX_LOST:
            del self._lost[next(iter(self._lost))]
        known: list[Any] = list(packets)
        self._on_packets_lost(
            now=now,
            packets=known,
            persistent_congestion=self._in_persistent_congestion(packets=known),
            space=space,
        )


def _has_stream_data(packet: QuicSentPacket) -> bool:
    handlers = (handler for handler, _ in packet.delivery_handlers)
    return any(isinstance(getattr(each, "__self__", None), QuicStreamSender) for each in handlers)


def _delivered(sender: QuicStreamSender, start: int, stop: int) -> int:
    """Discards acknowledged data, as `QuicStreamSender.on_data_delivery` does.

    It is mostly the first data of a stream that continues. Returns by how many bytes the start of
    the stream's buffer has advanced.
    """
    acked: Any = sender._acked
    before = sender._buffer_start
    if (
        start == before
        and not acked.parts
        and sender._buffer_fin is None
        and sender._reset_error_code is None
    ):
        sender._buffer_start = stop
        del sender._buffer[: stop - start]
    else:
        sender.on_data_delivery(_ACKED, start, stop, False)
    return sender._buffer_start - before


def name_of(algorithm: Algorithm) -> str:
    """Returns the name under which a controller is registered in aioquic."""
    return f"quicdist-{algorithm.value}"


def _factory(make: Callable[[int], Controller]) -> QuicCongestionControlFactory:
    def congestion(*, max_datagram_size: int) -> Congestion:
        return Congestion(make(max_datagram_size))

    return cast(QuicCongestionControlFactory, congestion)


for _algorithm, _make in CONTROLLERS.items():
    register_congestion_control(name_of(_algorithm), _factory(_make))
