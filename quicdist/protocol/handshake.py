"""The distribution handshake as a state machine that maps messages to events.

Source: ERTS manual, Distribution Protocol, "The Handshake in Detail".

    dialer    start()  Name ->           listener  <- Name               PeerNamed
                       <- Status                   decide()  Status ->
    AliveAsked         <- `alive`                    (`alive` ->
    decide()           `true` ->                      <- `true`)
                       <- Challenge                  Challenge ->
                       Reply ->                      (<- Complement, from a NameV5)
    Connected          <- Ack                        <- Reply            Ack ->, Connected

On `quicdist/2` the dialer proves the cookie with its name, and no challenge is needed:

    dialer    start()  Name, proof ->    listener  <- Name, proof        PeerNamed
                       <- Status                   decide()  Status ->
    Connected          <- Proof                              Proof ->, Connected

The dialer sends its name, and the listener answers with a status. With the status `alive` the
listener asks whether the previous connection of the dialer is closed. Both nodes then prove the
cookie: the listener sends a challenge, the dialer sends its digest of that challenge and its own
challenge, and the listener sends the digest of the second challenge. A node of OTP 23 or 24 that
does not know the version of its peer sends an older name message, and the remaining fields in a
complement before its digest.

A dialer with an early proof also accepts a challenge of a peer that does not bind: it may be a
gateway, whose BEAM node ignores the proof.

A state defines which message is expected. `TRANSITIONS` contains every move and the state that
follows it. Any other message, and any malformed message, raises ProtocolError. Errors close the
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
from quicdist.protocol.early_proof import Transcript, split_proof
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
    """What a handshake waits for. Error texts contain the value."""

    # States of the dialer:
    NEW = "start()"
    STATUS = "a status"
    ALIVE_DECISION = "decide() on whether to continue"
    CHALLENGE = "a challenge or a proof"
    ACK = "a challenge ack"

    # States of the listener:
    NAME = "a name"
    DECISION = "decide() on the peer"
    ALIVE_ANSWER = "an answer to alive"
    COMPLEMENT = "a complement"
    REPLY = "a challenge reply"

    CONNECTED = "frames"
    CLOSED = "nothing"


class Move(Enum):
    """An event that changes the state of a handshake."""

    STARTED = "the name of this node is sent"
    ACCEPTED = "the listener continues the handshake"
    ALIVE_ASKED = "the listener already has a connection with this node"
    ALIVE_CONFIRMED = "this node continues with the new connection"
    ALIVE_DENIED = "this node abandons the new connection"
    CHALLENGED = "the challenge of the listener is received, and the digest is sent"
    ACKNOWLEDGED = "the listener has proved the cookie"
    PROVED = "the listener has proved the cookie without a challenge"

    NAMED = "the name of the dialer is received"
    ALIVE_SENT = "the dialer is asked whether its previous connection is closed"
    REFUSED = "the dialer is rejected"
    CHALLENGE_SENT = "the challenge is sent"
    CHALLENGE_SENT_V5 = "the challenge is sent, and a complement of the name is expected"
    COMPLEMENTED = "the complement is received"
    REPLIED = "the dialer has proved the cookie, and the digest is sent"
    PROOF_SENT = "the dialer has proved the cookie with its name, and the proof is sent"


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
    State.CHALLENGE: {Move.CHALLENGED: State.ACK, Move.PROVED: State.CONNECTED},
    State.ACK: {Move.ACKNOWLEDGED: State.CONNECTED},
    State.NAME: {Move.NAMED: State.DECISION},
    State.DECISION: {
        Move.CHALLENGE_SENT: State.REPLY,
        Move.CHALLENGE_SENT_V5: State.COMPLEMENT,
        Move.PROOF_SENT: State.CONNECTED,
        Move.ALIVE_SENT: State.ALIVE_ANSWER,
        Move.REFUSED: State.CLOSED,
    },
    State.ALIVE_ANSWER: {
        Move.CHALLENGE_SENT: State.REPLY,
        Move.CHALLENGE_SENT_V5: State.COMPLEMENT,
        Move.PROOF_SENT: State.CONNECTED,
    },
    State.COMPLEMENT: {Move.COMPLEMENTED: State.REPLY},
    State.REPLY: {Move.REPLIED: State.CONNECTED},
    State.CONNECTED: {},
    State.CLOSED: {},
}

_SHOWN = int(MANDATORY | Flag.PUBLISHED | Flag.NAME_ME | Flag.CHANNEL_BINDING)
"""The flags of a peer that are reported before the peer has proved the cookie."""

NOT_BOUND: Final = "{} does not bind its cookie digest to the TLS session, which is required"
"""The refusal text for a peer that does not support or use binding, formatted with its name."""

_RELAYED: Final = ", or the handshake is relayed between two TLS sessions"

_REFUSALS = {
    Status.NOK: (
        "a simultaneous connection attempt of the peer takes precedence",
        Cause.SIMULTANEOUS,
    ),
    Status.NOT_ALLOWED: ("the peer does not allow this connection", Cause.NOT_ALLOWED),
    Status.WRONG_COOKIE: ("the peer has another cookie than this node" + _RELAYED, Cause.COOKIE),
}


@dataclass(frozen=True, slots=True)
class LocalNode:
    """The identity of this node.

    With NAME_ME in the flags, `name` is the bare host name of this node (an empty one stands for
    `localhost`), and the peer assigns the node name.
    """

    name: str
    creation: int
    flags: Flag
    cookie: str = field(repr=False)
    """The cookie that this node proves."""
    more_cookies: tuple[str, ...] = field(default=(), repr=False)
    """Additional cookies that dialers may prove while the cookie of the cluster is changed."""


@dataclass(frozen=True, slots=True)
class PeerNode:
    """The identity of the peer.

    `flags` are the known flags that the peer offers. Before it has proved the cookie they include
    only the mandatory flags, PUBLISHED, NAME_ME and CHANNEL_BINDING. While the peer asks for a name
    (NAME_ME), `name` is its bare host name. `creation` is 0 until the peer has sent it.
    """

    name: str
    creation: int
    flags: Flag


# -- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendHandshake:
    """The owner must send `data` as one handshake message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PeerNamed:
    """A dialer has sent its name.

    The owner answers by calling `decide()` with OK, OK_SIMULTANEOUS, NOK, NOT_ALLOWED, ALIVE or
    Named.
    """

    peer: PeerNode


@dataclass(frozen=True, slots=True)
class AliveAsked:
    """The listener already has a connection with this node.

    The owner answers by calling `decide()` with TRUE or FALSE.
    """


@dataclass(frozen=True, slots=True)
class Connected:
    """Both nodes have proved the cookie. `flags` are the flags that both nodes offer.

    `local_name` and `local_creation` are those of this node. With NAME_ME the peer assigned them.
    """

    peer: PeerNode
    flags: Flag
    local_name: str
    local_creation: int


HandshakeEvent: TypeAlias = SendHandshake | PeerNamed | AliveAsked | Connected


# -- the first message --------------------------------------------------------------------------


def first_message(local: LocalNode, binding: bytes, *, early_proofs: bool) -> bytes:
    """Returns the name message with which `Handshake.start` begins for this node as the dialer.

    See `Session` for `binding` and `early_proofs`.
    """
    message = hs.build_name(_own_name(local, binds=bool(binding)))
    if not (binding and early_proofs):
        return message
    transcript = Transcript(binding)
    transcript.add(message)
    return message + transcript.proof(hs.cookie_bytes(local.cookie), hs.Prover.DIALER)


def _own_name(local: LocalNode, *, binds: bool) -> hs.Name:
    flags, name, creation = int(local.flags), local.name, local.creation
    if hs.wants_name(flags):
        flags &= ~Flag.PUBLISHED.value
        name, creation = name or "localhost", 0
    if binds:
        flags |= Flag.CHANNEL_BINDING.value
    return hs.Name(flags, creation, name)


# -- the machine --------------------------------------------------------------------------------


class Handshake:
    """The handshake on one connection. It cannot be used after it has raised an exception."""

    def __init__(
        self,
        local: LocalNode,
        role: Role,
        *,
        challenge: int,
        expected_peer: str | None = None,
        binding: bytes = b"",
        must_bind: bool = False,
        early_proofs: bool = False,
    ) -> None:
        """See `Session` for the arguments. Raises UsageError if they are invalid."""
        _check_local(local, role, challenge)
        self._local = local
        self._role = role
        self._cookie = hs.cookie_bytes(local.cookie)
        self._more_cookies = tuple(map(hs.cookie_bytes, local.more_cookies))
        self._challenge = challenge
        self._expected_peer = expected_peer
        self._binding = binding
        self._must_bind = must_bind
        self._has_early_proofs = early_proofs and bool(binding)
        self._transcript = Transcript(binding)
        self._early_proof = b""
        """The proof of the dialer that came with its name; empty if there was none."""
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
        """Returns the first message of a dialer, or no event for a listener.

        Raises UsageError if the handshake was already started.
        """
        if self._role is Role.LISTENER:
            return []
        self._expect(State.NEW)
        name = _own_name(self._local, binds=bool(self._binding))
        self._sent_flags = name.flags
        self._local_name = name.name
        early_proofs = self._has_early_proofs
        message = first_message(self._local, self._binding, early_proofs=early_proofs)
        if early_proofs:
            self._transcript.add(*split_proof(message))
        self._move(Move.STARTED)
        return [SendHandshake(message)]

    def receive(self, data: bytes) -> list[HandshakeEvent]:
        """Processes a message and returns the resulting events.

        Raises ProtocolError for an invalid message, HandshakeRefused if either node refuses.
        """
        try:
            read = _READERS.get(self.state)
            if read is None:
                raise ProtocolError(f"handshake message received, expected {self.state.value}")
            return read(self, data)
        except DistError:
            self.close()
            raise

    def close(self) -> None:
        """Closes the handshake from any state."""
        self.state = State.CLOSED

    def _move(self, move: Move) -> None:
        """Changes to the state that follows the move."""
        self.state = TRANSITIONS[self.state][move]

    def decide(self, status: Status | Named) -> list[HandshakeEvent]:
        """Answers PeerNamed or AliveAsked. See `Session.decide`."""
        if self.state is State.ALIVE_DECISION:
            return self._answer_alive(status)
        self._expect(State.DECISION)
        if hs.wants_name(self._peer_flags) != isinstance(status, Named) and (
            status not in (Status.NOK, Status.NOT_ALLOWED)
        ):
            raise UsageError("Named is required if the peer asks for a name, and invalid otherwise")
        if status in (Status.TRUE, Status.FALSE, Status.WRONG_COOKIE):
            raise UsageError(f"{status} is not a valid answer to the name of a peer")
        answer = SendHandshake(hs.build_status(status))
        if status in (Status.NOK, Status.NOT_ALLOWED):
            self._move(Move.REFUSED)
            return [answer]
        self._check_early_proof()
        self._transcript.add(answer.data)
        if isinstance(status, Named):
            self._peer_name, self._peer_creation = status.name, status.creation
        if status is Status.ALIVE:
            self._move(Move.ALIVE_SENT)
            return [answer]
        return [answer, *self._introduce()]

    def _answer_alive(self, status: Status | Named) -> list[HandshakeEvent]:
        if status not in (Status.TRUE, Status.FALSE):
            raise UsageError(f"the answer to alive must be TRUE or FALSE, not {status}")
        self._move(Move.ALIVE_CONFIRMED if status is Status.TRUE else Move.ALIVE_DENIED)
        answer = hs.build_status(status)
        self._transcript.add(answer)
        return [SendHandshake(answer)]

    def _on_name(self, data: bytes) -> list[HandshakeEvent]:
        name = hs.parse_name(data)
        self._peer_flags = expand(name.flags)
        self._peer_name = name.name
        if isinstance(name, hs.NameV5):
            self._complement_due = True
            self._check_flags(due=int(MANDATORY) & hs.MAX_U32)
        else:
            self._peer_creation = name.creation
            self._take_early_proof(data, name)
            self._check_flags()
        self._check_peer_name(name.name)
        self._move(Move.NAMED)
        # The Flag class keeps each combination of bits forever, and any dialer can choose them.
        shown = Flag(self._peer_flags & _SHOWN)
        return [PeerNamed(PeerNode(self._peer_name, self._peer_creation, shown))]

    def _take_early_proof(self, data: bytes, name: hs.Name) -> None:
        if not self._has_early_proofs or not name.flags & Flag.CHANNEL_BINDING.value:
            return
        if not name.proof:
            raise ProtocolError("expected a proof after the name")
        self._early_proof = name.proof
        self._transcript.add(split_proof(data)[0])

    def _check_peer_name(self, name: str) -> None:
        if hs.wants_name(self._peer_flags):
            if not hs.is_host_name(name):
                raise ProtocolError(f"expected a bare host name, got {name[:64]!r}")
            return
        if not hs.is_node_name(name):
            raise ProtocolError(f"invalid node name {name[:64]!r}")
        if name == self._local.name:
            text = f"the peer uses the name of this node, {name}"
            raise self._refusal(text, Cause.OTHER_NAME)
        if self._expected_peer is not None and name != self._expected_peer:
            text = f"the peer is {name}, expected {self._expected_peer}"
            raise self._refusal(text, Cause.OTHER_NAME)

    def _refusal(self, reason: str, cause: Cause) -> HandshakeRefused:
        """A refusal by this node, with a message for the peer if no status was sent yet."""
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

    def _introduce(self) -> list[HandshakeEvent]:
        """Sends the name of this node with the proof, or with a challenge if a proof is due."""
        flags = int(self._local.flags) & ~Flag.NAME_ME.value
        self.is_bound = self._can_bind()
        if self.is_bound:
            flags |= Flag.CHANNEL_BINDING.value
        self._sent_flags = flags | (self._peer_flags & Flag.NAME_ME.value)
        return self._send_proof() if self._early_proof else [self._send_challenge()]

    def _send_challenge(self) -> SendHandshake:
        self._move(Move.CHALLENGE_SENT_V5 if self._complement_due else Move.CHALLENGE_SENT)
        local = self._local
        challenge = hs.Challenge(self._sent_flags, self._challenge, local.creation, local.name)
        return SendHandshake(hs.build_challenge(challenge))

    def _send_proof(self) -> list[HandshakeEvent]:
        local = self._local
        unproved = hs.build_proof(hs.Proof(self._sent_flags, local.creation, local.name, b""))
        self._transcript.add(unproved)
        proof = self._transcript.proof(self._cookie, hs.Prover.LISTENER)
        return [SendHandshake(unproved + proof), self._connected(Move.PROOF_SENT)]

    def _on_alive_answer(self, data: bytes) -> list[HandshakeEvent]:
        answer = hs.parse_status(data)
        if answer is Status.FALSE:
            text = f"{self._peer_name} withdrew its connection attempt"
            raise HandshakeRefused(text, Cause.SUPERSEDED, status=answer.value)
        if answer is not Status.TRUE:
            raise ProtocolError(f"expected true or false after alive, got {answer}")
        self._transcript.add(data)
        return self._introduce()

    def _on_complement(self, data: bytes) -> list[HandshakeEvent]:
        complement = hs.parse_complement(data)
        self._peer_flags = expand(self._peer_flags | complement.flags)
        self._peer_creation = complement.creation
        self._check_flags()
        self._move(Move.COMPLEMENTED)
        return []

    def _on_reply(self, data: bytes) -> list[HandshakeEvent]:
        reply = hs.parse_challenge_reply(data)
        prover = hs.Prover.DIALER
        self._check_proof(
            reply.digest, prover, lambda cookie: self._digest(self._challenge, prover, cookie)
        )
        digest = self._digest(reply.challenge, hs.Prover.LISTENER, self._cookie)
        ack = hs.ChallengeAck(digest)
        return [SendHandshake(hs.build_challenge_ack(ack)), self._connected(Move.REPLIED)]

    def _on_status(self, data: bytes) -> list[HandshakeEvent]:
        status = hs.parse_status(data)
        self._transcript.add(data)
        if isinstance(status, Named):
            self._take_name(status)
        elif status is Status.WRONG_COOKIE and not self._has_early_proofs:
            raise ProtocolError(f"unexpected status {status.value!r}: no proof was sent")
        elif status in _REFUSALS:
            raise HandshakeRefused(*_REFUSALS[status], status=status.value)
        elif status in (Status.TRUE, Status.FALSE):
            raise ProtocolError(f"unexpected status {status.value!r}: no alive was sent")
        elif hs.wants_name(self._sent_flags):
            raise ProtocolError(f"expected an assigned name, got status {status.value!r}")
        elif status is Status.ALIVE:
            self._move(Move.ALIVE_ASKED)
            return [AliveAsked()]
        self._move(Move.ACCEPTED)
        return []

    def _take_name(self, named: Named) -> None:
        if not hs.wants_name(self._sent_flags):
            raise ProtocolError("the peer assigned a name that this node did not ask for")
        if named.name.partition("@")[2] != self._local_name:
            raise ProtocolError(f"assigned name {named.name!r} is not on host {self._local_name}")
        self._local_name, self._local_creation = named.name, named.creation

    def _on_introduction(self, data: bytes) -> list[HandshakeEvent]:
        if self._has_early_proofs and data[:1] == b"p":
            return self._on_proof(data)
        return self._on_challenge(data)

    def _on_challenge(self, data: bytes) -> list[HandshakeEvent]:
        challenge = hs.parse_challenge(data)
        self._meet_listener(challenge)
        if self.is_bound and self._has_early_proofs:
            raise ProtocolError("expected a proof, got a challenge of a peer that binds")
        if self._must_bind and not self.is_bound:
            raise self._refusal(NOT_BOUND.format(challenge.name), Cause.BINDING)
        self._move(Move.CHALLENGED)
        digest = self._digest(challenge.challenge, hs.Prover.DIALER, self._cookie)
        reply = hs.ChallengeReply(self._challenge, digest)
        return [SendHandshake(hs.build_challenge_reply(reply))]

    def _on_proof(self, data: bytes) -> list[HandshakeEvent]:
        proof = hs.parse_proof(data)
        self._meet_listener(proof)
        if not self.is_bound:
            raise ProtocolError("a proof without the flag CHANNEL_BINDING")
        self._transcript.add(split_proof(data)[0])
        prover = hs.Prover.LISTENER
        self._check_proof(
            proof.proof, prover, lambda cookie: self._transcript.proof(cookie, prover)
        )
        return [self._connected(Move.PROVED)]

    def _meet_listener(self, peer: hs.Challenge | hs.Proof) -> None:
        """Checks the name and the flags of the listener."""
        self._peer_name, self._peer_creation = peer.name, peer.creation
        self._peer_flags = expand(peer.flags)
        if not hs.is_node_name(peer.name):
            raise ProtocolError(f"invalid node name {peer.name[:64]!r}")
        if self._expected_peer is not None and peer.name != self._expected_peer:
            text = f"the peer is {peer.name}, expected {self._expected_peer}"
            raise self._refusal(text, Cause.OTHER_NAME)
        if peer.name == self._local_name:
            text = f"the peer uses the name of this node, {peer.name}"
            raise self._refusal(text, Cause.OTHER_NAME)
        self._check_flags()
        self.is_bound = self._can_bind()

    def _on_ack(self, data: bytes) -> list[HandshakeEvent]:
        ack = hs.parse_challenge_ack(data)
        prover = hs.Prover.LISTENER
        self._check_proof(
            ack.digest, prover, lambda cookie: self._digest(self._challenge, prover, cookie)
        )
        return [self._connected(Move.ACKNOWLEDGED)]

    def _can_bind(self) -> bool:
        offered = self._peer_flags & Flag.CHANNEL_BINDING.value
        return bool(offered and self._binding)

    def _digest(self, challenge: int, prover: hs.Prover, cookie: bytes) -> bytes:
        if self.is_bound:
            return hs.bound_digest(cookie, challenge, self._binding, prover)
        return hs.digest(cookie, challenge)

    def _check_early_proof(self) -> None:
        """Verifies the proof in the name of the dialer, if there is one. Raises WrongCookie.

        The owner has decided before, so that it can delay a dialer that guesses cookies.
        """
        if not self._early_proof:
            return
        self.is_bound = True
        prover = hs.Prover.DIALER
        try:
            self._check_proof(
                self._early_proof, prover, lambda cookie: self._transcript.proof(cookie, prover)
            )
        except WrongCookie:
            self.close()
            raise
        self._transcript.add(self._early_proof)

    def _check_proof(
        self, received: bytes, prover: hs.Prover, expected: Callable[[bytes], bytes]
    ) -> None:
        """Verifies a proof in constant time. `expected` returns the proof of a cookie.

        A dialer may prove any accepted cookie, and the listener answers with the same one. Raises
        WrongCookie if no cookie matches, with a status if the proof came with the name.
        """
        accepted: tuple[bytes, ...] = (self._cookie,)
        if prover is hs.Prover.DIALER:
            accepted += self._more_cookies
        proved = [cookie for cookie in accepted if hmac.compare_digest(expected(cookie), received)]
        if proved:
            self._cookie = proved[0]
            return
        reason = f"{self._peer_name} has another cookie than this node"
        if self.is_bound:
            reason += _RELAYED
        answer = hs.build_status(Status.WRONG_COOKIE) if self._early_proof else None
        raise WrongCookie(reason, answer=answer)

    def _connected(self, move: Move) -> Connected:
        self._move(move)
        offered = Flag(self._peer_flags & KNOWN)
        flags = Flag(offered & expand(self._sent_flags))
        peer = PeerNode(self._peer_name, self._peer_creation, offered)
        return Connected(peer, flags, self._local_name, self._local_creation)

    def _expect(self, state: State) -> None:
        if self.state is not state:
            raise UsageError(f"invalid state: the session waits for {self.state.value}")


_READERS: Final[Mapping[State, Callable[[Handshake, bytes], list[HandshakeEvent]]]] = {
    State.STATUS: Handshake._on_status,
    State.CHALLENGE: Handshake._on_introduction,
    State.ACK: Handshake._on_ack,
    State.NAME: Handshake._on_name,
    State.ALIVE_ANSWER: Handshake._on_alive_answer,
    State.COMPLEMENT: Handshake._on_complement,
    State.REPLY: Handshake._on_reply,
}


def _check_local(local: LocalNode, role: Role, challenge: int) -> None:
    dynamic = role is Role.DIALER and Flag.NAME_ME in local.flags
    if dynamic and local.name and not hs.is_host_name(local.name):
        raise UsageError(f"the name must be a bare host name with NAME_ME, not {local.name!r}")
    if not dynamic and not hs.is_node_name(local.name):
        raise UsageError(f"invalid node name {local.name!r}")
    if MANDATORY & ~local.flags:
        missing = ", ".join(names(int(MANDATORY) & ~int(local.flags)))
        raise UsageError(f"the flags of this node lack mandatory ones: {missing}")
    if not 0 <= local.creation <= hs.MAX_U32 or not 0 <= challenge <= hs.MAX_U32:
        raise UsageError("creation and challenge must fit in 32 bits")
