"""The optional library of commands that draw on a terminal."""

from __future__ import annotations


def need_library(what: str) -> None:
    """Raises MissingExtra if prompt_toolkit is not installed. `what` needs it."""
    from quicdist.extras import optional

    optional("prompt_toolkit", what=what, library="prompt_toolkit", extra="terminal")
