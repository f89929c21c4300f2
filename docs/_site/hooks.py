"""The thin adapter between MkDocs and the plain functions in `kit_site`.

What an author can write beside Markdown:

Wiki links: `[[Note]]`, `[[Note|words]]`, `[[Note#Heading]]`, `[[#Heading]]`; in a table
the bar is `\\|`. A notebook is `[[pagination.ipynb]]`, a pattern's reference page is
`[[pagination/paginator]]`. An ordinary link may be written for the repository
(`../../notebooks/pagination.ipynb`, `../../patterns/pagination/paginator.py`,
`../../tests/pagination/test_paginator.py`): it works there and on the site.

Code from its source: a fence left empty. `source` is a module or a file, and after a
colon the functions, classes, methods or constants wanted, parted by commas.
`docstring="no"` leaves the docstrings out.

    ```py source="patterns.pagination.paginator:next_link"
    ```
    ```py source="tests/pagination/test_paginator.py:test_one,test_two" docstring="no"
    ```

A figure from a notebook's stored output, by the tag of its cell, alone on a line;
`cell:` in place of `output:` shows the cell's code as well.

    <!-- output: notebooks/pagination.ipynb#tag -->

Diagrams: a `mermaid` fence with a `sequenceDiagram` or a `stateDiagram-v2` in the
part of that language which `kit_site/diagrams.py` names; it becomes an SVG here.

Anything that leads nowhere is a warning, and a warning fails `mkdocs build --strict`.
(Never build with `-q`: it hides warnings from the strict build as well.)
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kit_site import diagrams, graph, include, notebooks, reference, wiki
from kit_site.archive import below, packed
from kit_site.names import Names, destination
from kit_site.record import Record, names, record
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority, get_plugin_logger
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url, meta

from patterns._kit.catalogue import Pattern, catalogue

log = get_plugin_logger("site")


class _NotebookFile(File):
    """A notebook that MkDocs takes for a page."""

    def is_documentation_page(self) -> bool:
        return True


class _Site:
    """What is known during one build."""

    def __init__(self, root: Path, docs: Path) -> None:
        self.root = root
        self.docs = docs
        self.home = ""
        self.patterns: dict[str, Pattern] = {}
        self.files = Files([])
        self.nav = Navigation([], [])
        self.names = Names()
        self.holes: list[str] = []
        self.records: dict[str, Record] = {}
        self.links = wiki.WikiLinks(self.names, self.warn, self.in_repository)

    def start(self, files: Files) -> None:
        """Forget the build before (`mkdocs serve` builds again and again)."""
        self.patterns = {p.name: p for p in catalogue(self.root / "patterns")}
        self.files = files
        self.names.paths.clear()
        self.names.short.clear()
        self.holes.clear()
        self.records.clear()

    def warn(self, sentence: str) -> None:
        log.warning("Doc file '%s' %s", self.links.source, sentence)

    def hold(self, html: str) -> str:
        """Keep HTML aside until Markdown is done, and return what stands for it."""
        self.holes.append(html)
        return f'<div data-kit-hole="{len(self.holes) - 1}"></div>'

    def fill(self, content: str) -> str:
        return re.sub(
            r'<div data-kit-hole="(\d+)"></div>',
            lambda m: self.holes[int(m[1])],
            content,
        )

    def path(self, src_uri: str) -> str:
        """Return where a page's source is in the repository."""
        if src_uri.startswith("notebooks/"):
            return src_uri
        name = src_uri.removeprefix("reference/").removesuffix(".md")
        if src_uri.startswith("reference/") and name in self.patterns:
            return f"patterns/{name}.py"
        return f"{self.docs.relative_to(self.root).as_posix()}/{src_uri}"

    def in_repository(self, source: str, href: str) -> str | None:
        """Return the source path for a link that is right in the repository only."""
        as_page = posixpath.normpath(posixpath.join(posixpath.dirname(source), href))
        if self.files.get_file_from_path(as_page):
            return None
        path = posixpath.normpath(
            posixpath.join(posixpath.dirname(self.path(source)), href)
        )
        docs = self.docs.relative_to(self.root).as_posix()
        name = path.removeprefix("patterns/").removesuffix(".py")
        for target in (
            path.removeprefix(f"{docs}/"),
            f"reference/{name}.md" if path.startswith("patterns/") else path,
        ):
            if self.files.get_file_from_path(target):
                return target
        return None


_site: _Site


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    global _site
    root = Path(config.config_file_path).resolve().parent
    _site = _Site(root, Path(config.docs_dir).resolve())
    config.markdown_extensions.append(_site.links)
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences.setdefault("custom_fences", []).append(
        {"name": "mermaid", "class": "mermaid", "format": _diagram}
    )
    return config


def _diagram(source: str, *_: Any, **__: Any) -> str:
    try:
        return diagrams.draw(source)
    except diagrams.NotDrawn as exc:
        _site.warn(f"has a diagram that cannot be drawn: {exc}")
        return f"<pre>{exc}</pre>"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    _site.start(files)
    for found in list(files.documentation_pages()):
        _place(found, meta.get_data(found.content_string)[1])
        _raw_markdown(found, config)
    for path in sorted(_site.root.glob("notebooks/*.ipynb")):
        book = _NotebookFile(
            f"notebooks/{path.name}", None, config.site_dir, config.use_directory_urls
        )
        book.generated_by = "site"
        book.abs_src_path = str(path)
        _append(book)
        _place(book, {})
        _publish(config, f"notebooks/{path.stem}.raw", book.src_uri, path)
    for pattern in _site.patterns.values():
        page = File.generated(
            config, reference.address(pattern), content=reference.page(pattern)
        )
        _append(page)
        _place(page, {"aliases": [pattern.name]})
        _publish(config, reference.raw(pattern), reference.raw(pattern), pattern.path)
    for folder in sorted({pattern.folder for pattern in _site.patterns.values()}):
        for path in sorted(_site.root.glob(f"tests/{folder}/test_*.py")):
            name = f"tests/{folder}/{path.name}"
            _publish(config, name, name, path)
    _publish_runtime(config)
    taken: dict[str, str] = {}
    for found in files:
        other = taken.setdefault(found.dest_uri, found.src_uri)
        if other != found.src_uri:
            log.warning("'%s' and '%s' have the same address", other, found.src_uri)
    return files


def _publish_runtime(config: MkDocsConfig) -> None:
    """Publish the browser's Python, where `runtime.py` has fetched it, and the kit."""
    runtime = _site.root / ".cache" / "runtime"
    for name, path in sorted(below(runtime, runtime, "*.*").items()):
        _publish(config, f"run/{name}", f"run/{name}", path)
    if runtime.is_dir():
        kit = packed(below(_site.root / "patterns", _site.root, "*.py"))
        _append(File.generated(config, "run/kit.zip", content=kit))


def _append(page: File) -> None:
    _site.files.append(page)


def _place(page: File, data: dict[str, Any]) -> None:
    """Give a page its slug and its names; the index of maps is the home."""
    if data.get("moc-type") == "index" and "/" not in page.src_uri:
        _site.home = page.src_uri
        page.name = "index"
    page.dest_uri = destination(page.src_uri, _site.home)
    page.edit_uri = _site.path(page.src_uri)
    _site.names.add(page.src_uri, names(data.get("aliases")))


def _publish(config: MkDocsConfig, src: str, dest: str, path: Path) -> None:
    """Publish a file of the repository as it is, byte for byte."""
    raw = File.generated(config, src, abs_src_path=str(path))
    raw.dest_uri = dest
    _append(raw)


def _raw_markdown(page: File, config: MkDocsConfig) -> None:
    """Publish a page's Markdown beside it, for readers that are programs."""
    raw = File.generated(
        config,
        f"{page.src_uri}.txt",
        abs_src_path=str(page.abs_src_path),
        inclusion=InclusionLevel.NOT_IN_NAV,
    )
    raw.dest_uri = posixpath.join(posixpath.dirname(page.dest_uri), "index.md")
    _append(raw)


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> None:
    _site.nav = nav


def on_page_read_source(page: Page, config: MkDocsConfig) -> str | None:
    if not isinstance(page.file, _NotebookFile):
        return None
    cells = notebooks.load(Path(str(page.file.abs_src_path)))
    return "---\nkind: notebook\n---\n\n" + notebooks.page(cells, _site.hold)


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    _site.links.source = page.file.src_uri
    kind = str(page.meta.get("kind") or page.meta.get("type") or "page")
    path = _site.path(page.file.src_uri)
    made, problems = record(kind, path, page.meta, _site.patterns)
    for problem in problems:
        _site.warn(problem)
    _site.records[page.file.src_uri] = made
    return include.expand(markdown, _site.root, _site.warn, _site.hold)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    # Checkboxes without labels say nothing to a screen reader; a mark does.
    html = re.sub(
        r'<input type="checkbox" disabled( checked)?\s*/?>',
        lambda m: (
            f'<span class="kit-box" role="img" aria-label="{"yes" if m[1] else "no"}">'
            f"{'✓' if m[1] else ''}</span>"
        ),
        html,
    )
    if _site.records[page.file.src_uri].kind == "moc-node":
        html = re.sub(
            r'<li>\s*(<a class="kit-wiki"[^>]*>[^<]*</a>)\s+[-–—]\s+',
            r'<li class="kit-card">\1 ',
            html,
        )
    if "description" not in page.meta:
        page.meta["description"] = _description(html)
    return _site.fill(html)


def _description(html: str) -> str:
    """Return the start of the first paragraph, cut at a word."""
    first = re.search(r"<p>(.*?)</p>", html, re.DOTALL)
    text = re.sub(r"<[^>]+>|\s+", " ", first[1] if first else "")
    return graph.shorten(" ".join(text.split()), 155).replace('"', "&quot;")


@event_priority(-100)  # after autorefs has resolved its references
def on_env(env: Any, config: MkDocsConfig, files: Files) -> Any:
    pages = {f.page.url: f.page for f in files.documentation_pages() if f.page}
    forward = {
        url: _unique(
            [*_of_record(page), *graph.links(page.content or "", url, set(pages))]
        )
        for url, page in pages.items()
    }
    back = graph.backlinks(forward)
    env.globals["kit"] = {
        "record": lambda page: _site.records[page.file.src_uri],
        "backlinks": lambda page: [pages[url] for url in back[page.url]],
        "drawing": lambda page: _drawing(
            page, pages, back[page.url], forward[page.url]
        ),
        "example": max(
            _site.patterns.values(), key=lambda p: len(p.exports), default=None
        ),
        "raw": reference.raw,
        "reference": lambda p: _url(reference.address(p)),
        "tests": reference.tests,
        "url_of": _url,
        "pages": pages,
    }
    return env


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _url(src_uri: str) -> str:
    """Return the address of a source path, or nothing where there is no such page."""
    found = _site.files.get_file_from_path(src_uri)
    return found.url if found else ""


def _of_record(page: Page) -> list[str]:
    """Return the pages that a note's frontmatter ties it to."""
    made = _site.records[page.file.src_uri]
    if made.kind == "reference":
        return []
    wanted = [*map(reference.address, made.modules), *made.notebooks]
    return [url for url in map(_url, wanted) if url]


def _drawing(
    page: Page, pages: dict[str, Page], before: list[str], after: list[str]
) -> str:
    """Draw the neighbours, unless there are none or too many to read."""
    if page.is_homepage or not 0 < max(len(before), len(after)) <= 14:
        return ""

    def node(url: str) -> graph.Node:
        other = pages[url]
        href = get_relative_url(other.url, page.url)
        kind = _site.records[other.file.src_uri].kind
        return graph.Node(str(other.title), href, kind)

    return graph.neighbours(str(page.title), [*map(node, before)], [*map(node, after)])


def _named(output: str) -> str:
    """Name the part of the theme that a screen reader could not tell apart."""
    return output.replace(
        'data-md-component="search" role="dialog"',
        'data-md-component="search" role="dialog" aria-label="Search"',
    )


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    return _named(output)


def on_post_template(
    output_content: str, template_name: str, config: MkDocsConfig
) -> str:
    return _named(output_content)


def on_post_build(config: MkDocsConfig) -> None:
    """Write `llms.txt`: the site as a list of Markdown files."""
    base = config.site_url or ""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    for page in _site.nav.pages:
        if _site.records[page.file.src_uri].kind == "reference":
            continue
        raw = page.file.src_uri
        if not isinstance(page.file, _NotebookFile):
            raw = posixpath.join(posixpath.dirname(page.file.dest_uri), "index.md")
        lines.append(f"- [{page.title}]({base}{quote(raw)})")
    lines += ["", "## Modules", ""]
    for pattern in _site.patterns.values():
        address = base + reference.raw(pattern)
        lines.append(f"- [{pattern.name}]({address}): {pattern.promise}")
    path = Path(config.site_dir, "llms.txt")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
