"""Taking effects for a poll: what waits first, then new facts, within bounds of work and size."""

from __future__ import annotations

from typing import Final, NamedTuple

from armin_broker.groups.effect import LEASED, WAITING, Effect, lease_name
from armin_broker.groups.group import Group
from armin_broker.groups.polls import Poll
from armin_engine import limits
from armin_engine.derived import Derived, EventReader
from armin_engine.log import Entry

WORK_MAX: Final = 8192  # of a turn: a fact looked at is 1, an effect taken TAKING; some 20 ms at most
TAKING: Final = 4
ITEM_BYTES: Final = 140  # what stands around an event in a lease's reply, at most


class Grant(NamedTuple):
    """A leased effect and its packed event."""

    effect: Effect
    event: bytes


class Work:
    """How much a turn may still do."""

    def __init__(self) -> None:
        self.left = WORK_MAX


class _Basket:
    """What one poll gets."""

    def __init__(self, group: Group, poll: Poll, facts: Derived, now: int, work: Work) -> None:
        self.grants: list[Grant] = []
        self._group = group
        self._poll = poll
        self._events = EventReader(facts)
        self._until = now + poll.lease_ms
        self._room = limits.PAGE_BYTES_MAX
        self._work = work

    def has_room(self) -> bool:
        return self._room > 0 and len(self.grants) < self._poll.max and self._work.left > 0

    def put(self, position: int, entry: Entry, before: Effect | None) -> bool:
        """Lease an effect; False, and no room left, where its event does not fit any more."""
        event = self._events.event(position, entry).packed
        self._room -= len(event) + ITEM_BYTES
        if self._room < 0 and self.grants:
            return False
        attempts, deliveries, reason = (
            (1, 1, None) if before is None else (before.attempts + 1, before.deliveries + 1, before.reason)
        )
        group = self._group
        lease = lease_name(group.id, position, deliveries)
        effect = Effect(
            position,
            entry.session_id,
            LEASED,
            attempts,
            deliveries,
            self._until,
            lease,
            self._poll.request,
            reason,
        )
        group.change(position, effect)
        self._work.left -= TAKING
        self.grants.append(Grant(effect, event))
        return True


def lease(group: Group, poll: Poll, facts: Derived, now: int, work: Work) -> list[Grant]:
    """Lease effects to a poll: at most its `max`, and what fits a reply page, at least one."""
    basket = _Basket(group, poll, facts, now, work)
    while basket.has_room():
        effect = group.ready(now)
        if effect is None:
            _lease_new(group, basket, facts, work)
            break
        if not basket.put(effect.position, facts.log.entry(effect.position), effect):
            break
    return basket.grants


def _lease_new(group: Group, basket: _Basket, facts: Derived, work: Work) -> None:
    """Take facts behind the cursor: pass over, hold, or lease."""
    cursor, last = group.cursor, facts.position
    entry_of, kinds = facts.log.entry, group.kinds
    while cursor < last and basket.has_room() and not group.full:
        entry = entry_of(cursor + 1)
        work.left -= 1
        if kinds is None or entry.kind in kinds:
            if group.is_held(entry.session_id):
                group.change(cursor + 1, Effect(cursor + 1, entry.session_id, WAITING, 0, 0, 0))
                work.left -= TAKING
            elif not basket.put(cursor + 1, entry, None):
                break
        cursor += 1
    if cursor != group.cursor:
        group.advance(cursor)


def held_by_request(group: Group, request: str, facts: Derived) -> list[Grant]:
    """The leases given for a token that are still held, as they were given."""
    positions = sorted(group.by_request.get(request, ()))
    return [Grant(group.taken[position], facts.event(position).packed) for position in positions]


def can_give(group: Group, facts: Derived, now: int) -> bool:
    """Whether a poll would get something, or at least get further in the log."""
    if group.halted:
        return False
    return group.ready(now) is not None or (group.cursor < facts.position and not group.full)
