"""A view as lines of text. Control characters from the node are removed."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from quicdist.cli.sanitize import sanitized, sanitized_term
from quicdist.cli.top.python_node import PythonSample
from quicdist.cli.top.sampling import Figures, Process, Sample, Sort
from quicdist.cli.top.watching import ConnectionTraffic, View
from quicdist.etf import Atom
from quicdist.etf.notation import format_bounded

Line: TypeAlias = "list[tuple[str, str]]"
"""Styles and texts; the styles are `title`, `sorted`, `problem`, `faint` and none."""

_COLUMNS = ((Sort.REDUCTIONS, "REDS/S"), (Sort.MEMORY, "MEMORY"), (Sort.MAILBOX, "MAILBOX"))
_WIDTH = 9
"""The width of a column of numbers."""

_MOST_CONNECTIONS = 10
"""The maximum number of connections of a Python node to show."""

HEAD = 7
"""The number of lines above the first process."""


def lines(view: View, width: int) -> Iterator[Line]:
    """Returns the lines of a view, cut to `width` columns."""
    for line in _head(view):
        yield _cut(line, width)
    if view.sample is None:
        return
    if isinstance(view.sample, PythonSample):
        for line in _python_processes(view.sample, view):
            yield _cut(line, width)
        return
    yield _cut(_titles(view.sort), width)
    title_width = _title_width(width)
    for row in _sorted(view.sample, view.sort):
        yield _cut(_process(row, view, title_width), width)


def plain(view: View, width: int) -> str:
    """Returns a view as plain text, for a pipe."""
    return "".join("".join(text for _, text in line).rstrip() + "\n" for line in lines(view, width))


# -- the head -----------------------------------------------------------------------------------


def _head(view: View) -> Iterator[Line]:
    yield [("class:title", sanitized(view.peer)), ("", f"  {_kind_of_node(view)}")]
    if view.problem is not None:
        yield [("class:problem", f"trying again: {sanitized(view.problem)}")]
    if view.sample is None:
        if view.problem is None:
            yield [("class:faint", "looking ...")]
        return
    if isinstance(view.sample, PythonSample):
        yield from _python_figures(view.sample)
    else:
        yield from _beam_figures(view.sample)
    if view.connection is not None:
        yield [("", _connection(view.connection))]
    yield []


def _beam_figures(sample: Sample) -> Iterator[Line]:
    figures = sample.figures
    yield [("", _load(figures, sample))]
    yield [("", _memory(figures))]
    yield [("", _nodes(figures.nodes))]


def _python_figures(sample: PythonSample) -> Iterator[Line]:
    status = sample.status
    yield [
        (
            "",
            f"CPU {sample.cpu_share:.0%}   running calls {status.calls}   processes "
            f"{status.processes}   mailboxes {status.mailboxes}   messages waiting "
            f"{status.messages} ({amount(status.message_bytes)}B)",
        )
    ]
    yield [("", _nodes([one.node for one in status.connections]))]
    for one in status.connections[:_MOST_CONNECTIONS]:
        trip = "" if one.round_trip is None else f", round trip {one.round_trip / 1000:.1f} ms"
        yield [
            (
                "",
                f"  {sanitized(one.node)}: {sanitized(one.carrier)}{trip}, in "
                f"{amount(one.bytes_received)}B, out {amount(one.bytes_sent)}B, queued "
                f"{amount(one.bytes_queued)}B, {_many(one.datagrams_lost, 'datagram')} lost",
            )
        ]


def _kind_of_node(view: View) -> str:
    if view.sample is None:
        return ""
    pause = "paused, " if view.is_paused else ""
    if isinstance(view.sample, PythonSample):
        status = view.sample.status
        return (
            f"{sanitized(status.language)}, up {_duration(status.uptime)}; {pause}seen over "
            f"{view.sample.window:.1f} s"
        )
    figures = view.sample.figures
    return (
        f"OTP {sanitized(figures.release)}, {_many(figures.schedulers, 'scheduler')}, "
        f"up {_duration(figures.uptime)}; {pause}seen over {view.sample.window:.1f} s"
    )


def _load(figures: Figures, sample: Sample) -> str:
    looked = "" if sample.seen + 1 >= figures.processes else f" ({sample.seen} sampled)"
    return (
        f"processes {figures.processes} of {figures.process_limit}{looked}   "
        f"run queue {figures.run_queue}   ports {figures.ports}   atoms {figures.atoms}   "
        f"sample took {sample.cost * 1000:.0f} ms"
    )


def _memory(figures: Figures) -> str:
    sizes = {str(name): size for name, size in figures.memory}
    parts = [
        f"{name} {amount(sizes[name])}B"
        for name in ("processes", "binary", "ets", "atom", "code")
        if name in sizes
    ]
    ports = f"in {amount(figures.bytes_in)}B, out {amount(figures.bytes_out)}B"
    return f"memory {amount(sizes.get('total', 0))}B: {', '.join(parts)}   ports: {ports}"


def _nodes(nodes: Sequence[Atom]) -> str:
    names = ", ".join(sanitized(name) for name in nodes[:50])
    return f"connected to {_many(len(nodes), 'node')}: {names}"


def _path(path: str) -> str:
    """Says how datagrams travel, unless no relay is involved."""
    return "" if path == "plain" else f", {path}"


def _connection(connection: ConnectionTraffic) -> str:
    info, traffic = connection.info, connection.info.traffic
    trip = "" if info.round_trip is None else f", round trip {info.round_trip * 1000:.1f} ms"
    return (
        f"connection: {info.alpn or info.carrier}{_path(info.path)}{trip}, "
        f"in {amount(connection.received)}B/s ({amount(traffic.bytes_received)}B), "
        f"out {amount(connection.sent)}B/s ({amount(traffic.bytes_sent)}B), "
        f"{_many(traffic.datagrams_lost, 'datagram')} lost"
    )


# -- the processes ------------------------------------------------------------------------------


def _titles(sort: Sort) -> Line:
    numbers = [
        ("class:sorted" if one is sort else "class:title", f"{title:>{_WIDTH}}")
        for one, title in _COLUMNS
    ]
    return [("class:title", f"{'PID':<14}"), *numbers, ("class:title", "  NAME OR FIRST FUNCTION")]


def _title_width(width: int) -> int:
    """Half of the width that the numbers leave; the other half shows the current function."""
    return max(16, (width - 14 - _WIDTH * len(_COLUMNS) - 3) // 2)


def _sorted(sample: Sample, sort: Sort) -> list[Process]:
    return sorted(sample.rows, key=lambda row: row[sort.column - 1], reverse=True)


def _process(row: Process, view: View, title_width: int) -> Line:
    assert isinstance(view.sample, Sample)
    pid = sanitized_term(format_bounded(row.pid, node=view.peer))
    title = fitted(_function_or_term(row.title), title_width)
    doing = "ended" if row.doing is None else _function_or_term(row.doing)
    reductions = amount(row.reductions / view.sample.window)
    return [
        ("", f"{pid:<14}{reductions:>{_WIDTH}}{amount(row.memory):>{_WIDTH}}"),
        ("", f"{row.mailbox:>{_WIDTH}}  {title} "),
        ("class:faint", doing),
    ]


def _python_processes(sample: PythonSample, view: View) -> Iterator[Line]:
    """Sorted by queued messages, or with the sort `memory` by bytes."""
    title = f"{'PID':<14}{'MEMORY':>{_WIDTH}}{'MAILBOX':>{_WIDTH}}{'MONITORS':>{_WIDTH}}  NAME"
    yield [("class:title", title)]
    by_size = view.sort is Sort.MEMORY
    rows = sorted(
        sample.status.rows, key=lambda row: row.bytes if by_size else row.messages, reverse=True
    )
    for row in rows:
        pid = sanitized_term(format_bounded(row.pid, node=view.peer))
        name = "" if row.name == "undefined" else sanitized_term(format_bounded(row.name))
        numbers = f"{amount(row.bytes):>{_WIDTH}}{row.messages:>{_WIDTH}}{row.monitors:>{_WIDTH}}"
        yield [("", f"{pid:<14}{numbers}  {name}")]


def _function_or_term(term: object) -> str:
    match term:
        case (str() as module, str() as function, int() as arity):
            name = f"{format_bounded(module)}:{format_bounded(function)}/{arity}"
            return sanitized_term(name)
    return sanitized_term(format_bounded(term))


# -- text ---------------------------------------------------------------------------------------


def amount(number: float) -> str:
    """Formats a number in at most five characters: `999`, `12.3k`, `4.5M`."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 999.5:
            return f"{number:.0f}" if not unit else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f}P"


def fitted(text: str, width: int) -> str:
    """Cuts or pads text to `width` columns. Wide characters take two, combining ones none."""
    taken, used = [], 0
    for char in text:
        columns = _columns(char)
        if used + columns > width:
            break
        taken.append(char)
        used += columns
    return "".join(taken) + " " * (width - used)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _cut(line: Line, width: int) -> Line:
    cut: Line = []
    for style, text in line:
        length = sum(map(_columns, text))
        if length > width:
            cut.append((style, fitted(text, width)))
            return cut
        cut.append((style, text))
        width -= length
    return cut


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _duration(milliseconds: int) -> str:
    minutes, seconds = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days} d ' if days else ''}{hours}:{minutes:02}:{seconds:02}"
