"""A path without sockets: senders that always have data, one bottleneck, one queue, delays.

Sizes in bytes, times in seconds, rates in bytes per second. The result depends only on the seed.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from quicdist.carriers.quic.congestion.controller import Ack, Controller
from quicdist.carriers.quic.congestion.pacer import Pacer
from quicdist.carriers.quic.congestion.rate_sample import SendState

_PACKET_THRESHOLD = 3
_ACK_EVERY = 16
_ACK_DELAY = 0.001
_LONGEST_RTO = 1.0
_PAUSE = 0.004


@dataclass(frozen=True)
class Path:
    """The parameters of a path.

    `queue` is in seconds at the rate of the path, `loss` a probability, `late` the maximum delay of
    timers, and `mark` the queue in seconds above which datagrams are ECN-marked. ACKs reach the
    sender together, half to one and a half times `aggregation` seconds apart, as on a radio link
    and at a busy host. `late_share` is the share of datagrams that arrive a quarter of a round trip
    later than the others. `pauses` is the share of the time in which the bottleneck forwards
    nothing, for 4 ms on average, as a busy host does.
    """

    rtt: float
    rate: float
    loss: float = 0.0
    queue: float = 0.1
    late: float = 0.001
    mark: float = float("inf")
    aggregation: float = 0.0
    late_share: float = 0.0
    pauses: float = 0.0


@dataclass(slots=True)
class _Sent:
    number: int
    size: int
    at: float
    state: SendState
    is_lost: bool = False
    is_marked: bool = False
    acknowledged: bool = False


@dataclass
class Flow:
    """A sender that starts at the time `starts`. Without `paced`, only its window limits it."""

    controller: Controller
    starts: float = 0.0
    paced: bool = True
    limit: float = float("inf")
    """Bytes a second that its application has."""
    credit: float = float("inf")
    """Bytes in flight that its receiver allows."""
    ack_every: int = _ACK_EVERY
    """Datagrams that its receiver acknowledges together."""
    late: float | None = None
    """Maximum delay of its timers in seconds, if it differs from that of the path."""

    delivered: int = 0
    sent: int = 0
    lost: int = 0
    rtts: list[tuple[float, float]] = field(default_factory=list)
    deliveries: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pacer = Pacer(self.controller.datagram_size)
        self.in_flight = 0
        self.number = 0
        self.outstanding: deque[_Sent] = deque()
        self.group: list[_Sent] = []
        self.group_at = 0.0
        self.wake_at = float("inf")
        self.last_ack = 0.0

    def throughput(self, since: float, until: float) -> float:
        """Bytes a second acknowledged in that time."""
        return sum(size for at, size in self.deliveries if since <= at < until) / (until - since)

    def mean_rtt(self, since: float) -> float:
        """Sets the delay of all later acknowledgements."""
        rtts = [rtt for at, rtt in self.rtts if at >= since]
        return sum(rtts) / len(rtts)


class Network:
    """Flows over one bottleneck."""

    def __init__(self, path: Path, flows: Sequence[Flow], seed: int = 1) -> None:
        self.path = path
        self.flows = flows
        self.now = 0.0
        self.dropped = 0
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._free_at = 0.0
        self._release_at = 0.0
        for flow in flows:
            self._at(flow.starts, lambda flow=flow: self._begin(flow))  # type: ignore[misc]
        if path.pauses:
            self._pause()

    def run(self, until: float) -> None:
        """Lets time go by."""
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, event = heapq.heappop(events)
            event()
        self.now = until

    @property
    def queue(self) -> float:
        """The queueing delay in seconds of a datagram that is sent now."""
        return max(self._free_at - self.now, 0.0)

    def _pause(self) -> None:
        """Pauses the bottleneck, and schedules the next pause."""
        pause = self._random.expovariate(1 / _PAUSE)
        self._free_at = max(self._free_at, self.now) + pause
        work = self._random.expovariate(self.path.pauses / (_PAUSE * (1 - self.path.pauses)))
        self._at(self.now + pause + work, self._pause)

    def _ack_time(self, arrival: float) -> float:
        """The time when an ACK that arrives at this time reaches the sender."""
        aggregation = self.path.aggregation
        if not aggregation:
            return arrival
        while self._release_at < arrival:
            self._release_at += aggregation * self._random.uniform(0.5, 1.5)
        return self._release_at

    def _at(self, when: float, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, event))

    def _begin(self, flow: Flow) -> None:
        flow.last_ack = self.now
        self._send(flow)
        self._at(self.now + _LONGEST_RTO, lambda: self._watch(flow))

    def _send(self, flow: Flow) -> None:
        now, controller, pacer = self.now, flow.controller, flow.pacer
        size = controller.datagram_size
        rate = controller.pacing_rate if flow.paced else 0.0
        pacer.set_rate(rate, now)
        room = pacer.room(now)
        window = controller.window
        while flow.in_flight + size <= window and room > 0:
            if flow.in_flight + size > flow.credit:
                controller.on_app_limited(flow.in_flight)
                return
            if flow.sent - flow.limit * (now - flow.starts) > 0:
                controller.on_app_limited(flow.in_flight)
                pacer.on_idle()
                self._wake(flow, now + 0.005)
                return
            self._transmit(flow, size)
            pacer.on_sent(size)
            room -= size
        if flow.in_flight + size <= window:
            self._wake(flow, pacer.next_time(now))

    def _wake(self, flow: Flow, at: float) -> None:
        if at >= flow.wake_at:
            return
        flow.wake_at = at

        def wake() -> None:
            if flow.wake_at == at:
                flow.wake_at = float("inf")
                self._send(flow)

        late = self.path.late if flow.late is None else flow.late
        self._at(at + self._random.uniform(0.0, late), wake)

    def _transmit(self, flow: Flow, size: int) -> None:
        now, path = self.now, self.path
        state = flow.controller.on_sent(now, flow.in_flight, size)
        packet = _Sent(flow.number, size, now, state)
        flow.number += 1
        flow.sent += size
        flow.in_flight += size
        flow.outstanding.append(packet)
        waits = max(self._free_at - now, 0.0)
        if waits > path.queue:
            self.dropped += 1
            return
        packet.is_marked = waits > path.mark
        self._free_at = max(self._free_at, now) + size / path.rate
        if self._random.random() < path.loss:
            return
        if path.late_share and self._random.random() < path.late_share:
            at = self._free_at + 0.75 * path.rtt + _ACK_DELAY
            self._at(at + path.rtt / 2, lambda: self._acknowledge(flow, [packet]))
            return
        self._arrive(flow, packet, self._free_at + path.rtt / 2)

    def _arrive(self, flow: Flow, packet: _Sent, at: float) -> None:
        """Schedules an ACK 1 ms after the first unacknowledged datagram, or at the sixteenth."""
        group = flow.group
        if group and (at > flow.group_at + _ACK_DELAY or len(group) >= flow.ack_every):
            flow.group = group = []
        if not group:
            flow.group_at = at
            due = self._ack_time(at + _ACK_DELAY + self.path.rtt / 2)
            self._at(due, lambda: self._acknowledge(flow, group))
        group.append(packet)
        if len(group) == flow.ack_every:
            due = self._ack_time(at + self.path.rtt / 2)
            self._at(due, lambda: self._acknowledge(flow, group))

    def _acknowledge(self, flow: Flow, group: list[_Sent]) -> None:
        if group[0].acknowledged:
            return
        if flow.group is group:
            flow.group = []
        size = marked = 0
        for packet in group:
            packet.acknowledged = True
            if packet.is_lost:
                flow.controller.on_spurious_loss(self.now, packet.size)
                continue
            size += packet.size
            marked += packet.size if packet.is_marked else 0
        if not size:
            self._send(flow)
            return
        newest = group[-1]
        lost = self._find_lost(flow, newest.number)
        flow.in_flight -= size
        flow.delivered += size
        flow.last_ack = self.now
        flow.deliveries.append((self.now, size))
        rtt = self.now - newest.at
        flow.rtts.append((self.now, rtt))
        self._tell(flow, size, lost, newest, rtt, marked)

    def _find_lost(self, flow: Flow, largest: int) -> list[_Sent]:
        lost = []
        outstanding = flow.outstanding
        while outstanding and (
            outstanding[0].acknowledged or outstanding[0].number <= largest - _PACKET_THRESHOLD
        ):
            packet = outstanding.popleft()
            if not packet.acknowledged:
                packet.is_lost = True
                lost.append(packet)
        return lost

    def _tell(
        self,
        flow: Flow,
        size: int,
        lost: list[_Sent],
        newest: _Sent | None,
        rtt: float | None,
        marked: int = 0,
    ) -> None:
        lost_size = sum(packet.size for packet in lost)
        flow.in_flight -= lost_size
        flow.lost += lost_size
        flow.controller.on_ack(
            Ack(
                now=self.now,
                acknowledged=size,
                lost=lost_size,
                in_flight=flow.in_flight,
                newest=newest.state if newest else None,
                newest_lost=lost[-1].state if lost else None,
                rtt=rtt,
                ecn_ce=marked,
            )
        )
        self._send(flow)

    def _watch(self, flow: Flow) -> None:
        """A retransmission timeout, coarse: all that is in flight counts as lost."""
        if self.now - flow.last_ack >= _LONGEST_RTO and flow.outstanding:
            lost = [packet for packet in flow.outstanding if not packet.acknowledged]
            flow.outstanding.clear()
            flow.controller.on_persistent_congestion()
            flow.last_ack = self.now
            self._tell(flow, 0, lost, None, None)
        self._at(self.now + _LONGEST_RTO / 4, lambda: self._watch(flow))
