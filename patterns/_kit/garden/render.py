# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Render what is computed: counts, dates, health, boxes, states, blocks, navigation.

Both commands use the same edits: `check` reports those that would change a line,
`write` makes them.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from urllib.parse import quote

from patterns._kit.catalogue import Pattern
from patterns._kit.garden.checks import orphans
from patterns._kit.garden.schema import DAYS, Claim, MocNote, PatternNote
from patterns._kit.garden.text import Document
from patterns._kit.garden.vault import HOME, LISTS, Finding, Page, Vault, at, bare

NAV_START = "# nav: written by patterns garden write"
NAV_END = "# nav: end"
BLOCKS = {
    "docs/Synthesis.md": "claims",
    "docs/Specs.md": "specs",
    "docs/Health.md": "health",
    "README.md": "patterns",
    HOME: "guides",
}
_BOX = re.compile(r"- \[[ xX]\] (.+)")
_PLAIN = re.compile(r"[\w (),./&-]*")
_NAV = re.compile(r"""\s*- (?:[^"':]+: |"[^"]*": )?["']?([^"']+\.(?:md|ipynb))["']?$""")


@dataclass(frozen=True, slots=True)
class Edit:
    """From line `start` a file is to read `new` where it now reads `old`."""

    path: str
    start: int
    old: tuple[str, ...]
    new: tuple[str, ...]
    code: str = "stale-block"

    def findings(self) -> Iterator[Finding]:
        """What is out of date, at the first line that differs."""
        if self.old == self.new:
            return
        wrong = list(_nav_findings(self)) if self.new[:1] == ("nav:",) else []
        pairs = zip((*self.old, ""), (*self.new, ""), strict=False)
        same = next((n for n, (was, now) in enumerate(pairs) if was != now), 0)
        what = "this block is out of date; run patterns garden write"
        if self.code != "stale-block":
            what = f"out of date; patterns garden write gives {self.new[0].strip()!r}"
        yield from wrong or [at(self.path, self.start + same, self.code, what)]


def _edit(page: Page, line: int, new: str, code: str) -> Edit:
    return Edit(page.path, line, (page.doc.lines[line],), (new,), code)


# -- the index and the maps ------------------------------------------------------


def health(vault: Vault, sound: bool) -> str:
    """One word: ailing with findings, growing while anything is open, or evergreen."""
    states = {page.state for page in vault.pages if page.folder}
    done = all(claim.verdict for claim in vault.claims.values())
    if not sound:
        return "Ailing"
    return "Evergreen" if done and states <= {"permanent"} else "Growing"


def note_count(vault: Vault, page: Page) -> int:
    """How many pattern notes a map organises."""
    titles = list(LISTS)[:2] if page.path == HOME else ["Notes"]
    found = {o.path for title in titles for _, o in vault.items(page, title)}
    return len({path for path in found if "/notes/" in path})


def boxes(vault: Vault, findings: Iterable[Finding]) -> dict[str, bool]:
    """The index's health checklist: each box is ticked only by its own check."""
    codes = {finding.code for finding in findings}
    home = {finding.code for finding in findings if finding.path == HOME}
    paces = [DAYS[page.front.review_frequency] for page in vault.pages if page.front]
    own = vault.home.front if vault.home else None
    questions = vault.listed("Active Questions")
    return {
        "Purpose clearly defined and current": not home
        & {"section-missing", "section-empty", "type-wrong", "line-missing"},
        "All linked notes are relevant and accessible": not codes
        & {"broken-link", "broken-heading", "listed-twice", "wrong-section"},
        "Structure supports easy navigation": not codes
        & {"orphan", "unlisted", "unlinked-item", "section-missing"},
        "Active questions drive continued engagement": bool(questions)
        and all(page.front for _, page in questions),
        "Synthesis notes reflect current understanding": bool(vault.claims)
        and all(claim.verdict for claim in vault.claims.values())
        and not codes & {"claim-missing", "claim-unknown", "claim-evidence"},
        "Review frequency appropriate for usage": own is not None
        and DAYS[own.review_frequency] <= min(paces),
    }


def _moc(vault: Vault, page: Page) -> Iterator[Edit]:
    new = f"note-count: {note_count(vault, page)}"
    yield _edit(page, page.line("note-count:"), new, "count-wrong")
    for title in LISTS if page.path == HOME else ["Notes"]:
        for line, other in vault.items(page, title):
            new = f"{bare(page.doc.lines[line])} {_state(other.state)}"
            yield _edit(page, line, new, "state-wrong")


def _state(state: str, shown: str = "") -> str:
    return f'<small class="state {state}">{shown or state}</small>'


def _home(
    vault: Vault, home: Page, findings: list[Finding]
) -> Iterator[Edit | Finding]:
    """The lines of the index that are computed, in the places they have."""
    doc, front = home.doc, home.front
    assert front
    values = {
        "- **Note Count**": (note_count(vault, home), "count-wrong"),
        "- **Last Review**": (front.last_reviewed, "last-review-wrong"),
        "- **Next Review**": (front.next_review, "next-review-wrong"),
        "- **Health**": (health(vault, not findings), "health-wrong"),
    }
    lines = {doc.lines[n].partition(":")[0]: n for n in doc.section("Maintenance")}
    top = doc.section("Maintenance").start - 1
    for key, (value, code) in values.items():
        if key in lines:
            yield _edit(home, lines[key], f"{key}: {value}", code)
        elif lines:
            yield at(HOME, top, "line-missing", f"the line {key}: is missing")
    for number, group, text in vault.bullets():
        claim = vault.by_text.get(text)
        if claim:
            shown = f"[[Synthesis#{group}|{claim.word}]]" if claim.verdict else ""
            new = f"{bare(doc.lines[number])} {_state(claim.verdict or 'open', shown)}"
            yield _edit(home, number, new, "verdict-wrong")
    yield from _ticked(home, boxes(vault, findings))


def _ticked(home: Page, ticks: dict[str, bool]) -> Iterator[Edit | Finding]:
    section = home.doc.section("MOC Health Checklist")
    found = ((n, _BOX.fullmatch(home.doc.lines[n].rstrip())) for n in section)
    lines = {match[1]: number for number, match in found if match}
    for name, ticked in ticks.items():
        if name in lines:
            new = f"- [{'x' if ticked else ' '}] {name}"
            yield _edit(home, lines[name], new, "box-wrong")
        elif section:
            what = f"the box {name!r} is missing"
            yield at(HOME, section.start - 1, "box-missing", what)
    for name, number in lines.items():
        if name not in ticks:
            yield at(HOME, number, "box-unknown", f"no check ticks the box {name!r}")


# -- generated blocks ------------------------------------------------------------


def _table(head: str, rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table; `head` has its columns parted by bars."""
    heads = head.split("|")
    lines = ((str(cell).replace("|", "\\|") for cell in row) for row in rows)
    table = [heads, ["---"] * len(heads), *lines]
    return ["", *(f"| {' | '.join(line)} |" for line in table), ""]


def _claims(vault: Vault, _: Page) -> list[str]:
    lines: list[str] = []
    for group, bullets in groupby(vault.bullets(), key=lambda bullet: bullet[1]):
        known = [vault.by_text.get(text) for _, _, text in bullets]
        rows = (_claim(claim) for claim in known if claim)
        lines += ["", f"## {group}", *_table("Claim|Verdict|Shown by", rows)[:-1]]
    return [*lines, ""]


def _claim(claim: Claim) -> list[object]:
    path = (claim.evidence or "").partition("#")[0]
    where = f"../{quote(path)}#claim-{claim.id}"
    shown = f"[`{claim.figure}`]({where})" if path else "to come"
    return [claim.text, f"**{claim.word}** {claim.condition or ''}".strip(), shown]


def _cited(vault: Vault, page: Page) -> list[str]:
    keys = page.front.specs if page.front else []
    specs = (vault.specs[key] for key in keys if key in vault.specs)
    rows = ([s.link, s.title, (s.date or "")[:4], s.standing] for s in specs)
    return _table("Standard|Title|Year|Status", rows)


def _states(vault: Vault, page: Page) -> list[str]:
    """A state diagram for each module of the note that has a table of transitions."""
    modules = page.front.modules if page.front else []
    lines: list[str] = []
    for pattern in vault.patterns:
        if f"patterns/{pattern.name}.py" in modules and (table := _moves(pattern)):
            lines += ["", "```mermaid", *_machine(table), "```"]
    return [*lines, ""] if lines else []


def _moves(pattern: Pattern) -> dict[tuple[str, str], str]:
    """The module's `TRANSITIONS`, from state and event to state, if it has such."""
    try:
        body = pattern.tree.body
    except SyntaxError:
        return {}
    for node in body:
        if (
            isinstance(node, ast.AnnAssign)
            and ast.unparse(node.target) == "TRANSITIONS"
        ):
            table: dict[tuple[str, str], str] = ast.literal_eval(node.value or "{}")
            return table
    return {}


def _machine(table: dict[tuple[str, str], str]) -> Iterator[str]:
    yield "stateDiagram-v2"
    states = dict.fromkeys(state for state, _ in table)
    yield from (
        f'    state "{_said(name)}" as {name}' for name in states if "_" in name
    )
    yield f"    [*] --> {next(iter(states))}"
    yield from (f"    {old} --> {new}: {event}" for (old, event), new in table.items())


def _said(name: str) -> str:
    return name.replace("_", " ")


def _specs(vault: Vault, _: Page) -> list[str]:
    rows: list[Sequence[object]] = []
    for spec in vault.specs.values():
        users = [p for p in vault.pages if p.front and spec.id in p.front.specs]
        status = f"{spec.standing} ({spec.note})" if spec.note else spec.standing
        checked = spec.checked or "not checked yet"
        by = ", ".join(f"[[{user.name}]]" for user in users)
        rows.append([spec.link, spec.title, spec.date or "", status, checked, by])
    return _table("Standard|Title|Date|Status|Checked|Cited by", rows)


def _guides(vault: Vault, _: Page) -> list[str]:
    fronts = [(page.front.type, page.name) for page in vault.pages if page.front]
    names = [n for kind in ("guide", "record") for k, n in fronts if k == kind]
    return ["", *(f"- [[{name}]]" for name in names), ""]


def _patterns(vault: Vault, _: Page) -> list[str]:
    rows: list[Sequence[object]] = []
    owners = {path: p for p in vault.pages if p.front for path in p.front.modules}
    for pattern in vault.patterns:
        path = f"patterns/{pattern.name}.py"
        owner = owners.get(path)
        books = owner.front.notebooks if owner and owner.front else []
        note = f"[{owner.name}]({quote(owner.path)})" if owner else ""
        shown = ", ".join(f"[{PurePosixPath(b).stem}]({quote(b)})" for b in books)
        first = f"[`{pattern.name}`]({path})"
        rows.append([first, vault.promise(pattern), note, shown])
    return _table("Pattern|What it does|Note|Notebook", rows)


def _health(vault: Vault, _: Page) -> list[str]:
    listed = [other for title in LISTS for _, other in vault.listed(title)]
    states = Counter(other.state for other in listed)
    words = Counter(claim.word for claim in vault.claims.values())
    unchecked = sum(not spec.checked for spec in vault.specs.values())
    counts: list[Sequence[object]] = [
        ["Pages the index lists", len(listed)],
        *([f"… {state}", count] for state, count in sorted(states.items())),
        ["Pages nothing leads to", len(orphans(vault))],
        ["Pattern files", len(vault.patterns)],
        ["Notebooks", len(vault.notebooks)],
        ["Claims", len(vault.claims)],
        *([f"… {word}", count] for word, count in sorted(words.items())),
        ["Standards registered", len(vault.specs)],
        ["… not checked yet", unchecked],
    ]
    mirror = [_mirror(page) for page in listed if isinstance(page.front, PatternNote)]
    dates = [
        [f"[[{page.name}]]", page.front.last_reviewed, page.front.next_review]
        for page in sorted(vault.pages, key=lambda page: page.name)
        if page.front
    ]
    return [
        *_table("Fact|Count", counts),
        "## The mirror",
        *_table("Note|State|Modules|Notebooks|Tests", mirror),
        "## Reviews",
        *_table("Page|Last review|Next review", dates),
    ]


def _mirror(page: Page) -> list[object]:
    lists = [getattr(page.front, key) for key in ("modules", "notebooks", "tests")]
    counts = [len(names) or "none yet" for names in lists]
    return [f"[[{page.name}]]", page.state, *counts]


RENDERERS = {
    "claims": _claims,
    "standards": _cited,
    "states": _states,
    "specs": _specs,
    "guides": _guides,
    "patterns": _patterns,
    "health": _health,
}


def _blocks(vault: Vault, page: Page) -> Iterator[Edit | Finding]:
    for block in page.doc.blocks:
        if block.name not in RENDERERS or block.end < 0:
            fault = "has no end" if block.end < 0 else "is none that write knows"
            what = f"the generated block {block.name!r} {fault}"
            yield at(page.path, block.start - 1, "bad-block", what)
        else:
            old = tuple(page.doc.lines[block.start : block.end])
            new = tuple(RENDERERS[block.name](vault, page))
            yield Edit(page.path, block.start, old, new)
    there = {block.name for block in page.doc.blocks}
    own = [BLOCKS[page.path]] if page.path in BLOCKS else []
    if isinstance(page.front, PatternNote):
        own = ["standards", *(["states"] if _states(vault, page) else [])]
    for wanted in (name for name in own if name not in there):
        mark = f"<!-- {wanted}: written by patterns garden write -->"
        what = f"the block {mark} … <!-- {wanted}: end --> is missing"
        yield at(page.path, page.doc.body, "block-missing", what)


# -- navigation ------------------------------------------------------------------


def nav_lines(vault: Vault) -> Iterator[str]:
    """The nav block of mkdocs.yml, in the order of the index, without its marks."""
    yield "nav:"
    yield f"  {_entry(HOME, 'Home')}"
    top = {page.path: page for page in vault.pages if not page.folder}
    kinds = {page.path: page.front.type for page in vault.pages if page.front}
    guides = [path for path in top if kinds.get(path) == "guide"]
    synthesis = "docs/Synthesis.md"
    for title in LISTS:
        if title == "Future Directions" and synthesis in top:
            yield f"  {_entry(synthesis, 'Synthesis')}"
        listed = dict.fromkeys(page.path for _, page in vault.listed(title))
        yield from _section(title, map(_entry, listed))
    books = sorted(vault.notebooks, key=lambda path: not path.endswith("/start.ipynb"))
    yield from _section("Notebooks", map(_entry, books))
    yield from _section("Reference", _reference(vault))
    yield from _section("Guides", map(_entry, guides))
    for path, page in top.items():
        if path not in (HOME, synthesis, *guides):
            yield f"  {_entry(path, page.name)}"


def _section(title: str, entries: Iterable[str]) -> Iterator[str]:
    lines = list(entries)
    if lines:
        yield f"  - {_scalar(title)}:"
        yield from (f"      {line}" for line in lines)


def _reference(vault: Vault) -> Iterator[str]:
    for folder, found in groupby(vault.patterns, key=lambda pattern: pattern.folder):
        yield f"- {folder}:"
        for pattern in found:
            yield "    " + _entry(f"reference/{pattern.name}.md", pattern.stem)


def _entry(path: str, label: str = "") -> str:
    where = _scalar(path.removeprefix("docs/"))
    return f"- {_scalar(label)}: {where}" if label else f"- {where}"


def _scalar(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else f'"{text}"'


def _nav(vault: Vault) -> Iterator[Edit | Finding]:
    path = "mkdocs.yml"
    text = vault.read(path)
    if text is None:
        return
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if NAV_START not in lines or NAV_END not in lines[lines.index(NAV_START) :]:
        what = f"the lines {NAV_START!r} and {NAV_END!r} are missing"
        yield at(path, 0, "block-missing", what)
        return
    start = lines.index(NAV_START) + 1
    old = tuple(lines[start : lines.index(NAV_END, start)])
    yield Edit(path, start, old, tuple(nav_lines(vault)))


def _nav_findings(nav: Edit) -> Iterator[Finding]:
    """Pages that the navigation lacks, has too many, or names in another order."""
    old = ((n, _NAV.match(line)) for n, line in enumerate(nav.old, nav.start))
    found = [(number, match[1]) for number, match in old if match]
    names = [name for _, name in found]
    wanted = [match[1] for line in nav.new if (match := _NAV.match(line))]
    for name in wanted:
        if name not in names:
            what = f"{name} is not in the nav; run patterns garden write"
            yield at(nav.path, nav.start, "not-in-nav", what)
    for line, name in found:
        if name not in wanted:
            what = f"{name} is no page; run patterns garden write"
            yield at(nav.path, line, "nav-missing", what)
    right = (name for name in wanted if name in names)
    known = ((line, name) for line, name in found if name in wanted)
    for (line, name), other in zip(known, right, strict=False):
        if name != other:
            what = f"{name} stands where the index has {other}"
            yield at(nav.path, line, "nav-order", what)
            break


def computed(vault: Vault, findings: list[Finding]) -> Iterator[Edit | Finding]:
    """Every edit that write would make, and what keeps it from making one."""
    readme = vault.read("README.md")
    front = [] if readme is None else [Page("README.md", Document(readme))]
    for page in [*vault.pages, *front]:
        yield from _blocks(vault, page)
        if isinstance(page.front, MocNote):
            yield from _moc(vault, page)
            if page.path == HOME:
                yield from _home(vault, page, findings)
    yield from _nav(vault)
