"""What the `patterns` command costs before it does anything."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from harness import Row, interleave


def bench_start(quick: bool) -> Iterator[Row]:
    """Compare `patterns list` with a Python that does nothing."""

    def python(*words: str) -> Callable[[], int]:
        command = [sys.executable, *words]
        options = {"check": True, "capture_output": True}
        return lambda: subprocess.run(command, **options).returncode

    cases = {
        "python -c pass": python("-c", "pass"),
        "patterns list": python("-m", "patterns", "list"),
        "import httpx": python("-c", "import httpx"),
    }
    times = interleave(cases, 1 if quick else 15, result=0, clock=time.perf_counter)
    yield times.row("patterns list", "python -c pass", target=3.0)
    yield times.row("import httpx", "python -c pass")
