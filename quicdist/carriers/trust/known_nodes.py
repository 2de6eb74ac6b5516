"""The file of nodes whose keys are known, as ssh has its `known_hosts`.

A line is a node name, a fingerprint, and where the key was superseded the day until which it is
taken: `5555@10.0.0.7 sha256:... until=2026-12-24`. Several lines of one node are several keys that
it may have. `#` begins a comment.
"""

from __future__ import annotations

import datetime
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quicdist.carriers.trust import files
from quicdist.carriers.trust.errors import CertificateError, PeerRefused
from quicdist.carriers.trust.names import parse_fingerprint, read, written

_log = logging.getLogger("quicdist.trust")

_MOST = 100_000
"""Lines; beyond that nothing new is learned."""


@dataclass(frozen=True, slots=True)
class Known:
    """One key of one node."""

    node: str
    fingerprint: str
    until: datetime.date | None = None
    """The last day that it is taken; None is for good."""
    line: int = 0

    @property
    def is_over(self) -> bool:
        """Whether that day is past."""
        today = datetime.datetime.now(datetime.timezone.utc).date()
        return self.until is not None and today > self.until

    def text(self) -> str:
        """As a line."""
        until = f" until={self.until.isoformat()}" if self.until else ""
        return f"{written(self.node)} {self.fingerprint}{until}\n"


class KnownNodes:
    """The file, read again whenever it has changed. Others may write it at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: files.Stamp | None = None
        self._known: dict[str, list[Known]] = {}
        self._count = 0
        self._unsaved: dict[str, list[Known]] = {}
        """What was learned and could not be written: it holds as long as this process."""

    def keys(self, node: str) -> Sequence[Known]:
        """Those the node may have. Raises CertificateUnreadable."""
        self._refresh()
        known = [*self._known.get(node, ()), *self._unsaved.get(node, ())]
        return [one for one in known if not one.is_over]

    def pins(self) -> Mapping[str, Sequence[str]]:
        """All that is in the file, by name. Raises CertificateError."""
        self._refresh()
        return {
            node: [one.fingerprint for one in ones if not one.is_over]
            for node, ones in self._known.items()
        }

    def learn(self, node: str, fingerprint: str) -> bool:
        """Keeps a node's first key; True where it is news.

        Raises PeerRefused where another process has just learned another key of that node.
        """
        if self._knows(node, fingerprint):
            return False
        new = Known(node, fingerprint)
        try:
            files.make_directory(self.path.parent)
            with files.locked(self.path):
                self._stamp = None
                if self._knows(node, fingerprint):
                    return False
                if self._count >= _MOST:
                    raise OSError(f"it has {self._count} lines already")
                self._write([new])
        except OSError as error:
            self._unsaved.setdefault(node, []).append(new)
            self._failed(node, error)
        return True

    def _knows(self, node: str, fingerprint: str) -> bool:
        known = self.keys(node)
        if known and fingerprint not in {one.fingerprint for one in known}:
            raise self.changed(node, fingerprint)
        return bool(known)

    def supersede(self, node: str, fingerprint: str, overlap: datetime.timedelta) -> None:
        """A known key of the node vouches for its new one: the old ones are taken a while more.

        What cannot be written is left for the next time that the node shows its new key.
        """
        end = (datetime.datetime.now(datetime.timezone.utc) + overlap).date()
        try:
            with files.locked(self.path):
                self._stamp = None
                known = self.keys(node)
                if fingerprint in {one.fingerprint for one in known}:
                    return
                old = [Known(node, one.fingerprint, one.until or end) for one in known]
                self._write([*old, Known(node, fingerprint)], without=node)
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
            self._stamp = None
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
            f"set up anew; only if you know that it was: {self._accepting(node, fingerprint)}"
        )

    def _accepting(self, node: str, fingerprint: str) -> str:
        # It names the file, as the shell it is pasted into may be another user's.
        words = ("cert", "accept", written(node), fingerprint)
        return shlex.join(["quicdist", *words, "--known-nodes", str(self.path.absolute())])

    def _failed(self, node: str, error: OSError) -> None:
        extra = {"event": "key_not_kept", "peer": node, "path": str(self.path)}
        text = "the key of %s cannot be kept in %s: %s"
        _log.error(text, written(node), self.path, error.strerror or error, extra=extra)

    # -- the file --

    def _refresh(self) -> None:
        stamp = files.stamp([self.path])
        if stamp == self._stamp:
            return
        self._known, self._count = {}, 0
        for known in self._parse(self._lines()):
            self._known.setdefault(known.node, []).append(known)
            self._count += 1
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
                found.append(_known(words, number))
            except ValueError:
                # To go on would be to know less than was written.
                raise CertificateError(
                    f"{self.path}, line {number}: a node name and a fingerprint are expected"
                ) from None
        return found

    def _write(self, added: Sequence[Known], *, without: str | None = None) -> None:
        kept = [
            f"{line}\n" for line in self._lines() if without is None or _node_of(line) != without
        ]
        text = "".join([*kept, *(known.text() for known in added)])
        files.write(self.path, text.encode(), mode=0o600)
        self._stamp = None


def _known(words: Sequence[str], line: int) -> Known:
    node, fingerprint, *rest = words
    until = None
    for word in rest:
        key, _, value = word.partition("=")
        if key != "until":
            raise ValueError(word)
        until = datetime.date.fromisoformat(value)
    try:
        return Known(read(node), parse_fingerprint(fingerprint), until, line)
    except CertificateError as error:
        raise ValueError(str(error)) from None


def _node_of(line: str) -> str | None:
    words = line.partition("#")[0].split()
    return read(words[0]) if words else None
