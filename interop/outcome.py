"""What came of each scenario, and the table of it all."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class Verdict(enum.Enum):
    """The word in the table."""

    OK = "ok"
    FAILED = "FAILED"
    LIMIT = "limit"
    """Tried, and it failed as that peer is known to: not ours to mend."""

    NOT_APPLICABLE = "n/a"
    """Not tried, for the reason given."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One cell."""

    verdict: Verdict
    note: str = ""
    """Why it is no plain `ok`, in one line."""

    short: str = ""
    """A word or two for the cell itself, such as `30/30`."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Column:
    """All outcomes with one peer, one of the two having dialed."""

    carrier: str
    dialer: str
    about: str
    """What exactly the peer was."""

    outcomes: Mapping[str, Outcome]
    """By the scenario's title."""


def is_failure(columns: Sequence[Column]) -> bool:
    """Whether anything failed that is not known to."""
    return any(
        outcome.verdict is Verdict.FAILED
        for column in columns
        for outcome in column.outcomes.values()
    )


def table(titles: Sequence[str], columns: Sequence[Column]) -> str:
    """Scenarios down, peers across, and below it who they were and what the numbers say."""
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
