"""Worker groups on disk: the statements that write them, and how they are read at the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from armin_broker import protocol
from armin_broker.groups.effect import LEASED, STATES, Effect, lease_name
from armin_broker.groups.group import Group
from armin_broker.groups.settings import Settings
from armin_engine.derived import Derived
from armin_engine.errors import CorruptDatabase

Statement = tuple[str, list[tuple[Any, ...]]]

DROP_EFFECTS: Final = "DELETE FROM taken_effects WHERE group_id = ?"
DROP_GROUP: Final = "DELETE FROM worker_groups WHERE id = ?"
CREATE_GROUP: Final = "INSERT INTO worker_groups VALUES (?, ?, ?, ?, ?)"
MOVE_CURSOR: Final = "UPDATE worker_groups SET cursor = ? WHERE id = ?"
KEEP_EFFECT: Final = "INSERT OR REPLACE INTO taken_effects VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
REMOVE_EFFECT: Final = "DELETE FROM taken_effects WHERE group_id = ? AND position = ?"

_LAST_ID: Final = "SELECT seq FROM sqlite_sequence WHERE name = 'worker_groups'"
_GROUPS: Final = "SELECT id, name, settings, cursor, created_at FROM worker_groups ORDER BY id"
_EFFECTS: Final = (
    "SELECT group_id, position, state, attempts, deliveries, due, request, reason"
    " FROM taken_effects ORDER BY group_id, position"
)

Select = Callable[[str], list[tuple[Any, ...]]]


def group_row(group: Group) -> tuple[Any, ...]:
    """A group as it is created."""
    return (group.id, group.name, group.settings.to_json(), group.cursor, group.created_at)


def effect_row(group: Group, effect: Effect) -> tuple[Any, ...]:
    """An effect as it stands."""
    return (
        group.id,
        effect.position,
        effect.state,
        effect.attempts,
        effect.deliveries,
        effect.due,
        effect.request,
        effect.reason,
    )


def recovered(select: Select, facts: Derived, now: int) -> tuple[dict[str, Group], int]:
    """Every stored group by its name, and the last group id given out.

    Raises CorruptDatabase where the rows contradict the log or themselves.
    """
    last_ids = select(_LAST_ID)
    groups = {row[0]: _group(row, facts) for row in select(_GROUPS)}
    for row in select(_EFFECTS):
        group = groups.get(row[0])
        if group is None:
            raise CorruptDatabase(f"taken_effects speaks of worker group {row[0]}, which does not exist")
        group.restore(_effect(row, group, facts, now))
    last_id = max([row[0] for row in last_ids] + list(groups), default=0)
    return {group.name: group for group in groups.values()}, last_id


def _group(row: tuple[Any, ...], facts: Derived) -> Group:
    group_id, name, text, cursor, created_at = row
    try:
        settings = Settings.from_json(text)
    except ValueError as error:
        raise CorruptDatabase(f"worker group {group_id} has lost its settings: {error}") from error
    if type(name) is not str or type(created_at) is not int:
        raise CorruptDatabase(f"worker group {group_id} has lost its name or its time")
    if type(cursor) is not int or not 0 <= cursor <= facts.position:
        raise CorruptDatabase(
            f"the cursor of worker group {name!r} is {cursor}, but the log ends at {facts.position}"
        )
    return Group(group_id, name, settings, cursor, created_at)


def _effect(row: tuple[Any, ...], group: Group, facts: Derived, now: int) -> Effect:
    _, position, state, attempts, deliveries, due, request, reason = row
    if type(position) is not int or not 1 <= position <= group.cursor:
        raise CorruptDatabase(
            f"worker group {group.name!r} has taken position {position}, but its cursor is {group.cursor}"
        )
    numbers = (attempts, deliveries, due)
    if state not in STATES or not all(type(number) is int and number >= 0 for number in numbers):
        raise CorruptDatabase(f"worker group {group.name!r} has lost the state of position {position}")
    if not all(text is None or type(text) is str for text in (request, reason)):
        raise CorruptDatabase(f"worker group {group.name!r} has lost the texts of position {position}")
    lease = lease_name(group.id, position, deliveries) if state == LEASED else ""
    # No lease or delay is longer than this: more of it comes from a clock that was wrong.
    due = min(due, now + protocol.LEASE_MS_MAX)
    return Effect(
        position,
        facts.log.entry(position).session_id,
        state,
        attempts,
        deliveries,
        due,
        lease,
        request if state == LEASED else None,
        reason,
    )
