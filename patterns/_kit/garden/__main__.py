# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Run `python -m patterns._kit.garden`."""

from patterns._kit.garden import main

raise SystemExit(main())
