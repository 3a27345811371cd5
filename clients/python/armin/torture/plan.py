"""What will be broken, when and how: a pure function of the seed and the length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from armin.torture.proxy import CLEAR, Weather


class Kind(StrEnum):
    """What a step does."""

    KILL = "kill"  # SIGKILL
    DIE = "die"  # SIGKILL of itself at a named point of the engine's work
    POWER_CUT = "power cut"
    RESTART = "restart"  # SIGTERM, and a new start
    PAUSE = "pause"  # SIGSTOP, SIGCONT
    FAULT = "fault"  # writes or syncs of its files fail
    WEATHER = "weather"  # what happens to messages from now on
    CUT = "cut"  # every connection at once
    KILL_WRITERS = "kill writers"
    KILL_FOLLOWERS = "kill followers"
    KILL_WORKERS = "kill workers"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, `after` seconds of peace; it `lasts` so many seconds where it lasts.

    `what` is the kill point, the fault or the name of the weather; `passing` is how many times a kill point
    is passed before it kills; `seed` decides what a power cut spares.
    """

    number: int
    kind: Kind
    after: float
    lasts: float = 0.0
    what: str = ""
    passing: int = 1
    seed: int = 0
    killed: bool = False  # a fault in the middle of which the engine is killed
    cut: bool = False  # the power goes with the death at a kill point
    twice: bool = False  # once dead, it is started and dies anew at the same point, before the power goes

    def __str__(self) -> str:
        parts = [self.kind.value, self.what]
        if self.kind is Kind.DIE and self.passing > 1:
            parts.append(f"(passing {self.passing})")
        if self.lasts:
            parts.append(f"for {self.lasts:.1f} s")
        if self.twice:
            parts.append("twice")
        if self.cut:
            parts.append("and a power cut")
        if self.killed:
            parts.append("and a kill in it")
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Scale:
    """How a plan fits its length and its place: a long one leaves more peace, for more to be done."""

    peace: float  # 1 and above: how much longer than in a short plan
    longest: float  # seconds that one pause of the engine may last
    power_cuts: bool  # whether they are possible

    @classmethod
    def of(cls, seconds: float, power_cuts: bool) -> Scale:
        """The scale of a plan of so many seconds."""
        return cls(min(4.0, max(1.0, seconds / 60)), seconds / 5, power_cuts)


WEATHERS: Final[dict[str, Weather]] = {
    "clear": CLEAR,
    "lost replies": Weather(lost_replies=0.15),
    "lost commands": Weather(lost_commands=0.1),
    "lost events": Weather(lost_events=0.3),
    "delays": Weather(delayed=0.05, delay=0.4),
    "cuts": Weather(cut=0.01),
    "storm": Weather(
        lost_commands=0.04, lost_replies=0.04, lost_events=0.1, delayed=0.02, delay=0.2, cut=0.003
    ),
}
# Cards of a deck are dealt until it is empty, then shuffled anew: nothing stays away for long.
_DEATHS: Final = (Kind.KILL, Kind.DIE, Kind.POWER_CUT, Kind.DIE, Kind.KILL, Kind.RESTART, Kind.DIE)
_OTHERS: Final = (
    Kind.KILL_FOLLOWERS,
    Kind.PAUSE,
    Kind.KILL_WORKERS,
    Kind.CUT,
    Kind.KILL_WRITERS,
)
_COST: Final[dict[Kind, float]] = {  # seconds that a step takes by itself, on two cores
    Kind.KILL: 0.5,
    Kind.DIE: 1.2,
    Kind.POWER_CUT: 0.6,
    Kind.RESTART: 0.6,
}


def plan(
    seed: int, seconds: float, *, points: Sequence[str], faults: Sequence[str], power_cuts: bool = True
) -> tuple[Step, ...]:
    """The steps of a campaign that breaks things for about so many seconds.

    Args:
        seed: the same one gives the same steps.
        seconds: of breaking; the end, in which everybody comes to rest, is not in it.
        points: names of the engine's kill points, in the order in which a write comes to them.
        faults: names of what may befall its files; none where that cannot be done.
        power_cuts: whether they are possible here.
    """
    chance = random.Random(f"armin torture {seed}")
    steps: list[Step] = []
    spent = 0.0
    scale = Scale.of(seconds, power_cuts)
    cards = _cards(chance, _possible(bool(points), bool(faults), power_cuts))
    while spent < seconds:
        step = _step(len(steps) + 1, next(cards), chance, points, faults, scale)
        steps.append(step)
        spent += step.after + step.lasts + _COST.get(step.kind, 0.1)
    steps.append(_last(len(steps) + 1, chance, points, power_cuts))
    return tuple(steps)


def _last(number: int, chance: random.Random, points: Sequence[str], power_cuts: bool) -> Step:
    """A death in the middle of a commit, and the power goes: what comes to rest then must hold for good."""
    after = chance.uniform(0.3, 0.6)
    if points:
        point = chance.choice(points[: (len(points) + 1) // 2])
        return Step(number, Kind.DIE, after, what=point, seed=chance.getrandbits(32), cut=power_cuts)
    return Step(number, Kind.POWER_CUT if power_cuts else Kind.KILL, after, seed=chance.getrandbits(32))


def _possible(points: bool, faults: bool, power_cuts: bool) -> frozenset[Kind]:
    without = {Kind.DIE: points, Kind.FAULT: faults, Kind.POWER_CUT: power_cuts}
    return frozenset(kind for kind in Kind if without.get(kind, True))


def _cards(chance: random.Random, possible: frozenset[Kind]) -> Iterator[Kind]:
    """Weather, a fault, a death, something else, a death; and again."""
    deaths = _deck(chance, [kind for kind in _DEATHS if kind in possible])
    others = _deck(chance, _OTHERS)
    while True:
        yield Kind.WEATHER
        if Kind.FAULT in possible:
            yield Kind.FAULT
        yield next(deaths)
        yield next(others)
        yield next(deaths)


def _deck(chance: random.Random, kinds: Sequence[Kind]) -> Iterator[Kind]:
    while True:
        yield from chance.sample(kinds, len(kinds))


def _step(
    number: int,
    kind: Kind,
    chance: random.Random,
    points: Sequence[str],
    faults: Sequence[str],
    scale: Scale,
) -> Step:
    after = chance.uniform(0.1, 0.6) * scale.peace
    match kind:
        case Kind.DIE:
            passing = chance.choice((1, 1, 2, 5, 20))
            step = Step(number, kind, after, what=chance.choice(points), passing=passing)
            seed, cut = chance.getrandbits(32), scale.power_cuts and chance.random() < 0.5
            return replace(step, seed=seed, cut=cut, twice=cut and chance.random() < 0.3)
        case Kind.POWER_CUT:
            return Step(number, kind, after, seed=chance.getrandbits(32))
        case Kind.PAUSE:
            return Step(number, kind, after, lasts=min(chance.choice((0.2, 0.5, 1.0, 4.0)), scale.longest))
        case Kind.FAULT:
            what, lasts = chance.choice(faults), chance.uniform(0.2, 0.8)
            return Step(number, kind, after, lasts, what, killed=chance.random() < 0.3)
        case Kind.WEATHER:
            return Step(number, kind, after, what=chance.choice(list(WEATHERS)))
        case _:
            return Step(number, kind, after)
