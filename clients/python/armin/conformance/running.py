"""Many cases against one engine: which are played, and what comes of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from armin.conformance import features
from armin.conformance.bench import Bench
from armin.conformance.cases import NEEDS, EngineCase
from armin.conformance.playing import Failure, Player, Speaker


class Verdict(StrEnum):
    """What became of a case."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_PLAYED = "not played"


@dataclass(frozen=True, slots=True)
class Played:
    """A case and what became of it. `reason`: why it was not played."""

    case: EngineCase
    verdict: Verdict
    failures: tuple[Failure, ...] = ()
    reason: str = ""
    seconds: float = 0.0


def why_not(case: EngineCase, bench: Bench, *, slow: bool) -> str:
    """Why a case cannot be played here; empty where it can."""
    if case.needs and bench.control is None:
        return f"needs {NEEDS[case.needs[0]]}"
    if case.slow and not slow:
        return "takes long, leaves much behind or wants a fresh engine; --slow plays it"
    lacking = features.of(case) - set(bench.hello["features"])
    if lacking:
        return f"the engine does not name the feature {', '.join(sorted(lacking))}"
    return ""


def play_all(
    cases: Iterable[EngineCase], bench: Bench, *, slow: bool = False, speaker: Speaker | None = None
) -> Iterator[Played]:
    """Each case, as it is done. Raises OSError where the engine's own control fails."""
    for number, case in enumerate(cases, 1):
        reason = why_not(case, bench, slow=slow)
        if reason:
            yield Played(case, Verdict.NOT_PLAYED, reason=reason)
            continue
        began = time.monotonic()
        failures = tuple(Player(bench, case, number, speaker).play())
        verdict = Verdict.FAILED if failures else Verdict.PASSED
        yield Played(case, verdict, failures, seconds=time.monotonic() - began)
