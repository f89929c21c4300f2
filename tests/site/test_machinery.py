"""The plain functions behind the site: names, wiki links, inclusions, notebooks."""

from __future__ import annotations

import doctest
import importlib
import io
import json
import pkgutil
import zipfile
from pathlib import Path

import kit_site
import pytest
from kit_site import graph, include, notebooks
from kit_site.archive import below, packed
from kit_site.diagrams import NotDrawn, draw
from kit_site.names import Names, destination
from kit_site.record import record
from kit_site.wiki import WikiLinks
from markdown import Markdown
from tiny_vault import MODULE, SVG, code, notebook, printed, raised, shown, words

from patterns._kit.catalogue import catalogue

MODULES = [name for _, name, _ in pkgutil.iter_modules(kit_site.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    """The examples in the machinery's docstrings are true."""
    module = importlib.import_module(f"kit_site.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.fixture
def warnings() -> list[str]:
    """What the page was warned of."""
    return []


@pytest.fixture
def render(warnings: list[str]) -> object:
    """Render Markdown as `notes/Here.md` of a vault with three other pages."""
    names = Names()
    names.add("notes/Here.md")
    names.add("notes/API: A Note 2.0.md", ["Number One"])
    names.add("maps/Twin.md")
    names.add("notes/Twin.md")
    names.add("notebooks/walk.ipynb")
    links = WikiLinks(names, warnings.append, lambda source, href: None)
    links.source = "notes/Here.md"
    extensions = ["tables", "toc", "fenced_code", "md_in_html", links]
    return Markdown(extensions=extensions).convert


@pytest.mark.parametrize(
    ("text", "html"),
    [
        (
            "[[API: A Note 2.0]]",
            'href="API%3A%20A%20Note%202.0.md">API: A Note 2.0</a>',
        ),
        ("[[api: a note 2.0]]", 'href="API%3A%20A%20Note%202.0.md">api: a note 2.0<'),
        ("[[Number One|one]]", 'href="API%3A%20A%20Note%202.0.md">one</a>'),
        ("[[Here#Why `it` is]]", 'href="Here.md#why-it-is">'),
        ("[[#Own heading]]", 'href="#own-heading">Own heading</a>'),
        ("[[#Own heading|words]]", 'href="#own-heading">words</a>'),
        ("[[Here#Outer#Inner]]", 'href="Here.md#inner">Here: Inner</a>'),
        ("[[walk.ipynb]]", 'href="../notebooks/walk.ipynb">walk.ipynb</a>'),
        ("[[maps/Twin]]", 'href="../maps/Twin.md">Twin</a>'),
        ("| a |\n|---|\n| [[Here\\|x]] |", 'href="Here.md">x</a></td>'),
        (
            "## On [[Here|it]]\n",
            '<h2 id="on-it">On <a class="kit-wiki" href="Here.md">it',
        ),
        ("[[Here|some *words*]]", ">some <em>words</em></a>"),
    ],
)
def test_wiki_link(render: object, warnings: list[str], text: str, html: str) -> None:
    """A wiki link becomes a relative link to the one page of that name."""
    assert html in render(text)
    assert warnings == []


@pytest.mark.parametrize(
    "text",
    [
        "`[[Here]]`",
        "``a `[[Here]]` ``",
        "    [[Here]]",
        "```text\n[[Here]]\n```",
        "~~~\n[[Here]]\n~~~",
        "<!-- [[Here]] -->",
        "words <!-- [[Here]] --> words",
        "<!--\n[[Here]]\n-->",
        "<code>[[Here]]</code>",
        "a <code>[[Here]]</code> b",
        "\\[[Here]]",
    ],
)
def test_not_a_wiki_link(render: object, warnings: list[str], text: str) -> None:
    """What Markdown calls code or a comment is left as it is."""
    html = render(text)
    assert "[[Here]]" in html
    assert "<a" not in html
    assert warnings == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[Nobody]] [text](Here.md)", "no page has that name"),
        ("[[Twin]]", "several pages do: maps/Twin.md, notes/Twin.md"),
        ("![[Here]]", "does not embed"),
        ("[[Here#^block]]", "no block references"),
    ],
)
def test_unresolved(
    render: object, warnings: list[str], text: str, problem: str
) -> None:
    """A wiki link that leads nowhere is told, and leaves no brackets behind."""
    html = render(text)
    assert problem in "".join(warnings)
    assert len(warnings) == 1
    assert 'class="kit-unresolved"' in html
    assert "[[" not in html


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("The Index.md", "index.html"),
        ("notes/OAuth 2.0 – Flow.md", "notes/oauth-2-0-flow/index.html"),
        ("notebooks/two words.ipynb", "notebooks/two-words/index.html"),
        ("reference/one/page_token.md", "reference/one/page-token/index.html"),
    ],
)
def test_addresses(source: str, address: str) -> None:
    """Addresses are slugs, whatever the note is called; the home is the root."""
    assert destination(source, home="The Index.md") == address


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with one module and one notebook."""
    (tmp_path / "patterns" / "one").mkdir(parents=True)
    (tmp_path / "patterns" / "one" / "walker.py").write_text(MODULE)
    cells = [
        words("# Title\n\ntext"),
        code("plot()", printed("a < b\n"), shown(svg=SVG, text="x"), tags=("plot",)),
        code("1", printed("1\n"), tags=("twice",)),
        code("2", printed("2\n"), tags=("twice",)),
        code("3", tags=("mute",)),
    ]
    (tmp_path / "walk.ipynb").write_text(notebook(*cells))
    return tmp_path


def expanded(tree: Path, text: str) -> tuple[str, list[str]]:
    warnings: list[str] = []
    return include.expand(text, tree, warnings.append, lambda h: h), warnings


def fence(options: str, body: str = "") -> str:
    return f"```py {options}\n{body}```\n"


def test_source_of_function(tree: Path) -> None:
    """A fence with a source shows the function as the file has it, and says where."""
    text, warnings = expanded(tree, fence('source="patterns.one.walker:walk"'))
    shown_code = MODULE[MODULE.index("def walk") :].strip()
    assert shown_code in text
    assert 'title="patterns/one/walker.py"' in text
    assert warnings == []


def test_source_without_docstring(tree: Path) -> None:
    """The docstring can be left out, and a constant brings its comment."""
    names = 'source="patterns/one/walker.py:LIMIT,walk" docstring="no"'
    text, warnings = expanded(tree, fence(names))
    assert "# Why seven: nobody asks for an eighth.\nLIMIT = 7\n" in text
    assert '"""' not in text
    assert "if not items:" in text
    assert warnings == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (fence('source="patterns.one.walker:gone"'), "walker.py has no gone to show"),
        (fence('source="patterns.one.gone:walk"'), "no patterns/one/gone.py to show"),
        (fence('source="patterns.one.walker:walk"', "x = 1\n"), "filled in, not typed"),
        ("<!-- output: walk.ipynb#gone -->", "0 cells tagged 'gone'"),
        ("<!-- output: walk.ipynb#twice -->", "2 cells tagged 'twice'"),
        ("<!-- output: walk.ipynb#mute -->", "'mute' of walk.ipynb has no stored"),
        ("<!-- output: gone.ipynb#plot -->", "no notebook gone.ipynb"),
    ],
)
def test_inclusion_of_nothing(tree: Path, text: str, problem: str) -> None:
    """What a page wants to show and is not there is told."""
    _, warnings = expanded(tree, text)
    assert len(warnings) == 1
    assert problem in warnings[0]


def test_stored_output(tree: Path) -> None:
    """The stored text and picture of a tagged cell stand in the page; text is text."""
    text, warnings = expanded(tree, "<!-- output: walk.ipynb#plot -->")
    assert "a &lt; b" in text
    assert '<rect class="bar"' in text
    assert "plot()" not in text
    assert warnings == []


def test_cell_with_its_code(tree: Path) -> None:
    """`cell:` in place of `output:` shows the code as well."""
    text, _ = expanded(tree, "<!-- cell: walk.ipynb#plot -->")
    assert '<span class="n">plot</span>' in text
    assert "a &lt; b" in text


def test_inclusions_inside_code_are_text(tree: Path) -> None:
    """A page that explains the two inclusions shows them as they are written."""
    inner = fence('source="patterns.one.walker:gone"') + "<!-- output: x#y -->\n"
    page = f"````md\n{inner}````\n"
    assert expanded(tree, page) == (page, [])


def test_list_after_paragraph(tree: Path) -> None:
    """A list may follow its paragraph at once, but a wrapped line is no list."""
    text, _ = expanded(tree, "**Why:**\n- one\n- two\n\n2026 was\n3. no list\n")
    assert text == "**Why:**\n\n- one\n- two\n\n2026 was\n3. no list\n"


def page(*cells: object) -> str:
    return notebooks.page(json.loads(notebook(*cells))["cells"], lambda html: html)


def test_notebook_page() -> None:
    """Prose, code and stored outputs come in their order; output is escaped."""
    text = page(words("# T"), code("f()", printed("<b>\n"), printed("two\n")))
    assert text.index("# T") < text.index("f()") < text.index("&lt;b&gt;")
    assert "<b>" not in text


def test_notebook_error() -> None:
    """An exception shows its last line; the traceback is folded and has no colours."""
    trace = "\x1b[0;31mValueError\x1b[0m                Traceback"
    text = page(code("f()", raised("ValueError", "no <item>", trace)))
    assert "ValueError: no &lt;item&gt;" in text
    assert "<summary>Traceback</summary>" in text
    assert "\x1b" not in text


def test_notebook_best_output() -> None:
    """Of several forms of one result the picture is shown, with a name for it."""
    text = page(words("## Cost of depth"), code("f()", shown(svg=SVG, html="x")))
    assert '<svg role="img" aria-label="Cost of depth"' in text
    assert text.count("<svg") == 1
    assert ">x<" not in text


@pytest.mark.parametrize(
    ("tag", "seen", "unseen"),
    [
        ("remove-cell", [], ["secret()", "told"]),
        ("remove-input", ["told"], ["secret()"]),
        ("remove-output", ["secret()"], ["told"]),
        ("hide-input", ['??? code "Show the code"', "secret()", "told"], []),
        ("hide-output", ["secret()", "<summary>Show the output</summary>", "told"], []),
        ("claim-one", ['<a id="claim-one"></a>', "secret()", "told"], []),
    ],
)
def test_notebook_tags(tag: str, seen: list[str], unseen: list[str]) -> None:
    """Tags leave cells out or fold them; any other tag is an anchor."""
    text = page(code("secret()", printed("told\n"), tags=(tag,)))
    assert all(part in text for part in seen)
    assert not any(part in text for part in unseen)


def test_links_between_pages() -> None:
    """Links are followed as a browser would, each once, and the other way round."""
    html = '<a href="../b/#x">b</a> <a href="../b/">b</a> <a href="https://x.y">z</a>'
    forward = {"a/": graph.links(html, "a/", {"a/", "b/", ""}), "b/": []}
    forward[""] = graph.links(
        '<a href="a/">a</a><a href="#top">top</a>', "", {"", "a/"}
    )
    assert forward == {"a/": ["b/"], "b/": [], "": ["a/"]}
    assert graph.backlinks(forward) == {"a/": [""], "b/": ["a/"], "": []}


def test_neighbours_are_links() -> None:
    """The drawing is the same each time, and every node can be followed."""
    nodes = [graph.Node(f"Page <{n}>", f"../{n}/", "pattern") for n in range(3)]
    svg = graph.neighbours("Here", nodes, nodes[:1])
    assert svg == graph.neighbours("Here", nodes, nodes[:1])
    assert svg.count('<a href="../') == 4
    assert "Page &lt;0&gt;" in svg


def test_sequence_is_drawn() -> None:
    """A sequence diagram shows each message, and says it in words as well."""
    svg = draw(
        "sequenceDiagram\nparticipant C as Client\nC->>S: GET <x>\nS-->>C: 200\n"
        "loop until the end\nC->>C: think\nend\nNote over C,S: done"
    )
    for text in ("Client", "GET &lt;x&gt;", "think", "loop until the end", "done"):
        assert text in svg
    assert 'aria-label="Sequence: Client, S. Client to S: GET &lt;x&gt;' in svg
    assert svg.count("kit-d-line--dashed") == 1


def test_states_are_drawn() -> None:
    """A state diagram shows each state and each move, and marks a final state."""
    svg = draw(
        "stateDiagram-v2\n[*] --> Shut\nShut --> Open: failures\nOpen --> Half\n"
        'state "Half open" as Half\nHalf --> Shut: it works\nHalf --> Half\n'
        "Shut --> Half: by hand\nOpen --> [*]"
    )
    assert svg.count("kit-d-head") == 6
    assert svg.count('class="kit-d-node"') == 4
    assert "Half open to Shut when it works" in svg


@pytest.mark.parametrize(
    "source",
    [
        "",
        "pie title x",
        "sequenceDiagram",
        "sequenceDiagram\nnonsense",
        "sequenceDiagram\nA->>B: x\nend",
        "sequenceDiagram\nloop x\nA->>B: x",
        "stateDiagram-v2",
        "stateDiagram-v2\nA --> B --> C",
    ],
)
def test_not_drawn(source: str) -> None:
    """What is outside the known part of Mermaid is refused, not guessed at."""
    with pytest.raises(NotDrawn):
        draw(source)


def test_record_names_real_modules() -> None:
    """A note's modules are patterns of the catalogue; any other name is told."""
    known = {pattern.name: pattern for pattern in catalogue()}
    name, pattern = next(iter(known.items()))
    meta = {"state": "growing", "modules": [f"patterns/{name}.py", "none/such"]}
    made, problems = record("pattern", "docs/x.md", meta, known)
    assert made.modules == [pattern]
    assert made.state == "growing"
    assert problems == ["names the module 'none/such', which is no pattern"]


def test_archive_is_the_same_each_time(tree: Path) -> None:
    """The kit is packed for the browser without dates, so a site builds the same."""
    files = below(tree / "patterns", tree, "*.py")
    assert list(files) == ["patterns/one/walker.py"]
    first = packed(files)
    files["patterns/one/walker.py"].touch()
    assert packed(files) == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.read("patterns/one/walker.py") == MODULE.encode()
