"""The figures of a soak, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from soak.processes import Kind, Member, Sample

_WARM_UP = 0.2
"""The share of a process's life that is left out of slopes: caches fill."""


def slope(samples: Sequence[Sample], field: str) -> float:
    """Of the least-squares line through a field of the samples, per hour."""
    samples = samples[int(len(samples) * _WARM_UP) :]
    if len(samples) < 3:
        return 0.0
    times = [sample.at for sample in samples]
    values = [float(getattr(sample, field)) for sample in samples]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((t - middle) ** 2 for t in times)
    product = sum((t - middle) * (v - mean) for t, v in zip(times, values, strict=True))
    return 3600 * product / spread if spread else 0.0


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
    """Of the processes that were never killed: first and last, and the slope between."""
    lines = [
        "| never killed | KiB, warm | KiB at the end | KiB an hour | files | files an hour |"
        " tasks | tasks an hour |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for member in members:
        samples = member.samples
        if member.may_die or len(samples) < 3:
            continue
        warm, last = samples[int(len(samples) * _WARM_UP)], samples[-1]
        cells = [
            str(warm.memory),
            str(last.memory),
            f"{slope(samples, 'memory'):+.0f}",
            f"{warm.files} to {last.files}",
            f"{slope(samples, 'files'):+.1f}",
            f"{warm.tasks} to {last.tasks}",
            f"{slope(samples, 'tasks'):+.1f}",
        ]
        lines.append(f"| {member} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def faults(members: Sequence[Member]) -> list[str]:
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
