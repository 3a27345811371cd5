"""Turns: full for one peer, short while several share the engine."""

from __future__ import annotations

from armin_broker.turns import (
    COMMANDS_MIN,
    CROWDED_MS,
    INTAKE_MS,
    INTAKE_MS_MIN,
    RENDER_MS,
    RENDER_MS_MIN,
    Turns,
)

MIB = 1 << 20


def turns() -> Turns:
    return Turns(1024, 4 * MIB)


def test_one_peer_alone_fills_turns_however_long_they_take() -> None:
    each = turns()
    for now in range(100):
        each.ended(now, 1, 50.0, 0.1)
    assert (each.commands, each.bytes, each.render_ms) == (1024, 4 * MIB, RENDER_MS)
    assert each.intake_ms == INTAKE_MS


def test_turns_that_several_wait_for_become_short_but_never_nothing() -> None:
    each = turns()
    sizes = []
    for now in range(20):
        each.ended(now, 2, 50.0, 0.1)
        sizes.append(each.commands)
    assert sizes[:3] == [512, 256, 128]
    assert sizes[-1] == COMMANDS_MIN
    assert each.bytes < 64 << 10
    assert (each.render_ms, each.intake_ms) == (RENDER_MS_MIN, INTAKE_MS_MIN)


def test_a_slow_disk_allows_as_much_work_as_its_commits_take() -> None:
    each = turns()
    for now in range(20):
        each.ended(now, 2, 15.0, 10.0)
    assert each.commands == 1024


def test_short_turns_grow_again_while_they_end_in_time() -> None:
    each = turns()
    for now in range(20):
        each.ended(now, 2, 50.0, 0.1)
    for now in range(20, 24):
        each.ended(now, 2, 0.4, 0.1)
    assert each.commands == 5 * COMMANDS_MIN


def test_who_is_alone_again_has_full_turns_after_a_while() -> None:
    each = turns()
    each.ended(0, 2, 50.0, 0.1)
    each.ended(CROWDED_MS - 1, 1, 50.0, 0.1)
    assert each.commands < 1024
    each.ended(CROWDED_MS, 1, 50.0, 0.1)
    assert (each.commands, each.crowded) == (1024, False)
