"""The garden's reading of files, its robustness, its command and the index's words."""

import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from patterns._kit.garden import main
from patterns._kit.garden.checks import imports
from patterns._kit.garden.garden import check, load, report, root_of, write
from patterns._kit.garden.text import (
    BadYaml,
    Document,
    WikiLink,
    anchor,
    load_yaml,
    plain,
)
from patterns._kit.garden.vault import HOME, Finding, bare

ROOT = Path(__file__).resolve().parents[2]
ORIGINAL = Path(__file__).parent / "fixtures" / "MOC.original.md"
TODAY = date(2026, 11, 24)
SMALL = {
    HOME: "---\nstate: growing\n---\n\n# API Integration Patterns Index\n\n[[A]]\n",
    "docs/notes/A.md": "# A\n",
    "docs/specs.yml": "[]\n",
    "docs/claims.yml": "[]\n",
    "mkdocs.yml": "# nav: written by patterns garden write\n# nav: end\n",
    "README.md": "",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a garden of two pages, to feed with anything."""
    root = tmp_path_factory.mktemp("small")
    for path, text in SMALL.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")
    for name in ("patterns", "notebooks"):
        (root / name).mkdir()
    return root


# -- the index's own words ---------------------------------------------------------

# Counts, dates, boxes and the health are computed now; the frontmatter left its fence.
COMPUTED = re.compile(
    r"yaml|note-count: .*|last-reviewed: .*"
    r"|- (Note Count|Last Review|Next Review|Health): .*"
)


def _content(text):
    lines = (plain(bare(line)) for line in text.split("\n"))
    unticked = (re.sub(r"^- \[[ x]\] ", "- [ ] ", line) for line in lines)
    return [line for line in unticked if line and not COMPUTED.fullmatch(line)]


def test_the_index_keeps_the_words_of_the_original():
    """Each line of the original stands in the index, in its order."""
    lines = iter(_content((ROOT / HOME).read_text("utf-8")))
    missing = [
        line for line in _content(ORIGINAL.read_text("utf-8")) if _gone(line, lines)
    ]
    assert missing == []


def _gone(line, lines):
    return line not in lines  # an iterator: what was passed is not looked at again


def test_every_wiki_link_of_the_original_resolves():
    """The ten links of the original lead to ten pages."""
    vault = load(ROOT)
    fence = ORIGINAL.read_text("utf-8").partition("```\n")[2]
    targets = {link.target for link in Document(fence).links}
    assert len(targets) == 10
    assert [t for t in targets if t.casefold() not in vault.by_name] == []


def test_the_index_shows_a_state_behind_each_link():
    """Whoever reads the index sees how far each note has come."""
    home = load(ROOT).home
    for title in ("Core Integration Concepts", "Active Questions", "Future Directions"):
        items = home.doc.items(home.doc.section(title))
        assert items
        for _, text in items:
            assert re.search(
                r'<small class="state (seedling|growing|permanent)">', text
            )


# -- reading -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "links"),
    [
        ("[[A]]", [("A", "")]),
        ("[[A|words]]", [("A", "")]),
        ("| [[A\\|words]] |", [("A", "")]),
        ("[[A#B c]]", [("A", "B c")]),
        ("[[#B]]", [("", "B")]),
        ("## See [[OAuth 2.0 Flow]]", [("OAuth 2.0 Flow", "")]),
        ("`[[A]]` and [[B]]", [("B", "")]),
        ("``a ` [[A]]`` [[B]]", [("B", "")]),
        ("an open ` tick [[A]]", [("A", "")]),
        ("[[[A]]]", [("A", "")]),
        ("<!-- [[A]] --> [[B]] <!-- [[C]]", [("B", ""), ("C", "")]),
        ("[[]] [[A", []),
    ],
)
def test_wiki_links_are_read_outside_code(line, links):
    """A wiki link is found with its heading, and never in code."""
    found = Document(line).links
    assert [(link.target, link.heading) for link in found] == links


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ("A", "A"),
        ("maps/A", "A"),
        ("A|words", "words"),
        ("A\\|words", "words"),
        ("A#B#C", "A: C"),
        ("#B", "B"),
    ],
)
def test_a_wiki_link_says_its_label_or_what_it_names(inner, words):
    """Without a label the words are the page's name and the heading's."""
    assert WikiLink.parse(inner).words == words


def test_a_fence_hides_links_and_headings():
    """Nothing inside a fence is a link or a heading, until the fence really ends."""
    text = "````\n# A\n[[A]]\n```\n[[B]]\n````\n# C\n~~~ x\n[[D]]\n"
    doc = Document(text)
    assert [heading.text for heading in doc.headings] == ["C"]
    assert doc.links == []
    assert [code.text for code in doc.code[:4]] == ["# A", "[[A]]", "```", "[[B]]"]


def test_headings_are_read_by_their_words():
    """A heading may hold a link, code and stars; its closing marks are not text."""
    text = "## See [[A|the note]], [it](x.md) and `code` ##\n### *C#*\nD\n\nE\n---"
    words = [(heading.level, heading.text) for heading in Document(text).headings]
    assert words == [(2, "See the note, it and code"), (3, "C#"), (2, "E")]


def test_a_finding_cannot_write_to_the_terminal():
    """What a note or a file name holds is escaped before it is printed."""
    text = str(Finding("a\udcff.md", 1, "broken-link", "\x1b[31m\n"))
    assert text == "a\\udcff.md:1: broken-link \\x1b[31m\\n"


def test_paths_are_links_as_well():
    """A link to a path is found, with spaces and with a heading."""
    found = Document('[a](b%20c.md#d) ![e](<f g.png>) [h](i.md "t")').links
    assert [(link.target, link.heading) for link in found] == [
        ("b%20c.md", "d"),
        ("f g.png", ""),
        ("i.md", ""),
    ]


def test_anchors_are_those_of_the_site():
    """A heading's anchor is the one that Markdown's table of contents gives it."""
    toc = pytest.importorskip("markdown.extensions.toc")
    for text in ("When not", "MOC Type & Purpose", "OAuth 2.0: a — b", "Ärger_x  y"):
        assert anchor(text) == toc.slugify(text, "-")


# Forms of Markdown on which two readers may differ; each is read by the site as well.
FORMS = [
    "Setext *one*\n===\n\ntext\n\nTwo\n---\n\nno\nheading\n---\n",
    "# A {#first}\n\n## B { .c #second }\n\nC {#third}\n---\n\n## D {x\n",
    "# A\n\n## A\n\n## A ##\n\n#B\n####### C\n\n## [[Yes#One]] `x`\n\n##\n",
    "text\n\n    [[No]]\n\n    # no\n\n[[Yes]]\n\n\t[[No]]\n",
    "text\n    [[Yes]]\n\n- item\n\n    [[Yes]]\n\n[[Yes]]\n\n    [[No]]\n",
    "1. one\n\n    [[Yes]]\n\n!!! note\n\n    [[Yes]]\n\n# A\n\n    [[No]]\n",
    "a `code\n[[No]]` [[Yes]]\n\na ` tick\n\n[[Yes]] ` b\n",
    "- a ` tick\n- [[Yes]] ` b\n\n| a ` | b |\n| --- | --- |\n| [[Yes]] ` | c |\n",
    "\\`[[Yes]]` and \\[[No]] and `` ` [[No]] ``\n",
    "<!-- [[No]]\n\n# no\n\n[[No]] -->\n\n[[Yes]] <!-- [[No]]\n[[No]] --> [[Yes]]\n",
    "<code>[[No]]</code> <kbd>\n[[No]]</kbd> [[Yes]]\n",
    "~~~\n[[No]]\n```\n~~~\n\n[[Yes]]\n\n```` text\n```\n[[No]]\n````\n",
    "# See [[Yes|the note]], [it](x.md) and `code`\n\n| [[Yes\\|no]] |\n| --- |\n",
    "[[Yes\nNo]] [[Yes#A#B]] [[#C]]\n",
]


@pytest.mark.parametrize("text", FORMS)
def test_the_garden_reads_markdown_as_the_site_does(text, monkeypatch):
    """The same links and the same anchors are found by the garden and by the site."""
    mkdocs = pytest.importorskip("mkdocs.config")
    monkeypatch.syspath_prepend(ROOT / "docs" / "_site")
    from kit_site.names import Names
    from kit_site.wiki import WikiLinks
    from markdown import Markdown

    config = mkdocs.load_config(str(ROOT / "mkdocs.yml"))
    names, unresolved = Names(), []
    names.add("notes/Yes.md")
    names.add("notes/No.md")
    links = WikiLinks(names, unresolved.append, lambda source, href: None)
    links.source = "notes/Here.md"
    plugins = [name for name in config.markdown_extensions if isinstance(name, str)]
    markdown = Markdown(
        extensions=[*plugins, links], extension_configs=config.mdx_configs
    )
    html = markdown.convert(text)
    shown = re.findall(r'class="kit-wiki" href="([^"]*)"', html)
    doc = Document(text)
    found = [link for link in doc.links if link.wiki]
    hrefs = [
        (f"{link.target}.md" if link.target else "")
        + (f"#{anchor(link.heading)}" if link.heading else "")
        for link in found
    ]
    assert hrefs == shown
    assert unresolved == []
    assert doc.anchors == set(re.findall(r'<h\d[^>]* id="([^"]*)"', html))


@pytest.mark.parametrize(
    "source",
    [
        "from patterns.a import b",
        "from patterns.a import (\n    c,\n    b,\n)",
        "    import patterns.a.b as x",
        "from patterns.a.b import c",
        "x = 1\nfrom patterns.a import c, b as d",
    ],
)
def test_an_import_of_a_pattern_is_seen(source):
    """Every way to import a pattern counts as showing it."""
    assert imports(source, "a/b")


@pytest.mark.parametrize(
    "source",
    [
        "from patterns.a import bb",
        "from patterns.a import c\nb = 1",
        "# from patterns.a import b",
        "import patterns.a",
        "from patterns.ab import b",
    ],
)
def test_what_imports_no_pattern_is_seen(source):
    """A name that only resembles the pattern's is no import of it."""
    assert not imports(source, "a/b")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,
        "{a: " * 15_000,
        "- " * 30_000,
        "? " * 30_000,
        "a: &a [x]\nb: *a",
        "a: !!python/object:os.system x",
        "a: [",
        "\x00",
        "{[a]: b}",
    ],
)
def test_hostile_yaml_is_refused(text):
    """Deep, recursive, executable or broken YAML is an error of ours, and no crash."""
    with pytest.raises(BadYaml):
        load_yaml(text)


# -- robustness --------------------------------------------------------------------

TOKENS = st.sampled_from(
    """---\n;# ;## Verdict\n;[[;]];[[A;A#;#;](;);`;```;```\n;~~~\n;- ;1. ;\\;|;\n; ;é
;state: ;type: ;pattern\n;moc-node\n;growing\n;note-count: ;specs: ;[rfc1]\n;modules:
;tests: ;[patterns/a/b.py]\n;created: ;2026-01-01\n;&a ;*a ;!!x ;? ;: ;{;[;\t;\r\n;\x00
;<!-- standards: written by patterns garden write -->\n;<!-- standards: end -->\n;%00
;`patterns.a.b`;RFC 7807;\ud800;patterns add x/y;**Type**: ;- [x] ;../../x;- id: a\n
;notebooks: [/etc/passwd]\n;verdict: holds\n""".split(";")  # noqa: SIM905
)
NOTES = st.one_of(
    st.binary(max_size=400),
    st.lists(TOKENS, max_size=40).map(
        lambda t: "".join(t).encode("utf-8", "surrogatepass")
    ),
    st.lists(TOKENS, max_size=40).map(
        lambda t: b"---\n" + "".join(t).encode("utf-8", "replace")
    ),
)
ANYTHING = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("path", [*SMALL, "notebooks/x.ipynb", "patterns/a/b.py"])
@ANYTHING
@given(note=NOTES)
@example(note=b"---\ntags: " + b"[" * 60_000 + b"\n---\n")
@example(note=b"[" * 100_000)
@example(note=b"`" * 50_000 + b"[[" * 50_000 + b"](" * 50_000)
@example(note=b"<!-- -->" * 60_000 + b"<!--" * 60_000)
@example(note=b"# " + b" " * 200_000 + b"#x")
@example(note=b'{"cells": [{"cell_type": "code", "source": 7, "metadata": []}]}')
@example(note=b'{"cells": {"a": 1}}')
def test_any_bytes_in_any_file_give_findings_and_no_traceback(small, path, note):
    """Whatever a file holds, check, report and write come to their end."""
    file = small / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(note)
    try:
        found = check(load(small), TODAY)
        assert found
        assert all(finding.line >= 1 and "\n" not in str(finding) for finding in found)
        report(load(small), TODAY)
        write(small)
    finally:
        for name, text in SMALL.items():
            (small / name).write_text(text, "utf-8")
        if path not in SMALL:
            file.unlink()


# -- the command -------------------------------------------------------------------


def test_the_command_prints_findings_and_exits_with_one(small, capsys):
    """A finding is a line of text for people: path, line, code, message."""
    assert main(["check", "--root", str(small), "--today", "2026-11-24"]) == 1
    out = capsys.readouterr().out
    assert "docs/notes/A.md:1: missing-frontmatter begin the file" in out
    assert out.splitlines()[-1].startswith("2 pages, 0 patterns, 0 notebooks: ")


def test_write_names_the_files_it_changed(small, capsys):
    """The command says what it wrote, and what kept it from writing more."""
    assert main(["write", "--root", str(small)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "wrote mkdocs.yml"
    assert [line for line in out if line.startswith("README.md:1: block-missing ")]
    assert main(["write", "--root", str(small), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["changed"] == []


def test_json_is_one_object_and_text_goes_to_standard_error(small, capsys):
    """With --json a program reads standard output, and people standard error."""
    assert main(["check", "--root", str(small), "--json"]) == 1
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["schema"] == 1
    assert data["command"] == "garden check"
    assert {"path", "line", "code", "message", "warning"} == set(data["findings"][0])
    assert "missing-frontmatter" in captured.err


def test_the_report_is_data(capsys):
    """The report counts states, claims and what is overdue on the day it is given."""
    assert main(["report", "--json", "--root", str(ROOT), "--today", "2031-01-01"]) == 0
    data = json.loads(capsys.readouterr().out)
    vault = load(ROOT)
    assert sum(data["states"].values()) == len(vault.pages)
    assert sum(data["claims"].values()) == len(vault.claims)
    assert data["overdue"] == [page.name for page in vault.pages]
    unchecked = [spec.id for spec in vault.specs.values() if not spec.checked]
    assert data["unchecked_specs"] == unchecked
    assert data["orphans"] == []


def test_the_report_is_text_as_well(capsys):
    """For people the report is a line for each fact."""
    assert main(["report", "--root", str(ROOT)]) == 0
    assert re.search(r"^claims: .*\d+ open", capsys.readouterr().out, re.MULTILINE)


def test_outside_a_garden_the_command_exits_with_two(tmp_path, capsys):
    """A folder without the index is no garden, and that is said."""
    assert main(["check", "--root", str(tmp_path)]) == 2
    assert "has no docs/API Integration Patterns Index.md" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["weed"], ["check", "--today", "soon"]])
def test_wrong_usage_exits_with_two(argv, capsys):
    """What the command does not know is a usage error."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: patterns garden" in capsys.readouterr().err


def test_the_garden_is_found_from_a_folder_below():
    """The command works anywhere inside the project."""
    assert root_of(ROOT / "docs" / "notes") == ROOT


def test_without_its_packages_the_command_says_what_it_needs(tmp_path):
    """Where pydantic is not installed the command says so and exits with two."""
    (tmp_path / "pydantic.py").write_text("raise ModuleNotFoundError(name='pydantic')")
    done = subprocess.run(
        [sys.executable, "-m", "patterns", "garden", "check"],
        cwd=ROOT,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "patterns garden: pydantic is not installed" in done.stderr
