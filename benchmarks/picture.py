"""Draws bar and line charts as SVG without a library."""

from __future__ import annotations

import math
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
.axis { stroke: #d0d7de } polyline { stroke-width: 2 }
polyline.ours { fill: none; stroke: #8250df }
polyline.other { fill: none; stroke: #8c959f; stroke-dasharray: 5 3 }
text.ours { fill: #8250df } text.other { fill: #57606a }
rect.ours { fill: #8250df } rect.other { fill: #8c959f } .plain { opacity: 0.5 }
@media (prefers-color-scheme: dark) {
  .ground { fill: #0d1117 } text { fill: #8b949e } .title { fill: #e6edf3 }
  .axis { stroke: #30363d } polyline.ours { stroke: #a371f7 } polyline.other { stroke: #6e7681 }
  text.ours { fill: #a371f7 } text.other { fill: #8b949e }
  rect.ours { fill: #a371f7 } rect.other { fill: #6e7681 }
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
    return _picture(parts, width, y, note)


def _picture(parts: list[str], width: int, y: int, note: str) -> str:
    """Returns the SVG of the parts, which end at `y`."""
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


# -- line charts --------------------------------------------------------------------------------

_PLOT_WIDTH = 246
_PLOT_HEIGHT = 170
_SCALE = 44
_NAME_HEIGHT = 14


@dataclass(frozen=True)
class Line:
    """The values of one candidate, one for each label of the chart."""

    name: str
    is_ours: bool
    values: Sequence[float]

    @property
    def kind(self) -> str:
        """The CSS class."""
        return "ours" if self.is_ours else "other"


@dataclass(frozen=True)
class Chart:
    """Lines over labels at equal distances. The scale starts at zero unless it is logarithmic."""

    title: str
    labels: Sequence[str]
    lines: Sequence[Line]
    is_logarithmic: bool = False


def draw_charts(charts: Sequence[Chart], note: str) -> str:
    """Draws two charts per row. Solid lines are quicdist, dashed ones others."""
    parts: list[str] = []
    y = _MARGIN
    for left, right in zip_longest(charts[::2], charts[1::2]):
        _draw_chart(parts, left, _MARGIN, y)
        if right is not None:
            _draw_chart(parts, right, _MARGIN + _PANEL, y)
        y += _PLOT_HEIGHT + 4 * _ROW
    return _picture(parts, 2 * _PANEL + 2 * _MARGIN, y, note)


def _draw_chart(parts: list[str], chart: Chart, x: int, y: int) -> None:
    parts.append(f'<text class="title" x="{x}" y="{y + 14}">{escape(chart.title)}</text>')
    top, begin = y + _ROW + 8, x + _SCALE
    heights = _heights(chart)
    step = _PLOT_WIDTH / max(len(chart.labels) - 1, 1)
    for tick, height in heights.ticks:
        at = top + _PLOT_HEIGHT - height
        ends = f'x1="{begin}" y1="{at:.1f}" x2="{begin + _PLOT_WIDTH}" y2="{at:.1f}"'
        parts.append(f'<line class="axis" {ends}/>')
        place = f'x="{begin - 6}" y="{at + 4:.1f}" text-anchor="end"'
        parts.append(f"<text {place}>{tick:,g}</text>")
    for number, label in enumerate(chart.labels):
        place = f'x="{begin + number * step:.1f}" y="{top + _PLOT_HEIGHT + 18}"'
        parts.append(f'<text {place} text-anchor="middle">{escape(label)}</text>')
    named = []
    for line in chart.lines:
        points = [
            (begin + number * step, top + _PLOT_HEIGHT - heights.of(value))
            for number, value in enumerate(line.values)
        ]
        shown = " ".join(f"{at:.1f},{height:.1f}" for at, height in points)
        parts.append(f'<polyline class="{line.kind}" points="{shown}"/>')
        named.append((points[-1][1], line))
    _name_lines(parts, named, begin + _PLOT_WIDTH + 8)


def _name_lines(parts: list[str], ends: Sequence[tuple[float, Line]], x: int) -> None:
    """Writes the names beside the ends of the lines, one below the other where they are close."""
    lowest = -math.inf
    for height, line in sorted(ends, key=lambda end: end[0]):
        lowest = max(height, lowest + _NAME_HEIGHT)
        text = f"{escape(line.name)} {line.values[-1]:,.{0 if line.values[-1] >= 10 else 1}f}"
        parts.append(f'<text class="{line.kind}" x="{x}" y="{lowest + 4:.1f}">{text}</text>')


@dataclass(frozen=True)
class _Heights:
    """The scale of a chart."""

    least: float
    most: float
    is_logarithmic: bool
    marks: Sequence[float]

    def of(self, value: float) -> float:
        """Returns the height of a value above the bottom of the chart."""
        if self.is_logarithmic:
            least, most = math.log(self.least), math.log(self.most)
            return (math.log(max(value, self.least)) - least) / (most - least) * _PLOT_HEIGHT
        return (value - self.least) / (self.most - self.least) * _PLOT_HEIGHT

    @property
    def ticks(self) -> Sequence[tuple[float, float]]:
        """The marked values and their heights."""
        return [(mark, self.of(mark)) for mark in self.marks]


def _heights(chart: Chart) -> _Heights:
    values = [value for line in chart.lines for value in line.values]
    most = max(values, default=1.0)
    if not chart.is_logarithmic:
        step = _round_step(most / 4)
        marks = [number * step for number in range(math.ceil(most / step) + 1)]
        return _Heights(0.0, marks[-1], False, marks)
    marks = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0]
    least = max((mark for mark in marks if mark <= min(values)), default=marks[0])
    largest = min((mark for mark in marks if mark >= most), default=marks[-1])
    return _Heights(least, largest, True, [mark for mark in marks if least <= mark <= largest])


def _round_step(step: float) -> float:
    """Returns 1, 2 or 5 times a power of ten that is at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step)
