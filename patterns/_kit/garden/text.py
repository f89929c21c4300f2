# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Read a Markdown note: its record, headings, links and code, each with its line.

Only what the garden needs is read, in one pass and in linear time, so that a hostile
note costs no more than its length. Lines are counted from 0 here; findings add one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import yaml  # type: ignore[import-untyped,unused-ignore]

MAX_BYTES = 1_000_000
MAX_RECORD = 64_000
MAX_DEPTH = 20

_FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)")
_TICKS = re.compile(r"`+")
_WIKI = re.compile(r"\[\[([^\[\]]+)\]\]")
_LINK = re.compile(r"\]\((?:<([^<>]+)>|([^()<>\s]+))")
_LABEL = re.compile(r"\[([^\[\]]*)\]\([^()]*\)")
_BAR = re.compile(r"\\?\|")
_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])\s+(?=\S)")
_MARK = re.compile(r"<!-- ([a-z-]+): written by patterns garden write -->")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, in C if there is one; a day stays text, for the schema."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [pair for pair in pairs if not pair[0].endswith(":timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class BadYaml(ValueError):
    """YAML that cannot be read; `line` counts from 0 within the text."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading, by its level."""

    line: int
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link: `wiki` links name a note, the others a path."""

    line: int
    target: str
    heading: str
    words: str
    wiki: bool = True


@dataclass(frozen=True, slots=True)
class Code:
    """The text of a code span or of one line of a fence."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """A generated block: lines `start` up to `end` lie between its two marks."""

    name: str
    start: int
    end: int


def load_yaml(text: str) -> object:
    """Load plain YAML; aliases and deep nesting are refused before they are built."""
    try:
        _guard(text)
        return yaml.load(text, _Loader)  # noqa: S506
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise BadYaml(exc.problem or "no YAML", mark.line if mark else 0) from exc
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as exc:
        if isinstance(exc, BadYaml):
            raise
        raise BadYaml(" ".join(str(exc).split())[:120]) from exc


def _guard(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        line = event.start_mark.line
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise BadYaml(f"nested deeper than {MAX_DEPTH} levels", line)
        if isinstance(event, yaml.AliasEvent):
            raise BadYaml("aliases are not used here", line)


def slug(heading: str) -> str:
    """The anchor of a heading, as the site's table of contents makes it."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    kept = re.sub(r"[^\w\s-]", "", plain).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)


def plain(text: str) -> str:
    """The words a reader sees: links by their words, no ticks, no stars."""
    words = _WIKI.sub(lambda m: _wiki(0, m[1]).words, text)
    return re.sub(r"[`*]", "", _LABEL.sub(r"\1", words)).strip()


def _wiki(line: int, inner: str) -> Link:
    target, *words = _BAR.split(inner, maxsplit=1)
    name, _, heading = target.partition("#")
    heading = heading.rpartition("#")[2]
    shown = words[0] if words else target
    return Link(line, name.strip(), heading.strip(), shown.strip())


def _heading(number: int, line: str) -> Heading | None:
    level = len(line) - len(line.lstrip("#"))
    if not 1 <= level <= 6 or line[level : level + 1] not in (" ", "\t"):
        return None
    text = line[level:].strip()
    bare = text.rstrip("#")
    if bare != text and (not bare or bare[-1].isspace()):
        text = bare.rstrip()
    return Heading(number, level, plain(text))


def _spans(line: str) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, text) of each code span, in linear time."""
    runs = [(m.start(), m.end()) for m in _TICKS.finditer(line)]
    closer: dict[int, int] = {}
    partner: list[int | None] = [None] * len(runs)
    for index in range(len(runs) - 1, -1, -1):
        size = runs[index][1] - runs[index][0]
        partner[index] = closer.get(size)
        closer[size] = index
    index = 0
    while index < len(runs):
        other = partner[index]
        if other is not None:
            start, end = runs[index][0], runs[other][1]
            yield start, end, line[runs[index][1] : runs[other][0]].strip()
            index = other
        index += 1


def _without_comments(line: str) -> str:
    out, done = [], 0
    while (start := line.find("<!--", done)) >= 0:
        end = line.find("-->", start + 4)
        if end < 0:
            break
        out.append(line[done:start])
        done = end + 3
    return "".join([*out, line[done:]])


class Document:
    """One Markdown file: `lines` as they are, `prose` with all code blanked out."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = [line.rstrip("\r") for line in text.split("\n")]
        self.body = self._body()
        self.prose = [""] * len(self.lines)
        self.code: list[Code] = []
        self._scan()

    def _body(self) -> int:
        if self.lines[0].rstrip() != "---":
            return 0
        ends = (n for n, line in enumerate(self.lines) if n and line.rstrip() == "---")
        return next(ends, -1) + 1

    @property
    def record(self) -> str | None:
        """The frontmatter's text, or None where there is none."""
        return "\n".join(self.lines[1 : self.body - 1]) if self.body else None

    def _scan(self) -> None:
        fence = ""
        for number in range(self.body, len(self.lines)):
            line = self.lines[number]
            found = _FENCE.match(line)
            if fence:
                if found and found[1].startswith(fence) and not found[2].strip():
                    fence = ""
                else:
                    self.code.append(Code(number, line.strip()))
            elif found and not (found[1][0] == "`" and "`" in found[2]):
                fence = found[1]
            else:
                self.prose[number] = self._blank(number, line)

    def _blank(self, number: int, line: str) -> str:
        out, done = [], 0
        for start, end, text in _spans(line):
            self.code.append(Code(number, text))
            out += [line[done:start], " " * (end - start)]
            done = end
        return _without_comments("".join([*out, line[done:]]))

    @cached_property
    def headings(self) -> list[Heading]:
        """Every heading outside code; its text comes from the line itself."""
        found = (
            _heading(n, self.lines[n]) for n, p in enumerate(self.prose) if p[:1] == "#"
        )
        return [heading for heading in found if heading]

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors of all headings."""
        return {slug(heading.text) for heading in self.headings}

    @cached_property
    def links(self) -> list[Link]:
        """Every wiki link, and every link to a path, outside code."""
        found = []
        for number, line in enumerate(self.prose):
            if "[" not in line:
                continue
            found += [_wiki(number, m[1]) for m in _WIKI.finditer(line)]
            for match in _LINK.finditer(line):
                path, _, heading = (match[1] or match[2]).partition("#")
                found.append(Link(number, path, heading, "", wiki=False))
        return found

    def section(self, title: str) -> range:
        """The lines below a heading, up to the next of its level; empty if absent."""
        for index, heading in enumerate(self.headings):
            if heading.text == title:
                rest = self.headings[index + 1 :]
                ends = (h.line for h in rest if h.level <= heading.level)
                return range(heading.line + 1, next(ends, len(self.lines)))
        return range(0)

    def items(self, lines: range) -> list[tuple[int, str]]:
        """The list items among `lines`: (line, text without its bullet)."""
        pairs = ((n, _ITEM.match(self.prose[n])) for n in lines)
        return [(n, self.lines[n][m.end() :].strip()) for n, m in pairs if m]

    @cached_property
    def blocks(self) -> list[Block]:
        """The generated blocks; one without an end mark has `end` -1."""
        found = []
        for number, line in enumerate(self.lines):
            match = _MARK.fullmatch(line.strip())
            if match:
                end = f"<!-- {match[1]}: end -->"
                rest = range(number + 1, len(self.lines))
                last = (n for n in rest if self.lines[n].strip() == end)
                found.append(Block(match[1], number + 1, next(last, -1)))
        return found
