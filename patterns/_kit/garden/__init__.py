# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Keep the garden: prove that map, notes, modules, notebooks and tests agree."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `patterns garden`; its packages are loaded only when it is called."""
    try:
        from patterns._kit.garden.cli import run
    except ModuleNotFoundError as exc:
        if exc.name not in {"pydantic", "yaml"}:
            raise
        print(
            f"patterns garden needs the package {exc.name}; in a checkout of the "
            "project, uv run installs it",
            file=sys.stderr,
        )
        return 2
    return run(sys.argv[1:] if argv is None else argv)
