# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Read the catalogue of patterns from the pattern files themselves.

Nothing is declared twice: name and address come from the path, the promise from
the docstring, the packages from the PEP 723 block, the public names from `__all__`.
No pattern is imported; their text is read.

`patterns list` must start in a blink, so this module imports only what `argparse`
has already paid for: the promise and the packages are read by two small regular
expressions (tests/kit/test_house.py holds them equal to `ast` and `tomllib`), and
`ast` is loaded only by whoever asks for `tree`, `doc` or `exports`.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

TYPE_CHECKING = False  # without the cost of importing typing
if TYPE_CHECKING:
    import ast

__all__ = [
    "PACKAGE",
    "Pattern",
    "catalogue",
    "dependencies",
    "script_block",
    "shipped_tests",
]

PACKAGE = Path(__file__).resolve().parent.parent

_PEP723 = re.compile(
    r"^# /// script$\s(?P<block>(?:^#(?:| .*)$\s)+?)^# ///$", re.MULTILINE
)
_DEPENDENCIES = re.compile(
    r'^dependencies\s*=\s*\[((?:[^"\]]|"[^"]*")*)\]', re.MULTILINE
)
_PROMISE = re.compile(r'(?:[ \t]*(?:#.*)?\n)*[rR]?"""(.*?)(?:"""|$)', re.MULTILINE)
_VECTORS = re.compile(r"""\bvectors\(\s*["']([^"'/\\]+)["']\s*\)""")


class Pattern:
    """One pattern file: `name` is its address, such as `pagination/paginator`."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path

    def __repr__(self) -> str:
        return f"Pattern({self.name!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pattern):
            return NotImplemented
        return (self.name, self.path) == (other.name, other.path)

    def __hash__(self) -> int:
        return hash((self.name, self.path))

    @cached_property
    def text(self) -> str:
        """The file as shipped."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        import ast

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
        import ast

        return ast.get_docstring(self.tree) or ""

    @cached_property
    def promise(self) -> str:
        """The first line of the docstring."""
        found = _PROMISE.match(self.text)
        return found[1].strip() if found else self.doc.partition("\n")[0]

    @cached_property
    def requires(self) -> tuple[str, ...]:
        """The packages the PEP 723 block names, such as `httpx>=0.28.1`."""
        return dependencies(self.text)

    @cached_property
    def exports(self) -> tuple[str, ...]:
        """The names in `__all__`."""
        import ast

        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
            ):
                return tuple(ast.literal_eval(node.value))
        return ()

    @property
    def test_name(self) -> str:
        """The name its copied test is known by: `pagination/test_paginator`."""
        return f"{self.folder}/test_{self.stem}"

    @property
    def test_path(self) -> Path:
        """Its test file, in a clone or in the installed package."""
        root = shipped_tests(self.path.parents[1])
        return root / self.folder / f"test_{self.stem}.py"

    @cached_property
    def vectors(self) -> tuple[Path, ...]:
        """The vector files its test names in `vectors("…")` calls."""
        if not self.test_path.is_file():
            return ()
        named = _VECTORS.findall(self.test_path.read_text(encoding="utf-8"))
        root = shipped_tests(self.path.parents[1]) / "vectors"
        return tuple(root / name for name in sorted(set(named)))


def script_block(text: str) -> str:
    """Return the TOML of the PEP 723 block of `text`, or an empty string."""
    found = _PEP723.search(text)
    if not found:
        return ""
    return "\n".join(line[2:] for line in found["block"].splitlines())


def dependencies(text: str) -> tuple[str, ...]:
    """Return the requirements that the PEP 723 block of `text` declares."""
    found = _DEPENDENCIES.search(script_block(text))
    return tuple(re.findall(r'"([^"]*)"', found[1])) if found else ()


def shipped_tests(package: Path = PACKAGE) -> Path:
    """Return where the tests of the patterns lie: in the wheel, else in the clone."""
    shipped = package / "_kit" / "tests"
    return shipped if shipped.is_dir() else package.parent / "tests"


def catalogue(package: Path = PACKAGE) -> list[Pattern]:
    """Return every pattern below `package`, sorted by name."""
    found = (
        Pattern(f"{path.parent.name}/{path.stem}", path)
        for path in package.glob("[a-z]*/[a-z]*.py")
    )
    return sorted(found, key=lambda pattern: pattern.name)
