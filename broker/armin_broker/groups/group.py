"""One worker group in memory: its taken effects, by every order in which they are asked for.

`change` is the only way to alter an effect. What stood before is kept until the turn's rows are committed, so
a failed commit puts every effect back; nobody looks at a group between the two.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from heapq import heappop, heappush
from typing import Final

from armin_broker import protocol
from armin_broker.groups.deadlines import Deadlines
from armin_broker.groups.effect import DEAD, LEASED, WAITING, Effect
from armin_broker.groups.lanes import Lanes
from armin_broker.groups.settings import Settings

CURSOR_UNSTORED_MAX: Final = 10_000  # facts passed over that a restart may have to look at again


class Group:
    """Effects of one group. Costs of a change do not grow with their number, but for the log of it."""

    def __init__(self, group_id: int, name: str, settings: Settings, cursor: int, created_at: int) -> None:
        self.id = group_id
        self.name = name
        self.settings = settings
        self.kinds = settings.kinds
        self.created_at = created_at
        self.cursor = cursor  # every fact up to it was taken or passed over
        self.stored_cursor = cursor
        self.taken: dict[int, Effect] = {}
        self.by_lease: dict[str, Effect] = {}
        self.by_request: dict[str, set[int]] = {}  # positions leased for a token
        self.dead: list[int] = []  # positions, ascending
        self.waiting = self.leased = 0
        self._expiries = Deadlines(self._expires)
        self._delayed = Deadlines(self._is_next)
        self._ready: list[int] = []  # a heap of positions that were due; entries may be out of date
        self._lanes = Lanes() if settings.ordered else None
        self._before: dict[int, Effect | None] = {}
        self._cursor_before: int | None = None
        self._storing: int | None = None  # the cursor that the turn's rows hold

    # --- what stands ---

    @property
    def halted(self) -> bool:
        """Whether a dead letter keeps it from giving out anything."""
        return bool(self.dead) and self.settings.on_dead == "halt"

    @property
    def full(self) -> bool:
        """Whether so many effects wait or are leased that the cursor rests."""
        return self.waiting + self.leased >= protocol.TAKEN_MAX

    def is_held(self, session_id: int) -> bool:
        """Whether a new effect of this session has to wait for an earlier one."""
        return self._lanes is not None and self._lanes.is_busy(session_id)

    def dead_after(self, position: int, count: int) -> list[int]:
        """The first `count` positions of dead letters behind `position`, ascending."""
        first = bisect_right(self.dead, position)
        return self.dead[first : first + count]

    def _expires(self, due: int, position: int) -> bool:
        """Whether the lease of a position ends at this time."""
        effect = self.taken.get(position)
        return effect is not None and effect.due == due and effect.state == LEASED

    def _is_next(self, due: int, position: int) -> bool:
        """Whether a position may be leased at this time."""
        effect = self.taken.get(position)
        if effect is None or effect.due > due or effect.state != WAITING:
            return False
        return self._lanes is None or self._lanes.head(effect.session_id) == position

    # --- by the clock ---

    def ready(self, now: int) -> Effect | None:
        """The first waiting effect, by position, that may be leased now."""
        ready = self._ready
        while (position := self._delayed.pop_due(now)) is not None:
            heappush(ready, position)
        while ready and not self._is_next(now, ready[0]):
            heappop(ready)
        return self.taken[ready[0]] if ready else None

    def pop_expired(self, now: int) -> Effect | None:
        """The leased effect whose time was over first; it has to be changed then."""
        position = self._expiries.pop_due(now)
        return None if position is None else self.taken[position]

    def first_expiry(self) -> int | None:
        """When the first lease ends."""
        return self._expiries.first()

    def next_due(self) -> int | None:
        """When the next waiting effect may be leased."""
        return self._delayed.first()

    # --- changing, and putting back ---

    def change(self, position: int, effect: Effect | None) -> None:
        """An effect is taken, changes, or (None) is done with."""
        old = self._put(position, effect)
        self._before.setdefault(position, old)

    def advance(self, cursor: int) -> None:
        """Move the cursor."""
        if self._cursor_before is None:
            self._cursor_before = self.cursor
        self.cursor = cursor

    def changes(self) -> tuple[list[Effect], list[int]]:
        """Effects to be stored as they stand now, and positions to be removed, since the last settling."""
        stored: list[Effect] = []
        removed: list[int] = []
        for position, before in self._before.items():
            effect = self.taken.get(position)
            if effect is not None:
                stored.append(effect)
            elif before is not None:
                removed.append(position)
        return stored, removed

    def cursor_to_store(self) -> int | None:
        """The cursor, where it is due to be stored: beside other changes, or far from the stored one.

        Passing over facts changes nothing that a restart would not find again, so it is no reason to write.
        """
        far = self.cursor - self.stored_cursor >= CURSOR_UNSTORED_MAX
        if self.cursor == self.stored_cursor or not (self._before or far):
            return None
        self._storing = self.cursor
        return self.cursor

    def settle(self) -> None:
        """What was changed is on disk."""
        if self._storing is not None:
            self.stored_cursor = self._storing
        self._forget()

    def _forget(self) -> None:
        self._before = {}
        self._cursor_before = self._storing = None

    def roll_back(self) -> None:
        """Put back what stood before; the commit failed."""
        for position, effect in self._before.items():
            self._put(position, effect)
        if self._cursor_before is not None:
            self.cursor = self._cursor_before
        self._forget()

    def restore(self, effect: Effect) -> None:
        """Take in an effect from disk."""
        self._put(effect.position, effect)

    def _put(self, position: int, effect: Effect | None) -> Effect | None:
        old = self.taken.pop(position, None)
        either = effect or old
        lanes = self._lanes
        head_before = lanes.head(either.session_id) if lanes is not None and either is not None else None
        if old is not None:
            _LEAVE[old.state](self, old)
        if effect is not None:
            self.taken[position] = effect
            _ENTER[effect.state](self, effect)
        if lanes is not None and either is not None:
            head = lanes.head(either.session_id)
            if head is not None and (head != head_before or head == position):
                self._delayed.add(self.taken[head].due, head, self.waiting)
        return old

    def _enter_waiting(self, effect: Effect) -> None:
        self.waiting += 1
        if self._lanes is None:
            self._delayed.add(effect.due, effect.position, self.waiting)
        else:
            self._lanes.add_waiting(effect.session_id, effect.position)

    def _leave_waiting(self, effect: Effect) -> None:
        self.waiting -= 1
        if self._lanes is not None:
            self._lanes.remove_waiting(effect.session_id, effect.position)

    def _enter_leased(self, effect: Effect) -> None:
        self.leased += 1
        self.by_lease[effect.lease] = effect
        self._expiries.add(effect.due, effect.position, self.leased)
        if effect.request is not None:
            self.by_request.setdefault(effect.request, set()).add(effect.position)
        if self._lanes is not None:
            self._lanes.add_leased(effect.session_id)

    def _leave_leased(self, effect: Effect) -> None:
        self.leased -= 1
        del self.by_lease[effect.lease]
        if effect.request is not None:
            positions = self.by_request[effect.request]
            positions.discard(effect.position)
            if not positions:
                del self.by_request[effect.request]
        if self._lanes is not None:
            self._lanes.remove_leased(effect.session_id)

    def _enter_dead(self, effect: Effect) -> None:
        insort(self.dead, effect.position)

    def _leave_dead(self, effect: Effect) -> None:
        del self.dead[bisect_left(self.dead, effect.position)]


_ENTER = {WAITING: Group._enter_waiting, LEASED: Group._enter_leased, DEAD: Group._enter_dead}
_LEAVE = {WAITING: Group._leave_waiting, LEASED: Group._leave_leased, DEAD: Group._leave_dead}
