"""Formats the figures of a soak as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from soak.processes import Kind, Member, Sample

_WARM_UP = 0.2
"""The initial share of a process's life that slopes exclude, because caches fill."""


def warm(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Returns the samples after the warm-up."""
    return samples[int(len(samples) * _WARM_UP) :]


def halves(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Returns both halves of the samples; a leak grows in the second half as in the first."""
    middle = len(samples) // 2
    return samples[:middle], samples[middle:]


def slope(samples: Sequence[Sample], field: str) -> float:
    """Returns the slope per hour of a least-squares fit to a field of the samples."""
    if len(samples) < 3:
        return 0.0
    times = [sample.at for sample in samples]
    values = [float(getattr(sample, field)) for sample in samples]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((t - middle) ** 2 for t in times)
    product = sum((t - middle) * (v - mean) for t, v in zip(times, values, strict=True))
    return 3600 * product / spread if spread else 0.0


def page(members: Sequence[Member], command: str, pause: float) -> str:
    """Returns the whole report, in the form that docs/faults.md contains."""
    count = {kind: sum(member.kind is kind for member in members) for kind in Kind}
    return f"""\
`{command}`: {count[Kind.PYTHON]} Python nodes and
{count[Kind.ERLANG]} Erlang nodes behind gateways on one machine; something was killed, stopped or
moved every {pause:g} seconds on average. "Lost" counts numbers missing within one connection.

{traffic(members)}

Processes that were never killed, from the end of the warm-up (a fifth of the time) to the end. A
leak grows in the second half as in the first. Blocks are the memory blocks that Python has
allocated for objects; resident memory follows the peak use. The hourly rates of a run of a few
minutes are noise.

{growth(members)}
"""


def traffic(members: Sequence[Member]) -> str:
    """Returns the table of messages by node."""
    lines = [
        "| node | sent | received | MB received | lost | twice | corrupt | nodedown | killed |"
        " moved | died |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for member in members:
        counts = [member.count(key) for key in ("sent", "received")]
        counts.append(member.count("bytes") // 1_000_000)
        counts += [member.count(key) for key in ("lost", "twice", "corrupt", "nodedown")]
        counts += [member.kills, member.moves, member.deaths]
        lines.append(f"| {member} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def growth(members: Sequence[Member]) -> str:
    """Returns the growth of processes that were never killed, after the warm-up and per hour."""
    lines = [
        "| never killed | KiB | an hour, 1st half | 2nd half | blocks | an hour, 1st half |"
        " 2nd half | files | an hour | tasks | an hour |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for member in members:
        samples = warm(member.samples)
        if member.may_die or len(samples) < 3:
            continue
        cells = []
        for field in ("memory", "blocks"):
            if member.kind is Kind.ERLANG and field == "blocks":
                cells += ["", "", ""]
                continue
            cells.append(_from_to(samples, field))
            cells += [f"{slope(half, field):+.0f}" for half in halves(samples)]
        for field in ("files", "tasks"):
            cells += [_from_to(samples, field), f"{slope(samples, field):+.1f}"]
        lines.append(f"| {member} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _from_to(samples: Sequence[Sample], field: str) -> str:
    return f"{getattr(samples[0], field)} to {getattr(samples[-1], field)}"


def wrong(members: Sequence[Member]) -> list[str]:
    """Returns the violations, one line each."""
    found = []
    nodes = [member for member in members if member.kind is not Kind.GATEWAY]
    for member in members:
        for key in ("lost", "twice", "corrupt"):
            if member.count(key):
                found.append(f"{member}: {member.count(key)} messages {key}")
        if member.deaths:
            found.append(f"{member}: {member.deaths} unexpected exits")
    for member in nodes:
        if member.now["connected"] < len(nodes) - 1:
            found.append(f"{member}: connected to only {member.now['connected']} nodes at the end")
    return found
