"""Which acknowledged leases are still known."""

from __future__ import annotations

from armin_broker.groups.recent import RECENT_MAX, RecentAcks


def names(first: int, last: int) -> list[str]:
    return [f"1.{position}.1" for position in range(first, last + 1)]


def test_the_last_ones_are_known_and_those_before_them_forgotten_first() -> None:
    recent = RecentAcks()
    recent.add(names(1, RECENT_MAX))
    assert all(name in recent for name in names(1, RECENT_MAX))
    for first in range(RECENT_MAX + 1, RECENT_MAX + 301, 100):
        recent.add(names(first, first + 99))
    assert not any(name in recent for name in names(1, 300))
    assert all(name in recent for name in names(301, RECENT_MAX + 300))


def test_of_more_than_are_kept_at_once_the_last_ones_are_known() -> None:
    recent = RecentAcks()
    recent.add(names(1, RECENT_MAX + 2))
    assert [name in recent for name in names(1, 4)] == [False, False, True, True]
