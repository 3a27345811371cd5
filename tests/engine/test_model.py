"""Random histories against a plain model: every way of reading and the file itself always agree."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from armin_engine import (
    Append,
    Appended,
    Armin,
    Closed,
    CloseSession,
    Conflict,
    Created,
    CreateSession,
    EngineError,
    RecordingSink,
    SessionClosed,
    SessionNotFound,
    StorageFailed,
)
from armin_engine.armin import append_command
from armin_engine.records import check_meta, new_message
from engine.observe import (
    Listener,
    listed,
    listed_backward,
    log,
    messages,
    messages_backward,
    rows,
    snapshot_and_delta,
)

ROLES = ("user", "assistant", "system", "tool")
TEXTS = ("", "hi", "naïve 漢字 🦊", "\0", "x" * 700, "y" * 70_000)
TRAP = "trap"  # content that a trigger in the file refuses


@dataclass
class ModelSession:
    name: str | None
    meta: dict[str, Any] | None
    created_at: int
    closed_at: int = 0
    messages: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Model:
    """What a plain reading of the rules says."""

    sessions: dict[int, ModelSession] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    message_id: int = 0

    def apply(self, command: Any, now: int) -> Any:
        if isinstance(command, CreateSession):
            return self._create(command, now)
        session = self.sessions.get(command.session_id)
        if session is None:
            return SessionNotFound
        if isinstance(command, CloseSession):
            return self._close(command.session_id, session)
        if session.closed_at:
            return SessionClosed
        if command.expect_seq is not None and command.expect_seq != len(session.messages) + 1:
            return Conflict
        return self._append(command, session, now)

    def _record(self, kind: str, session_id: int, **fields: Any) -> int:
        position = len(self.log) + 1
        self.log.append({"position": position, "type": kind, "session_id": session_id, **fields})
        return position

    def _create(self, command: CreateSession, now: int) -> tuple[Any, ...]:
        for session_id, session in self.sessions.items():
            if command.name is not None and session.name == command.name:
                return (
                    "created",
                    session_id,
                    True,
                    len(session.messages),
                    session.closed_at > 0,
                    session.meta,
                )
        session_id = len(self.sessions) + 1
        meta = None if command.meta is None else _unpacked(command.meta)
        self.sessions[session_id] = ModelSession(command.name, meta, now)
        fields = {"created_at": now, "name": command.name, "meta": meta}
        self._record("session_created", session_id, **{k: v for k, v in fields.items() if v is not None})
        return ("created", session_id, False, 0, False, meta)

    def _close(self, session_id: int, session: ModelSession) -> tuple[Any, ...]:
        if session.closed_at:
            return ("closed", session.closed_at, True)
        session.closed_at = self._record("session_closed", session_id)
        return ("closed", session.closed_at, False)

    def _append(self, command: Append, session: ModelSession, now: int) -> tuple[Any, ...]:
        first = (self.message_id + 1, len(session.messages) + 1, len(self.log) + 1)
        for message in command.messages:
            self.message_id += 1
            stored = {
                "id": self.message_id,
                "session_id": command.session_id,
                "seq": len(session.messages) + 1,
                "role": ROLES[message.role],
                "content": message.content,
                "created_at": now,
            }
            if message.meta is not None:
                stored["meta"] = _unpacked(message.meta)
            session.messages.append(stored)
            told = stored
            if len(message.content) > 65_536:
                told = {k: v for k, v in stored.items() if k not in ("content", "meta")} | {"elided": True}
            self._record("message_appended", command.session_id, message=told)
        return ("appended", *first, len(command.messages))


def _unpacked(meta: Any) -> dict[str, Any]:
    import json

    return dict(json.loads(meta.json))


def outcome_of(outcome: Any) -> Any:
    """An engine's outcome in the model's terms."""
    if isinstance(outcome, EngineError):
        return type(outcome)
    if isinstance(outcome, Created):
        session = outcome.session
        return ("created", session.id, outcome.duplicate, session.seq, session.closed, session.meta)
    if isinstance(outcome, Closed):
        return ("closed", outcome.at, outcome.duplicate)
    assert isinstance(outcome, Appended)
    return ("appended", outcome.first_id, outcome.first_seq, outcome.first_at, outcome.count)


class History:
    """One random history of an engine beside its model."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.chance = random.Random(seed)
        self.model = Model()
        self.now = 1_000_000
        self.sink, self.listener = RecordingSink(), Listener()
        Armin(path).close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(
                "CREATE TRIGGER trap BEFORE INSERT ON messages WHEN new.content = 'trap'"
                " BEGIN SELECT raise(ABORT, 'trapped'); END"
            )
        self.armin = self.open()

    def open(self) -> Armin:
        armin = Armin(self.path, sink=self.sink, clock=lambda: self.now)
        armin.live.attach(self.listener)
        return armin

    def command(self) -> Any:
        chance, known = self.chance, len(self.model.sessions)
        session_id = chance.choice([chance.randint(1, known + 2), max(1, known), 1 + known // 2])
        kind = chance.choices(["create", "append", "close"], [2, 8, 0.7])[0]
        if kind == "create":
            name = chance.choice([None, None, f"n{chance.randint(1, 12)}"])
            meta = chance.choice([None, {"k": chance.choice([1, 1.0, True, None, "x"])}])
            return CreateSession(name, None if meta is None else check_meta(meta))
        if kind == "close":
            return CloseSession(session_id)
        batch = [self.message() for _ in range(chance.choice([1, 1, 1, 2, 5]))]
        session = self.model.sessions.get(session_id)
        seq = len(session.messages) + 1 if session else 1
        return append_command(session_id, batch, chance.choice([None, None, None, seq, seq, seq + 1]))

    def message(self) -> Any:
        chance = self.chance
        content = chance.choices(TEXTS, [3, 5, 3, 1, 2, 0.3])[0]
        meta = chance.choice([None, None, None, {"n": chance.randint(-9, 9), "l": [1, {"a": None}]}])
        return new_message(chance.choice(ROLES), content, meta)

    def step(self) -> None:
        what = self.chance.choices(["group", "refresh", "restart", "fail"], [12, 2, 1, 1])[0]
        self.now += self.chance.randint(0, 5000)
        getattr(self, what)()

    def group(self) -> None:
        commands = [self.command() for _ in range(self.chance.choice([1, 1, 2, 5, 20]))]
        outcomes = self.armin.apply(commands)
        wanted = [self.model.apply(command, self.now) for command in commands]
        assert [outcome_of(outcome) for outcome in outcomes] == wanted

    def fail(self) -> None:
        """A group with a trap in it, where there is an open session to put it."""
        live = [number for number, session in self.model.sessions.items() if not session.closed_at]
        if not live:
            return
        commands = [self.command() for _ in range(self.chance.randint(0, 5))]
        commands = [command for command in commands if not isinstance(command, CloseSession)]
        trapped = append_command(self.chance.choice(live), [new_message("user", TRAP)], None)
        commands.insert(self.chance.randint(0, len(commands)), trapped)
        outcomes = self.armin.apply(commands)
        for command, outcome in zip(commands, outcomes, strict=True):
            if isinstance(outcome, StorageFailed):
                continue
            # What wrote nothing is worth what it is worth without the group: a refusal, or a duplicate.
            without = self.model.apply(command, self.now)
            assert outcome_of(outcome) == without
            assert isinstance(without, type) or without[2] is True
        assert StorageFailed in map(type, outcomes)

    def refresh(self) -> None:
        assert self.armin.refresh_snapshot() == len(self.model.log)
        assert self.armin.snapshot().position == len(self.model.log)

    def restart(self) -> None:
        self.armin.close()
        self.armin = self.open()

    def check(self) -> None:
        armin, model = self.armin, self.model
        assert armin.position == len(model.log)
        assert [event.unpack() for event in log(armin, limit=self.chance.choice([3, 1000]))] == model.log
        assert [event.unpack() for event in self.sink.events] == model.log
        assert [event.unpack() for event in self.listener.events] == model.log
        limit = self.chance.choice([1, 2, 7, 1000])
        for session_id, session in model.sessions.items():
            self.check_session(session_id, session, limit)
        self.check_listing()
        self.check_rows()
        assert armin.verify().differences == ()
        gauges = armin.gauges()
        assert gauges["sessions"] == len(model.sessions)
        assert gauges["messages"] == model.message_id

    def check_session(self, session_id: int, session: ModelSession, limit: int) -> None:
        armin = self.armin
        info = armin.session(session_id)
        assert (info.id, info.name, info.closed, info.created_at, info.seq, info.meta) == (
            session_id,
            session.name,
            session.closed_at > 0,
            session.created_at,
            len(session.messages),
            session.meta,
        )
        if session.name is not None:
            assert armin.session(name=session.name) == info
        for found in (
            messages(armin, session_id, limit),
            messages_backward(armin, session_id, limit),
            snapshot_and_delta(armin, session_id),
        ):
            assert [_as_map(message) for message in found] == session.messages

    def check_listing(self) -> None:
        for closed in (None, True, False):
            wanted = [
                session_id
                for session_id, session in self.model.sessions.items()
                if closed is None or (session.closed_at > 0) is closed
            ]
            limit = self.chance.choice([1, 3, 10_000])
            assert listed(self.armin, closed, limit) == listed_backward(self.armin, closed, limit) == wanted
        assert self.armin.tails(list(self.model.sessions)) == [
            (session_id, len(session.messages), session.closed_at > 0)
            for session_id, session in self.model.sessions.items()
        ]

    def check_rows(self) -> None:
        stored, model = rows(self.path), self.model
        assert [row[:4] for row in stored["log"]] == [
            (
                event["position"],
                ("", "session_created", "message_appended", "session_closed").index(event["type"]),
                event["session_id"],
                event["message"]["id"] if "message" in event else 0,
            )
            for event in model.log
        ]
        assert stored["sessions"] == [
            (session_id, int(session.closed_at > 0), session.created_at)
            for session_id, session in model.sessions.items()
        ]
        every = sorted(
            (
                message["id"],
                session_id,
                ROLES.index(message["role"]),
                message["content"],
                message["created_at"],
            )
            for session_id, session in model.sessions.items()
            for message in session.messages
        )
        assert stored["messages"] == every
        with_meta = {m["id"] for s in model.sessions.values() for m in s.messages if "meta" in m}
        assert {row[0] for row in stored["message_meta"]} == with_meta
        assert dict(stored["session_names"]) == {s.name: n for n, s in model.sessions.items() if s.name}
        ids = dict(stored["sqlite_sequence"])
        assert (ids.get("sessions", 0), ids.get("messages", 0)) == (len(model.sessions), model.message_id)


def _as_map(message: Any) -> dict[str, Any]:
    found = {
        name: getattr(message, name) for name in ("id", "session_id", "seq", "role", "content", "created_at")
    }
    return found if message.meta is None else {**found, "meta": message.meta}


FIXED_SEEDS = [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("seed", [*FIXED_SEEDS, "new", "new again"])
def test_random_histories_agree_with_a_plain_model(path, monkeypatch, seed):
    if isinstance(seed, str):
        seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    # Small chunks and leaves, so that sealing, merging and copying happen all the time.
    chance = random.Random(seed)
    monkeypatch.setattr("armin_engine.limits.CHUNK_BYTES", chance.choice([300, 5000, 256 << 10]))
    monkeypatch.setattr("armin_engine.limits.SESSIONS_PER_LEAF", chance.choice([1, 4, 1024]))
    monkeypatch.setattr("armin_engine.limits.PAGE_BYTES_MAX", chance.choice([500, 20_000, 1 << 20]))
    monkeypatch.setattr("armin_engine.stored.ROWS_AT_ONCE", chance.choice([1, 7, 2000]))
    history = History(path, seed)
    try:
        for step in range(150):
            history.step()
            if step % 10 == 9:
                history.check()
        history.restart()
        history.check()
        assert len(history.model.log) > 100
    finally:
        history.armin.close()
