# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Put the tests that `patterns add --tests` copies into the wheel.

In the repository the tests lie in `tests/`, where a wheel would not have them. Which
ones go along is computed: the test of each pattern, and the vectors that it names.

A clone's own environment gets Jupyter's settings instead, so that `jupyter lab` opens
the start notebook there, and starts in a container too, where the user is root.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShipTests(BuildHookInterface[Any]):
    """Maps `tests/<folder>/test_<file>.py` into `patterns/_kit/tests`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the tests; in an editable build, which has them, Jupyter's settings."""
        if version == "editable":
            settings = ".jupyter/jupyter_server_config.json"
            build_data["shared_data"][settings] = f"etc{settings.replace('.', '/', 1)}"
            return
        sys.path.insert(0, self.root)
        from patterns._kit.catalogue import catalogue, shipped_tests

        package = Path(self.root, "patterns")
        tests = shipped_tests(package)
        for pattern in catalogue(package):
            if pattern.test_path.is_file():
                for path in (pattern.test_path, *pattern.vectors):
                    inside = path.relative_to(tests).as_posix()
                    build_data["force_include"][str(path)] = (
                        f"patterns/_kit/tests/{inside}"
                    )
