# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Which packages copies need, and who else owns the name `patterns`."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from importlib import metadata

from patterns._kit.catalogue import dependencies
from patterns._kit.copier import Change
from patterns._kit.header import DISTRIBUTION, Fit

__all__ = ["imported", "needs", "other_owners"]

_PACKAGES = {"yaml": "pyyaml"}  # by the name that is imported, where it is another


def needs(plan: Iterable[Change]) -> tuple[list[str], list[str]]:
    """Return what the planned files need: the copies' packages, and their tests'.

    A copy declares its packages in its PEP 723 block; those of a test are what it
    imports, but for the module under test.
    """
    copies: set[str] = set()
    tests: set[str] = set()
    for change in plan:
        if change.action == "refused" or change.path.suffix != ".py":
            continue
        content = change.write.new if change.write else change.path.read_bytes()
        text = content.decode().removeprefix("\ufeff").replace("\r\n", "\n")
        if change.path.name.startswith("test_"):
            own = Fit.of(text, change.name or "").imports or ""
            tests |= imported(text) - imported(own)
        else:
            copies |= set(dependencies(text))
    return sorted(copies), sorted(tests)


def imported(text: str) -> set[str]:
    """Return the packages that `text` imports beyond the standard library.

    >>> sorted(imported("import json, yaml\\nfrom respx.router import Router"))
    ['pyyaml', 'respx']
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    names -= sys.stdlib_module_names | {"__future__"}
    return {_PACKAGES.get(name, name) for name in names}


def other_owners() -> list[str]:
    """Return the other installed distributions that have a package `patterns`."""
    owners = set()
    for found in metadata.distributions():
        record = found.read_text("RECORD") or found.read_text("SOURCES.txt") or ""
        if re.search(r"^patterns/", record, re.MULTILINE):
            owners.add(found.metadata["Name"] or "an unnamed distribution")
    return sorted(owners - {DISTRIBUTION})
