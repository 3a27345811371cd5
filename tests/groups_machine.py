"""The state machine on a log and a file of its own, without engine and sockets."""

from __future__ import annotations

import sqlite3
from importlib import resources
from typing import Any

from armin_broker.groups.commands import Command, CreateGroup
from armin_broker.groups.coordinator import Answer, Coordinator
from armin_broker.groups.polls import Poll
from armin_broker.groups.settings import Settings
from armin_engine.derived import Derived
from armin_engine.errors import CommandError
from armin_engine.facts import Fact, Kind


def settings(**changed: Any) -> Settings:
    """Settings of a group, as they are by default but for `changed`."""
    fields: dict[str, Any] = {
        "start": "begin",
        "types": None,
        "ordered": False,
        "max_attempts": 5,
        "backoff_ms": 1000,
        "on_dead": "skip",
    }
    return Settings(**{**fields, **changed})


class Machine:
    """Turns of a coordinator, each written to SQLite, or failing to be."""

    def __init__(self) -> None:
        self.facts = Derived()
        self.messages: dict[int, int] = {}  # by session
        self.file = sqlite3.connect(":memory:", isolation_level=None)
        schema = resources.files("armin_engine").joinpath("schema.sql").read_text("utf-8")
        self.file.executescript(schema)
        self.now = 1_700_000_000_000
        self.fails = False  # whether commits do
        self.failed = False  # whether the last turn did
        self.coordinator = Coordinator(self.facts)

    # --- the log ---

    def session(self) -> int:
        """A new session: one fact."""
        session_id = len(self.messages) + 1
        self.messages[session_id] = 0
        self._take(Kind.SESSION_CREATED, session_id, 0)
        return session_id

    def append(self, session_id: int, count: int = 1, content: str = "x") -> None:
        """New messages: a fact each."""
        for _ in range(count):
            self.messages[session_id] += 1
            self._take(Kind.MESSAGE_APPENDED, session_id, self.messages[session_id], content)

    def _take(self, kind: Kind, session_id: int, seq: int, content: str = "") -> None:
        position = self.facts.position + 1
        self.facts.take([Fact(position, kind, session_id, position, seq, 0 if seq else -1, content, 1, None)])

    # --- turns ---

    def turn(self, *commands: Command, polls: tuple[Poll, ...] = ()) -> tuple[list[Any], list[Answer]]:
        """One turn, as the daemon does it: commands, what is due, polls; then written, or rolled back."""
        outcomes: list[Any] = []
        for command in commands:
            try:
                outcomes.append(self.coordinator.plan(command, self.now))
            except CommandError as error:
                outcomes.append(error)
        self.coordinator.plan_due(self.now)
        answers = [answer for poll in polls for answer in self.coordinator.ask(poll)]
        answers += self.coordinator.plan_leases(self.now)
        statements = self.coordinator.statements()
        self.failed = bool(statements) and self.fails
        if self.failed:
            self.coordinator.roll_back()
            return ["failed"] * len(outcomes), [answer for answer in answers if not answer.is_written]
        for statement, parameters in statements:
            self.file.executemany(statement, parameters)
        self.coordinator.settle()
        return outcomes, answers

    def do(self, command: Command) -> Any:
        """A turn of one command."""
        ((outcome,), _) = self.turn(command)
        return outcome

    def create(self, name: str = "g", **changed: Any) -> Any:
        """Create a group."""
        return self.do(CreateGroup(name, settings(**changed)))

    def poll(self, count: int = 1, name: str = "g", wait_ms: int = 0, **fields: Any) -> Poll:
        """A poll that begins to wait now."""
        given = {"lease_ms": 30_000, "request": None, "ticket": None, **fields}
        return Poll(name, count, deadline=self.now + wait_ms, **given)

    def lease(self, count: int = 1, name: str = "g", **fields: Any) -> list[tuple[str, int, int]]:
        """Lease at once: lease, position and attempt of each."""
        poll = self.poll(count, name, **fields)
        _, answers = self.turn(polls=(poll,))
        return leases(answers, poll)

    def restarted(self) -> Coordinator:
        """The coordinator that a restart would make of what is on disk."""
        coordinator = Coordinator(self.facts)
        coordinator.recover(lambda query: self.file.execute(query).fetchall(), self.now)
        return coordinator

    def restart(self) -> None:
        """Die and start again."""
        self.coordinator = self.restarted()

    def group(self, name: str = "g") -> dict[str, Any]:
        """A group as it is described."""
        (described,) = self.coordinator.described(name)
        return described


def leases(answers: list[Answer], poll: Poll) -> list[tuple[str, int, int]]:
    """What a poll got."""
    (answer,) = [answer for answer in answers if answer.poll is poll]
    assert answer.error is None, answer.error
    return [(grant.effect.lease, grant.effect.position, grant.effect.attempts) for grant in answer.grants]
