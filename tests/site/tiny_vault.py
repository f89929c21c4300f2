"""A tiny vault with everything a page can hold, and how to build it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

SVG = (
    '<svg viewBox="0 0 40 20" xmlns="http://www.w3.org/2000/svg">'
    '<rect class="bar" width="40" height="20"/></svg>'
)


def code(source: str, *outputs: dict[str, Any], tags: tuple[str, ...] = ()) -> Any:
    """Return a code cell with stored outputs."""
    return {
        "cell_type": "code",
        "execution_count": 1,
        "id": "c",
        "metadata": {"tags": list(tags)},
        "outputs": list(outputs),
        "source": source,
    }


def words(source: str) -> Any:
    """Return a Markdown cell."""
    return {"cell_type": "markdown", "id": "m", "metadata": {}, "source": source}


def printed(text: str) -> dict[str, Any]:
    """Return what `print` stores."""
    return {"output_type": "stream", "name": "stdout", "text": text}


def shown(**data: str) -> dict[str, Any]:
    """Return what a rich display stores; `svg` stands for `image/svg+xml`."""
    kinds = {"html": "text/html", "svg": "image/svg+xml", "text": "text/plain"}
    return {
        "output_type": "display_data",
        "metadata": {},
        "data": {kinds[key]: value for key, value in data.items()},
    }


def raised(name: str, value: str, *trace: str) -> dict[str, Any]:
    """Return what an exception stores."""
    return {
        "output_type": "error",
        "ename": name,
        "evalue": value,
        "traceback": list(trace),
    }


def notebook(*cells: Any) -> str:
    """Return a notebook as text."""
    return json.dumps(
        {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    )


MODULE = '''# SPDX-License-Identifier: MIT
# /// script
# dependencies = ["httpx>=0.28.1"]
# ///
"""Walk a list that ends."""

__all__ = ["LIMIT", "walk"]

# Why seven: nobody asks for an eighth.
LIMIT = 7


def walk(items: list[int]) -> list[int]:
    """Return the items, at most `LIMIT` of them.

    Raises:
        ValueError: There are none & it says so.
    """
    if not items:
        raise ValueError("nothing to walk")
    return items[:LIMIT]
'''

VAULT = {
    "docs/The Index.md": """---
state: permanent
type: moc-node
moc-type: index
---

# The Index

## Core

- [[First Note]] - the first
- [[Second: A Note 2.0|the second]] - with words
- [[First Note#A [[Second: A Note 2.0|linked]] heading]]

| page | why |
|---|---|
| [[First Note\\|in a table]] | [[walk.ipynb]] |

- [x] checked
- [ ] not checked
""".replace("[[First Note#A [[Second: A Note 2.0|linked]] heading]]", "[[#Core]]"),
    "docs/notes/First Note.md": """---
state: growing
type: pattern
aliases: [Number One]
modules: [one/walker]
notebooks: [notebooks/walk.ipynb]
tests: [tests/one/test_walker.py]
---

# First Note

## Why [[Second: A Note 2.0|this]] heading

Not in `[[code]]` nor <code>[[inline]]</code> nor <!-- [[comment]] --> here.

    [[indented]]

```text
[[fenced]]
```

<!--
[[Block comment]]
-->

See [the notebook](../../notebooks/walk.ipynb#the-walk), [the
module](../../patterns/one/walker.py), [its tests](../../tests/one/test_walker.py)
and [[Number One]].

```py source="patterns.one.walker:walk" docstring="no"
```

<!-- output: notebooks/walk.ipynb#plot -->

```mermaid
sequenceDiagram
    participant C as Client
    C->>S: GET /items
    S-->>C: 200, Link: next
```

```mermaid
stateDiagram-v2
    [*] --> Closed
    Closed --> Open: failures
    Open --> HalfOpen: later
    HalfOpen --> Closed: it works
    HalfOpen --> Open: it does not
```
""",
    "docs/notes/Second: A Note 2.0.md": """---
state: seedling
type: pattern
---

# Second: A Note 2.0

Back to [[First Note#Why this heading]].
""",
    "docs/Health.md": "# Health\n\n| page | state |\n|---|---|\n| all | well |\n",
    "docs/specs.yml": """- id: rfc8288
  title: Web Linking
  date: 2017-10
  status: proposed standard
  url: https://www.rfc-editor.org/rfc/rfc8288
""",
    "notebooks/walk.ipynb": notebook(
        words(
            "# A walk\n\nOf [[First Note]] and [again](../docs/notes/First%20Note.md)."
        ),
        words("## The walk"),
        code("print('a<b')", printed("a<b\n")),
        code("plot()", shown(svg=SVG, text="<SVG>"), tags=("plot",)),
        code("hidden = 1", printed("out of sight"), tags=("remove-cell",)),
        code(
            "walk([])",
            raised("ValueError", "nothing", "\x1b[0;31mValueError\x1b[0m: nothing"),
        ),
        code("frame", shown(html="<b>bold</b>", text="bold")),
    ),
    "patterns/__init__.py": "",
    "patterns/one/__init__.py": "",
    "patterns/one/walker.py": MODULE,
    "tests/one/test_walker.py": "from patterns.one import walker\n",
}
NAV = """nav:
  - The Index.md
  - Notes:
      - notes/First Note.md
      - "notes/Second: A Note 2.0.md"
  - notebooks/walk.ipynb
  - reference/one/walker.md
  - Health.md
"""


@dataclass
class Build:
    """What a build left and what it said."""

    code: int
    said: str
    site: Path

    def page(self, address: str) -> str:
        """Return a built page."""
        return (self.site / address / "index.html").read_text(encoding="utf-8")


def build(root: Path, site: Path) -> Build:
    """Build strictly, never with `-q`: that hides warnings from the strict build."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "-d", str(site)],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        timeout=300,
    )
    return Build(done.returncode, done.stdout + done.stderr, site)


def vault(root: Path, changes: dict[str, tuple[str, str]] | None = None) -> Path:
    """Write the tiny vault with the real machinery and the real mkdocs.yml.

    `changes` maps a file to what is replaced in it, and by what.
    """
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    before, _, rest = config.partition("# nav: written")
    after = rest.partition("# nav: end")[2]
    files = {**VAULT, "mkdocs.yml": before + NAV + after}
    for path, text in files.items():
        old, new = (changes or {}).get(path, ("", ""))
        assert old in text
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
    machinery = root / "docs" / "_site"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "docs" / "_site", machinery, ignore=ignore)
    return root
