"""The outcomes of scenarios and the table of them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class Verdict(enum.Enum):
    """The verdict shown in the table."""

    OK = "ok"
    FAILED = "FAILED"
    LIMIT = "limit"
    """The scenario failed because of a known limit of the peer, not of quicdist."""

    NOT_APPLICABLE = "n/a"
    """Not run, for the given reason."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A cell of the table."""

    verdict: Verdict
    note: str = ""
    """Why the verdict is not a plain `ok`, in one line."""

    short: str = ""
    """Short text for the cell, such as `30/30`."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Column:
    """All outcomes with one peer and one dialer."""

    carrier: str
    dialer: str
    about: str
    """Description of the peer."""

    outcomes: Mapping[str, Outcome]
    """Outcomes by scenario title."""


def is_failure(columns: Sequence[Column]) -> bool:
    """Whether there are failures other than known limits."""
    return any(
        outcome.verdict is Verdict.FAILED
        for column in columns
        for outcome in column.outcomes.values()
    )


def table(titles: Sequence[str], columns: Sequence[Column]) -> str:
    """Formats the table: scenarios as rows, peers as columns, then the peers and the notes."""
    notes: dict[str, int] = {}
    rows = [["scenario", *(column.carrier for column in columns)]]
    rows.append(["", *(column.dialer for column in columns)])
    for title in titles:
        cells = [_cell(column.outcomes.get(title), notes) for column in columns]
        rows.append([title, *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(2, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    peers = dict.fromkeys(f"{column.carrier}: {column.about}" for column in columns)
    texts = [f"[{number}] {note}" for note, number in notes.items()]
    return "\n".join([*lines, "", *peers, *([""] if texts else []), *texts])


def _cell(outcome: Outcome | None, notes: dict[str, int]) -> str:
    if outcome is None:
        return ""
    words = [outcome.verdict.value, outcome.short]
    if outcome.note:
        words.append(f"[{notes.setdefault(outcome.note, len(notes) + 1)}]")
    return " ".join(filter(None, words))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"
