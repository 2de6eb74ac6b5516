"""The exception of the term reader."""

from __future__ import annotations

from quicdist.etf.errors import EtfError


class NotationError(EtfError, ValueError):
    """The text is not a term. `position` is an index in the text, `expected` the expected token."""

    def __init__(self, text: str, position: int, expected: str) -> None:
        self.position = position
        self.expected = expected
        self.line = text.count("\n", 0, position) + 1
        self.column = position - (text.rfind("\n", 0, position) + 1) + 1
        where = (
            f"column {self.column}" if self.line == 1 else f"line {self.line}, column {self.column}"
        )
        found = text[position : position + 12].split("\n")[0]
        got = f"found {found!r}" if position < len(text) else "the text ends"
        super().__init__(f"{where}: expected {expected}, {got}")
