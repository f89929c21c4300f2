# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Load the whole house once: pages, standards, claims, modules, notebooks, tests.

Nothing raises for what a file holds: what cannot be read becomes a finding, and the
rest is checked as if that file were empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from patterns._kit.catalogue import Pattern, catalogue
from patterns._kit.garden.schema import Claim, Note, Spec, note_model
from patterns._kit.garden.text import (
    MAX_BYTES,
    MAX_RECORD,
    BadYaml,
    Document,
    load_yaml,
)

HOME = "docs/API Integration Patterns Index.md"
SPECS = "docs/specs.yml"
CLAIMS = "docs/claims.yml"
LISTS = {
    "Core Integration Concepts": "notes",
    "Supporting Integration Ideas": "notes",
    "Related MOCs": "maps",
    "Active Questions": "questions",
    "Future Directions": "directions",
}
SYNTHESIS = ("Key Patterns", "Insights Generated")
MAX_NOTEBOOK = 20_000_000

_CODES = {"missing": "missing-key", "extra_forbidden": "unknown-key"}
_Model = TypeVar("_Model", bound=BaseModel)


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


def at(path: str, line: int, code: str, message: str) -> Finding:
    """A finding at a line counted from 0, as all lines are but those of findings."""
    return Finding(path, line + 1, code, message)


@dataclass(eq=False)
class Page:
    """A page of the vault; `front` is None where the record cannot be used."""

    path: str
    doc: Document
    front: Note | None = None

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
        """The first line of the record with one of `texts`, a `key:` or what it holds.

        It is 0, where the record begins, if there is no such line.
        """
        record = self.doc.lines[1 : self.doc.body]
        for text in texts:
            for number, line in enumerate(record, start=1):
                if line.startswith(text) or (text[-1] != ":" and text in line):
                    return number
        return 0


@dataclass(frozen=True)
class Cell:
    """A notebook cell: its id and tags, its code and the text of its stored output."""

    names: frozenset[str]
    code: str
    output: str


@dataclass
class Vault:
    """Everything the checks look at, read from `root`."""

    root: Path
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pages = list(self._pages())
        self.by_path = {page.path: page for page in self.pages}
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
        self.entry_lines: dict[str, int] = {}
        self.specs = self._registry(SPECS, Spec)
        self.claims = self._registry(CLAIMS, Claim)
        self.by_text = {claim.text: claim for claim in self.claims.values()}

    def found(self, path: str, line: int, code: str, message: str) -> None:
        """Record a finding; `line` counts from 0."""
        self.findings.append(at(path, line, code, message))

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

    def exists(self, path: str) -> bool:
        """Whether a path that a note names is a file inside the house."""
        parts = PurePosixPath(path).parts
        inside = bool(parts) and parts[0] != "/" and ".." not in parts
        return inside and "\0" not in path and (self.root / path).is_file()

    def _names(self, folder: str, pattern: str) -> list[str]:
        found = (self.root / folder).glob(pattern)
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    # -- pages

    def _pages(self) -> Iterator[Page]:
        for path in self._names("docs", "**/*.md"):
            hidden = path.startswith(("docs/_site/", "docs/assets/"))
            text = None if hidden else self.read(path)
            if text is not None:
                page = Page(path, Document(text))
                page.front = self._front(page)
                yield page

    def _front(self, page: Page) -> Note | None:
        record = page.doc.record
        if record is None or len(record) > MAX_RECORD:
            self.found(page.path, 0, *_without_record(page.doc.lines))
            return None
        try:
            data = load_yaml(record)
            if not isinstance(data, dict):
                raise BadYaml("the frontmatter is no mapping of keys to values")
        except BadYaml as exc:
            what = f"the frontmatter is no readable YAML: {exc}"
            self.found(page.path, exc.line + 1, "bad-yaml", what)
            return None
        model = note_model(data.get("type"))
        return self._valid(page.path, model, data, lambda key: page.line(f"{key}:"))

    def _valid(
        self, path: str, model: type[_Model], data: object, line: Callable[[str], int]
    ) -> _Model | None:
        try:
            return model.model_validate(data)
        except ValidationError as exc:
            for error in exc.errors(include_url=False, include_input=False):
                key = str(error["loc"][0]) if error["loc"] else "record"
                code = _CODES.get(error["type"], "bad-value")
                self.found(path, line(key), code, f"{key}: {error['msg']}"[:300])
        return None

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
        names = {pattern.name for pattern in self.patterns}
        for path in [*self.notebooks, *(f"reference/{name}.md" for name in names)]:
            pure = PurePosixPath(path)
            names |= {path, str(pure.with_suffix("")), pure.name, pure.stem}
        return {name.casefold() for name in names}

    # -- the registries and the notebooks

    def _registry(self, path: str, model: type[_Model]) -> dict[str, _Model]:
        text = self.read(path)
        if text is None:
            return {}
        try:
            entries = load_yaml(text)
            if not isinstance(entries, list):
                raise BadYaml("this is no list of entries")
        except BadYaml as exc:
            self.found(path, exc.line, "bad-yaml", str(exc))
            return {}
        starts = (n for n, line in enumerate(text.split("\n")) if line[:2] == "- ")
        by_id: dict[str, _Model] = {}
        for start, entry in zip(chain(starts, repeat(0)), entries, strict=False):
            made = self._valid(path, model, entry, lambda _, line=start: line)  # type: ignore[misc]
            key = str(entry["id"]) if made else ""
            if made and by_id.setdefault(key, made) is not made:
                self.found(path, start, "duplicate-id", f"{key} is there twice")
            self.entry_lines.setdefault(key, start)
        return by_id

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

    def promise(self, pattern: Pattern) -> str:
        """What the module promises; empty and a finding where it does not parse."""
        try:
            pattern.tree  # noqa: B018
            return pattern.promise
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            what = "does not parse as Python"
            self.found(f"patterns/{pattern.name}.py", 0, "bad-module", what)
            return ""

    # -- the index

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

    def bullets(self) -> Iterator[tuple[int, str, str]]:
        """The claims as the index words them: (line, group, text)."""
        doc = self.home.doc if self.home else Document("")
        for title in SYNTHESIS:
            lines = doc.section(title)
            for number, text in doc.items(lines):
                above = (doc.lines[n] for n in range(number, lines.start - 1, -1))
                group = next((line for line in above if line[:2] == "**"), title)
                yield number, group.strip("*: "), bare(text)


def bare(text: str) -> str:
    """A list item without the state that write put behind it."""
    return text.partition(' <small class="state')[0].rstrip()


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
    return source if isinstance(source, str) else "".join(map(str, source))


def _without_record(lines: list[str]) -> tuple[str, str]:
    written = [line.strip() for line in lines[:4] if line.strip()]
    if len(written) > 1 and written[0].startswith("```") and written[1] == "---":
        what = "the frontmatter sits in a code fence; the file must begin with ---"
        return "fenced-frontmatter", what
    return "missing-frontmatter", "begin the file with a --- record of its state"
