"""The benchmarks run, and compare what does the same work; no test looks at time."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from harness import Times, interleave
from run import benchmarks, main


@pytest.mark.parametrize("name", benchmarks())
def test_a_benchmark_compares_what_does_the_same(name: str) -> None:
    """Each benchmark checks the results of all its cases and gives a finite ratio."""
    rows = list(benchmarks()[name](True))
    assert rows
    assert all(math.isfinite(row.ratio) and row.ratio > 0 for row in rows)
    assert len({(row.case, row.against) for row in rows}) == len(rows)


def test_a_case_with_another_result_is_refused() -> None:
    """A case that skips work is no faster, it is wrong."""
    with pytest.raises(AssertionError, match="lazy"):
        interleave({"honest": lambda: 3, "lazy": lambda: 2}, 1, result=3)


def test_one_slow_round_changes_no_ratio() -> None:
    """A ratio is the median of the rounds' own ratios."""
    times = Times(ours=[1.1, 11.0, 9.0], plain=[1.0, 10.0, 1.0])
    row = times.row("ours", "plain", target=1.2)
    assert row.ratio == pytest.approx(1.1)
    assert row.met


def test_a_bound_is_computed() -> None:
    """A bound is compared with each round, and a target over it is missed."""
    row = Times(ours=[2.0, 2.2, 2.4]).bound("ours", "N·latency", 2.0, target=1.05)
    assert row.ratio == pytest.approx(1.1)
    assert row.best == pytest.approx(1.0)
    assert row.met is False


def test_the_table_and_the_file_hold_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table on the screen has a line for each result in the file."""
    path = tmp_path / "results.json"
    assert main(["token", "--quick", "--json", str(path)]) == 0
    data = json.loads(path.read_text(encoding="utf-8"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(data["benchmarks"]["token"])
    assert data["schema"] == 1
