"""The distribution header: atom caches and fragmented messages.

Source: ERTS manual, External Term Format, "Distribution Header". A frame has one of four forms. The
first one is used if neither atom cache nor fragments were negotiated:

    112, 131 Control, 131 Payload                    pass-through
    131, 68, Atoms, Control, Payload                 a whole message
    131, 69, Sequence:64, Fragment:64, Atoms, ...    the first fragment, numbered from the top
    131, 70, Sequence:64, Fragment:64, ...           a further one, counting down to 1
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from quicdist.etf.terms import Atom
from quicdist.protocol.errors import ProtocolError
from quicdist.protocol.wire import Parsed

VERSION = 131
PASS_THROUGH = 112
HEADER = 68
FIRST_FRAGMENT = 69
NEXT_FRAGMENT = 70

FRAGMENT_HEAD = struct.Struct(">BBQQ")
"""Version, tag, sequence id and fragment id: the first 18 bytes of a fragment."""

CACHE_SIZE = 2048
"""Number of entries of an atom cache in one direction: eight segments of 256 entries."""

STREAM_CACHE_SIZE = 256
"""Number of entries of the atom cache of a data stream, which bounds the memory of all of them. A
message refers to at most 255 atoms."""

MAX_ATOM_CHARACTERS = 255
"""Maximum number of characters of an atom, as in BEAM."""

_REMEMBERED = 2048
"""Maximum number of atoms in the remembered headers of a cache, which each count as one atom more.
Headers without new atoms are remembered, as most of them repeat."""

_NEW = 8
"""Flag in the half byte of an atom: its text follows. The other three bits are its segment."""


class IncomingAtomCache:
    """The atom cache that the headers of the peer define."""

    __slots__ = ("_known", "_remembered", "_size", "_slots", "changes")

    def __init__(self, size: int = CACHE_SIZE) -> None:
        self.changes = 0
        """Number of headers that contained new atoms."""
        self._size = size
        self._slots: dict[int, Atom] = {}
        self._known: dict[bytes, tuple[Atom, ...]] = {}
        self._remembered = 0

    def read(self, data: bytes, offset: int) -> tuple[tuple[Atom, ...], int]:
        """Returns the atoms of the header whose count is at `offset`, and the end of the header.

        Raises ProtocolError if the header is invalid.
        """
        try:
            count = data[offset]
            if not count:
                return (), offset + 1
            end = offset + 2 + count // 2 + count
            known = self._known.get(data[offset:end])
            if known is not None:
                return known, end
            return self._read(data, offset + 1, count)
        except IndexError:
            raise ProtocolError(f"a frame of {len(data)} bytes ends within its header") from None

    def _read(self, data: bytes, flags: int, count: int) -> tuple[tuple[Atom, ...], int]:
        """`flags` is the offset of the half bytes, one per atom and one for long atoms."""
        slots = self._slots
        position = flags + count // 2 + 1
        atoms = []
        is_new = False
        for index in range(count):
            half = data[flags + (index >> 1)]
            half = half >> 4 if index & 1 else half & 15
            slot = ((half & 7) << 8) | data[position]
            position += 1
            if slot >= self._size:
                raise ProtocolError(f"a header refers to entry {slot} of {self._size}")
            if half & _NEW:
                atom, position = self._read_text(data, position, _long_atoms(data, flags, count))
                slots[slot] = atom
                is_new = True
            else:
                cached = slots.get(slot)
                if cached is None:
                    raise ProtocolError(f"a header refers to the empty atom cache entry {slot}")
                atom = cached
            atoms.append(atom)
        found = tuple(atoms)
        self.changes += is_new
        self._remembered += count + 1
        if is_new or self._remembered > _REMEMBERED:
            self._known.clear()
            self._remembered = 0 if is_new else count + 1
        if not is_new:
            self._known[data[flags - 1 : position]] = found
        return found, position

    def _read_text(self, data: bytes, position: int, long_atoms: bool) -> tuple[Atom, int]:
        if long_atoms:
            length = (data[position] << 8) | data[position + 1]
            position += 2
        else:
            length = data[position]
            position += 1
        end = position + length
        text = data[position:end]
        if len(text) != length:
            raise IndexError
        try:
            name = text.decode()
        except UnicodeDecodeError:
            raise ProtocolError(
                f"a header contains an atom that is not UTF-8: {text[:32]!r}"
            ) from None
        if len(name) > MAX_ATOM_CHARACTERS:
            raise ProtocolError(f"a header contains an atom of {len(name)} characters")
        return Atom(name), end


def _long_atoms(data: bytes, flags: int, count: int) -> bool:
    """The flag in the half byte after the last atom: whether lengths have two bytes."""
    half = data[flags + count // 2]
    return bool((half >> 4 if count & 1 else half) & 1)


class OutgoingAtomCache:
    """The atom cache that the headers of this node define at the peer."""

    __slots__ = ("_known", "_next", "_remembered", "_size", "_slot_of", "_slots", "changes")

    def __init__(self, size: int = CACHE_SIZE) -> None:
        self.changes = 0
        """Number of headers that contained new atoms."""
        self._size = size
        self._slots: dict[int, Atom] = {}
        self._slot_of: dict[Atom, int] = {}
        self._known: dict[tuple[Atom, ...], bytes] = {}
        self._remembered = 0
        self._next = 0

    def header(self, atoms: tuple[Atom, ...]) -> bytes:
        """The count, flags and entries for a message that refers to at most 255 `atoms`, in order.

        The peer adds the entries to its cache when it reads the header. Headers must be sent in the
        order in which they were created.
        """
        known = self._known.get(atoms)
        if known is not None:
            return known
        find = self._slot_of.get
        slots = [find(atom) for atom in atoms]
        self._remembered += len(atoms) + 1
        if None in slots or self._remembered > _REMEMBERED:
            self._known.clear()
            self._remembered = 0 if None in slots else len(atoms) + 1
        if None in slots:
            return self._introduce(atoms, slots)
        made = _header_bytes(atoms, [slot for slot in slots if slot is not None], set())
        self._known[atoms] = made
        return made

    def known_header(self, atoms: tuple[Atom, ...]) -> bytes | None:
        """The header for `atoms` if the peer knows all of them, else None."""
        if atoms in self._known or all(atom in self._slot_of for atom in atoms):
            return self.header(atoms)
        return None

    def _introduce(self, atoms: Sequence[Atom], slots: list[int | None]) -> bytes:
        """The header that defines the atoms that have no slot."""
        self.changes += 1
        new: set[int] = set()
        in_use = {slot for slot in slots if slot is not None}
        for index, slot in enumerate(slots):
            if slot is None:
                slots[index] = self._place(atoms[index], in_use)
                new.add(index)
        return _header_bytes(atoms, [slot for slot in slots if slot is not None], new)

    def _place(self, atom: Atom, in_use: set[int]) -> int:
        """The next slot, in cyclic order, that the same message does not use."""
        slot = self._next
        while slot in in_use:
            slot = (slot + 1) % self._size
        self._next = (slot + 1) % self._size
        evicted = self._slots.get(slot)
        if evicted is not None:
            del self._slot_of[evicted]
        self._slots[slot] = atom
        self._slot_of[atom] = slot
        in_use.add(slot)
        return slot


def _header_bytes(atoms: Sequence[Atom], slots: list[int], new: set[int]) -> bytes:
    """`new` are the indexes of the atoms whose text is included."""
    count = len(atoms)
    if not count:
        return b"\0"
    halves = [slot >> 8 for slot in slots]
    halves += (0, 0) if count % 2 == 0 else (0,)
    if new:
        texts = {index: atoms[index].utf8 for index in new}
        width = 2 if any(len(text) > 255 for text in texts.values()) else 1
        halves[count] = width - 1
        entries = bytearray()
        for index, slot in enumerate(slots):
            entries.append(slot & 255)
            if index in new:
                halves[index] |= _NEW
                entries += len(texts[index]).to_bytes(width, "big") + texts[index]
    else:
        entries = bytearray([slot & 255 for slot in slots])
    flags = bytes([halves[at] | halves[at + 1] << 4 for at in range(0, len(halves), 2)])
    return bytes((count,)) + flags + entries


# -- fragments ----------------------------------------------------------------------------------


def fragment_ids(frame: bytes) -> tuple[int, int]:
    """The sequence id and fragment id of a fragment. Raises ProtocolError if they are invalid."""
    if len(frame) < FRAGMENT_HEAD.size:
        raise ProtocolError(f"a frame of {len(frame)} bytes ends within its fragment header")
    _, _, sequence_id, fragment_id = FRAGMENT_HEAD.unpack_from(frame)
    if not sequence_id or not fragment_id:
        raise ProtocolError(f"fragment {fragment_id} of sequence {sequence_id}: zero is invalid")
    return sequence_id, fragment_id


FRAME_OVERHEAD = 64
"""Bytes charged for each stored frame in addition to its size, so that small frames count."""


@dataclass(slots=True, eq=False)
class Assembly:
    """A fragmented message that is being received."""

    parsed: Parsed
    atoms: tuple[Atom, ...]
    stored: bytearray
    """The payload so far, after `start` other bytes. Unlike a join of all fragments at the end, its
    growth needs no memory for a second copy."""
    start: int
    missing: int
    """The id of the next fragment, 0 when all have arrived."""
    size: int
    """Total size in bytes of the frames received."""
    charged: int
    """Bytes of memory accounted for."""
    refused: str | None = None
    """The limit that the message exceeds. Its further fragments are counted and discarded."""

    def payload(self) -> memoryview:
        """The payload, when all fragments have arrived."""
        return memoryview(self.stored)[self.start :]


_ALIGNMENT = 16

_SEARCHED = 512
"""The number of bytes at the start of a payload that may have the head of a large binary."""

_LARGE_BINARY = re.compile(rb"m(\0[^\0]..|[^\0]...)", re.DOTALL)


def padding(payload: bytes | memoryview, most: int) -> int:
    """Returns how many bytes before a payload align the content of its first large binary.

    A view of the binary may then be used as an array of numbers. A binary has at most `most` bytes.
    The tag and length of the binary are searched for without decoding. If other bytes are
    found, the result is only useless.
    """
    for found in _LARGE_BINARY.finditer(payload[:_SEARCHED]):
        if int.from_bytes(found[1], "big") <= most:
            return -found.end() % _ALIGNMENT
    return 0


class IncomingFragments:
    """The incomplete fragmented messages, with limits on their number and size."""

    __slots__ = ("_charged", "_max_bytes", "_max_message", "_max_sequences", "_sequences")

    def __init__(self, max_sequences: int, max_bytes: int, max_message: int) -> None:
        self._sequences: dict[tuple[int, int], Assembly] = {}
        """The incomplete messages by stream and sequence id."""
        self._charged = 0
        self._max_sequences = max_sequences
        self._max_bytes = max_bytes
        self._max_message = max_message

    def check_first(self, frame: bytes, stream: int = 0) -> tuple[int, int]:
        """The sequence id and fragment id of a first fragment.

        Raises ProtocolError if they are invalid or too many messages are incomplete.
        """
        sequence_id, fragment_id = fragment_ids(frame)
        if (stream, sequence_id) in self._sequences:
            raise ProtocolError(f"sequence {sequence_id:#x} begins again before it is complete")
        if fragment_id > 1 and len(self._sequences) >= self._max_sequences:
            raise ProtocolError(
                f"more than {self._max_sequences} incomplete fragmented messages, "
                f"SessionLimits.max_sequences"
            )
        return sequence_id, fragment_id

    def begin(
        self,
        ids: tuple[int, int],
        parsed: Parsed,
        atoms: tuple[Atom, ...],
        payload: bytes | memoryview,
        size: int,
        stream: int = 0,
    ) -> Assembly | None:
        """Stores a first fragment of `size` bytes. Returns the message if it is the only one."""
        sequence_id, fragment_id = ids
        start = padding(payload, self._max_message)
        stored = bytearray(start)
        stored += payload
        sequence = Assembly(parsed, atoms, stored, start, fragment_id - 1, 0, 0)
        self._charge(sequence, size)
        if not sequence.missing:
            self._charged -= sequence.charged
            return sequence
        self._sequences[stream, sequence_id] = sequence
        return None

    def proceed(self, frame: bytes, stream: int = 0) -> Assembly | None:
        """Stores a further fragment. Returns the message after the last one.

        Raises ProtocolError if the fragment is out of order.
        """
        sequence_id, fragment_id = fragment_ids(frame)
        sequence = self._sequences.get((stream, sequence_id))
        if sequence is None:
            raise ProtocolError(f"fragment {fragment_id} of unknown sequence {sequence_id:#x}")
        if fragment_id != sequence.missing:
            raise ProtocolError(
                f"fragment {fragment_id} of sequence {sequence_id:#x}, expected {sequence.missing}"
            )
        sequence.missing -= 1
        if sequence.refused is None:
            sequence.stored += memoryview(frame)[FRAGMENT_HEAD.size :]
        self._charge(sequence, len(frame))
        if sequence.missing:
            return None
        del self._sequences[stream, sequence_id]
        self._charged -= sequence.charged
        return sequence

    def _charge(self, sequence: Assembly, size: int) -> None:
        """Accounts for a frame. A message that exceeds a limit releases its frames."""
        sequence.size += size
        if sequence.refused is not None:
            return
        sequence.charged += size + FRAME_OVERHEAD
        self._charged += size + FRAME_OVERHEAD
        if sequence.size > self._max_message:
            sequence.refused = (
                f"a message of more than {self._max_message} bytes, SessionLimits.max_message"
            )
        elif self._charged > self._max_bytes:
            sequence.refused = (
                f"incomplete fragmented messages exceed {self._max_bytes} bytes, "
                f"SessionLimits.max_sequence_bytes"
            )
        if sequence.refused is not None:
            sequence.stored.clear()
            self._charged -= sequence.charged
            sequence.charged = 0
