"""A helper that two pattern files need is copied; here the copies are held equal.

A copy has a line `# Twin of NAME in folder/file.py.` right above it. Docstrings may
differ, and so may the helper's own name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from patterns._kit.catalogue import Pattern, catalogue

PATTERNS = {f"{pattern.name}.py": pattern for pattern in catalogue()}
MARK = re.compile(r"# Twin of (\w+) in ([a-z_/]+\.py)\b")
Definition = ast.FunctionDef | ast.Assign


class Twin(NamedTuple):
    """A copy, by the line below its mark, and what it is a copy of."""

    pattern: Pattern
    line: int
    name: str
    of: str


def twins() -> Iterator[Twin]:
    """Yield every copy that is marked as one."""
    for pattern in PATTERNS.values():
        for number, line in enumerate(pattern.text.split("\n"), start=1):
            if found := MARK.match(line):
                yield Twin(pattern, number + 1, found[1], found[2])


def names(node: Definition) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def bare(node: Definition) -> str:
    """Return a statement's code without its name and docstring."""
    copy = ast.parse(ast.unparse(node)).body[0]
    if isinstance(copy, ast.FunctionDef):
        copy.name = "twin"
        if ast.get_docstring(copy) is not None:
            copy.body = copy.body[1:]
    elif isinstance(copy, ast.Assign):
        copy.targets = [ast.Name("twin", ast.Store())]
    return ast.unparse(copy)


def statements(pattern: Pattern) -> list[Definition]:
    """Return the functions and constants of a module."""
    return [node for node in pattern.tree.body if isinstance(node, Definition)]


def test_there_are_twins() -> None:
    """The check below has something to check."""
    assert list(twins())


@pytest.mark.parametrize(
    "twin", list(twins()), ids=lambda t: f"{t.name}-{t.pattern.name}"
)
def test_twins_are_equal(twin: Twin) -> None:
    """A copy reads as what it is a copy of, and is no longer than a copy may be."""
    origin = statements(PATTERNS[twin.of])
    (first,) = (node for node in origin if twin.name in names(node))
    (second,) = (node for node in statements(twin.pattern) if node.lineno == twin.line)
    assert bare(first) == bare(second)
    assert len(bare(second).split("\n")) <= 25
