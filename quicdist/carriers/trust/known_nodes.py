"""The file of nodes whose keys are known, as ssh has its `known_hosts`.

A line is a node name, a fingerprint, and what is known besides:

    5555@10.0.0.7 sha256:... bound seen=2026-11-02
    5555@10.0.0.8 sha256:... until=2026-12-24

`bound`: the node binds its proof of the cookie to the TLS session, and must always do so.
`seen=`: the last day, about, that it was met; lines that were learned have it. `until=`: the last
day that a superseded key is taken. Several lines of one node are several keys that it may have. `#`
begins a comment. A name is literal here: in a file of pins alone `*` stands for anything.
What peers call themselves is written so that it is never read as a pattern.
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
"""Lines. Beyond that, those that were learned and not seen for `_FORGET_AFTER` make room; where
none do, nothing new is learned."""

_FORGET_AFTER = datetime.timedelta(days=90)

_SEEN_STEP = datetime.timedelta(days=30)
"""How old `seen=` becomes before it is written anew."""

_TOOLS = re.compile(
    r"rabbitmqcli-\d+-.*"
    r"|(?:rpc|rem|eval)-[0-9a-f]{4,}(?:-.*)?"  # Elixir: iex --remsh, releases
    r"|(?:remsh|maint|nodetool)_?\d+(?:[-_].*)?"  # relx
    r"|dyn-[0-9a-f]{16}"  # named by one of our nodes
    r"|[0-9A-Z]{13}",  # named by OTP (NAME_ME)
)
"""Names before the `@` that a command has once: to remember them is to fill the file."""


def is_short_lived(node: str) -> bool:
    """Whether that is the name of a command run once, which nobody will meet again."""
    return _TOOLS.fullmatch(node.rpartition("@")[0]) is not None


@dataclass(frozen=True, slots=True)
class Known:
    """One key of one node."""

    node: str
    """A name; in a file of pins a pattern (fnmatch), in which what is literal is escaped."""
    fingerprint: str
    until: datetime.date | None = None
    """The last day that it is taken; None is for good."""
    is_bound: bool = False
    """It binds its proof of the cookie to the TLS session."""
    seen: datetime.date | None = None
    """The last day, about, that it was met; None for what a person wrote."""
    line: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the last day that it is taken is past."""
        return self.until is not None and _today() > self.until

    def text(self) -> str:
        """As a line."""
        until = f" until={self.until.isoformat()}" if self.until else ""
        bound = " bound" if self.is_bound else ""
        seen = f" seen={self.seen.isoformat()}" if self.seen else ""
        return f"{written(self.node)} {self.fingerprint}{until}{bound}{seen}\n"


class KnownNodes:
    """The file, read again whenever it has changed. Others may write it at the same time.

    Nothing here waits on an event loop: what cannot be written at once is kept in memory, and
    written by a thread.
    """

    def __init__(self, path: Path, *, has_patterns: bool = False) -> None:
        """`has_patterns` is a file of pins."""
        self.path = path
        self._has_patterns = has_patterns
        self._stamp: files.Stamp | None = None
        self._known: dict[str, list[Known]] = {}
        self._count = 0
        self._unsaved: dict[str, list[Known]] = {}
        """What was learned and is not written, or could not be: it holds as long as this
        process."""
        self._full: tuple[datetime.date, files.Stamp | None] | None = None
        """When, and in which state, it was full of lines that must stay."""
        self._saving: threading.Thread | None = None

    def keys(self, node: str) -> Sequence[Known]:
        """Those the node may have. Raises CertificateUnreadable."""
        self._refresh()
        known = [*self._known.get(node, ()), *self._unsaved.get(node, ())]
        return [one for one in known if not one.is_over]

    def pins(self) -> Mapping[str, Sequence[str]]:
        """All that is in the file, by name or pattern. Raises CertificateError."""
        self._refresh()
        return {
            node: [one.fingerprint for one in ones if not one.is_over]
            for node, ones in self._known.items()
        }

    def learn(self, node: str, fingerprint: str, *, bound: bool = False) -> bool:
        """Keeps a node's first key; True where it is news.

        Raises PeerRefused where another process has just learned another key of that node.
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
        """Writes down that a known node binds its proofs, and now and then that it was met."""
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
        except OSError as error:  # the next meeting is as good
            _log.debug("%s is not brought up to date: %s", self.path, error)

    def supersede(
        self, node: str, fingerprint: str, overlap: datetime.timedelta, *, bound: bool = False
    ) -> None:
        """A known key of the node vouches for its new one: the old ones are taken a while more.

        What cannot be written is left for the next time that the node shows its new key.
        """
        end = (datetime.datetime.now(datetime.UTC) + overlap).date()
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
        """From now on this is the node's one key. Raises OSError, CertificateUnreadable."""
        files.make_directory(self.path.parent)
        with files.locked(self.path):
            self._write([Known(node, fingerprint)], without=node)

    def forget(self, node: str) -> bool:
        """Knows no key of the node any more; False where there was none. Raises OSError."""
        with files.locked(self.path):
            found = bool(self.keys(node))
            self._write([], without=node)
        return found

    def changed(self, node: str, fingerprint: str) -> PeerRefused:
        """What is said of a key that is not the node's, and how to accept it."""
        lines = [str(one.line) for one in self.keys(node) if one.line]
        which = f", {'line' if len(lines) == 1 else 'lines'} {', '.join(lines)}" if lines else ""
        return PeerRefused(
            f"the key of {written(node)} has changed: its certificate has {fingerprint}, which is "
            f"not the one known ({self.path}{which}). Someone may be in between, or the node was "
            f"set up anew; only if you know that it was: {self._accepting(node, fingerprint)}",
            cause=Cause.KEY_CHANGED,
        )

    def _accepting(self, node: str, fingerprint: str) -> str:
        # It names the file, as the shell it is pasted into may be another user's.
        words = ("cert", "accept", written(node), fingerprint)
        return shlex.join(["quicdist", *words, "--known-nodes", str(self.path.absolute())])

    def _failed(self, node: str, error: OSError) -> None:
        extra = {"event": "key_not_kept", "peer": node, "path": str(self.path)}
        text = "the key of %s cannot be kept in %s: %s"
        _log.error(text, written(node), self.path, error.strerror or error, extra=extra)

    # -- what waits to be written --

    def _keep_unsaved(self, new: Known) -> None:
        if len(self._unsaved) < MOST:
            self._unsaved.setdefault(new.node, []).append(new)

    def _save_later(self) -> bool:
        """Whether a thread sees to it. It is for an event loop, which does not wait for a lock."""
        if not files.is_on_event_loop():
            return False
        if self._saving is None or not self._saving.is_alive():
            self._saving = threading.Thread(target=self._save, name="quicdist known_nodes")
            self._saving.daemon = True
            self._saving.start()
        return True

    def _save(self) -> None:
        others = KnownNodes(self.path)  # the loop's thread goes on with this one
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
                # To go on would be to know less than was written.
                why = f": {error}" if str(error) else ""
                raise CertificateError(
                    f"{self.path}, line {number}: a node name and a fingerprint are expected{why}"
                ) from None
        return found

    def _append(self, new: Known) -> None:
        """One line more, without writing the others anew, unless there are too many."""
        if self._count >= MOST:
            self._make_room()
        files.append(self.path, new.text().encode(), mode=0o600)
        self._known.setdefault(new.node, []).append(replace(new, line=self._count + 1))
        self._count += 1
        self._stamp = files.stamp([self.path])

    def _make_room(self) -> None:
        """Forgets what was learned and not met for long. Raises OSError where that is nothing."""
        state = (_today(), self._stamp)
        if state == self._full:
            raise OSError(f"it has {self._count} lines already")
        oldest = _today() - _FORGET_AFTER
        kept = [line for line in self._lines() if not _is_forgettable(line, oldest)]
        if len(kept) >= MOST:
            self._full = state
            raise OSError(f"it has {len(kept)} lines already")
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
    return datetime.datetime.now(datetime.UTC).date()


def _known(words: Sequence[str], line: int, *, has_patterns: bool) -> Known:
    """Raises ValueError."""
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
        raise ValueError(f"{node!r} is a pattern, which only a file of pins may have")
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
