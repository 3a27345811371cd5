"""The plan of a campaign is a function of its seed."""

from __future__ import annotations

from collections import Counter

from armin.torture.plan import Kind, Step, plan

POINTS = ("before commit", "after commit")
FAULTS = ("full disk", "failing sync")


def steps(seed: int, seconds: float = 5.0, *, power_cuts: bool = True) -> tuple[Step, ...]:
    return plan(seed, seconds, points=POINTS, faults=FAULTS, power_cuts=power_cuts)


def test_the_same_seed_gives_the_same_steps() -> None:
    assert steps(7) == steps(7)
    assert steps(7, 600) == steps(7, 600)


def test_other_seeds_give_other_steps() -> None:
    assert len({steps(seed) for seed in range(20)}) == 20


def test_a_longer_plan_takes_longer() -> None:
    for seed in range(20):
        planned = [sum(step.after + step.lasts for step in steps(seed, seconds)) for seconds in (5, 60, 600)]
        assert planned[0] < 10
        assert planned[0] < planned[1] < planned[2] <= 620


def test_every_plan_ends_with_a_power_cut_in_a_commit_and_kills_more_than_once() -> None:
    deaths = {Kind.KILL, Kind.DIE, Kind.POWER_CUT}
    for seed in range(50):
        planned = steps(seed)
        assert planned[-1].kind is Kind.DIE
        assert planned[-1].what == POINTS[0]
        assert planned[-1].cut
        assert sum(step.kind in deaths for step in planned) >= 2


def test_twenty_short_plans_do_everything_together() -> None:
    done = [step for seed in range(1, 21) for step in steps(seed, 4.0)]
    kinds = Counter(step.kind for step in done)
    assert set(kinds) == set(Kind)
    assert {step.what for step in done if step.kind is Kind.DIE} == set(POINTS)
    assert {step.what for step in done if step.kind is Kind.FAULT} == set(FAULTS)


def test_what_is_not_possible_is_not_planned() -> None:
    for seed in range(20):
        kinds = {step.kind for step in plan(seed, 60, points=(), faults=(), power_cuts=False)}
        assert not kinds & {Kind.POWER_CUT, Kind.DIE, Kind.FAULT}
        assert Kind.KILL in kinds


def test_a_step_says_what_it_does() -> None:
    assert str(Step(1, Kind.DIE, 0.1, what="before commit", passing=5)) == "die before commit (passing 5)"
    assert str(Step(1, Kind.FAULT, 0.1, 0.5, "full disk", killed=True)) == (
        "fault full disk for 0.5 s and a kill in it"
    )
