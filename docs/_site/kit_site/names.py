"""Give pages their addresses, and find a page by the name a wiki link uses."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field


def slug(name: str) -> str:
    """Return the address part of a page's name.

    >>> slug("OAuth 2.0 Authorization Flow Pattern")
    'oauth-2-0-authorization-flow-pattern'
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.casefold()).strip("-")


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
