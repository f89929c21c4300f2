# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""The three things done with a garden: check it, write what is computed, report."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

from patterns._kit.garden.checks import RULES, linked, orphans, warnings
from patterns._kit.garden.render import Edit, computed, health, incomplete
from patterns._kit.garden.vault import HOME, Finding, Page, Vault

MAX_PASSES = 4


class NoGarden(Exception):
    """The folder holds no garden that could be read."""


def load(root: Path) -> Vault:
    """Load the garden at `root`. Raises: NoGarden if its index is not there."""
    if not (root / HOME).is_file():
        raise NoGarden(f"{root} has no {HOME}; run this in the project, or use --root")
    return Vault(root)


def root_of(start: Path) -> Path:
    """The nearest folder at or above `start` that holds the index."""
    homes = (folder for folder in (start, *start.parents) if (folder / HOME).is_file())
    return next(homes, start)


def sources(vault: Vault) -> list[Finding]:
    """What is wrong with that which is written by hand."""
    found = {finding for rule in (*RULES, incomplete) for finding in rule(vault)}
    return sorted(found.union(vault.findings))


def check(vault: Vault, today: date) -> list[Finding]:
    """Every finding, in the order of files and lines; warnings among them."""
    found = sources(vault)
    every = {*found, *warnings(vault, today)}
    for made in computed(vault, found):
        every.update(made.findings() if isinstance(made, Edit) else [made])
    return sorted(every.union(vault.findings))


def write(root: Path) -> tuple[list[str], list[Finding]]:
    """Bring all that is computed up to date: (files changed, what hindered it)."""
    changed: dict[str, None] = {}
    hindered: list[Finding] = []
    for _ in range(MAX_PASSES):
        vault = load(root)
        made = list(computed(vault, sources(vault)))
        hindered = sorted({item for item in made if isinstance(item, Finding)})
        edits: dict[str, list[Edit]] = {}
        for item in made:
            if isinstance(item, Edit) and item.old != item.new:
                edits.setdefault(item.path, []).append(item)
        for path, mine in edits.items():
            _apply(root / path, mine)
        changed |= dict.fromkeys(edits)
        if not edits:
            break
    return list(changed), hindered


def _apply(path: Path, edits: list[Edit]) -> None:
    lines = path.read_bytes().decode("utf-8").split("\n")
    end = "\r" if lines[0].endswith("\r") else ""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        new = [line + end for line in edit.new]
        lines[edit.start : edit.start + len(edit.old)] = new
    path.write_bytes("\n".join(lines).encode("utf-8"))


def report(vault: Vault, today: date) -> dict[str, Any]:
    """The garden's health as data; what is overdue depends on `today`."""
    found = check(vault, today)
    wrong = [finding for finding in found if not finding.warning]
    claims, specs = vault.claims.values(), vault.specs.values()
    pages = [_page(vault, page, today) for page in vault.pages]
    return {
        "today": str(today),
        "health": health(vault, not sources(vault)),
        "findings": len(wrong),
        "warnings": len(found) - len(wrong),
        "states": dict(sorted(Counter(p.state for p in vault.pages).items())),
        "overdue": [page["name"] for page in pages if page["overdue_days"] > 0],
        "orphans": [page.name for page in orphans(vault)],
        "claims": dict(sorted(Counter(claim.word for claim in claims).items())),
        "open_claims": [claim.id for claim in claims if not claim.verdict],
        "stale_specs": [f.message for f in found if f.code == "stale-spec"],
        "unchecked_specs": [spec.id for spec in specs if not spec.checked],
        "patterns": [pattern.name for pattern in vault.patterns],
        "pages": pages,
    }


def _page(vault: Vault, page: Page, today: date) -> dict[str, Any]:
    front = page.front
    due = front.next_review if front else None
    return {
        "name": page.name,
        "path": page.path,
        "type": front.type if front else None,
        "state": page.state,
        "next_review": str(due) if due else None,
        "overdue_days": max((today - due).days, 0) if due else 0,
        "modules": front.modules if front else [],
        "notebooks": front.notebooks if front else [],
        "tests": front.tests if front else [],
        "links": [other.name for other in linked(vault, page)],
    }
