"""Removes control characters from the text of peers, which could control the terminal."""

from __future__ import annotations

import logging


def sanitized(text: str, keep: str = "") -> str:
    """Replaces control, bidi and other unprintable characters by question marks.

    The characters in `keep` are not replaced.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else "?" for char in text)


def sanitized_term(text: str) -> str:
    """Escapes such characters in a term in Erlang notation."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else f"\\x{{{ord(char):x}}}" for char in text)


class SanitizingFormatter(logging.Formatter):
    """Formats log records. Further lines of a message are indented, so none looks like a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the sanitized line."""
        return sanitized(super().format(record), keep="\n\t").replace("\n", "\n    ")
