"""Run the benchmarks and print one table of ratios.

    uv run python tests/benchmarks/run.py [NAME …] [--quick] [--json FILE]

A benchmark is a function `bench_*` of a file `bench_*.py` beside this one; NAME is part
of the names of those to run. The exit code is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import Row

Benchmark = Callable[[bool], Iterator[Row]]


def benchmarks() -> dict[str, Benchmark]:
    """Return the benchmarks by name, as the files beside this one have them."""
    found: dict[str, Benchmark] = {}
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        module = importlib.import_module(path.stem)
        names = [name for name in vars(module) if name.startswith("bench_")]
        found |= {name.removeprefix("bench_"): vars(module)[name] for name in names}
    return found


def markdown(results: dict[str, list[Row]]) -> str:
    """Return the results as a table."""
    lines = [
        "| benchmark | case | against | ratio | fastest | target | median time |",
        "|---|---|---|--:|--:|--:|---|",
    ]
    for name, rows in results.items():
        for row in rows:
            target = "" if row.target is None else f"≤ {row.target:.2f}"
            missed = " **missed**" if row.met is False else ""
            lines.append(
                f"| {name} | {row.case} | {row.against} | {row.ratio:.3g}{missed} | "
                f"{row.best:.3g} | {target} | {row.figure} |"
            )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for."""
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; no meaning")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write them there")
    options = parser.parse_args(arguments)
    results: dict[str, list[Row]] = {}
    for name, benchmark in benchmarks().items():
        if not options.names or any(part in name for part in options.names):
            print(f"{name} …", file=sys.stderr)
            results[name] = list(benchmark(options.quick))
    if options.json:
        rows = {name: [asdict(row) for row in rows] for name, rows in results.items()}
        data = {"schema": 1, "machine": machine(), "benchmarks": rows}
        options.json.write_text(
            json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
    print(markdown(results))
    missed = [row for rows in results.values() for row in rows if row.met is False]
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
