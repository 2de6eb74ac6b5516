"""A policy at work on one connection, without the connection: packets in, packets out.

    guard = Guard(policy, own_name, dialled_peer=name or None)
    guard.from_peer(packet)  -> Passage: what goes on, what goes back, what to note
    guard.from_node(packet)  -> the packet that goes on to the peer

It reads the handshake, where it takes away what it could not read frames with, and of frames the
control messages, of a message in fragments the first. What is refused is dropped with all its
fragments. Raises ProtocolError or HandshakeRefused when the connection is to be dropped.

ERTS manual, Distribution Protocol, "The Handshake in Detail"; External Term Format,
"Distribution Header".
"""

from __future__ import annotations

from dataclasses import dataclass

from quicdist import etf
from quicdist.dist import control as ctl
from quicdist.dist import handshake as hs
from quicdist.dist.errors import HandshakeRefused, ProtocolError
from quicdist.dist.flags import KNOWN, Flag, expand
from quicdist.dist.header import (
    FIRST_FRAGMENT,
    FRAGMENT_HEAD,
    HEADER,
    NEXT_FRAGMENT,
    PASS_THROUGH,
    VERSION,
    fragment_ids,
)
from quicdist.dist.packet import FramePacket, HandshakePacket, Packet
from quicdist.etf.terms import Atom, Term
from quicdist.gateway.judge import Judge, Refusal
from quicdist.gateway.peek import Peek, Unreadable
from quicdist.gateway.policy import Mode, Policy

_READABLE = KNOWN & ~Flag.DIST_HDR_ATOM_CACHE.value
"""Capabilities left in both nodes' flags: a dropped message would take its entries of the atom
cache along, and what has no name here may change how a message is read. No digest covers them."""

_MAX_SEQUENCES = 4096
"""Messages in fragments at a time."""

_OPTIONS = etf.Options(limits=etf.Limits(max_terms=1 << 18))
"""A control message is small, but for the reason of an exit from before OTP 23."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What becomes of a packet: it goes on, or not; an answer goes back; what to say about it."""

    forward: Packet | None
    answer: Packet | None = None
    note: str | None = None
    """For the log: what was refused, or would have been."""


class Guard:
    """Stands between one peer and the node behind the gateway."""

    def __init__(self, policy: Policy, own_name: str, *, dialled_peer: str | None) -> None:
        """`dialled_peer` is whom the node wants to reach; None when the peer has dialled."""
        self._policy = policy
        self._own_name = Atom(own_name)
        self._dialled_peer = dialled_peer
        self._judge: Judge | None = None
        self._peer_name: str | None = None
        self._unknown = "a peer without a name"
        self._dialler_flags: int | None = None
        self._acceptor_flags: int | None = None
        self._complement_due = False
        self._connected = False
        self._header_form = False
        self._exit_payload = False
        self._sequences: dict[int, tuple[int, bool]] = {}
        """Of messages in fragments: the number of the next one, and whether they pass."""

    def obey(self, policy: Policy) -> None:
        """From now on another policy holds. Raises HandshakeRefused when it wants no such peer."""
        self._policy = policy
        if self._peer_name is not None:
            self._peer_is(self._peer_name)

    def from_peer(self, packet: Packet) -> Passage:
        """What becomes of a packet from the peer. Raises ProtocolError, HandshakeRefused."""
        if isinstance(packet, HandshakePacket):
            return Passage(self._handshake(packet.data, from_dialler=self._dialled_peer is None))
        if not packet.data:
            return Passage(packet)
        if not self._connected:
            raise ProtocolError("a frame before the end of the handshake")
        if self._policy.mode is Mode.LOG:
            return self._watch(packet)
        passes, refusal = self._frame_from_peer(packet.data)
        if refusal is None:
            return Passage(packet if passes else None)
        answer = None if refusal.answer is None else self._frame(refusal.answer, refusal.message)
        return Passage(None, answer, f"refused: {refusal.what}")

    def from_node(self, packet: Packet) -> Packet:
        """What goes on to the peer of a packet from the node. Raises as `from_peer`."""
        if isinstance(packet, HandshakePacket):
            return self._handshake(packet.data, from_dialler=self._dialled_peer is not None)
        judge = self._judge
        if packet.data and self._connected and judge is not None and judge.learns:
            self._learn(packet.data, judge)
        return packet

    # -- handshake ------------------------------------------------------------------------------

    def _handshake(self, message: bytes, *, from_dialler: bool) -> HandshakePacket:
        return HandshakePacket(
            self._from_dialler(message) if from_dialler else self._from_acceptor(message)
        )

    def _from_dialler(self, message: bytes) -> bytes:
        if self._dialler_flags is None:
            return self._name(message)
        if not self._complement_due or message[:1] != b"c":
            return message
        self._complement_due = False
        complement = hs.parse_complement(message)
        self._dialler_flags |= complement.flags & _READABLE
        return _with_flags(message, 1, 4, complement.flags >> 32, _READABLE >> 32)

    def _from_acceptor(self, message: bytes) -> bytes:
        if self._dialler_flags is None:
            raise ProtocolError("a handshake message before the dialler's name")
        if message[:1] == b"N":
            return self._challenge(message)
        if message.startswith(b"snamed:") and self._dialled_peer is None:
            named = hs.parse_status(message)
            assert isinstance(named, hs.Named)
            self._peer_is(named.name)
        elif message[:1] == b"a":
            self._connect(self._dialler_flags)
        return message

    def _name(self, message: bytes) -> bytes:
        name = hs.parse_name(message)
        self._dialler_flags = name.flags & _READABLE
        if self._dialled_peer is not None:
            self._peer_is(self._dialled_peer)
        elif not hs.wants_name(name.flags):
            self._peer_is(name.name)
        self._complement_due = isinstance(name, hs.NameV5)
        start, width = (3, 4) if self._complement_due else (1, 8)
        return _with_flags(message, start, width, name.flags, _READABLE)

    def _challenge(self, message: bytes) -> bytes:
        challenge = hs.parse_challenge(message)
        if self._acceptor_flags is not None:
            raise ProtocolError("a second challenge")
        if self._dialled_peer is not None and challenge.name != self._dialled_peer:
            raise ProtocolError(f"{challenge.name[:64]} answers for {self._dialled_peer}")
        self._acceptor_flags = challenge.flags & _READABLE
        return _with_flags(message, 1, 8, challenge.flags, _READABLE)

    def _peer_is(self, name: str) -> None:
        """The peer's name is known. Raises HandshakeRefused when no rules fit it."""
        self._peer_name = name
        rules = self._policy.rules_for(name)
        if rules is not None and self._judge is not None:
            self._judge.rules = rules
        elif rules is not None:
            self._judge = Judge(rules, own_name=self._own_name, peer_name=name)
        elif self._policy.mode is Mode.LOG:
            self._judge = None
            self._unknown = f"{name[:64]}, whom no entry of the policy fits"
        else:
            raise HandshakeRefused(
                f"no entry of the policy fits {name[:64]}",
                status=hs.Status.NOT_ALLOWED.value,
                last_words=hs.build_status(hs.Status.NOT_ALLOWED),
            )

    def _connect(self, dialler_flags: int) -> None:
        if self._acceptor_flags is None:
            raise ProtocolError("the end of a handshake without a challenge")
        both = expand(dialler_flags) & expand(self._acceptor_flags)
        self._header_form = bool(both & Flag.FRAGMENTS.value)
        self._exit_payload = bool(both & Flag.EXIT_PAYLOAD.value)
        self._connected = True

    # -- frames ---------------------------------------------------------------------------------

    def _watch(self, packet: FramePacket) -> Passage:
        """Says what would be refused, and changes nothing."""
        try:
            _, refusal = self._frame_from_peer(packet.data)
        except ProtocolError as error:
            return Passage(packet, note=f"would end here, for {error}")
        return Passage(
            packet, note=None if refusal is None else f"would be refused: {refusal.what}"
        )

    def _frame_from_peer(self, data: bytes) -> tuple[bool, Refusal | None]:
        """Whether it passes; why not, unless its message was refused before."""
        if self._is_next_fragment(data):
            return self._next_fragment(data), None
        control, end = self._read(data)
        if self._judge is None:
            refusal: Refusal | None = Refusal(f"anything from {self._unknown}")
        else:
            try:
                refusal = self._judge.refusal(control, self._payload(data, end))
            except Unreadable as error:
                refusal = Refusal(f"{type(control).__name__}: {error}")
        if self._header_form and data[1] == FIRST_FRAGMENT:
            self._first_fragment(data, refusal is None)
        return refusal is None, refusal

    def _is_next_fragment(self, data: bytes) -> bool:
        return self._header_form and data[:2] == bytes((VERSION, NEXT_FRAGMENT))

    def _read(self, data: bytes) -> tuple[ctl.Control, int]:
        """The control message of a first or only frame, and its end. Raises ProtocolError."""
        try:
            if self._header_form:
                values, end = etf.decode_bare(data, _after_header(data), _OPTIONS)
            elif data[0] == PASS_THROUGH:
                values, end = etf.decode_prefix(data, 1, _OPTIONS)
            else:
                raise ProtocolError(f"a frame begins with {data[:1].hex()}, 70 expected")
        except etf.EtfDecodeError as error:
            raise ProtocolError(f"a control message does not decode: {error}") from error
        return ctl.parse(values), end

    def _payload(self, data: bytes, start: int) -> Peek:
        """What lies behind a control message, without the version byte that it may have."""
        return Peek(data, start if self._header_form else start + 1)

    def _first_fragment(self, data: bytes, passes: bool) -> None:
        sequence, fragment = fragment_ids(data)
        if sequence in self._sequences:
            raise ProtocolError(f"sequence {sequence:#x} begins, but it is not finished")
        if fragment == 1:
            return
        if len(self._sequences) >= _MAX_SEQUENCES:
            raise ProtocolError(f"more than {_MAX_SEQUENCES} messages in fragments at a time")
        self._sequences[sequence] = (fragment - 1, passes)

    def _next_fragment(self, data: bytes) -> bool:
        """Whether it passes: as its first fragment did. Raises ProtocolError."""
        sequence, fragment = fragment_ids(data)
        due, passes = self._sequences.get(sequence, (0, False))
        if fragment != due:
            raise ProtocolError(f"fragment {fragment} of sequence {sequence:#x}, {due} expected")
        if fragment == 1:
            del self._sequences[sequence]
        else:
            self._sequences[sequence] = (fragment - 1, passes)
        return passes

    def _learn(self, data: bytes, judge: Judge) -> None:
        if self._is_next_fragment(data):
            return
        try:
            control, _ = self._read(data)
        except ProtocolError:
            return  # it goes to the peer, which is told what it is to read
        judge.learn(control)

    def _frame(self, control: ctl.Control, message: Term | None) -> FramePacket:
        """A frame for the peer. The reason of an exit or a DOWN goes where both nodes want it."""
        parts: list[Term] = [control.to_tuple()]
        if message is not None:
            parts.append(message)
        if self._exit_payload and isinstance(control, ctl.Exit | ctl.MonitorPExit):
            bare = (_WITH_PAYLOAD[type(control)], *control.to_tuple()[1:-1])
            parts = [bare, control.reason]
        if self._header_form:
            return FramePacket(b"\x83D\0" + b"".join(map(etf.encode_bare, parts)))
        return FramePacket(b"p" + b"".join(map(etf.encode, parts)))


_WITH_PAYLOAD = {ctl.Exit: ctl.PayloadExit.OP, ctl.MonitorPExit: ctl.PayloadMonitorPExit.OP}


def _after_header(data: bytes) -> int:
    """Where the control message begins. Raises ProtocolError."""
    if data[0] != VERSION or data[1:2] not in (bytes((HEADER,)), bytes((FIRST_FRAGMENT,))):
        raise ProtocolError(f"a frame begins with {data[:2].hex()}, a distribution header expected")
    count = 2 if data[1] == HEADER else FRAGMENT_HEAD.size
    if data[count : count + 1] != b"\0":
        raise ProtocolError("a header with an atom cache, which was not agreed on")
    return count + 1


def _with_flags(message: bytes, start: int, width: int, flags: int, kept: int) -> bytes:
    """The handshake message with no other flags than the ones that are kept."""
    mask = (1 << 8 * width) - 1
    return message[:start] + (flags & kept & mask).to_bytes(width, "big") + message[start + width :]
