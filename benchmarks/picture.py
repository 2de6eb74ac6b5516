"""Draws bar charts as SVG without a library, for `benchmarks/nodes.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest

_ROW = 20
_NAMES = 240
_BARS = 150
_VALUES = 70
_PANEL = _NAMES + _BARS + _VALUES
_MARGIN = 12
_STYLE = """
.ground { fill: #ffffff }
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; fill: #24292f }
.ours { fill: #8250df } .other { fill: #8c959f } .plain { opacity: 0.5 }
@media (prefers-color-scheme: dark) {
  .ground { fill: #0d1117 } text { fill: #8b949e } .title { fill: #e6edf3 }
  .ours { fill: #a371f7 } .other { fill: #6e7681 }
}
"""


@dataclass(frozen=True)
class Bar:
    name: str
    value: float
    is_ours: bool
    is_encrypted: bool

    @property
    def kind(self) -> str:
        """The CSS classes of the bar."""
        return f"{'ours' if self.is_ours else 'other'}{'' if self.is_encrypted else ' plain'}"


@dataclass(frozen=True)
class Panel:
    """The bars of one measurement, which start at zero and share one scale."""

    title: str
    is_better_low: bool
    digits: int
    bars: Sequence[Bar]


def draw(panels: Sequence[Panel], note: str) -> str:
    """Draws two panels per row below a legend; `note` names the test machine."""
    width = 2 * _PANEL + 2 * _MARGIN
    parts = _legend()
    y = _MARGIN + 2 * _ROW
    for left, right in zip_longest(panels[::2], panels[1::2]):
        ends = [_panel(parts, left, _MARGIN, y)]
        if right is not None:
            ends.append(_panel(parts, right, _MARGIN + _PANEL, y))
        y = max(ends) + _MARGIN
    parts.append(f'<text x="{_MARGIN}" y="{y + _MARGIN}">{escape(note)}</text>')
    height = y + _ROW + _MARGIN // 2
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    ground = f'<rect class="ground" width="{width}" height="{height}" rx="6"/>'
    return "\n".join([head, f"<style>{_STYLE}</style>", ground, *parts, "</svg>", ""])


def _legend() -> list[str]:
    kinds = [
        ("ours", "quicdist over QUIC", 0),
        ("ours plain", "quicdist over TCP: not encrypted", 170),
        ("other", "others over QUIC", 430),
        ("other plain", "others over TCP: not encrypted", 590),
    ]
    parts = []
    for kind, text, at in kinds:
        x = _MARGIN + at
        parts.append(f'<rect class="{kind}" x="{x}" y="{_MARGIN}" width="14" height="14" rx="2"/>')
        parts.append(f'<text x="{x + 20}" y="{_MARGIN + 11}">{text}</text>')
    return parts


def _panel(parts: list[str], panel: Panel, x: int, y: int) -> int:
    better = "less" if panel.is_better_low else "more"
    title = f"{escape(panel.title)} ({better} is better)"
    parts.append(f'<text class="title" x="{x}" y="{y + 14}">{title}</text>')
    y += _ROW + 2
    most = max(bar.value for bar in panel.bars)
    begin = x + _NAMES
    for bar in panel.bars:
        length = max(1.0, bar.value / most * _BARS)
        name = f'x="{begin - 8}" y="{y + 14}" text-anchor="end"'
        parts.append(f"<text {name}>{escape(bar.name)}</text>")
        size = f'width="{length:.1f}" height="14"'
        parts.append(f'<rect class="{bar.kind}" x="{begin}" y="{y + 3}" {size} rx="2"/>')
        value = f"{bar.value:,.{panel.digits}f}"
        parts.append(f'<text x="{begin + length + 6:.1f}" y="{y + 14}">{value}</text>')
        y += _ROW
    return y
