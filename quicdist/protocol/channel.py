"""The connected state of a connection: conversion between frames and signals.

Source: ERTS manual, Distribution Protocol, "Protocol between Connected Nodes"; External Term
Format, "Distribution Header".
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from quicdist import etf
from quicdist.etf import codec
from quicdist.etf.terms import Atom, Term
from quicdist.limits import SessionLimits
from quicdist.protocol.errors import ProtocolError, UsageError
from quicdist.protocol.flags import Flag
from quicdist.protocol.header import (
    CACHE_SIZE,
    FIRST_FRAGMENT,
    FRAGMENT_HEAD,
    HEADER,
    NEXT_FRAGMENT,
    PASS_THROUGH,
    STREAM_CACHE_SIZE,
    VERSION,
    Assembly,
    IncomingAtomCache,
    IncomingFragments,
    OutgoingAtomCache,
)
from quicdist.protocol.openings import Openings
from quicdist.protocol.packet import FramePacket, Packet
from quicdist.protocol.signals import (
    NO_PAYLOAD,
    Message,
    Payload,
    Signal,
    SpawnRequest,
    UnknownSignal,
)
from quicdist.protocol.wire import FOLLOWS, Parsed, WireForms, parse

Buffer: TypeAlias = bytes | memoryview

_MAX_FRAME = 0xFFFF_FFFF

_HEADROOM = 128 * 1024
"""Maximum size in bytes of the atom cache header and the fragment headers of a message."""

_COMPRESSED: Final = b"\x83P"
"""The beginning of a compressed control message. It is not stored, because a few hundred bytes may
decompress to a large term."""

_SMALL = 32 * 1024
"""Maximum size in bytes of a message that is copied into one frame. The parts of a larger message
are passed on without a copy."""


_PREFIXES = 64
"""Maximum number of prefixes of one head."""

# -- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TickReceived:
    """A tick (an empty frame) arrived."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message is complete. `size` is the size in bytes of its frames without length fields."""

    signal: Signal
    payload: Payload
    size: int


@dataclass(frozen=True, slots=True)
class FragmentStored:
    """A frame of `size` bytes was stored until the rest of its message arrives."""

    size: int


@dataclass(frozen=True, slots=True)
class UnknownReceived:
    """A control message with an unknown operation arrived. It is ignored."""

    signal: UnknownSignal
    size: int


@dataclass(frozen=True, slots=True)
class PayloadRefused:
    """The payload of a message does not decode or exceeds a limit. The message is dropped.

    The connection stays open, because all frames were read and their atoms are in the cache.
    `reason` is one line of text, and names the setting if a limit was exceeded. A control message
    that does not decode ends the connection: it may be a link, a monitor or an exit signal, and the
    two nodes would have a different state.
    """

    signal: Signal
    reason: str
    size: int


ChannelEvent: TypeAlias = (
    TickReceived | MessageReceived | FragmentStored | PayloadRefused | UnknownReceived
)

_TICK: Final = TickReceived()


@dataclass(slots=True, eq=False)
class Head:
    """A control message encoded for one channel, for use with any number of payloads."""

    channel: object
    """The mark of its channel. Other channels cannot use the head."""
    control: bytes
    refs: dict[Atom, int] | None
    """Its atoms if the channel uses an atom cache, otherwise None."""
    atoms: tuple[Atom, ...]
    stream: int
    """The stream that its messages use."""
    cache: OutgoingAtomCache
    """The atom cache of that stream."""
    prefixes: dict[tuple[Atom, ...], bytes] = dataclasses.field(default_factory=dict)
    """What precedes the payload in a frame, by the atoms of the message. A change of `cache`
    replaces this object."""
    changes: int = 0
    """The changes of `cache` for which the prefixes are valid."""

    @property
    def is_current(self) -> bool:
        """Whether a frame with one of the prefixes may be the next one on the stream."""
        return self.changes == self.cache.changes


@dataclass(slots=True, eq=False)
class OutgoingMessage:
    """An encoded message without a header. The header is created with the first frame."""

    control: bytes
    payload: Sequence[Buffer]
    """Its parts, in which large binaries are not copied. Empty if there is no payload."""
    atoms: tuple[Atom, ...]
    """The atoms that the message refers to by number."""
    size: int
    """Size in bytes of control message and payload."""


Opening: TypeAlias = tuple[Signal, tuple[Atom, ...], int]
"""The message that a frame begins with, its atoms, and the offset of the payload."""


class _Incoming:
    """What one stream of the peer has defined: its atom cache, and known frame beginnings."""

    __slots__ = ("atoms", "openings")

    def __init__(self, cache_size: int) -> None:
        self.atoms = IncomingAtomCache(cache_size)
        self.openings: Openings[Opening] = Openings()


# -- the channel --------------------------------------------------------------------------------


class Channel:
    """Converts between frames and signals on one connection after its handshake.

    Each stream (see quicdist.protocol.streams) has its own atom cache and sequences of fragments.
    """

    def __init__(self, flags: Flag, limits: SessionLimits, options: etf.Options) -> None:
        """`flags` are the flags that both nodes offer. `options` apply to payloads."""
        self._limits = limits
        self._options = options
        native_records = Flag.NATIVE_RECORDS in flags
        self._outgoing = _outgoing(options, limits.max_message, native_records=native_records)
        # The options for payloads do not apply to control messages. The DEFAULT object is used if
        # possible, because the compiled core recognizes it by identity.
        self._control_options = (
            etf.DEFAULT
            if options.limits == etf.DEFAULT.limits
            else dataclasses.replace(etf.DEFAULT, limits=options.limits)
        )
        self._forms = WireForms(flags)
        self._atom_cache = Flag.DIST_HDR_ATOM_CACHE in flags
        self._fragments = Flag.FRAGMENTS in flags
        self._header_form = self._atom_cache or self._fragments
        self._incoming: dict[int, _Incoming] = {0: _Incoming(CACHE_SIZE)}
        self._atoms_out: dict[int, OutgoingAtomCache] = {0: OutgoingAtomCache()}
        self._fragments_in = IncomingFragments(
            limits.max_sequences, limits.max_sequence_bytes, limits.max_message
        )
        self._last_sequence = 0
        self._one_frame = min(limits.fragment_size, _SMALL)
        self._one_step = self._one_frame if limits.max_message > _SMALL + _HEADROOM else -1
        """Maximum size in bytes of a message that is encoded as a frame in one step."""
        self.mark: Final = object()
        """Identifies the heads that this channel created."""

    # -- frames in ------------------------------------------------------------------------------

    def receive(self, data: bytes, stream: int = 0) -> ChannelEvent:
        """Processes a frame of a stream and returns the event.

        Raises ProtocolError if the frame is invalid. The channel cannot be used after that.
        """
        if not data:
            return _TICK
        size = len(data)
        try:
            if self._header_form:
                return self._header_frame(data, size, stream)
            return self._pass_through_frame(data, size, stream)
        except etf.EtfDecodeError as error:
            raise ProtocolError(f"a term in a frame does not decode: {error}") from error

    def opening(self, frame: bytes, stream: int = 0) -> Opening | None:
        """Returns what a known beginning of a frame contains, None for other frames."""
        incoming = self._incoming.get(stream)
        if incoming is None:
            return None
        return incoming.openings.find(frame, incoming.atoms.changes)

    def messages(
        self, queue: deque[Packet], opening: Opening, most: int, room: int, overhead: int
    ) -> tuple[list[tuple[Term, int]], int, int]:
        """Takes the packets in a row that begin with `opening`, as the first one does.

        See `etf.codec.decode_run` for the result. An invalid packet stays in the queue.
        """
        first = queue[0]
        assert type(first) is FramePacket
        _, atoms, offset = opening
        return codec.decode_run(
            queue,
            queue.popleft,
            first.data[:offset],
            first.stream,
            self._limits.max_message,
            self._options,
            atoms if self._header_form else None,
            most,
            room,
            overhead,
        )

    def message(self, frame: bytes, stream: int = 0) -> tuple[Signal, Term] | None:
        """The message in a frame with a known beginning.

        None for any other frame and for an invalid one, which `receive` then handles.
        """
        known = self.opening(frame, stream)
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

    def _incoming_on(self, stream: int) -> _Incoming:
        incoming = self._incoming.get(stream)
        if incoming is None:
            incoming = self._incoming[stream] = _Incoming(STREAM_CACHE_SIZE)
        return incoming

    def _header_frame(self, data: bytes, size: int, stream: int) -> ChannelEvent:
        incoming = self._incoming_on(stream)
        tag = data[1] if size > 1 and data[0] == VERSION else -1
        if tag == HEADER:
            atoms, offset = incoming.atoms.read(data, 2)
            parsed, offset = self._control(data, offset, atoms)
            if type(parsed[0]) is Message:
                opening = parsed[0], atoms, offset
                incoming.openings.keep(data, offset, opening, incoming.atoms.changes)
            return self._message(parsed, data, offset, atoms, size)
        if tag == FIRST_FRAGMENT and self._fragments:
            ids = self._fragments_in.check_first(data, stream)
            atoms, offset = incoming.atoms.read(data, FRAGMENT_HEAD.size)
            parsed, offset = self._control(data, offset, atoms)
            payload = memoryview(data)[offset:]
            sequence = self._fragments_in.begin(ids, parsed, atoms, payload, size, stream)
            return self._fragment(sequence, size)
        if tag == NEXT_FRAGMENT and self._fragments:
            return self._fragment(self._fragments_in.proceed(data, stream), size)
        raise ProtocolError(f"a frame begins with {data[:2].hex()}, not a distribution header")

    def _control(self, data: bytes, offset: int, atoms: tuple[Atom, ...]) -> tuple[Parsed, int]:
        values, offset = etf.decode_bare(data, offset, self._control_options, atoms)
        return parse(values), offset

    def _fragment(self, sequence: Assembly | None, size: int) -> ChannelEvent:
        if sequence is None:
            return FragmentStored(size)
        if sequence.refused is not None:
            return PayloadRefused(sequence.parsed[0], sequence.refused, sequence.size)
        return self._message(sequence.parsed, sequence.payload(), 0, sequence.atoms, sequence.size)

    def _message(
        self, parsed: Parsed, data: Buffer, offset: int, atoms: tuple[Atom, ...], size: int
    ) -> ChannelEvent:
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
        raise ProtocolError(f"{len(data) - offset} extra bytes after {type(signal).__name__}")

    def _too_large(self, size: int) -> str:
        most = self._limits.max_message
        return f"a message of {size} bytes, SessionLimits.max_message is {most}"

    def _pass_through_frame(self, data: bytes, size: int, stream: int) -> ChannelEvent:
        if data[0] != PASS_THROUGH:
            raise ProtocolError(f"a frame begins with {data[:1].hex()}, expected 70 (pass-through)")
        values, offset = etf.decode_prefix(data, 1, self._control_options)
        signal, payload = parsed = parse(values)
        if payload is not FOLLOWS:
            return self._message(parsed, data, offset, (), size)
        if type(signal) is Message and not data.startswith(_COMPRESSED, 1):
            self._incoming_on(stream).openings.keep(data, offset, (signal, (), offset), 0)
        if size > self._limits.max_message:
            return PayloadRefused(signal, self._too_large(size), size)
        try:
            payload, offset = etf.decode_prefix(data, offset, self._options)
        except etf.EtfDecodeError as error:
            return PayloadRefused(signal, str(error), size)
        if offset != size:
            raise ProtocolError(f"{size - offset} extra bytes after {type(signal).__name__}")
        return MessageReceived(signal, payload, size)

    # -- frames out -----------------------------------------------------------------------------

    def encode(self, signal: Signal, payload: Payload = NO_PAYLOAD) -> OutgoingMessage:
        """Encodes a signal in the form that this peer supports.

        Raises UsageError if the payload does not fit the signal or the peer does not support the
        signal. Raises EtfEncodeError if an object has no Erlang form, or if a peer with the limits
        of this node would reject the message.
        """
        values, payload = self._forms.of(signal, payload)
        head = self._head(values)
        if payload is NO_PAYLOAD:
            return OutgoingMessage(head.control, (), head.atoms, len(head.control))
        return self.enclose(head, payload)

    def address(self, signal: Message | SpawnRequest, stream: int = 0) -> Head:
        """The encoded control message of a signal, for messages on a stream.

        Raises UsageError if the peer does not support the signal.
        """
        return self._head(self._forms.ahead(signal), stream)

    def _head(self, values: tuple[Term, ...], stream: int = 0) -> Head:
        refs: dict[Atom, int] | None = {} if self._atom_cache else None
        encoded = b"".join(self._parts(values, refs))
        return Head(self.mark, encoded, refs, tuple(refs or ()), stream, self._cache_of(stream))

    def framed(self, head: Head, payload: Term) -> bytes | OutgoingMessage:
        """Encodes one message with a head of this channel.

        Returns a frame with its u32 length if the message is small and its atoms are in the cache.
        The frame may be sent as long as the head is current. Raises UsageError for a head of
        another channel, and EtfEncodeError like `encode`.
        """
        if head.channel is not self.mark:
            raise UsageError("the head belongs to another channel")
        if head.changes != head.cache.changes:
            head.changes = head.cache.changes
            head.prefixes = {}
        refs, atoms = head.refs, head.atoms
        try:
            made = codec.encode_frame(
                payload, self._outgoing, refs, atoms, head.prefixes, self._one_step
            )
            if isinstance(made, bytes):
                return made
            return self._first_with(head, tuple(refs) if refs else atoms, made)
        except etf.EtfEncodeError as error:
            explained = self._explained(error)
            if explained is error:
                raise
            raise explained from None
        finally:
            while refs is not None and len(refs) > len(atoms):
                refs.popitem()

    def _first_with(
        self, head: Head, atoms: tuple[Atom, ...], body: Sequence[Buffer]
    ) -> bytes | OutgoingMessage:
        """Returns a message that is large or whose atoms have no prefix yet, or its frame."""
        message = self._with_payload(head.control, body, atoms)
        header = head.cache.known_header(atoms) if self._header_form else b""
        if header is None or message.size > self._one_step:
            return message
        if len(head.prefixes) >= _PREFIXES:
            head.prefixes = {}
        bare = OutgoingMessage(head.control, (b"",), atoms, 0)
        start = (b"\x83D", header, head.control) if self._header_form else self._pass_through(bare)
        prefix = head.prefixes[atoms] = b"".join(start)
        size = len(prefix) + message.size - len(head.control)
        return b"".join((size.to_bytes(4, "big"), prefix, *body))

    def unframed(
        self, head: Head, prefixes: Mapping[tuple[Atom, ...], bytes], frame: bytes
    ) -> OutgoingMessage:
        """Returns the message of a frame of `framed` that was not sent while the head was current.

        `prefixes` are those of the head when the frame was made.
        """
        for atoms, prefix in prefixes.items():
            if frame.startswith(prefix, 4):
                payload = frame[4 + len(prefix) :]
                size = len(head.control) + len(payload)
                return OutgoingMessage(head.control, (payload,), atoms, size)
        raise UsageError("the frame was made with other prefixes")

    def enclose(self, head: Head, payload: Term) -> OutgoingMessage:
        """Encodes one message with a head of this channel, without its frame.

        Raises UsageError for a head of another channel, and EtfEncodeError like `encode`.
        """
        if head.channel is not self.mark:
            raise UsageError("the head belongs to another channel")
        refs = None if head.refs is None else head.refs.copy()
        body = self._parts(payload, refs)
        return self._with_payload(head.control, body, tuple(refs) if refs else head.atoms)

    def _with_payload(
        self, control: bytes, body: Sequence[Buffer], atoms: tuple[Atom, ...]
    ) -> OutgoingMessage:
        size = len(control) + sum(map(len, body))
        message = OutgoingMessage(control, body, atoms, size)
        most = self._limits.max_message
        if size + _HEADROOM > most and self._framed_size(message) > most:
            raise etf.EtfEncodeError("", self._too_large(size), "max_message")
        return message

    def _parts(self, term: Term, refs: dict[Atom, int] | None) -> Sequence[Buffer]:
        """Encodes a term up to the maximum size of a message."""
        try:
            return etf.encode_bare_parts(term, self._outgoing, refs)
        except etf.EtfEncodeError as error:
            explained = self._explained(error)
            if explained is error:
                raise
            raise explained from None

    def _explained(self, error: etf.EtfEncodeError) -> etf.EtfEncodeError:
        """Returns the error that names the limit of this channel, if that was exceeded."""
        most = self._limits.max_message
        if error.limit != "max_bytes" or self._outgoing.limits.max_bytes < most:
            return error
        reason = f"the message is too large, SessionLimits.max_message is {most}"
        return etf.EtfEncodeError("", reason, "max_message")

    def frame(self, message: OutgoingMessage, stream: int = 0) -> bytes | None:
        """The only frame of a small message, which must be the next one on this stream.

        None for a larger message, for which `frames` must be used.
        """
        if message.size > self._one_frame:
            return None
        if self._header_form:
            header = self._header(message, stream)
            return b"".join([b"\x83D", header, message.control, *message.payload])
        return b"".join(self._pass_through(message))

    def frames(self, message: OutgoingMessage, stream: int = 0) -> Iterator[tuple[Buffer, ...]]:
        """Creates the frames of a message one by one, each as parts to be joined.

        The frames of a stream must be sent in the order in which they were created. All frames
        of a message must be sent unless the connection is closed. Raises UsageError if a message
        without fragments is too large for one frame.
        """
        if not self._header_form:
            self._check_frame_size(message)
            yield self._pass_through(message)
            return
        limit = self._limits.fragment_size
        size = message.size - len(message.control)
        if size <= limit or not self._fragments:
            self._check_frame_size(message)
            yield b"\x83D" + self._header(message, stream), message.control, *message.payload
            return
        missing = -(-size // limit)
        self._last_sequence = sequence = self._last_sequence + 1
        tag, rest = FIRST_FRAGMENT, self._header(message, stream) + message.control
        for piece in _pieces(message.payload, limit):
            yield FRAGMENT_HEAD.pack(VERSION, tag, sequence, missing) + rest, *piece
            tag, rest = NEXT_FRAGMENT, b""
            missing -= 1

    def _header(self, message: OutgoingMessage, stream: int) -> bytes:
        return self._cache_of(stream).header(message.atoms)

    def _cache_of(self, stream: int) -> OutgoingAtomCache:
        atoms = self._atoms_out.get(stream)
        if atoms is None:
            atoms = self._atoms_out[stream] = OutgoingAtomCache(STREAM_CACHE_SIZE)
        return atoms

    @staticmethod
    def _pass_through(message: OutgoingMessage) -> tuple[Buffer, ...]:
        if not message.payload:
            return b"p\x83", message.control
        return b"p\x83", message.control, b"\x83", *message.payload

    def _framed_size(self, message: OutgoingMessage) -> int:
        """The maximum total size in bytes of the frames of a message."""
        fragments = message.size // self._limits.fragment_size + 1
        atoms = sum(len(atom.encoded) + 2 for atom in message.atoms)
        return message.size + fragments * FRAGMENT_HEAD.size + atoms + 2

    @staticmethod
    def _check_frame_size(message: OutgoingMessage) -> None:
        """Raises UsageError if a message exceeds the 32-bit length field of a frame.

        The header takes less than 64 KiB.
        """
        if message.size > _MAX_FRAME - 0x40000:
            raise UsageError(f"a message of {message.size} bytes does not fit into one frame")


def _pieces(parts: Sequence[Buffer], size: int) -> Iterator[list[Buffer]]:
    """Cuts the bytes of all parts into pieces of `size` bytes, without a copy."""
    piece: list[Buffer] = []
    room = size
    for part in parts:
        view = memoryview(part)
        start = 0
        while start < len(view):
            found = view[start : start + room]
            piece.append(found)
            start += len(found)
            room -= len(found)
            if not room:
                yield piece
                piece, room = [], size
    if piece:
        yield piece


@functools.lru_cache(maxsize=64)
def _outgoing(options: etf.Options, max_message: int, *, native_records: bool) -> etf.Options:
    """The options for outgoing terms.

    Sessions with equal options share one object, because the compiled core recognizes options by
    identity.
    """
    limits = dataclasses.replace(
        options.limits, max_bytes=min(options.limits.max_bytes, max_message)
    )
    native_records = native_records and options.native_records
    return dataclasses.replace(options, limits=limits, native_records=native_records)
