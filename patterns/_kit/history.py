# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Every text ever released: the bases that `patterns update` merges from.

`history.jsonl` lies beside this module and ships in the wheel. It has one JSON
object a line, oldest first, of three kinds:

    {"version": "0.1.0", "name": "pagination/paginator", "sha256": "…", "text": "…"}
    {"version": "0.1.0", "name": "vectors/link_header.json", "sha256": "…"}
    {"version": "0.1.0", "sealed": "2026-11-23"}

The first is a pattern or the test that is copied with it. The second is a vector
file, of which the hash is enough: data is replaced, not merged. The third seals all
that stands above it: those texts are in people's projects and never change again.

`version` is the first release that had the text, so a text that does not change
adds no row. Rows below the last seal belong to the release in the making: `record`
replaces them all by what the tree holds now, so the file grows with each release
and not with each commit. CONTRIBUTING.md says when to run which:

    python -m patterns._kit.history record   # after a pattern, test or vector changed
    python -m patterns._kit.history check    # 1 if there is something to record
    python -m patterns._kit.history seal     # at a release
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from patterns._kit.catalogue import PACKAGE, catalogue
from patterns._kit.header import DISTRIBUTION, digest

__all__ = ["Row", "current", "find", "main", "record", "rows", "seal", "version"]


@dataclass(frozen=True, slots=True)
class Row:
    """One released text; `text` is None for a vector file."""

    version: str
    name: str
    sha256: str
    text: str | None


def version(package: Path = PACKAGE) -> str:
    """Return the version of the kit: in a clone pyproject.toml's, else the wheel's."""
    try:
        text = (package.parent / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        text = ""
    if re.search(rf'^name = "{DISTRIBUTION}"$', text, re.MULTILINE):
        found: list[str] = re.findall(r'^version = "(.+)"$', text, re.MULTILINE)
        return found[0]
    from importlib import metadata

    return metadata.version(DISTRIBUTION)


def _file(package: Path) -> Path:
    return package / "_kit" / "history.jsonl"


def _lines(package: Path) -> list[str]:
    file = _file(package)
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [line for line in text.split("\n") if line]


def rows(package: Path = PACKAGE) -> Iterator[Row]:
    """Yield every recorded text, oldest first."""
    for line in _lines(package):
        row = json.loads(line)
        if "sealed" not in row:
            yield Row(row["version"], row["name"], row["sha256"], row.get("text"))


def find(sha256: str, package: Path = PACKAGE) -> Row | None:
    """Return the row with this hash; only the line that has it is decoded."""
    key = f'"sha256": "{sha256}"'
    for line in _lines(package):
        # The text is JSON too, where a quote is escaped: the key matches no text.
        if key in line:
            row = json.loads(line)
            return Row(row["version"], row["name"], row["sha256"], row.get("text"))
    return None


def current(package: Path = PACKAGE) -> list[Row]:
    """Return what the tree holds now: patterns, their tests, and the tests' vectors."""
    release = version(package)
    texts: dict[str, tuple[str, bool]] = {}
    for pattern in catalogue(package):
        texts[pattern.name] = (pattern.text, True)
        if pattern.test_path.is_file():
            test = pattern.test_path.read_text(encoding="utf-8")
            texts[pattern.test_name] = (test, True)
        for vector in pattern.vectors:
            texts[f"vectors/{vector.name}"] = (vector.read_text("utf-8"), False)
    return [
        Row(release, name, digest(text), text if keep else None)
        for name, (text, keep) in sorted(texts.items())
    ]


def _sealed(lines: list[str]) -> tuple[list[str], set[str]]:
    """Return the lines down to the last seal, and the versions sealed."""
    seals = {
        number: row["version"]
        for number, row in enumerate(map(json.loads, lines))
        if "sealed" in row
    }
    return lines[: max(seals, default=-1) + 1], set(seals.values())


def record(package: Path = PACKAGE, *, write: bool = True) -> list[str]:
    """Make the unsealed rows what the tree holds now; return the names that changed.

    Raises:
        ValueError: if the version is sealed already and a text is new. It needs a
            version of its own: raise it in pyproject.toml.
    """
    lines = _lines(package)
    kept, released = _sealed(lines)
    known = {json.loads(line).get("sha256") for line in kept}
    fresh = {
        _dump(row): row.name for row in current(package) if row.sha256 not in known
    }
    if fresh and version(package) in released:
        names = ", ".join(sorted(fresh.values()))
        raise ValueError(
            f"{version(package)} is released, and {names} changed since:"
            " raise the version in pyproject.toml first"
        )
    old = lines[len(kept) :]
    changed = {fresh[line] for line in fresh if line not in old}
    changed |= {json.loads(line)["name"] for line in old if line not in fresh}
    if changed and write:
        _write(package, [*kept, *fresh])
    return sorted(changed)


def seal(package: Path = PACKAGE, *, today: date) -> None:
    """Close the release in the making: its rows never change again.

    Raises:
        ValueError: if a text is not recorded, or the version is sealed already.
    """
    if changed := record(package, write=False):
        raise ValueError(f"not recorded: {', '.join(changed)}; run `record` first")
    lines = _lines(package)
    if version(package) in _sealed(lines)[1]:
        raise ValueError(f"{version(package)} is sealed already")
    mark = json.dumps({"version": version(package), "sealed": today.isoformat()})
    _write(package, [*lines, mark])


def _dump(row: Row) -> str:
    fields = {"version": row.version, "name": row.name, "sha256": row.sha256}
    if row.text is not None:
        fields["text"] = row.text
    return json.dumps(fields, ensure_ascii=False)


def _write(package: Path, lines: list[str]) -> None:
    file = _file(package)
    temporary = file.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    os.replace(temporary, file)


def main(argv: list[str] | None = None, package: Path = PACKAGE) -> int:
    """Run `record`, `check` or `seal`; return the exit status."""
    command = (sys.argv[1:] if argv is None else argv) or ["check"]
    try:
        match command:
            case ["record"]:
                changed = record(package)
                print(f"recorded: {', '.join(changed) or 'nothing new'}")
            case ["check"]:
                changed = record(package, write=False)
                print(f"to record: {', '.join(changed) or 'nothing'}")
                return 1 if changed else 0
            case ["seal"]:
                seal(package, today=date.today())
                print(f"sealed: {version(package)}")
            case _:
                print("usage: history record | check | seal", file=sys.stderr)
                return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
