"""Measure ratios on a machine that does other things too.

What is compared runs in turns within one process, so that a slow moment meets all of
it alike. A ratio is taken in each round, and the median of the rounds is the figure;
the ratio of the two fastest runs stands beside it, as what remains without the noise.
What only computes is measured in processor time, what waits in time on the wall.
"""

from __future__ import annotations

import gc
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One comparison: how many times `against` a case takes."""

    case: str
    against: str
    ratio: float
    best: float
    figure: str = ""
    target: float | None = None  # at most; a target of a peer's is none

    @property
    def met(self) -> bool | None:
        """Tell whether the target is met, or None where there is none."""
        return None if self.target is None else self.ratio <= self.target


class Times(dict[str, list[float]]):
    """Seconds of each case in each round."""

    def row(
        self, case: str, against: str, *, target: float | None = None, **scale: Any
    ) -> Row:
        """Compare two cases of the same rounds."""
        pairs = zip(self[case], self[against], strict=True)
        return Row(
            case,
            against,
            statistics.median(mine / other for mine, other in pairs),
            min(self[case]) / min(self[against]),
            self.figure(case, **scale),
            target,
        )

    def bound(
        self, case: str, name: str, seconds: float, *, target: float | None = None
    ) -> Row:
        """Compare a case with a bound that is computed and not measured."""
        ratios = [mine / seconds for mine in self[case]]
        figure = f"{self.figure(case)} of {seconds:.3g} s"
        return Row(case, name, statistics.median(ratios), min(ratios), figure, target)

    def figure(self, case: str, per: int = 1, unit: str = "") -> str:
        """Return the median time of a case in words."""
        seconds = statistics.median(self[case]) / per
        factor, name = next(
            (pair for pair in ((1, "s"), (1e3, "ms")) if seconds * pair[0] >= 1),
            (1e6, "µs"),
        )
        return f"{seconds * factor:.3g} {name} {unit}".strip()


def interleave(
    cases: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    repeat: int = 1,
    result: Any = None,
    clock: Callable[[], float] = time.process_time,
) -> Times:
    """Time each case once a round, `repeat` calls at a time, after a first one unseen.

    `clock` is `time.perf_counter` for cases that wait for something.

    Raises:
        AssertionError: a case does not return `result`, where one is given.
    """
    times = Times((name, []) for name in cases)
    order = list(cases.items())
    for turn in range(-1, rounds):
        for name, case in order:
            if rounds > 1:  # of one round nobody takes the time
                gc.collect()
            start = clock()
            for _ in range(repeat):
                got = case()
            seconds = (clock() - start) / repeat
            assert result is None or got == result, f"{name}: {got!r}, not {result!r}"
            if turn >= 0:
                times[name].append(seconds)
        order.reverse()  # whoever comes first gains nothing by it
    return times


def fixtures() -> Any:
    """Return the module of the tests' fixtures, which start servers on the loopback."""
    path = Path(__file__).resolve().parents[1] / "conftest.py"
    spec = importlib.util.spec_from_file_location("kit_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
