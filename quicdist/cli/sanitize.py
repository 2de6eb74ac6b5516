"""What a peer said, without what would steer the terminal that shows it."""

from __future__ import annotations

import logging


def harmless(text: str, keep: str = "") -> str:
    """`text` with a question mark for each control, bidi or other unprintable character.

    Those in `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else "?" for char in text)


def harmless_term(text: str) -> str:
    """A term in Erlang notation, which has escapes for such characters."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else f"\\x{{{ord(char):x}}}" for char in text)


class SanitizingFormatter(logging.Formatter):
    """Log lines: further lines of a message are set in, so that they do not look like others."""

    def format(self, record: logging.LogRecord) -> str:
        """As one string."""
        return harmless(super().format(record), keep="\n\t").replace("\n", "\n    ")
