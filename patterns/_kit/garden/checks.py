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

from patterns._kit.garden.schema import MocNote, PatternNote, Spec
from patterns._kit.garden.text import Document, Link, slug
from patterns._kit.garden.vault import HOME, LISTS, SYNTHESIS, Finding, Page, Vault

SPEC_DAYS = 180
VERDICT_WORDS = 80
TEMPLATE = (
    "Verdict",
    "Problem",
    "Forces",
    "Solution",
    "Contract",
    "Traps",
    "When not",
    "Code",
    "Try it",
    "Standards",
    "Related",
)
INDEX = (
    "MOC Type & Purpose",
    "Overview",
    "Structure",
    *(title for title in LISTS if title != "Future Directions"),
    "Synthesis Notes",
    *SYNTHESIS,
    "Future Directions",
    "Maintenance",
    "MOC Health Checklist",
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
_REVISION = re.compile(r"-\d\d$")
_NAV = re.compile(r"""\s*- (?:[^"':]+: |"[^"]*": )?["']?([^"']+\.(?:md|ipynb))["']?$""")

Rule = Callable[[Vault], Iterator[Finding]]


def _at(path: str, line: int, code: str, message: str) -> Finding:
    return Finding(path, line + 1, code, message)


# -- pages -----------------------------------------------------------------------


def titles(vault: Vault) -> Iterator[Finding]:
    """A page's one first-level heading is its name."""
    for page in vault.pages:
        heads = [head for head in page.doc.headings if head.level == 1]
        if not heads or heads[0].text != page.name:
            line = heads[0].line if heads else page.doc.body
            what = f"the title must be the note's name: # {page.name}"
            yield _at(page.path, line, "title-wrong", what)


def kinds(vault: Vault) -> Iterator[Finding]:
    """A page's folder and its type agree; the dates of its record are in order."""
    for page in vault.pages:
        front = page.front
        wanted = KINDS.get(page.folder)
        if front and wanted and front.type != wanted:
            what = f"a page in docs/{page.folder} has the type {wanted}"
            yield _at(page.path, page.line("type:"), "wrong-type", what)
        if front and front.last_reviewed < front.created:
            what = f"reviewed on {front.last_reviewed}, before it was created"
            line = page.line("last-reviewed:")
            yield _at(page.path, line, "reviewed-before-created", what)


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
        wanted = wanted_headings(page)
        found = [h for h in page.doc.headings if h.text in wanted]
        names = [head.text for head in found]
        for name in wanted:
            if name not in names:
                what = f"the section {name!r} is missing"
                yield _at(page.path, page.doc.body, "section-missing", what)
            elif _empty(page.doc, name):
                line = found[names.index(name)].line
                what = f"the section {name!r} is empty"
                yield _at(page.path, line, "section-empty", what)
        present = [name for name in wanted if name in names]
        for head, name in zip(found, present, strict=False):
            if head.text != name:
                what = f"{head.text!r} stands where {name!r} belongs"
                yield _at(page.path, head.line, "section-order", what)
                break


def _empty(doc: Document, title: str) -> bool:
    return not any(doc.lines[n].strip() for n in doc.section(title))


def verdicts(vault: Vault) -> Iterator[Finding]:
    """A verdict is read at a glance."""
    for page in vault.pages:
        if isinstance(page.front, PatternNote):
            lines = page.doc.section("Verdict")
            words = sum(len(page.doc.lines[n].split()) for n in lines)
            if words > VERDICT_WORDS:
                what = f"the verdict has {words} words; it has at most {VERDICT_WORDS}"
                yield _at(page.path, lines.start - 1, "verdict-long", what)


# -- links -----------------------------------------------------------------------


def links(vault: Vault) -> Iterator[Finding]:
    """Every link leads to a page, and to a heading that is there."""
    for page in vault.pages:
        for link in page.doc.links:
            finding = (_wiki if link.wiki else _path)(vault, page, link)
            if finding:
                yield finding


def _wiki(vault: Vault, page: Page, link: Link) -> Finding | None:
    other = vault.by_name.get(link.target.casefold()) if link.target else page
    if link.heading.startswith("^") or page.doc.prose[link.line].count("![["):
        what = "block references and embedded pages are not for the site; use a link"
        return _at(page.path, link.line, "broken-link", what)
    if other is None and link.target.casefold() in vault.made:
        return None
    if other is None:
        what = f"[[{link.target}]]: no page has that name"
        return _at(page.path, link.line, "broken-link", what)
    return _anchor(page, other, link)


def _path(vault: Vault, page: Page, link: Link) -> Finding | None:
    target = unquote(link.target)
    if re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.IGNORECASE):
        return None
    if not target:
        return _anchor(page, page, link)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), target))
    other = vault.by_path.get(path)
    if other:
        return _anchor(page, other, link)
    if path.removeprefix("docs/").casefold() in vault.made or vault.exists(path):
        return None
    return _at(page.path, link.line, "broken-link", f"{target}: no such page or file")


def _anchor(page: Page, other: Page, link: Link) -> Finding | None:
    if not link.heading or slug(link.heading) in other.doc.anchors:
        return None
    what = f"{other.name} has no heading {link.heading!r}"
    return _at(page.path, link.line, "broken-heading", what)


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
    seen: dict[str, Page] = {}
    todo = [vault.home] if vault.home else []
    while todo:
        page = todo.pop()
        if page.path not in seen:
            seen[page.path] = page
            todo += linked(vault, page)
    return [page for page in vault.pages if page.path not in seen]


def orphaned(vault: Vault) -> Iterator[Finding]:
    """Every page can be reached from the index."""
    for page in orphans(vault):
        what = f"no links lead here from the index; link [[{page.name}]]"
        yield _at(page.path, 0, "orphan", what)


# -- the index -------------------------------------------------------------------


def index(vault: Vault) -> Iterator[Finding]:
    """The index lists every page once, under the heading of its kind."""
    if not vault.home:
        return
    seen: dict[str, str] = {}
    for title, folder in LISTS.items():
        for line, page in vault.listed(title):
            if page.path in seen:
                what = f"[[{page.name}]] is listed already under {seen[page.path]!r}"
                yield _at(HOME, line, "listed-twice", what)
            elif page.folder != folder:
                what = f"{title!r} lists pages of docs/{folder}, not {page.path}"
                yield _at(HOME, line, "wrong-section", what)
            seen.setdefault(page.path, title)
    for page in vault.pages:
        if page.folder in KINDS and page.path not in seen:
            titles = [t for t, folder in LISTS.items() if folder == page.folder]
            what = f"the index does not list it; add it under {' or '.join(titles)}"
            yield _at(page.path, 0, "unlisted", what)


def unlinked(vault: Vault) -> Iterator[Finding]:
    """Every item of the index's lists is a link to its page."""
    if vault.home:
        doc = vault.home.doc
        links = {link.line for link in doc.links if link.wiki}
        for title in LISTS:
            for line, text in doc.items(doc.section(title)):
                if line not in links:
                    what = f"{text[:60]!r} links to no page; write it as [[…]]"
                    yield _at(HOME, line, "unlinked-item", what)


def typed(vault: Vault) -> Iterator[Finding]:
    """What the index says of its type is what its record says."""
    home = vault.home
    if home and isinstance(home.front, MocNote):
        wanted = f"**Type**: {home.front.moc_type}"
        lines = home.doc.section("MOC Type & Purpose")
        for number in lines:
            line = home.doc.lines[number].rstrip()
            if line.startswith("**Type**") and line != wanted:
                what = f"the record says {home.front.moc_type!r}: write {wanted}"
                yield _at(HOME, number, "type-wrong", what)
        texts = [home.doc.lines[n] for n in lines]
        for key in ("Type", "Purpose"):
            if lines and not any(t.startswith(f"**{key}**: ") for t in texts):
                what = f"the line **{key}**: is missing"
                yield _at(HOME, lines.start - 1, "line-missing", what)


# -- the mirror ------------------------------------------------------------------


def files(vault: Vault) -> Iterator[Finding]:
    """Every module, notebook and test that a note names is there."""
    modules = {f"patterns/{pattern.name}.py" for pattern in vault.patterns}
    for page in vault.pages:
        front = page.front
        mirror = front if isinstance(front, PatternNote) else None
        tests = mirror.tests if mirror else []
        there = {path for path in tests if path.startswith("tests/")}
        for kind, paths, known in (
            ("module-missing", mirror.modules if mirror else [], modules),
            ("notebook-missing", front.notebooks if front else [], vault.notebooks),
            ("test-missing", tests, [path for path in there if vault.exists(path)]),
        ):
            for path in paths:
                if path not in known:
                    noun = kind.partition("-")[0]
                    what = f"there is no {noun} {path}"
                    yield _at(page.path, page.line(path), kind, what)


def claimed(vault: Vault) -> Iterator[Finding]:
    """Every module belongs to exactly one note, every notebook to at least one."""
    owners: dict[str, Page] = {}
    for page in vault.pages:
        for path in page.front.modules if isinstance(page.front, PatternNote) else ():
            if owners.setdefault(path, page) is not page:
                what = f"{path} belongs to [[{owners[path].name}]] already"
                yield _at(page.path, page.line(path), "module-claimed-twice", what)
    for pattern in vault.patterns:
        path = f"patterns/{pattern.name}.py"
        if path not in owners:
            what = "no note lists it; add it to the modules of its note"
            yield _at(path, 0, "module-unclaimed", what)
    known = {
        path for page in vault.pages if page.front for path in page.front.notebooks
    }
    for path in vault.notebooks:
        if path not in known:
            what = "no page lists it; add it to the notebooks of its note"
            yield _at(path, 0, "notebook-unclaimed", what)


def imported(vault: Vault) -> Iterator[Finding]:
    """Each module has its test and is shown: what a note lists does import it."""
    names = {f"patterns/{pattern.name}.py": pattern.name for pattern in vault.patterns}
    for page in vault.pages:
        if isinstance(page.front, PatternNote):
            mine = [names[path] for path in page.front.modules if path in names]
            yield from _tests(vault, page, page.front, mine)
            yield from _shown(vault, page, page.front, mine)


def _tests(
    vault: Vault, page: Page, front: PatternNote, mine: list[str]
) -> Iterator[Finding]:
    for name in mine:
        folder, _, stem = name.partition("/")
        path = f"tests/{folder}/test_{stem}.py"
        if path not in front.tests:
            what = f"{path}, the test of {name}, is not listed"
            line = page.line("tests:", f"{stem}.py")
            yield _at(page.path, line, "test-unlisted", what)
    for path in front.tests:
        if mine and vault.exists(path):
            source = vault.read(path) or ""
            stem = PurePosixPath(path).stem.removeprefix("test_")
            own = [name for name in mine if name.endswith(f"/{stem}")] or mine
            if not any(imports(source, name) for name in own):
                what = f"does not import {' or '.join(own)}, which [[{page.name}]] says"
                yield _at(path, 0, "test-no-import", what)


def _shown(
    vault: Vault, page: Page, front: PatternNote, mine: list[str]
) -> Iterator[Finding]:
    books = [path for path in front.notebooks if path in vault.notebooks]
    codes = {p: "\n".join(cell.code for cell in vault.cells(p)) for p in books}
    for path, code in codes.items():
        if mine and not any(imports(code, name) for name in mine):
            what = f"imports no module of [[{page.name}]], which lists it"
            yield _at(path, 0, "notebook-no-import", what)
    for name in mine if codes else ():
        if not any(imports(code, name) for code in codes.values()):
            what = f"no notebook of this note imports {name}"
            line = page.line(f"patterns/{name}.py")
            yield _at(page.path, line, "module-not-shown", what)


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
            if "patterns" in span.text:
                for name in _unknown(vault, span.text):
                    what = f"{name} is not in this tree"
                    yield _at(page.path, span.line, "unknown-code", what)


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
        for key in page.front.specs if page.front else ():
            line = page.line(key)
            if key not in vault.specs:
                what = f"{key} is not in docs/specs.yml; register it there"
                yield _at(page.path, line, "unknown-spec", what)
            elif key in newer:
                what = f"{key} is replaced: cite {newer[key].id}"
                yield _at(page.path, line, "replaced-spec", what)
        yield from _mentions(vault, page, newer)


def _mentions(vault: Vault, page: Page, newer: dict[str, Spec]) -> Iterator[Finding]:
    for number, line in enumerate(page.doc.prose):
        for match in _RFC.finditer(line) if "RFC" in line else ():
            key = f"rfc{match[1]}"
            history = any(word in line.lower() for word in HISTORY)
            if key in newer and not history:
                what = f"{match[0]} is replaced: cite {newer[key].number}"
                yield _at(page.path, number, "replaced-spec", what)
            elif key not in vault.specs and key not in newer:
                what = f"{match[0]} is not in docs/specs.yml; register it there"
                yield _at(page.path, number, "unknown-spec", what)


def registry(vault: Vault) -> Iterator[Finding]:
    """A draft is cited with its revision, and what is no draft is not called one."""
    for spec in vault.specs.values():
        draft = spec.id.startswith("draft-")
        line = vault.entry_line("docs/specs.yml", spec.id) if draft else 0
        if draft and not _REVISION.search(spec.id):
            what = f"{spec.id}: a draft carries its revision, such as -07"
            yield _at("docs/specs.yml", line, "draft-revision", what)
        if draft != (spec.status in ("draft", "expired-draft")):
            line = vault.entry_line("docs/specs.yml", spec.id)
            what = f"{spec.id} has the status {spec.status}; id and status disagree"
            yield _at("docs/specs.yml", line, "draft-status", what)


def claims(vault: Vault) -> Iterator[Finding]:
    """Every bullet of the synthesis is a claim, and every claim is such a bullet."""
    if not vault.home or not vault.claims:
        return
    texts = {claim.text: claim for claim in vault.claims.values()}
    said = set()
    for line, _, text in vault.bullets():
        said.add(text)
        if text not in texts:
            what = f"no claim in docs/claims.yml has the text {text[:80]!r}"
            yield _at(HOME, line, "claim-missing", what)
    for claim in vault.claims.values():
        if claim.text not in said:
            line = vault.entry_line("docs/claims.yml", claim.id)
            what = f"{claim.id}: the synthesis has no bullet with this text"
            yield _at("docs/claims.yml", line, "claim-unknown", what)


def evidence(vault: Vault) -> Iterator[Finding]:
    """A claim's evidence is a tagged cell whose stored output holds its figure."""
    for claim in vault.claims.values():
        if claim.evidence:
            path, _, name = claim.evidence.partition("#")
            tag = f"claim-{claim.id}"
            line = vault.entry_line("docs/claims.yml", claim.id)
            wrong = _evidence(vault, path, name, tag, claim.figure or "")
            if wrong:
                what = f"{claim.id}: {wrong}"
                yield _at("docs/claims.yml", line, "claim-evidence", what)


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


# -- navigation ------------------------------------------------------------------


def entries(lines: list[str], start: int = 0) -> list[tuple[int, str]]:
    """The pages a nav block names: (line, path), in order."""
    matches = ((n, _NAV.match(line)) for n, line in enumerate(lines, start))
    return [(number, match[1]) for number, match in matches if match]


def nav(lines: list[str], start: int, new: list[str]) -> Iterator[Finding]:
    """The navigation names every page once, in the order of the index."""
    found = entries(lines, start)
    wanted = [path for _, path in entries(new)]
    names = [path for _, path in found]
    for path in wanted:
        if path not in names:
            what = f"{path} is not in the nav; run patterns garden write"
            yield _at("mkdocs.yml", start, "not-in-nav", what)
    for line, path in found:
        if path not in wanted:
            what = f"{path} is no page; run patterns garden write"
            yield _at("mkdocs.yml", line, "nav-missing", what)
    order = [path for path in wanted if path in names]
    for (line, path), right in zip(
        [entry for entry in found if entry[1] in wanted], order, strict=False
    ):
        if path != right:
            what = f"{path} stands where the index has {right}"
            yield _at("mkdocs.yml", line, "nav-order", what)
            break


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
        if spec.checked + timedelta(days=SPEC_DAYS) < today:
            line = vault.entry_line("docs/specs.yml", spec.id) + 1
            what = f"{spec.id}: its status was last checked on {spec.checked}"
            yield Finding("docs/specs.yml", line, "stale-spec", what, warning=True)


RULES: tuple[Rule, ...] = (
    titles,
    kinds,
    headings,
    verdicts,
    links,
    orphaned,
    index,
    unlinked,
    typed,
    files,
    claimed,
    imported,
    code,
    standards,
    registry,
    claims,
    evidence,
)
