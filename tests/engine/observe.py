"""What can be seen of an engine and of its file, as plain values to compare."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from armin_engine import Append, Armin, CloseSession, CreateSession, Event, Message
from armin_engine.armin import append_command
from armin_engine.records import check_meta, new_message

TABLES = ("sessions", "messages", "log", "message_meta", "session_meta", "session_names", "armin")


def create(name: str | None = None, meta: dict[str, Any] | None = None) -> CreateSession:
    return CreateSession(name, None if meta is None else check_meta(meta))


def append(session_id: int, *contents: str, expect_seq: int | None = None) -> Append:
    return append_command(session_id, [new_message("user", content) for content in contents], expect_seq)


def close(session_id: int) -> CloseSession:
    return CloseSession(session_id)


def messages(armin: Armin, session_id: int, limit: int = 10_000) -> list[Message]:
    """A session's messages, read page by page."""
    found: list[Message] = []
    more = True
    while more:
        page = armin.read(session_id, after=len(found), limit=limit)
        found += page.messages
        more = page.more
    return found


def messages_backward(armin: Armin, session_id: int, limit: int = 10_000) -> list[Message]:
    """The same, read from the end."""
    found: list[Message] = []
    before, more = armin.session(session_id).seq + 1, True
    while more:
        page = armin.read(session_id, before=before, limit=limit)
        found[:0] = page.messages
        more = page.more
        before -= page.count
    return found


def snapshot_and_delta(armin: Armin, session_id: int) -> list[Message]:
    """The two parts of a session, one after the other."""
    past = armin.snapshot().get(session_id)
    return [*(past.messages() if past else ()), *armin.delta(session_id).messages()]


def contents(of: Sequence[Message]) -> list[str]:
    return [message.content for message in of]


def log(armin: Armin, limit: int = 10_000) -> list[Event]:
    """Every fact, read page by page."""
    found: list[Event] = []
    more = True
    while more:
        page = armin.events(after=len(found), limit=limit)
        found += page.events
        more = page.more
    return found


def session_ids(armin: Armin) -> list[int]:
    return listed(armin, None, 10_000)


def listed(armin: Armin, closed: bool | None, limit: int) -> list[int]:
    """Ids of the sessions, listed page by page."""
    found: list[int] = []
    more = True
    while more:
        page = armin.sessions(after=found[-1] if found else 0, limit=limit, closed=closed)
        assert len(page.sessions) <= limit
        found += [session.id for session in page.sessions]
        more = page.more
    return found


def listed_backward(armin: Armin, closed: bool | None, limit: int) -> list[int]:
    """The same, the newest first."""
    found: list[int] = []
    more = True
    while more:
        page = armin.sessions(before=found[0] if found else 2**63 - 1, limit=limit, closed=closed)
        assert len(page.sessions) <= limit
        found[:0] = [session.id for session in page.sessions]
        more = page.more
    return found


def everything(armin: Armin) -> dict[str, Any]:
    """All that reads can tell of an engine."""
    ids = session_ids(armin)
    return {
        "sessions": [armin.session(session_id) for session_id in ids],
        "messages": {session_id: messages(armin, session_id) for session_id in ids},
        "parts": {session_id: snapshot_and_delta(armin, session_id) for session_id in ids},
        "log": [event.unpack() for event in log(armin)],
        "gauges": armin.gauges(),
    }


def restartable(armin: Armin) -> dict[str, Any]:
    """What must be the same after a restart: everything but the border of snapshot and delta."""
    seen = everything(armin)
    del seen["gauges"]
    return seen


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of Armin's tables."""
    with closing(sqlite3.connect(path)) as connection:
        found = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
        found["sqlite_sequence"] = connection.execute("SELECT * FROM sqlite_sequence").fetchall()
        return found


def file_bytes(path: Path) -> dict[str, bytes]:
    """The main file, its WAL and its journal, byte by byte; an empty one says as much as none."""
    found = {}
    for suffix in ("", "-wal", "-journal"):
        file = path.with_name(path.name + suffix)
        if file.exists() and file.stat().st_size:
            found[suffix] = file.read_bytes()
    return found


def positions(events: Sequence[Event]) -> list[int]:
    return [event.position for event in events]


class Listener:
    """Keeps what the hub delivers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def deliver(self, events: Sequence[Event]) -> None:
        self.events += events

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)
