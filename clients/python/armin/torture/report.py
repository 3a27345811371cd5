"""What a campaign says at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from armin.torture.checks import CHECKS
from armin.torture.testimony import Outcome, Testimony

SHOWN_MAX: Final = 10  # findings of one check that are shown; the evidence has them all


@dataclass(slots=True)
class Report:
    """What a campaign did and found. `violations` has the findings of each check that found any."""

    seed: int
    breaking: float  # seconds, as asked for
    power_cuts: bool = True  # whether they are possible here
    seconds: float = 0.0  # that it took altogether
    breakage: Counter[str] = field(default_factory=Counter)
    figures: dict[str, int] = field(default_factory=dict)
    violations: dict[str, list[str]] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Whether everything held."""
        return not self.violations

    def as_map(self) -> dict[str, Any]:
        """For programs."""
        return {
            "seed": self.seed,
            "fine": self.fine,
            "breaking_seconds": self.breaking,
            "seconds": round(self.seconds, 1),
            "power_cuts": self.power_cuts,
            "broken": {str(name): times for name, times in sorted(self.breakage.items())},
            "done": self.figures,
            "violations": self.violations,
        }

    def lines(self) -> Iterator[str]:
        """For people, without the verdict."""
        yield "what was broken"
        yield from _table({str(name): times for name, times in sorted(self.breakage.items())})
        yield "what was done meanwhile"
        yield from _table(self.figures)
        yield "what was checked"
        for name in CHECKS:
            findings = self.violations.get(name, [])
            yield f"  {'VIOLATED' if findings else 'held':8}  {name}"
            yield from (f"            {finding}" for finding in findings[:SHOWN_MAX])
            if len(findings) > SHOWN_MAX:
                yield f"            and {len(findings) - SHOWN_MAX:,} more"

    def verdict(self) -> str:
        """In one line."""
        without = "" if self.power_cuts else "; NO POWER CUTS: they are not possible on this machine"
        if self.fine:
            return (
                f"seed {self.seed}: {self.figures['acknowledged writes']:,} acknowledged writes, "
                f"nothing lost, nothing doubled, in {self.seconds:.0f} s{without}"
            )
        found = sum(map(len, self.violations.values()))
        return f"seed {self.seed}: {found:,} VIOLATIONS of {len(self.violations)} checks{without}"


def _table(numbers: dict[str, int]) -> Iterator[str]:
    for name, number in numbers.items():
        yield f"  {number:>10,}  {name}"


def figures(testimony: Testimony) -> dict[str, int]:
    """What was done, in numbers."""
    handled = [one for one in testimony.handlings if one.handled]
    outcomes = Counter(write.outcome for write in testimony.writes.values())
    return {
        "acknowledged writes": outcomes[Outcome.ACKNOWLEDGED],
        "writes of unknown outcome": outcomes[Outcome.UNKNOWN],
        "refused writes": outcomes[Outcome.REFUSED],
        "facts in the log": len(testimony.rest.file),
        "items followed": sum(len(follow.items) for follow in testimony.follows.values()),
        "heals": sum(follow.heals for follow in testimony.follows.values()),
        "effects handled": len({(one.group, one.position) for one in handled}),
        "effects handled again": len(handled) - len({(one.group, one.position) for one in handled}),
        "dead letters": sum(map(len, testimony.rest.dead.values())),
        "facts seen on the live socket": len(testimony.announced),
        "facts seen on the effects socket": len(testimony.emitted),
    }
