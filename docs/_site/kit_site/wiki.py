"""Turn wiki links into links, where Markdown says that text is text.

As an inline processor this runs after code spans, fences, indented code and raw
HTML have been put aside by Markdown itself, so it cannot touch them. It makes a
relative Markdown link; MkDocs then checks the page and the heading as usual.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree as etree

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor

from patterns._kit.garden.text import WIKI, WikiLink, anchor

from .include import doctests
from .names import Names

# What is inside a comment or inline HTML code is skipped whole.
_PATTERN = rf"<!--.*?-->|<(?P<tag>code|kbd|pre)\b.*?</(?P=tag)>|{WIKI}"


def relative(target: str, source: str) -> str:
    """Return the link from one source path to another, quoted for Markdown."""
    folder = posixpath.dirname(source) or "."
    return quote(posixpath.relpath(target, folder))


class WikiLinks(Extension):
    """Resolve `[[links]]` on the page whose source path is `self.source`.

    `warn` is called with a sentence for each link that leads nowhere; `repository`
    maps a path of the repository to the source path that shows it on the site.
    """

    def __init__(
        self,
        names: Names,
        warn: Callable[[str], None],
        repository: Callable[[str, str], str | None],
    ) -> None:
        super().__init__()
        self.names = names
        self.warn = warn
        self.repository = repository
        self.source = ""

    def extendMarkdown(self, md: Markdown) -> None:
        """Register between code spans (190) and escapes (180); links before MkDocs."""
        md.inlinePatterns.register(_Inline(_PATTERN, md, self), "kit-wiki", 185)
        md.treeprocessors.register(_Repository(md, self), "kit-repository", 5)
        md.preprocessors.register(_Doctests(md), "kit-doctests", 28)


class _Doctests(Preprocessor):
    """Runs after newlines are made equal (30) and before fences are read (25)."""

    def run(self, lines: list[str]) -> list[str]:
        return doctests(lines)


class _Inline(InlineProcessor):
    def __init__(self, pattern: str, md: Markdown, links: WikiLinks) -> None:
        super().__init__(pattern, md)
        self.compiled_re = re.compile(pattern, re.DOTALL)
        self.links = links

    def handleMatch(
        self, m: re.Match[str], data: str
    ) -> tuple[etree.Element | None, int | None, int | None]:
        if m["inner"] is None:
            return None, None, None
        return self.element(m), m.start(), m.end()

    def element(self, m: re.Match[str]) -> etree.Element:
        link = WikiLink.parse(m["inner"])
        # A code span in a heading's name has been put aside by Markdown already.
        heading = self.unescape(link.heading)
        problem = ""
        found = self.links.names.find(link.name) if link.name else [self.links.source]
        if m["embed"]:
            problem = "the site does not embed pages"
        elif heading.startswith("^"):
            problem = "the site has no block references"
        elif not found:
            problem = "no page has that name"
        elif len(found) > 1:
            problem = f"several pages do: {', '.join(found)}"
        if problem:
            self.links.warn(f"contains a wiki link '{m[0]}': {problem}")
            # Left as brackets, Markdown could take it for a reference link.
            span = etree.Element("span", {"class": "kit-unresolved"})
            span.text = link.words
            return span
        href = relative(found[0], self.links.source) if link.name else ""
        if heading:
            href += f"#{anchor(heading)}"
        element = etree.Element("a", {"class": "kit-wiki", "href": href})
        element.text = link.words
        return element


class _Repository(Treeprocessor):
    """Let a link written for the repository (an editor, Jupyter) work on the site."""

    def __init__(self, md: Markdown, links: WikiLinks) -> None:
        super().__init__(md)
        self.links = links

    def run(self, root: etree.Element) -> None:
        for element in root.iter():
            name = {"a": "href", "img": "src"}.get(element.tag, "")
            href = element.get(name, "") if name else ""
            parts = urlsplit(href)
            if not parts.path or parts.scheme or parts.netloc:
                continue
            if parts.path.startswith("/"):
                continue
            target = self.links.repository(self.links.source, unquote(parts.path))
            if target is not None:
                new = relative(target, self.links.source)
                element.set(
                    name, new + (f"#{parts.fragment}" if parts.fragment else "")
                )
