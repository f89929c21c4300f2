"""The site as MkDocs builds it: the tiny vault, planted faults, and the real tree."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import yaml
from kit_site.names import destination
from mkdocs.commands.build import build as build_here
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from tiny_vault import MODULE, ROOT, VAULT, Build, vault

from patterns._kit.catalogue import catalogue

HOME = "API Integration Patterns Index.md"


def article(html: str) -> str:
    """Return the page's own part, without what code shows."""
    own = html[html.index("<article") : html.index("</article>")]
    return re.sub(r"<(pre|code)\b.*?</\1>|<!--.*?-->", "", own, flags=re.DOTALL)


def test_tiny_vault_builds(tiny: Build) -> None:
    """Every form of link, inclusion and diagram together builds without a warning."""
    assert tiny.code == 0, tiny.said
    assert "WARNING" not in tiny.said


def test_home_is_root(tiny: Build) -> None:
    """The index is the home page and shows the three uses."""
    home = tiny.page(".")
    assert "<h1" in home
    assert all(f'id="kit-{use}"' in home for use in ("read", "run", "copy-use"))
    assert 'href="notes/second-a-note-2-0/">the second</a>' in home
    assert '<a class="kit-wiki" href="notes/first-note/">in a table</a>' in home


def test_backlinks(tiny: Build) -> None:
    """A note lists what links to it: the index, a note and a notebook."""
    linked = tiny.page("notes/first-note").partition('id="kit-linked"')[2]
    block = linked[: linked.index("</ul>")]
    assert re.findall(r">([^<]+)</a>", block) == [
        "The Index",
        "Second: A Note 2.0",
        "A walk",
    ]


def test_links_written_for_the_repository(tiny: Build) -> None:
    """Links to a notebook, a module and a test work in an editor and on the site."""
    note = tiny.page("notes/first-note")
    for href in (
        "../../notebooks/walk/#the-walk",
        "../../reference/one/walker/",
        "../../tests/one/test_walker.py",
    ):
        assert f'href="{href}"' in note


def test_copy_button_names_the_module(tiny: Build) -> None:
    """The button's address holds the module byte for byte, on note and reference."""
    for address in ("notes/first-note", "reference/one/walker"):
        html = tiny.page(address)
        button = re.search(r'data-kit-copy="([^"]+)"', html)
        assert button
        raw = (tiny.site / address / button[1]).resolve()
        assert raw.read_bytes() == MODULE.encode()
        assert f'href="{button[1]}" download="walker.py"' in html


def test_notebook_page_and_file(tiny: Build) -> None:
    """A notebook is a page with its stored outputs, and a file to download."""
    html = tiny.page("notebooks/walk")
    assert "a&lt;b" in html
    assert "out of sight" not in html
    assert "\x1b" not in html
    stored = (tiny.site / "notebooks" / "walk.ipynb").read_text(encoding="utf-8")
    assert stored == VAULT["notebooks/walk.ipynb"]
    assert 'href="../walk.ipynb" download' in html


def test_checkboxes_speak(tiny: Build) -> None:
    """A checklist's boxes are marks with a name, not inputs without one."""
    home = tiny.page(".")
    assert 'aria-label="yes">✓' in home
    assert 'type="checkbox" disabled' not in home


def test_for_programs(tiny: Build) -> None:
    """The Markdown stands beside each note, and llms.txt lists it."""
    listed = (tiny.site / "llms.txt").read_text(encoding="utf-8")
    for path in re.findall(r"\]\(([^)]+)\)", listed):
        assert (tiny.site / path).is_file()
    assert "notes/first-note/index.md" in listed
    raw = (tiny.site / "notes/first-note/index.md").read_text(encoding="utf-8")
    assert raw == VAULT["docs/notes/First Note.md"]


def test_machinery_is_no_page(tiny: Build) -> None:
    """Neither the machinery nor the registers are published."""
    published = {path.name for path in tiny.site.rglob("*")}
    assert not published & {"hooks.py", "kit_site", "specs.yml", "main.html"}


NOTE = "docs/notes/Second: A Note 2.0.md"
BOOK = "notebooks/walk.ipynb"


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        (NOTE, "Back to [[First Note#Why this heading]]", "[[No Note]]", "[[No Note]]"),
        (NOTE, "#Why this heading", "#No Such", "contain an anchor '#no-such'"),
        (BOOK, "First%20Note.md", "No%20Note.md", "No%20Note.md"),
        (BOOK, "[[First Note]]", "[[No Note]]", "[[No Note]]"),
        ("docs/notes/First Note.md", "walker:walk", "walker:gone", "has no gone"),
        ("docs/notes/First Note.md", "ipynb#plot", "ipynb#gone", "tagged 'gone'"),
        ("docs/notes/First Note.md", "S-->>C: 200", "S ~~> C", "cannot be drawn"),
        ("docs/notes/First Note.md", "[one/walker]", "[one/gone]", "is no pattern"),
    ],
)
def test_planted_fault(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    path: str,
    old: str,
    new: str,
    said: str,
) -> None:
    """Each thing that leads nowhere fails the strict build, and says what it is."""
    root = vault(tmp_path, {path: (old, new)})
    config = load_config(str(root / "mkdocs.yml"), strict=True)
    with caplog.at_level(logging.WARNING, "mkdocs"), pytest.raises(Abort):
        build_here(config)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert said in warnings[0]


def nav_paths(nav: object) -> list[str]:
    """Return every source path in a nav, in order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [path for part in parts for path in nav_paths(part)]


def test_real_tree_is_clean(real: Build) -> None:
    """The published tree builds strictly, without one warning."""
    assert real.code == 0, real.said
    assert "WARNING" not in real.said


def test_real_pages(real: Build) -> None:
    """Every page of the navigation is built, with no wiki link left as text."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load(text[text.index("\nnav:") : text.index("# nav: end")])["nav"]
    paths = nav_paths(nav)
    assert len(paths) > 10
    for path in paths:
        built = real.site / destination(path, HOME)
        html = built.read_text(encoding="utf-8")
        assert "[[" not in article(html), path
        assert "kit-unresolved" not in html, path


def test_real_modules_are_published_as_they_are(real: Build) -> None:
    """Each pattern of the catalogue is published byte for byte, with a page."""
    patterns = catalogue()
    assert patterns
    for pattern in patterns:
        raw = real.site / "m" / f"{pattern.name}.py"
        assert raw.read_bytes() == pattern.path.read_bytes()
        page = destination(f"reference/{pattern.name}.md", HOME)
        html = (real.site / page).read_text(encoding="utf-8")
        assert f'm/{pattern.name}.py"' in html
        for name in pattern.exports:
            assert f'id="{pattern.module}.{name}"' in html, name


def test_real_notebooks(real: Build) -> None:
    """Each notebook is a page of its own and a file beside it."""
    books = sorted(ROOT.glob("notebooks/*.ipynb"))
    assert books
    for book in books:
        page = real.site / destination(f"notebooks/{book.name}", HOME)
        assert 'class="language-py highlight"' in page.read_text(encoding="utf-8")
        assert (real.site / "notebooks" / book.name).read_bytes() == book.read_bytes()


def test_no_page_names_an_outside_script(real: Build) -> None:
    """No script, style or picture comes from another host."""
    for path in real.site.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        outside = re.findall(r'<(?:script|link|img|iframe)[^>]+"(?:https?:)?//', html)
        assert outside == [], path
