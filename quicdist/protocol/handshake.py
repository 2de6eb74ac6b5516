"""The distribution handshake as a state machine: messages in, events out.

ERTS manual, Distribution Protocol, "The Handshake in Detail".

    dialer    start()  Name ->           listener  <- Name               PeerNamed
                       <- Status                   decide()  Status ->
    AliveAsked         <- `alive`                    (`alive` ->
    decide()           `true` ->                      <- `true`)
                       <- Challenge                  Challenge ->
                       Reply ->                      (<- Complement, from a NameV5)
    Connected          <- Ack                        <- Reply            Ack ->, Connected

A dialer says its name and is told whether to go on (status). It may be asked whether its earlier
connection is gone (`alive`). Both then prove the cookie: the listener sends a challenge, the
dialer its digest with a challenge of its own, the listener the digest of that. A node of OTP 23 or
24 that does not know its peer sends its name in an older form, and the rest of it (complement)
before its digest.

A state says what is awaited. `TRANSITIONS` has every move there is: what happened, and the state
that follows. Any other message, and any that does not parse, is a ProtocolError. Errors close the
handshake from every state.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

from quicdist.errors import Cause
from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.errors import (
    DistError,
    HandshakeRefused,
    ProtocolError,
    UsageError,
    WrongCookie,
)
from quicdist.protocol.flags import KNOWN, MANDATORY, Flag, expand, names
from quicdist.protocol.handshake_messages import Named, Status
from quicdist.protocol.role import Role


class State(Enum):
    """What a handshake waits for; the value is the text for errors."""

    # The dialer:
    NEW = "start()"
    STATUS = "a status"
    ALIVE_DECISION = "decide() on whether the connection goes on"
    CHALLENGE = "a challenge"
    ACK = "a challenge ack"

    # The listener:
    NAME = "a name"
    DECISION = "decide() on the peer"
    ALIVE_ANSWER = "an answer to alive"
    COMPLEMENT = "a complement"
    REPLY = "a challenge reply"

    CONNECTED = "frames"
    CLOSED = "nothing"


class Move(Enum):
    """What happened."""

    STARTED = "our name is sent"
    ACCEPTED = "the listener goes on with us"
    ALIVE_ASKED = "the listener has a connection with us already"
    ALIVE_CONFIRMED = "we go on with the new connection"
    ALIVE_DENIED = "we give the new connection up"
    CHALLENGED = "the listener's challenge came, our digest is sent"
    ACKNOWLEDGED = "the listener has proved the cookie"

    NAMED = "the dialer's name came"
    ALIVE_SENT = "we asked the dialer whether its old connection is gone"
    REFUSED = "the dialer is refused"
    CHALLENGE_SENT = "our challenge is sent"
    CHALLENGE_SENT_V5 = "our challenge is sent, to a dialer whose name has a complement"
    COMPLEMENTED = "the complement came"
    REPLIED = "the dialer has proved the cookie, our digest is sent"


TRANSITIONS: Final[Mapping[State, Mapping[Move, State]]] = {
    State.NEW: {Move.STARTED: State.STATUS},
    State.STATUS: {
        Move.ACCEPTED: State.CHALLENGE,
        Move.ALIVE_ASKED: State.ALIVE_DECISION,
    },
    State.ALIVE_DECISION: {
        Move.ALIVE_CONFIRMED: State.CHALLENGE,
        Move.ALIVE_DENIED: State.CLOSED,
    },
    State.CHALLENGE: {Move.CHALLENGED: State.ACK},
    State.ACK: {Move.ACKNOWLEDGED: State.CONNECTED},
    State.NAME: {Move.NAMED: State.DECISION},
    State.DECISION: {
        Move.CHALLENGE_SENT: State.REPLY,
        Move.CHALLENGE_SENT_V5: State.COMPLEMENT,
        Move.ALIVE_SENT: State.ALIVE_ANSWER,
        Move.REFUSED: State.CLOSED,
    },
    State.ALIVE_ANSWER: {
        Move.CHALLENGE_SENT: State.REPLY,
        Move.CHALLENGE_SENT_V5: State.COMPLEMENT,
    },
    State.COMPLEMENT: {Move.COMPLEMENTED: State.REPLY},
    State.REPLY: {Move.REPLIED: State.CONNECTED},
    State.CONNECTED: {},
    State.CLOSED: {},
}

_SHOWN = int(MANDATORY | Flag.PUBLISHED | Flag.NAME_ME | Flag.CHANNEL_BINDING)
"""Flags of a peer that its owner sees before the peer has proved the cookie."""

NOT_BOUND: Final = "{} does not bind its proof of the cookie to the TLS session, as it must here"
"""Why a peer is refused that cannot, or does not want to, bind; formatted with its name."""

_REFUSALS = {
    Status.NOK: (
        "the peer is itself connecting to us, and its attempt goes first",
        Cause.SIMULTANEOUS,
    ),
    Status.NOT_ALLOWED: ("the peer does not allow this connection", Cause.NOT_ALLOWED),
}


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


# -- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendHandshake:
    """To be sent as one handshake message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PeerNamed:
    """A dialer has named itself; decide() with OK, OK_SIMULTANEOUS, NOK, NOT_ALLOWED, ALIVE or
    Named."""

    peer: PeerNode


@dataclass(frozen=True, slots=True)
class AliveAsked:
    """The listener has a connection with us already; decide() with TRUE or FALSE."""


@dataclass(frozen=True, slots=True)
class Connected:
    """Both sides have proved the cookie. `flags` are those both offer.

    `local_name` and `local_creation` are ours, or what the peer gave us (NAME_ME).
    """

    peer: PeerNode
    flags: Flag
    local_name: str
    local_creation: int


HandshakeEvent: TypeAlias = SendHandshake | PeerNamed | AliveAsked | Connected


# -- the machine --------------------------------------------------------------------------------


class Handshake:
    """The handshake on one connection. Of no use after it has raised."""

    def __init__(
        self,
        local: LocalNode,
        role: Role,
        *,
        challenge: int,
        expected_peer: str | None = None,
        binding: bytes = b"",
        must_bind: bool = False,
    ) -> None:
        """See `Session`. Raises UsageError."""
        _check_local(local, role, challenge)
        self._local = local
        self._role = role
        self._cookie = hs.cookie_bytes(local.cookie)
        self._more_cookies = tuple(map(hs.cookie_bytes, local.more_cookies))
        self._challenge = challenge
        self._expected_peer = expected_peer
        self._binding = binding
        self._must_bind = must_bind
        self.is_bound = False
        """Whether the proofs of the cookie are bound to the TLS session."""
        self.state = State.NEW if role is Role.DIALER else State.NAME
        self._local_name = local.name
        self._local_creation = local.creation
        self._sent_flags = 0
        self._peer_flags = 0
        self._peer_creation = 0
        self._peer_name = ""
        self._complement_due = False

    def start(self) -> list[HandshakeEvent]:
        """The dialer's first message; nothing for a listener. Raises UsageError."""
        if self._role is Role.LISTENER:
            return []
        self._expect(State.NEW)
        flags, name, creation = int(self._local.flags), self._local.name, self._local.creation
        if hs.wants_name(flags):
            flags &= ~Flag.PUBLISHED.value
            name, creation = name or "localhost", 0
        if self._binding:
            flags |= Flag.CHANNEL_BINDING.value
        self._sent_flags = flags
        self._local_name = name
        self._move(Move.STARTED)
        return [SendHandshake(hs.build_name(hs.Name(flags, creation, name)))]

    def receive(self, data: bytes) -> list[HandshakeEvent]:
        """What a message means. Raises ProtocolError or HandshakeRefused."""
        try:
            read = _READERS.get(self.state)
            if read is None:
                raise ProtocolError(f"a handshake message received, {self.state.value} expected")
            return read(self, data)
        except DistError:
            self.close()
            raise

    def close(self) -> None:
        """The connection is over, whatever was awaited."""
        self.state = State.CLOSED

    def _move(self, move: Move) -> None:
        """To the state that follows."""
        self.state = TRANSITIONS[self.state][move]

    def decide(self, status: Status | Named) -> list[HandshakeEvent]:
        """The answer to PeerNamed or AliveAsked. Raises UsageError.

        After NOK, NOT_ALLOWED and FALSE the session is over: send what is to be sent, and
        close.
        """
        if self.state is State.ALIVE_DECISION:
            return self._answer_alive(status)
        self._expect(State.DECISION)
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
            self._move(Move.ALIVE_SENT)
            return [answer]
        if status in (Status.NOK, Status.NOT_ALLOWED):
            self._move(Move.REFUSED)
            return [answer]
        return [answer, self._send_challenge()]

    def _answer_alive(self, status: Status | Named) -> list[HandshakeEvent]:
        if status not in (Status.TRUE, Status.FALSE):
            raise UsageError(f"TRUE or FALSE is the answer to alive, not {status}")
        self._move(Move.ALIVE_CONFIRMED if status is Status.TRUE else Move.ALIVE_DENIED)
        return [SendHandshake(hs.build_status(status))]

    def _on_name(self, data: bytes) -> list[HandshakeEvent]:
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
        self._move(Move.NAMED)
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
            text = f"the peer calls itself {name}, which is our name"
            raise self._refusal(text, Cause.OTHER_NAME)
        if self._expected_peer is not None and name != self._expected_peer:
            text = f"the peer is {name}, {self._expected_peer} expected"
            raise self._refusal(text, Cause.OTHER_NAME)

    def _refusal(self, reason: str, cause: Cause) -> HandshakeRefused:
        """Ours; a listener that has not answered yet tells the peer."""
        if self.state is not State.NAME:
            return HandshakeRefused(reason, cause)
        status = Status.NOT_ALLOWED
        return HandshakeRefused(reason, cause, status=status.value, answer=hs.build_status(status))

    def _check_flags(self, due: int = int(MANDATORY)) -> None:
        missing = due & ~self._peer_flags
        if missing:
            raise self._refusal(
                f"node {self._peer_name} lacks mandatory capabilities: {', '.join(names(missing))}",
                Cause.CAPABILITIES,
            )

    def _send_challenge(self) -> SendHandshake:
        flags = int(self._local.flags) & ~Flag.NAME_ME.value
        self.is_bound = self._can_bind()
        if self.is_bound:
            flags |= Flag.CHANNEL_BINDING.value
        self._sent_flags = flags | (self._peer_flags & Flag.NAME_ME.value)
        self._move(Move.CHALLENGE_SENT_V5 if self._complement_due else Move.CHALLENGE_SENT)
        local = self._local
        challenge = hs.Challenge(self._sent_flags, self._challenge, local.creation, local.name)
        return SendHandshake(hs.build_challenge(challenge))

    def _on_alive_answer(self, data: bytes) -> list[HandshakeEvent]:
        answer = hs.parse_status(data)
        if answer is Status.FALSE:
            text = f"{self._peer_name} takes its attempt back"
            raise HandshakeRefused(text, Cause.SUPERSEDED, status=answer.value)
        if answer is not Status.TRUE:
            raise ProtocolError(f"true or false expected after alive, {answer} received")
        return [self._send_challenge()]

    def _on_complement(self, data: bytes) -> list[HandshakeEvent]:
        complement = hs.parse_complement(data)
        self._peer_flags = expand(self._peer_flags | complement.flags)
        self._peer_creation = complement.creation
        self._check_flags()
        self._move(Move.COMPLEMENTED)
        return []

    def _on_reply(self, data: bytes) -> list[HandshakeEvent]:
        reply = hs.parse_challenge_reply(data)
        self._check_proof(reply.digest, hs.Prover.DIALER)
        ack = hs.ChallengeAck(self._proof(reply.challenge, hs.Prover.LISTENER))
        return [SendHandshake(hs.build_challenge_ack(ack)), self._connected(Move.REPLIED)]

    def _on_status(self, data: bytes) -> list[HandshakeEvent]:
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
            self._move(Move.ALIVE_ASKED)
            return [AliveAsked()]
        self._move(Move.ACCEPTED)
        return []

    def _take_name(self, named: Named) -> None:
        if not hs.wants_name(self._sent_flags):
            raise ProtocolError("the peer gives us a name, and we have one")
        if named.name.partition("@")[2] != self._local_name:
            raise ProtocolError(f"given name {named.name!r} is not at our host {self._local_name}")
        self._local_name, self._local_creation = named.name, named.creation

    def _on_challenge(self, data: bytes) -> list[HandshakeEvent]:
        challenge = hs.parse_challenge(data)
        self._peer_name, self._peer_creation = challenge.name, challenge.creation
        self._peer_flags = expand(challenge.flags)
        if not hs.is_node_name(challenge.name):
            raise ProtocolError(f"{challenge.name[:64]!r} is no node name")
        if self._expected_peer is not None and challenge.name != self._expected_peer:
            text = f"the peer is {challenge.name}, {self._expected_peer} expected"
            raise self._refusal(text, Cause.OTHER_NAME)
        if challenge.name == self._local_name:
            text = f"the peer calls itself {challenge.name}, which is our name"
            raise self._refusal(text, Cause.OTHER_NAME)
        self._check_flags()
        self.is_bound = self._can_bind()
        if self._must_bind and not self.is_bound:
            raise self._refusal(NOT_BOUND.format(challenge.name), Cause.BINDING)
        self._move(Move.CHALLENGED)
        proof = self._proof(challenge.challenge, hs.Prover.DIALER)
        reply = hs.ChallengeReply(self._challenge, proof)
        return [SendHandshake(hs.build_challenge_reply(reply))]

    def _on_ack(self, data: bytes) -> list[HandshakeEvent]:
        ack = hs.parse_challenge_ack(data)
        self._check_proof(ack.digest, hs.Prover.LISTENER)
        return [self._connected(Move.ACKNOWLEDGED)]

    def _can_bind(self) -> bool:
        offered = self._peer_flags & Flag.CHANNEL_BINDING.value
        return bool(offered and self._binding)

    def _proof(self, challenge: int, prover: hs.Prover, cookie: bytes | None = None) -> bytes:
        cookie = self._cookie if cookie is None else cookie
        if self.is_bound:
            return hs.bound_digest(cookie, challenge, self._binding, prover)
        return hs.digest(cookie, challenge)

    def _check_proof(self, received: bytes, prover: hs.Prover) -> None:
        """Takes the same time for every wrong proof. Who dialed us may have any cookie that we
        accept, and is answered with the same. Raises WrongCookie."""
        accepted: tuple[bytes, ...] = (self._cookie,)
        if prover is hs.Prover.DIALER:
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
        if self.is_bound:
            reason += ", or somebody relays the handshake between two TLS sessions"
        raise WrongCookie(reason)

    def _connected(self, move: Move) -> Connected:
        self._move(move)
        offered = Flag(self._peer_flags & KNOWN)
        flags = Flag(offered & expand(self._sent_flags))
        peer = PeerNode(self._peer_name, self._peer_creation, offered)
        return Connected(peer, flags, self._local_name, self._local_creation)

    def _expect(self, state: State) -> None:
        if self.state is not state:
            raise UsageError(f"not now: the session waits for {self.state.value}")


_READERS: Final[Mapping[State, Callable[[Handshake, bytes], list[HandshakeEvent]]]] = {
    State.STATUS: Handshake._on_status,
    State.CHALLENGE: Handshake._on_challenge,
    State.ACK: Handshake._on_ack,
    State.NAME: Handshake._on_name,
    State.ALIVE_ANSWER: Handshake._on_alive_answer,
    State.COMPLEMENT: Handshake._on_complement,
    State.REPLY: Handshake._on_reply,
}


def _check_local(local: LocalNode, role: Role, challenge: int) -> None:
    dynamic = role is Role.DIALER and Flag.NAME_ME in local.flags
    if dynamic and local.name and not hs.is_host_name(local.name):
        raise UsageError(f"with NAME_ME the name is a bare host name, not {local.name!r}")
    if not dynamic and not hs.is_node_name(local.name):
        raise UsageError(f"not a node name: {local.name!r}")
    if MANDATORY & ~local.flags:
        missing = ", ".join(names(int(MANDATORY) & ~int(local.flags)))
        raise UsageError(f"our own flags lack mandatory ones: {missing}")
    if not 0 <= local.creation <= hs.MAX_U32 or not 0 <= challenge <= hs.MAX_U32:
        raise UsageError("creation and challenge have 32 bits")
