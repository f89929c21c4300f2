"""Make a Markdown page of a notebook and its stored outputs; nothing is executed.

Cell tags are respected: `remove-cell`, `remove-input` and `remove-output` leave the
thing out, `hide-cell`, `hide-input` and `hide-output` fold it away. Any other tag is
an anchor on the page, so that a claim can link to the cell that shows it.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
# Best first. What runs in a page of its own (widgets, JavaScript) is not shown.
_KINDS = ("image/svg+xml", "text/html", "image/png", "image/jpeg", "text/plain")
# Text wider than a phone scrolls, so the keyboard must be able to reach it.
_NARROW = 36

CONTROLS = {
    f"{do}-{what}" for do in ("remove", "hide") for what in ("cell", "input", "output")
} | {"raises-exception", "nbval-ignore-output", "nbval-skip"}

Cell = dict[str, Any]


class Missing(LookupError):
    """A page wants an output that the notebook does not have."""


def load(path: Path) -> list[Cell]:
    """Return the notebook's cells."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return list(cells)


def joined(text: str | list[str]) -> str:
    """Return a notebook's text, which may be stored as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def plain(text: str) -> str:
    """Return terminal output without its control sequences.

    >>> plain("\\x1b[0;31mValueError\\x1b[0m: no")
    'ValueError: no'
    """
    return _ANSI.sub("", text)


def tags(cell: Cell) -> set[str]:
    """Return the cell's tags."""
    return set(cell.get("metadata", {}).get("tags", ()))


def tagged(path: Path, tag: str, code: bool = False) -> str:
    """Return, as HTML, the stored outputs of the one cell that carries `tag`."""
    if not path.is_file():
        raise Missing(f"there is no notebook {path.name}")
    cells = [cell for cell in load(path) if tag in tags(cell)]
    if len(cells) != 1:
        raise Missing(f"{path.name} has {len(cells)} cells tagged '{tag}', not one")
    shown = "".join(output(each) for each in cells[0].get("outputs", ()))
    if not shown:
        raise Missing(f"the cell '{tag}' of {path.name} has no stored output")
    return (highlighted(joined(cells[0]["source"])) if code else "") + shown


def highlighted(code: str) -> str:
    """Return Python as the HTML that a fenced block gives."""
    return highlight(code, PythonLexer(), HtmlFormatter(wrapcode=True))


def page(cells: list[Cell], hold: Callable[[str], str]) -> str:
    """Return the notebook as Markdown; `hold` keeps finished HTML out of its way."""
    label = "Plot"
    parts: list[str] = []
    named: set[str] = set()
    for number, cell in enumerate(cells):
        text = joined(cell["source"])
        if "remove-cell" in tags(cell) or not text.strip():
            continue
        for tag in sorted(tags(cell) - CONTROLS - named):
            named.add(tag)
            parts.append(f'<a id="{html.escape(tag, quote=True)}"></a>')
        if cell["cell_type"] == "markdown":
            headings = _HEADING.findall(text)
            label = headings[-1] if headings else label
            parts.append(_attached(text, cell.get("attachments", {})))
        elif cell["cell_type"] == "code":
            parts.extend(_code(number, cell, text, label, hold))
    return "\n\n".join(parts) + "\n"


def _code(
    number: int, cell: Cell, text: str, label: str, hold: Callable[[str], str]
) -> Iterator[str]:
    has = tags(cell)
    # Where the outputs of this cell go when it is run in the page.
    mark = f'data-kit-cell="{number}"'
    if "remove-input" not in has:
        fence = "`" * 8
        block = f"{fence}py\n{text.rstrip()}\n{fence}"
        if has & {"hide-input", "hide-cell"}:
            block = _fold("Show the code", block)
        yield block
    if "remove-output" in has:
        return
    shown = "".join(output(each, label) for each in cell.get("outputs", ()))
    if not shown:
        yield hold(f'<div class="kit-outputs" {mark} hidden></div>')
    else:
        if has & {"hide-output", "hide-cell"}:
            shown = f"<details><summary>Show the output</summary>{shown}</details>"
        yield hold(f'<div class="kit-outputs" {mark}>{shown}</div>')


def _fold(summary: str, block: str) -> str:
    inner = "\n".join(f"    {line}" for line in block.split("\n"))
    return f'??? code "{summary}"\n\n{inner}'


def _attached(text: str, attachments: dict[str, dict[str, str]]) -> str:
    for name, kinds in attachments.items():
        for kind, data in kinds.items():
            text = text.replace(f"attachment:{name}", f"data:{kind};base64,{data}")
    return text


def output(item: dict[str, Any], label: str = "Plot") -> str:
    """Return one stored output as HTML."""
    kind = item["output_type"]
    if kind == "stream":
        style = "kit-out kit-err" if item.get("name") == "stderr" else "kit-out"
        return _pre(plain(joined(item["text"])), style)
    if kind == "error":
        return _error(item)
    data = item.get("data", {})
    best = next((known for known in _KINDS if known in data), None)
    if best is None:
        return ""
    shown = _data(best, joined(data[best]), label)
    words = joined(data.get("text/plain", ""))
    if best.startswith("image/") and words and not words.startswith("<"):
        shown += f'<p class="kit-caption">{html.escape(words)}</p>'
    return shown


def _data(kind: str, text: str, label: str) -> str:
    if kind == "text/plain":
        return _pre(plain(text), "kit-out")
    if kind == "text/html":
        return f'<div class="kit-html" tabindex="0">{text}</div>'
    if kind == "image/svg+xml":
        svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>", "", text, flags=re.DOTALL).strip()
        if not re.search(r"<svg[^>]*\b(role|aria-label)=", svg):
            name = html.escape(label, quote=True)
            svg = svg.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
        return f'<div class="kit-plot" tabindex="0">{svg}</div>'
    data = base64.b64encode(base64.b64decode(text)).decode()
    name = html.escape(label, quote=True)
    image = f'<img src="data:{kind};base64,{data}" alt="{name}">'
    return f'<div class="kit-plot" tabindex="0">{image}</div>'


def _error(item: dict[str, Any]) -> str:
    """Show the last line; the way there is folded away."""
    head = f"{item.get('ename', 'Error')}: {plain(item.get('evalue', ''))}"
    trace = "\n".join(plain(line) for line in item.get("traceback", ()))
    folded = f"<details><summary>Traceback</summary>{_pre(trace)}</details>"
    return _pre(head, "kit-out kit-err") + (folded if trace.strip() else "")


def _pre(text: str, style: str = "kit-out") -> str:
    text = text.rstrip("\n")
    wide = max((len(line) for line in text.split("\n")), default=0) > _NARROW
    reach = ' tabindex="0"' if wide else ""
    return f'<pre class="{style}"{reach}>{html.escape(text)}</pre>'
