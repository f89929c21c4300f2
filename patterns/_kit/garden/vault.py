# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Load the whole house once: pages, standards, claims, modules, notebooks, tests.

Nothing raises for what a file holds: what cannot be read becomes a finding, and the
rest is checked as if that file were empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from patterns._kit.catalogue import Pattern, catalogue
from patterns._kit.garden.schema import (
    CLAIMS,
    FRONT,
    SPECS,
    Claim,
    MocNote,
    PageNote,
    PatternNote,
    Spec,
)
from patterns._kit.garden.text import (
    MAX_BYTES,
    MAX_RECORD,
    BadYaml,
    Block,
    Document,
    load_yaml,
)

HOME = "docs/API Integration Patterns Index.md"
LISTS = {
    "Core Integration Concepts": "notes",
    "Supporting Integration Ideas": "notes",
    "Related MOCs": "maps",
    "Active Questions": "questions",
    "Future Directions": "directions",
}
SYNTHESIS = ("Key Patterns", "Insights Generated")
MAX_NOTEBOOK = 20_000_000

_KEY = re.compile(r"([A-Za-z][\w-]*)[ ]?:")
_ID = re.compile(r"- +id: *(\S+)")
_CODES = {"missing": "missing-key", "extra_forbidden": "unknown-key"}


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong, where it is, and how to put it right."""

    path: str
    line: int
    code: str
    message: str
    warning: bool = False

    def __str__(self) -> str:
        kind = "warning: " if self.warning else ""
        text = f"{self.path}:{self.line}: {kind}{self.code} {self.message}"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@dataclass(eq=False)
class Page:
    """A page of the vault; `front` is None where the record cannot be used."""

    path: str
    doc: Document
    front: MocNote | PatternNote | PageNote | None = None

    @property
    def name(self) -> str:
        """The note's name: its file name."""
        return PurePosixPath(self.path).stem

    @property
    def folder(self) -> str:
        """The folder below docs, empty for the pages at the top."""
        return PurePosixPath(self.path).parent.name if self.path.count("/") > 1 else ""

    @property
    def state(self) -> str:
        """The state, as far as it can be read."""
        return self.front.state if self.front else "unknown"

    def line(self, *texts: str) -> int:
        """The first line of the record that holds one of `texts`, or 0."""
        record = self.doc.lines[1 : self.doc.body]
        for text in texts:
            for number, line in enumerate(record, start=1):
                if text in line:
                    return number
        return 0

    def block(self, name: str) -> Block | None:
        """The generated block of that name."""
        return next((b for b in self.doc.blocks if b.name == name), None)


@dataclass(frozen=True)
class Cell:
    """A notebook cell: its tags, its code and the text of its stored output."""

    names: frozenset[str]
    code: str
    output: str


@dataclass
class Vault:
    """Everything the checks look at, read from `root`."""

    root: Path
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pages = [page for page in self._pages() if page]
        self.by_name: dict[str, Page] = {}
        for page in self.pages:
            self._name(page)
        self.home = self.by_path.get(HOME)
        self.patterns = [
            pattern
            for pattern in catalogue(self.root / "patterns")
            if self.read(f"patterns/{pattern.name}.py") is not None
        ]
        self.notebooks = self._names("notebooks", "*.ipynb")
        self._cells: dict[str, list[Cell]] = {}
        self.specs: dict[str, Spec] = self._registry("docs/specs.yml", SPECS)
        self.claims: dict[str, Claim] = self._registry("docs/claims.yml", CLAIMS)

    def _name(self, page: Page) -> None:
        path = page.path.removeprefix("docs/")
        aliases = page.front.aliases if page.front else []
        for name in (page.name, f"{page.name}.md", path, path[:-3], *aliases):
            twin = self.by_name.setdefault(name.casefold(), page)
            if twin is not page:
                what = f"{twin.path} answers to the name {name!r} already"
                self.found(page.path, 0, "duplicate-name", what)
                return

    @cached_property
    def made(self) -> set[str]:
        """The names of the pages that the site makes, as wiki links may write them."""
        reference = [f"reference/{pattern.name}.md" for pattern in self.patterns]
        paths = [PurePosixPath(path) for path in (*self.notebooks, *reference)]
        short = {name for path in paths for name in (path.name, path.stem)}
        whole = {name for p in paths for name in (str(p), str(p.with_suffix("")))}
        names = short | whole | {pattern.name for pattern in self.patterns}
        return {name.casefold() for name in names}

    @cached_property
    def by_path(self) -> dict[str, Page]:
        """The pages by their path below the root."""
        return {page.path: page for page in self.pages}

    def found(self, path: str, line: int, code: str, message: str) -> None:
        """Record a finding; `line` counts from 0."""
        self.findings.append(Finding(path, line + 1, code, message))

    def exists(self, path: str) -> bool:
        """Whether a path that a note names is a file inside the house."""
        parts = PurePosixPath(path).parts
        inside = bool(parts) and parts[0] != "/" and ".." not in parts
        return inside and "\0" not in path and (self.root / path).is_file()

    def read(self, path: str, limit: int = MAX_BYTES) -> str | None:
        """The text of a file, or None and a finding."""
        try:
            raw = (self.root / path).read_bytes()
            if len(raw) <= limit:
                return raw.decode("utf-8")
            what = f"is {len(raw)} bytes long; a page has at most {limit}"
        except OSError as exc:
            what = f"cannot be read: {exc.strerror}"
        except UnicodeDecodeError as exc:
            what = f"is not UTF-8: byte {exc.start} cannot be decoded"
        self.found(path, 0, "unreadable", what)
        return None

    def _names(self, folder: str, pattern: str) -> list[str]:
        found = (self.root / folder).glob(pattern)
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def _pages(self) -> Iterator[Page | None]:
        for path in self._names("docs", "**/*.md"):
            if path.startswith(("docs/_site/", "docs/assets/")):
                continue
            text = self.read(path)
            if text is not None:
                page = Page(path, Document(text))
                page.front = self._front(page)
                yield page

    def _front(self, page: Page) -> MocNote | PatternNote | PageNote | None:
        record = page.doc.record
        if record is None or len(record) > MAX_RECORD:
            self.found(page.path, 0, *_without_record(page.doc.lines))
            return None
        try:
            data = load_yaml(record)
            if not isinstance(data, dict):
                raise BadYaml("the frontmatter is no mapping of keys to values")
            _refuse_twice(record)
            return FRONT.validate_python(data)
        except BadYaml as exc:
            what = f"the frontmatter is no readable YAML: {exc}"
            self.found(page.path, exc.line + 1, "bad-yaml", what)
        except ValidationError as exc:
            for error in exc.errors(include_url=False, include_input=False):
                self._schema_finding(page, error)
        return None

    def _schema_finding(self, page: Page, error: Any) -> None:
        keys = [str(part) for part in error["loc"][1:] if isinstance(part, str)]
        code = _CODES.get(error["type"], "bad-value")
        if error["type"].startswith("union_tag"):
            keys = ["type"]
            code = "missing-key" if error["type"].endswith("not_found") else code
        key = keys[0] if keys else "frontmatter"
        line = 0 if code == "missing-key" else page.line(f"{key}:", key)
        self.found(page.path, line, code, f"{key}: {error['msg']}"[:300])

    def _registry(self, path: str, model: TypeAdapter[list[Any]]) -> dict[str, Any]:
        text = self.read(path)
        if text is None:
            return {}
        lines = text.split("\n")
        try:
            entries = model.validate_python(load_yaml(text))
        except BadYaml as exc:
            self.found(path, exc.line, "bad-yaml", str(exc))
            return {}
        except ValidationError as exc:
            starts = [n for n, line in enumerate(lines) if line.startswith("- ")]
            for error in exc.errors(include_url=False, include_input=False):
                index = error["loc"][0] if error["loc"] else 0
                known = isinstance(index, int) and index < len(starts)
                line = starts[index] if known else 0  # type: ignore[index]
                where = ".".join(str(part) for part in error["loc"][1:])
                self.found(path, line, "bad-value", f"{where}: {error['msg']}"[:300])
            return {}
        by_id: dict[str, Any] = {}
        for entry in entries:
            if by_id.setdefault(entry.id, entry) is not entry:
                line = self.entry_line(path, entry.id, last=True)
                self.found(path, line, "duplicate-id", f"{entry.id} is there twice")
        return by_id

    def entry_line(self, path: str, key: str, *, last: bool = False) -> int:
        """The line of a registry's entry, from 0."""
        lines = (self.root / path).read_text("utf-8", "replace").split("\n")
        found = [n for n, line in enumerate(lines) if _entry(line) == key]
        return found[-1 if last else 0] if found else 0

    def cells(self, path: str) -> list[Cell]:
        """The cells of a notebook; none and a finding where it cannot be read."""
        if path not in self._cells:
            self._cells[path] = []
            text = self.read(path, MAX_NOTEBOOK)
            try:
                book = json.loads(text) if text is not None else {"cells": []}
                self._cells[path] = [_cell(cell) for cell in book["cells"]]
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                what = "is no notebook: its JSON has no list of cells that can be read"
                self.found(path, 0, "bad-notebook", what)
        return self._cells[path]

    def listed(self, section: str) -> list[tuple[int, Page]]:
        """The pages a section of the index lists: (line, page), in order."""
        return self.items(self.home, section) if self.home else []

    def items(self, page: Page, section: str) -> list[tuple[int, Page]]:
        """The pages that the list items of a section link to, by their first link."""
        first: dict[int, Page] = {}
        lines = {number for number, _ in page.doc.items(page.doc.section(section))}
        for link in page.doc.links:
            other = self.by_name.get(link.target.casefold())
            if link.wiki and other and link.line in lines:
                first.setdefault(link.line, other)
        return list(first.items())

    def bullets(self) -> list[tuple[int, str, str]]:
        """The claims as the index words them: (line, group, text)."""
        found: list[tuple[int, str, str]] = []
        if self.home:
            doc = self.home.doc
            for title in SYNTHESIS:
                lines = doc.section(title)
                for number, text in doc.items(lines):
                    above = range(number, lines.start - 1, -1)
                    heads = (doc.lines[n] for n in above if doc.lines[n][:2] == "**")
                    group = next(heads, title).strip("*: ")
                    found.append((number, group, bare(text)))
        return found

    def promise(self, pattern: Pattern) -> str:
        """What the module promises; empty and a finding where it does not parse."""
        try:
            return pattern.promise
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            what = "does not parse as Python"
            self.found(f"patterns/{pattern.name}.py", 0, "bad-module", what)
            return ""


def bare(text: str) -> str:
    """A list item without the state that write put behind it."""
    return text.partition(' <small class="state')[0].rstrip()


def _entry(line: str) -> str | None:
    match = _ID.match(line)
    return match[1] if match else None


def _cell(cell: Any) -> Cell:
    tags = cell.get("metadata", {}).get("tags", [])
    names = frozenset(str(name) for name in [*tags, cell.get("id", "")])
    code = _joined(cell["source"]) if cell.get("cell_type") == "code" else ""
    return Cell(names, code, "\n".join(_outputs(cell.get("outputs", []))))


def _outputs(outputs: Any) -> Iterator[str]:
    for output in outputs:
        yield _joined(output.get("text", ""))
        for kind, value in output.get("data", {}).items():
            if kind.startswith("text/") or kind.endswith("+xml"):
                yield _joined(value)


def _joined(source: Any) -> str:
    return source if isinstance(source, str) else "".join(str(s) for s in source)


def _refuse_twice(record: str) -> None:
    seen: set[str] = set()
    for number, line in enumerate(record.split("\n")):
        key = _KEY.match(line)
        if key and key[1] in seen:
            raise BadYaml(f"the key {key[1]} is there twice", number)
        seen.update(key.groups() if key else ())


def _without_record(lines: list[str]) -> tuple[str, str]:
    written = [line.strip() for line in lines[:4] if line.strip()]
    if len(written) > 1 and written[0].startswith("```") and written[1] == "---":
        what = "the frontmatter sits in a code fence; the file must begin with ---"
        return "fenced-frontmatter", what
    return "missing-frontmatter", "begin the file with a --- record of its state"
