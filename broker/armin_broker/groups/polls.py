"""Polls that wait for effects: first come, first served within a group."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, Final

_SLACK: Final = 256  # deadlines of answered polls that are not worth a sweep


@dataclass(slots=True, eq=False)
class Poll:
    """One `lease`. deadline: milliseconds since the epoch, until which it may wait; ticket: who asks."""

    group: str
    max: int
    lease_ms: int
    deadline: int
    request: str | None
    ticket: Any
    number: int = 0  # its place in the order of arrival


class Polls:
    """Every poll that is not answered yet."""

    def __init__(self) -> None:
        self._numbers = 0
        self._waiting: dict[int, Poll] = {}
        self._by_group: dict[str, dict[int, Poll]] = {}
        self._by_request: dict[tuple[str, str], Poll] = {}
        self._deadlines: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, poll: Poll) -> Poll | None:
        """Take in a poll; returns the one with the same token, whose place it takes."""
        older = None
        if poll.request is not None:
            older = self._by_request.get((poll.group, poll.request))
            self._by_request[poll.group, poll.request] = poll
        if older is None:
            self._numbers += 1
            poll.number = self._numbers
        else:
            poll.number = older.number
        self._waiting[poll.number] = poll
        self._by_group.setdefault(poll.group, {})[poll.number] = poll
        self._add_deadline(poll)
        return older

    def remove(self, poll: Poll) -> None:
        """It is answered."""
        del self._waiting[poll.number]
        polls = self._by_group[poll.group]
        del polls[poll.number]
        if not polls:
            del self._by_group[poll.group]
        if poll.request is not None:
            del self._by_request[poll.group, poll.request]

    def groups(self) -> list[str]:
        """Names of groups that somebody waits for."""
        return list(self._by_group)

    def first(self, group: str) -> Poll | None:
        """Who has waited longest for a group."""
        polls = self._by_group.get(group)
        return next(iter(polls.values())) if polls else None

    def of(self, group: str) -> list[Poll]:
        """Everybody who waits for a group, in order."""
        return list(self._by_group.get(group, {}).values())

    def count(self, group: str) -> int:
        """How many wait for a group."""
        return len(self._by_group.get(group, ()))

    def newest(self) -> Poll:
        """Who came last."""
        return self._waiting[max(self._waiting)]

    def all(self) -> list[Poll]:
        """Everybody, in order."""
        return list(self._waiting.values())

    # --- deadlines ---

    def _add_deadline(self, poll: Poll) -> None:
        if len(self._deadlines) > 2 * len(self._waiting) + _SLACK:
            self._deadlines = [(poll.deadline, poll.number) for poll in self._waiting.values()]
            heapify(self._deadlines)
        else:
            heappush(self._deadlines, (poll.deadline, poll.number))

    def first_deadline(self) -> int | None:
        """When the first poll is over."""
        heap = self._deadlines
        while heap and not self._stands(heap[0]):
            heappop(heap)
        return heap[0][0] if heap else None

    def _stands(self, entry: tuple[int, int]) -> bool:
        poll = self._waiting.get(entry[1])
        return poll is not None and poll.deadline == entry[0]

    def over(self, now: int) -> list[Poll]:
        """Polls whose time is over, the earliest deadline first; they are still to be removed."""
        found: dict[int, Poll] = {}  # one that took another's place may have two equal deadlines
        while (first := self.first_deadline()) is not None and first <= now:
            number = heappop(self._deadlines)[1]
            found[number] = self._waiting[number]
        for poll in found.values():
            heappush(self._deadlines, (poll.deadline, poll.number))
        return list(found.values())
