"""Builds of a tiny vault and of the real tree, each made once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parents[1] / "docs" / "_site"):
    sys.path.insert(0, str(folder))

from tiny_vault import ROOT, Build, build, vault  # noqa: E402


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The tiny vault, built."""
    root = vault(tmp_path_factory.mktemp("vault"))
    return build(root, root / "site")


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The real tree, built."""
    return build(ROOT, tmp_path_factory.mktemp("real") / "site")
