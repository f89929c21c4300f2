# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""The one line that a copied file carries, and what a copy may differ in unedited.

The header is the first line of a copy and all the state there is:

    # api-integration-patterns 0.1.0: pagination/paginator sha256:1c5f1b95f03a5930

Distribution, version, name, and the first 16 hex digits of the SHA-256 of the text
as released, newlines normalised. The line is short so that it passes the user's
linter at 88 columns; it stands above SPDX lines and the PEP 723 block and disturbs
neither. Deleting it opts out.

Two things may differ between a released text and its untouched copy, because
`patterns add` wrote them so: which httpx the file imports, and the one line by which
a copied test imports its module. Neither is recorded. Both can be read from the copy
itself (`Fit.of`) and put on any released text (`Fit.on`), so base and new text are
fitted alike before they are compared or merged with the copy, and there is no second
state that could disagree with the file. The hash is always that of the released
text, before fitting: it is the key of the history.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

__all__ = ["DISTRIBUTION", "Fit", "Header", "Refusal", "check_import", "digest"]

DISTRIBUTION = "api-integration-patterns"

_HEADER = re.compile(
    r"# (?P<distribution>[A-Za-z0-9._-]+) (?P<version>\S+):"
    r" (?P<name>[a-z0-9_]+/[a-z0-9_]+) sha256:(?P<sha256>[0-9a-f]{16})"
)
_HTTPX = re.compile(r"^import httpx$", re.MULTILINE)
_HTTPX2 = re.compile(r"^import httpx2 as httpx$", re.MULTILINE)
_SCRIPT = re.compile(r"^# /// script\n(?:#.*\n)*?# ///$", re.MULTILINE)
_REQUIRE_HTTPX = re.compile(r'"httpx(\[[^\]"]*\])?(?![\w.-])[^"]*"')
# The first release the suite runs under. Copies out there are recognised by this
# line: should it ever have to rise, it rises with the released text it belongs to.
_REQUIRE_HTTPX2 = r'"httpx2\1>=2.16"'


class Refusal(Exception):
    """Why a file or folder is left alone: one sentence for people."""


@dataclass(frozen=True, slots=True)
class Header:
    """The parsed first line of a copy."""

    distribution: str
    version: str
    name: str
    sha256: str

    @classmethod
    def parse(cls, line: str) -> Header | None:
        """Read a header from `line`, or None if it is no header.

        >>> Header.parse("# a-kit 1.0: errors/retry sha256:00112233445566ff").name
        'errors/retry'
        >>> Header.parse("# SPDX-License-Identifier: MIT")
        """
        found = _HEADER.fullmatch(line)
        return cls(**found.groupdict()) if found else None

    def __str__(self) -> str:
        return f"# {self.distribution} {self.version}: {self.name} sha256:{self.sha256}"


def digest(text: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of `text`, newlines normalised.

    >>> digest("a\\r\\n") == digest("a\\n")
    True
    """
    data = text.replace("\r\n", "\n").encode()
    return hashlib.sha256(data).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Fit:
    """How a copy was fitted into its project: its httpx, and a test's import line.

    `http` is "httpx", "httpx2", or None for a file that imports neither.
    """

    http: str | None = None
    imports: str | None = None

    @classmethod
    def of(cls, body: str, name: str) -> Fit:
        """Read the fit of the copy `name` from its own lines."""
        http = "httpx2" if _HTTPX2.search(body) else None
        if http is None and _HTTPX.search(body):
            http = "httpx"
        stem = name.partition("/")[2]
        if not stem.startswith("test_"):
            return cls(http)
        module = re.escape(stem.removeprefix("test_"))
        lines = re.findall(
            rf"^(?:from [\w.]+ )?import {module}$", body, flags=re.MULTILINE
        )
        return cls(http, lines[0] if len(lines) == 1 else None)

    def on(self, text: str, name: str) -> str:
        """Put this fit on `text`, the released text of `name`."""
        if self.http == "httpx2":
            text = _HTTPX.sub("import httpx2 as httpx", text)
            text = _SCRIPT.sub(
                lambda block: _REQUIRE_HTTPX.sub(_REQUIRE_HTTPX2, block[0]), text
            )
        if self.imports is not None:
            line = re.escape(canonical_import(name))
            text = re.sub(rf"^{line}$", self.imports, text, flags=re.MULTILINE)
        return text


def canonical_import(name: str) -> str:
    """Return the line by which the shipped test `name` imports its module."""
    folder, _, stem = name.partition("/")
    return f"from patterns.{folder} import {stem.removeprefix('test_')}"


def check_import(text: str, name: str) -> None:
    """Check that the test `name` imports its module in exactly the canonical line.

    Raises:
        Refusal: if there is not exactly one such line, or if another line imports
            from `patterns`: then the test cannot follow its module to a new place.
    """
    wanted = canonical_import(name)
    found = re.findall(r"^[ \t]*(?:from|import) patterns\b.*$", text, re.MULTILINE)
    if found != [wanted]:
        seen = ", ".join(map(repr, found)) or "none"
        raise Refusal(
            f"the test {name} must import its module in exactly one line,"
            f" {wanted!r}; it has {seen}"
        )
