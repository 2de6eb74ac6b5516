"""Keeps results for the certificates that were used last.

A certificate is used several times in a handshake, and most peers come back with the same one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import TypeVar

CACHED = 64
"""Number of certificates of which results are kept."""
CACHED_SIZE = 4096
"""Maximum size in bytes of such a certificate. Parsed names take 60 times as much memory, and a
peer presents its certificate before it has proved the cookie."""

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")


class _TooLargeError(Exception):
    """A certificate is too large to keep what it contains."""


def kept(
    size_of: Callable[[_K], int],
) -> Callable[[Callable[[_K], _T]], Callable[[_K], _T]]:
    """Decorates a function of a certificate, parsed or not, whose size `size_of` returns."""

    def decorated(function: Callable[[_K], _T]) -> Callable[[_K], _T]:
        @functools.lru_cache(CACHED)
        def small(certificate: _K) -> _T:
            if size_of(certificate) > CACHED_SIZE:
                raise _TooLargeError  # `lru_cache` keeps no exceptions
            return function(certificate)

        @functools.wraps(function)
        def result(certificate: _K) -> _T:
            try:
                return small(certificate)
            except _TooLargeError:
                return function(certificate)

        return result

    return decorated
