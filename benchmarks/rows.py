"""What a benchmark says: samples of both sides taken in turn, their ratios, and what they are held to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

PERCENTILES: Final = {"p50": 0.50, "p99": 0.99, "p99.9": 0.999}


class Sample(NamedTuple):
    """One timed run of one side. `latencies` are seconds, one for each operation that was waited for."""

    operations: int
    seconds: float
    latencies: Sequence[float] = ()

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds

    def latency(self, name: str) -> float:
        """A percentile by its name, in seconds."""
        return percentile(self.latencies, PERCENTILES[name])


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are not above (nearest rank)."""
    ordered = sorted(values)
    rank = math.ceil(share * len(ordered) - 1e-9)  # 0.07 * 100 is a little above 7
    return ordered[max(1, rank) - 1]


class Pairs(NamedTuple):
    """Samples of both sides, measured A B A B in one run; the ratios are those of neighbours."""

    ours: list[Sample]
    theirs: list[Sample]

    def rate_ratios(self) -> list[float]:
        """Our rate over theirs, pair by pair."""
        return [a.rate / b.rate for a, b in zip(self.ours, self.theirs, strict=True)]

    def latency_ratios(self, name: str) -> list[float]:
        """A percentile of ours over theirs, pair by pair."""
        return [a.latency(name) / b.latency(name) for a, b in zip(self.ours, self.theirs, strict=True)]


def paired(
    ours: Callable[[], Sample], theirs: Callable[[], Sample], rounds: int, *, warm_up: int = 1
) -> Pairs:
    """Run both in turn: `warm_up` rounds that do not count, then `rounds` that do."""
    pairs = Pairs([], [])
    for number in range(warm_up + rounds):
        a, b = ours(), theirs()
        if number >= warm_up:
            pairs.ours.append(a)
            pairs.theirs.append(b)
    return pairs


@dataclass(frozen=True)
class Check:
    """One figure and what it is held to. `values` are its parts (pair by pair), the figure their median."""

    what: str
    values: Sequence[float]
    bound: float | None = None  # None: said, not held to anything
    at_most: bool = False
    unit: str = "x"

    @property
    def figure(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether it holds; None where there is nothing to hold."""
        if self.bound is None:
            return None
        return self.figure <= self.bound if self.at_most else self.figure >= self.bound


@dataclass
class Row:
    """One line of the report.

    sides: by the name of each side, what was measured there. setting: sync mode, writers, sizes and whatever
    else the figures depend on. missing: why it could not be measured here. failed: what went wrong.
    """

    number: str
    title: str
    checks: list[Check] = field(default_factory=list)
    sides: dict[str, list[Sample]] = field(default_factory=dict)
    setting: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing: str | None = None
    failed: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for the results' file."""
        return {
            "number": self.number,
            "title": self.title,
            "missing": self.missing,
            "failed": self.failed,
            "setting": self.setting,
            "checks": [
                {
                    "what": check.what,
                    "figure": check.figure,
                    "values": list(check.values),
                    "unit": check.unit,
                    "bound": check.bound,
                    "at_most": check.at_most,
                    "met": check.met,
                }
                for check in self.checks
            ],
            "sides": {name: _summary(samples) for name, samples in self.sides.items()},
            "notes": self.notes,
        }


def _summary(samples: Sequence[Sample]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "runs": len(samples),
        "operations": [sample.operations for sample in samples],
        "rates_per_s": [sample.rate for sample in samples],
        "rate_per_s": statistics.median(sample.rate for sample in samples),
    }
    timed = [sample for sample in samples if sample.latencies]
    if timed:
        # Each percentile is the median of the runs' own: one stalled run does not speak for all.
        summary["latency_ms"] = {
            name: 1000 * statistics.median(sample.latency(name) for sample in timed) for name in PERCENTILES
        }
    return summary
