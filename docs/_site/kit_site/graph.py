"""Find which page links to which, and draw a page's neighbours as a small SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.extend(v for k, v in attrs if k == "href" and v)


def links(content: str, url: str, pages: set[str]) -> list[str]:
    """Return the addresses in `pages` that the HTML links to, in order, each once."""
    parser = _Links()
    parser.feed(content)
    seen: dict[str, None] = {}
    for href in parser.found:
        target = urldefrag(urljoin(f"/{url}", href)).url.removeprefix("/")
        if target in pages and target != url:
            seen[target] = None
    return list(seen)


def backlinks(forward: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Turn "links to" into "linked from", keeping the order of the pages."""
    back: dict[str, list[str]] = {url: [] for url in forward}
    for url, targets in forward.items():
        for target in targets:
            back.setdefault(target, []).append(url)
    return back


@dataclass(frozen=True)
class Node:
    """A page in the drawing."""

    title: str
    href: str
    kind: str


_WIDE, _ROW, _NODE, _PAD = 720, 34, 212, 12


def neighbours(centre: str, before: Sequence[Node], after: Sequence[Node]) -> str:
    """Draw what links here (left), the page, and what it links to (right).

    Every node is a link, the order is the pages' own, and nothing moves.
    """
    rows = max(len(before), len(after), 1)
    tall = rows * _ROW + 2 * _PAD
    middle = tall / 2
    shapes: list[str] = []
    nodes: list[str] = []
    for side, group in (("in", before), ("out", after)):
        top = middle - len(group) * _ROW / 2
        for index, node in enumerate(group):
            y = top + index * _ROW + _ROW / 2
            shapes.append(_edge(side, y, middle))
            nodes.append(_node(side, y, node))
    label = html.escape(shorten(centre, 24))
    here = (
        f'<g class="kit-node kit-node--here"><rect x="{_WIDE / 2 - 88:g}" '
        f'y="{middle - 14:g}" width="176" height="28" rx="6"/>'
        f'<text x="{_WIDE / 2:g}" y="{middle + 4:g}" text-anchor="middle">{label}'
        "</text></g>"
    )
    name = html.escape(f"Links to and from {centre}", quote=True)
    return (
        f'<svg viewBox="0 0 {_WIDE} {tall:g}" role="group" aria-label="{name}">'
        f"{''.join(shapes)}{here}{''.join(nodes)}</svg>"
    )


def shorten(text: str, length: int) -> str:
    """Cut at a word so that the text fits its box.

    >>> shorten("API Integration Patterns Index", 24)
    'API Integration…'
    """
    if len(text) <= length:
        return text
    cut = text[: length - 1]
    return (cut.rpartition(" ")[0] or cut).rstrip(" ,:") + "…"


def _edge(side: str, y: float, middle: float) -> str:
    ends = (_NODE, _WIDE / 2 - 88) if side == "in" else (_WIDE / 2 + 88, _WIDE - _NODE)
    y1, y2 = (y, middle) if side == "in" else (middle, y)
    half = (ends[0] + ends[1]) / 2
    return (
        f'<path class="kit-edge" d="M{ends[0]:g} {y1:g}C{half:g} {y1:g} '
        f'{half:g} {y2:g} {ends[1]:g} {y2:g}"/>'
    )


def _node(side: str, y: float, node: Node) -> str:
    x = 0 if side == "in" else _WIDE - _NODE
    title = html.escape(node.title)
    short = html.escape(shorten(node.title, 31))
    return (
        f'<a href="{html.escape(node.href, quote=True)}" '
        f'class="kit-node kit-node--{node.kind}"><title>{title}</title>'
        f'<rect x="{x:g}" y="{y - 13:g}" width="{_NODE}" height="26" rx="6"/>'
        f'<text x="{x + 10:g}" y="{y + 4:g}">{short}</text></a>'
    )
