# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Keep the garden: prove that map, notes, modules, notebooks and tests agree."""

from patterns._kit.garden.garden import main

__all__ = ["main"]
