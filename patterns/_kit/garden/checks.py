# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""The rules of the garden: pure functions of the tree, each yielding findings.

What depends on today's date is in `warnings` alone, so that the calendar can never
turn a green build red.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import PurePosixPath
from urllib.parse import unquote

from patterns._kit.garden.schema import MocNote, PatternNote
from patterns._kit.garden.text import Link, anchor
from patterns._kit.garden.vault import (
    CLAIMS,
    HOME,
    LISTS,
    SPECS,
    SYNTHESIS,
    Finding,
    Page,
    Vault,
    at,
)

SPEC_DAYS = 180
VERDICT_WORDS = 80
TEMPLATE = (
    *("Verdict", "Problem", "Forces", "Solution", "Contract", "Traps", "When not"),
    *("Code", "Try it", "Standards", "Related"),
)
INDEX = (
    *("MOC Type & Purpose", "Overview", "Structure"),
    *(title for title in LISTS if title != "Future Directions"),
    *("Synthesis Notes", *SYNTHESIS, "Future Directions"),
    *("Maintenance", "MOC Health Checklist"),
)
KINDS = {
    "notes": "pattern",
    "maps": "moc-node",
    "questions": "question",
    "directions": "direction",
}
HISTORY = ("obsolete", "replace", "histor", "former", "supersede")

_DOTTED = re.compile(r"(?<![\w./-])patterns((?:\.[A-Za-z_]\w*){2,})")
_FILE = re.compile(r"(?<![\w./-])patterns/[\w/]+\.py\b")
_COMMAND = re.compile(r"\bpatterns (?:add|info|show) ([a-z_]+(?:/[a-z_]+)?)(?=\s|$)")
_RFC = re.compile(r"\bRFC[ \u00a0]?(\d{3,5})\b")
_URL = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


# -- pages -----------------------------------------------------------------------


def records(vault: Vault) -> Iterator[Finding]:
    """Title, folder, type and dates of a page agree."""
    for page in vault.pages:
        heads = [head for head in page.doc.headings if head.level == 1]
        if not heads or heads[0].text != page.name:
            line = heads[0].line if heads else page.doc.body
            what = f"the title must be the note's name: # {page.name}"
            yield at(page.path, line, "title-wrong", what)
        front = page.front
        wanted = KINDS.get(page.folder)
        if front and wanted and front.type != wanted:
            what = f"a page in docs/{page.folder} has the type {wanted}"
            yield at(page.path, page.line("type:"), "wrong-type", what)
        if front and front.last_reviewed < front.created:
            what = f"reviewed on {front.last_reviewed}, before it was created"
            line = page.line("last-reviewed:")
            yield at(page.path, line, "reviewed-before-created", what)


def wanted_headings(page: Page) -> tuple[str, ...]:
    """The headings a page of its kind and state must have, in this order."""
    if page.path == HOME:
        return INDEX
    if isinstance(page.front, PatternNote):
        seedling = page.front.state == "seedling"
        return ("Standards", "Missing", "Related") if seedling else TEMPLATE
    if isinstance(page.front, MocNote):
        return ("Notes", "Missing")
    open_page = page.front and page.front.type in ("question", "direction")
    return ("Missing", "Related") if open_page else ()


def headings(vault: Vault) -> Iterator[Finding]:
    """Every heading of the page template is there, in its order, with a body."""
    for page in vault.pages:
        wanted, doc = wanted_headings(page), page.doc
        found = [head for head in doc.headings if head.text in wanted]
        lines = {head.text: head.line for head in reversed(found)}
        for name in wanted:
            if name not in lines:
                what = f"the section {name!r} is missing"
                yield at(page.path, doc.body, "section-missing", what)
            elif not any(doc.lines[n].strip() for n in doc.section(name)):
                what = f"the section {name!r} is empty"
                yield at(page.path, lines[name], "section-empty", what)
        present = [name for name in wanted if name in lines]
        pairs = zip(found, present, strict=False)
        wrong = next(((h, name) for h, name in pairs if h.text != name), None)
        if wrong:
            what = f"{wrong[0].text!r} stands where {wrong[1]!r} belongs"
            yield at(page.path, wrong[0].line, "section-order", what)
        verdict = doc.section("Verdict") if "Verdict" in wanted else range(0)
        words = sum(len(doc.lines[n].split()) for n in verdict)
        if words > VERDICT_WORDS:
            what = f"the verdict has {words} words; it has at most {VERDICT_WORDS}"
            yield at(page.path, verdict.start - 1, "verdict-long", what)


# -- links -----------------------------------------------------------------------


def links(vault: Vault) -> Iterator[Finding]:
    """Every link leads to a page, and to a heading that is there."""
    for page in vault.pages:
        for link in page.doc.links:
            code, what = (_wiki if link.wiki else _path)(vault, page, link)
            if code:
                yield at(page.path, link.line, code, what)


def _wiki(vault: Vault, page: Page, link: Link) -> tuple[str, str]:
    name = link.target.casefold()
    if link.embed or link.heading.startswith("^"):
        what = "block references and embedded pages are not for the site; use a link"
        return "broken-link", what
    other = vault.by_name.get(name) if name else page
    if other:
        return _heading(other, link, anchor(link.heading))
    if name in vault.made:
        return "", ""
    return "broken-link", f"[[{link.target}]]: no page has that name"


def _path(vault: Vault, page: Page, link: Link) -> tuple[str, str]:
    target = unquote(link.target)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), target))
    other = vault.by_path.get(path) if target else page
    if other:
        return _heading(other, link, unquote(link.heading))
    made = path.removeprefix("docs/").casefold() in vault.made
    if _URL.match(target) or made or vault.exists(path):
        return "", ""
    return "broken-link", f"{target}: no such page or file"


def _heading(page: Page, link: Link, name: str) -> tuple[str, str]:
    if not link.heading or name in page.doc.anchors:
        return "", ""
    return "broken-heading", f"{page.name} has no heading {link.heading!r}"


def linked(vault: Vault, page: Page) -> list[Page]:
    """The pages that a page links to, without itself."""
    found: dict[str, Page] = {}
    for link in page.doc.links:
        name = link.target if link.wiki else PurePosixPath(unquote(link.target)).stem
        other = vault.by_name.get(name.casefold())
        if other and other is not page:
            found.setdefault(other.path, other)
    return list(found.values())


def orphans(vault: Vault) -> list[Page]:
    """The pages that no way of links leads to from the index."""
    seen: set[str] = set()
    todo = [vault.home] if vault.home else []
    while todo:
        page = todo.pop()
        if page.path not in seen:
            seen.add(page.path)
            todo += linked(vault, page)
    return [page for page in vault.pages if page.path not in seen]


def orphaned(vault: Vault) -> Iterator[Finding]:
    """Every page can be reached from the index."""
    for page in orphans(vault):
        what = f"no links lead here from the index; link [[{page.name}]]"
        yield at(page.path, 0, "orphan", what)


# -- the index -------------------------------------------------------------------


def index(vault: Vault) -> Iterator[Finding]:
    """The index lists every page once, by a link, under the heading of its kind."""
    if not vault.home:
        return
    doc = vault.home.doc
    marked = {link.line for link in doc.links if link.wiki}
    seen: dict[str, str] = {}
    for title, folder in LISTS.items():
        for line, page in vault.listed(title):
            if page.path in seen:
                what = f"[[{page.name}]] is listed already under {seen[page.path]!r}"
                yield at(HOME, line, "listed-twice", what)
            elif page.folder != folder:
                what = f"{title!r} lists pages of docs/{folder}, not {page.path}"
                yield at(HOME, line, "wrong-section", what)
            seen.setdefault(page.path, title)
        for line, text in doc.items(doc.section(title)):
            if line not in marked:
                what = f"{text[:60]!r} links to no page; write it as [[…]]"
                yield at(HOME, line, "unlinked-item", what)
    for page in vault.pages:
        if page.folder in KINDS and page.path not in seen:
            titles = [t for t, folder in LISTS.items() if folder == page.folder]
            what = f"the index does not list it; add it under {' or '.join(titles)}"
            yield at(page.path, 0, "unlisted", what)


def typed(vault: Vault) -> Iterator[Finding]:
    """What the index says of its type is what its record says."""
    if vault.home and isinstance(vault.home.front, MocNote):
        doc, kind = vault.home.doc, vault.home.front.moc_type
        lines = doc.section("MOC Type & Purpose")
        for number in lines:
            line = doc.lines[number].rstrip()
            if line.startswith("**Type**") and line != f"**Type**: {kind}":
                what = f"the record says {kind!r}: write **Type**: {kind}"
                yield at(HOME, number, "type-wrong", what)
        for key in ("**Type**: ", "**Purpose**: "):
            if lines and not any(doc.lines[n].startswith(key) for n in lines):
                what = f"the line {key}is missing"
                yield at(HOME, lines.start - 1, "line-missing", what)


# -- the mirror ------------------------------------------------------------------


def mirror(vault: Vault) -> Iterator[Finding]:
    """What notes list is there; every module has one note, every notebook a page."""
    modules = [f"patterns/{pattern.name}.py" for pattern in vault.patterns]
    owners: dict[str, Page] = {}
    shown: set[str] = set()
    for page in vault.pages:
        tests = [path for path in _listed(page, "tests") if path.startswith("tests/")]
        there = [path for path in tests if vault.exists(path)]
        for key, code, known in (
            ("modules", "module-missing", modules),
            ("notebooks", "notebook-missing", vault.notebooks),
            ("tests", "test-missing", there),
        ):
            for path in _listed(page, key):
                if path not in known:
                    what = f"there is no {key[:-1]} {path}"
                    yield at(page.path, page.line(path), code, what)
        shown.update(_listed(page, "notebooks"))
        for path in _listed(page, "modules"):
            if owners.setdefault(path, page) is not page:
                what = f"{path} belongs to [[{owners[path].name}]] already"
                yield at(page.path, page.line(path), "module-claimed-twice", what)
    for path in modules:
        if path not in owners:
            what = "no note lists it; add it to the modules of its note"
            yield at(path, 0, "module-unclaimed", what)
    for path in vault.notebooks:
        if path not in shown:
            what = "no page lists it; add it to the notebooks of its note"
            yield at(path, 0, "notebook-unclaimed", what)


def imported(vault: Vault) -> Iterator[Finding]:
    """Each module has its test and is shown: what a note lists does import it."""
    names = {f"patterns/{pattern.name}.py": pattern.name for pattern in vault.patterns}
    for page in vault.pages:
        mine = [names[path] for path in _listed(page, "modules") if path in names]
        if mine:
            yield from _tested(vault, page, mine)
            yield from _shown(vault, page, mine)


def _listed(page: Page, key: str) -> list[str]:
    found: list[str] = getattr(page.front, key, [])
    return found


def _tested(vault: Vault, page: Page, mine: list[str]) -> Iterator[Finding]:
    tests = {f"tests/{n.replace('/', '/test_')}.py": n for n in mine}
    listed = _listed(page, "tests")
    for path, name in tests.items():
        if path not in listed:
            what = f"{path}, the test of {name}, is not listed"
            line = page.line("tests:", f"patterns/{name}.py")
            yield at(page.path, line, "test-unlisted", what)
    for path in listed:
        own = [tests[path]] if path in tests else mine
        source = vault.read(path) if vault.exists(path) else None
        if source is not None and not any(imports(source, name) for name in own):
            what = f"does not import {' or '.join(own)}, which [[{page.name}]] says"
            yield at(path, 0, "test-no-import", what)


def _shown(vault: Vault, page: Page, mine: list[str]) -> Iterator[Finding]:
    books = [path for path in _listed(page, "notebooks") if path in vault.notebooks]
    codes = {p: "\n".join(cell.code for cell in vault.cells(p)) for p in books}
    for path, code in codes.items():
        if not any(imports(code, name) for name in mine):
            what = f"imports no module of [[{page.name}]], which lists it"
            yield at(path, 0, "notebook-no-import", what)
    for name in mine if codes else ():
        if not any(imports(code, name) for code in codes.values()):
            what = f"no notebook of this note imports {name}"
            line = page.line(f"patterns/{name}.py")
            yield at(page.path, line, "module-not-shown", what)


def imports(source: str, name: str) -> bool:
    """Whether Python source imports the pattern `name`, at the start of a line."""
    folder, _, stem = name.partition("/")
    whole = rf"^[ \t]*(?:from|import) +patterns\.{folder}\.{stem}\b"
    part = rf"^[ \t]*from +patterns\.{folder} +import\b(?:[ \t]*\([^)]*|[^\n(]*)"
    if re.search(whole, source, re.MULTILINE):
        return True
    found = re.finditer(part, source, re.MULTILINE)
    return any(re.search(rf"\b{stem}\b", m[0].partition("import")[2]) for m in found)


def code(vault: Vault) -> Iterator[Finding]:
    """Code that a page names is there."""
    for page in vault.pages:
        for span in page.doc.code:
            for name in _unknown(vault, span.text) if "patterns" in span.text else ():
                what = f"{name} is not in this tree"
                yield at(page.path, span.line, "unknown-code", what)


def _unknown(vault: Vault, text: str) -> Iterator[str]:
    for match in _DOTTED.finditer(text):
        if not _dotted(vault, match[1].split(".")[1:]):
            yield match[0]
    for match in _FILE.finditer(text):
        if not vault.exists(match[0]):
            yield match[0]
    known = {p.name for p in vault.patterns} | {p.folder for p in vault.patterns}
    for match in _COMMAND.finditer(text):
        if match[1] not in known:
            yield match[1]


def _dotted(vault: Vault, parts: list[str]) -> bool:
    for pattern in vault.patterns:
        if [pattern.folder, pattern.stem] == parts[:2]:
            name = parts[2:3]
            return not name or bool(re.search(rf"\b{name[0]}\b", pattern.text))
    base = "patterns/" + "/".join(parts[:2])
    return vault.exists(f"{base}.py") or vault.exists(f"{base}/__init__.py")


# -- standards and claims --------------------------------------------------------


def standards(vault: Vault) -> Iterator[Finding]:
    """Every standard a note cites is registered, and none newer replaces it."""
    newer = {old: spec for spec in vault.specs.values() for old in spec.replaces}
    for page in vault.pages:
        cited = [(page.line(key), key, key) for key in _listed(page, "specs")]
        for number, line in enumerate(page.doc.prose):
            found = _RFC.finditer(line) if "RFC" in line else ()
            history = any(word in line.lower() for word in HISTORY)
            for match in found:
                key = f"rfc{match[1]}"
                if not (history and key in newer):
                    cited.append((number, key, match[0]))
        for number, key, name in cited:
            if key in newer:
                what = f"{name} is replaced: cite {newer[key].number}"
                yield at(page.path, number, "replaced-spec", what)
            elif key not in vault.specs:
                what = f"{name} is not in {SPECS}; register it there"
                yield at(page.path, number, "unknown-spec", what)


def registry(vault: Vault) -> Iterator[Finding]:
    """A draft is cited with its revision, and what is no draft is not called one."""
    for spec in vault.specs.values():
        draft = spec.id.startswith("draft-")
        line = vault.entry_lines[spec.id]
        if draft and not re.search(r"-\d\d$", spec.id):
            what = f"{spec.id}: a draft carries its revision, such as -07"
            yield at(SPECS, line, "draft-revision", what)
        if draft != (spec.status in ("draft", "expired-draft")):
            what = f"{spec.id} has the status {spec.status}; id and status disagree"
            yield at(SPECS, line, "draft-status", what)


def claims(vault: Vault) -> Iterator[Finding]:
    """Each bullet of the synthesis is a claim, and its evidence holds its figure."""
    if not vault.home or not vault.claims:
        return
    said = set()
    for line, _, text in vault.bullets():
        said.add(text)
        if text not in vault.by_text:
            what = f"no claim in {CLAIMS} has the text {text[:80]!r}"
            yield at(HOME, line, "claim-missing", what)
    for claim in vault.claims.values():
        line = vault.entry_lines[claim.id]
        if claim.text not in said:
            what = f"{claim.id}: the synthesis has no bullet with this text"
            yield at(CLAIMS, line, "claim-unknown", what)
        path, _, name = (claim.evidence or "").partition("#")
        wrong = _evidence(vault, path, name, f"claim-{claim.id}", claim.figure or "")
        if path and wrong:
            yield at(CLAIMS, line, "claim-evidence", f"{claim.id}: {wrong}")


def _evidence(vault: Vault, path: str, name: str, tag: str, figure: str) -> str:
    if path not in vault.notebooks:
        return f"{path} is no notebook here"
    found = [cell for cell in vault.cells(path) if name in cell.names]
    if not found:
        return f"{path} has no cell with the id or tag {name!r}"
    if tag not in found[0].names:
        return f"the cell {name!r} of {path} has no tag {tag!r}"
    if figure not in found[0].output:
        return f"the stored output of {name!r} does not hold {figure!r}"
    return ""


# -- today -----------------------------------------------------------------------


def warnings(vault: Vault, today: date) -> Iterator[Finding]:
    """What only the calendar makes wrong; it never changes the exit code."""
    for page in vault.pages:
        line = page.line("last-reviewed:") + 1
        if page.front and page.front.last_reviewed > today:
            what = f"reviewed on {page.front.last_reviewed}, which is yet to come"
            yield Finding(page.path, line, "future-review", what, warning=True)
        elif page.front and page.front.next_review < today:
            days = (today - page.front.next_review).days
            what = f"the review was due on {page.front.next_review}, {days} days ago"
            yield Finding(page.path, line, "overdue", what, warning=True)
    for spec in vault.specs.values():
        if spec.checked and spec.checked + timedelta(days=SPEC_DAYS) < today:
            line = vault.entry_lines[spec.id] + 1
            what = f"{spec.id}: its status was last checked on {spec.checked}"
            yield Finding(SPECS, line, "stale-spec", what, warning=True)


RULES: tuple[Callable[[Vault], Iterator[Finding]], ...] = (
    records,
    headings,
    links,
    orphaned,
    index,
    typed,
    mirror,
    imported,
    code,
    standards,
    registry,
    claims,
)
