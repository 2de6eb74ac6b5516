"""The allow-list of a relay: fingerprints of keys, given or in files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from quicdist.carriers.trust import CertificateError, CertificateUnreadable, files
from quicdist.carriers.trust.names import parse_fingerprint

_log = logging.getLogger("quicdist.relay")


class AllowedKeys:
    """Keys that may use a relay. Files are read again when they change."""

    def __init__(self, keys: Sequence[str], paths: Sequence[Path]) -> None:
        """Raises CertificateError if a fingerprint is invalid, or a file cannot be read."""
        self._given = frozenset(map(parse_fingerprint, keys))
        self._paths = tuple(paths)
        self._stamp = files.stamp(self._paths)
        self._read = self._read_files()

    @classmethod
    def of(cls, texts: Sequence[str]) -> AllowedKeys:
        """Parses fingerprints and names of files. Raises CertificateError."""
        keys: list[str] = []
        paths: list[Path] = []
        for text in texts:
            if text.startswith("sha256:"):
                keys.append(text)
            else:
                paths.append(Path(text))
        return cls(keys, paths)

    def __call__(self, key: str) -> bool:
        """Whether the key with this fingerprint may use the relay."""
        stamp = files.stamp(self._paths)
        if stamp != self._stamp:
            self._stamp = stamp
            self._reread()
        return key in self._given or key in self._read

    def _reread(self) -> None:
        try:
            self._read = self._read_files()
        except CertificateError as error:
            extra = {"event": "relay_keys_failed", "reason": str(error)}
            _log.error("%s; the keys read before stay allowed", error, extra=extra)

    def _read_files(self) -> frozenset[str]:
        found: set[str] = set()
        for path in self._paths:
            for number, line in enumerate(_lines(path), 1):
                text = line.partition("#")[0].strip()
                if not text:
                    continue
                try:
                    # A line of `known_nodes` has the name of the node before the fingerprint.
                    found.add(parse_fingerprint(text.split()[-1]))
                except CertificateError as error:
                    raise CertificateUnreadable(f"{path}:{number}: {error}") from None
        return frozenset(found)


def _lines(path: Path) -> Sequence[str]:
    try:
        return files.read(path).decode().splitlines()
    except UnicodeDecodeError:
        raise CertificateUnreadable(f"{path}: not UTF-8") from None
