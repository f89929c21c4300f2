"""A small kit in a temporary folder, and the `patterns` command run on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from patterns._kit import history
from patterns._kit.cli import main

WALKER = '''\
# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1"]
# ///
"""Walk to the end."""

import httpx

__all__ = ["walk"]


def walk(response: httpx.Response) -> int:
    """Return the status.

    >>> walk(httpx.Response(204))
    204
    """
    return response.status_code


def last(text: str) -> str:
    """Return the last word."""
    return text.split()[-1]
'''

TOKEN = '''\
# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Name a place."""

__all__ = ["token"]


def token(place: int) -> str:
    """Return a token."""
    return f"t{place}"
'''

TEST_WALKER = '''\
import json
from pathlib import Path

import httpx
import pytest

from patterns.paging import walker


def vectors(name):
    for folder in Path(__file__).resolve().parents:
        if (folder / "vectors" / name).is_file():
            return json.loads((folder / "vectors" / name).read_text("utf-8"))
    raise FileNotFoundError(name)


@pytest.mark.parametrize("status", vectors("statuses.json"))
def test_walk(status):
    """The status comes back."""
    assert walker.walk(httpx.Response(status)) == status
'''


class FakeKit:
    """A clone of a kit: `paging/walker` with a test and vectors, `paging/token`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root / "patterns"
        self.version("0.1.0")
        self.write("patterns/_kit/__init__.py", "")
        self.write("patterns/paging/__init__.py", "")
        self.write("patterns/paging/walker.py", WALKER)
        self.write("patterns/paging/token.py", TOKEN)
        self.write("tests/paging/test_walker.py", TEST_WALKER)
        self.write("tests/vectors/statuses.json", "[200, 404]\n")

    def write(self, path: str, text: str) -> Path:
        """Write a file of the kit."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        return target

    def version(self, version: str) -> None:
        """Set the version in pyproject.toml."""
        self.write(
            "pyproject.toml",
            f'[project]\nname = "api-integration-patterns"\nversion = "{version}"\n',
        )

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace `old`, which must be there, in a file of the kit."""
        text = (self.root / path).read_text(encoding="utf-8")
        assert old in text
        self.write(path, text.replace(old, new))

    def release(self, following: str | None = None) -> None:
        """Record and seal the version; go on as `following`."""
        history.record(self.package)
        history.seal(self.package, today=date(2026, 11, 23))
        if following:
            self.version(following)

    def release_with(self, old: str, new: str, version: str = "0.2.0") -> None:
        """Release what is there, then change `paging/walker` under a new version."""
        self.release(version)
        self.edit("patterns/paging/walker.py", old, new)
        history.record(self.package)


@dataclass(frozen=True)
class Ran:
    """What one run of the command gave."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def kit(tmp_path: Path) -> FakeKit:
    """A kit beside the project."""
    return FakeKit(tmp_path / "kit")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a pyproject.toml, which is the current folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("", encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(
    kit: FakeKit, project: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Run `patterns` on the kit, in the project."""

    def _run(*argv: str) -> Ran:
        capsys.readouterr()
        try:
            status = main([*argv], package=kit.package)
        except SystemExit as stopped:
            status = int(str(stopped.code))
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return _run
