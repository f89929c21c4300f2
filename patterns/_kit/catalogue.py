"""Read the catalogue of patterns from the pattern files themselves.

Nothing is declared twice: name and address come from the path, the promise from
the docstring, the packages from the PEP 723 block, the public names from `__all__`.
No pattern is imported; their text is parsed.
"""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
_PEP723 = re.compile(
    r"^# /// script$\s(?P<block>(?:^#(?:| .*)$\s)+?)^# ///$", re.MULTILINE
)


@dataclass(frozen=True)
class Pattern:
    """One pattern file: `name` is its address, such as `pagination/paginator`."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        """The file as shipped."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text)

    @property
    def folder(self) -> str:
        """The note's folder: `pagination` of `pagination/paginator`."""
        return self.name.partition("/")[0]

    @property
    def stem(self) -> str:
        """The module's own name: `paginator` of `pagination/paginator`."""
        return self.name.partition("/")[2]

    @property
    def module(self) -> str:
        """The import name: `patterns.pagination.paginator`."""
        return f"patterns.{self.folder}.{self.stem}"

    @cached_property
    def doc(self) -> str:
        """The module docstring."""
        return ast.get_docstring(self.tree) or ""

    @property
    def promise(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]

    @cached_property
    def requires(self) -> tuple[str, ...]:
        """The packages the PEP 723 block names, such as `httpx>=0.28.1`."""
        found = _PEP723.search(self.text)
        if not found:
            return ()
        lines = (line[2:] for line in found["block"].splitlines())
        return tuple(tomllib.loads("\n".join(lines)).get("dependencies", ()))

    @cached_property
    def exports(self) -> tuple[str, ...]:
        """The names in `__all__`."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
            ):
                return tuple(ast.literal_eval(node.value))
        return ()


def catalogue(package: Path = PACKAGE) -> list[Pattern]:
    """Return every pattern below `package`, sorted by name."""
    found = (
        Pattern(f"{path.parent.name}/{path.stem}", path)
        for path in package.glob("[a-z]*/[a-z]*.py")
    )
    return sorted(found, key=lambda pattern: pattern.name)
