"""The figures of a soak, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from soak.processes import Kind, Member, Sample

_WARM_UP = 0.2
"""The share of a process's life that is left out of slopes: caches fill."""


def warm(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Those after the warm-up."""
    return samples[int(len(samples) * _WARM_UP) :]


def halves(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """What grows without end grows in the second as in the first."""
    middle = len(samples) // 2
    return samples[:middle], samples[middle:]


def slope(samples: Sequence[Sample], field: str) -> float:
    """Of the least-squares line through a field of the samples, per hour."""
    if len(samples) < 3:
        return 0.0
    times = [sample.at for sample in samples]
    values = [float(getattr(sample, field)) for sample in samples]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((t - middle) ** 2 for t in times)
    product = sum((t - middle) * (v - mean) for t, v in zip(times, values, strict=True))
    return 3600 * product / spread if spread else 0.0


def page(members: Sequence[Member], command: str, pause: float) -> str:
    """All of it, as docs/faults.md has it."""
    count = {kind: sum(member.kind is kind for member in members) for kind in Kind}
    return f"""\
`{command}`: {count[Kind.PYTHON]} Python nodes and
{count[Kind.ERLANG]} Erlang nodes behind gateways on one machine; something was killed, stopped or
moved every {pause:g} seconds on average. "Lost" counts numbers missing within one connection.

{traffic(members)}

Of those that were never killed, from when they were warm (a fifth of the time) to the end; what
grows without end does so in the second half as in the first. Blocks are what Python has allocated
for objects; it asks the system for as much as was once needed at the same time. Rates an hour of a
run of minutes are noise.

{growth(members)}
"""


def traffic(members: Sequence[Member]) -> str:
    """Messages, by node."""
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
    """Of the processes that were never killed, when warm and at the end; how much more an hour."""
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
    """What must not be, one line each."""
    found = []
    nodes = [member for member in members if member.kind is not Kind.GATEWAY]
    for member in members:
        for key in ("lost", "twice", "corrupt"):
            if member.count(key):
                found.append(f"{member}: {member.count(key)} messages {key}")
        if member.deaths:
            found.append(f"{member}: ended by itself, {member.deaths} times")
    for member in nodes:
        if member.now["connected"] < len(nodes) - 1:
            found.append(f"{member}: at the end connected with {member.now['connected']} only")
    return found
