"""What one turn has changed, as rows to be written, and how to take it all back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from armin_broker.groups import stored
from armin_broker.groups.group import Group


@dataclass(slots=True)
class Counters:
    """What happened, in effects."""

    granted: int = 0
    acked: int = 0
    nacked: int = 0
    expired: int = 0
    returned: int = 0
    died: int = 0

    def add(self, other: Counters) -> None:
        """Count what another one counted."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(slots=True)
class Turn:
    """Groups that were changed, created and dropped; dicts used as ordered sets."""

    touched: dict[Group, None] = field(default_factory=dict)
    created: dict[Group, None] = field(default_factory=dict)
    dropped: dict[Group, None] = field(default_factory=dict)
    acked: dict[str, None] = field(default_factory=dict)
    returned: list[tuple[str, Sequence[str]]] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened in it, as in most turns: whatever is counted has touched a group."""
        return not (self.touched or self.created or self.dropped or self.acked or self.returned)

    def statements(self, groups: Mapping[str, Group]) -> tuple[stored.Statement, ...]:
        """What has to be written, in this order; `groups` are those that the turn leaves standing."""
        dropped = [(group.id,) for group in self.dropped if group not in self.created]
        created = [stored.group_row(group) for group in self.created if groups.get(group.name) is group]
        kept, removed, cursors = [], [], []
        for group in self.touched:
            if groups.get(group.name) is not group:
                continue
            effects, positions = group.changes()
            kept += [stored.effect_row(group, effect) for effect in effects]
            removed += [(group.id, position) for position in positions]
            cursor = group.cursor_to_store()
            if cursor is not None:
                cursors.append((cursor, group.id))
        rows: tuple[stored.Statement, ...] = (
            (stored.DROP_EFFECTS, dropped),
            (stored.DROP_GROUP, dropped),
            (stored.CREATE_GROUP, created),
            (stored.REMOVE_EFFECT, removed),
            (stored.KEEP_EFFECT, kept),
            (stored.MOVE_CURSOR, cursors),
        )
        return tuple((statement, parameters) for statement, parameters in rows if parameters)

    def settle(self) -> None:
        """All of it is on disk."""
        for group in self.touched:
            group.settle()

    def roll_back(self, groups: dict[str, Group]) -> None:
        """None of it is on disk: as before."""
        for group in self.touched:
            group.roll_back()
        for group in self.created:
            if groups.get(group.name) is group:
                del groups[group.name]
        for group in self.dropped:
            if group not in self.created:
                groups[group.name] = group
