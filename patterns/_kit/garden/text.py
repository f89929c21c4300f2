# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Read a Markdown note as the site does: its record, headings, links and code.

Only what the garden needs is read, in one pass and in linear time, so that a hostile
note costs no more than its length. The site's hooks take wiki links and anchors from
here, and a test holds the rest equal. Lines are counted from 0; findings add one.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import yaml  # type: ignore[import-untyped,unused-ignore]

MAX_BYTES = 1_000_000
MAX_RECORD = 64_000
MAX_DEPTH = 20
# What stands between the brackets is read by `WikiLink.parse`.
WIKI = r"(?<!\\)(?P<embed>!?)\[\[(?P<inner>[^\[\]\n]+)\]\]"

_WIKI = re.compile(WIKI)
_FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)")
_TICKS = re.compile(r"`+")
_RAW = re.compile(r"<!--|<(code|kbd|pre)\b")
_LINK = re.compile(r"\]\((?:<([^<>]+)>|([^()<>\s]+))")
_LABEL = re.compile(r"\[([^\[\]]*)\]\([^()]*\)")
_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])\s+(?=\S)")
_HOLDER = re.compile(r" *(?:[-*+]\s|\d+[.)]\s|!!!|\?\?\?|===|\[\^|:\s)")
_RULE = re.compile(r"[=-]+ *")
_ID = re.compile(r"""(?:\bid=["']|\{:?[^{}\n]*#)([\w.:-]+)""")
_MARK = re.compile(r"<!-- ([a-z-]+): (written by patterns garden write|end) -->")


class BadYaml(ValueError):
    """YAML that cannot be read; `line` counts from 0 within the text."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, in C if there is one; a day stays text, for the schema."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [pair for pair in pairs if not pair[0].endswith(":timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                what = f"the key {key.value} is there twice"
                raise BadYaml(what, key.start_mark.line)
            seen.add(str(key.value))
        made: dict[Hashable, object] = super().construct_mapping(node, deep)
        return made


def load_yaml(text: str) -> object:
    """Load plain YAML; aliases and deep nesting are refused before they are built."""
    try:
        depth = 0
        for event in yaml.parse(text, _Loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                what = f"nested deeper than {MAX_DEPTH} levels"
                raise BadYaml(what, event.start_mark.line)
            if isinstance(event, yaml.AliasEvent):
                raise BadYaml("aliases are not used here", event.start_mark.line)
        return yaml.load(text, _Loader)  # noqa: S506
    except BadYaml:
        raise
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise BadYaml(exc.problem or "no YAML", mark.line if mark else 0) from exc
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as exc:
        raise BadYaml(" ".join(str(exc).split())[:120]) from exc


@dataclass(frozen=True, slots=True)
class WikiLink:
    """A wiki link taken apart: `[[name#heading|label]]`."""

    name: str
    heading: str
    label: str

    @classmethod
    def parse(cls, inner: str) -> WikiLink:
        r"""Read what stands between the brackets; in a table the bar is `\|`.

        Of a nested heading, `#Outer#Inner` as Obsidian writes it, the last is meant.
        """
        target, _, label = inner.replace("\\|", "|").partition("|")
        name, _, heading = target.partition("#")
        return cls(name.strip(), heading.rpartition("#")[2].strip(), label.strip())

    @property
    def words(self) -> str:
        """The text to show."""
        name = posixpath.basename(self.name)
        return self.label or ": ".join(filter(None, (name, self.heading)))


def plain(text: str) -> str:
    """The words a reader sees: links by their words, no ticks, no stars."""
    words = _WIKI.sub(lambda m: WikiLink.parse(m["inner"]).words, text)
    return re.sub(r"[`*]", "", _LABEL.sub(r"\1", words)).strip()


def anchor(heading: str) -> str:
    """The anchor of a heading, as the site's table of contents makes it."""
    words = unicodedata.normalize("NFKD", plain(heading))
    kept = re.sub(r"[^\w\s-]", "", words.encode("ascii", "ignore").decode())
    return re.sub(r"[-\s]+", "-", kept.strip().lower())


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading, by its level; `anchor` is empty unless the note sets it."""

    line: int
    level: int
    text: str
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A link: `wiki` links name a note, the others a path."""

    line: int
    target: str
    heading: str
    wiki: bool = True
    embed: bool = False


@dataclass(frozen=True, slots=True)
class Code:
    """The text of a code span or of one line of a code block."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """A generated block: lines `start` up to `end` lie between its two marks."""

    name: str
    start: int
    end: int


def _spans(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, content) of each code span."""
    runs = [match.span() for match in _TICKS.finditer(text)]
    partner: dict[int, tuple[int, int] | None] = {}
    closer: dict[int, tuple[int, int]] = {}
    for start, end in reversed(runs):
        partner[start] = closer.get(end - start)
        closer[end - start] = (start, end)
    done = 0
    for start, end in runs:
        close = partner[start]
        if close and start >= done and text[start - 1 : start] != "\\":
            done = close[1]
            yield start, done, text[end : close[0]].strip()


def _raw(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each comment and of each element that holds code."""
    done, missing = 0, set()
    for match in _RAW.finditer(text):
        close = f"</{match[1]}>" if match[1] else "-->"
        if match.start() >= done and close not in missing:
            end = text.find(close, match.end())
            if end < 0:
                missing.add(close)
            else:
                done = end + len(close)
                yield match.start(), done


def _blank(text: str, spans: Iterable[tuple[int, int]]) -> str:
    out, done = [], 0
    for start, end in spans:
        out += [text[done:start], re.sub(r"[^\n]", " ", text[start:end])]
        done = end
    return "".join([*out, text[done:]])


def _heading(line: int, level: int, text: str) -> Heading:
    """Read a heading's text; `{#id .class}` behind it sets its anchor."""
    words, brace, inner = text.rstrip().rpartition(" {")
    if not (brace and inner.endswith("}")):
        return Heading(line, level, plain(text))
    ids = [word[1:] for word in inner[:-1].split() if word.startswith("#")]
    return Heading(line, level, plain(words), ids[-1] if ids else "")


class Document:
    """One Markdown file: `lines` as they are, `prose` with all code blanked out."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = [line.rstrip("\r") for line in text.split("\n")]
        self.body = self._body()
        self.prose = [""] * len(self.lines)
        self.code: list[Code] = []
        self.headings: list[Heading] = []
        for part in self._parts():
            self._read(part)

    def _body(self) -> int:
        if self.lines[0].rstrip() != "---":
            return 0
        ends = (n for n, line in enumerate(self.lines) if n and line.rstrip() == "---")
        return next(ends, -1) + 1

    @property
    def record(self) -> str | None:
        """The frontmatter's text, or None where there is none."""
        return "\n".join(self.lines[1 : self.body - 1]) if self.body else None

    def _parts(self) -> Iterator[range]:
        """Yield the lines of each paragraph; what is code goes to `code`."""
        last = max((n for n, x in enumerate(self.lines) if "-->" in x), default=-1)
        fence, comment, nested, part = "", False, False, range(0)
        for number in range(self.body, len(self.lines)):
            line = self.lines[number]
            found = _FENCE.match(line)
            if fence:
                if found and found[1].startswith(fence) and not found[2].strip():
                    fence = ""
                else:
                    self.code.append(Code(number, line.strip()))
                continue
            opens = line.startswith("<!--") and "-->" not in line and number < last
            if comment or opens:
                comment, line = "-->" not in line, ""
            elif found and not (found[1][0] == "`" and "`" in found[2]):
                fence, line = found[1], ""
            if part and self._ends(part, line):
                yield part
                part = range(0)
            if not line.strip():
                continue
            if not part:
                indented = line[0] == "\t" or not line[:4].strip()
                if indented and not nested:
                    self.code.append(Code(number, line.strip()))
                    continue
                nested = nested if indented else bool(_HOLDER.match(line))
            part = range(part.start if part else number, number + 1)
        yield part

    def _ends(self, part: range, line: str) -> bool:
        """Whether `line` is not of the paragraph that the lines of `part` are."""
        if not line.strip() or line[0] in "#|" or _ITEM.match(line):
            return True
        return self.lines[part.start][0] == "#"

    def _read(self, part: range) -> None:
        """Blank the code of a paragraph, and see whether it begins with a heading."""
        text = "\n".join(self.lines[part.start : part.stop])
        spans = list(_spans(text))
        line, seen = part.start, 0
        for start, _, content in spans:
            line, seen = line + text.count("\n", seen, start), start
            self.code.append(Code(line, content))
        text = _blank(text, ((start, end) for start, end, _ in spans))
        text = _blank(text, _raw(text))
        self.prose[part.start : part.stop] = text.split("\n") if part else []
        first, *rest = (self.lines[n] for n in part[:2]) if part else ("",)
        if first.startswith("#"):
            level = min(len(first) - len(first.lstrip("#")), 6)
            words = first[level:].rstrip().rstrip("#").strip()
            self.headings.append(_heading(part.start, level, words))
        elif rest and _RULE.fullmatch(rest[0]):
            level = 1 if rest[0][0] == "=" else 2
            self.headings.append(_heading(part.start, level, first.strip()))

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors of all headings, and those set by an attribute."""
        found: set[str] = set()
        seen: Counter[str] = Counter()
        for heading in self.headings:
            base = heading.anchor or anchor(heading.text)
            count = seen[base] + (not base)
            found.add(f"{base}_{count}" if count else base)
            seen[base] += 1
        marked = (line for line in self.prose if "id=" in line or "{" in line)
        return found.union(*(_ID.findall(line) for line in marked))

    @cached_property
    def links(self) -> list[Link]:
        """Every wiki link, and every link to a path, outside code."""
        found = []
        for number, line in enumerate(self.prose):
            if "[" not in line:
                continue
            for match in _WIKI.finditer(line):
                wiki, embed = WikiLink.parse(match["inner"]), bool(match["embed"])
                found.append(Link(number, wiki.name, wiki.heading, embed=embed))
            for match in _LINK.finditer(line):
                path, _, heading = (match[1] or match[2]).partition("#")
                found.append(Link(number, path, heading, wiki=False))
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
        found: list[Block] = []
        open_: dict[str, int] = {}
        for number, line in enumerate(self.lines):
            match = _MARK.fullmatch(line.strip())
            if match and match[2] != "end":
                open_.setdefault(match[1], len(found))
                found.append(Block(match[1], number + 1, -1))
            elif match and match[1] in open_:
                at = open_.pop(match[1])
                found[at] = Block(match[1], found[at].start, number)
        return found
