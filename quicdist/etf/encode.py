"""Encoding of terms with the same tags as `term_to_binary` of OTP 26 and later (UTF-8 atoms).

The encoder uses one loop with an explicit stack instead of recursion.

Source: ERTS manual, External Term Format.
"""

from __future__ import annotations

import operator
import struct
import zlib
from collections.abc import Iterator, Mapping
from itertools import accumulate, chain, pairwise
from typing import Final

from quicdist.etf.decode import decode_bare
from quicdist.etf.errors import EtfDecodeError, EtfEncodeError
from quicdist.etf.maps import ErlMap, KeyRefused, canonical, check_depth
from quicdist.etf.scalars import scalar
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

_TRUE: Final = Atom("true")
_FALSE: Final = Atom("false")
_NONE: Final = {"undefined": Atom("undefined"), "nil": Atom("nil")}

_SMALL: Final = tuple(bytes((97, n)) for n in range(256))  # SMALL_INTEGER_EXT
_TUPLE: Final = tuple(bytes((104, n)) for n in range(256))  # SMALL_TUPLE_EXT
_BINARY: Final = tuple(bytes((109, 0, 0, 0, n)) for n in range(256))  # BINARY_EXT
_LIST: Final = tuple(bytes((108, 0, 0, 0, n)) for n in range(256))  # LIST_EXT
_MAP: Final = tuple(bytes((116, 0, 0, 0, n)) for n in range(256))  # MAP_EXT
_CACHED: Final = tuple(bytes((82, n)) for n in range(256))  # ATOM_CACHE_REF
_NIL: Final = b"j"  # NIL_EXT
_MAX_CACHED = 255
_MAX_STRING = 65535
_LARGE: Final = 65536
_BULK = 8  # a list of fewer numbers is written one by one
_FIRST_DEPTH_CHECK = 16

_tag_u8 = struct.Struct(">BB").pack
_tag_u16 = struct.Struct(">BH").pack
_tag_u32 = struct.Struct(">BI").pack
_tag_i32 = struct.Struct(">Bi").pack
_tag_f64 = struct.Struct(">Bd").pack
_u32 = struct.Struct(">I").pack
_u32u32u32 = struct.Struct(">III").pack
_unpack_u32 = struct.Struct(">I").unpack_from
_words = [struct.Struct(f">{count + 1}I").pack for count in range(6)]
_u64u32 = struct.Struct(">QI").pack

# Keys of these types that are different in Python are also different terms.
_NO_NUMBERS = frozenset(
    (Atom, bytes, str, bool, tuple, list, dict, Pid, Port, Reference, type(None))
)
"""Common types without `__index__`, or that are not encoded as the integer it returns."""
_PLAIN_KEYS = frozenset((Atom, int, float, bytes, Pid, Port, Reference))
_PLAIN_TEXT_KEYS = frozenset((Atom, int, float, str, Pid, Port, Reference))


class _Refused(Exception):
    """The object has no Erlang form, or the term exceeds the limits."""


def encode(term: object, options: Options = DEFAULT) -> bytes:
    """Encodes `term` with the version byte first.

    Raises EtfEncodeError if the term has no Erlang form or exceeds the limits of the options, which
    are the same as for decoding.
    """
    bare = _encode(term, options, None)
    if options.compression and len(bare) <= options.limits.max_decompressed:
        # OTP compresses a term only if the result is shorter.
        packed = zlib.compress(bare, options.compression)
        if len(packed) + 5 < len(bare) and len(bare) < 1 << 32:
            return b"\x83P" + _u32(len(bare)) + packed
    return b"\x83" + bare


def encode_bare(
    term: object, options: Options = DEFAULT, refs: dict[Atom, int] | None = None
) -> bytes:
    """Encodes `term` without the version byte.

    With `refs`, an atom is written as ATOM_CACHE_REF `refs[atom]`. An unknown atom is added with
    the next number. After 255 atoms, unknown atoms are written in full. After an error, `refs` may
    contain unused atoms. Raises EtfEncodeError like `encode`.
    """
    return _encode(term, options, refs)


def encode_parts(
    term: object, options: Options = DEFAULT, large: int = _LARGE
) -> list[bytes | memoryview]:
    """Encodes `term` like `encode`, but returns the result as parts to be joined.

    A `bytes` object or read-only memoryview of at least `large` bytes in `term` is a separate part
    and is not copied. Writable buffers such as bytearray are copied. A compressed term is one part.
    Raises EtfEncodeError like `encode`.
    """
    least = operator.index(large)
    if options.compression:
        return [encode(term, options)]
    first, *others = _encode_parts(term, options, None, least)
    return [b"".join((b"\x83", first)), *others]


def encode_bare_parts(
    term: object,
    options: Options = DEFAULT,
    refs: dict[Atom, int] | None = None,
    large: int = _LARGE,
) -> list[bytes | memoryview]:
    """Encodes `term` like `encode_bare`, but returns the result as parts like `encode_parts`."""
    return _encode_parts(term, options, refs, operator.index(large))


def encode_frame(
    term: object,
    options: Options,
    refs: dict[Atom, int] | None,
    atoms: tuple[Atom, ...],
    prefixes: dict[tuple[Atom, ...], bytes],
    most: int,
) -> bytes | list[bytes | memoryview]:
    """Encodes a payload as a whole frame: its length as u32, a prefix, and the payload.

    `atoms` are the keys of `refs`, and the prefix is that of the keys after the payload was
    encoded. If `prefixes` contains it, and prefix and payload have at most `most` bytes, `refs` is
    restored and the frame returned. Otherwise returns the payload like `encode_bare_parts`. Raises
    EtfEncodeError like `encode_bare`.
    """
    parts = encode_bare_parts(term, options, refs)
    is_same = refs is None or len(refs) == len(atoms)
    prefix = prefixes.get(atoms if is_same or refs is None else tuple(refs))
    payload = parts[0]
    if prefix is None or len(parts) > 1 or type(payload) is not bytes:
        return parts
    size = len(prefix) + len(payload)
    if size > most:
        return parts
    while refs is not None and len(refs) > len(atoms):
        refs.popitem()
    return b"".join((_u32(size), prefix, payload))


def _encode(term: object, options: Options, refs: dict[Atom, int] | None) -> bytes:
    bare = b"".join(_write(term, options, refs, None)[0])
    if len(bare) > options.limits.max_bytes:
        raise _too_large(options.limits)
    return bare


def _encode_parts(
    term: object, options: Options, refs: dict[Atom, int] | None, large: int
) -> list[bytes | memoryview]:
    written, apart = _write(term, options, refs, large)
    if sum(map(len, written)) > options.limits.max_bytes:
        raise _too_large(options.limits)
    parts: list[bytes | memoryview] = []
    begin = 0
    for place in apart:
        # The tag and length of a binary precede it.
        parts += (b"".join(written[begin:place]), written[place])
        begin = place + 1
    if begin < len(written):
        parts.append(b"".join(written[begin:]))
    return parts


def _write(
    term: object, options: Options, refs: dict[Atom, int] | None, large: int | None
) -> tuple[list[bytes | memoryview], list[int]]:
    """Encodes `term`. Returns the parts, and the indexes of those with at least `large` bytes."""
    parts: list[bytes | memoryview] = []
    apart: list[int] = []
    append = parts.append
    none = _NONE[options.none]
    limits = options.limits
    max_terms, max_bytes = limits.max_terms, limits.max_bytes
    terms = 0  # elements of all containers so far
    size = 0  # bytes of the long parts; each other part has at least one byte
    unread = False  # whether the term contains funs that were copied without decoding
    # For each fun, the index of its size in `parts` and the index of its end. Written last.
    sizes: list[tuple[int, int]] = []

    # The container being written, its remaining terms, and the bytes that end it. `stack` has the
    # enclosing containers.
    container: object = None
    items: Iterator[Term] = iter((term,))
    close: bytes | int = b""
    stack: list[tuple[object, Iterator[Term], bytes | int]] = []
    next_check = limits.max_depth + 1
    if next_check > _FIRST_DEPTH_CHECK:
        next_check = _FIRST_DEPTH_CHECK
    value: Term = None
    try:
        while True:
            for value in items:
                kind = type(value)
                if kind is Atom:
                    append(value.encoded if refs is None else _cached(value, refs))
                elif kind is int:
                    if 0 <= value <= 255:
                        append(_SMALL[value])
                    elif -0x80000000 <= value <= 0x7FFFFFFF:
                        append(_tag_i32(98, value))  # INTEGER_EXT
                    else:
                        big = _big(value)
                        append(big)
                        if len(big) > limits.max_integer:
                            _check_leaf(big, len(stack), limits)
                elif kind is tuple:
                    count = len(value)
                    append(_TUPLE[count] if count < 256 else _tag_u32(105, count))
                    if count:
                        stack.append((container, items, close))
                        terms += count
                        if terms > max_terms or size + len(parts) > max_bytes:
                            raise _too_much(terms, limits)
                        if len(stack) >= next_check:
                            next_check = _check_nesting(stack, value, limits)
                        container, items, close = value, iter(value), b""
                        break
                elif kind is bytes:
                    count = len(value)
                    if count > 255:
                        size += count
                        if size > max_bytes:
                            raise _too_large(limits)
                    append(_BINARY[count] if count < 256 else _tag_u32(109, count))
                    if large is not None and count >= large:
                        apart.append(len(parts))
                    append(value)
                elif kind is str:
                    if size + len(value) > max_bytes:
                        raise _too_large(limits)
                    text = value.encode()
                    count = len(text)
                    if count > 255:
                        size += count
                    append(_BINARY[count] if count < 256 else _tag_u32(109, count))
                    append(text)
                elif kind is list:
                    if not value:
                        append(_NIL)
                        continue
                    kind = type(value[0])
                    if len(value) > _MAX_STRING and terms + len(value) > max_terms:
                        raise _too_much(terms + len(value), limits)
                    if kind is float or (kind not in _NO_NUMBERS and hasattr(kind, "__index__")):
                        numbers = _numbers(value)
                        if numbers is not None:
                            append(numbers)
                            size += len(numbers)
                            if numbers[0] != 107:  # STRING_EXT, which is a leaf
                                terms += _check_leaf(numbers, len(stack), limits)
                            if terms > max_terms or size > max_bytes:
                                raise _too_much(terms, limits)
                            continue
                    count = len(value)
                    append(_LIST[count] if count < 256 else _tag_u32(108, count))
                    stack.append((container, items, close))
                    terms += count
                    if terms > max_terms or size + len(parts) > max_bytes:
                        raise _too_much(terms, limits)
                    if len(stack) >= next_check:
                        next_check = _check_nesting(stack, value, limits)
                    container, items, close = value, iter(value), _NIL
                    break
                elif kind is dict:
                    count = len(value)
                    append(_MAP[count] if count < 256 else _tag_u32(116, count))
                    if count:
                        keys = set(map(type, value))
                        if not (keys <= _PLAIN_KEYS or keys <= _PLAIN_TEXT_KEYS):
                            _check_keys(value, none)
                        stack.append((container, items, close))
                        terms += 2 * count
                        if terms > max_terms or size + len(parts) > max_bytes:
                            raise _too_much(terms, limits)
                        if len(stack) >= next_check:
                            next_check = _check_nesting(stack, value, limits)
                        container, items, close = value, chain.from_iterable(value.items()), b""
                        break
                elif kind is Pid:
                    node = value.node
                    if refs is None and type(node) is Atom:
                        append(b"X" + node.encoded)  # NEW_PID_EXT
                    else:
                        append(b"X" + _node(node, refs))
                    append(_u32u32u32(value.id, value.serial, value.creation))
                elif kind is bool:
                    atom = _TRUE if value else _FALSE
                    append(atom.encoded if refs is None else _cached(atom, refs))
                elif kind is float:
                    if value - value != 0.0:
                        raise _Refused(f"{value!r} has no Erlang form")
                    append(_tag_f64(70, value))  # NEW_FLOAT_EXT
                elif value is None:
                    append(none.encoded if refs is None else _cached(none, refs))
                elif kind is ImproperList:
                    append(_tag_u32(108, len(value.items)))
                    stack.append((container, items, close))
                    terms += len(value.items)
                    if terms > max_terms or size + len(parts) > max_bytes:
                        raise _too_much(terms, limits)
                    if len(stack) >= next_check:
                        next_check = _check_nesting(stack, value, limits)
                    container, items, close = value, chain(value.items, (value.tail,)), b""
                    break
                elif kind is Fun:
                    if refs is None and value.encoded is not None:
                        append(value.encoded)
                        size += len(value.encoded)
                        unread = True
                        continue
                    append(b"p")  # NEW_FUN_EXT
                    stack.append((container, items, close))
                    terms += len(value.free)
                    if terms > max_terms or size + len(parts) > max_bytes:
                        raise _too_much(terms, limits)
                    if len(stack) >= next_check:
                        next_check = _check_nesting(stack, value, limits)
                    container, items, close = value, iter(value.free), len(parts)
                    append(b"size")
                    append(_fun_head(value, refs))
                    break
                elif kind is NativeRecord:
                    append(_record_head(value, refs, options))
                    count = len(value.values)
                    if count:
                        stack.append((container, items, close))
                        terms += 2 * count
                        if terms > max_terms or size + len(parts) > max_bytes:
                            raise _too_much(terms, limits)
                        if len(stack) >= next_check:
                            next_check = _check_nesting(stack, value, limits)
                        container, items, close = value, iter(value.values), b""
                        break
                elif kind is memoryview and large is not None and _is_apart(value, large):
                    size += value.nbytes
                    if size > max_bytes:
                        raise _too_large(limits)
                    append(_tag_u32(109, value.nbytes))
                    apart.append(len(parts))
                    append(value.cast("B"))
                else:
                    leaf = _leaf(value, refs)
                    if leaf is not None:
                        append(leaf)
                        size += len(leaf)
                        terms += _check_leaf(leaf, len(stack), limits)
                        if terms > max_terms or size > max_bytes:
                            raise _too_much(terms, limits)
                        continue
                    opening, inner, closing, count = _open(value, none)
                    append(opening)
                    stack.append((container, items, close))
                    terms += count
                    if terms > max_terms or size + len(parts) > max_bytes:
                        raise _too_much(terms, limits)
                    if len(stack) >= next_check:
                        next_check = _check_nesting(stack, value, limits)
                    container, items, close = value, inner, closing
                    break
            else:
                if close:
                    if isinstance(close, int):
                        sizes.append((close, len(parts)))
                    else:
                        append(close)
                if not stack:
                    break
                container, items, close = stack.pop()
    except _Refused as error:
        raise EtfEncodeError(_path(stack, container, value), str(error)) from None
    except struct.error as error:
        reason = f"a number in {type(value).__name__} is out of range: {error}"
        raise EtfEncodeError(_path(stack, container, value), reason) from None
    except UnicodeEncodeError:
        reason = "a str with a lone surrogate cannot be encoded as UTF-8"
        raise EtfEncodeError(_path(stack, container, value), reason) from None
    if sizes:
        _write_sizes(parts, sizes)
    if unread and sum(map(len, parts)) > min(limits.max_depth, limits.max_terms):
        _check_readable(b"".join(parts), limits)
    return parts, apart


def _too_much(terms: int, limits: Limits) -> EtfEncodeError:
    """Returns the error for a term with too many elements or too many bytes."""
    if terms <= limits.max_terms:
        return _too_large(limits)
    reason = f"more than {limits.max_terms} terms, Limits.max_terms"
    return EtfEncodeError("", reason, "max_terms")


def _too_large(limits: Limits) -> EtfEncodeError:
    reason = f"more than {limits.max_bytes} bytes, Limits.max_bytes"
    return EtfEncodeError("", reason, "max_bytes")


def _cached(atom: Atom, refs: dict[Atom, int]) -> bytes:
    """Returns the reference to an atom, adding the atom if there is room, else the encoded atom."""
    index = refs.get(atom)
    if index is None:
        index = len(refs)
        if index >= _MAX_CACHED:
            return atom.encoded
        refs[atom] = index
    return _CACHED[index]


def _big(value: int) -> bytes:
    """SMALL_BIG_EXT or LARGE_BIG_EXT."""
    size = (value.bit_length() + 7) // 8
    sign = 1 if value < 0 else 0
    head = bytes((110, size, sign)) if size < 256 else _tag_u32(111, size) + bytes((sign,))
    return head + abs(value).to_bytes(size, "little")


def _numbers(value: list[Term]) -> bytes | None:
    """Encodes a list of numbers of one type. Returns None for any other list and a short one."""
    first = value[0]
    kind = type(first)
    if kind is not float and (kind is not int or 0 <= first <= 255):
        try:
            octets = bytes(value)
        except (TypeError, ValueError, OverflowError):
            pass
        else:
            return _octets(value, octets)
    count = len(value)
    if count < _BULK or kind not in (int, float) or len(set(map(type, value))) > 1:
        return None
    if type(first) is float:
        total = sum(value)
        if total - total != 0.0:
            return None  # a NaN or infinity: encoded one by one to report its path
        return _interleave(70, 8, struct.pack(f">{count}d", *value))
    if min(value) < -0x80000000 or max(value) > 0x7FFFFFFF:
        return None
    if min(value) > 255 or max(value) < 0:
        return _interleave(98, 4, struct.pack(f">{count}i", *value))
    parts = [_SMALL[n] if 0 <= n <= 255 else _tag_i32(98, n) for n in value]
    return _tag_u32(108, count) + b"".join(parts) + _NIL


def _octets(value: list[Term], octets: bytes) -> bytes | None:
    """Encodes integers 0..255 as STRING_EXT, or as LIST_EXT if there are too many of them.

    Returns None if the items are not integers.
    """
    # bytes() also accepts objects that are not encoded as integers.
    if set(map(type, value)) != {int} and not all(map(_is_integer, value)):
        return None
    if len(octets) <= _MAX_STRING:
        return _tag_u16(107, len(octets)) + octets
    return _interleave(97, 1, octets)


def _is_integer(value: object) -> bool:
    """Whether the object is encoded as an integer."""
    return type(value) is int or (type(value) is not bool and type(scalar(value)) is int)


def _interleave(tag: int, width: int, numbers: bytes) -> bytes:
    """Returns the LIST_EXT of numbers that have `width` bytes each and the same tag."""
    count = len(numbers) // width
    step = width + 1
    body = bytearray(count * step)
    body[::step] = bytes((tag,)) * count
    for place in range(width):
        body[place + 1 :: step] = numbers[place::width]
    return _tag_u32(108, count) + body + _NIL


def _node(node: object, refs: dict[Atom, int] | None) -> bytes:
    if type(node) is not Atom:
        raise _Refused(f"expected an Atom, not {type(node).__qualname__}")
    return node.encoded if refs is None else _cached(node, refs)


def _leaf(value: object, refs: dict[Atom, int] | None) -> bytes | None:
    """Encodes a term that contains no terms and has a less common type. Returns None otherwise."""
    if isinstance(value, Reference):
        count = len(value.ids)
        if count > 5:
            raise _Refused("a reference has at most 5 words")
        node = _node(value.node, refs)
        return _tag_u16(90, count) + node + _words[count](value.creation, *value.ids)
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        return _tag_u32(109, len(data)) + data
    if isinstance(value, BitString):
        return _tag_u32(77, len(value.data)) + bytes((value.bits,)) + value.data
    if isinstance(value, Port):
        return b"x" + _node(value.node, refs) + _u64u32(value.id, value.creation)  # V4_PORT_EXT
    if isinstance(value, Export):
        names = _node(value.module, refs) + _node(value.function, refs)
        return b"q" + names + _tag_u8(97, value.arity)  # EXPORT_EXT
    # Subclasses of built-in types are encoded as those types.
    if isinstance(value, str):
        text = str.encode(value)
        return _tag_u32(109, len(text)) + text
    if isinstance(value, int):
        return _integer(int.__int__(value))
    if isinstance(value, float):
        if value - value != 0.0:
            raise _Refused(f"{value!r} has no Erlang form")
        return _tag_f64(70, value)
    if isinstance(value, tuple) and not value:
        return _TUPLE[0]
    if isinstance(value, list):
        if not value:
            return _NIL
        kind = type(value[0])
        if kind not in _NO_NUMBERS and hasattr(kind, "__index__"):
            return _numbers(list(value))
        return None
    number = scalar(value)
    if number is None:
        return None
    if isinstance(number, bool):
        atom = _TRUE if number else _FALSE
        return atom.encoded if refs is None else _cached(atom, refs)
    if isinstance(number, int):
        return _integer(number)
    if number - number != 0.0:
        raise _Refused(f"{number!r} has no Erlang form")
    return _tag_f64(70, number)


def _integer(value: int) -> bytes:
    if 0 <= value <= 255:
        return _SMALL[value]
    return _tag_i32(98, value) if -0x80000000 <= value <= 0x7FFFFFFF else _big(value)


def _open(value: object, none: Atom) -> tuple[bytes, Iterator[Term], bytes, int]:
    """Returns the first bytes of a container, its terms, its last bytes and the number of terms."""
    if isinstance(value, Mapping):
        if not isinstance(value, ErlMap):
            _check_keys(value, none)
        count = len(value)
        return _tag_u32(116, count), chain.from_iterable(value.items()), b"", 2 * count
    if isinstance(value, tuple):
        count = len(value)
        return _TUPLE[count] if count < 256 else _tag_u32(105, count), iter(value), b"", count
    if isinstance(value, list):
        return _tag_u32(108, len(value)), iter(value), _NIL, len(value)
    raise _Refused(f"{type(value).__qualname__} has no Erlang form")


def _check_keys(value: Mapping[Term, Term], none: Atom) -> None:
    """Rejects keys that are different in Python but equal in Erlang, such as "a" and b"a".

    It also rejects keys that are nested too deeply.
    """
    if len(value) < 2:
        for key in value:
            _check_key_depth(key)
        return
    kinds = set(map(type, value))
    if tuple in kinds:
        kinds.remove(tuple)
        kinds.update(map(type, chain.from_iterable(key for key in value if type(key) is tuple)))
    if kinds <= _PLAIN_KEYS or kinds <= _PLAIN_TEXT_KEYS:
        return
    seen: set[bytes] = set()
    for key in value:
        try:
            name = canonical(none if key is None else key)[0]
        except KeyRefused as error:
            raise _Refused(str(error)) from None
        if name in seen:
            raise _Refused(f"two keys are equal in Erlang, one is {key!r:.50}")
        seen.add(name)


def _check_key_depth(key: Term) -> None:
    try:
        check_depth(key)
    except KeyRefused as error:
        raise _Refused(str(error)) from None


def _record_head(record: NativeRecord, refs: dict[Atom, int] | None, options: Options) -> bytes:
    """Returns the bytes of a native record before its values, with the tag."""
    if not options.native_records:
        raise _Refused("the peer does not support native records (OTP 29, NATIVE_RECORDS)")
    count = len(record.names)
    if count != len(record.values):
        raise _Refused(f"a native record of {count} names and {len(record.values)} values")
    names = (record.module, record.name, *record.names)
    head = struct.pack(">BIB", 67, count, record.flags)  # RECORD_EXT
    return head + b"".join([_node(name, refs) for name in names])


def _fun_head(fun: Fun, refs: dict[Atom, int] | None) -> bytes:
    """Returns the bytes of a fun between its size and its free variables."""
    return b"".join(
        (
            struct.pack(">B16sII", fun.arity, fun.uniq, fun.index, len(fun.free)),
            _node(fun.module, refs),
            _integer(fun.old_index),
            _integer(fun.old_uniq),
            b"X" + _node(fun.pid.node, refs),
            _u32u32u32(fun.pid.id, fun.pid.serial, fun.pid.creation),
        )
    )


def _is_apart(view: memoryview, large: int) -> bool:
    """Whether a view is passed on without a copy. A writable one could change until it is sent."""
    return view.readonly and view.c_contiguous and view.nbytes >= large


def _write_sizes(parts: list[bytes | memoryview], sizes: list[tuple[int, int]]) -> None:
    """Writes the size of each fun. The size includes its own field."""
    offsets = list(accumulate(map(len, parts), initial=0))
    for start, end in sizes:
        parts[start] = _u32(offsets[end] - offsets[start])


def _check_nesting(
    stack: list[tuple[object, Iterator[Term], bytes | int]], value: object, limits: Limits
) -> int:
    """Rejects a container that contains itself or is nested too deeply.

    Returns the depth of the next check. The depth doubles from check to check, which makes the
    checks cheap. A cycle is encoded a few times before it is detected.
    """
    depth = len(stack)
    around = {id(container) for container, _, _ in stack}
    if len(around) != depth or id(value) in around:
        raise _Refused(f"a {type(value).__name__} that contains itself")
    _check_depth(depth, limits)
    return min(2 * depth, limits.max_depth + 1)


def _check_depth(depth: int, limits: Limits) -> None:
    if depth > limits.max_depth:
        raise _Refused(f"nested deeper than {limits.max_depth}, Limits.max_depth")


def _check_leaf(leaf: bytes, depth: int, limits: Limits) -> int:
    """Rejects a list nested too deeply and an integer that is too large. Returns its terms."""
    if leaf[0] == 108:  # LIST_EXT
        _check_depth(depth + 1, limits)
        count: int = _unpack_u32(leaf, 1)[0]
        return count
    if leaf[0] == 110 or leaf[0] == 111:  # SMALL_BIG_EXT, LARGE_BIG_EXT
        size = leaf[1] if leaf[0] == 110 else _unpack_u32(leaf, 1)[0]
        if size > limits.max_integer:
            raise _Refused(
                f"an integer of {size} bytes, Limits.max_integer is {limits.max_integer}"
            )
    return 0


def _check_readable(bare: bytes, limits: Limits) -> None:
    """Rejects a term that exceeds the limits because of funs that were copied without decoding."""
    try:
        decode_bare(bare, 0, Options(limits=limits))
    except EtfDecodeError as error:
        raise EtfEncodeError("", error.reason) from None


def _path(
    stack: list[tuple[object, Iterator[Term], bytes | int]], container: object, value: object
) -> str:
    """The path from the outermost term to `value`, which is found by identity."""
    # The first container is an internal one that holds the outermost term.
    way = [around for around, _, _ in stack][1:]
    if stack and stack[-1][0] is not container:
        way.append(container)
    way.append(value)
    steps = []
    seen = set()
    for outer, inner in pairwise(way):
        if id(outer) in seen:
            break  # a cycle appears once in the path
        seen.add(id(outer))
        steps.append(_step(outer, inner))
    if len(steps) > 20:
        steps[10:-10] = ["..."]
    return "".join(steps)


def _step(container: object, value: object) -> str:
    """Returns the subscript of `value` in a container."""
    if isinstance(container, Mapping):
        for key, inner in container.items():
            if inner is value:
                return f'["{key:.50}"]' if isinstance(key, str) else f"[{key!r:.50}]"
        for place, key in enumerate(container):
            if key is value:
                return f".keys()[{place}]"
        return "[?]"
    name = ""
    inside: list[object] = []
    if isinstance(container, Fun):
        name, inside = ".free", list(container.free)
    elif isinstance(container, NativeRecord):
        name, inside = ".values", list(container.values)
    elif isinstance(container, ImproperList):
        if container.tail is value:
            return ".tail"
        name, inside = ".items", list(container.items)
    elif isinstance(container, (list, tuple)):
        inside = list(container)
    for place, inner in enumerate(inside):
        if inner is value:
            return f"{name}[{place}]"
    return "[?]"
