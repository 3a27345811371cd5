"""Side effects: each committed fact, handed once to whatever acts on it."""

from __future__ import annotations

from typing import Protocol

from armin_engine.facts import Event


class SideEffectSink(Protocol):
    """Takes one effect for each committed fact, in commit order, right after the commit.

    A sink that raises loses that effect; the engine logs and counts it and goes on with the next.
    """

    def emit(self, event: Event) -> None:
        """Take one effect, without waiting for anybody."""


class NullSink:
    """Acts on nothing."""

    def emit(self, event: Event) -> None:
        """Let it pass."""


class RecordingSink:
    """Keeps every effect, for tests and for small programs."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)
