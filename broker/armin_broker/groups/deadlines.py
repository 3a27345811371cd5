"""Positions by deadline, earliest first."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

_SLACK: Final = 256  # entries out of date that are not worth a sweep


class Deadlines:
    """A heap of (due, position); entries out of date stay until they surface or are swept.

    is_current tells whether an entry still stands. A sweep comes when most do not, so the heap stays about as
    large as what it is about.
    """

    __slots__ = ("_heap", "_is_current")

    def __init__(self, is_current: Callable[[int, int], bool]) -> None:
        self._heap: list[tuple[int, int]] = []
        self._is_current = is_current

    def add(self, due: int, position: int, standing: int) -> None:
        """Take in a deadline; `standing` is how many entries are current at most."""
        if len(self._heap) > 2 * standing + _SLACK:
            self._heap = [entry for entry in set(self._heap) if self._is_current(*entry)]
            heapify(self._heap)
        heappush(self._heap, (due, position))

    def first(self) -> int | None:
        """The earliest deadline."""
        heap = self._heap
        while heap and not self._is_current(*heap[0]):
            heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now: int) -> int | None:
        """Remove and return the earliest position whose deadline has come."""
        first = self.first()
        return None if first is None or first > now else heappop(self._heap)[1]

    def __len__(self) -> int:
        return len(self._heap)
