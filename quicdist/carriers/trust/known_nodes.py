"""The `known_nodes` file, which stores the keys of nodes, like the `known_hosts` file of ssh.

A line consists of a node name, a fingerprint, and options:

    5555@10.0.0.7 sha256:... bound seen=2026-11-02
    5555@10.0.0.8 sha256:... until=2026-12-24

`bound`: the node has bound its cookie proof to the TLS session, and must always do so.
`seen=`: the approximate date of the last connection; only learned lines have it. `until=`: the last
day on which a superseded key is accepted. A node can have several lines, with one key each. `#`
starts a comment. Node names are literal, except that in a file of pins `*` and `?` are wildcards.
Names that peers choose are percent-encoded, so they are never read as patterns.
"""

from __future__ import annotations

import datetime
import logging
import re
import shlex
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quicdist.carriers.trust import files
from quicdist.carriers.trust.errors import CertificateError, PeerRefused
from quicdist.carriers.trust.names import (
    is_pattern,
    parse_fingerprint,
    read,
    read_pattern,
    written,
)
from quicdist.errors import Cause

_log = logging.getLogger("quicdist.trust")

MOST = 10_000
"""Maximum number of lines. When it is reached, learned lines that were not seen for `_FORGET_AFTER`
are removed. If there are none, no new keys are stored."""

_FORGET_AFTER = datetime.timedelta(days=90)

_SEEN_STEP = datetime.timedelta(days=30)
"""Age at which `seen=` is updated."""

_TOOLS = re.compile(
    r"rabbitmqcli-\d+-.*"
    r"|(?:rpc|rem|eval)-[0-9a-f]{4,}(?:-.*)?"  # Elixir: iex --remsh, releases
    r"|(?:remsh|maint|nodetool)_?\d+(?:[-_].*)?"  # relx
    r"|dyn-[0-9a-f]{16}"  # dynamic names assigned by quicdist nodes
    r"|[0-9A-Z]{13}",  # dynamic names assigned by OTP (NAME_ME)
)
"""Parts before the `@` of names that a command uses only once. They are not stored, because they
would fill the file."""


def is_short_lived(node: str) -> bool:
    """Returns whether the name is that of a short-lived command, which will not be used again."""
    return _TOOLS.fullmatch(node.rpartition("@")[0]) is not None


@dataclass(frozen=True, slots=True)
class Known:
    """One line of the file: a key of a node."""

    node: str
    """A node name; in a file of pins an fnmatch pattern with escaped literals."""
    fingerprint: str
    until: datetime.date | None = None
    """The last day on which the key is accepted; None without a limit."""
    is_bound: bool = False
    """Whether the node binds its cookie proof to the TLS session."""
    seen: datetime.date | None = None
    """The approximate date of the last connection; None for manually added lines."""
    line: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the key has expired (see `until`)."""
        return self.until is not None and _today() > self.until

    def text(self) -> str:
        """Returns the line for the file, with its line break."""
        until = f" until={self.until.isoformat()}" if self.until else ""
        bound = " bound" if self.is_bound else ""
        seen = f" seen={self.seen.isoformat()}" if self.seen else ""
        return f"{written(self.node)} {self.fingerprint}{until}{bound}{seen}\n"


class KnownNodes:
    """A `known_nodes` file or a file of pins.

    The file is read again whenever it changes. Other processes may write to it at the same time.
    Calls from an event loop do not block: data that cannot be written immediately is kept in memory
    and written by a thread.
    """

    def __init__(self, path: Path, *, has_patterns: bool = False) -> None:
        """`has_patterns` is True for a file of pins, in which names can be patterns."""
        self.path = path
        self._has_patterns = has_patterns
        self._stamp: files.Stamp | None = None
        self._known: dict[str, list[Known]] = {}
        self._count = 0
        self._unsaved: dict[str, list[Known]] = {}
        """Learned keys that are not written yet, or could not be written. They are valid until this
        process ends."""
        self._full: tuple[datetime.date, files.Stamp | None] | None = None
        """Date and file stamp at which the file was full and no line could be removed."""
        self._saving: threading.Thread | None = None

    def keys(self, node: str) -> Sequence[Known]:
        """Returns the accepted keys of the node. Raises CertificateError if the file is invalid."""
        self._refresh()
        known = [*self._known.get(node, ()), *self._unsaved.get(node, ())]
        return [one for one in known if not one.is_over]

    def pins(self) -> Mapping[str, Sequence[str]]:
        """Returns the fingerprints in the file by name or pattern.

        Raises CertificateError if the file is invalid.
        """
        self._refresh()
        return {
            node: [one.fingerprint for one in ones if not one.is_over]
            for node, ones in self._known.items()
        }

    def learn(self, node: str, fingerprint: str, *, bound: bool = False) -> bool:
        """Stores the first key of a node; returns whether the key is new.

        Raises PeerRefused if another key is known for that node, and CertificateError if the file
        is invalid. A failed write is logged, not raised.
        """
        if self._knows(node, fingerprint):
            self._met(node, fingerprint, bound)
            return False
        if is_short_lived(node):
            return False
        new = Known(node, fingerprint, is_bound=bound, seen=_today())
        try:
            files.make_directory(self.path.parent)
            with files.locked(self.path):
                self._refresh()
                if self._knows(node, fingerprint):
                    return False
                self._append(new)
        except TimeoutError as error:
            self._keep_unsaved(new)
            if not self._save_later():
                self._failed(node, error)
        except OSError as error:
            self._keep_unsaved(new)
            self._failed(node, error)
        return True

    def _knows(self, node: str, fingerprint: str) -> bool:
        known = self.keys(node)
        if known and fingerprint not in {one.fingerprint for one in known}:
            raise self.changed(node, fingerprint)
        return bool(known)

    def _met(self, node: str, fingerprint: str, bound: bool) -> None:
        """Updates the options `bound` and `seen=` of a known node."""
        today = _today()
        ones = self._known.get(node, [])
        news = [
            replace(
                one,
                is_bound=one.is_bound or bound,
                seen=today if one.seen and today - one.seen > _SEEN_STEP else one.seen,
            )
            if one.fingerprint == fingerprint
            else one
            for one in ones
        ]
        if news == ones:
            return
        try:
            with files.locked(self.path):
                self._write(news, without=node)
        except OSError as error:  # the next connection tries again
            _log.debug("cannot update %s: %s", self.path, error)

    def supersede(
        self, node: str, fingerprint: str, overlap: datetime.timedelta, *, bound: bool = False
    ) -> None:
        """Stores a new key of a node, signed by a known key; `overlap` limits the old keys.

        If the file cannot be written, the next connection with the new key tries again.
        """
        end = (_now() + overlap).date()
        try:
            with files.locked(self.path):
                known = self.keys(node)
                if fingerprint in {one.fingerprint for one in known}:
                    return
                old = [replace(one, until=one.until or end) for one in known]
                new = Known(node, fingerprint, is_bound=bound, seen=_today())
                self._write([*old, new], without=node)
        except OSError as error:
            self._failed(node, error)

    def accept(self, node: str, fingerprint: str) -> None:
        """Replaces all keys of the node by this one.

        Raises OSError if the file cannot be written, and CertificateError if it is invalid.
        """
        files.make_directory(self.path.parent)
        with files.locked(self.path):
            self._refresh()
            self._write([Known(node, fingerprint)], without=node)

    def forget(self, node: str) -> bool:
        """Removes all keys of the node; returns False if there was none.

        Raises OSError if the file cannot be written, and CertificateError if it is invalid.
        """
        with files.locked(self.path):
            found = bool(self.keys(node))
            self._write([], without=node)
        return found

    def changed(self, node: str, fingerprint: str) -> PeerRefused:
        """Returns the error for an unknown key of a known node; its text shows how to accept it."""
        lines = [str(one.line) for one in self.keys(node) if one.line]
        which = f", {'line' if len(lines) == 1 else 'lines'} {', '.join(lines)}" if lines else ""
        return PeerRefused(
            f"the key of {written(node)} has changed: its certificate has {fingerprint}, which is "
            f"not the known key ({self.path}{which}). This may be an attack, or the node may have "
            f"a new key. Only if the new key is genuine: {self._accepting(node, fingerprint)}",
            cause=Cause.KEY_CHANGED,
        )

    def _accepting(self, node: str, fingerprint: str) -> str:
        # The command contains the path, because another user may run it.
        words = ("cert", "accept", written(node), fingerprint)
        return shlex.join(["quicdist", *words, "--known-nodes", str(self.path.absolute())])

    def _failed(self, node: str, error: OSError) -> None:
        extra = {"event": "key_not_kept", "peer": node, "path": str(self.path)}
        text = "cannot store the key of %s in %s: %s"
        _log.error(text, written(node), self.path, error.strerror or error, extra=extra)

    # -- unsaved keys --

    def _keep_unsaved(self, new: Known) -> None:
        if len(self._unsaved) < MOST:
            self._unsaved.setdefault(new.node, []).append(new)

    def _save_later(self) -> bool:
        """Starts a thread that writes the unsaved keys; returns False outside of an event loop.

        An event loop must not wait for the lock.
        """
        if not files.is_on_event_loop():
            return False
        if self._saving is None or not self._saving.is_alive():
            self._saving = threading.Thread(target=self._save, name="quicdist known_nodes")
            self._saving.daemon = True
            self._saving.start()
        return True

    def _save(self) -> None:
        others = KnownNodes(self.path)  # `self` is not thread-safe
        for new in [one for ones in list(self._unsaved.values()) for one in ones]:
            try:
                others.learn(new.node, new.fingerprint, bound=new.is_bound)
            except CertificateError as error:
                extra = {"event": "key_not_kept", "peer": new.node, "path": str(self.path)}
                _log.error("%s", error, extra=extra)

    # -- the file --

    def _refresh(self) -> None:
        stamp = files.stamp([self.path])
        if stamp == self._stamp:
            return
        known: dict[str, list[Known]] = {}
        count = 0
        files.warn_of_exposed(self.path)
        for one in self._parse(self._lines()):
            known.setdefault(one.node, []).append(one)
            count += 1
        self._known, self._count = known, count
        self._stamp = stamp

    def _lines(self) -> list[str]:
        try:
            return self.path.read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CertificateError(f"{self.path}: {error.strerror or error}") from None

    def _parse(self, lines: Sequence[str]) -> Sequence[Known]:
        found = []
        for number, line in enumerate(lines, 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            try:
                found.append(_known(words, number, has_patterns=self._has_patterns))
            except ValueError as error:
                # Skipping the line would silently ignore a known key.
                why = f": {error}" if str(error) else ""
                raise CertificateError(
                    f"{self.path}, line {number}: expected a node name and a fingerprint{why}"
                ) from None
        return found

    def _append(self, new: Known) -> None:
        """Appends a line; rewrites the file only if it has too many lines."""
        if self._count >= MOST:
            self._make_room()
        files.append(self.path, new.text().encode(), mode=0o600)
        self._known.setdefault(new.node, []).append(replace(new, line=self._count + 1))
        self._count += 1
        self._stamp = files.stamp([self.path])

    def _make_room(self) -> None:
        """Removes learned lines that were not seen for a long time.

        Raises OSError if there are none.
        """
        state = (_today(), self._stamp)
        if state == self._full:
            raise OSError(f"the file already has {self._count} lines")
        oldest = _today() - _FORGET_AFTER
        kept = [line for line in self._lines() if not _is_forgettable(line, oldest)]
        if len(kept) >= MOST:
            self._full = state
            raise OSError(f"the file already has {len(kept)} lines")
        files.write(self.path, "".join(f"{line}\n" for line in kept).encode(), mode=0o600)
        self._stamp = None
        self._refresh()

    def _write(self, added: Sequence[Known], *, without: str | None = None) -> None:
        kept = [
            f"{line}\n" for line in self._lines() if without is None or _node_of(line) != without
        ]
        text = "".join([*kept, *(known.text() for known in added)])
        files.write(self.path, text.encode(), mode=0o600)
        self._stamp = None


def _today() -> datetime.date:
    return _now().date()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _known(words: Sequence[str], line: int, *, has_patterns: bool) -> Known:
    """Parses a line. Raises ValueError if it is invalid."""
    node, fingerprint, *rest = words
    until = seen = None
    is_bound = False
    for word in rest:
        key, _, value = word.partition("=")
        if key == "until":
            until = datetime.date.fromisoformat(value)
        elif key == "seen":
            seen = datetime.date.fromisoformat(value)
        elif word == "bound":
            is_bound = True
        else:
            raise ValueError(f"{word!r} is unknown")
    if not has_patterns and is_pattern(node):
        raise ValueError(f"{node!r} is a pattern, which is only allowed in a file of pins")
    try:
        name = read_pattern(node) if has_patterns else read(node)
        return Known(name, parse_fingerprint(fingerprint), until, is_bound, seen, line)
    except CertificateError as error:
        raise ValueError(str(error)) from None


def _is_forgettable(line: str, oldest: datetime.date) -> bool:
    words = line.partition("#")[0].split()
    try:
        known = _known(words, 0, has_patterns=False) if words else None
    except ValueError:
        return False
    return known is not None and known.seen is not None and known.seen < oldest


def _node_of(line: str) -> str | None:
    words = line.partition("#")[0].split()
    return read(words[0]) if words else None
