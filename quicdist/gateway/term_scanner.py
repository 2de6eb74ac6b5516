"""Finds the atoms and funs in a term without decoding it.

A term may be passed in pieces, as the fragments of a message. Binaries and numbers are skipped.

External Term Format, from "SMALL_INTEGER_EXT" on.
"""

from __future__ import annotations

import re

from quicdist.errors import QuicdistError


class Unreadable(QuicdistError):
    """A payload is invalid or too large for the rules. Its message is refused.

    The end of the frame is known, so the connection continues.
    """


MAX_NEW_ATOMS = 200_000
"""The maximum number of atoms that all peers of a gateway may create on its node. By default a BEAM
node has room for 1,048,576 atoms, and terminates when they are used up."""

MAX_NEW_ATOMS_OF_MESSAGE = 1_000

_FIXED = {
    *(("a", 2), ("b", 5), ("F", 9), ("c", 32), ("j", 1)),
}
_SIZES: dict[int, int] = {ord(tag): size for tag, size in _FIXED}
"""Total size in bytes by tag: SMALL_INTEGER, INTEGER, NEW_FLOAT, FLOAT, NIL."""

_COUNTED: dict[int, tuple[int, int]] = {
    ord("n"): (1, 1),
    ord("o"): (4, 1),
    ord("k"): (2, 0),
    ord("m"): (4, 0),
    ord("M"): (4, 1),
}
"""Width of the length field, and the number of additional bytes, by tag: SMALL_BIG, LARGE_BIG,
STRING, BINARY, BIT_BINARY."""

_ATOMS: dict[int, tuple[int, bool]] = {
    ord("w"): (1, False),
    ord("v"): (2, False),
    ord("s"): (1, True),
    ord("d"): (2, True),
}
"""Width of the length field, and whether the text is Latin-1, by tag: SMALL_ATOM_UTF8, ATOM_UTF8,
SMALL_ATOM, ATOM."""

_GROUPS: dict[int, tuple[int, int, int]] = {
    ord("h"): (1, 1, 0),
    ord("i"): (4, 1, 0),
    ord("l"): (4, 1, 1),
    ord("t"): (4, 2, 0),
}
"""Width of the count, terms per element, and additional terms, by tag: SMALL_TUPLE, LARGE_TUPLE,
LIST, MAP."""

_OF_NODE: dict[int, int] = {ord("x"): 12, ord("Y"): 8, ord("f"): 5, ord("e"): 5}
"""Number of bytes after the node name by tag: V4_PORT, NEW_PORT, PORT, REFERENCE."""

_PIDS: dict[int, int] = {ord("X"): 12, ord("g"): 9}
"""Number of bytes after the node name by tag: NEW_PID, PID. The first eight are number and
serial."""

_REFERENCES: dict[int, int] = {ord("Z"): 4, ord("r"): 1}
"""Number of bytes of the creation by tag: NEWER_REFERENCE, NEW_REFERENCE."""

_MOST_WORDS = 5
"""The maximum number of words of a reference that a node decodes."""

_NEW_FUN, _FUN, _EXPORT, _RECORD = b"puqC"


_SMALL_ATOM, _SMALL_TUPLE, _NIL, _LIST, _MAP, _BINARY, _PID, _REFERENCE = b"whjltmXZ"
_RUNS = {
    ord("a"): (2, re.compile(rb"(?:a.)+", re.DOTALL)),
    ord("b"): (5, re.compile(rb"(?:b.{4})+", re.DOTALL)),
    ord("F"): (9, re.compile(rb"(?:F.{8})+", re.DOTALL)),
}
"""A pattern that matches consecutive numbers, for each size in bytes."""


class _Incomplete(Exception):
    """The piece ends within a term."""


class TermScanner:
    """Scans one term, or several consecutive terms."""

    __slots__ = (
        *("_own", "_rest", "_skip", "atoms", "has_fun", "own_pids", "pending", "references"),
        "ends_with",
    )

    def __init__(self, terms: int = 1, own: str = "") -> None:
        """The references and pids of the node `own` are collected."""
        self._own = own.encode()
        self.own_pids: set[bytes] = set()
        """The numbers and serials of the pids of `own`. The caller may remove them."""
        self.ends_with: bytes | None = None
        """The pid of `own` that is the last of all terms, or None: the group leader of a call."""
        self.references: set[bytes] = set()
        """The words of the references of `own`. The caller may remove them."""
        self.atoms: set[bytes] = set()
        """The atoms found, in UTF-8. The caller may remove them."""
        self.has_fun = False
        self.pending = terms
        """The number of terms that have not begun yet."""
        self._rest = b""
        self._skip = 0

    @property
    def is_done(self) -> bool:
        """Whether all terms were scanned."""
        return not self.pending and not self._skip

    def feed(self, data: bytes, at: int = 0) -> int:
        """Scans a piece from `at`. Returns the end of the last term in it. Raises Unreadable."""
        shift = 0
        # The position in the piece minus that in `data`.
        if self._rest:
            shift = at - len(self._rest)
            data, at, self._rest = self._rest + data[at:], 0, b""
        if self._skip:
            step = min(self._skip, len(data) - at)
            self._skip -= step
            at += step
        try:
            while self.pending:
                at = self._common(data, at)
                if self.pending:
                    at = self._term(data, at)
        except _Incomplete:
            pass
        return at + shift

    def _common(self, data: bytes, at: int) -> int:
        """Skips complete terms of the most common types in one loop."""
        pending, size, atoms = self.pending, len(data), self.atoms
        while pending and at + 5 <= size:
            tag = data[at]
            if tag == _SMALL_ATOM:
                end = at + 2 + data[at + 1]
                if end > size:
                    break
                atoms.add(data[at + 2 : end])
                at = end
                pending -= 1
            elif tag == _SMALL_TUPLE:
                pending += data[at + 1] - 1
                at += 2
            elif tag in _RUNS:
                width, run = _RUNS[tag]
                found = run.match(data, at)
                count = min((found.end() - at) // width, pending) if found else 0
                if not count:
                    break
                at += count * width
                pending -= count
            elif tag == _NIL:
                at += 1
                pending -= 1
            elif tag == _LIST:
                pending += int.from_bytes(data[at + 1 : at + 5], "big")
                at += 5
            elif tag == _BINARY:
                end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
                if end > size:
                    break
                at = end
                pending -= 1
            elif tag == _PID and data[at + 1] == _SMALL_ATOM:
                name = at + 3 + data[at + 2]
                if name + 12 > size:
                    break
                atoms.add(data[at + 3 : name])
                pending -= 1
                if data[at + 3 : name] == self._own:
                    self._own_pid(data[name : name + 8], is_last=not pending)
                at = name + 12
            elif tag == _REFERENCE and data[at + 3] == _SMALL_ATOM:
                name = at + 5 + data[at + 4]
                end = name + 4 + 4 * (data[at + 1] << 8 | data[at + 2])
                if end > size:
                    break
                atoms.add(data[at + 5 : name])
                if data[at + 5 : name] == self._own:
                    self.references.add(data[name + 4 : end])
                at = end
                pending -= 1
            elif tag == _MAP:
                pending += 2 * int.from_bytes(data[at + 1 : at + 5], "big") - 1
                at += 5
            else:
                break
        self.pending = pending
        return at

    def _term(self, data: bytes, at: int) -> int:
        """Scans a term. Raises _Incomplete and keeps the start of the term if it is incomplete."""
        if self._skip or at >= len(data):
            raise _Incomplete
        tag = data[at]
        size = _SIZES.get(tag)
        if size is not None:
            return self._over(data, at, size, 0)
        if tag in _ATOMS:
            end = self._atom(data, at)
            self.pending -= 1
            return end
        group = _GROUPS.get(tag)
        if group is not None:
            width, each, more = group
            count = self._number(data, at, at + 1, width)
            return self._over(data, at, 1 + width, count * each + more)
        counted = _COUNTED.get(tag)
        if counted is not None:
            width, more = counted
            count = self._number(data, at, at + 1, width)
            return self._over(data, at, 1 + width + more + count, 0)
        return self._rare(data, at, tag)

    def _rare(self, data: bytes, at: int, tag: int) -> int:
        behind = _OF_NODE.get(tag)
        if behind is not None:
            end = self._atom(data, at, at + 1)
            return self._over(data, at, end - at + behind, 0)
        of_pid = _PIDS.get(tag)
        if of_pid is not None:
            return self._pid(data, at, of_pid)
        creation = _REFERENCES.get(tag)
        if creation is not None:
            return self._reference(data, at, creation)
        if tag == _EXPORT:
            self.has_fun = True
            return self._over(data, at, 1, 3)
        if tag == _NEW_FUN:
            self.has_fun = True
            free = self._number(data, at, at + 26, 4)
            return self._over(data, at, 30, 4 + free)
        if tag == _FUN:
            self.has_fun = True
            free = self._number(data, at, at + 1, 4)
            return self._over(data, at, 5, 4 + free)
        if tag == _RECORD:
            fields = self._number(data, at, at + 1, 4)
            return self._over(data, at, 6, 2 + 2 * fields)
        raise Unreadable(f"unsupported tag {tag}")

    def _reference(self, data: bytes, at: int, creation: int) -> int:
        words = self._number(data, at, at + 1, 2)
        if words > _MOST_WORDS:
            raise Unreadable(f"a reference of {words} words")
        if at + 3 >= len(data):
            self._keep(data, at)
        end = self._atom(data, at, at + 3)
        behind = end + creation + 4 * words
        if behind > len(data):
            self._keep(data, at)
        if self._is_own(data, at + 3, end):
            self.references.add(data[end + creation : behind])
        self.pending -= 1
        return behind

    def _pid(self, data: bytes, at: int, size: int) -> int:
        end = self._atom(data, at, at + 1)
        behind = end + size
        if behind > len(data):
            self._keep(data, at)
        self.pending -= 1
        if self._is_own(data, at + 1, end):
            self._own_pid(data[end : end + 8], is_last=not self.pending)
        return behind

    def _own_pid(self, key: bytes, *, is_last: bool) -> None:
        self.own_pids.add(key)
        if is_last:
            self.ends_with = key

    def _is_own(self, data: bytes, at: int, end: int) -> bool:
        """Whether the node name at `at` is that of `own`, in either encoding."""
        width, is_latin = _ATOMS[data[at]]
        name = data[at + 1 + width : end]
        return (name.decode("latin-1").encode() if is_latin else name) == self._own

    def _over(self, data: bytes, at: int, size: int, terms: int) -> int:
        """Skips `size` bytes, some of which may not have arrived; `terms` more terms follow."""
        self.pending += terms - 1
        end = at + size
        if end > len(data):
            self._skip = end - len(data)
            return len(data)
        return end

    def _atom(self, data: bytes, start: int, at: int | None = None) -> int:
        """Records the atom at `at`. `start` is the start of the term that contains it."""
        at = start if at is None else at
        if at >= len(data):
            self._keep(data, start)
        form = _ATOMS.get(data[at])
        if form is None:
            raise Unreadable("the node name is not an atom")
        width, is_latin = form
        begin = at + 1 + width
        end = begin + self._number(data, start, at + 1, width)
        if end > len(data):
            self._keep(data, start)
        text = data[begin:end]
        self.atoms.add(text if not is_latin or text.isascii() else text.decode("latin-1").encode())
        return end

    def _number(self, data: bytes, start: int, at: int, width: int) -> int:
        if at + width > len(data):
            self._keep(data, start)
        return int.from_bytes(data[at : at + width], "big")

    def _keep(self, data: bytes, start: int) -> None:
        self._rest = data[start:]
        raise _Incomplete


class AtomBudget:
    """Counts the atoms that peers have created on a node, which never frees them."""

    __slots__ = ("_known", "_limit")

    def __init__(self, limit: int = MAX_NEW_ATOMS) -> None:
        self._known: set[int] = set()
        """Hashes, salted by Python, so that peers cannot construct collisions."""
        self._limit = limit

    def new(self, atoms: set[bytes]) -> set[int]:
        """Returns the hashes of the atoms that no peer has created yet."""
        return {hash(atom) for atom in atoms} - self._known

    def admit(self, new: set[int]) -> bool:
        """Adds atoms. Returns False if the limit would be exceeded."""
        if len(self._known) + len(new) > self._limit:
            return False
        self._known |= new
        return True
