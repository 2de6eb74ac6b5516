"""Decoding of terms.

The decoder uses one loop with an explicit stack instead of recursion. It allocates memory for a
length only if the input has that many bytes. For any input the result is a term or EtfDecodeError.

Source: ERTS manual, External Term Format. Unspecified cases follow the decoder of OTP.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

from quicdist.etf.errors import EtfDecodeError
from quicdist.etf.footprint import footprint
from quicdist.etf.maps import FEW, KeyRefused, make_map
from quicdist.etf.settings import DEFAULT, Limits, Options
from quicdist.etf.terms import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    NativeRecord,
    Pid,
    Port,
    Reference,
    Term,
)

Buffer: TypeAlias = bytes | bytearray | memoryview

_VERSION = b"\x83"
_COMPRESSED = b"\x83P"

_u16 = struct.Struct(">H").unpack_from
_u32 = struct.Struct(">I").unpack_from
_i32 = struct.Struct(">i").unpack_from
_f64 = struct.Struct(">d").unpack_from
_u32u32u32 = struct.Struct(">III").unpack_from
_u32u32u8 = struct.Struct(">IIB").unpack_from
_u32u32 = struct.Struct(">II").unpack_from
_u32u8 = struct.Struct(">IB").unpack_from
_u64u32 = struct.Struct(">QI").unpack_from

_FLOAT_TEXT = re.compile(rb"[+-]?[0-9]+[.,][0-9]+(?:[eE][+-]?[0-9]+)?")
_MAX_REFERENCE_WORDS = 5
_words = [struct.Struct(f">{count}I").unpack_from for count in range(_MAX_REFERENCE_WORDS + 2)]

# The kind of the container under construction.
_TOP, _TUPLE, _LIST, _TAIL, _MAP, _HARD_MAP, _FUN, _RECORD = range(8)
_MAPS = (_MAP, _HARD_MAP)

# A cache of atoms by length byte and text. It is bounded, so that a peer can neither fill it nor
# keep long atoms alive.
_atoms: dict[bytes, Atom | bool] = {}
_ATOMS_KEPT = 4096
_ATOM_BYTES_KEPT = 64

# A bounded cache of pids by their NEW_PID_EXT.
_pids: dict[bytes, Pid] = {}
_PIDS_KEPT = 4096

_BOOLS: dict[str, bool] = {"true": True, "false": False}
_ATOMS_OF_BOOLS = {True: Atom("true"), False: Atom("false")}

_TRUNCATED = "truncated"


def decode(data: Buffer, options: Options = DEFAULT) -> Term:
    """Decodes `data`, which is one term with the version byte first.

    Raises EtfDecodeError if the data is invalid, exceeds the limits or has extra bytes.
    """
    term, end = decode_prefix(data, 0, options)
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if end != size:
        raise EtfDecodeError(end, f"{size - end} bytes after the term")
    return term


def decode_prefix(data: Buffer, offset: int = 0, options: Options = DEFAULT) -> tuple[Term, int]:
    """Decodes the term at `offset`, version byte first. Returns the term and the offset after it.

    Use bytes to decode several terms, because any other buffer is copied at each call. Raises
    EtfDecodeError if the data is invalid or exceeds the limits, ValueError for a negative offset.
    """
    if offset < 0:
        raise ValueError(f"offset must not be negative: {offset}")
    source = _contiguous(data)
    data = bytes(source)
    start = data[offset : offset + 2]
    if start[:1] != _VERSION:
        found = f"not {start[0]}" if start else "not the end"
        raise EtfDecodeError(offset, f"an external term must begin with 131, {found}")
    if start == _COMPRESSED:
        return _decode_compressed(data, offset + 1, options)
    return _decode(data, offset + 1, options, (), source)


def decode_bare(
    data: Buffer, offset: int = 0, options: Options = DEFAULT, atoms: Sequence[Atom] = ()
) -> tuple[Term, int]:
    """Decodes the term at `offset`, without a version byte. Returns it and the offset after it.

    ATOM_CACHE_REF i is `atoms[i]`. Raises EtfDecodeError if the data is invalid or exceeds the
    limits, ValueError for a negative offset.
    """
    if offset < 0:
        raise ValueError(f"offset must not be negative: {offset}")
    source = _contiguous(data)
    return _decode(bytes(source), offset, options, atoms, source)


def split_frames(data: bytes, at: int, limit: int) -> tuple[list[bytes], int]:
    """Returns the bodies of the whole frames with u32 lengths in `data` from `at` on.

    The second value is the offset of the first other frame: an incomplete one, or one of more than
    `limit` bytes.
    """
    bodies: list[bytes] = []
    end = len(data)
    while end - at >= 4:
        length = int.from_bytes(data[at : at + 4], "big")
        if length > limit or at + 4 + length > end:
            break
        bodies.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return bodies, at


def decode_run(
    queue: deque[Any],
    popleft: Callable[[], object],
    beginning: bytes,
    stream: int,
    longest: int,
    options: Options,
    atoms: tuple[Atom, ...] | None,
    most: int,
    room: int,
    overhead: int,
) -> tuple[list[tuple[Term, int]], int, int]:
    """Decodes the payloads of packets in a row that begin alike, and removes these packets.

    A packet of the run is a pair of a frame of at most `longest` bytes, which starts with
    `beginning`, and `stream`. The rest of the frame is one term, with a version byte if `atoms` is
    None. At most `most` payloads are decoded, and none after their sizes exceed `room`.

    Returns the payloads with their sizes, which are the footprint and `overhead`; the bytes of the
    frames; and the sum of the sizes. A packet that is invalid or not of the run stays in the queue.
    """
    entries: list[tuple[Term, int]] = []
    consumed = total = 0
    start = len(beginning)
    while queue and len(entries) < most and total <= room:
        packet = queue[0]
        if not isinstance(packet, tuple) or len(packet) != 2 or packet[1] != stream:
            break
        data = packet[0]
        if len(data) > longest or not data.startswith(beginning):
            break
        try:
            if atoms is None:
                payload, end = decode_prefix(data, start, options)
            else:
                payload, end = decode_bare(data, start, options, atoms)
        except EtfDecodeError:
            break
        if end != len(data):
            break
        size = footprint(payload) + overhead
        popleft()
        entries.append((payload, size))
        consumed += len(data)
        total += size
    return entries, consumed, total


def _decode_compressed(data: bytes, pos: int, options: Options) -> tuple[Term, int]:
    """Decodes the compressed term whose tag is at `pos`. Returns it and the offset after it."""
    plain, end = _inflate(data, pos, options)
    term, inner = _decode(plain, 0, options, (), plain)
    if inner != len(plain):
        raise EtfDecodeError(inner, f"{len(plain) - inner} bytes after the compressed term")
    return term, end


def _inflate(data: bytes, pos: int, options: Options) -> tuple[bytes, int]:
    """Decompresses the term at `pos`. Returns the data and the offset after the term."""
    if len(data) < pos + 5:
        raise EtfDecodeError(len(data), _TRUNCATED)
    declared: int = _u32(data, pos + 1)[0]
    if declared > options.limits.max_decompressed:
        raise EtfDecodeError(
            pos,
            f"a term of {declared} bytes when decompressed, "
            f"Limits.max_decompressed is {options.limits.max_decompressed}",
        )
    inflater = zlib.decompressobj()
    try:
        # One byte more than declared detects a longer stream without decompressing it.
        plain = inflater.decompress(memoryview(data)[pos + 5 :], declared + 1)
    except zlib.error as error:
        raise EtfDecodeError(pos, f"the compressed term is damaged: {error}") from None
    if len(plain) != declared or not inflater.eof:
        if len(plain) < declared:
            raise EtfDecodeError(len(data), _TRUNCATED)
        raise EtfDecodeError(
            pos, f"the compressed term is longer than the declared {declared} bytes"
        )
    return plain, len(data) - len(inflater.unused_data)


def _decode(
    data: bytes,
    pos: int,
    options: Options,
    atoms: Sequence[Atom],
    source: Buffer,
    depth: int = 0,
    terms: int = 0,
) -> tuple[Term, int]:
    """Decodes the term at `pos`. Returns it and the offset after it.

    Views are of `source`, whose bytes are `data`. `depth` and `terms` are the values of the
    enclosing term, which count toward the limits.
    """
    limits = options.limits
    end = len(data)
    plain = options.binaries == "bytes"
    text = options.binaries == "str"
    strings = options.strings
    atoms_get = _atoms.get
    pids_get = _pids.get

    # The container under construction: its terms so far, the number of terms left to read, and
    # the kind of container. `stack` has the enclosing containers.
    items: list[Term] = []
    append = items.append
    left = 1
    kind = _TOP
    stack: list[tuple[list[Term], int, int]] = []
    room = limits.max_depth - depth
    # A term takes at least one byte, so input with fewer bytes than the limits cannot exceed them.
    guarded = end - pos > room or end - pos > limits.max_terms - terms
    funs: list[_FunHead] = []
    records: list[_RecordHead] = []
    try:
        while True:
            while left:
                left -= 1
                tag = data[pos]
                if tag == 119:  # SMALL_ATOM_UTF8_EXT
                    start = pos + 1
                    pos += 2 + data[start]
                    atom = atoms_get(data[start:pos])
                    if atom is None:
                        atom = _new_atom(data, start, pos)
                    append(atom)
                elif tag == 97:  # SMALL_INTEGER_EXT
                    append(data[pos + 1])
                    pos += 2
                elif tag == 104 or tag == 105:  # SMALL_TUPLE_EXT, LARGE_TUPLE_EXT
                    if tag == 104:
                        count = data[pos + 1]
                        pos += 2
                    else:
                        count = _u32(data, pos + 1)[0]
                        pos += 5
                    if not count:
                        append(())
                        continue
                    stack.append((items, left, kind))
                    if guarded:
                        terms += count
                        _check_limits(limits, pos, len(stack) > room, terms)
                    items = []
                    append = items.append
                    left = count
                    kind = _TUPLE
                elif tag == 109:  # BINARY_EXT
                    start = pos + 5
                    pos = start + _u32(data, pos + 1)[0]
                    if pos > end:
                        raise EtfDecodeError(end, _TRUNCATED)
                    if plain:
                        append(data[start:pos])
                    elif text:
                        append(_text(data[start:pos]))
                    elif (
                        pos - start >= _VIEWED
                        and (pos - start) * _PINNED >= end
                        and not (left & 1 and kind in _MAPS)
                        and not _is_in_key(stack)
                    ):
                        append(_view(source, start, pos))
                    else:
                        append(data[start:pos])
                elif tag == 98:  # INTEGER_EXT
                    append(_i32(data, pos + 1)[0])
                    pos += 5
                elif tag == 106:  # NIL_EXT
                    append([])
                    pos += 1
                elif tag == 108:  # LIST_EXT
                    count = _u32(data, pos + 1)[0]
                    pos += 5
                    if not count:
                        left += 1  # without elements, the list is only its tail
                        continue
                    stack.append((items, left, kind))
                    if guarded:
                        terms += count
                        _check_limits(limits, pos, len(stack) > room, terms)
                    items = []
                    append = items.append
                    left = count
                    kind = _LIST
                    if count >= _RUN:
                        pos = _read_runs(data, pos, count, items)
                        left -= len(items)
                elif tag == 116:  # MAP_EXT
                    count = _u32(data, pos + 1)[0] * 2
                    pos += 5
                    if not count:
                        append({})
                        continue
                    stack.append((items, left, kind))
                    if guarded:
                        terms += count
                        _check_limits(limits, pos, len(stack) > room, terms)
                    items = []
                    append = items.append
                    left = count
                    kind = _MAP
                elif tag == 107:  # STRING_EXT
                    start = pos + 3
                    pos = start + _u16(data, pos + 1)[0]
                    if pos > end:
                        raise EtfDecodeError(end, _TRUNCATED)
                    if strings == "list":
                        append(list(data[start:pos]))
                    elif strings == "bytes":
                        append(data[start:pos])
                    else:
                        append(data[start:pos].decode("latin-1"))
                elif tag == 88:  # NEW_PID_EXT
                    start = pos
                    pid = None
                    if data[pos + 1] == 119:
                        pos += 15 + data[pos + 2]
                        pid = pids_get(data[start:pos])
                    if pid is None:
                        pid, pos = _pid(data, start, atoms)
                    append(pid)
                elif tag == 82:  # ATOM_CACHE_REF
                    index = data[pos + 1]
                    if index >= len(atoms):
                        raise EtfDecodeError(pos, f"no atom {index} in the atom cache header")
                    atom = atoms[index]
                    append(_BOOLS.get(atom, atom))
                    pos += 2
                elif tag == 70:  # NEW_FLOAT_EXT
                    number = _f64(data, pos + 1)[0]
                    if number - number != 0.0:
                        raise EtfDecodeError(pos, "a float that is not a finite number")
                    append(number)
                    pos += 9
                elif tag == 90:  # NEWER_REFERENCE_EXT
                    reference, pos = _reference(data, pos, atoms)
                    append(reference)
                elif tag == 112:  # NEW_FUN_EXT
                    if not plain or strings != "list":
                        start = pos
                        depth_here = depth + len(stack)
                        lossless = Options(limits=limits)
                        fun, pos = _decode(data, pos, lossless, atoms, data, depth_here, terms)
                        terms += pos - start  # an upper bound
                        if kind == _MAP and not len(items) & 1:
                            kind = _HARD_MAP  # a container as a key
                        append(fun)
                        continue
                    head, count, pos = _fun_head(data, pos, atoms)
                    stack.append((items, left, kind))
                    if guarded:
                        terms += count
                        _check_limits(limits, pos, len(stack) > room, terms)
                    funs.append(head)
                    items = []
                    append = items.append
                    left = count
                    kind = _FUN
                elif tag == 67:  # RECORD_EXT
                    count = 2 * _u32u8(data, pos + 1)[0]
                    if guarded:
                        _check_limits(limits, pos, False, terms + count)
                    record_head, pos = _record_head(data, pos, atoms)
                    if not count:
                        append(NativeRecord(*record_head[:3], (), record_head[3]))
                        continue
                    stack.append((items, left, kind))
                    if guarded:
                        terms += count
                        _check_limits(limits, pos, len(stack) > room, terms)
                    records.append(record_head)
                    items = []
                    append = items.append
                    left = count // 2
                    kind = _RECORD
                else:
                    term, pos = _rare(data, pos, tag, limits, atoms)
                    append(term)

            # The container has all its terms.
            value: Term
            if kind == _TUPLE:
                value = tuple(items)
            elif kind == _LIST:
                tag = data[pos]
                if tag == 106:  # NIL_EXT: the end of a proper list
                    pos += 1
                    value = items
                elif tag == 108:  # LIST_EXT: more elements of the same list
                    left = _u32(data, pos + 1)[0]
                    pos += 5
                    if guarded:
                        terms += left
                        _check_limits(limits, pos, False, terms)
                    continue
                elif tag == 107:  # STRING_EXT: the last elements of the same list
                    start = pos + 3
                    pos = start + _u16(data, pos + 1)[0]
                    if pos > end:
                        raise EtfDecodeError(end, _TRUNCATED)
                    items += data[start:pos]
                    value = items
                else:
                    kind = _TAIL
                    left = 1
                    continue
            elif kind == _MAP:
                value = None
                if len(items) <= FEW:
                    pairs = iter(items)
                    try:
                        value = dict(zip(pairs, pairs))  # noqa: B905 (an even count)
                    except TypeError:  # a key without a hash
                        value = None
                if value is None or len(value) * 2 != len(items):
                    value = make_map(items)
            elif kind == _HARD_MAP:
                value = make_map(items)
            elif kind == _TOP:
                return items[0], pos
            elif kind == _TAIL:
                tail = items.pop()
                value = ImproperList(items, tail)
            elif kind == _RECORD:
                module, name, names, flags = records.pop()
                value = NativeRecord(module, name, names, tuple(items), flags)
            else:
                head = funs.pop()
                value = _fun(head, items, data, pos, not funs and not atoms)
            items, left, kind = stack.pop()
            append = items.append
            if kind == _MAP and not len(items) & 1:
                kind = _HARD_MAP  # a container as a key
            append(value)
    except (IndexError, struct.error):
        raise EtfDecodeError(end, _TRUNCATED) from None
    except KeyRefused as error:
        raise EtfDecodeError(pos, str(error)) from None


def _check_limits(limits: Limits, pos: int, too_deep: bool, terms: int) -> None:
    """Raises EtfDecodeError if a container is nested too deeply or has too many terms."""
    if too_deep:
        raise EtfDecodeError(pos, f"nested deeper than {limits.max_depth}, Limits.max_depth")
    if terms > limits.max_terms:
        raise EtfDecodeError(pos, f"more than {limits.max_terms} terms, Limits.max_terms")


def _read_runs(data: bytes, pos: int, count: int, items: list[Term]) -> int:
    """Reads up to `count` numbers in runs of one tag. Returns the offset after the last one.

    It stops at the second consecutive short run. It examines at most one block ahead of the
    numbers read, so that the cost is proportional to the bytes consumed.
    """
    left = count
    short = False
    while left >= _RUN:
        run = _RUNS.get(data[pos : pos + 1])
        if run is None:
            break
        tag, width, code = run
        block = min(left, _BLOCK)
        tags = data[pos : pos + block * width : width]
        length = len(tags) - len(tags.lstrip(tag))
        if pos + length * width > len(data):
            length -= 1  # the last one is truncated
        if not length or (length < _RUN and short):
            break
        short = length < _RUN
        if code:
            numbers = _run_of(code, length)(data, pos)
            if code == "xd" and not _finite(numbers):
                break  # read one by one to report the offset
            items += numbers
        else:
            items += data[pos + 1 : pos + 2 * length : 2]
        pos += length * width
        left -= length
    return pos


_RUN = 8  # shorter runs are read one by one
_BLOCK = 64
_RUNS = {b"a": (b"a", 2, ""), b"b": (b"b", 5, "xi"), b"F": (b"F", 9, "xd")}


@cache
def _run_of(code: str, length: int) -> Callable[[bytes, int], tuple[Term, ...]]:
    return struct.Struct(">" + code * length).unpack_from


def _finite(numbers: tuple[float, ...]) -> bool:
    total = sum(numbers)
    return total - total == 0.0 or all(number - number == 0.0 for number in numbers)


def _is_in_key(stack: Sequence[tuple[list[Term], int, int]]) -> bool:
    """Whether one of the containers is a map key, or inside one.

    A key has no views, because a view of a bytearray has no hash. At most `_PINNED` binaries of
    a term are large enough for a view, so that the searches take a bounded time.
    """
    return any(left & 1 and kind in _MAPS for _, left, kind in stack)


_VIEWED = 65536
"""Minimum size in bytes of a binary that decodes to a view. The copy of a smaller one is cheap."""

_PINNED = 8
"""Maximum size of the data that a view keeps alive, in multiples of the size of the view."""


def _view(source: Buffer, start: int, stop: int) -> memoryview:
    """Returns the read-only view of a range of bytes. The memory of `source` is contiguous."""
    return memoryview(source).cast("B")[start:stop].toreadonly()


def _contiguous(data: Buffer) -> Buffer:
    """Returns `data`, or a copy if its memory is not contiguous."""
    if isinstance(data, memoryview) and not data.c_contiguous:
        return bytes(data)
    return data


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _new_atom(data: bytes, start: int, stop: int) -> Atom | bool:
    """Returns the atom whose UTF-8 text ends at `stop` and has its length byte at `start`."""
    if stop > len(data):
        raise EtfDecodeError(len(data), _TRUNCATED)
    atom = _make_atom(data[start + 1 : stop], "utf-8", start - 1)
    term = _BOOLS.get(atom, atom)
    if stop - start <= _ATOM_BYTES_KEPT:
        if len(_atoms) >= _ATOMS_KEPT:
            _atoms.clear()
        _atoms[data[start:stop]] = term
    return term


def _make_atom(text: bytes, coding: str, pos: int) -> Atom:
    try:
        return Atom(text.decode(coding))
    except UnicodeDecodeError:
        raise EtfDecodeError(pos, "an atom that is not UTF-8") from None
    except ValueError as error:
        raise EtfDecodeError(pos, str(error)) from None


def _atom(data: bytes, pos: int, atoms: Sequence[Atom], what: str) -> tuple[Atom, int]:
    """Reads the atom (also `true` or `false`) that the format requires at `pos`."""
    tag = data[pos]
    if tag == 82:  # ATOM_CACHE_REF
        index = data[pos + 1]
        if index >= len(atoms):
            raise EtfDecodeError(pos, f"no atom {index} in the atom cache header")
        return atoms[index], pos + 2
    if tag == 119:  # SMALL_ATOM_UTF8_EXT
        stop = pos + 2 + data[pos + 1]
        known = _atoms.get(data[pos + 1 : stop])
        if known is None:
            known = _new_atom(data, pos + 1, stop)
        return (known if type(known) is Atom else _ATOMS_OF_BOOLS[known]), stop
    if tag == 115:  # SMALL_ATOM_EXT
        start = pos + 2
        stop = start + data[pos + 1]
    elif tag == 118 or tag == 100:  # ATOM_UTF8_EXT, ATOM_EXT
        start = pos + 3
        stop = start + int(_u16(data, pos + 1)[0])
    else:
        raise EtfDecodeError(pos, f"{what} must be an atom, not {_name(tag)}")
    if stop > len(data):
        raise EtfDecodeError(len(data), _TRUNCATED)
    coding = "utf-8" if tag >= 118 else "latin-1"
    return _make_atom(data[start:stop], coding, pos), stop


def _pid(data: bytes, pos: int, atoms: Sequence[Atom]) -> tuple[Pid, int]:
    """Reads the NEW_PID_EXT or PID_EXT at `pos`. Returns it and the offset after it."""
    node, end = _atom(data, pos + 1, atoms, "the node of a pid")
    if data[pos] == 103:
        number, serial, creation = _u32u32u8(data, end)
        return Pid(node, number, serial, _old_creation(creation, end)), end + 9
    pid = Pid(node, *_u32u32u32(data, end))
    end += 12
    if data[pos + 1] == 119 and end - pos <= _ATOM_BYTES_KEPT:
        if len(_pids) >= _PIDS_KEPT:
            _pids.clear()
        _pids[data[pos:end]] = pid
    return pid, end


def _old_creation(creation: int, pos: int) -> int:
    """Checks a creation of an old tag, which has two bits."""
    if creation > 3:
        raise EtfDecodeError(pos, f"the creation of an old tag must be 0..3, not {creation}")
    return creation


def _reference(data: bytes, pos: int, atoms: Sequence[Atom]) -> tuple[Reference, int]:
    """Reads the NEWER_REFERENCE_EXT or NEW_REFERENCE_EXT at `pos`. Returns it and its end."""
    count = _u16(data, pos + 1)[0]
    if count > _MAX_REFERENCE_WORDS:
        raise EtfDecodeError(
            pos, f"a reference of {count} words, at most {_MAX_REFERENCE_WORDS} are allowed"
        )
    node, end = _atom(data, pos + 3, atoms, "the node of a reference")
    if data[pos] == 90:
        words = _words[count + 1](data, end)
        return Reference(node, words[1:], words[0]), end + 4 * count + 4
    creation = _old_creation(data[end], end)
    words = _words[count](data, end + 1)
    _check_old_reference(words, end + 1)
    return Reference(node, words, creation), end + 1 + 4 * count


def _check_old_reference(words: tuple[int, ...], pos: int) -> None:
    if words and words[0] >= 1 << 18:
        raise EtfDecodeError(pos, "the first word of an old reference has more than 18 bits")


_FunHead: TypeAlias = "tuple[int, int, int, bytes, int, Atom, int, int, Pid]"


def _fun_head(data: bytes, pos: int, atoms: Sequence[Atom]) -> tuple[_FunHead, int, int]:
    """Reads the NEW_FUN_EXT at `pos` up to its free variables.

    Returns the fields (the first two are the start and the declared end of the fun), the number of
    free variables, and the offset of the first one.
    """
    size, arity, uniq, index, count = _fun_fixed(data, pos + 1)
    module, at = _atom(data, pos + 30, atoms, "the module of a fun")
    old_index, at = _small(data, at, "the old index of a fun")
    old_uniq, at = _small(data, at, "the old uniq of a fun")
    if data[at] != 88 and data[at] != 103:
        raise EtfDecodeError(at, f"the creator of a fun must be a pid, not {_name(data[at])}")
    pid, at = _pid(data, at, atoms)
    return (pos, pos + 1 + size, arity, uniq, index, module, old_index, old_uniq, pid), count, at


_fun_fixed = struct.Struct(">IB16sII").unpack_from


_RecordHead: TypeAlias = "tuple[Atom, Atom, tuple[Atom, ...], int]"


def _record_head(data: bytes, pos: int, atoms: Sequence[Atom]) -> tuple[_RecordHead, int]:
    """Reads the RECORD_EXT at `pos` up to its values. Returns the head and the offset after it."""
    count, flags = _u32u8(data, pos + 1)
    module, at = _atom(data, pos + 6, atoms, "the module of a native record")
    name, at = _atom(data, at, atoms, "the name of a native record")
    names = []
    for _ in range(count):
        field, at = _atom(data, at, atoms, "the name of a field")
        names.append(field)
    return (module, name, tuple(names), flags), at


def _small(data: bytes, pos: int, what: str) -> tuple[int, int]:
    """Reads the integer of at most 32 bits that the format requires at `pos`."""
    tag = data[pos]
    if tag == 97:
        return data[pos + 1], pos + 2
    if tag == 98:
        return _i32(data, pos + 1)[0], pos + 5
    if tag == 110 and data[pos + 1] <= 4:
        return _big(data, pos + 3, data[pos + 1], data[pos + 2])
    raise EtfDecodeError(pos, f"{what} must be a small integer, not {_name(tag)}")


def _big(data: bytes, pos: int, size: int, sign: int) -> tuple[int, int]:
    digits = data[pos : pos + size]
    if len(digits) != size:
        raise EtfDecodeError(len(data), _TRUNCATED)
    number = int.from_bytes(digits, "little")
    return -number if sign else number, pos + size


def _fun(head: _FunHead, free: list[Term], data: bytes, end: int, whole: bool) -> Fun:
    """Creates the fun that ends at `end`. With `whole`, the fun keeps its encoded bytes."""
    start, promised, arity, uniq, index, module, old_index, old_uniq, pid = head
    if promised != end:
        raise EtfDecodeError(end, f"a fun of {end - start - 1} bytes, not {promised - start - 1}")
    encoded = data[start:end] if whole else None
    return Fun(module, arity, uniq, index, old_index, old_uniq, pid, tuple(free), encoded)


def _rare(
    data: bytes, pos: int, tag: int, limits: Limits, atoms: Sequence[Atom]
) -> tuple[Term, int]:
    """Reads a term with a rare tag at `pos`. Returns it and the offset after it."""
    if tag == 110 or tag == 111:  # SMALL_BIG_EXT, LARGE_BIG_EXT
        size = data[pos + 1] if tag == 110 else _u32(data, pos + 1)[0]
        start = pos + (2 if tag == 110 else 5)
        if size > limits.max_integer:
            raise EtfDecodeError(
                pos, f"an integer of {size} bytes, Limits.max_integer is {limits.max_integer}"
            )
        return _big(data, start + 1, size, data[start])
    if tag == 118 or tag == 100 or tag == 115:  # ATOM_UTF8_EXT, ATOM_EXT, SMALL_ATOM_EXT
        atom, end = _atom(data, pos, atoms, "")
        return _BOOLS.get(atom, atom), end
    if tag == 77:  # BIT_BINARY_EXT
        return _bit_string(data, pos)
    if tag == 103:  # PID_EXT
        return _pid(data, pos, atoms)
    if tag == 114:  # NEW_REFERENCE_EXT
        return _reference(data, pos, atoms)
    if tag == 101:  # REFERENCE_EXT
        node, at = _atom(data, pos + 1, atoms, "the node of a reference")
        word, creation = _u32u8(data, at)
        _check_old_reference((word,), at)
        return Reference(node, (word,), _old_creation(creation, at + 4)), at + 5
    if tag == 89:  # NEW_PORT_EXT
        node, at = _atom(data, pos + 1, atoms, "the node of a port")
        return Port(node, *_u32u32(data, at)), at + 8
    if tag == 120:  # V4_PORT_EXT
        node, at = _atom(data, pos + 1, atoms, "the node of a port")
        return Port(node, *_u64u32(data, at)), at + 12
    if tag == 102:  # PORT_EXT
        node, at = _atom(data, pos + 1, atoms, "the node of a port")
        number, creation = _u32u8(data, at)
        return Port(node, number, _old_creation(creation, at + 4)), at + 5
    if tag == 113:  # EXPORT_EXT
        module, at = _atom(data, pos + 1, atoms, "the module of an external fun")
        function, at = _atom(data, at, atoms, "the function of an external fun")
        arity, end = _small(data, at, "the arity of an external fun")
        if not 0 <= arity <= 255:
            raise EtfDecodeError(at, f"the arity of an external fun must be 0..255, not {arity}")
        return Export(module, function, arity), end
    if tag == 99:  # FLOAT_EXT
        return _float_text(data, pos), pos + 32
    raise EtfDecodeError(pos, _REFUSED.get(tag) or f"unknown tag {tag}")


def _bit_string(data: bytes, pos: int) -> tuple[BitString | bytes, int]:
    """Reads the BIT_BINARY_EXT at `pos`. Returns it and the offset after it."""
    size = _u32(data, pos + 1)[0]
    bits = data[pos + 5]
    end = pos + 6 + size
    if bits > 8 or (size > 0) != (bits > 0):
        raise EtfDecodeError(pos, f"a bitstring of {size} bytes with {bits} bits in the last")
    if end > len(data):
        raise EtfDecodeError(len(data), _TRUNCATED)
    content = data[pos + 6 : end]
    return (BitString(content, bits) if 0 < bits < 8 else content), end


def _float_text(data: bytes, pos: int) -> float:
    """Reads the FLOAT_EXT at `pos`: 31 bytes, the output of `printf("%.20e")` and zero bytes."""
    text = data[pos + 1 : pos + 32]
    if len(text) != 31:
        raise EtfDecodeError(len(data), _TRUNCATED)
    text = text.partition(b"\0")[0]
    if _FLOAT_TEXT.fullmatch(text):
        number = float(text.replace(b",", b"."))
        if number - number == 0.0:
            return number
    raise EtfDecodeError(pos, f"invalid float text {text[:31].decode('latin-1')!r}")


_REFUSED = {
    80: "a compressed term inside another term",
    117: "FUN_EXT, which OTP 23 and later do not decode",
    121: "LOCAL_EXT, which only the node that encoded it can decode",
    131: "the version byte inside a term",
}

_NAMES = {
    67: "RECORD_EXT",
    70: "NEW_FLOAT_EXT",
    77: "BIT_BINARY_EXT",
    80: "a compressed term",
    82: "ATOM_CACHE_REF",
    88: "NEW_PID_EXT",
    89: "NEW_PORT_EXT",
    90: "NEWER_REFERENCE_EXT",
    97: "SMALL_INTEGER_EXT",
    98: "INTEGER_EXT",
    99: "FLOAT_EXT",
    100: "ATOM_EXT",
    101: "REFERENCE_EXT",
    102: "PORT_EXT",
    103: "PID_EXT",
    104: "SMALL_TUPLE_EXT",
    105: "LARGE_TUPLE_EXT",
    106: "NIL_EXT",
    107: "STRING_EXT",
    108: "LIST_EXT",
    109: "BINARY_EXT",
    110: "SMALL_BIG_EXT",
    111: "LARGE_BIG_EXT",
    112: "NEW_FUN_EXT",
    113: "EXPORT_EXT",
    114: "NEW_REFERENCE_EXT",
    115: "SMALL_ATOM_EXT",
    116: "MAP_EXT",
    117: "FUN_EXT",
    118: "ATOM_UTF8_EXT",
    119: "SMALL_ATOM_UTF8_EXT",
    120: "V4_PORT_EXT",
    121: "LOCAL_EXT",
}


def _name(tag: int) -> str:
    return _NAMES.get(tag, f"tag {tag}")
