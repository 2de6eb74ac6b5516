"""Bars as SVG, without a library: what `benchmarks/nodes.py` draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_ROW = 22
_NAMES = 190
_BARS = 420
_VALUES = 110
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; fill: #24292f }
.ours { fill: #8250df } .other { fill: #afb8c1 }
@media (prefers-color-scheme: dark) {
  text { fill: #8b949e } .title { fill: #e6edf3 } .ours { fill: #a371f7 } .other { fill: #484f58 }
}
"""


@dataclass(frozen=True)
class Bar:
    name: str
    value: float
    is_ours: bool


@dataclass(frozen=True)
class Panel:
    """Bars of one measurement."""

    title: str
    is_better_low: bool
    digits: int
    bars: Sequence[Bar]


def draw(panels: Sequence[Panel]) -> str:
    """One panel under the other."""
    parts: list[str] = []
    y = 8
    for panel in panels:
        y = _panel(parts, panel, y) + 16
    width = _NAMES + _BARS + _VALUES
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" role="img">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])


def _panel(parts: list[str], panel: Panel, y: int) -> int:
    better = "less" if panel.is_better_low else "more"
    parts.append(
        f'<text class="title" x="8" y="{y + 14}">{escape(panel.title)} ({better} is better)</text>'
    )
    y += _ROW
    most = max(bar.value for bar in panel.bars)
    for bar in panel.bars:
        kind = "ours" if bar.is_ours else "other"
        length = max(1.0, bar.value / most * _BARS)
        text = y + 15
        parts.append(
            f'<text x="{_NAMES - 8}" y="{text}" text-anchor="end">{escape(bar.name)}</text>'
        )
        size = f'width="{length:.1f}" height="16"'
        parts.append(f'<rect class="{kind}" x="{_NAMES}" y="{y + 3}" {size} rx="2"/>')
        value = f"{bar.value:,.{panel.digits}f}"
        parts.append(f'<text x="{_NAMES + length + 6:.1f}" y="{text}">{value}</text>')
        y += _ROW
    return y
