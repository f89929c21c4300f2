"""Show code from its source and figures from a notebook's stored output.

Both fail the build when what they name has gone:

    ```py source="patterns.pagination.paginator:next_link"
    ```

    <!-- output: notebooks/pagination.ipynb#tag -->
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import notebooks

_OPEN = re.compile(r"(?P<indent>[ \t>]*)(?P<fence>`{3,}|~{3,})(?P<info>.*)")
_OPTION = re.compile(r'(\w+)="([^"]*)"')
_OUTPUT = re.compile(
    r"(?P<indent>\s*)<!--\s*(?P<what>output|cell):\s*(?P<path>[^#]+)#(?P<tag>\S+)\s*-->\s*"
)
_ITEM = re.compile(r"[-*+] \S|1[.)] \S")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Missing(LookupError):
    """What a page wants to show is not there."""


@dataclass
class Fence:
    """A fenced block: its opening line taken apart, its body, and its closing line."""

    indent: str
    fence: str
    info: str
    body: list[str]
    close: str

    def lines(self) -> Iterator[str]:
        """Return the block as it was written."""
        yield f"{self.indent}{self.fence}{self.info}"
        yield from self.body
        if self.close:
            yield self.close


def blocks(text: str) -> Iterator[str | Fence]:
    """Split Markdown into lines outside fences and whole fences, in order."""
    lines = iter(text.split("\n"))
    for line in lines:
        found = _OPEN.fullmatch(line)
        if not found or (found["fence"][0] == "`" and "`" in found["info"]):
            yield line
            continue
        fence = Fence(found["indent"], found["fence"], found["info"], [], "")
        closing = re.compile(rf"[ \t>]*{re.escape(fence.fence)}{fence.fence[0]}*\s*")
        for inner in lines:
            if closing.fullmatch(inner):
                fence.close = inner
                break
            fence.body.append(inner)
        yield fence


def expand(
    text: str, root: Path, warn: Callable[[str], None], hold: Callable[[str], str]
) -> str:
    """Return the page with its inclusions filled in.

    `hold` takes finished HTML and returns a line that stands for it until Markdown
    has been rendered; `warn` is called with a sentence for each missing thing.
    """
    out: list[str] = []
    for block in blocks(text):
        if isinstance(block, str) and _needs_blank(out[-1] if out else "", block):
            out.append("")
        try:
            out.extend(_expand(block, root, hold))
        except (Missing, notebooks.Missing) as exc:
            warn(str(exc))
            out.extend(["", f"*{exc}*", ""])
    return "\n".join(out)


def doctests(lines: list[str]) -> list[str]:
    """Fence the doctests of a docstring, which Markdown would take for quotations.

    >>> doctests(["Words.", "", ">>> 1 + 1", "2", "", "More."])[2:6]
    ['```pycon', '>>> 1 + 1', '2', '```']
    """
    out: list[str] = []
    inside = False
    for block in [*blocks("\n".join(lines)), ""]:
        starts = isinstance(block, str) and block.lstrip().startswith(">>> ")
        if starts and not inside:
            out.append("```pycon")
            inside = True
        elif inside and (not isinstance(block, str) or not block.strip()):
            out.append("```")
            inside = False
        out.extend([block] if isinstance(block, str) else block.lines())
    return out[:-1]


def _needs_blank(before: str, line: str) -> bool:
    """Tell where a list follows a paragraph at once, as other readers allow.

    >>> _needs_blank("**Advantages:**", "- one")
    True
    >>> _needs_blank("- one", "- two")
    False
    """
    starts = _ITEM.match(line) is not None
    return (
        starts
        and bool(before.strip())
        and not re.match(r"\s|[-*+>|]\s|\d+[.)]", before)
    )


def _expand(
    block: str | Fence, root: Path, hold: Callable[[str], str]
) -> Iterator[str]:
    if isinstance(block, str):
        found = _OUTPUT.fullmatch(block)
        if not found:
            yield block
            return
        path = root / found["path"].strip()
        shown = notebooks.tagged(path, found["tag"], code=found["what"] == "cell")
        name = f"{found['path'].strip()}#{found['tag']}"
        figure = f'<figure class="kit-figure" data-source="{name}">{shown}</figure>'
        yield from ("", found["indent"] + hold(figure), "")
        return
    language, _, rest = block.info.strip().partition(" ")
    options = dict(_OPTION.findall(rest))
    if "source" not in options:
        yield from block.lines()
        return
    if any(line.strip() for line in block.body):
        raise Missing(f"the block for {options['source']} is filled in, not typed")
    code, title = source(root, options["source"], options.get("docstring") != "no")
    extra = f' hl_lines="{options["hl_lines"]}"' if "hl_lines" in options else ""
    fence = "`" * 8
    yield f'{block.indent}{fence}{language} title="{title}"{extra}'
    yield from (block.indent + line if line else line for line in code.split("\n"))
    yield block.indent + fence


def source(root: Path, name: str, docstring: bool = True) -> tuple[str, str]:
    """Return the code that `name` stands for, and a title that says where it is.

    `name` is a module (`patterns.pagination.paginator`) or a file of the repository
    (`tests/pagination/test_paginator.py`), and after a colon the functions, classes,
    methods (`Class.method`) or constants wanted, parted by commas.
    """
    where, _, wanted = name.partition(":")
    relative = where if "/" in where else f"{where.replace('.', '/')}.py"
    path = root / relative
    if not path.is_file():
        raise Missing(f"there is no {relative} to show")
    text = path.read_text(encoding="utf-8")
    if not wanted:
        return text.strip("\n"), relative
    tree = ast.parse(text)
    found = [
        _cut(text, _find(tree, one.strip(), relative), docstring)
        for one in wanted.split(",")
    ]
    return "\n\n\n".join(found), relative


def _find(tree: ast.Module, dotted: str, where: str) -> ast.stmt:
    body, found = tree.body, None
    for part in dotted.split("."):
        found = next((node for node in body if part in _names(node)), None)
        if found is None:
            raise Missing(f"{where} has no {dotted} to show")
        body = getattr(found, "body", [])
    assert found is not None
    return found


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, _DEFINITIONS):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _cut(text: str, node: ast.stmt, docstring: bool) -> str:
    lines = text.split("\n")
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    while first > 1 and lines[first - 2].lstrip().startswith("#"):
        first -= 1  # a comment right above belongs to the definition
    keep = range(first, (node.end_lineno or node.lineno) + 1)
    skip: range = range(0)
    if not docstring and isinstance(node, _DEFINITIONS) and ast.get_docstring(node):
        text_node = node.body[0]
        skip = range(text_node.lineno, (text_node.end_lineno or 0) + 1)
    return textwrap.dedent("\n".join(lines[i - 1] for i in keep if i not in skip))
