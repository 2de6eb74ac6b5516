"""A connected node: one carrier connection and the distribution session on it.

Packets come in batches, become events, and land in processes. What one message costs lies here,
so the way from `packets_received` to a handler is short. Messages go out through the outbox.

A receiver that is too full holds the peer back: frames then stay as they came, neither decoded
nor reported consumed, and the carrier's window stops the peer.
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
from quicdist.carriers.base import CloseReason, Connection, ConnectionStatistics
from quicdist.cluster.access_filter import AccessFilter
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
from quicdist.runtime.backpressure import Backpressure
from quicdist.runtime.counters import Ending, Traffic, ending_of
from quicdist.runtime.exit_reasons import error_reason
from quicdist.runtime.process_table import Handler, Route
from quicdist.runtime.rate_limit import RateLimits

logger = logging.getLogger("quicdist.node")

_TURN = 256
"""Packets dealt with before the event loop has its turn."""

_YIELD_AFTER = 64 * 1024
"""Bytes that leave before who goes on sending lets the event loop have its turn: what was sent
waits for that, and so do all others."""

_REPORT_PAUSE = 5.0
"""Seconds between two reports that the same receiver holds somebody back."""

_USUAL_TICKTIME = 60.0
"""Seconds: net_ticktime of a BEAM (kernel(6)), and ours."""

_REFUSAL_TIME = 0.5
"""Seconds for a refusal to reach the peer before the connection is closed."""


_RETURN = Atom("return")


class State(enum.Enum):
    """A connection's life."""

    HANDSHAKE = "handshake"
    UP = "up"
    DOWN = "down"


_UP, _DOWN = State.UP, State.DOWN


class Owner(Protocol):
    """Who decides about links and wants to know of them."""

    def peer_named(self, peer: Peer, name: str) -> Status:
        """Somebody who connected to us says who it is: what do we answer?"""

    def patience(self, peer: Peer) -> float:
        """Seconds until that is answered."""

    def name_asked(self, peer: Peer, host: str) -> Named | Status:
        """Somebody who connected to us, of this host, wants a name: which one?"""

    def alive_asked(self, peer: Peer) -> Status:
        """The peer we connect to believes that a connection exists: what do we answer?"""

    def peer_up(self, peer: Peer) -> None:
        """The handshake is done."""

    def peer_down(self, peer: Peer, reason: str) -> None:
        """The connection is gone; called once."""

    def payload_refused(self, peer: Peer, signal: Signal, reason: str) -> None:
        """A message of the peer's was dropped; whoever waits for it is told."""

    def probe(self, peer: Peer) -> None:
        """Send the peer something that its node answers."""


class Peer:
    """One connection to a node.

    `name` is set as soon as it is known; `flags` are the negotiated ones, once up.
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
    ) -> None:
        """`rates` bound the messages of each peer, over all its connections."""
        self.connection = connection
        self.session = session
        self._channel: Channel | None = None
        """Of the session, once connected."""
        self.name: Atom | None = None if name is None else Atom(name)
        self.creation = 0
        self.flags = Flag(0)
        self.is_hidden = True
        self.state = State.HANDSHAKE
        self.is_dialer = name is not None
        self.local_name = ""
        self.local_creation = 0
        """Of the name, ours or the one that the peer gave us."""
        self.refusal: HandshakeRefused | None = None
        self.offers_binding = False
        """Its proof of the cookie will be bound to the TLS session; of a peer that dialed us."""
        self.up_since = 0.0
        """Unix time when the handshake was done."""
        self.cause = Cause.LOST
        """Why it is over, once it is."""
        self.is_ended_orderly = False
        """Whether the peer closed the connection without an error."""
        self.guard: AccessFilter | None = None
        """What the peer may do, once it is up; None where that is everything."""
        self.gets_tracebacks = True
        """Whether it is sent tracebacks of errors here."""
        self._owner = owner
        self.handlers = handlers
        """What is done with each control message."""
        self._limits = limits
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(connection, session, high=limits.send_high, low=limits.send_low)
        self._queue: deque[Packet] = deque()
        self._is_work_planned = False
        self._sent_since_yield = 0
        """Bytes sent since a sender let the event loop have its turn."""
        self._messages_received = 0
        self._messages_refused = 0
        self._held_by: set[Backpressure] = set()
        self._held_since = 0.0
        self._held_before = 0.0
        """Seconds, of the times that are over."""
        most = limits.unread_answers
        self._answers = Backpressure("the backlog of answers", most // 2, most, 2 * most)
        self._rates = rates
        self._pausing = Backpressure("more in a second than it may send", 0, 0, 1, "messages")
        self._pause_over = 0.0
        """Event loop time when a peer that sent too much is let go."""
        self._rate_holds = 0
        self._links_uncounted = 0
        self._links_room = limits.ties
        self._calls: dict[object, Callable[[Exception], None]] = {}
        self._lowers = False
        self._takes_sender = True
        self._takes_altact = False
        self._has_proved = False
        """The dialer's last handshake message, its proof of the cookie, is on its way."""
        self._heard_at = self._loop.time()
        """Event loop time when packets of the peer's were last dealt with."""
        self._liveness = Liveness(
            limits.net_ticktime,
            self._loop.time(),
            needs_probe=connection.traits.needs_probe,
            has_keepalive=bool(connection.traits.alpn),
        )
        self._timer: asyncio.TimerHandle = self._loop.call_later(
            handshake_timeout,
            self._handshake_timed_out,
            f"the distribution handshake was not finished within {handshake_timeout:g} s",
        )

    def __str__(self) -> str:
        host, port = self.connection.peer_address
        return f"{self.name or 'a node not named yet'} at {host}:{port}"

    @property
    def fingerprint(self) -> str:
        """Of the key that its node has shown in TLS; empty where it has shown none."""
        return self.connection.peer_fingerprint

    def fields(self, event: str) -> dict[str, object]:
        """What a line in the log has besides its text, for programs that read it."""
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
        """The dialer's first move."""
        for event in self.session.start():
            self._on_event(event)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, SendHandshake):
            self._has_proved = self.is_dialer and event.data[:1] == b"r"
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
            logger.warning("%s sent a message of an unknown kind: %s", self, op, extra=extra)

    def _answer_name(self, answer: Callable[[], Status | Named]) -> None:
        """At once, but where wrong cookies came from its address. Until then it is given
        no challenge to try a cookie on, and has nothing to say."""
        delay = self._owner.patience(self)
        if not delay:
            self._decide(answer())
            return

        def later() -> None:
            if self.state is State.HANDSHAKE:
                self._decide(answer())

        self._loop.call_later(delay, later)

    def _decide(self, status: Status | Named) -> None:
        if isinstance(status, Named):
            self.name = Atom(status.name)
        for event in self.session.decide(status):
            self._on_event(event)
        if status in (Status.NOK, Status.NOT_ALLOWED, Status.FALSE):
            cause = Cause.REFUSED_HERE if status is Status.NOT_ALLOWED else Cause.SUPERSEDED
            self._close_after_refusal(f"refused with {status.value}", cause)

    def _on_connected(self, event: Connected) -> None:
        self._timer.cancel()
        self.name = Atom(event.peer.name)
        self.creation = event.peer.creation
        self.flags = event.flags
        self.local_name = event.local_name
        self.local_creation = event.local_creation
        self.is_hidden = Flag.PUBLISHED not in event.peer.flags
        self.state = State.UP
        self.up_since = time.time()
        self._channel = self._outbox.cutter = self.session.channel
        self.connection.handshake_done()
        self._timer = self._loop.call_later(self._liveness.begin(self._loop.time()), self._tick)
        self._owner.peer_up(self)

    # -- messages out --

    @property
    def outbox(self) -> Outbox:
        """The backlog."""
        return self._outbox

    def post(self, sender: Pid, signal: Signal, payload: Payload = NO_PAYLOAD) -> None:
        """Sends without waiting. Raises EtfEncodeError for a message that is no Erlang term.

        A peer that makes us answer and does not read the answers is held back.
        """
        if self.state is not State.UP:
            return
        if self.guard is not None:
            self.guard.heard(sender)
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
            # The end of a process is told even if its reason cannot be.
            if is_result := _is_result(payload):
                error = error.about("[2]", "the result").with_traceback(error.__traceback__)
            what = "a result" if is_result else "an exit reason"
            extra = self.fields("reason_not_encoded")
            logger.warning("%s for %s cannot be sent: %s", what, self, error, extra=extra)
            return self.session.encode(signal, error_reason(error))

    def send(self, route: Route, payload: Term) -> Awaitable[None] | None:
        """Sends; what is to be awaited while the sender's backlog is high. Raises EtfEncodeError,
        NoConnection."""
        outbox = self._outbox
        if self.guard is not None:
            self.guard.heard(route.sender)
        if self.state is _UP:
            channel = self._channel
            assert channel is not None
            head = route.head
            if head is None or head.channel is not channel.mark:
                head = route.head = channel.address(route.signal)
            message = channel.enclose(head, payload)
            self._sent_since_yield += message.size
            outbox.put(route.sender, message)
        if outbox.must_wait(route.sender):
            return outbox.space()
        if self._sent_since_yield >= _YIELD_AFTER:
            self._sent_since_yield = 0
            return asyncio.sleep(0)
        return None

    def writable_again(self) -> None:
        """The carrier takes more."""
        self._outbox.feed()

    # -- packets in --

    def packets_received(self, packets: Sequence[Packet]) -> int:
        """A batch from the carrier. Bytes dealt with; the rest waits for its turn."""
        self._queue.extend(packets)
        if self._held_by or self._is_work_planned:
            return 0
        return self._take_turn()

    def _work(self) -> None:
        self._is_work_planned = False
        self.connection.consumed(self._take_turn())

    def _take_turn(self) -> int:
        """Deals with what has come, a turn's worth, as long as nobody holds us back. Its bytes."""
        queue = self._queue
        held_by = self._held_by
        consumed = 0
        count = min(_TURN, len(queue))
        try:
            for _ in range(count):
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
            self.fail(f"the peer broke the protocol: {error}", Cause.PROTOCOL)
        except Exception as error:
            extra = self.fields("internal_error")
            logger.exception("%s: a message could not be dealt with", self, extra=extra)
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
            message = channel.message(packet.data)
            if message is not None:
                self._act(*message)
                return
        for event in self.session.receive(packet):
            if type(event) is MessageReceived:
                self._act(event.signal, event.payload)
            else:
                self._on_event(event)

    def _act(self, signal: Signal, payload: Payload) -> None:
        self._messages_received += 1
        kind = type(signal)
        handler = self.handlers.get(kind)
        if handler is None:
            return
        self._check_sender(signal)
        if self.guard is not None and not self.guard.admits(signal, payload):
            return
        handler(signal, payload, self)

    def _check_sender(self, signal: Signal) -> None:
        """Raises ProtocolError for a signal of another node's process."""
        kind = type(signal)
        if kind in _OWN and signal.sender.node is not self.name:  # type: ignore[attr-defined]
            raise ProtocolError(f"{kind.__name__} in the name of another node's pid")

    def _drop(self, event: PayloadRefused) -> None:
        """The payload of a message cannot be read: this costs the message alone."""
        signal = event.signal
        self._check_sender(signal)
        self._messages_refused += 1
        kind = type(signal).__name__
        extra = {**self.fields("payload_refused"), "kind": kind, "size": event.size}
        text = "%s sent a message (%s, %d bytes) that is dropped: %s"
        logger.warning(text, self, kind, event.size, event.reason, extra=extra)
        if self.guard is None or self.guard.admits(signal, NO_PAYLOAD):
            self._owner.payload_refused(self, signal, event.reason)

    def _plan_work(self) -> None:
        if not self._is_work_planned:
            self._is_work_planned = True
            self._loop.call_soon(self._work)

    # -- holding back --

    @property
    def can_spawn(self) -> bool:
        """Whether its node takes SPAWN_REQUEST."""
        return Flag.SPAWN in self.flags

    def pause(self, level: Backpressure) -> None:
        """A receiver is above its high watermark, and we have filled it."""
        if level in self._held_by or not level.must_hold(len(self._calls)):
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
            text = "%s%s: %s is held back until it is drained"
            logger.warning(text, level, bound, self, extra=extra)
        if level.is_at_bound:
            self._fail_calls(level)

    def throttle(self, seconds: float) -> None:
        """It has sent or called more in a second than it may, and is not read for so long. Its
        ticks are not read either, but packets of the carrier still count as signs of life."""
        if seconds <= 0 or self.state is not State.UP:
            return
        now = self._loop.time()
        self._pause_over = max(self._pause_over, now + seconds)
        level = self._pausing
        if level in self._held_by:
            return
        if not self._held_by:
            self._held_since = now
        self._held_by.add(level)
        self._rate_holds += 1
        self._loop.call_at(self._pause_over, self._end_pause)
        if now >= level.next_report:
            level.next_report = now + _REPORT_PAUSE
            extra = self.fields("peer_rate_limited")
            logger.warning("%s sends more than it may, and is held back", self, extra=extra)

    def _end_pause(self) -> None:
        if self._loop.time() < self._pause_over and self.state is State.UP:
            self._loop.call_at(self._pause_over, self._end_pause)
        elif self._pausing in self._held_by:
            self.resume(self._pausing)

    def resume(self, level: Backpressure) -> None:
        """A receiver has room again."""
        self._no_longer_held_by([level])
        if self._held_by or self.state is State.DOWN:
            return
        extra = self.fields("peer_let_go")
        logger.debug("%s is not held back any more", self, extra=extra)
        self._plan_work()

    def _no_longer_held_by(self, levels: Iterable[Backpressure]) -> None:
        was_held = self.is_held_back
        self._held_by.difference_update(levels)
        if was_held and not self._held_by:
            self._held_before += self._loop.time() - self._held_since

    @property
    def is_held_back(self) -> bool:
        """Whether receivers here keep it from going on."""
        return bool(self._held_by)

    def traffic(self, carrier: ConnectionStatistics) -> Traffic:
        """What went over this connection so far; `carrier` is what its connection tells of it."""
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
        """A link or monitor of the peer's more. Raises ProtocolError beyond the bound.

        Counted anew only after so many more that it costs nothing: ties end in many ways.
        """
        self._links_uncounted += 1
        most = self._limits.ties
        if self._links_uncounted <= self._links_room or self.name is None:
            return
        ties = count(self.name)
        if ties > most:
            raise ProtocolError(f"its processes have {ties} links and monitors here (ties: {most})")
        self._links_uncounted = 0
        self._links_room = max(most - ties, most // 8)

    def call_begins(self, call: object, fail: Callable[[Exception], None]) -> None:
        """A call to this peer waits for its answer: only a hard bound holds the peer back now.

        `fail` ends the call. Raises MailboxFull where the answer could not get through.
        """
        for level in list(self._held_by):
            if level.is_at_bound:
                raise self._mailbox_full(level)
            level.held.discard(self)
            self.resume(level)
        self._calls[call] = fail

    def call_ends(self, call: object) -> None:
        """It waits no more."""
        self._calls.pop(call, None)

    def _fail_calls(self, level: Backpressure) -> None:
        calls, self._calls = self._calls, {}
        for fail in calls.values():
            fail(self._mailbox_full(level))

    def _mailbox_full(self, level: Backpressure) -> MailboxFull:
        if level is self._answers:
            return MailboxFull(f"{level}: {self.name} asks on and does not read them")
        return MailboxFull(
            f"{level}, its hard bound, so {self.name} is held back and its answer with it: take "
            f"messages out, or raise MailboxLimits.hard"
        )

    # -- liveness --

    def _tick(self) -> None:
        now = self._loop.time()
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
        if tick.sends_tick:
            connection.send_frame(())
        self._liveness.sent(outbox.frames_sent)
        connection.ping()
        self._timer = self._loop.call_later(tick.pause, self._tick)

    # -- the end --

    @property
    def ending(self) -> Ending:
        """What it counts as, once it is over."""
        return ending_of(self.cause)

    def _handshake_timed_out(self, reason: str) -> None:
        self.fail(*self._judgement(reason, Cause.HANDSHAKE_TIMEOUT))

    def leave(self, reason: str, cause: Cause = Cause.DISCONNECTED) -> None:
        """Ends the connection because this node wants to."""
        self.fail(reason, cause)

    def fail(self, reason: str, cause: Cause) -> None:
        """Ends the connection from this side, at once."""
        if self.state is State.DOWN:
            return
        self._end(reason, cause)
        self.connection.close(reason)

    def connection_lost(self, reason: CloseReason) -> None:
        """The carrier has lost it. What came before that still counts."""
        if self.state is State.DOWN:
            return
        while self._queue:
            # What a receiver cannot hold is bounded by the carrier's window, and is the last.
            self._no_longer_held_by(list(self._held_by))
            self._take_turn()
        self.is_ended_orderly = reason.is_orderly
        self._end(*self._judgement(self._explained(reason), reason.cause))

    def _explained(self, reason: CloseReason) -> str:
        """Why the carrier lost it: it may be that our event loop did not run."""
        stood_still = self._watch.stood_still(self._loop.time())
        if stood_still < min(self._limits.net_ticktime, _USUAL_TICKTIME) / 2:
            return reason.text
        return (
            f"this node's event loop stood still for {stood_still:.0f} s, so the peer gave the "
            f"connection up"
        )

    def _judgement(self, reason: str, cause: Cause) -> tuple[str, Cause]:
        """What the end of a handshake means. OTP says nothing about a cookie that is not its own:
        it closes, or is silent."""
        if self.state is State.HANDSHAKE and self.session.is_judged:
            reason += "; it has our answer to its challenge, so its cookie is most likely another"
            cause = Cause.COOKIE
            self.refusal = HandshakeRefused(reason, cause)
        return reason, cause

    def _refused(self, error: HandshakeRefused) -> None:
        self.refusal = error.with_traceback(None)  # which refers to us
        if error.answer is not None:
            self.connection.send_handshake(error.answer)
            self._close_after_refusal(str(error), error.cause)
        else:
            self.fail(str(error), error.cause)

    def _close_after_refusal(self, reason: str, cause: Cause) -> None:
        """Gives the last handshake message time to arrive."""
        if self.state is State.DOWN:
            return
        self._end(reason, cause)
        self._loop.call_later(_REFUSAL_TIME, self.connection.close, reason)

    def _end(self, reason: str, cause: Cause) -> None:
        if self.state is State.DOWN:
            return
        self.state = State.DOWN
        self.cause = cause
        self._timer.cancel()
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
"""Signals that carry the reason of an end."""

_ANSWERS = frozenset(
    (signals.Message, signals.Exit, signals.Down, signals.SpawnReply, signals.UnlinkAck)
)
"""What a peer can make us send, however much it wants, when it comes without an `await`."""

_OWN = frozenset(
    (
        *(signals.Link, signals.Unlink, signals.UnlinkAck, signals.Exit, signals.ExitSignal),
        *(signals.Monitor, signals.Demonitor, signals.SpawnRequest),
    )
)
"""Signals that a node sends for its own processes only, seen of OTP 25, which breaks the connection
otherwise: what they leave behind is cleared when the connection to that node is lost."""


def _is_result(payload: Payload) -> bool:
    """Whether it is what a function called by `erpc` has returned: `{Reference, return, Value}`."""
    return isinstance(payload, tuple) and len(payload) == 3 and payload[1] is _RETURN
