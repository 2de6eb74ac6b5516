"""A connected node: one carrier connection and its distribution session.

The carrier delivers packets in batches. Each becomes events, which are dispatched to handlers. The
path from `packets_received` to a handler is short, since it determines the cost of a message.
Outgoing messages go through the outbox.

A full receiver pauses the peer: frames then stay undecoded and are not reported as consumed, so the
flow control window of the carrier stops the peer.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from quicdist import etf
from quicdist.carriers.alarm import Alarm
from quicdist.carriers.base import CloseReason, Connection, ConnectionStatistics
from quicdist.cluster.access_filter import AccessFilter
from quicdist.cluster.handshake_deadlines import Due, HandshakeDeadlines
from quicdist.cluster.liveness import Dead, Liveness, LoopWatch, Observed
from quicdist.cluster.outbox import Outbox
from quicdist.cluster.tracebacks import without_tracebacks
from quicdist.errors import Cause, MailboxFull, NoConnection
from quicdist.etf import Atom, Pid, Term
from quicdist.etf.notation import format_bounded
from quicdist.limits import NodeLimits
from quicdist.protocol import signals
from quicdist.protocol.channel import (
    Channel,
    MessageReceived,
    OutgoingMessage,
    PayloadRefused,
    UnknownReceived,
)
from quicdist.protocol.errors import DistError, HandshakeRefused, ProtocolError
from quicdist.protocol.flags import Flag
from quicdist.protocol.handshake import AliveAsked, Connected, PeerNamed, SendHandshake
from quicdist.protocol.handshake_messages import Named, Status
from quicdist.protocol.packet import FramePacket, Packet
from quicdist.protocol.session import Event, Session
from quicdist.protocol.signals import NO_PAYLOAD, Payload, Signal
from quicdist.protocol.streams import MAX_DATA_FRAME
from quicdist.runtime.backpressure import Backpressure, Source
from quicdist.runtime.counters import Ending, Traffic, ending_of
from quicdist.runtime.exit_reasons import error_reason
from quicdist.runtime.process_table import Handler, Route
from quicdist.runtime.rate_limit import Pause, RateLimits

logger = logging.getLogger("quicdist.node")

_TURN = 256
"""The maximum number of packets handled in one event loop iteration."""

_YIELD_AFTER = 64 * 1024
"""Bytes sent after which `send` yields to the event loop, so that the data is transmitted and
other tasks run."""

_REPORT_PAUSE = 5.0
"""Seconds between two log records about the same receiver that pauses peers."""

_USUAL_TICKTIME = 60.0
"""Default net_ticktime of the BEAM (kernel(6)) and of quicdist, in seconds."""

_RETURN = Atom("return")


class State(enum.Enum):
    """The state of a connection."""

    HANDSHAKE = "handshake"
    UP = "up"
    DOWN = "down"


_UP, _DOWN = State.UP, State.DOWN


class RunReceiver(Protocol):
    """The part of a process that takes messages in a row."""

    @property
    def run_room(self) -> int:
        """See `runtime.process.Process`."""

    @property
    def run_overhead(self) -> int:
        """See `runtime.process.Process`."""

    def deliver_run(self, messages: Sequence[tuple[Term, int]], size: int, source: Source) -> None:
        """See `runtime.process.Process`."""


ReceiverOfRun = Callable[[signals.Message], RunReceiver | None]


def no_receiver(signal: signals.Message) -> None:
    """Has each message passed to its handler."""


class Owner(Protocol):
    """Decides about connections and receives their events."""

    def peer_named(self, peer: Peer, name: str) -> Status:
        """Returns the handshake status for a dialer that has sent its name."""

    def patience(self, peer: Peer) -> float:
        """Returns the delay of that status in seconds."""

    def name_asked(self, peer: Peer, host: str) -> Named | Status:
        """Assigns a name to a dialer on `host` that requests one, or returns a refusal."""

    def alive_asked(self, peer: Peer) -> Status:
        """Returns the answer to a peer that considers this node connected already."""

    def peer_up(self, peer: Peer) -> None:
        """Called when the handshake has finished."""

    def peer_down(self, peer: Peer, reason: str) -> None:
        """Called once, when the connection has ended."""

    def payload_refused(self, peer: Peer, signal: Signal, reason: str) -> None:
        """Called when a message was dropped. Informs the process that waits for it."""

    def probe(self, peer: Peer) -> None:
        """Sends a request that the peer's node answers."""


class Peer:
    """One connection to a node.

    `name` is set as soon as it is known. `flags` are the negotiated flags, once up.
    """

    def __init__(
        self,
        connection: Connection,
        session: Session,
        owner: Owner,
        handlers: dict[type[Signal], Handler],
        limits: NodeLimits,
        *,
        name: str | None,
        handshake_timeout: float,
        watch: LoopWatch,
        rates: RateLimits | None = None,
        receiver_of_run: ReceiverOfRun = no_receiver,
    ) -> None:
        """`rates` bound the messages of each peer, over all its connections.

        `receiver_of_run` returns the process that takes messages in a row with the same signal, or
        None if each must be passed to its handler.
        """
        self.connection = connection
        self.session = session
        self._channel: Channel | None = None
        """The channel of the session, once connected."""
        self.name: Atom | None = None if name is None else Atom(name)
        self.creation = 0
        self.flags = Flag(0)
        self.is_hidden = True
        self.state = State.HANDSHAKE
        self.is_dialer = name is not None
        self.local_name = ""
        self.local_creation = 0
        """The creation of the local name, which the peer may have assigned."""
        self.refusal: HandshakeRefused | None = None
        self.offers_binding = False
        """Whether the dialer binds its cookie proof to the TLS session."""
        self.takes_deadlines = False
        """Whether calls to the peer carry their deadline."""
        self.up_since = 0.0
        """Unix time when the handshake finished, in seconds."""
        self.cause = Cause.LOST
        """Why the connection ended."""
        self.is_ended_orderly = False
        """Whether the peer closed the connection without an error."""
        self.access_filter: AccessFilter | None = None
        """The access filter of the peer, once up; None without restrictions."""
        self.gets_tracebacks = True
        """Whether the peer receives tracebacks of local errors."""
        self._owner = owner
        self.handlers = handlers
        """The handler of each kind of control message."""
        self.receiver_of_run = receiver_of_run
        self._limits = limits
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(connection, session, high=limits.send_high, low=limits.send_low)
        self._queue: deque[Packet] = deque()
        self._is_work_planned = False
        self._sent_since_yield = 0
        """Bytes sent since `send` last yielded to the event loop."""
        self._messages_received = 0
        self._messages_refused = 0
        self._held_by: set[Backpressure] = set()
        self._held_since = 0.0
        self._held_before = 0.0
        """Seconds of all pauses that have ended."""
        most = limits.unread_answers
        self._answers = Backpressure("the backlog of answers", most // 2, most, 2 * most)
        self._rates = rates
        self._pausing = Backpressure("the rate limit", 0, 0, 1, "messages")
        self._pause = Pause()
        self._rate_holds = 0
        self._links_uncounted = 0
        self._links_room = limits.links_and_monitors
        self._calls: dict[object, Callable[[Exception], None]] = {}
        self._lowers = False
        self._takes_sender = True
        self._takes_altact = False
        self._heard_at = self._loop.time()
        """Event loop time when packets of the peer were last handled."""
        self._liveness = Liveness(
            limits.net_ticktime,
            self._loop.time(),
            needs_probe=connection.traits.needs_probe,
            has_keepalive=bool(connection.traits.alpn),
        )
        self._handshake_timeout = handshake_timeout
        self._deadlines = HandshakeDeadlines(handshake_timeout, self._loop.time())
        self._delayed_answer: Callable[[], Status | Named] | None = None
        self._close_text = ""
        """The reason of a close that a refusal precedes."""
        self._alarm = Alarm(self._loop, self._on_alarm)
        self._alarm.set(self._deadlines.due)

    def __str__(self) -> str:
        host, port = self.connection.peer_address
        return f"{self.name or 'an unnamed node'} at {host}:{port}"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the key that the peer presented in TLS; empty without one."""
        return self.connection.peer_fingerprint

    def fields(self, event: str) -> dict[str, object]:
        """Returns the fields of a log record about this connection."""
        host, port = self.connection.peer_address
        return {
            "event": event,
            "node": str(self.session.local.name),
            "peer": str(self.name or ""),
            "address": f"{host}:{port}",
            "carrier": self.connection.traits.name,
        }

    # -- handshake --

    def start(self) -> None:
        """Starts the handshake as the dialer."""
        for event in self.session.start():
            self._on_event(event)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, SendHandshake):
            self.connection.send_handshake(event.data)
        elif isinstance(event, PeerNamed):
            self.name = Atom(event.peer.name)
            self.creation = event.peer.creation
            wants_name = Flag.NAME_ME in event.peer.flags
            self.offers_binding = (
                bool(self.connection.binding) and Flag.CHANNEL_BINDING in event.peer.flags
            )
            decide = self._owner.name_asked if wants_name else self._owner.peer_named
            self._answer_name(partial(decide, self, event.peer.name))
        elif isinstance(event, AliveAsked):
            self._decide(self._owner.alive_asked(self))
        elif isinstance(event, Connected):
            self._on_connected(event)
        elif isinstance(event, PayloadRefused):
            self._drop(event)
        elif isinstance(event, UnknownReceived):
            op = format_bounded(event.signal.op)
            extra = {**self.fields("unknown_message"), "operation": op}
            logger.warning("%s sent an unknown control message: %s", self, op, extra=extra)

    def _answer_name(self, answer: Callable[[], Status | Named]) -> None:
        """Answers the peer's name, with a delay after wrong cookies from its address.

        Until then the peer gets no challenge on which it could try a cookie, and a proof that came
        with the name is not checked.
        """
        delay = self._owner.patience(self)
        if not delay:
            self._decide(answer())
            return
        self._delayed_answer = answer
        self._deadlines.delay_answer(delay, self._loop.time())
        self._alarm.set(self._deadlines.due)

    def _decide(self, status: Status | Named) -> None:
        if isinstance(status, Named):
            self.name = Atom(status.name)
        try:
            events = self.session.decide(status)
        except HandshakeRefused as error:
            self._refused(error)
            return
        for event in events:
            self._on_event(event)
        if status in (Status.NOK, Status.NOT_ALLOWED, Status.FALSE):
            cause = Cause.REFUSED_HERE if status is Status.NOT_ALLOWED else Cause.SUPERSEDED
            self._close_after_refusal(f"refused with {status.value}", cause)

    def _on_connected(self, event: Connected) -> None:
        self._deadlines.finished()
        self.name = Atom(event.peer.name)
        self.creation = event.peer.creation
        self.flags = event.flags
        # Only nodes of quicdist bind the handshake to the TLS session.
        self.takes_deadlines = Flag.CHANNEL_BINDING in event.peer.flags
        self.local_name = event.local_name
        self.local_creation = event.local_creation
        self.is_hidden = Flag.PUBLISHED not in event.peer.flags
        self.state = State.UP
        self.up_since = time.time()
        self._channel = self._outbox.fragmenter = self.session.channel
        self._outbox.has_data_streams = self._may_use_data_streams()
        self.connection.handshake_done()
        self._liveness.begin(self._loop.time())
        self._alarm.set(self._liveness.due)
        self._owner.peer_up(self)

    def _may_use_data_streams(self) -> bool:
        """Frames on several streams must be short, because the peer stores incomplete ones."""
        is_short = self._limits.session.fragment_size <= MAX_DATA_FRAME
        has_streams = self.connection.traits.data_streams > 0
        return has_streams and is_short and Flag.FRAGMENTS in self.flags

    # -- outgoing messages --

    @property
    def outbox(self) -> Outbox:
        """The send queue of the connection."""
        return self._outbox

    def post(self, sender: Pid, signal: Signal, payload: Payload = NO_PAYLOAD) -> None:
        """Sends a signal without waiting. Raises EtfEncodeError.

        A peer that requests answers and does not read them is paused.
        """
        if self.state is not State.UP:
            return
        if self.access_filter is not None:
            self.access_filter.note_sender(sender)
        if not self.gets_tracebacks:
            payload = payload if payload is NO_PAYLOAD else without_tracebacks(payload)
        level = self._answers
        is_answer = type(signal) in _ANSWERS
        self._outbox.put(sender, self._encoded(signal, payload), level if is_answer else None)
        if is_answer and level.size > level.high:
            self.pause(level)

    def _encoded(self, signal: Signal, payload: Payload) -> OutgoingMessage:
        try:
            return self.session.encode(signal, payload)
        except etf.EtfEncodeError as error:
            if not isinstance(signal, _REASONS):
                raise
            # The end of a process is reported even if its reason cannot be encoded.
            if is_result := _is_result(payload):
                error = error.about("[2]", "the result").with_traceback(error.__traceback__)
            what = "a result" if is_result else "an exit reason"
            extra = self.fields("reason_not_encoded")
            logger.warning("%s for %s cannot be sent: %s", what, self, error, extra=extra)
            return self.session.encode(signal, error_reason(error))

    def send(self, route: Route, payload: Term) -> Awaitable[None] | None:
        """Sends a message.

        Returns an awaitable while the sender's backlog is high. Raises EtfEncodeError,
        NoConnection.
        """
        outbox = self._outbox
        if self.access_filter is not None:
            self.access_filter.note_sender(route.sender)
        if self.state is _UP:
            channel = self._channel
            assert channel is not None
            head = route.head
            if head is None or head.channel is not channel.mark:
                head = channel.address(route.signal, outbox.stream_of(route.sender))
                route.head = head
            made = channel.framed(head, payload)
            if type(made) is bytes:
                self._sent_since_yield += len(made)
                outbox.put_frame(route.sender, head, made)
            else:
                assert type(made) is OutgoingMessage
                self._sent_since_yield += made.size
                outbox.put(route.sender, made)
        if outbox.queued > outbox.high and outbox.must_wait(route.sender):
            return outbox.space()
        if self._sent_since_yield >= _YIELD_AFTER:
            self._sent_since_yield = 0
            return asyncio.sleep(0)
        return None

    def writable_again(self) -> None:
        """Called when the carrier is writable again."""
        self._outbox.feed()

    # -- incoming packets --

    def packets_received(self, packets: Sequence[Packet]) -> int:
        """Handles a batch of packets. Returns the number of bytes handled; the rest is queued."""
        self._queue.extend(packets)
        if self._held_by or self._is_work_planned:
            return 0
        return self._take_turn()

    def _work(self) -> None:
        self._is_work_planned = False
        self.connection.consumed(self._take_turn())

    def _take_turn(self) -> int:
        """Handles queued packets, at most _TURN, until a receiver pauses the peer.

        Returns their bytes.
        """
        queue = self._queue
        held_by = self._held_by
        consumed = 0
        count = left = min(_TURN, len(queue))
        try:
            while left:
                taken, size = self._take_run(left)
                if taken:
                    consumed += size
                    left -= taken
                    if held_by:
                        break
                    continue
                left -= 1
                packet = queue.popleft()
                consumed += len(packet.data)
                self._take(packet)
                if self._rates is not None and packet.data and self.state is _UP:
                    self.throttle(self._rates.take(self.name or "", self._loop.time()))
                if held_by or self.state is _DOWN:
                    break
        except HandshakeRefused as error:
            self._refused(error)
        except DistError as error:
            self.fail(f"the peer violated the protocol: {error}", Cause.PROTOCOL)
        except Exception as error:
            extra = self.fields("internal_error")
            logger.exception("%s: handling a message failed", self, extra=extra)
            self.fail(f"internal error: {error!r}", Cause.INTERNAL)
        if self.state is State.DOWN:
            queue.clear()
            return 0
        if count:
            self._heard_at = self._loop.time()
        if queue and not held_by:
            self._plan_work()
        return consumed

    def _take(self, packet: Packet) -> None:
        channel = self._channel
        if channel is not None and type(packet) is FramePacket:
            message = channel.message(packet.data, packet.stream)
            if message is not None:
                self._act(*message)
                return
        for event in self.session.receive(packet):
            if type(event) is MessageReceived:
                self._act(event.signal, event.payload)
            else:
                self._on_event(event)

    def _take_run(self, most: int) -> tuple[int, int]:
        """Handles the queued messages in a row to one receiver, at most `most`.

        Returns their number and bytes, which are 0 if the next packet must be handled by itself. A
        message that the receiver has no room for is only handled as the last one.
        """
        channel, packet = self._channel, self._queue[0]
        if channel is None or type(packet) is not FramePacket or self._rates is not None:
            return 0, 0
        opening = channel.opening(packet.data, packet.stream)
        if opening is None or self.access_filter is not None:
            return 0, 0
        signal = opening[0]
        receiver = self.receiver_of_run(signal) if type(signal) is signals.Message else None
        if receiver is None or (room := receiver.run_room) < 0:
            return 0, 0
        overhead = receiver.run_overhead
        messages, consumed, size = channel.messages(self._queue, opening, most, room, overhead)
        if messages:
            self._messages_received += len(messages)
            receiver.deliver_run(messages, size, self)
        return len(messages), consumed

    def _act(self, signal: Signal, payload: Payload) -> None:
        self._messages_received += 1
        kind = type(signal)
        handler = self.handlers.get(kind)
        if handler is None:
            return
        self._check_sender(signal)
        if self.access_filter is not None and not self.access_filter.allows(signal, payload):
            return
        handler(signal, payload, self)

    def _check_sender(self, signal: Signal) -> None:
        """Raises ProtocolError if the sender is a process of another node."""
        kind = type(signal)
        if kind in _OWN and signal.sender.node is not self.name:  # type: ignore[attr-defined]
            raise ProtocolError(f"{kind.__name__} with a pid of another node as sender")

    def _drop(self, event: PayloadRefused) -> None:
        """Drops a message whose payload cannot be decoded. The connection continues."""
        signal = event.signal
        self._check_sender(signal)
        self._messages_refused += 1
        kind = type(signal).__name__
        extra = {**self.fields("payload_refused"), "kind": kind, "size": event.size}
        text = "dropped a message from %s (%s, %d bytes): %s"
        logger.warning(text, self, kind, event.size, event.reason, extra=extra)
        if self.access_filter is None or self.access_filter.allows(signal, NO_PAYLOAD):
            self._owner.payload_refused(self, signal, event.reason)

    def _plan_work(self) -> None:
        if not self._is_work_planned:
            self._is_work_planned = True
            self._loop.call_soon(self._work)

    # -- backpressure --

    @property
    def can_spawn(self) -> bool:
        """Whether the node supports SPAWN_REQUEST."""
        return Flag.SPAWN in self.flags

    def pause(self, level: Backpressure) -> None:
        """Pauses the peer if `level` requires it. The peer has filled that receiver."""
        if level in self._held_by or not level.must_pause(len(self._calls)):
            return
        now = self._loop.time()
        if not self._held_by:
            self._held_since = now
        self._held_by.add(level)
        level.held.add(self)
        if now >= level.next_report:
            level.next_report = now + _REPORT_PAUSE
            bound = ", its hard bound" if level.is_at_bound else ""
            extra = {**self.fields("peer_held_back"), "by": str(level.owner), "size": level.size}
            text = "%s%s: reading from %s is paused until the receiver has room"
            logger.warning(text, level, bound, self, extra=extra)
        if level.is_at_bound:
            self._fail_calls(level)

    def throttle(self, seconds: float) -> None:
        """Pauses the peer for `seconds`, since it has exceeded a rate limit.

        Its ticks are not read either, but packets of the carrier still count as signs of life.
        """
        if seconds <= 0 or self.state is not State.UP:
            return
        now = self._loop.time()
        self._pause.extend(seconds, now)
        self._alarm.set(self._pause.due)
        level = self._pausing
        if level in self._held_by:
            return
        if not self._held_by:
            self._held_since = now
        self._held_by.add(level)
        self._rate_holds += 1
        if now >= level.next_report:
            level.next_report = now + _REPORT_PAUSE
            extra = self.fields("peer_rate_limited")
            logger.warning("%s exceeds its rate limit and is paused", self, extra=extra)

    def resume(self, level: Backpressure) -> None:
        """Called when a receiver has room again."""
        self._no_longer_held_by([level])
        if self._held_by or self.state is State.DOWN:
            return
        extra = self.fields("peer_let_go")
        logger.debug("reading from %s continues", self, extra=extra)
        self._plan_work()

    def _no_longer_held_by(self, levels: Iterable[Backpressure]) -> None:
        was_held = self.is_held_back
        self._held_by.difference_update(levels)
        if was_held and not self._held_by:
            self._held_before += self._loop.time() - self._held_since

    @property
    def is_held_back(self) -> bool:
        """Whether receivers of this node pause the peer."""
        return bool(self._held_by)

    def traffic(self, carrier: ConnectionStatistics) -> Traffic:
        """Returns the traffic of this connection so far.

        `carrier` has the counters of the carrier.
        """
        held_now = self._loop.time() - self._held_since if self._held_by else 0.0
        return Traffic(
            bytes_sent=carrier.bytes_sent,
            bytes_received=carrier.bytes_received,
            messages_sent=self._outbox.messages_accepted,
            messages_received=self._messages_received,
            messages_refused=self._messages_refused,
            datagrams_lost=carrier.datagrams_lost,
            migrations=carrier.migrations,
            rate_holds=self._rate_holds,
            held_back=self._held_before + held_now,
        )

    def link_added(self, count: Callable[[str], int]) -> None:
        """Counts a new link or monitor of the peer. Raises ProtocolError beyond the limit.

        The exact number is computed only after enough additions to amortize the cost, since they
        end in many ways.
        """
        self._links_uncounted += 1
        most = self._limits.links_and_monitors
        if self._links_uncounted <= self._links_room or self.name is None:
            return
        present = count(self.name)
        if present > most:
            raise ProtocolError(f"the peer has {present} links and monitors (limit: {most})")
        self._links_uncounted = 0
        self._links_room = max(most - present, most // 8)

    def call_begins(self, call: object, fail: Callable[[Exception], None]) -> None:
        """Notes a pending call to this peer. Only a hard bound pauses the peer now.

        `fail` ends the call. Raises MailboxFull if the answer could not arrive.
        """
        for level in list(self._held_by):
            if level.is_at_bound:
                raise self._mailbox_full(level)
            level.held.discard(self)
            self.resume(level)
        self._calls[call] = fail

    def call_ends(self, call: object) -> None:
        """Notes that a call has ended."""
        self._calls.pop(call, None)

    def _fail_calls(self, level: Backpressure) -> None:
        calls, self._calls = self._calls, {}
        for fail in calls.values():
            fail(self._mailbox_full(level))

    def _mailbox_full(self, level: Backpressure) -> MailboxFull:
        if level is self._answers:
            return MailboxFull(f"{level}: {self.name} sends requests and does not read the answers")
        return MailboxFull(
            f"{level}, its hard bound, so {self.name} is paused and its answer cannot arrive: "
            f"receive messages, or raise MailboxLimits.hard"
        )

    # -- time --

    def _on_alarm(self, now: float) -> None:
        """Does what is due and sets the alarm again. It may ring early."""
        match self._deadlines.look(now):
            case Due.ANSWER:
                assert self._delayed_answer is not None
                self._decide(self._delayed_answer())
            case Due.TIMEOUT:
                text = "the distribution handshake was not finished within"
                reason = f"{text} {self._handshake_timeout:g} s"
                self.fail(*self._end_of_handshake(reason, Cause.HANDSHAKE_TIMEOUT))
            case Due.CLOSE:
                self.connection.close(self._close_text)
                self._alarm.stop()
        if self.state is _UP:
            if self._pause.look(now) and self._pausing in self._held_by:
                self.resume(self._pausing)
            if now >= self._liveness.due:
                self._tick(now)
        if self.state is _UP:
            self._alarm.set(min(self._liveness.due, self._pause.due))
        self._alarm.set(self._deadlines.due)

    def _tick(self, now: float) -> None:
        connection, outbox = self.connection, self._outbox
        seen = Observed(
            last_received=connection.last_received,
            silence=self._watch.silence(connection.last_received, now),
            heard_at=self._heard_at,
            frames_sent=outbox.frames_sent,
            is_backlog_empty=outbox.is_empty,
            is_held_back=bool(self._held_by),
            is_behind_answers=self._answers in self._held_by,
            is_unread=bool(self._queue),
        )
        tick = self._liveness.tick(now, seen)
        if isinstance(tick, Dead):
            self.fail(tick.reason, tick.cause)
            return
        if tick.probes:
            self._owner.probe(self)
        connection.ping()  # before the tick, which may leave at once
        if tick.sends_tick:
            connection.send_frame(())
        self._liveness.sent(outbox.frames_sent)

    # -- closing --

    @property
    def ending(self) -> Ending:
        """The class of its cause in statistics."""
        return ending_of(self.cause)

    def leave(self, reason: str, cause: Cause = Cause.DISCONNECTED) -> None:
        """Closes the connection because this node stops or disconnects."""
        self.fail(reason, cause)

    def fail(self, reason: str, cause: Cause) -> None:
        """Closes the connection at once."""
        if self.state is State.DOWN:
            return
        self._end(reason, cause)
        self._alarm.stop()
        self.connection.close(reason)

    def connection_lost(self, reason: CloseReason) -> None:
        """Called when the carrier has lost the connection.

        Packets already received are still handled.
        """
        if self.state is State.DOWN:
            return
        while self._queue:
            # The carrier's window bounds what a full receiver must still accept.
            self._no_longer_held_by(list(self._held_by))
            self._take_turn()
        self.is_ended_orderly = reason.is_orderly
        self._end(*self._end_of_handshake(self._explained(reason), reason.cause))
        self._alarm.stop()

    def _explained(self, reason: CloseReason) -> str:
        """Returns the reason of the loss, which may be that the local event loop was blocked."""
        blocked_for = self._watch.blocked_for(self._loop.time())
        if blocked_for < min(self._limits.net_ticktime, _USUAL_TICKTIME) / 2:
            return reason.text
        return (
            f"the event loop of this node was blocked for {blocked_for:.0f} s, so the peer closed "
            f"the connection"
        )

    def _end_of_handshake(self, reason: str, cause: Cause) -> tuple[str, Cause]:
        """Interprets the end of a handshake.

        OTP does not report a wrong cookie: it closes the connection, or sends nothing.
        """
        if self.state is State.HANDSHAKE and self.session.awaits_ack:
            reason += "; the peer has received the cookie proof, so the cookies probably differ"
            cause = Cause.COOKIE
            self.refusal = HandshakeRefused(reason, cause)
        return reason, cause

    def _refused(self, error: HandshakeRefused) -> None:
        # The tracebacks of this error and of one before it refer to this object.
        self.refusal = error.with_traceback(None)
        error.__context__ = None
        if error.answer is not None:
            self.connection.send_handshake(error.answer)
            self._close_after_refusal(str(error), error.cause)
        else:
            self.fail(str(error), error.cause)

    def _close_after_refusal(self, reason: str, cause: Cause) -> None:
        """Closes the connection after the last handshake message has had time to arrive."""
        if self.state is State.DOWN:
            return
        self._end(reason, cause)
        self._close_text = reason
        self._deadlines.refused(self._loop.time())
        self._alarm.set(self._deadlines.due)

    def _end(self, reason: str, cause: Cause) -> None:
        if self.state is State.DOWN:
            return
        self.state = State.DOWN
        self.cause = cause
        self._deadlines.finished()
        for level in self._held_by:
            level.held.discard(self)
        self._no_longer_held_by(list(self._held_by))
        error = partial(NoConnection, self.name or "the peer", reason, cause)
        self._outbox.fail(error)
        calls, self._calls = self._calls, {}
        for fail in calls.values():
            fail(error())
        self._owner.peer_down(self, reason)


_REASONS = (signals.Exit, signals.ExitSignal, signals.Down)
"""Signals with an exit reason."""

_ANSWERS = frozenset(
    (signals.Message, signals.Exit, signals.Down, signals.SpawnReply, signals.UnlinkAck)
)
"""Signals that a peer can make this node send in any number, without an `await`."""

_OWN = frozenset(
    (
        *(signals.Link, signals.Unlink, signals.UnlinkAck, signals.Exit, signals.ExitSignal),
        *(signals.Monitor, signals.Demonitor, signals.SpawnRequest),
    )
)
"""Signals that a node sends only for its own processes. OTP (tested with 25) closes the
connection otherwise: their effects are removed when the connection to the node is lost."""


def _is_result(payload: Payload) -> bool:
    """Returns whether a payload is the result of an `erpc` call: `{Reference, return, Value}`."""
    return isinstance(payload, tuple) and len(payload) == 3 and payload[1] is _RETURN
