"""Applies a policy to one connection: packets in, packets out, without I/O.

    filter = PolicyFilter(policy, own_name, dialed_peer=name or None)
    filter.from_peer(packet)  -> Passage: the packet to forward, the answer, the text for the log
    filter.from_node(packet)  -> the packet to forward to the peer

The filter reads the handshake, where it removes capabilities whose frames it cannot read. In
frames it reads the control message, and for a fragmented message the first fragment. A refused
message is dropped with all its fragments. ProtocolError and HandshakeRefused mean that the
connection must be closed.

ERTS manual, Distribution Protocol, "The Handshake in Detail"; External Term Format,
"Distribution Header".
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from quicdist import etf
from quicdist.cluster.policy import Mode, Policy
from quicdist.errors import Cause
from quicdist.etf.terms import Atom
from quicdist.gateway.payload_inspection import PayloadInspection
from quicdist.gateway.policy_rules import Pass, PolicyRules, Refusal
from quicdist.gateway.reachability import ReferenceBudget
from quicdist.gateway.term_scanner import (
    MAX_NEW_ATOMS_OF_MESSAGE,
    AtomBudget,
    TermScanner,
    Unreadable,
)
from quicdist.protocol import handshake_messages as hs
from quicdist.protocol.errors import HandshakeRefused, ProtocolError
from quicdist.protocol.flags import KNOWN, Flag, expand
from quicdist.protocol.header import (
    FIRST_FRAGMENT,
    FRAGMENT_HEAD,
    HEADER,
    NEXT_FRAGMENT,
    PASS_THROUGH,
    VERSION,
    fragment_ids,
)
from quicdist.protocol.packet import FramePacket, HandshakePacket, Packet
from quicdist.protocol.signals import NO_PAYLOAD, NO_TOKEN, Payload, Signal
from quicdist.protocol.wire import FOLLOWS, Follows, WireForms, parse

_READABLE = KNOWN & ~Flag.DIST_HDR_ATOM_CACHE.value
"""The capabilities that remain in both nodes' flags. A dropped message would lose its atom cache
entries, and unknown capabilities may change the format. The digests do not cover the flags."""

_MAX_SEQUENCES = 4096
"""The maximum number of fragmented messages at a time."""

_OPTIONS = etf.Options(limits=etf.Limits(max_terms=1 << 18))
"""Control messages are small, except for the reason of an exit before OTP 23."""


@dataclass(slots=True)
class _Sequence:
    """A fragmented message."""

    due: int
    """The number of the next fragment."""
    scanner: TermScanner | None
    """The scanner of the payload; None if the message is refused or not scanned."""
    passes: bool
    kind: Pass = Pass.ANSWER


@dataclass(frozen=True, slots=True)
class _Read:
    """A first or only frame, decoded up to its payload."""

    signal: Signal
    inline: Payload | Follows
    start: int
    """The start of the control message."""
    end: int
    """The end of the control message."""
    payload: PayloadInspection


@dataclass(frozen=True, slots=True)
class Passage:
    """The result for a packet: the packet to forward, or None, an answer, and log texts."""

    forward: Packet | None
    answer: Packet | None = None
    note: str | None = None
    """Log text: what was refused, or would have been."""
    refused: str | None = None
    """A short description of the refused signal."""
    called: str | None = None
    """The permitted call, for the audit log."""


class PolicyFilter:
    """Filters the packets between one peer and the node behind the gateway."""

    def __init__(
        self,
        policy: Policy,
        own_name: str,
        *,
        dialed_peer: str | None,
        atoms: AtomBudget | None = None,
        references: ReferenceBudget | None = None,
        is_audited: bool = False,
    ) -> None:
        """`dialed_peer` is the node that the BEAM node dials, or None for an incoming connection.

        `atoms` counts the new atoms of all peers, and `references` bounds what is remembered of
        all of them. With `is_audited`, `Passage` names the calls that pass.
        """
        self._policy = policy
        self._own_name = Atom(own_name)
        self._dialed_peer = dialed_peer
        self._rules: PolicyRules | None = None
        self._peer_name: str | None = None
        self._unknown = "a peer without a name"
        self._dialer_flags: int | None = None
        self._acceptor_flags: int | None = None
        self._complement_due = False
        self._connected = False
        self._header_form = False
        self._forms = WireForms(Flag(0))
        self._sequences: dict[int, _Sequence] = {}
        self._tails: dict[int, bytes] = {}
        """The ends of the fragments of each incomplete message of the node."""
        self._atoms = AtomBudget() if atoms is None else atoms
        self._references = references
        self._is_audited = is_audited
        self._called: str | None = None
        """The new atoms of the current frame."""
        self._new_atoms = 0
        """The new atoms of this connection."""

    def set_policy(self, policy: Policy) -> None:
        """Replaces the policy. Raises HandshakeRefused if it does not permit the peer."""
        self._policy = policy
        if self._peer_name is not None:
            self._peer_is(self._peer_name)

    def from_peer(self, packet: Packet) -> Passage:
        """Filters a packet from the peer. Raises ProtocolError, HandshakeRefused."""
        if isinstance(packet, HandshakePacket):
            return Passage(self._handshake(packet.data, from_dialer=self._dialed_peer is None))
        if not packet.data:
            return Passage(packet)
        if not self._connected:
            raise ProtocolError("a frame before the end of the handshake")
        if self._policy.mode is Mode.LOG:
            return self._watch(packet)
        forward, refusal = self._frame_from_peer(packet.data)
        if refusal is None:
            packet_on = None if forward is None else FramePacket(forward)
            return Passage(packet_on, called=self._called)
        answer = None if refusal.answer is None else self._frame(refusal.answer, refusal.payload)
        return Passage(None, answer, f"refused: {refusal.what}", refused=refusal.what)

    def from_node(self, packet: Packet) -> Packet:
        """Filters a packet from the node. Raises the same as `from_peer`."""
        if isinstance(packet, HandshakePacket):
            return self._handshake(packet.data, from_dialer=self._dialed_peer is not None)
        rules = self._rules
        if packet.data and self._connected and rules is not None:
            self._learn(packet.data, rules)
        return packet

    # -- handshake ------------------------------------------------------------------------------

    def _handshake(self, message: bytes, *, from_dialer: bool) -> HandshakePacket:
        return HandshakePacket(
            self._from_dialer(message) if from_dialer else self._from_acceptor(message)
        )

    def _from_dialer(self, message: bytes) -> bytes:
        if self._dialer_flags is None:
            return self._name(message)
        if not self._complement_due or message[:1] != b"c":
            return message
        self._complement_due = False
        complement = hs.parse_complement(message)
        self._dialer_flags |= complement.flags & _READABLE
        return _with_flags(message, 1, 4, complement.flags >> 32, _READABLE >> 32)

    def _from_acceptor(self, message: bytes) -> bytes:
        if self._dialer_flags is None:
            raise ProtocolError("a handshake message before the dialer's name")
        if message[:1] == b"N":
            return self._challenge(message)
        if message.startswith(b"snamed:") and self._dialed_peer is None:
            named = hs.parse_status(message)
            assert isinstance(named, hs.Named)
            self._peer_is(named.name)
        elif message[:1] == b"a":
            self._connect(self._dialer_flags)
        return message

    def _name(self, message: bytes) -> bytes:
        name = hs.parse_name(message)
        self._dialer_flags = name.flags & _READABLE
        if self._dialed_peer is not None:
            self._peer_is(self._dialed_peer)
        elif not hs.wants_name(name.flags):
            self._peer_is(name.name)
        self._complement_due = isinstance(name, hs.NameV5)
        start, width = (3, 4) if self._complement_due else (1, 8)
        return _with_flags(message, start, width, name.flags, _READABLE)

    def _challenge(self, message: bytes) -> bytes:
        challenge = hs.parse_challenge(message)
        if self._acceptor_flags is not None:
            raise ProtocolError("a second challenge")
        if self._dialed_peer is not None and challenge.name != self._dialed_peer:
            raise ProtocolError(f"{challenge.name[:64]} answers for {self._dialed_peer}")
        self._acceptor_flags = challenge.flags & _READABLE
        return _with_flags(message, 1, 8, challenge.flags, _READABLE)

    def _peer_is(self, name: str) -> None:
        """Sets the peer's name. Raises HandshakeRefused if no rules match it."""
        is_new = self._peer_name is None and self._dialed_peer is None
        self._peer_name = name
        rules = self._policy.rules_for(name)
        if rules is not None and is_new:
            self._bring_name(name)
        if rules is not None and self._rules is not None:
            self._rules.rules = rules
        elif rules is not None:
            self._rules = PolicyRules(
                rules, own_name=self._own_name, peer_name=name, budget=self._references
            )
        elif self._policy.mode is Mode.LOG:
            self._rules = None
            self._unknown = f"{name[:64]}, which matches no entry of the policy"
        else:
            raise HandshakeRefused(
                f"no entry of the policy matches {name[:64]}",
                Cause.REFUSED_HERE,
                status=hs.Status.NOT_ALLOWED.value,
                answer=hs.build_status(hs.Status.NOT_ALLOWED),
            )

    def _bring_name(self, name: str) -> None:
        """Counts the name, which becomes an atom before the cookie is checked.

        Raises HandshakeRefused.
        """
        if not self._atoms.admit(self._atoms.new({name.encode()})):
            raise HandshakeRefused(
                "peers have created the maximum number of new atoms",
                Cause.REFUSED_HERE,
                status=hs.Status.NOT_ALLOWED.value,
                answer=hs.build_status(hs.Status.NOT_ALLOWED),
            )

    def _connect(self, dialer_flags: int) -> None:
        if self._acceptor_flags is None:
            raise ProtocolError("the end of a handshake without a challenge")
        both = expand(dialer_flags) & expand(self._acceptor_flags)
        self._header_form = bool(both & Flag.FRAGMENTS.value)
        self._forms = WireForms(Flag(both & _READABLE))
        self._connected = True

    # -- frames ---------------------------------------------------------------------------------

    def _watch(self, packet: FramePacket) -> Passage:
        """Reports what would be refused, without changes."""
        try:
            forward, refusal = self._frame_from_peer(packet.data)
        except ProtocolError as error:
            return Passage(packet, note=f"the connection would be closed: {error}")
        if refusal is not None:
            note = f"would be refused: {refusal.what}"
            return Passage(packet, note=note, refused=refusal.what)
        changes = forward is not None and forward is not packet.data
        token = "a trace token would be removed" if changes else None
        return Passage(packet, note=token, called=self._called)

    def _frame_from_peer(self, data: bytes) -> tuple[bytes | None, Refusal | None]:
        """Returns the frame to forward, and the refusal unless the message was refused before."""
        self._called = None
        if self._is_next_fragment(data):
            return (data if self._next_fragment(data) else None), None
        read = self._read(data)
        rules = self._rules
        scanner: TermScanner | None = None
        kind = Pass.ANSWER
        if rules is None:
            refusal: Refusal | None = Refusal(f"anything from {self._unknown}")
        else:
            try:
                verdict = rules.verdict(read.signal, read.payload)
                refusal = verdict if isinstance(verdict, Refusal) else None
                kind = verdict if isinstance(verdict, Pass) else Pass.ANSWER
                if refusal is None and not rules.rules.may_call_everything:
                    scanner = TermScanner(1, self._own_name)
                    refusal = self._scan(rules, data, read, scanner, kind)
                if self._is_audited and refusal is None and kind is not Pass.ANSWER:
                    self._called = rules.called(read.signal, read.payload)
            except Unreadable as error:
                refusal = Refusal(f"{type(read.signal).__name__}: {error}")
        if self._header_form and data[1] == FIRST_FRAGMENT:
            self._first_fragment(data, _Sequence(0, scanner, refusal is None, kind))
        return (None if refusal is not None else self._without_token(data, read)), refusal

    def _is_next_fragment(self, data: bytes) -> bool:
        return self._header_form and data[:2] == bytes((VERSION, NEXT_FRAGMENT))

    def _read(self, data: bytes) -> _Read:
        """Decodes a first or only frame. Raises ProtocolError."""
        is_whole = True
        try:
            if self._header_form:
                start = _after_header(data)
                values, end = etf.decode_bare(data, start, _OPTIONS)
                is_whole = data[1] == HEADER or fragment_ids(data)[1] == 1
            elif data[0] == PASS_THROUGH:
                start = 2
                values, end = etf.decode_prefix(data, 1, _OPTIONS)
                if data[1:3] == b"\x83P":
                    raise ProtocolError("a compressed control message")
            else:
                raise ProtocolError(f"a frame begins with {data[:1].hex()}, 70 expected")
        except etf.EtfDecodeError as error:
            raise ProtocolError(f"a control message does not decode: {error}") from error
        signal, inline = parse(values)
        # In a pass-through frame, a version byte precedes the payload.
        inspection = PayloadInspection(
            data, end if self._header_form else end + 1, is_whole=is_whole
        )
        return _Read(signal, inline, start, end, inspection)

    def _without_token(self, data: bytes, read: _Read) -> bytes:
        """Removes the trace token, since an invalid one crashes the node (REG_SEND_TT)."""
        if getattr(read.signal, "token", NO_TOKEN) is NO_TOKEN:
            return data
        bare = dataclasses.replace(read.signal, token=NO_TOKEN)  # type: ignore[call-arg]
        placeholder: Payload = 0 if read.inline is FOLLOWS else read.inline
        values, behind = self._forms.of(bare, placeholder)
        if read.inline is FOLLOWS and behind is NO_PAYLOAD:
            raise ProtocolError("a reason after its control message, which was not negotiated")
        rest = data[read.end :]
        if read.inline is not FOLLOWS and behind is not NO_PAYLOAD:
            rest = (etf.encode_bare if self._header_form else etf.encode)(behind)
        return data[: read.start] + etf.encode_bare(values) + rest

    # -- payloads -------------------------------------------------------------------------------

    def _scan(
        self, rules: PolicyRules, data: bytes, read: _Read, scanner: TermScanner, kind: Pass
    ) -> Refusal | None:
        """Scans the control message, and the available part of the payload."""
        scanner.feed(data, read.start)
        # The rules have checked the pids of the control message.
        scanner.own_pids.clear()
        scanner.ends_with = None
        if read.inline is FOLLOWS:
            scanner.pending = 1
            start = read.end if self._header_form else read.end + 1
            end = scanner.feed(data, start)
            if scanner.is_done and end != len(data):
                raise Unreadable(f"{len(data) - end} bytes too many behind a payload")
            if not scanner.is_done and read.payload.is_whole:
                raise Unreadable("a payload ends too early")
        what = self._forbidden(rules, scanner, kind)
        if what is None:
            return None
        if kind is Pass.ANSWER:
            raise ProtocolError(f"{what} in an answer")
        return rules.refuse(read.signal, read.payload, what)

    def _forbidden(self, rules: PolicyRules, scanner: TermScanner, kind: Pass) -> str | None:
        """Returns the first forbidden item found so far, or None."""
        is_request = kind is not Pass.ANSWER
        if is_request and kind is not Pass.GLOBAL:
            leader = scanner.ends_with if kind is Pass.CALL else None
            pid = rules.foreign_pid(scanner.own_pids, leader)
            if pid is not None:
                return pid
        scanner.own_pids.clear()
        if is_request and scanner.has_fun and not rules.rules.may_send_funs():
            return "a fun"
        if is_request and not rules.remembered.brought(scanner.references):
            return "more references of the node's than the peer may bring"
        scanner.references.clear()
        new = self._atoms.new(scanner.atoms)
        scanner.atoms.clear()
        if not new:
            return None
        if len(new) > MAX_NEW_ATOMS_OF_MESSAGE:
            return f"{len(new)} new atoms"
        if self._new_atoms + len(new) > rules.rules.new_atoms or not self._atoms.admit(new):
            return "more new atoms than the peer may bring"
        self._new_atoms += len(new)
        return None

    # -- fragments ------------------------------------------------------------------------------

    def _first_fragment(self, data: bytes, begun: _Sequence) -> None:
        sequence, fragment = fragment_ids(data)
        if sequence in self._sequences:
            raise ProtocolError(f"sequence {sequence:#x} begins, but it is not finished")
        if fragment == 1:
            return
        if len(self._sequences) >= _MAX_SEQUENCES:
            raise ProtocolError(f"more than {_MAX_SEQUENCES} messages in fragments at a time")
        begun.due = fragment - 1
        self._sequences[sequence] = begun

    def _next_fragment(self, data: bytes) -> bool:
        """Returns whether the fragment passes, as its first fragment did. Raises ProtocolError.

        The node keeps fragments until the last one, so a message cannot be refused half-way.
        """
        sequence, fragment = fragment_ids(data)
        begun = self._sequences.get(sequence)
        due = 0 if begun is None else begun.due
        if begun is None or fragment != due:
            raise ProtocolError(f"fragment {fragment} of sequence {sequence:#x}, {due} expected")
        if fragment == 1:
            del self._sequences[sequence]
        else:
            begun.due = fragment - 1
        if begun.passes and begun.scanner is not None and self._rules is not None:
            self._scan_next(self._rules, data, begun, begun.scanner, is_last=fragment == 1)
        return begun.passes

    def _scan_next(
        self,
        rules: PolicyRules,
        data: bytes,
        begun: _Sequence,
        scanner: TermScanner,
        *,
        is_last: bool,
    ) -> None:
        try:
            end = scanner.feed(data, FRAGMENT_HEAD.size)
        except Unreadable as error:
            raise ProtocolError(f"{error}, in a later fragment") from error
        what = self._forbidden(rules, scanner, begun.kind)
        if what is not None:
            raise ProtocolError(f"{what} in a later fragment")
        if is_last and (not scanner.is_done or end != len(data)):
            raise ProtocolError("a payload in fragments does not end with its last fragment")

    # -- frames from the node -------------------------------------------------------------------

    def _learn(self, data: bytes, rules: PolicyRules) -> None:
        remembered = rules.remembered
        try:
            if self._is_next_fragment(data):
                sequence, fragment = fragment_ids(data)
                tail = self._tails.pop(sequence, b"")
                piece = tail + data[FRAGMENT_HEAD.size :]
                remembered.sent_pids(piece, 0)
                rest = remembered.sent_bytes(piece, 0)
                if fragment > 1:
                    self._keep_tail(sequence, rest)
                return
            read = self._read(data)
            remembered.sent(read.signal, read.payload if read.inline is FOLLOWS else None)
            remembered.sent_pids(data, read.end)
            rest = remembered.sent_bytes(data, read.end)
            if not read.payload.is_whole:
                self._keep_tail(fragment_ids(data)[0], rest)
        except (ProtocolError, Unreadable):
            return  # it is sent to the peer, which receives the original

    def _keep_tail(self, sequence: int, rest: bytes) -> None:
        if len(self._tails) < _MAX_SEQUENCES:
            self._tails[sequence] = rest

    def _frame(self, signal: Signal, payload: Payload) -> FramePacket:
        """Encodes a frame for the peer. The negotiated flags decide where a reason is placed."""
        values, payload = self._forms.of(signal, payload)
        parts = [values] if payload is NO_PAYLOAD else [values, payload]
        if self._header_form:
            return FramePacket(b"\x83D\0" + b"".join(map(etf.encode_bare, parts)))
        return FramePacket(b"p" + b"".join(map(etf.encode, parts)))


def _after_header(data: bytes) -> int:
    """Returns the start of the control message. Raises ProtocolError."""
    if data[0] != VERSION or data[1:2] not in (bytes((HEADER,)), bytes((FIRST_FRAGMENT,))):
        raise ProtocolError(f"a frame begins with {data[:2].hex()}, a distribution header expected")
    count = 2 if data[1] == HEADER else FRAGMENT_HEAD.size
    if data[count : count + 1] != b"\0":
        raise ProtocolError("a header with an atom cache, which was not negotiated")
    return count + 1


def _with_flags(message: bytes, start: int, width: int, flags: int, kept: int) -> bytes:
    """Returns the handshake message with only those flags that are in `kept`."""
    mask = (1 << 8 * width) - 1
    return message[:start] + (flags & kept & mask).to_bytes(width, "big") + message[start + width :]
