"""Execute the notebooks and store what they print, the same bytes each time.

    uv run python tests/kit/run_notebooks.py [--check] [NAME ...]

NAME is `pagination` or a path; without one, all notebooks are run. `--check` writes
nothing, names the cells that are not as stored, and exits with 1 if there are any.

What differs between runs, machines or editors is not kept: times of execution, the
version of Python, an editor's own metadata. A cell's id is the tag that others cite,
or else its section and number, so that it can be read and does not change by chance.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebooks() -> list[Path]:
    """Return every notebook of the tree."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def execute(path: Path) -> NotebookNode:
    """Return the notebook as it is after a run from top to bottom in a new kernel."""
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    book.metadata = NotebookNode(METADATA)
    NotebookClient(
        book,
        timeout=300,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute()
    return settle(book)


def settle(book: NotebookNode) -> NotebookNode:
    """Drop what differs by chance, and give each cell an id that can be read."""
    book.metadata = nbformat.from_dict(METADATA)
    book.nbformat, book.nbformat_minor = 4, 5
    for cell, name in zip(book.cells, names(book), strict=True):
        tags = cell.metadata.get("tags")
        cell.metadata = NotebookNode({"tags": sorted(tags)} if tags else {})
        cell.id = name
    return book


def names(book: NotebookNode) -> list[str]:
    """Return an id for each cell: its citable tag, or its section and a number."""
    section, used, found = "top", Counter[str](), []
    for cell in book.cells:
        head = re.match(r"#+ +(.+)", cell.source) if cell.cell_type != "code" else None
        if head:
            section = re.sub(r"[^a-z0-9]+", "-", head[1].lower()).strip("-")[:50]
        tags = sorted(cell.metadata.get("tags", []))
        cited = [tag for tag in tags if tag.startswith(("claim-", "figure-"))]
        used[section] += not cited
        found.append(cited[0] if cited else f"{section}-{used[section]}")
    return found


def changed(stored: NotebookNode, fresh: NotebookNode) -> list[str]:
    """Return the ids of the cells that are not as stored, or else `notebook`."""
    old, new = ({cell.id: cell for cell in book.cells} for book in (stored, fresh))
    found = [name for name in [*new, *old] if old.get(name) != new.get(name)]
    other = nbformat.writes(stored) != nbformat.writes(fresh)
    return list(dict.fromkeys(found)) or ["notebook"] * other


def main(argv: list[str] | None = None) -> int:
    """Run the notebooks that are named, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args(argv)
    known = {path.stem: path for path in notebooks()}
    unknown = [name for name in options.names if Path(name).stem not in known]
    if unknown:
        parser.error(f"no such notebook: {', '.join(unknown)}")
    stale = 0
    for name in [Path(name).stem for name in options.names] or known:
        stored, fresh = nbformat.read(known[name], 4), execute(known[name])
        cells = changed(stored, fresh)
        stale += bool(cells)
        if not options.check:
            nbformat.write(fresh, known[name])
        said = f"changed: {', '.join(cells)}" if cells else "as stored"
        print(f"notebooks/{name}.ipynb {said}")
    return int(options.check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
