# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""`patterns garden check | write | report`: arguments in, lines and exit codes out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from patterns._kit.garden.garden import (
    NoGarden,
    check,
    load,
    report,
    root_of,
    write,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="patterns garden",
        description="Prove that the map, its notes and the code agree.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("check", "say what is wrong, by file and line; exit 1 if anything is"),
        ("write", "bring up to date all that is computed"),
        ("report", "show the garden's health"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--root", type=Path, help="the project's folder")
        command.add_argument("--json", action="store_true", help="print one object")
        if name != "write":
            today = "the date to count from, as YYYY-MM-DD"
            command.add_argument("--today", type=_day, help=today)
    return parser


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no date") from exc


def run(argv: Sequence[str]) -> int:
    """Run one command: 0 clean, 1 findings, 2 usage or no garden."""
    args = _parser().parse_args(argv)
    args.root = root_of(Path.cwd()) if args.root is None else args.root
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "check": _check,
        "write": _write,
        "report": _report,
    }
    try:
        return commands[args.command](args)
    except NoGarden as exc:
        print(f"patterns garden: {exc}", file=sys.stderr)
        return 2


def _print(args: argparse.Namespace, data: dict[str, Any], lines: list[str]) -> None:
    if args.json:
        whole = {"schema": 1, "command": f"garden {args.command}", **data}
        print(json.dumps(whole))
    for line in lines:
        print(line, file=sys.stderr if args.json else sys.stdout)


def _check(args: argparse.Namespace) -> int:
    vault = load(args.root)
    found = check(vault, args.today or date.today())
    wrong = [finding for finding in found if not finding.warning]
    lines = [str(finding) for finding in found]
    lines.append(
        f"{len(vault.pages)} pages, {len(vault.patterns)} patterns, "
        f"{len(vault.notebooks)} notebooks: {len(wrong)} findings, "
        f"{len(found) - len(wrong)} warnings"
    )
    _print(args, {"findings": [asdict(finding) for finding in found]}, lines)
    return 1 if wrong else 0


def _write(args: argparse.Namespace) -> int:
    changed, hindered = write(args.root)
    lines = [*(f"wrote {path}" for path in changed), *map(str, hindered)]
    data = {"changed": changed, "findings": [asdict(item) for item in hindered]}
    _print(args, data, lines)
    return 1 if hindered else 0


def _report(args: argparse.Namespace) -> int:
    data = report(load(args.root), args.today or date.today())
    texts = {key: value for key, value in data.items() if key != "pages"}
    _print(args, data, [f"{key}: {_shown(value)}" for key, value in texts.items()])
    return 0


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "none"
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)
