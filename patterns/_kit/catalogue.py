# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Read the catalogue of patterns from the pattern files themselves.

Nothing is declared twice: name and address come from the path, the promise from
the docstring, the packages from the PEP 723 block, the public names from `__all__`.
No pattern is imported; their text is read.

`patterns list` must start in a blink, so this module imports only what `argparse`
has already paid for, and compiles an expression when it is first used. The promise
and the packages are read by such expressions (tests/kit/test_house.py holds them
equal to `ast` and `tomllib`); `ast` is loaded only by whoever asks for `tree`, `doc`
or `exports`, and `pathlib` by whoever asks for a path.
"""

from __future__ import annotations

import os
import re
from functools import cached_property

TYPE_CHECKING = False  # without the cost of importing typing
if TYPE_CHECKING:
    import ast
    from pathlib import Path

    PACKAGE: Path

__all__ = [
    "PACKAGE",
    "Pattern",
    "catalogue",
    "dependencies",
    "script_block",
    "shipped_tests",
]

_HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_PEP723 = r"(?m)^# /// script$\s(?P<block>(?:^#(?:| .*)$\s)+?)^# ///$"
_DEPENDENCIES = r'(?m)^dependencies\s*=\s*\[((?:[^"\]]|"[^"]*")*)\]'
_PROMISE = r'(?m)(?:[ \t]*(?:#.*)?\n)*[rR]?"""(.*?)(?:"""|$)'
_VECTORS = r"""\bvectors\(\s*["']([^"'/\\]+)["']\s*\)"""


def __getattr__(name: str) -> Path:
    """Make `PACKAGE`, the folder of the installed patterns, when it is asked for."""
    if name == "PACKAGE":
        from pathlib import Path

        return Path(_HERE)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Pattern:
    """One pattern file: `name` is its address, such as `pagination/paginator`."""

    def __init__(self, name: str, path: Path | str) -> None:
        self.name = name
        self._file = os.fspath(path)

    def __repr__(self) -> str:
        return f"Pattern({self.name!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pattern):
            return NotImplemented
        return (self.name, self._file) == (other.name, other._file)

    def __hash__(self) -> int:
        return hash((self.name, self._file))

    @cached_property
    def path(self) -> Path:
        """Where the file lies."""
        from pathlib import Path

        return Path(self._file)

    @cached_property
    def text(self) -> str:
        """The file as shipped."""
        with open(self._file, encoding="utf-8") as file:
            return file.read()

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
        found = re.match(_PROMISE, self.text)
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
        named = re.findall(_VECTORS, self.test_path.read_text(encoding="utf-8"))
        root = shipped_tests(self.path.parents[1]) / "vectors"
        return tuple(root / name for name in sorted(set(named)))


def script_block(text: str) -> str:
    """Return the TOML of the PEP 723 block of `text`, or an empty string."""
    found = re.search(_PEP723, text)
    if not found:
        return ""
    return "\n".join(line[2:] for line in found["block"].splitlines())


def dependencies(text: str) -> tuple[str, ...]:
    """Return the requirements that the PEP 723 block of `text` declares."""
    found = re.search(_DEPENDENCIES, script_block(text))
    return tuple(re.findall(r'"([^"]*)"', found[1])) if found else ()


def shipped_tests(package: Path) -> Path:
    """Return where the tests of the patterns lie: in the wheel, else in the clone."""
    shipped = package / "_kit" / "tests"
    return shipped if shipped.is_dir() else package.parent / "tests"


def catalogue(package: Path | str = _HERE) -> list[Pattern]:
    """Return every pattern below `package`, sorted by name."""
    return [
        Pattern(f"{folder}/{file[:-3]}", os.path.join(package, folder, file))
        for folder in _lower_case(package)
        if os.path.isdir(os.path.join(package, folder))
        for file in _lower_case(os.path.join(package, folder))
        if file.endswith(".py")
    ]


def _lower_case(folder: Path | str) -> list[str]:
    """Return the entries that start with a letter: `_kit` is not one of them."""
    return sorted(name for name in os.listdir(folder) if "a" <= name[0] <= "z")
