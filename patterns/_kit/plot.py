# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Draw the notebooks' figures as SVG, in plain Python.

A figure needs no package and is the same text on every machine, so a notebook's stored
output can be compared, and it works in the browser's Python. It has no background and
takes the colour of the words around it; as an image of its own it is grey, which can
be read on white and on black. Where no SVG is shown, its words stand instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["Figure", "bars", "lines"]

_WIDE = 660
_COLOURS = ("#2b8a9b", "#c8623a", "#8f6fc4", "#7d8a2e")
_DASHES = ("", "7 4", "2 4", "9 3 2 3")
# `svg:root` is this image alone: within a page the root is the page.
_STYLE = (
    "<style>svg:root{color:#797979}"
    ".kit-fig text{fill:currentColor;font:13px system-ui,sans-serif}"
    ".kit-fig .rule{stroke:currentColor;opacity:.22}</style>"
)


class Figure:
    """An SVG for Jupyter, with words that say the same."""

    def __init__(self, words: str, high: float, parts: Sequence[str]) -> None:
        self.words, self.high, self.parts = words, high, parts

    def __repr__(self) -> str:
        return self.words

    def _repr_svg_(self) -> str:
        name = escape(self.words)
        size = f'viewBox="0 0 {_WIDE} {self.high:g}" width="{_WIDE}"'
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="kit-fig" {size} '
            f'height="{self.high:g}" role="img" aria-label="{name}">'
        )
        return "\n".join(
            [head, f"<title>{name}</title>{_STYLE}", *self.parts, "</svg>"]
        )


def bars(
    words: str, kinds: Sequence[str], rows: Mapping[str, Sequence[float]]
) -> Figure:
    """Draw one stacked bar for each row, with a part for each kind.

    >>> bars("Eggs by day", ["whole", "broken"], {"Monday": [9, 3], "Tuesday": [4, 0]})
    Eggs by day
    """
    left, step, bar = 190.0, 30.0, 16.0
    most = max(sum(values) for values in rows.values()) or 1
    scale = (_WIDE - left - 190) / most
    parts = [_key(left, kinds)]
    for place, (name, values) in enumerate(rows.items()):
        x, y = left, 32 + place * step
        parts.append(_text(left - 10, y + 13, name, "end"))
        for value, colour in zip(values, _COLOURS, strict=False):
            if value:
                box = f'x="{x:.1f}" y="{y:g}" width="{value * scale:.1f}"'
                parts.append(f'<rect {box} height="{bar:g}" fill="{colour}"/>')
            x += value * scale
        said = [f"{v:g} {k}" for v, k in zip(values, kinds, strict=True) if v]
        parts.append(_text(x + 8, y + 13, ", ".join(said) or "none"))
    return Figure(words, 32 + len(rows) * step, parts)


def lines(
    words: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    log: bool = False,
) -> Figure:
    """Draw one line for each series of points, with its name at its end.

    `x` and `y` name the axes; `log` makes both of them logarithmic.

    >>> lines("Growth", {"linear": [(0, 0), (9, 9)]}, x="time", y="size")
    Growth
    """
    points = [point for line in series.values() for point in line]
    across = _Axis([p[0] for p in points], 62, _WIDE - 150, log)
    up = _Axis([p[1] for p in points], 268, 34, log)
    parts = [_text(8, 16, y), _text(_WIDE - 150, 308, x, "end")]
    for tick in up.ticks():
        at = up.place(tick)
        rule = f'x1="62" x2="{_WIDE - 150}" y1="{at:.1f}" y2="{at:.1f}"'
        parts.append(f'<line class="rule" {rule}/>')
        parts.append(_text(54, at + 4, _short(tick), "end"))
    parts += [
        _text(across.place(tick), 288, _short(tick), "middle")
        for tick in across.ticks()
    ]
    ends = _apart([up.place(line[-1][1]) for line in series.values()])
    for n, (name, line) in enumerate(series.items()):
        spots = [(across.place(a), up.place(b)) for a, b in line]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in spots)
        look = f'stroke="{_COLOURS[n]}" stroke-dasharray="{_DASHES[n]}"'
        parts.append(
            f'<polyline points="{path}" fill="none" stroke-width="2.5" {look}/>'
        )
        parts += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{_COLOURS[n]}"/>'
            for a, b in spots
        ]
        parts.append(_text(spots[-1][0] + 10, ends[n] + 4, name))
    return Figure(words, 316, parts)


class _Axis:
    """A scale from the values of one dimension to places between two edges."""

    def __init__(
        self, values: Sequence[float], start: float, end: float, log: bool
    ) -> None:
        self.start, self.end, self.log = start, end, log
        self.low = self._bend(min(values)) if log else min(0.0, *values)
        self.high = self._bend(max(values))
        if log:
            self.low, self.high = math.floor(self.low), math.ceil(self.high)

    def _bend(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def place(self, value: float) -> float:
        share = (self._bend(value) - self.low) / ((self.high - self.low) or 1)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            return [10.0**power for power in range(int(self.low), int(self.high) + 1)]
        span = self.high - self.low or 1
        unit = 10.0 ** math.floor(math.log10(span / 5))
        step = next(n * unit for n in (1, 2, 5, 10) if span / (n * unit) < 6)
        count = math.floor(span / step + 1e-9)
        return [self.low + n * step for n in range(count + 1)]


def _apart(places: Sequence[float], gap: float = 17) -> list[float]:
    """Return the places moved so far up that no two are closer than a line of text.

    >>> _apart([100, 98, 50])
    [100, 83, 50]
    """
    moved, above = list(places), math.inf
    for n in sorted(range(len(moved)), key=lambda n: -moved[n]):
        above = moved[n] = min(moved[n], above - gap)
    return moved


def _short(value: float) -> str:
    """Return a number with thousands parted by a thin space.

    >>> _short(20000.0), _short(0.5)
    ('20\u2009000', '0.5')
    """
    return f"{value:,.10g}".replace(",", "\u2009")


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(words)}</text>"


def _key(x: float, kinds: Sequence[str]) -> str:
    """Return the key of the colours, on the first line."""
    parts = []
    for kind, colour in zip(kinds, _COLOURS, strict=False):
        box = f'x="{x:g}" y="6" width="12" height="12"'
        parts.append(f'<rect {box} fill="{colour}"/>{_text(x + 18, 17, kind)}')
        x += 46 + 7.5 * len(kind)
    return "".join(parts)
