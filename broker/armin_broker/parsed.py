"""What a command becomes once it is parsed, and what it may act on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from armin_broker.groups.commands import Command, CreateGroup
from armin_broker.groups.coordinator import Coordinator
from armin_engine import records
from armin_engine.armin import Armin
from armin_engine.errors import EngineError
from armin_engine.plan import Outcome


class Service(Protocol):
    """What the verbs act on."""

    armin: Armin

    def hello(self, role: str) -> dict[str, Any]:
        """Fields of `hello` for a sender with this role."""

    def stats(self) -> dict[str, Any]:
        """Counters and gauges."""

    def publish_sync(self, token: str) -> None:
        """Put the token on the live socket, behind all that was committed before."""

    def count_heal(self) -> None:
        """A follower says that it had lost something."""

    @property
    def groups(self) -> Coordinator:
        """The worker groups."""

    def create_group(self, command: CreateGroup) -> dict[str, Any]:
        """Create a worker group, on disk; the reply's fields."""

    def verify(self, job: int | None, at: int | None) -> dict[str, Any]:
        """Start a verification, or look at one."""

    def health(self) -> dict[str, Any]:
        """Whether this engine can do its work."""

    def backup(self, name: str | None, job: int | None) -> dict[str, Any]:
        """Start a backup into the engine's own directory of backups, or look at one."""


class Write(NamedTuple):
    """Part of the group commit."""

    command: records.Command
    render: Callable[[int, Outcome], bytes]


new_write: Final = partial(tuple.__new__, Write)  # of all fields in order, at half the cost


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Several writes that came in one command; part of the group commit, each answered by itself."""

    parts: tuple[Write | EngineError, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """Answered from memory after the commit; must change nothing."""

    answer: Callable[[Service], bytes]


@dataclass(frozen=True, slots=True)
class Barrier:
    """Ends a group: what came before it is committed and published first."""

    act: Callable[[Service], bytes]


@dataclass(frozen=True, slots=True)
class Change:
    """Changes worker groups; part of the group commit."""

    command: Command


@dataclass(frozen=True, slots=True)
class Lease:
    """Asks for effects; answered after the commit, or when there are some. Times in milliseconds."""

    group: str
    max: int
    lease_ms: int
    wait_ms: int
    request: str | None


Parsed = Write | Pipeline | Read | Barrier | Change | Lease
