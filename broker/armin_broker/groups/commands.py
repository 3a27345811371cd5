"""What callers ask of worker groups, checked; times in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

from armin_broker.groups.settings import Settings


@dataclass(frozen=True, slots=True)
class CreateGroup:
    """Create a group, or find it standing with the same settings."""

    group: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class Ack:
    """These effects are handled."""

    group: str
    leases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nack:
    """These effects could not be handled; delay_ms is None for the group's backoff."""

    group: str
    leases: tuple[str, ...]
    reason: str | None
    delay_ms: int | None


@dataclass(frozen=True, slots=True)
class Extend:
    """These effects take longer."""

    group: str
    leases: tuple[str, ...]
    lease_ms: int


@dataclass(frozen=True, slots=True)
class Requeue:
    """Try dead letters again, from no attempts; positions is None for all."""

    group: str
    positions: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Discard:
    """Give dead letters up for good; positions is None for all."""

    group: str
    positions: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class DropGroup:
    """Delete a group with all that it has taken."""

    group: str


Command = CreateGroup | Ack | Nack | Extend | Requeue | Discard | DropGroup
