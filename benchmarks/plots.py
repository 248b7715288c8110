"""
Plots as SVG, by hand: two kinds of them are all that is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

__all__ = ["bars", "lines"]

COLOURS = ("#0b6bcb", "#c0392b", "#2e8b57", "#b8860b", "#7d3c98")
WIDTH = 680
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 56, 44


def _document(height: int, title: str, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {WIDTH} {height}"'
    font = 'font-family="sans-serif" font-size="12" fill="#222"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} {font}>',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            f'<text x="12" y="20" font-weight="bold">{escape(title)}</text>',
            *parts,
            "</svg>\n",
        )
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}"/>'
    )


def _short(value: float) -> str:
    for limit, suffix in ((1 << 20, "Mi"), (1 << 10, "Ki")):
        if value >= limit and value % limit == 0:
            return f"{value / limit:g} {suffix}"
    return f"{value:,g}"


def bars(
    title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], ours: str
) -> str:
    """
    Horizontal bars, on a logarithmic scale.

    :param groups: a heading, and under it names and values.
    :param ours: the names that begin so are ours.
    """
    values = [value for _, group in groups for _, value in group]
    low, high = _decades(values)
    left = 150
    unit = (WIDTH - left - 70) / math.log10(high / low)
    parts: list[str] = []
    y = 44
    for heading, group in groups:
        parts.append(f'<g font-weight="bold">{_text(12, y, heading)}</g>')
        for name, value in group:
            y += 17
            length = max(1.0, unit * math.log10(value / low))
            colour = COLOURS[0] if name.startswith(ours) else "#aab2bd"
            parts.append(_text(left - 6, y, name, "end"))
            parts.append(
                f'<rect x="{left}" y="{y - 10}" width="{length:.1f}" height="12" '
                f'fill="{colour}"/>'
            )
            parts.append(_text(left + length + 5, y, f"{value:.3g}"))
        y += 26
    return _document(y, title, parts)


def lines(
    title: str,
    points: Sequence[float],
    series: dict[str, list[list[float]]],
    unit: str,
    zero: bool = False,
) -> str:
    """
    Lines over a logarithmic axis, on logarithmic scale, with the range of each value.

    :param series: for each name, for each point: the median, the lowest, the highest.
    :param zero: whether a point of 0 is put at a place of its own, left of 1.
    """
    height = 340
    values = [
        value for each in series.values() for row in each for value in row if value > 0
    ]
    low, high = _decades(values)

    def across(point: float) -> float:
        first = 0.5 if zero else points[0]
        share = math.log(max(point, first) / first) / math.log(points[-1] / first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(high / low)
        return height - BOTTOM - share * (height - TOP - BOTTOM)

    parts = [_text(WIDTH - RIGHT, height - 8, title, "end"), _text(LEFT, 44, unit)]
    step = low
    while step <= high * 1.001:
        parts.append(_line(LEFT, up(step), WIDTH - RIGHT, up(step), "#ddd"))
        parts.append(_text(LEFT - 6, up(step) + 4, f"{step:,g}", "end"))
        step *= 10
    last = -100.0
    for point in points:
        x = across(point)
        parts.append(_line(x, height - BOTTOM, x, height - BOTTOM + 4, "#222"))
        if x - last > 34:
            parts.append(_text(x, height - BOTTOM + 18, _short(point), "middle"))
            last = x
    ends: list[float] = []
    for place, (name, rows) in enumerate(series.items()):
        colour = COLOURS[place % len(COLOURS)]
        pairs = [
            (across(point), row)
            for point, row in zip(points, rows, strict=True)
            if row[0] > 0
        ]
        path = " ".join(f"{x:.1f},{up(row[0]):.1f}" for x, row in pairs)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" '
            'stroke-width="2"/>'
        )
        for x, row in pairs:
            parts.append(_line(x, up(row[1]), x, up(row[2]), colour))
            parts.append(
                f'<circle cx="{x:.1f}" cy="{up(row[0]):.1f}" r="2.5" fill="{colour}"/>'
            )
        y = up(pairs[-1][1][0]) + 4
        while any(abs(y - end) < 14 for end in ends):
            y -= 1
        ends.append(y)
        label = _text(WIDTH - RIGHT + 8, y, name)
        parts.append(f'<g fill="{colour}">{label}</g>')
    return _document(height, f"What grows with {title}", parts)


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """
    The powers of ten around all values.
    """
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values)))
    return low, high if high > low else low * 10
