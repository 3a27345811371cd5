"""What a worker group was created with; fixed for its life."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from armin_broker import protocol
from armin_engine.errors import Conflict
from armin_engine.facts import EVENT_TYPES, Kind

STARTS: Final = ("begin", "now")
ON_DEAD: Final = ("skip", "halt")
TYPES: Final = tuple(EVENT_TYPES.values())
_KINDS: Final = {name: kind for kind, name in EVENT_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Settings:
    """`types` is None for all event types, those of later versions included; times in milliseconds."""

    start: str
    types: frozenset[str] | None
    ordered: bool
    max_attempts: int
    backoff_ms: int
    on_dead: str

    @property
    def kinds(self) -> frozenset[Kind] | None:
        """The kinds of fact that are wanted, None for all."""
        return None if self.types is None else frozenset(_KINDS[name] for name in self.types)

    def backoff(self, attempts: int) -> int:
        """Milliseconds to wait after so many failed attempts: doubled with each one."""
        return min(self.backoff_ms << min(attempts - 1, 32), protocol.BACKOFF_MS_MAX)

    def shown(self) -> dict[str, Any]:
        """The fields as they go over the wire."""
        types = [name for name in TYPES if self.types is None or name in self.types]
        return {
            "start": self.start,
            "types": types,
            "ordered": self.ordered,
            "max_attempts": self.max_attempts,
            "backoff_ms": self.backoff_ms,
            "on_dead": self.on_dead,
        }

    def check_same(self, asked: Settings, name: str) -> None:
        """Raises Conflict, naming the first setting that differs."""
        stands, wanted = self.shown(), asked.shown()
        for field, value in stands.items():
            if wanted[field] != value:
                raise Conflict(
                    f"the group {name!r} has {field} {value!r}; settings are fixed at its creation",
                    field=field,
                    reason="settings",
                )

    def to_json(self) -> str:
        """As stored."""
        return json.dumps({**self.shown(), "types": None if self.types is None else self.shown()["types"]})

    @staticmethod
    def from_json(text: str) -> Settings:
        """As `to_json` stored it. Raises ValueError for what Armin never stored."""
        try:
            fields = json.loads(text)
            types = fields.pop("types")
            settings = Settings(types=None if types is None else frozenset(types), **fields)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no settings of a group: {error}") from error
        if not settings._is_sound():
            raise ValueError("no settings of a group")
        return settings

    def _is_sound(self) -> bool:
        return (
            self.start in STARTS
            and self.on_dead in ON_DEAD
            and type(self.ordered) is bool
            and type(self.max_attempts) is int
            and type(self.backoff_ms) is int
            and (self.types is None or self.types <= frozenset(TYPES))
        )
