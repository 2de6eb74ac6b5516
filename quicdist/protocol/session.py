"""One connection between two nodes, without the connection: packets in, events out.

    session = Session(local, Role.INITIATOR, challenge=random_32_bits, expected_peer=name)
    session.start()                    -> events: what to send
    session.receive(packet)            -> events: what to send, what happened
    session.message(frame)             -> the same for a frame that begins as an earlier one
    session.decide(status)             -> events: after PeerNamed or AliveAsked
    session.encode(signal, payload)    -> a message, once connected
    session.address(signal)            -> what goes ahead of many messages, encoded once
    session.enclose(head, payload)     -> one of those messages
    session.frame(message)             -> the one frame of a small message
    session.frames(message)            -> the frames of any, to be handed to the carrier

A session raises ProtocolError or HandshakeRefused when its connection is to be dropped, and
is of no use after that.

    initiator   start()  Name ->          acceptor   <- Name               PeerNamed
                         <- Status                   decide()  Status ->
     AliveAsked          <- `alive`                    (`alive` ->
     decide()            `true` ->                      <- `true`)
                         <- Challenge                  Challenge ->
                         Reply ->                      (<- Complement, from a NameV5)
     Connected           <- Ack                        <- Reply            Ack ->, Connected

ERTS manual, Distribution Protocol, "The Handshake in Detail" and "Protocol between Connected
Nodes"; External Term Format, "Distribution Header".
"""

from __future__ import annotations

import dataclasses
import functools
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

from quicdist import etf
from quicdist.errors import Cause
from quicdist.etf.terms import Atom, Term
from quicdist.protocol import handshake as hs
from quicdist.protocol.errors import (
    DistError,
    HandshakeRefused,
    ProtocolError,
    UsageError,
    WrongCookie,
)
from quicdist.protocol.flags import KNOWN, MANDATORY, Flag, expand, names
from quicdist.protocol.handshake import Named, Status
from quicdist.protocol.header import (
    FIRST_FRAGMENT,
    FRAGMENT_HEAD,
    HEADER,
    NEXT_FRAGMENT,
    PASS_THROUGH,
    VERSION,
    Assembly,
    IncomingAtomCache,
    IncomingFragments,
    OutgoingAtomCache,
)
from quicdist.protocol.packet import FramePacket, Packet
from quicdist.protocol.signals import NO_PAYLOAD as NO_PAYLOAD
from quicdist.protocol.signals import Message, Payload, Signal, SpawnRequest, UnknownSignal
from quicdist.protocol.wire import FOLLOWS, Parsed, WireForms, parse

Buffer: TypeAlias = bytes | memoryview

_MAX_FRAME = 0xFFFF_FFFF

_HEADROOM = 128 * 1024
"""Bytes, at most, of a message's atom cache header and the heads of its fragments."""

_OPENINGS, _OPENING_LENGTHS, _LONGEST_OPENING = 256, 4, 256
"""Beginnings of frames that are kept, how many lengths they have at most, and how many bytes."""

_COMPRESSED: Final = b"\x83P"
"""A control message that says so is not kept: a few hundred bytes of it may be a huge term."""

_SMALL = 32 * 1024
"""Bytes of a message that is copied into its frame: of a larger one the parts are handed on."""


_SHOWN = int(MANDATORY | Flag.PUBLISHED | Flag.NAME_ME | Flag.CHANNEL_BINDING)
"""Flags of a peer that its owner sees before the peer has proved the cookie."""

NOT_BOUND: Final = "{} does not bind its proof of the cookie to the TLS session, as it must here"
"""Why a peer is refused that cannot, or does not want to, bind; formatted with its name."""


class Role(Enum):
    """Who opened the connection."""

    INITIATOR = "initiator"
    ACCEPTOR = "acceptor"


class _State(Enum):
    NEW = "start()"
    STATUS = "a status"
    ALIVE_DECISION = "decide() on whether the connection goes on"
    CHALLENGE = "a challenge"
    ACK = "a challenge ack"
    NAME = "a name"
    DECISION = "decide() on the peer"
    ALIVE_ANSWER = "an answer to alive"
    COMPLEMENT = "a complement"
    REPLY = "a challenge reply"
    CONNECTED = "frames"
    CLOSED = "nothing"


_CONNECTED: Final = _State.CONNECTED


@dataclass(frozen=True, slots=True)
class LocalNode:
    """Who we are. With NAME_ME in the flags `name` is our bare host name, and the peer names us;
    an empty one stands for `localhost`."""

    name: str
    creation: int
    flags: Flag
    cookie: str = field(repr=False)
    """With which we prove ourselves."""
    more_cookies: tuple[str, ...] = field(default=(), repr=False)
    """That peers who connect to us may prove as well, while the cluster's cookie is changed."""


@dataclass(frozen=True, slots=True)
class PeerNode:
    """Who the peer is.

    `flags` are what it offers, as far as we know them; before it has proved the cookie only
    the mandatory ones, PUBLISHED, NAME_ME and CHANNEL_BINDING. While it asks for a name (NAME_ME),
    `name` is its bare host name. `creation` is 0 where the peer has not told it yet.
    """

    name: str
    creation: int
    flags: Flag


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds on what a peer can make us hold. Sizes in bytes."""

    max_message: int = 128 * 1024 * 1024
    """All frames of one message. Larger ones are not taken, and not sent."""
    max_sequences: int = 4096
    """Messages in fragments at a time."""
    max_sequence_bytes: int = 192 * 1024 * 1024
    """What unfinished messages hold together: one of the largest, and others beside it."""
    fragment_size: int = 64 * 1024
    """Payload of an outgoing fragment."""


# -- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendHandshake:
    """To be sent as one handshake message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PeerNamed:
    """A peer wants in; decide() with OK, OK_SIMULTANEOUS, NOK, NOT_ALLOWED, ALIVE or Named."""

    peer: PeerNode


@dataclass(frozen=True, slots=True)
class AliveAsked:
    """The peer believes to be connected with us; decide() with TRUE or FALSE."""


@dataclass(frozen=True, slots=True)
class Connected:
    """Both sides have proved the cookie. `flags` are those both offer.

    `local_name` and `local_creation` are ours, or what the peer gave us (NAME_ME).
    """

    peer: PeerNode
    flags: Flag
    local_name: str
    local_creation: int


@dataclass(frozen=True, slots=True)
class TickReceived:
    """The peer is alive and has nothing to say."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message is complete. `size` counts the bytes of all its frames, length fields excluded."""

    signal: Signal
    payload: Payload
    size: int


@dataclass(frozen=True, slots=True)
class FragmentStored:
    """A frame of `size` bytes is kept until the rest of its message comes."""

    size: int


@dataclass(frozen=True, slots=True)
class UnknownReceived:
    """An operation this version does not know, which is ignored."""

    signal: UnknownSignal
    size: int


@dataclass(frozen=True, slots=True)
class PayloadRefused:
    """The payload of a message does not decode, or is beyond a bound; the message is dropped.

    Its frames are read to their end and their atoms are in the cache, so the connection goes on.
    `reason` is one line that names the setting where a bound was reached. A control message that
    does not decode still ends the connection: it may have been a link, a monitor or an exit, and
    both nodes would go on with different ideas of what holds.
    """

    signal: Signal
    reason: str
    size: int


Event: TypeAlias = (
    SendHandshake
    | PeerNamed
    | AliveAsked
    | Connected
    | TickReceived
    | MessageReceived
    | FragmentStored
    | PayloadRefused
    | UnknownReceived
)

_TICK: Final = TickReceived()


@dataclass(slots=True, eq=False)
class Head:
    """A control message encoded for one session, ahead of any number of payloads."""

    session: object
    """The mark of its session: no other can read it."""
    control: bytes
    refs: dict[Atom, int] | None
    """Its atoms, where the session has an atom cache."""
    atoms: tuple[Atom, ...]


@dataclass(slots=True, eq=False)
class OutgoingMessage:
    """An encoded message that has no header yet: that is made when its first frame leaves."""

    control: bytes
    payload: bytes | None
    atoms: tuple[Atom, ...]
    """Those that it refers to by number."""
    size: int
    """Bytes of control message and payload."""


class _Openings:
    """What frames began with: one process's messages to another all begin alike, and what lies
    before the payload need not be read again. Bounded."""

    __slots__ = ("_changes", "_known", "_lengths")

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Signal, tuple[Atom, ...], int]] = {}
        self._lengths: list[int] = []
        self._changes = 0

    def find(self, frame: bytes, changes: int) -> tuple[Signal, tuple[Atom, ...], int] | None:
        """Its signal, its atoms and where its payload begins. `changes` are those of the
        atom cache: with each the same bytes may mean another thing."""
        if changes != self._changes:
            self._forget(changes)
            return None
        for length in self._lengths:
            known = self._known.get(frame[:length])
            if known is not None:
                return known
        return None

    def keep(
        self, frame: bytes, signal: Signal, atoms: tuple[Atom, ...], offset: int, changes: int
    ) -> None:
        """The payload of `frame` begins at `offset`; one that has changed the cache is not kept."""
        if changes != self._changes:
            self._forget(changes)
            return
        if offset > _LONGEST_OPENING or type(signal) is not Message:
            return
        is_new = offset not in self._lengths
        if len(self._known) >= _OPENINGS or (is_new and len(self._lengths) >= _OPENING_LENGTHS):
            self._forget(changes)
            is_new = True
        if is_new:
            self._lengths.append(offset)
        self._known[frame[:offset]] = signal, atoms, offset

    def _forget(self, changes: int) -> None:
        self._changes = changes
        self._known.clear()
        self._lengths.clear()


# -- the session --------------------------------------------------------------------------------


class Session:
    """The distribution protocol on one connection."""

    def __init__(
        self,
        local: LocalNode,
        role: Role,
        *,
        challenge: int,
        expected_peer: str | None = None,
        limits: SessionLimits | None = None,
        options: etf.Options = etf.DEFAULT,
        binding: bytes = b"",
        must_bind: bool = False,
    ) -> None:
        """`challenge` is 32 bits nobody can guess. Only `expected_peer` is talked to.

        `binding` is the exporter value of the TLS session below, empty where there is none: the
        proofs of the cookie are bound to it if the peer can do that too. With `must_bind` an
        initiator refuses a peer that cannot, before it sends a proof; an acceptor's owner decides
        by the flags of PeerNamed. Raises UsageError.
        """
        _check_local(local, role, challenge)
        self._local = local
        self._role = role
        self._cookie = hs.cookie_bytes(local.cookie)
        self._more_cookies = tuple(map(hs.cookie_bytes, local.more_cookies))
        self._challenge = challenge
        self._expected_peer = expected_peer
        self._limits = limits or SessionLimits()
        self._options = options
        self._binding = binding
        self._must_bind = must_bind
        self._is_bound = False
        self._outgoing = _outgoing(options, self._limits.max_message, native_records=False)
        # A control message is read the same way whatever the options for payloads say. By the
        # very DEFAULT where that will do: the compiled core need not look into it each time.
        self._control_options = (
            etf.DEFAULT
            if options.limits == etf.DEFAULT.limits
            else dataclasses.replace(etf.DEFAULT, limits=options.limits)
        )
        self._state = _State.NEW if role is Role.INITIATOR else _State.NAME
        self._local_name = local.name
        self._local_creation = local.creation
        self._sent_flags = 0
        self._peer_flags = 0
        self._peer_creation = 0
        self._peer_name = ""
        self._complement_due = False
        self._peer: PeerNode | None = None
        self._flags = Flag(0)
        self._forms = WireForms(self._flags)
        self._header_form = False
        self._fragments = False
        self._atom_cache = False
        self._atoms_in = IncomingAtomCache()
        self._atoms_out = OutgoingAtomCache()
        self._fragments_in = IncomingFragments(
            self._limits.max_sequences, self._limits.max_sequence_bytes, self._limits.max_message
        )
        self._openings = _Openings()
        self._last_sequence = 0
        self._one_frame = min(self._limits.fragment_size, _SMALL)
        self.mark: Final = object()
        """What tells the heads made by this session from those of others."""

    @property
    def local(self) -> LocalNode:
        """Who we are."""
        return self._local

    @property
    def connected(self) -> bool:
        """Whether messages may flow."""
        return self._state is _State.CONNECTED

    @property
    def peer(self) -> PeerNode:
        """The peer, once connected. Raises UsageError before."""
        if self._peer is None:
            raise UsageError("the peer is known once the session is connected")
        return self._peer

    @property
    def flags(self) -> Flag:
        """What both nodes can do, once connected. Raises UsageError before."""
        if self._peer is None:
            raise UsageError("flags are negotiated once the session is connected")
        return self._flags

    @property
    def is_bound(self) -> bool:
        """Whether the proofs of the cookie are bound to the TLS session. Known once the challenge
        is sent or received."""
        return self._is_bound

    @property
    def is_judged(self) -> bool:
        """The peer has our digest and has not answered it. One whose cookie is another goes away
        now, or says nothing any more."""
        return self._state is _State.ACK

    # -- handshake ------------------------------------------------------------------------------

    def start(self) -> list[Event]:
        """The initiator's first move; nothing for an acceptor. Raises UsageError."""
        if self._role is Role.ACCEPTOR:
            return []
        self._expect(_State.NEW)
        flags, name, creation = int(self._local.flags), self._local.name, self._local.creation
        if hs.wants_name(flags):
            flags &= ~Flag.PUBLISHED.value
            name, creation = name or "localhost", 0
        if self._binding:
            flags |= Flag.CHANNEL_BINDING.value
        self._sent_flags = flags
        self._local_name = name
        self._state = _State.STATUS
        return [SendHandshake(hs.build_name(hs.Name(flags, creation, name)))]

    def receive(self, packet: Packet) -> list[Event]:
        """What a packet means. Raises ProtocolError or HandshakeRefused."""
        try:
            if type(packet) is FramePacket:
                if self._state is not _State.CONNECTED:
                    raise ProtocolError(f"a frame received, {self._state.value} expected")
                return self._frame(packet.data)
            handler = _HANDLERS.get(self._state)
            if handler is None:
                raise ProtocolError(f"a handshake message received, {self._state.value} expected")
            return handler(self, packet.data)
        except DistError:
            self._state = _State.CLOSED
            raise

    def decide(self, status: Status | Named) -> list[Event]:
        """The answer to PeerNamed or AliveAsked. Raises UsageError.

        After NOK, NOT_ALLOWED and FALSE the session is over: send what is to be sent, and
        close.
        """
        if self._state is _State.ALIVE_DECISION:
            return self._answer_alive(status)
        self._expect(_State.DECISION)
        if hs.wants_name(self._peer_flags) != isinstance(status, Named) and (
            status not in (Status.NOK, Status.NOT_ALLOWED)
        ):
            raise UsageError("Named is the answer to a peer that asks for a name, and only to it")
        if status in (Status.TRUE, Status.FALSE):
            raise UsageError(f"{status} is no answer to a peer's name")
        answer = SendHandshake(hs.build_status(status))
        if isinstance(status, Named):
            self._peer_name, self._peer_creation = status.name, status.creation
        if status is Status.ALIVE:
            self._state = _State.ALIVE_ANSWER
            return [answer]
        if status in (Status.NOK, Status.NOT_ALLOWED):
            self._state = _State.CLOSED
            return [answer]
        return [answer, self._send_challenge()]

    def _answer_alive(self, status: Status | Named) -> list[Event]:
        if status not in (Status.TRUE, Status.FALSE):
            raise UsageError(f"TRUE or FALSE is the answer to alive, not {status}")
        self._state = _State.CHALLENGE if status is Status.TRUE else _State.CLOSED
        return [SendHandshake(hs.build_status(status))]

    def _on_name(self, data: bytes) -> list[Event]:
        name = hs.parse_name(data)
        self._peer_flags = expand(name.flags)
        self._peer_name = name.name
        if isinstance(name, hs.NameV5):
            self._complement_due = True
            self._check_flags(due=int(MANDATORY) & hs.MAX_U32)
        else:
            self._peer_creation = name.creation
            self._check_flags()
        self._check_peer_name(name.name)
        self._state = _State.DECISION
        # Any other combination of bits would stay with Flag for ever, for everyone who knocks.
        shown = Flag(self._peer_flags & _SHOWN)
        return [PeerNamed(PeerNode(self._peer_name, self._peer_creation, shown))]

    def _check_peer_name(self, name: str) -> None:
        if hs.wants_name(self._peer_flags):
            if not hs.is_host_name(name):
                raise ProtocolError(f"a bare host name expected, {name[:64]!r} received")
            return
        if not hs.is_node_name(name):
            raise ProtocolError(f"{name[:64]!r} is no node name")
        if name == self._local.name:
            raise self._refusal(
                f"the peer calls itself {name}, which is our name", Cause.OTHER_NAME
            )
        if self._expected_peer is not None and name != self._expected_peer:
            raise self._refusal(
                f"the peer is {name}, {self._expected_peer} expected", Cause.OTHER_NAME
            )

    def _refusal(self, reason: str, cause: Cause) -> HandshakeRefused:
        """Ours; an acceptor that has not answered yet tells the peer."""
        if self._state is not _State.NAME:
            return HandshakeRefused(reason, cause)
        status = Status.NOT_ALLOWED
        words = hs.build_status(status)
        return HandshakeRefused(reason, cause, status=status.value, last_words=words)

    def _check_flags(self, due: int = int(MANDATORY)) -> None:
        missing = due & ~self._peer_flags
        if missing:
            raise self._refusal(
                f"node {self._peer_name} lacks mandatory capabilities: {', '.join(names(missing))}",
                Cause.CAPABILITIES,
            )

    def _send_challenge(self) -> SendHandshake:
        flags = int(self._local.flags) & ~Flag.NAME_ME.value
        self._is_bound = self._can_bind()
        if self._is_bound:
            flags |= Flag.CHANNEL_BINDING.value
        self._sent_flags = flags | (self._peer_flags & Flag.NAME_ME.value)
        self._state = _State.COMPLEMENT if self._complement_due else _State.REPLY
        local = self._local
        challenge = hs.Challenge(self._sent_flags, self._challenge, local.creation, local.name)
        return SendHandshake(hs.build_challenge(challenge))

    def _on_alive_answer(self, data: bytes) -> list[Event]:
        answer = hs.parse_status(data)
        if answer is Status.FALSE:
            text = f"{self._peer_name} takes its attempt back"
            raise HandshakeRefused(text, Cause.SUPERSEDED, status=answer.value)
        if answer is not Status.TRUE:
            raise ProtocolError(f"true or false expected after alive, {answer} received")
        return [self._send_challenge()]

    def _on_complement(self, data: bytes) -> list[Event]:
        complement = hs.parse_complement(data)
        self._peer_flags = expand(self._peer_flags | complement.flags)
        self._peer_creation = complement.creation
        self._check_flags()
        self._state = _State.REPLY
        return []

    def _on_reply(self, data: bytes) -> list[Event]:
        reply = hs.parse_challenge_reply(data)
        self._check_proof(reply.digest, hs.Prover.INITIATOR)
        ack = hs.ChallengeAck(self._proof(reply.challenge, hs.Prover.ACCEPTOR))
        return [SendHandshake(hs.build_challenge_ack(ack)), self._connect()]

    def _on_status(self, data: bytes) -> list[Event]:
        status = hs.parse_status(data)
        if isinstance(status, Named):
            self._take_name(status)
        elif status in (Status.NOK, Status.NOT_ALLOWED):
            raise HandshakeRefused(*_REFUSALS[status], status=status.value)
        elif status in (Status.TRUE, Status.FALSE):
            raise ProtocolError(f"status {status.value!r} is an answer, and nothing was asked")
        elif hs.wants_name(self._sent_flags):
            raise ProtocolError(f"a name expected, status {status.value!r} received")
        elif status is Status.ALIVE:
            self._state = _State.ALIVE_DECISION
            return [AliveAsked()]
        self._state = _State.CHALLENGE
        return []

    def _take_name(self, named: Named) -> None:
        if not hs.wants_name(self._sent_flags):
            raise ProtocolError("the peer gives us a name, and we have one")
        if named.name.partition("@")[2] != self._local_name:
            raise ProtocolError(f"given name {named.name!r} is not at our host {self._local_name}")
        self._local_name, self._local_creation = named.name, named.creation

    def _on_challenge(self, data: bytes) -> list[Event]:
        challenge = hs.parse_challenge(data)
        self._peer_name, self._peer_creation = challenge.name, challenge.creation
        self._peer_flags = expand(challenge.flags)
        if not hs.is_node_name(challenge.name):
            raise ProtocolError(f"{challenge.name[:64]!r} is no node name")
        if self._expected_peer is not None and challenge.name != self._expected_peer:
            raise self._refusal(
                f"the peer is {challenge.name}, {self._expected_peer} expected", Cause.OTHER_NAME
            )
        if challenge.name == self._local_name:
            raise self._refusal(
                f"the peer calls itself {challenge.name}, which is our name", Cause.OTHER_NAME
            )
        self._check_flags()
        self._is_bound = self._can_bind()
        if self._must_bind and not self._is_bound:
            raise self._refusal(NOT_BOUND.format(challenge.name), Cause.BINDING)
        self._state = _State.ACK
        proof = self._proof(challenge.challenge, hs.Prover.INITIATOR)
        reply = hs.ChallengeReply(self._challenge, proof)
        return [SendHandshake(hs.build_challenge_reply(reply))]

    def _on_ack(self, data: bytes) -> list[Event]:
        ack = hs.parse_challenge_ack(data)
        self._check_proof(ack.digest, hs.Prover.ACCEPTOR)
        return [self._connect()]

    def _can_bind(self) -> bool:
        offered = self._peer_flags & Flag.CHANNEL_BINDING.value
        return bool(offered and self._binding)

    def _proof(self, challenge: int, prover: hs.Prover, cookie: bytes | None = None) -> bytes:
        cookie = self._cookie if cookie is None else cookie
        if self._is_bound:
            return hs.bound_digest(cookie, challenge, self._binding, prover)
        return hs.digest(cookie, challenge)

    def _check_proof(self, received: bytes, prover: hs.Prover) -> None:
        """Takes the same time for every wrong proof. Who dialled us may have any cookie that we
        accept, and is answered with the same. Raises WrongCookie."""
        accepted: tuple[bytes, ...] = (self._cookie,)
        if prover is hs.Prover.INITIATOR:
            accepted += self._more_cookies
        proved = [
            cookie
            for cookie in accepted
            if hmac.compare_digest(self._proof(self._challenge, prover, cookie), received)
        ]
        if proved:
            self._cookie = proved[0]
            return
        reason = f"{self._peer_name} has another cookie than we have"
        if self._is_bound:
            reason += ", or somebody relays the handshake between two TLS sessions"
        raise WrongCookie(reason)

    def _connect(self) -> Connected:
        offered = Flag(self._peer_flags & KNOWN)
        self._flags = Flag(offered & expand(self._sent_flags))
        self._peer = PeerNode(self._peer_name, self._peer_creation, offered)
        self._forms = WireForms(self._flags)
        self._atom_cache = Flag.DIST_HDR_ATOM_CACHE in self._flags
        self._fragments = Flag.FRAGMENTS in self._flags
        self._header_form = self._atom_cache or self._fragments
        self._outgoing = _outgoing(
            self._options,
            self._limits.max_message,
            native_records=Flag.NATIVE_RECORDS in self._flags,
        )
        self._state = _State.CONNECTED
        return Connected(self._peer, self._flags, self._local_name, self._local_creation)

    def _expect(self, state: _State) -> None:
        if self._state is not state:
            raise UsageError(f"not now: the session waits for {self._state.value}")

    # -- frames in ------------------------------------------------------------------------------

    def _frame(self, data: bytes) -> list[Event]:
        if not data:
            return [_TICK]
        size = len(data)
        try:
            if self._header_form:
                return [self._header_frame(data, size)]
            return [self._pass_through_frame(data, size)]
        except etf.EtfDecodeError as error:
            raise ProtocolError(f"a frame holds a term that does not decode: {error}") from error

    def message(self, frame: bytes) -> tuple[Signal, Term] | None:
        """The message in a frame that begins as an earlier one did. None for any other, and for
        one in which something is wrong: `receive` tells of both."""
        known = self._openings.find(frame, self._atoms_in.changes)
        if known is None or len(frame) > self._limits.max_message:
            return None
        signal, atoms, offset = known
        try:
            if self._header_form:
                payload, end = etf.decode_bare(frame, offset, self._options, atoms)
            else:
                payload, end = etf.decode_prefix(frame, offset, self._options)
        except etf.EtfDecodeError:
            return None
        return (signal, payload) if end == len(frame) else None

    def _header_frame(self, data: bytes, size: int) -> Event:
        tag = data[1] if size > 1 and data[0] == VERSION else -1
        if tag == HEADER:
            atoms, offset = self._atoms_in.read(data, 2)
            parsed, offset = self._control(data, offset, atoms)
            self._openings.keep(data, parsed[0], atoms, offset, self._atoms_in.changes)
            return self._message(parsed, data, offset, atoms, size)
        if tag == FIRST_FRAGMENT and self._fragments:
            ids = self._fragments_in.check_first(data)
            atoms, offset = self._atoms_in.read(data, FRAGMENT_HEAD.size)
            parsed, offset = self._control(data, offset, atoms)
            sequence = self._fragments_in.begin(ids, parsed, atoms, data[offset:], size)
            return self._fragment(sequence, size)
        if tag == NEXT_FRAGMENT and self._fragments:
            return self._fragment(self._fragments_in.proceed(data), size)
        raise ProtocolError(f"a frame begins with {data[:2].hex()}, a distribution header expected")

    def _control(self, data: bytes, offset: int, atoms: tuple[Atom, ...]) -> tuple[Parsed, int]:
        values, offset = etf.decode_bare(data, offset, self._control_options, atoms)
        return parse(values), offset

    def _fragment(self, sequence: Assembly | None, size: int) -> Event:
        if sequence is None:
            return FragmentStored(size)
        if sequence.refused is not None:
            return PayloadRefused(sequence.parsed[0], sequence.refused, sequence.size)
        payload = sequence.payload()
        return self._message(sequence.parsed, payload, 0, sequence.atoms, sequence.size)

    def _message(
        self, parsed: Parsed, data: bytes, offset: int, atoms: tuple[Atom, ...], size: int
    ) -> Event:
        signal, payload = parsed
        if payload is FOLLOWS:
            if size > self._limits.max_message:
                return PayloadRefused(signal, self._too_large(size), size)
            try:
                payload, offset = etf.decode_bare(data, offset, self._options, atoms)
            except etf.EtfDecodeError as error:
                return PayloadRefused(signal, str(error), size)
        elif isinstance(signal, UnknownSignal):
            return UnknownReceived(signal, size)
        if offset == len(data):
            return MessageReceived(signal, payload, size)
        raise ProtocolError(f"{len(data) - offset} bytes too many after {type(signal).__name__}")

    def _too_large(self, size: int) -> str:
        most = self._limits.max_message
        return f"a message of {size} bytes, SessionLimits.max_message is {most}"

    def _pass_through_frame(self, data: bytes, size: int) -> Event:
        if data[0] != PASS_THROUGH:
            raise ProtocolError(f"a frame begins with {data[:1].hex()}, 70 expected (pass-through)")
        values, offset = etf.decode_prefix(data, 1, self._control_options)
        signal, payload = parsed = parse(values)
        if payload is not FOLLOWS:
            return self._message(parsed, data, offset, (), size)
        if not data.startswith(_COMPRESSED, 1):
            self._openings.keep(data, signal, (), offset, 0)
        if size > self._limits.max_message:
            return PayloadRefused(signal, self._too_large(size), size)
        try:
            payload, offset = etf.decode_prefix(data, offset, self._options)
        except etf.EtfDecodeError as error:
            return PayloadRefused(signal, str(error), size)
        if offset != size:
            raise ProtocolError(f"{size - offset} bytes too many after {type(signal).__name__}")
        return MessageReceived(signal, payload, size)

    # -- frames out -----------------------------------------------------------------------------

    def encode(self, signal: Signal, payload: Payload = NO_PAYLOAD) -> OutgoingMessage:
        """Turns a signal into bytes, in the form that this peer takes.

        Raises UsageError, and EtfEncodeError for no Erlang term and for a message so large, or a
        term so deep or of so many terms, that a peer with our limits would drop the connection.
        """
        if self._state is not _CONNECTED:
            raise UsageError("messages can be sent once the session is connected")
        values, payload = self._forms.of(signal, payload)
        head = self._head(values)
        if payload is NO_PAYLOAD:
            return OutgoingMessage(head.control, None, head.atoms, len(head.control))
        return self.enclose(head, payload)

    def address(self, signal: Message | SpawnRequest) -> Head:
        """What goes ahead of every payload of this signal. Raises UsageError."""
        if self._state is not _CONNECTED:
            raise UsageError("messages can be sent once the session is connected")
        return self._head(self._forms.ahead(signal))

    def _head(self, values: tuple[Term, ...]) -> Head:
        refs: dict[Atom, int] | None = {} if self._atom_cache else None
        encoded = self._encoded(values, refs)
        return Head(self.mark, encoded, refs, tuple(refs or ()))

    def enclose(self, head: Head, payload: Term) -> OutgoingMessage:
        """One message behind a head of this session's. Raises as `encode` does."""
        if head.session is not self.mark:
            raise UsageError("this head is another session's")
        atoms = head.atoms
        if head.refs is None:
            body = self._encoded(payload, None)
        else:
            refs = head.refs.copy()
            body = self._encoded(payload, refs)
            if len(refs) > len(atoms):
                atoms = tuple(refs)
        size = len(head.control) + len(body)
        message = OutgoingMessage(head.control, body, atoms, size)
        most = self._limits.max_message
        if size + _HEADROOM > most and self._framed_size(message) > most:
            raise etf.EtfEncodeError("", self._too_large(size), "max_message")
        return message

    def _encoded(self, term: Term, refs: dict[Atom, int] | None) -> bytes:
        """Writes no more than a message may have."""
        try:
            return etf.encode_bare(term, self._outgoing, refs)
        except etf.EtfEncodeError as error:
            most = self._limits.max_message
            if error.limit != "max_bytes" or self._outgoing.limits.max_bytes < most:
                raise
            reason = f"a message that is too large, SessionLimits.max_message is {most}"
            raise etf.EtfEncodeError("", reason, "max_message") from None

    def frame(self, message: OutgoingMessage) -> bytes | None:
        """The one frame of a small message, which must leave next; None for what is larger, of
        which nothing is made yet."""
        if message.size > self._one_frame:
            return None
        payload = message.payload
        if self._header_form:
            header = self._atoms_out.header(message.atoms)
            return b"".join((b"\x83D", header, message.control, payload or b""))
        if payload is None:
            return b"p\x83" + message.control
        return b"".join((b"p\x83", message.control, b"\x83", payload))

    def frames(self, message: OutgoingMessage) -> Iterator[tuple[Buffer, ...]]:
        """The frames of a message, each in parts to be put together, made as they are asked for.

        They must reach the peer in the order they were made, whatever message they belong to.
        A message once begun must be finished, unless the connection is dropped.
        """
        payload = message.payload
        if not self._header_form:
            yield from self._pass_through(message)
            return
        limit = self._limits.fragment_size
        if payload is None or message.size <= limit or len(payload) <= limit or not self._fragments:
            self._check_frame_size(message)
            if payload is None:
                yield b"\x83D" + self._header(message), message.control
            else:
                yield b"\x83D" + self._header(message), message.control, payload
            return
        count = -(-len(payload) // limit)
        self._last_sequence = sequence = self._last_sequence + 1
        view = memoryview(payload)
        head = FRAGMENT_HEAD.pack(VERSION, FIRST_FRAGMENT, sequence, count)
        yield head + self._header(message), message.control, view[:limit]
        for index in range(1, count):
            head = FRAGMENT_HEAD.pack(VERSION, NEXT_FRAGMENT, sequence, count - index)
            yield head, view[index * limit : (index + 1) * limit]

    def _header(self, message: OutgoingMessage) -> bytes:
        return self._atoms_out.header(message.atoms)

    def _pass_through(self, message: OutgoingMessage) -> Iterator[tuple[Buffer, ...]]:
        self._check_frame_size(message)
        if message.payload is None:
            yield b"p\x83", message.control
        else:
            yield b"p\x83", message.control, b"\x83", message.payload

    def _framed_size(self, message: OutgoingMessage) -> int:
        """Bytes of all its frames, at most."""
        fragments = message.size // self._limits.fragment_size + 1
        atoms = sum(len(atom.encoded) + 2 for atom in message.atoms)
        return message.size + fragments * FRAGMENT_HEAD.size + atoms + 2

    @staticmethod
    def _check_frame_size(message: OutgoingMessage) -> None:
        """A frame's length field has 32 bits; its header takes less than 64 KiB of them."""
        if message.size > _MAX_FRAME - 0x40000:
            raise UsageError(f"a message of {message.size} bytes does not fit into one frame")


_HANDLERS: dict[_State, Callable[[Session, bytes], list[Event]]] = {
    _State.STATUS: Session._on_status,
    _State.CHALLENGE: Session._on_challenge,
    _State.ACK: Session._on_ack,
    _State.NAME: Session._on_name,
    _State.ALIVE_ANSWER: Session._on_alive_answer,
    _State.COMPLEMENT: Session._on_complement,
    _State.REPLY: Session._on_reply,
}

_REFUSALS = {
    Status.NOK: (
        "the peer is itself connecting to us, and its attempt goes first",
        Cause.SIMULTANEOUS,
    ),
    Status.NOT_ALLOWED: ("the peer does not allow this connection", Cause.NOT_ALLOWED),
}


@functools.lru_cache(maxsize=64)
def _outgoing(options: etf.Options, max_message: int, *, native_records: bool) -> etf.Options:
    """Options for what is sent: the same object for all sessions that have the same, for the
    compiled core knows by it what it has looked into before."""
    limits = dataclasses.replace(
        options.limits, max_bytes=min(options.limits.max_bytes, max_message)
    )
    native_records = native_records and options.native_records
    return dataclasses.replace(options, limits=limits, native_records=native_records)


def _check_local(local: LocalNode, role: Role, challenge: int) -> None:
    dynamic = role is Role.INITIATOR and Flag.NAME_ME in local.flags
    if dynamic and local.name and not hs.is_host_name(local.name):
        raise UsageError(f"with NAME_ME the name is a bare host name, not {local.name!r}")
    if not dynamic and not hs.is_node_name(local.name):
        raise UsageError(f"not a node name: {local.name!r}")
    if MANDATORY & ~local.flags:
        missing = ", ".join(names(int(MANDATORY) & ~int(local.flags)))
        raise UsageError(f"our own flags lack mandatory ones: {missing}")
    if not 0 <= local.creation <= hs.MAX_U32 or not 0 <= challenge <= hs.MAX_U32:
        raise UsageError("creation and challenge have 32 bits")
