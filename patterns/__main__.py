# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Run the `patterns` command as `python -m patterns`."""

import sys

from patterns._kit.cli import main

if __name__ == "__main__":
    sys.exit(main())
