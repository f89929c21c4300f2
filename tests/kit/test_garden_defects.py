"""Plant one defect at a time in a copy of the real tree; each is found by its line."""

import ast
import json
import re
import shutil
from datetime import date
from pathlib import Path

import pytest

from patterns._kit.garden.garden import check, load, write
from patterns._kit.garden.schema import PatternNote
from patterns._kit.garden.vault import HOME

ROOT = Path(__file__).resolve().parents[2]
# The day of the newest review, on which none is overdue and none is yet to come.
TODAY = max(
    date.fromisoformat(day)
    for path in ROOT.glob("docs/**/*.md")
    for day in re.findall(r"(?m)^last-reviewed: (\S+)$", path.read_text("utf-8"))
)
PARTS = ("docs", "notebooks", "patterns", "tests")
SKIPPED = shutil.ignore_patterns("_site", "__pycache__", "vectors", "fixtures")


class House:
    """A copy of the tree, with what is needed to damage it and to look for findings."""

    def __init__(self, root):
        self.root = root

    def read(self, path):
        return (self.root / path).read_text("utf-8")

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, "utf-8")

    def replace(self, path, old, new, count=1):
        text = self.read(path)
        assert old in text, f"{path} has no {old!r} to damage"
        self.write(path, text.replace(old, new, count))

    def line(self, path, needle):
        lines = self.read(path).split("\n")
        return next(n for n, line in enumerate(lines, start=1) if needle in line)

    def section(self, path, title):
        """The first item below a heading of a page."""
        lines = self.read(path).split("\n")
        start = next(n for n, x in enumerate(lines) if x.strip("# ") == title)
        return next(x for x in lines[start:] if re.match(r"(- |1\. )", x))

    def cut(self, path, start, end):
        text = self.read(path)
        head, _, rest = text.partition(start)
        self.write(path, head + rest[rest.index(end) :])

    def found(self, today=TODAY):
        return check(load(self.root), today)

    def vault(self):
        return load(self.root)

    def grown(self):
        """A pattern note that has modules, a notebook and tests."""
        pages = self.vault().pages
        return next(
            p for p in pages if isinstance(p.front, PatternNote) and p.front.modules
        )

    def seedling(self):
        pages = self.vault().pages
        return next(p.path for p in pages if p.folder and p.state == "seedling")

    def pattern(self):
        """A pattern note, whatever its state."""
        pages = self.vault().pages
        return next(p for p in pages if isinstance(p.front, PatternNote))

    def notebook(self, path, source, tags=(), output=""):
        stream = {"output_type": "stream", "name": "stdout", "text": [output]}
        cell = {
            "cell_type": "code",
            "id": "probe",
            "metadata": {"tags": list(tags)},
            "source": source,
            "outputs": [stream],
        }
        self.write(path, json.dumps({"cells": [cell], "nbformat": 4}))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a copy of everything that the garden's checks look at, brought up to date.

    A tree at work may be behind in what is computed; only one test is about that.
    """
    root = tmp_path_factory.mktemp("tree")
    for name in PARTS:
        shutil.copytree(ROOT / name, root / name, ignore=SKIPPED)
    for name in ("mkdocs.yml", "README.md"):
        shutil.copy(ROOT / name, root / name)
    write(root)
    return root


@pytest.fixture
def house(tree, tmp_path):
    """Return a copy of the tree, to damage."""
    return House(shutil.copytree(tree, tmp_path / "house"))


DEFECTS = {}


def defect(code):
    """Register a function that damages a house: it returns the path and the line."""

    def register(plant):
        DEFECTS[plant.__name__] = (code, plant)
        return plant

    return register


def page(body, **changed):
    """Return a page with a complete record."""
    record = {
        "state": "seedling",
        "type": "pattern",
        "created": "2026-01-01",
        "last-reviewed": "2026-11-23",
        "review-frequency": "weekly",
        "tags": "[one]",
        "domain": "api-integration",
        "specs": "[rfc9110]",
    }
    record |= {key.replace("_", "-"): value for key, value in changed.items()}
    lines = [f"{key}: {value}" for key, value in record.items() if value is not None]
    return "\n".join(["---", *lines, "---", "", body, ""])


# -- the thirty of the findings ----------------------------------------------------


@defect("fenced-frontmatter")
def d01_frontmatter_in_a_fence(house):
    text = house.read(HOME)
    record, _, body = text.removeprefix("---\n").partition("\n---\n")
    house.write(HOME, f"```yaml\n---\n{record}\n---\n```\n{body}")
    return HOME, 1


@defect("count-wrong")
def d02_count_in_the_record(house):
    line = house.line(HOME, "note-count:")
    house.replace(HOME, "note-count: ", "note-count: 1")
    return HOME, line


@defect("count-wrong")
def d03_count_in_the_body(house):
    house.replace(HOME, "- **Note Count**: ", "- **Note Count**: 1")
    return HOME, house.line(HOME, "**Note Count**")


@defect("next-review-wrong")
def d04_next_review(house):
    house.replace(HOME, "- **Next Review**: ", "- **Next Review**: about ")
    return HOME, house.line(HOME, "**Next Review**")


@defect("reviewed-before-created")
def d07_reviewed_before_created(house):
    path = house.seedling()
    text = re.sub(r"last-reviewed: .*", "last-reviewed: 2001-01-01", house.read(path))
    house.write(path, text)
    return path, house.line(path, "last-reviewed:")


@defect("bad-value")
def d08_unknown_frequency(house):
    path = house.seedling()
    house.replace(path, "review-frequency: ", "review-frequency: bi-")
    return path, house.line(path, "review-frequency")


@defect("bad-value")
def d09_bad_date(house):
    path = house.seedling()
    house.write(path, re.sub(r"created: .*", "created: 2026-02-30", house.read(path)))
    return path, house.line(path, "created:")


@defect("missing-key")
def d10_missing_key(house):
    path = house.seedling()
    house.write(path, re.sub(r"domain: .*\n", "", house.read(path)))
    return path, 1


@defect("unknown-key")
def d11_misspelt_key(house):
    path = house.seedling()
    house.replace(path, "last-reviewed:", "last-review:")
    return path, house.line(path, "last-review:")


@defect("bad-yaml")
def d12_bad_yaml(house):
    path = house.seedling()
    house.replace(path, "tags: [", "tags: [[")
    return path, house.line(path, "tags:") + 1


@defect("broken-link")
def d13_broken_link(house):
    path = house.seedling()
    house.write(path, house.read(path) + "\nSee [[No Such Note]].\n")
    return path, house.line(path, "No Such Note")


@defect("broken-heading")
def d14_broken_heading(house):
    path = house.seedling()
    name = house.pattern().name
    house.write(path, house.read(path) + f"\nSee [[{name}#No such heading]].\n")
    return path, house.line(path, "No such heading")


@defect("broken-link")
def d15_broken_alias_in_a_table(house):
    path = house.seedling()
    table = "\n| a |\n| --- |\n| [[No Such Note\\|words]] |\n"
    house.write(path, house.read(path) + table)
    return path, house.line(path, "No Such Note")


@defect("orphan")
def d16_orphan(house):
    path = "docs/notes/Lonely.md"
    house.write(path, page("# Lonely\n"))
    return path, 1


@defect("listed-twice")
def d17_listed_twice(house):
    item = house.section(HOME, "Core Integration Concepts")
    house.replace(HOME, item, f"{item}\n- Once more: {item.removeprefix('- ')}")
    return HOME, house.line(HOME, "Once more")


@defect("not-in-nav")
def d18_not_in_the_nav(house):
    path = house.pattern().path.removeprefix("docs/")
    house.write(
        "mkdocs.yml", re.sub(rf" +- {re.escape(path)}\n", "", house.read("mkdocs.yml"))
    )
    return "mkdocs.yml", house.line("mkdocs.yml", "# nav: written") + 1


@defect("nav-missing")
def d19_the_nav_names_no_page(house):
    house.replace("mkdocs.yml", "# nav: end", "  - notes/Nothing.md\n# nav: end")
    return "mkdocs.yml", house.line("mkdocs.yml", "notes/Nothing.md")


@defect("nav-order")
def d20_order_of_the_nav(house):
    lines = house.read("mkdocs.yml").split("\n")
    at = next(n for n, line in enumerate(lines) if "- notes/" in line)
    lines[at : at + 2] = lines[at + 1], lines[at]
    house.write("mkdocs.yml", "\n".join(lines))
    return "mkdocs.yml", at + 1


@defect("module-missing")
def d21_module_missing(house):
    note = house.grown()
    (house.root / note.front.modules[0]).unlink()
    return note.path, house.line(note.path, note.front.modules[0])


@defect("notebook-missing")
def d22_notebook_missing(house):
    note = house.grown()
    (house.root / note.front.notebooks[0]).unlink()
    return note.path, house.line(note.path, note.front.notebooks[0])


@defect("test-missing")
def d23_test_missing(house):
    note = house.grown()
    (house.root / note.front.tests[0]).unlink()
    return note.path, house.line(note.path, note.front.tests[0])


@defect("module-unclaimed")
def d24_module_unclaimed(house):
    house.write("patterns/unheard/of.py", '"""Do nothing."""\n')
    return "patterns/unheard/of.py", 1


@defect("notebook-unclaimed")
def d25_notebook_unclaimed(house):
    house.notebook("notebooks/unheard.ipynb", "1 + 1")
    return "notebooks/unheard.ipynb", 1


@defect("test-no-import")
def d26_test_does_not_import(house):
    path = house.grown().front.tests[0]
    house.write(path, "def test_nothing():\n    assert True\n")
    return path, 1


@defect("notebook-no-import")
def d26_notebook_does_not_import(house):
    path = house.grown().front.notebooks[0]
    house.notebook(path, "import patterns")
    return path, 1


@defect("title-wrong")
def d27_title(house):
    path = house.seedling()
    house.replace(path, "\n# ", "\n# The ")
    return path, house.line(path, "# The ")


@defect("box-wrong")
def d28_box(house):
    box = next(x for x in house.read(HOME).split("\n") if x.startswith("- [x]"))
    house.replace(HOME, box, box.replace("[x]", "[ ]"))
    return HOME, house.line(HOME, box.replace("[x]", "[ ]"))


@defect("section-missing")
def d29_section(house):
    house.replace(HOME, "## Maintenance\n", "## Upkeep\n")
    return HOME, house.line(HOME, "# API Integration") - 1


@defect("type-wrong")
def d30_type(house):
    house.replace(HOME, "**Type**: index", "**Type**: atomic")
    return HOME, house.line(HOME, "**Type**")


# -- and what else can go wrong ----------------------------------------------------


@defect("missing-frontmatter")
def no_record(house):
    path = house.seedling()
    house.write(path, house.read(path).removeprefix("---\n"))
    return path, 1


@defect("bad-yaml")
def a_key_twice(house):
    path = house.seedling()
    house.replace(path, "domain:", "state: growing\ndomain:")
    return path, house.line(path, "state: growing")


@defect("bad-yaml")
def an_alias(house):
    path = house.seedling()
    house.replace(path, "domain: ", "domain: &a x\ntags: *a\nspecs: ")
    return path, house.line(path, "*a")


@defect("bad-value")
def grown_without_modules(house):
    path = house.seedling()
    house.write(path, page("# x", state="growing"))
    return path, 1


@defect("unreadable")
def not_utf8(house):
    path = house.seedling()
    (house.root / path).write_bytes(b"---\n\xff\xfe\n---\n")
    return path, 1


@defect("unreadable")
def too_large(house):
    path = house.seedling()
    house.write(path, house.read(path) + "x" * 1_000_001)
    return path, 1


@defect("unreadable")
def no_site_configuration(house):
    (house.root / "mkdocs.yml").unlink()
    return "mkdocs.yml", 1


@defect("unreadable")
def no_registry(house):
    (house.root / "docs/specs.yml").unlink()
    return "docs/specs.yml", 1


@defect("duplicate-name")
def two_pages_of_one_name(house):
    name = house.pattern().name
    path = f"docs/questions/{name}.md"
    house.write(path, page(f"# {name}", type="question", specs="[]"))
    return path, 1


@defect("wrong-type")
def type_of_another_folder(house):
    path = house.vault().listed("Active Questions")[0][1].path
    house.replace(path, "type: question", "type: direction")
    return path, house.line(path, "type:")


@defect("wrong-section")
def listed_where_it_does_not_belong(house):
    question = house.section(HOME, "Active Questions").partition(" ")[2]
    house.replace(HOME, question, "")
    item = house.section(HOME, "Core Integration Concepts")
    house.replace(HOME, item, f"{item}\n- {question}")
    return HOME, house.line(HOME, f"- {question}")


@defect("unlisted")
def not_in_the_index(house):
    note = house.pattern()
    item = next(x for x in house.read(HOME).split("\n") if f"- [[{note.name}]]" in x)
    house.replace(HOME, f"{item}\n", "")
    return note.path, 1


@defect("unlinked-item")
def an_item_without_a_link(house):
    item = house.section(HOME, "Core Integration Concepts")
    house.replace(HOME, item, f"{item}\n- Something without a note")
    return HOME, house.line(HOME, "Something without a note")


@defect("line-missing")
def no_maintenance_line(house):
    house.write(HOME, re.sub(r"- \*\*Health\*\*: .*\n", "", house.read(HOME)))
    return HOME, house.line(HOME, "## Maintenance")


@defect("line-missing")
def no_purpose(house):
    house.replace(HOME, "**Purpose**: ", "Purpose: ")
    return HOME, house.line(HOME, "## MOC Type & Purpose")


@defect("box-missing")
def a_box_is_gone(house):
    house.write(HOME, re.sub(r"- \[.\] Purpose .*\n", "", house.read(HOME)))
    return HOME, house.line(HOME, "## MOC Health Checklist")


@defect("box-unknown")
def a_box_no_check_ticks(house):
    house.replace(HOME, "- [x] Purpose", "- [x] All is well\n- [x] Purpose")
    return HOME, house.line(HOME, "All is well")


@defect("health-wrong")
def health_is_typed(house):
    house.replace(HOME, "- **Health**: ", "- **Health**: Very ")
    return HOME, house.line(HOME, "**Health**")


@defect("last-review-wrong")
def last_review_is_typed(house):
    house.replace(HOME, "- **Last Review**: ", "- **Last Review**: about ")
    return HOME, house.line(HOME, "**Last Review**")


@defect("state-wrong")
def state_behind_a_link(house):
    house.replace(HOME, 'class="state seedling">seedling', 'class="state x">new')
    return HOME, house.line(HOME, 'class="state x"')


@defect("verdict-wrong")
def verdict_behind_a_claim(house):
    claim = next(iter(house.vault().claims.values())).text
    line = next(x for x in house.read(HOME).split("\n") if claim in x)
    house.replace(HOME, line, f"- {claim}")
    return HOME, house.line(HOME, claim)


@defect("section-empty")
def an_empty_section(house):
    path = house.grown().path
    house.cut(path, "## Problem\n", "## Forces")
    house.replace(path, "## Forces", "## Problem\n\n## Forces")
    return path, house.line(path, "## Problem")


@defect("section-order")
def sections_in_another_order(house):
    path = house.grown().path
    house.replace(path, "## Problem\n", "## Passing\n")
    house.replace(path, "## Forces\n", "## Problem\n")
    house.replace(path, "## Passing\n", "## Forces\n")
    return path, house.line(path, "## Forces")


@defect("verdict-long")
def a_verdict_of_many_words(house):
    path = house.grown().path
    house.replace(path, "## Verdict\n", "## Verdict\n\n" + "word " * 81)
    return path, house.line(path, "## Verdict")


@defect("broken-link")
def a_path_that_leads_nowhere(house):
    path = house.seedling()
    house.write(path, house.read(path) + "\n[Gone](../gone%20away.md)\n")
    return path, house.line(path, "gone%20away")


@defect("broken-link")
def an_embedded_page(house):
    path = house.seedling()
    house.write(path, house.read(path) + f"\n![[{house.pattern().name}]]\n")
    return path, house.line(path, "![[")


@defect("broken-heading")
def a_heading_of_the_page_itself(house):
    path = house.seedling()
    house.write(path, house.read(path) + "\nSee [[#Nowhere here]].\n")
    return path, house.line(path, "Nowhere here")


@defect("unknown-code")
def a_module_in_prose(house):
    path = house.seedling()
    house.write(path, house.read(path) + "\nUse `patterns.unheard.of`.\n")
    return path, house.line(path, "patterns.unheard.of")


@defect("unknown-code")
def a_name_that_the_module_has_not(house):
    path = house.seedling()
    name = house.vault().patterns[0].module
    house.write(path, house.read(path) + f"\nUse `{name}.no_such_name`.\n")
    return path, house.line(path, "no_such_name")


@defect("unknown-code")
def a_file_in_a_fence(house):
    path = house.seedling()
    fence = "\n```sh\nuv run patterns/unheard/of.py\n```\n"
    house.write(path, house.read(path) + fence)
    return path, house.line(path, "unheard/of.py")


@defect("unknown-code")
def a_command_for_no_pattern(house):
    path = house.seedling()
    house.write(path, house.read(path) + "\n`patterns add unheard/of --to x`\n")
    return path, house.line(path, "unheard/of")


@defect("module-claimed-twice")
def two_notes_claim_a_module(house):
    note = house.grown()
    other = next(
        p for p in house.vault().pages if p.path > note.path and p.folder == "notes"
    )
    module = note.front.modules[0]
    if other.front.modules:
        house.replace(other.path, "modules:\n", f"modules:\n  - {module}\n")
    else:
        house.replace(other.path, "domain: ", f"modules: [{module}]\ndomain: ")
    return other.path, house.line(other.path, module)


@defect("test-unlisted")
def a_module_without_its_test(house):
    note = house.grown()
    house.replace(note.path, f"  - {note.front.tests[0]}\n", "  - tests/x.py\n")
    house.write("tests/x.py", "")
    return note.path, house.line(note.path, "tests:")


@defect("module-not-shown")
def a_module_no_notebook_imports(house):
    note = house.grown()
    first = note.front.modules[0].removesuffix(".py").replace("/", ".")
    folder = note.front.modules[0].split("/")[1]
    house.write(f"patterns/{folder}/other.py", '"""Do nothing."""\n')
    house.replace(
        note.path, "modules:\n", f"modules:\n  - patterns/{folder}/other.py\n"
    )
    house.notebook(note.front.notebooks[0], f"import {first}")
    return note.path, house.line(note.path, "other.py")


@defect("bad-notebook")
def a_notebook_that_is_none(house):
    path = house.grown().front.notebooks[0]
    house.write(path, "[1, 2")
    return path, 1


@defect("bad-module")
def a_module_that_does_not_parse(house):
    path = house.grown().front.modules[0]
    house.write(path, "def broken(:\n")
    return path, 1


@defect("unknown-spec")
def a_standard_nobody_registered(house):
    path = house.pattern().path
    house.replace(path, "specs:\n", "specs:\n  - rfc99999\n")
    return path, house.line(path, "rfc99999")


@defect("unknown-spec")
def a_standard_in_prose(house):
    path = house.seedling()
    house.write(path, house.read(path) + "\nRFC 99999 says so.\n")
    return path, house.line(path, "RFC 99999")


@defect("replaced-spec")
def a_replaced_standard(house):
    path = house.pattern().path
    new = next(s for s in house.vault().specs.values() if s.replaces)
    house.write(
        "docs/specs.yml",
        house.read("docs/specs.yml").replace(
            f"- id: {new.id}\n",
            f"- id: {new.replaces[0]}\n  title: Old\n  date: null\n"
            f"  status: proposed-standard\n  checked: 2026-11-23\n"
            f"  url: https://example.org/\n- id: {new.id}\n",
        ),
    )
    house.replace(path, "specs:\n", f"specs:\n  - {new.replaces[0]}\n")
    return path, house.line(path, new.replaces[0])


@defect("replaced-spec")
def a_replaced_standard_in_prose(house):
    path = house.seedling()
    house.write(path, house.read(path) + "\nAs RFC 7807 has it.\n")
    return path, house.line(path, "RFC 7807")


@defect("draft-revision")
def a_draft_without_its_revision(house):
    path = "docs/specs.yml"
    draft = next(s for s in house.vault().specs if s.startswith("draft-"))
    house.replace(path, f"- id: {draft}\n", f"- id: {draft[:-3]}\n")
    return path, house.line(path, draft[:-3])


@defect("draft-status")
def a_draft_called_a_standard(house):
    path = "docs/specs.yml"
    house.write(path, re.sub(r"(?<=status: )draft", "informational", house.read(path)))
    draft = next(s.id for s in house.vault().specs.values() if _no_draft(s))
    return path, house.line(path, f"- id: {draft}")


def _no_draft(spec):
    return spec.id.startswith("draft-") and spec.status == "informational"


@defect("duplicate-id")
def a_standard_twice(house):
    path = "docs/specs.yml"
    text = house.read(path)
    entry = text[text.index("- id: ") : text.index("- id: ", text.index("- id: ") + 1)]
    house.write(path, text + entry)
    return path, text.count("\n") + 1


@defect("bad-value")
def a_standard_of_unknown_status(house):
    path = "docs/specs.yml"
    key = list(house.vault().specs)[3]
    head, _, rest = house.read(path).partition(f"- id: {key}\n")
    rest = rest.replace("status: ", "status: un", 1)
    house.write(path, f"{head}- id: {key}\n{rest}")
    return path, house.line(path, f"- id: {key}")


@defect("bad-value")
def a_verdict_without_evidence(house):
    path = "docs/claims.yml"
    open_one = next(c for c in house.vault().claims.values() if not c.verdict)
    head, _, rest = house.read(path).partition(f"- id: {open_one.id}\n")
    rest = rest.replace("verdict: null", "verdict: holds", 1)
    house.write(path, f"{head}- id: {open_one.id}\n{rest}")
    return path, house.line(path, open_one.id)


@defect("bad-value")
def a_refutation_that_does_not_say_what_is_true(house):
    path, line = settle(house)
    house.replace(path, "condition: the order is unique", "condition: null")
    return path, line


@defect("bad-value")
def evidence_without_a_verdict(house):
    path, line = settle(house)
    settled = "verdict: holds-if\n  condition: the order is unique"
    house.replace(path, settled, "verdict: null\n  condition: the order is unique")
    return path, line


@defect("claim-missing")
def a_bullet_without_a_claim(house):
    claim = list(house.vault().claims.values())[-1].text
    line = next(x for x in house.read(HOME).split("\n") if claim in x)
    house.replace(HOME, line, f"{line}\n- Everything is faster")
    return HOME, house.line(HOME, "Everything is faster")


@defect("claim-unknown")
def a_claim_without_a_bullet(house):
    path = "docs/claims.yml"
    claim = list(house.vault().claims.values())[2]
    house.replace(path, f"  text: {claim.text}", "  text: Something else")
    return path, house.line(path, f"- id: {claim.id}")


def settle(house, *, tag=True, output="12 rows", cell="probe"):
    """Give the first open claim a verdict, with its evidence in a notebook."""
    claim = next(c for c in house.vault().claims.values() if not c.verdict)
    path = "docs/claims.yml"
    head, _, rest = house.read(path).partition(f"- id: {claim.id}\n")
    old = "verdict: null\n  condition: null\n  evidence: null\n  figure: null"
    new = (
        "verdict: holds-if\n  condition: the order is unique\n"
        f"  evidence: notebooks/probe.ipynb#{cell}\n  figure: 12 rows"
    )
    house.write(path, f"{head}- id: {claim.id}\n{rest.replace(old, new, 1)}")
    tags = [f"claim-{claim.id}"] if tag else []
    house.notebook("notebooks/probe.ipynb", "show()", tags, output)
    guide = next(
        p for p in house.vault().pages if p.front.type == "guide" and p.front.notebooks
    )
    house.replace(guide.path, "notebooks:\n", "notebooks:\n  - notebooks/probe.ipynb\n")
    return path, house.line(path, f"- id: {claim.id}")


@defect("claim-evidence")
def evidence_of_another_figure(house):
    return settle(house, output="13 rows")


@defect("claim-evidence")
def evidence_in_a_cell_without_its_tag(house):
    return settle(house, tag=False)


@defect("claim-evidence")
def evidence_in_no_cell(house):
    return settle(house, cell="nowhere")


@defect("claim-evidence")
def evidence_in_no_notebook(house):
    where = settle(house)
    (house.root / "notebooks/probe.ipynb").unlink()
    return where


@defect("stale-block")
def a_generated_block_that_was_edited(house):
    path = "docs/Synthesis.md"
    house.replace(path, "| --- |", "| --- | --- |")
    return path, house.line(path, "| --- | --- |")


@defect("stale-block")
def a_table_of_the_readme(house):
    house.replace("README.md", "| Pattern |", "| Module |")
    return "README.md", house.line("README.md", "| Module |")


@defect("stale-block")
def a_label_of_the_nav(house):
    house.replace("mkdocs.yml", "- Home: ", "- Start: ")
    return "mkdocs.yml", house.line("mkdocs.yml", "- Start: ")


@defect("block-missing")
def a_block_without_its_marks(house):
    path = "docs/Specs.md"
    house.replace(path, "<!-- specs: written by patterns garden write -->", "")
    return path, house.line(path, "# Specs") - 1


ERRORS = "docs/notes/HTTP Error Response Patterns.md"
STATES = "<!-- states: written by patterns garden write -->"


@defect("block-missing")
def a_machine_without_its_diagram(house):
    house.replace(ERRORS, STATES, "")
    return ERRORS, house.line(ERRORS, "# HTTP Error Response Patterns") - 1


@defect("stale-block")
def a_diagram_of_another_machine(house):
    house.replace(ERRORS, "half_open: wait over", "half_open: rest over")
    return ERRORS, house.line(ERRORS, "open --> half_open")


@defect("block-missing")
def a_nav_without_its_marks(house):
    house.replace("mkdocs.yml", "# nav: end", "")
    return "mkdocs.yml", 1


@defect("bad-block")
def a_block_without_an_end(house):
    house.replace("docs/Specs.md", "<!-- specs: end -->", "")
    return "docs/Specs.md", house.line("docs/Specs.md", "specs: written")


# -- the tests ---------------------------------------------------------------------


def test_the_real_tree_gives_no_finding():
    """The tree as it stands is clean."""
    assert [str(finding) for finding in check(load(ROOT), TODAY)] == []


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(house, name):
    """Each defect gives a finding with its code, its file and its line."""
    code, plant = DEFECTS[name]
    path, line = plant(house)
    found = house.found()
    places = [(f.path, f.line, f.code) for f in found if not f.warning]
    assert (path, line, code) in places, "\n".join(map(str, found))


CURED = {
    "stale-block",
    "count-wrong",
    "next-review-wrong",
    "health-wrong",
    "last-review-wrong",
    "state-wrong",
    "verdict-wrong",
    "box-wrong",
    "not-in-nav",
    "nav-missing",
    "nav-order",
}


@pytest.mark.parametrize("name", [n for n, (c, _) in DEFECTS.items() if c in CURED])
def test_write_restores_the_tree(house, name):
    """A defect in what is computed is gone after write, byte for byte."""
    before = _bytes(house.root)
    DEFECTS[name][1](house)
    assert _bytes(house.root) != before
    write(house.root)
    assert _bytes(house.root) == before


def _bytes(root):
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_every_code_has_a_planted_defect():
    """No check is without a defect that it finds."""
    words = set()
    for name in ("checks", "render", "vault"):
        path = ROOT / f"patterns/_kit/garden/{name}.py"
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        words |= {n.value for n in nodes if isinstance(n, ast.Constant)}
    texts = {word for word in words if isinstance(word, str)}
    codes = {text for text in texts if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", text)}
    others = {"moc-node", "expired-draft", "utf-8", "future-review", "stale-spec"}
    assert codes - others - {code for code, _ in DEFECTS.values()} == set()


def test_an_overdue_review_only_warns(house):
    """A review that is due is a warning, with its line, and no finding."""
    late = house.found(date(2031, 1, 1))
    path = house.seedling()
    assert {f.code for f in late} == {"overdue", "stale-spec"}
    assert all(finding.warning for finding in late)
    assert (path, house.line(path, "last-reviewed:"), "overdue") in [
        (f.path, f.line, f.code) for f in late
    ]


def test_a_review_in_the_future_only_warns(house):
    """A review dated tomorrow depends on the clock, so it is a warning as well."""
    early = house.found(date(2026, 1, 1))
    path = house.seedling()
    assert all(finding.warning for finding in early)
    assert (path, house.line(path, "last-reviewed:"), "future-review") in [
        (f.path, f.line, f.code) for f in early
    ]


def test_a_standard_not_looked_at_for_half_a_year_only_warns(house):
    """The status of a standard grows old, with the line of its entry."""
    key = next(s.id for s in house.vault().specs.values() if s.checked)
    place = ("docs/specs.yml", house.line("docs/specs.yml", f"- id: {key}"))
    late = house.found(date(2027, 6, 1))
    assert (*place, "stale-spec") in [(f.path, f.line, f.code) for f in late]


def test_a_standard_that_was_never_compared_is_no_finding_but_said(house):
    """Without a day the registry's page says so, and nothing calls the day old."""
    path = "docs/specs.yml"
    house.write(path, re.sub(r"checked: .*", "checked: null", house.read(path)))
    write(house.root)
    assert house.found() == []
    assert {f.code for f in house.found(date(2031, 1, 1))} == {"overdue"}
    count = len(house.vault().specs)
    assert house.read("docs/Specs.md").count("| not checked yet |") == count
    assert f"| … not checked yet | {count} |" in house.read("docs/Health.md")


def test_a_settled_claim_is_clean_and_shown(house):
    """A claim with its tagged cell and figure passes; the index shows the verdict."""
    settle(house)
    write(house.root)
    assert house.found() == []
    assert "|holds if]]</small>" in house.read(HOME)
    row = "| **holds if** the order is unique | [`12 rows`](../notebooks/probe.ipynb#"
    assert row in house.read("docs/Synthesis.md")


def test_a_new_note_keeps_the_mirror(house):
    """A seedling that is listed and written is clean: nothing has to be counted."""
    count = house.vault().home.front.note_count
    body = "# A New Note\n\nOne paragraph.\n\n## Standards\n"
    body += "\n<!-- standards: written by patterns garden write -->\n"
    body += "<!-- standards: end -->\n\n## Missing\n\nAll.\n\n## Related\n\nNone.\n"
    house.write("docs/notes/A New Note.md", page(body))
    item = house.section(HOME, "Supporting Integration Ideas")
    house.replace(HOME, item, f"{item}\n- [[A New Note]] - Why it is here")
    write(house.root)
    assert house.found() == []
    assert house.vault().home.front.note_count == count + 1
    assert "notes/A New Note.md" in house.read("mkdocs.yml")


def test_writing_twice_changes_nothing(house):
    """What write has written it leaves alone."""
    house.replace(HOME, "note-count: ", "note-count: 1")
    assert write(house.root) == ([HOME], [])
    assert write(house.root) == ([], [])


def test_write_keeps_the_line_ends_and_the_rest(house):
    """A file with CRLF keeps it, and only the computed lines change."""
    path = house.seedling()
    before = house.read(path).replace("\n", "\r\n").encode()
    (house.root / path).write_bytes(before.replace(b"| --- |", b"| -- |"))
    write(house.root)
    assert (house.root / path).read_bytes() == before
    assert house.found() == []
