"""Write the reference page of a pattern, from the catalogue's own facts."""

from __future__ import annotations

from patterns._kit.catalogue import Pattern


def address(pattern: Pattern) -> str:
    """Return the source path of the pattern's reference page."""
    return f"reference/{pattern.name}.md"


def raw(pattern: Pattern) -> str:
    """Return where the site publishes the module, byte for byte."""
    return f"m/{pattern.name}.py"


def tests(pattern: Pattern) -> str:
    """Return the repository path of the pattern's test file, by the rule of names."""
    return f"tests/{pattern.folder}/test_{pattern.stem}.py"


def page(pattern: Pattern) -> str:
    """Return the page's Markdown; mkdocstrings fills in the members.

    The copy button and the packages come from the page's record (see `record`).
    """
    return f"""---
title: {pattern.stem}
description: {pattern.promise!r}
search:
  boost: 0.7
kind: reference
modules: [{pattern.name}]
---

# `{pattern.module}`

```py
from patterns.{pattern.folder} import {pattern.stem}
```

::: {pattern.module}

## Source

??? code "{pattern.path.name}, {len(pattern.text.splitlines())} lines"

    ```py source="{pattern.module}"
    ```
"""
