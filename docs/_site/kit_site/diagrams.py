"""Draw sequence and state diagrams as SVG, from the part of Mermaid given here.

The source stays Mermaid, so an editor, a vault and JupyterLab draw it as well; the
site needs neither a script nor a download. Known lines:

    sequenceDiagram                      stateDiagram-v2
    participant C as Client              [*] --> Closed
    C->>S: asks   (-->> is dashed)       Closed --> Open: too many failures
    Note over C,S: words             state "Half open" as Half
    loop words … end (alt, else, opt)    Open --> [*]

Colours come from the page's own variables through classes.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise


class NotDrawn(ValueError):
    """The source is not in the part of Mermaid that is drawn here."""


_CHAR, _LINE = 7.4, 17.0
_WRAP = 30


def draw(source: str) -> str:
    """Return a diagram as a figure, which scrolls where it is wider than the page."""
    lines = [line.strip() for line in source.strip().splitlines()]
    lines = [line for line in lines if line and not line.startswith("%%")]
    if not lines:
        raise NotDrawn("it is empty")
    kind, *rest = lines
    if kind == "sequenceDiagram":
        svg = _Sequence(rest).svg()
    elif kind in ("stateDiagram", "stateDiagram-v2"):
        svg = _States(rest).svg()
    else:
        raise NotDrawn(f"'{kind}' is neither sequenceDiagram nor stateDiagram-v2")
    return f'<figure class="kit-diagram" tabindex="0">{svg}</figure>'


def wrapped(text: str, width: int = _WRAP) -> list[str]:
    """Break words into lines; `<br>` breaks too.

    >>> wrapped("too many failures in the window", 18)
    ['too many failures', 'in the window']
    """
    lines: list[str] = []
    for part in re.split(r"<br\s*/?>", text):
        line = ""
        for word in part.split():
            if line and len(line) + len(word) + 1 > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append(line)
    return lines


def _wide(lines: Iterable[str]) -> float:
    return max((len(line) for line in lines), default=0) * _CHAR


def _text(x: float, y: float, lines: list[str], style: str, anchor: str) -> str:
    """Set lines of text with `y` as the middle of the block."""
    top = y - (len(lines) - 1) * _LINE / 2 + 4.5
    spans = "".join(
        f'<tspan x="{x:g}" y="{top + i * _LINE:g}">{html.escape(line)}</tspan>'
        for i, line in enumerate(lines)
    )
    return f'<text class="{style}" text-anchor="{anchor}">{spans}</text>'


def _box(x: float, y: float, w: float, h: float, style: str, rx: float = 6) -> str:
    return (
        f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{w:g}" '
        f'height="{h:g}" rx="{rx:g}"/>'
    )


def _head(x: float, y: float, dx: float, dy: float) -> str:
    """Draw an arrow head whose point is at (x, y), coming from direction (dx, dy)."""
    back, half = 9, 4.5
    bx, by = x - dx * back, y - dy * back
    points = (
        (x, y),
        (bx - dy * half, by + dx * half),
        (bx + dy * half, by - dx * half),
    )
    listed = " ".join(f"{px:g},{py:g}" for px, py in points)
    return f'<polygon class="kit-d-head" points="{listed}"/>'


def _svg(width: float, height: float, title: str, parts: list[str]) -> str:
    name = html.escape(title, quote=True)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{name}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class _Step:
    kind: str  # message, note, open, else, close
    ends: tuple[str, ...] = ()
    words: str = ""
    dashed: bool = False


class _Sequence:
    _TOP, _GAP = 44.0, 18.0

    def __init__(self, lines: list[str]) -> None:
        self.labels: dict[str, str] = {}
        self.steps: list[_Step] = []
        depth = 0
        for line in lines:
            depth += self.read(line)
            if depth < 0:
                raise NotDrawn("an 'end' closes nothing")
        if depth:
            raise NotDrawn("a block has no 'end'")
        if not self.labels:
            raise NotDrawn("nobody takes part")
        self.x = self.columns()

    def read(self, line: str) -> int:
        """Take in one line, and return how it changes the depth of blocks."""
        if m := re.fullmatch(r"(?:participant|actor) (\w+)(?: as (.+))?", line):
            self.labels[m[1]] = m[2] or m[1]
        elif m := re.fullmatch(r"(\w+)\s*(--?)>>?\s*(\w+)\s*:\s*(.+)", line):
            for name in (m[1], m[3]):
                self.labels.setdefault(name, name)
            self.steps.append(_Step("message", (m[1], m[3]), m[4], m[2] == "--"))
        elif m := re.fullmatch(r"[Nn]ote over (\w+)(?:\s*,\s*(\w+))?\s*:\s*(.+)", line):
            ends = (m[1], m[2] or m[1])
            for name in ends:
                self.labels.setdefault(name, name)
            self.steps.append(_Step("note", ends, m[3]))
        elif m := re.fullmatch(r"(loop|alt|opt|else)\b\s*(.*)", line):
            kind = "else" if m[1] == "else" else "open"
            self.steps.append(_Step(kind, (), line))
            return 0 if kind == "else" else 1
        elif line == "end":
            self.steps.append(_Step("close"))
            return -1
        elif line != "autonumber":
            raise NotDrawn(f"cannot read '{line}'")
        return 0

    def columns(self) -> dict[str, float]:
        """Place the participants so far apart that what is said between them fits."""
        order = list(self.labels)
        boxes = [_wide(wrapped(self.labels[name], 18)) + 28 for name in order]
        gaps = [max(130.0, (left + right) / 2 + 24) for left, right in pairwise(boxes)]
        for step in self.steps:
            spots = sorted(order.index(name) for name in step.ends)
            if len(spots) == 2 and spots[1] - spots[0] == 1:
                need = _wide(wrapped(step.words)) + 34
                gaps[spots[0]] = max(gaps[spots[0]], need)
        xs = [boxes[0] / 2 + 24]
        for gap in gaps:
            xs.append(xs[-1] + gap)
        self.right = xs[-1] + boxes[-1] / 2 + 24
        for step in self.steps:  # a message to oneself at the right edge
            if step.kind == "message" and step.ends[0] == step.ends[1] == order[-1]:
                self.right = max(self.right, xs[-1] + 44 + _wide(wrapped(step.words)))
        return dict(zip(order, xs, strict=True))

    def svg(self) -> str:
        y, frames = self._TOP + self._GAP, 0.0
        back: list[str] = []
        parts: list[str] = []
        stack: list[float] = []
        for step in self.steps:
            lines = wrapped(step.words, 60 if step.kind in ("open", "else") else _WRAP)
            if step.kind == "open":
                stack.append(y)
                inset = 6.0 * len(stack)
                parts.append(_text(inset + 8, y + 13, lines, "kit-d-frame", "start"))
                y += 30
            elif step.kind == "else":
                inset = 6.0 * len(stack)
                edge = self.right - inset
                back.append(f'<path class="kit-d-rule" d="M{inset:g} {y:g}H{edge:g}"/>')
                parts.append(_text(inset + 8, y + 14, lines, "kit-d-frame", "start"))
                y += 30
            elif step.kind == "close":
                inset, top = 6.0 * len(stack), stack.pop()
                back.append(
                    _box(inset, top, self.right - 2 * inset, y - top, "kit-d-block")
                )
                y += 14
            elif step.kind == "note":
                y = self.note(step, lines, y, parts)
            else:
                y = self.message(step, lines, y, parts)
            frames = max(frames, y)
        life = [
            f'<path class="kit-d-life" d="M{x:g} {self._TOP:g}V{y:g}"/>'
            for x in self.x.values()
        ]
        heads = [self.head(name, x) for name, x in self.x.items()]
        title = f"Sequence: {', '.join(self.labels.values())}. " + "; ".join(
            f"{self.labels[s.ends[0]]} to {self.labels[s.ends[1]]}: {s.words}"
            for s in self.steps
            if s.kind == "message"
        )
        return _svg(self.right, y + 6, title, [*back, *life, *heads, *parts])

    def head(self, name: str, x: float) -> str:
        lines = wrapped(self.labels[name], 18)
        wide = _wide(lines) + 28
        box = _box(x - wide / 2, 2, wide, self._TOP - 4, "kit-d-node")
        return box + _text(x, self._TOP / 2, lines, "kit-d-name", "middle")

    def note(self, step: _Step, lines: list[str], y: float, parts: list[str]) -> float:
        left, right = sorted(self.x[name] for name in step.ends)
        wide = max(right - left + 60, _wide(lines) + 24)
        tall = len(lines) * _LINE + 12
        middle = (left + right) / 2
        start = min(max(middle - wide / 2, 4), max(self.right - wide - 4, 4))
        parts.append(_box(start, y, wide, tall, "kit-d-note", 3))
        parts.append(
            _text(start + wide / 2, y + tall / 2, lines, "kit-d-words", "middle")
        )
        return y + tall + self._GAP

    def message(
        self, step: _Step, lines: list[str], y: float, parts: list[str]
    ) -> float:
        start, end = (self.x[name] for name in step.ends)
        style = "kit-d-line kit-d-line--dashed" if step.dashed else "kit-d-line"
        if start == end:
            y += 8
            parts.append(f'<path class="{style}" d="M{start:g} {y:g}h26v22h-24"/>')
            parts.append(_head(start + 1, y + 22, -1, 0))
            parts.append(_text(start + 36, y + 11, lines, "kit-d-words", "start"))
            return y + max(22, len(lines) * _LINE) + self._GAP
        tall = len(lines) * _LINE
        way = 1 if end > start else -1
        middle = (start + end) / 2
        parts.append(_text(middle, y + tall / 2 - 2, lines, "kit-d-words", "middle"))
        y += tall + 6
        parts.append(f'<path class="{style}" d="M{start:g} {y:g}H{end - way * 8:g}"/>')
        parts.append(_head(end - way, y, way, 0))
        return y + self._GAP


@dataclass(frozen=True)
class _Move:
    start: str
    end: str
    words: str

    @property
    def lines(self) -> list[str]:
        return wrapped(self.words, 18) if self.words else []


_START = "(start)"


class _States:
    """States stand in one column in the order named; other moves are arcs beside it.

    A move to the next state is a straight arrow. A longer move down runs on the right,
    a move back up on the left, each in a lane of its own and from a port of its own;
    words stand in the gaps between states, where no line crosses. So nothing can
    overlap, and the drawing is narrow enough for a phone. A state that may be the end
    has a double outline.
    """

    _TALL, _PORT, _GAP, _LANE = 38.0, 15.0, 40.0, 22.0

    def __init__(self, lines: list[str]) -> None:
        self.labels: dict[str, str] = {}
        self.moves: list[_Move] = []
        self.final: set[str] = set()
        for line in lines:
            self.read(line)
        if not self.moves:
            raise NotDrawn("nothing moves")
        used = [n for move in self.moves for n in (move.start, move.end)]
        self.order = sorted(dict.fromkeys(used), key=lambda n: n != _START)
        self.row = {name: i for i, name in enumerate(self.order)}
        self.split()
        self.place()

    def read(self, line: str) -> None:
        if m := re.fullmatch(r'state "([^"]+)" as (\w+)', line):
            self.labels[m[2]] = m[1]
        elif m := re.fullmatch(r"(\w+)\s*-->\s*\[\*\]", line):
            self.labels.setdefault(m[1], m[1])
            self.final.add(m[1])
        elif m := re.fullmatch(r"(\w+|\[\*\])\s*-->\s*(\w+)\s*(?::\s*(.+))?", line):
            start = _START if m[1] == "[*]" else m[1]
            for name in (start, m[2]):
                self.labels.setdefault(name, name)
            self.moves.append(_Move(start, m[2], m[3] or ""))
        elif m := re.fullmatch(r"(\w+)\s*:\s*(.+)", line):
            self.labels[m[1]] = m[2]
        elif not line.startswith("direction "):
            raise NotDrawn(f"cannot read '{line}'")

    def span(self, move: _Move) -> int:
        return self.row[move.end] - self.row[move.start]

    def split(self) -> None:
        """Sort the moves into straight ones and arcs; a short arc lies inside."""
        self.straight: dict[int, _Move] = {}
        arcs: list[_Move] = []
        for move in self.moves:
            here = self.row[move.start]
            if self.span(move) == 1 and here not in self.straight:
                self.straight[here] = move
            else:
                arcs.append(move)
        arcs.sort(key=lambda m: (abs(self.span(m)), self.row[m.start]))
        self.right = [m for m in arcs if self.span(m) >= 0]
        self.left = [m for m in arcs if self.span(m) < 0]

    def ports(self, name: str, side: list[_Move]) -> list[tuple[_Move, bool]]:
        """Return the ends of arcs at a state from top to bottom, so that few cross."""
        own = [m for m in side if m.start == m.end == name]
        ends = [(m, True) for m in side if m.start == name and m not in own]
        ends += [(m, False) for m in side if m.end == name and m not in own]
        row = self.row[name]

        def other(m: _Move, starts: bool) -> int:
            return self.row[m.end if starts else m.start]

        above = [e for e in ends if other(*e) < row]
        below = [e for e in ends if other(*e) > row]
        loops = [(m, starts) for m in own for starts in (True, False)]
        return [*above, *loops, *reversed(below)]

    def place(self) -> None:
        """Work out every height: of states by their ports, of gaps by their words."""
        tall = {
            name: 16.0
            if name == _START
            else max(
                self._TALL,
                *(
                    self._PORT * len(self.ports(name, side)) + 12
                    for side in (self.left, self.right)
                ),
            )
            for name in self.order
        }
        room = dict.fromkeys(range(len(self.order)), 0)
        for row, move in self.straight.items():
            room[row] = max(room[row], len(move.lines))
        for move in (*self.left, *self.right):
            room[self.gap(move)] = max(room[self.gap(move)], len(move.lines))
        y = 4.0
        self.top: dict[str, float] = {}
        self.tall = tall
        for row, name in enumerate(self.order):
            self.top[name] = y
            y += tall[name] + max(self._GAP, room[row] * _LINE + 18)
            self.end = self.top[name] + tall[name]
        self.half = max(self.wide(n) for n in self.order) / 2

    def gap(self, move: _Move) -> int:
        """Return the row below which a move's words stand: halfway along."""
        low = min(self.row[move.start], self.row[move.end])
        return low + (abs(self.span(move)) - 1) // 2 if self.span(move) else low

    def middle(self, row: int) -> float:
        """Return the middle of the gap below a row."""
        name = self.order[row]
        low = self.top[name] + self.tall[name]
        if row + 1 == len(self.order):
            return low
        return (low + self.top[self.order[row + 1]]) / 2

    def wide(self, name: str) -> float:
        return 16.0 if name == _START else max(84.0, len(self.labels[name]) * 8 + 30)

    def port(self, name: str, side: list[_Move], end: tuple[_Move, bool]) -> float:
        every = self.ports(name, side)
        at = self.top[name] + self.tall[name] / 2
        return at + (every.index(end) - (len(every) - 1) / 2) * self._PORT

    def svg(self) -> str:
        beside = max((_wide(m.lines) for m in self.straight.values()), default=0.0)
        first = {
            -1: self.half + self._LANE,
            1: max(self.half + self._LANE, beside + 30 if beside else 0),
        }
        lanes: dict[int, list[float]] = {}
        width = {-1: self.half + 8, 1: max(self.half + 8, beside + 18)}
        for way, side in ((-1, self.left), (1, self.right)):
            far, lanes[way] = first[way], []
            for move in side:
                lanes[way].append(far)
                width[way] = far + 12 + _wide(move.lines)
                far += max(self._LANE, _wide(move.lines) + self._LANE)
        x = width[-1]
        parts: list[str] = []
        for row, move in self.straight.items():
            parts += self.down(row, move, x)
        for way, side in ((-1, self.left), (1, self.right)):
            for move, far in zip(side, lanes[way], strict=True):
                parts += self.arc(move, side, way, x, far)
        nodes = [self.node(name, x) for name in self.order]
        title = "States: " + "; ".join(
            f"{self.labels[m.start].strip('()')} to {self.labels[m.end]}"
            + (f" when {m.words}" if m.words else "")
            for m in self.moves
        )
        return _svg(x + width[1], self.end + 6, title, [*parts, *nodes])

    def down(self, row: int, move: _Move, x: float) -> list[str]:
        top = self.top[move.start] + self.tall[move.start]
        low = self.top[move.end]
        out = [
            f'<path class="kit-d-line" d="M{x:g} {top:g}V{low - 8:g}"/>',
            _head(x, low - 1, 0, 1),
        ]
        if move.words:
            y = self.middle(row) - 2
            out.append(_text(x + 10, y, move.lines, "kit-d-words", "start"))
        return out

    def arc(
        self, move: _Move, side: list[_Move], way: int, x: float, lane: float
    ) -> list[str]:
        y1 = self.port(move.start, side, (move, True))
        y2 = self.port(move.end, side, (move, False))
        x1 = x + way * self.wide(move.start) / 2
        x2 = x + way * self.wide(move.end) / 2
        far, r = x + way * lane, min(7.0, abs(y2 - y1) / 2)
        turn = 1 if y2 > y1 else -1
        path = (
            f"M{x1:g} {y1:g}H{far - way * r:g}Q{far:g} {y1:g} {far:g} {y1 + turn * r:g}"
            f"V{y2 - turn * r:g}Q{far:g} {y2:g} {far - way * r:g} {y2:g}"
            f"H{x2 + way * 8:g}"
        )
        line = f'<path class="kit-d-line" d="{path}"/>'
        out = [line, _head(x2 + way, y2, -way, 0)]
        if move.words:
            y = (y1 + y2) / 2 if move.start == move.end else self.middle(self.gap(move))
            anchor = "start" if way > 0 else "end"
            out.append(_text(far + way * 7, y, move.lines, "kit-d-words", anchor))
        return out

    def node(self, name: str, x: float) -> str:
        top, tall, wide = self.top[name], self.tall[name], self.wide(name)
        if name == _START:
            return f'<circle class="kit-d-dot" cx="{x:g}" cy="{top + 8:g}" r="8"/>'
        box = _box(x - wide / 2, top, wide, tall, "kit-d-node", 19)
        if name in self.final:
            box += _box(x - wide / 2 + 4, top + 4, wide - 8, tall - 8, "kit-d-node", 15)
        return box + _text(
            x, top + tall / 2, [self.labels[name]], "kit-d-name", "middle"
        )
