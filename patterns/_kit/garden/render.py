# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Render what is computed: counts, dates, health, boxes, states, blocks, navigation.

Both commands use the same edits: `check` reports those that would change a line,
`write` makes them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from urllib.parse import quote

from patterns._kit.garden.checks import nav, orphans
from patterns._kit.garden.schema import DAYS, Claim, MocNote, PatternNote
from patterns._kit.garden.text import Document
from patterns._kit.garden.vault import HOME, LISTS, Finding, Page, Vault, bare

NAV_START = "# nav: written by patterns garden write"
NAV_END = "# nav: end"
BLOCKS = {
    "docs/Synthesis.md": "claims",
    "docs/Specs.md": "specs",
    "docs/Health.md": "health",
    "README.md": "patterns",
    HOME: "guides",
}
_BOX = re.compile(r"- \[([ xX])\] (.+)")
_PLAIN = re.compile(r"[\w (),./&-]*")


@dataclass(frozen=True, slots=True)
class Edit:
    """Lines `start` up to `end` of a file are to read `new`."""

    path: str
    start: int
    end: int
    new: tuple[str, ...]
    code: str

    detail: tuple[Finding, ...] = ()

    def findings(self, old: list[str]) -> Iterator[Finding]:
        """What is out of date: the detail, or the first line that differs."""
        if tuple(old) == self.new:
            return
        if self.detail:
            yield from self.detail
            return
        pairs = zip([*old, ""], [*self.new, ""], strict=False)
        same = next((n for n, (was, now) in enumerate(pairs) if was != now), 0)
        what = "this block is out of date; run patterns garden write"
        if self.code != "stale-block":
            what = f"out of date; patterns garden write gives {self.new[0].strip()!r}"
        yield Finding(self.path, self.start + same + 1, self.code, what)


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


def boxes(vault: Vault, findings: list[Finding]) -> dict[str, bool]:
    """The index's health checklist: each box is ticked only by its own check."""
    codes = {finding.code for finding in findings}
    home = {finding.code for finding in findings if finding.path == HOME}
    fronts = [page.front for page in vault.pages if page.front]
    own = vault.home.front if vault.home else None
    fastest = min((DAYS[front.review_frequency] for front in fronts), default=0)
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
        "Review frequency appropriate for usage": bool(own)
        and own is not None
        and DAYS[own.review_frequency] <= fastest,
    }


def _line(path: str, number: int, new: str, code: str) -> Edit:
    return Edit(path, number, number + 1, (new,), code)


def _moc(vault: Vault, page: Page, front: MocNote) -> Iterator[Edit]:
    number = page.line("note-count:")
    if number:
        new = f"note-count: {note_count(vault, page)}"
        yield _line(page.path, number, new, "count-wrong")
    for title in LISTS if page.path == HOME else ["Notes"]:
        for line, other in vault.items(page, title):
            kept = bare(page.doc.lines[line])
            new = f"{kept} {_state(other.state)}"
            yield _line(page.path, line, new, "state-wrong")


def _state(state: str, shown: str = "") -> str:
    return f'<small class="state {state}">{shown or state}</small>'


def _home(vault: Vault, findings: list[Finding], front: MocNote) -> Iterator[Edit]:
    assert vault.home
    doc = vault.home.doc
    values = {
        "Note Count": (str(note_count(vault, vault.home)), "count-wrong"),
        "Last Review": (str(front.last_reviewed), "last-review-wrong"),
        "Next Review": (str(front.next_review), "next-review-wrong"),
        "Health": (health(vault, not findings), "health-wrong"),
    }
    for number in doc.section("Maintenance"):
        for key, (value, code) in values.items():
            if doc.lines[number].startswith(f"- **{key}**:"):
                yield _line(HOME, number, f"- **{key}**: {value}", code)
    ticks = boxes(vault, findings)
    for number in doc.section("MOC Health Checklist"):
        match = _BOX.fullmatch(doc.lines[number].rstrip())
        if match and match[2] in ticks:
            new = f"- [{'x' if ticks[match[2]] else ' '}] {match[2]}"
            yield _line(HOME, number, new, "box-wrong")
    texts = {claim.text: claim for claim in vault.claims.values()}
    for number, group, text in vault.bullets():
        if text in texts:
            kept = bare(doc.lines[number])
            yield _line(
                HOME, number, f"{kept} {_word(texts[text], group)}", "verdict-wrong"
            )


def _word(claim: Claim, group: str) -> str:
    shown = f"[[Synthesis#{group}|{claim.word}]]" if claim.verdict else ""
    return _state(claim.verdict or "open", shown)


def incomplete(vault: Vault) -> Iterator[Finding]:
    """Lines of the index that write fills in and that are not there."""
    if not vault.home:
        return
    doc = vault.home.doc
    lines = doc.section("Maintenance")
    texts = [doc.lines[n] for n in lines]
    for key in ("Note Count", "Last Review", "Next Review", "Health"):
        if lines and not any(text.startswith(f"- **{key}**:") for text in texts):
            what = f"the line - **{key}**: is missing"
            yield Finding(HOME, lines.start, "line-missing", what)
    lines = doc.section("MOC Health Checklist")
    known = boxes(vault, [])
    matches = [_BOX.fullmatch(doc.lines[n].rstrip()) for n in lines]
    found = [match[2] if match else "" for match in matches]
    for name in known if lines else ():
        if name not in found:
            what = f"the box {name!r} is missing"
            yield Finding(HOME, lines.start, "box-missing", what)
    for number, name in zip(lines, found, strict=True):
        if name and name not in known:
            what = f"no check ticks the box {name!r}"
            yield Finding(HOME, number + 1, "box-unknown", what)


# -- generated blocks ------------------------------------------------------------


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return ["", *(f"| {' | '.join(line)} |" for line in cells), ""]


def _claims(vault: Vault, page: Page) -> list[str]:
    lines: list[str] = []
    texts = {claim.text: claim for claim in vault.claims.values()}
    for group, bullets in groupby(vault.bullets(), key=lambda bullet: bullet[1]):
        known = [texts[text] for _, _, text in bullets if text in texts]
        head = ["Claim", "Verdict", "Shown by"]
        lines += ["", f"## {group}", *_table(head, [_claim(claim) for claim in known])]
        lines.pop()
    return [*lines, ""]


def _claim(claim: Claim) -> list[str]:
    path = (claim.evidence or "").partition("#")[0]
    where = f"../{quote(path)}#claim-{claim.id}"
    shown = f"[`{claim.figure}`]({where})" if path else "to come"
    verdict = f"**{claim.word}** {claim.condition or ''}".strip()
    return [claim.text, verdict, shown]


def _cited(vault: Vault, page: Page) -> list[str]:
    keys = page.front.specs if page.front else []
    rows = [
        [
            f"[{spec.number}]({spec.url})",
            spec.title,
            (spec.date or "")[:4],
            spec.status.replace("-", " "),
        ]
        for spec in (vault.specs[key] for key in keys if key in vault.specs)
    ]
    return _table(["Standard", "Title", "Year", "Status"], rows)


def _specs(vault: Vault, page: Page) -> list[str]:
    rows = []
    for spec in vault.specs.values():
        users = [p for p in vault.pages if p.front and spec.id in p.front.specs]
        status = spec.status.replace("-", " ")
        status += f" ({spec.note})" if spec.note else ""
        rows.append(
            [
                f"[{spec.number}]({spec.url})",
                spec.title,
                spec.date or "",
                status,
                str(spec.checked),
                ", ".join(f"[[{user.name}]]" for user in users),
            ]
        )
    head = ["Standard", "Title", "Date", "Status", "Checked", "Cited by"]
    return _table(head, rows)


def _guides(vault: Vault, page: Page) -> list[str]:
    guides = [p for p in vault.pages if p.front and p.front.type == "guide"]
    others = [p for p in vault.pages if p.front and p.front.type == "record"]
    lines = [f"- [[{page.name}]]" for page in [*guides, *others]]
    return ["", *lines, ""]


def _patterns(vault: Vault, page: Page) -> list[str]:
    rows = []
    for pattern in vault.patterns:
        path = f"patterns/{pattern.name}.py"
        owner = next((o for o in vault.pages if _owns(o, path)), None)
        books = owner.front.notebooks if owner and owner.front else []
        rows.append(
            [
                f"[`{pattern.name}`]({path})",
                vault.promise(pattern),
                f"[{owner.name}]({quote(owner.path)})" if owner else "",
                ", ".join(f"[{PurePosixPath(b).stem}]({quote(b)})" for b in books),
            ]
        )
    return _table(["Pattern", "What it does", "Note", "Notebook"], rows)


def _owns(page: Page, path: str) -> bool:
    return isinstance(page.front, PatternNote) and path in page.front.modules


def _health(vault: Vault, page: Page) -> list[str]:
    listed = [other for title in LISTS for _, other in vault.listed(title)]
    states = Counter(other.state for other in listed)
    words = Counter(claim.word for claim in vault.claims.values())
    counts = [
        ["Pages the index lists", str(len(listed))],
        *([f"… {state}", str(count)] for state, count in sorted(states.items())),
        ["Pages nothing leads to", str(len(orphans(vault)))],
        ["Pattern files", str(len(vault.patterns))],
        ["Notebooks", str(len(vault.notebooks))],
        ["Claims", str(len(vault.claims))],
        *([f"… {word}", str(count)] for word, count in sorted(words.items())),
        ["Standards registered", str(len(vault.specs))],
    ]
    rows = [_mirror(other) for other in listed if isinstance(other.front, PatternNote)]
    dates = [
        [f"[[{p.name}]]", str(p.front.last_reviewed), str(p.front.next_review)]
        for p in sorted(vault.pages, key=lambda page: page.name)
        if p.front
    ]
    return [
        *_table(["Fact", "Count"], counts),
        "## The mirror",
        *_table(["Note", "State", "Modules", "Notebooks", "Tests"], rows),
        "## Reviews",
        *_table(["Page", "Last review", "Next review"], dates),
    ]


def _mirror(page: Page) -> list[str]:
    assert isinstance(page.front, PatternNote)
    front = page.front
    lists = (front.modules, front.notebooks, front.tests)
    counts = [str(len(names)) if names else "none yet" for names in lists]
    return [f"[[{page.name}]]", front.state, *counts]


RENDERERS: dict[str, Callable[[Vault, Page], list[str]]] = {
    "claims": _claims,
    "standards": _cited,
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
            yield Finding(page.path, block.start, "bad-block", what)
        else:
            new = tuple(RENDERERS[block.name](vault, page))
            yield Edit(page.path, block.start, block.end, new, "stale-block")
    cited = "standards" if isinstance(page.front, PatternNote) else None
    wanted = BLOCKS.get(page.path, cited)
    if wanted and not page.block(wanted):
        mark = f"<!-- {wanted}: written by patterns garden write -->"
        what = f"the block {mark} … <!-- {wanted}: end --> is missing"
        yield Finding(page.path, page.doc.body + 1, "block-missing", what)


# -- navigation ------------------------------------------------------------------


def nav_tree(vault: Vault) -> list[tuple[str, list[str]]]:
    """The navigation in the index's order: (section, lines below it)."""
    top: dict[str, Page] = {p.path: p for p in vault.pages if not p.folder}
    tree = []
    for title in LISTS:
        paths = dict.fromkeys(page.path for _, page in vault.listed(title))
        if title == "Future Directions" and (page := top.get("docs/Synthesis.md")):
            tree.append(("", [_entry(page.name, page.path)]))
        tree.append((title, [_entry("", path) for path in paths]))
    books = [_entry("", path) for path in vault.notebooks]
    guides = [p for p in top.values() if p.front and p.front.type == "guide"]
    used = {HOME, "docs/Synthesis.md", *(page.path for page in guides)}
    rest = [_entry(p.name, p.path) for p in top.values() if p.path not in used]
    tree += [
        ("Notebooks", books),
        ("Reference", list(_reference(vault))),
        ("Guides", [_entry("", page.path) for page in guides]),
        ("", rest),
    ]
    return [(title, lines) for title, lines in tree if lines]


def _reference(vault: Vault) -> Iterator[str]:
    for folder, found in groupby(vault.patterns, key=lambda pattern: pattern.folder):
        yield f"- {folder}:"
        for pattern in found:
            yield "    " + _entry(pattern.stem, f"reference/{pattern.name}.md")


def _entry(label: str, path: str) -> str:
    where = _scalar(path.removeprefix("docs/"))
    return f"- {_scalar(label)}: {where}" if label else f"- {where}"


def _scalar(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else f'"{text}"'


def nav_lines(vault: Vault) -> list[str]:
    """The nav block of mkdocs.yml, without its marks."""
    lines = ["nav:", "  " + _entry("Home", HOME)]
    for title, below in nav_tree(vault):
        indent = "      " if title else "  "
        lines += [f"  - {_scalar(title)}:"] if title else []
        lines += [indent + line for line in below]
    return lines


def _nav(vault: Vault) -> Iterator[Edit | Finding]:
    text = vault.read("mkdocs.yml")
    if text is None:
        return
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if NAV_START not in lines or NAV_END not in lines[lines.index(NAV_START) :]:
        what = f"the lines {NAV_START!r} and {NAV_END!r} are missing"
        yield Finding("mkdocs.yml", 1, "block-missing", what)
        return
    start = lines.index(NAV_START) + 1
    end = lines.index(NAV_END, start)
    new = nav_lines(vault)
    detail = tuple(nav(lines[start:end], start, new))
    yield Edit("mkdocs.yml", start, end, tuple(new), "stale-block", detail)


def computed(vault: Vault, findings: list[Finding]) -> Iterator[Edit | Finding]:
    """Every edit that write would make, and what keeps it from making one."""
    readme = vault.read("README.md")
    front = [] if readme is None else [Page("README.md", Document(readme))]
    pages = [*vault.pages, *front]
    for page in pages:
        yield from _blocks(vault, page)
        if isinstance(page.front, MocNote):
            yield from _moc(vault, page, page.front)
            if page.path == HOME:
                yield from _home(vault, findings, page.front)
    yield from _nav(vault)
