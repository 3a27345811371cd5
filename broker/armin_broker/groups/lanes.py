"""The lanes of an ordered group: one for each session that has taken effects."""

from __future__ import annotations

from bisect import bisect_left, insort


class Lane:
    """One session's positions that wait, ascending, and how many are leased (0 or 1)."""

    __slots__ = ("leased", "waiting")

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.leased = 0


class Lanes:
    """Which effect of each session may go next: its first one, and only while none is leased."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}

    def is_busy(self, session_id: int) -> bool:
        """Whether effects of this session wait or are leased, so that a later one is held."""
        return session_id in self._lanes

    def head(self, session_id: int) -> int | None:
        """The position that may be leased next, None where there is none."""
        lane = self._lanes.get(session_id)
        return lane.waiting[0] if lane is not None and lane.waiting and not lane.leased else None

    def add_waiting(self, session_id: int, position: int) -> None:
        """An effect waits."""
        insort(self._lanes.setdefault(session_id, Lane()).waiting, position)

    def remove_waiting(self, session_id: int, position: int) -> None:
        """It no longer does."""
        lane = self._lanes[session_id]
        del lane.waiting[bisect_left(lane.waiting, position)]
        self._tidy(session_id, lane)

    def add_leased(self, session_id: int) -> None:
        """An effect is leased."""
        self._lanes.setdefault(session_id, Lane()).leased += 1

    def remove_leased(self, session_id: int) -> None:
        """It no longer is."""
        lane = self._lanes[session_id]
        lane.leased -= 1
        self._tidy(session_id, lane)

    def _tidy(self, session_id: int, lane: Lane) -> None:
        if not lane.waiting and not lane.leased:
            del self._lanes[session_id]
