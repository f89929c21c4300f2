"""Gather what a page says about itself beside its text: the record of a note."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from patterns._kit.catalogue import Pattern


@dataclass
class Record:
    """What the template shows around a page's text."""

    kind: str
    path: str
    state: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    modules: list[Pattern] = field(default_factory=list)
    notebooks: list[str] = field(default_factory=list)


def names(value: Any) -> list[str]:
    """Return a frontmatter list as strings; one value counts as a list."""
    if value is None:
        return []
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [str(item) for item in value]
    return [str(value)]


def pattern_name(text: str) -> str:
    """Return `pagination/paginator` for any of the ways to write it.

    >>> pattern_name("patterns/pagination/paginator.py")
    'pagination/paginator'
    >>> pattern_name("patterns.pagination.paginator")
    'pagination/paginator'
    """
    text = re.sub(r"\.py$", "", text.strip())
    return re.sub(r"^patterns/", "", text if "/" in text else text.replace(".", "/"))


def record(
    kind: str, path: str, meta: Mapping[str, Any], patterns: Mapping[str, Pattern]
) -> tuple[Record, list[str]]:
    """Return the record of a page, and a sentence for each thing it names in vain."""
    problems: list[str] = []
    made = Record(kind, path, str(meta.get("state", "")))
    for name in names(meta.get("modules")):
        found = patterns.get(pattern_name(name))
        if found is None:
            problems.append(f"names the module '{name}', which is no pattern")
        else:
            made.modules.append(found)
    made.notebooks = names(meta.get("notebooks"))
    if meta.get("last-reviewed"):
        made.facts.append(("Reviewed", str(meta["last-reviewed"])))
    return made, problems
