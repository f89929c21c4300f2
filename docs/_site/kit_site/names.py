"""Give pages their addresses, and find a page by the name a wiki link uses."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from markdown.extensions.toc import slugify

# A title may carry a link, emphasis or code: the anchor is made of its words alone.
_MARKUP = re.compile(r"\[\[(?:[^\]|]*\\?\|)?([^\]]*)\]\]|\[([^\]]*)\]\([^)]*\)|[*`]")


def slug(name: str) -> str:
    """Return the address part of a page's name.

    >>> slug("OAuth 2.0 Authorization Flow Pattern")
    'oauth-2-0-authorization-flow-pattern'
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.casefold()).strip("-")


def anchor(heading: str) -> str:
    """Return the id that the `toc` extension gives to a heading.

    >>> anchor("When `not`")
    'when-not'
    """
    words = _MARKUP.sub(lambda m: m[1] or m[2] or "", heading)
    return slugify(words, "-")


def destination(src_uri: str, home: str) -> str:
    """Return where a page is built to: a folder with a slug, the home at the root.

    >>> destination("notes/API Pagination Strategy.md", home="Index.md")
    'notes/api-pagination-strategy/index.html'
    """
    if src_uri == home:
        return "index.html"
    folder, name = posixpath.split(src_uri)
    parts = [*map(slug, filter(None, folder.split("/")))]
    stem = posixpath.splitext(name)[0]
    return posixpath.join(*parts, slug(stem), "index.html")


@dataclass(frozen=True)
class WikiLink:
    """A wiki link taken apart: `[[name#heading|label]]`."""

    name: str
    heading: str
    label: str

    @classmethod
    def parse(cls, inner: str) -> WikiLink:
        """Read what stands between the brackets; in a table the bar is `\\|`."""
        target, _, label = re.sub(r"\\\|", "|", inner).partition("|")
        name, _, heading = target.partition("#")
        # Obsidian writes a nested heading as #Outer#Inner; the last one is meant.
        heading = heading.rpartition("#")[2]
        return cls(name.strip(), heading.strip(), label.strip())

    @property
    def words(self) -> str:
        """The text to show."""
        if self.label:
            return self.label
        if self.name and self.heading:
            return f"{posixpath.basename(self.name)}: {self.heading}"
        return posixpath.basename(self.name) or self.heading


@dataclass
class Names:
    """The names by which a page can be linked; an exact path wins over a short name."""

    paths: dict[str, str] = field(default_factory=dict)
    short: dict[str, set[str]] = field(default_factory=dict)

    def add(self, src_uri: str, aliases: Iterable[str] = ()) -> None:
        """Register a page under its path, its file name and its aliases."""
        stem = posixpath.splitext(src_uri)[0]
        for path in (src_uri, stem):
            self.paths[path.casefold()] = src_uri
        base = posixpath.basename(src_uri)
        for name in (posixpath.splitext(base)[0], base, *aliases):
            self.short.setdefault(str(name).casefold(), set()).add(src_uri)

    def find(self, name: str) -> list[str]:
        """Return the pages that answer to `name`; anything but one is a fault."""
        key = name.casefold()
        if key in self.paths:
            return [self.paths[key]]
        return sorted(self.short.get(key, ()))
