# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""`patterns garden check | write | report`: what each does, and what it prints."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from patterns._kit.garden.checks import RULES, orphans, warnings
from patterns._kit.garden.render import Edit, computed, health
from patterns._kit.garden.vault import HOME, Finding, Vault

MAX_PASSES = 4
COMMANDS = {
    "check": "say what is wrong, by file and line; exit 1 if anything is",
    "write": "bring up to date all that is computed",
    "report": "show the garden's health",
}

# What a command prints: an object for programs, lines for people; and its exit code.
Result = tuple[dict[str, Any], list[str], int]


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
    found = {finding for rule in RULES for finding in rule(vault)}
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
    late = [f.path for f in found if f.code == "overdue"]
    return {
        "today": str(today),
        "health": health(vault, not sources(vault)),
        "findings": len(wrong),
        "warnings": len(found) - len(wrong),
        "states": dict(sorted(Counter(p.state for p in vault.pages).items())),
        "overdue": [vault.by_path[path].name for path in late],
        "orphans": [page.name for page in orphans(vault)],
        "claims": dict(sorted(Counter(claim.word for claim in claims).items())),
        "open_claims": [claim.id for claim in claims if not claim.verdict],
        "stale_specs": [f.message for f in found if f.code == "stale-spec"],
        "unchecked_specs": [spec.id for spec in specs if not spec.checked],
        "patterns": [pattern.name for pattern in vault.patterns],
    }


# -- the command -----------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: 0 clean, 1 findings, 2 usage or no garden."""
    args = _parser().parse_args(argv)
    root = root_of(Path.cwd()) if args.root is None else args.root
    commands: dict[str, Callable[[Path, date], Result]] = {
        "check": _check,
        "write": _write,
        "report": _report,
    }
    try:
        data, lines, code = commands[args.command](root, args.today or date.today())
    except NoGarden as exc:
        print(f"patterns garden: {exc}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({"schema": 1, "command": f"garden {args.command}", **data}))
    for line in lines:
        print(line, file=sys.stderr if args.json else sys.stdout)
    return code


def _parser() -> argparse.ArgumentParser:
    what = "Prove that the map, its notes and the code agree."
    parser = argparse.ArgumentParser("patterns garden", None, what, allow_abbrev=False)
    parser.set_defaults(today=None)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--root", type=Path, help="the project's folder")
        command.add_argument("--json", action="store_true", help="print one object")
        if name != "write":
            today = "the date to count from, as YYYY-MM-DD"
            command.add_argument("--today", type=date.fromisoformat, help=today)
    return parser


def _check(root: Path, today: date) -> Result:
    vault = load(root)
    found = check(vault, today)
    wrong = sum(not finding.warning for finding in found)
    summary = (
        f"{len(vault.pages)} pages, {len(vault.patterns)} patterns, "
        f"{len(vault.notebooks)} notebooks: {wrong} findings, "
        f"{len(found) - wrong} warnings"
    )
    data = {"findings": [asdict(finding) for finding in found]}
    return data, [*map(str, found), summary], min(wrong, 1)


def _write(root: Path, _: date) -> Result:
    changed, hindered = write(root)
    lines = [*(f"wrote {path}" for path in changed), *map(str, hindered)]
    data = {"changed": changed, "findings": [asdict(item) for item in hindered]}
    return data, lines, 1 if hindered else 0


def _report(root: Path, today: date) -> Result:
    data = report(load(root), today)
    return data, [f"{key}: {_shown(value)}" for key, value in data.items()], 0


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "none"
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)
