"""What the file says, read back: facts in log order, the last position, the last ids."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from armin_engine.digest import DIGEST_BYTES, GENESIS
from armin_engine.errors import CorruptDatabase
from armin_engine.facts import (
    MESSAGE_APPENDED,
    SESSION_CLOSED,
    SESSION_CREATED,
    Fact,
    FactFields,
    Kind,
    Meta,
    meta_from_json,
)

_FACTS: Final = """
    SELECT l.position, l.kind, l.session_id, l.message_id, l.digest,
           m.role, m.content, m.created_at, mm.meta
    FROM log AS l
    LEFT JOIN messages AS m ON l.kind = 2 AND m.id = l.message_id AND m.session_id = l.session_id
    LEFT JOIN message_meta AS mm ON l.kind = 2 AND mm.message_id = l.message_id
"""

# Asked for each creation: as further joins of every row, these would make reading a third slower.
_CREATION: Final = """
    SELECT s.created_at, n.name, sm.meta
    FROM sessions AS s
    LEFT JOIN session_names AS n ON n.session_id = s.id
    LEFT JOIN session_meta AS sm ON sm.session_id = s.id
    WHERE s.id = ?
"""

_ID: Final = re.compile("[0-9a-fA-F]{32}")


class Sequences(NamedTuple):
    """The last ids that SQLite has given out."""

    sessions: int
    messages: int


class RowName(NamedTuple):
    """What one row of the log is about, as it is told to people. 0 where something does not apply."""

    position: int
    session_id: int = 0
    message_id: int = 0
    seq: int = 0

    def __str__(self) -> str:
        if self.message_id:
            what = f", message {self.message_id} (session {self.session_id}, seq {self.seq})"
        else:
            what = f", session {self.session_id}" if self.session_id else ""
        return f"position {self.position}{what}"


class Identity(NamedTuple):
    """Which database this is, and which life of it."""

    database: str
    epoch: str


ROWS_AT_ONCE: Final = 250  # read before they are looked at, while they are in the processor's cache
CHARACTERS_AT_ONCE: Final = 4 << 20  # of their contents; then no more are read, however few they are


class Stored(NamedTuple):
    """Facts in order, and the digest that is stored beside each."""

    facts: list[FactFields]
    digests: list[bytes]


def stored_facts(connection: sqlite3.Connection, replay: Replay) -> Iterator[Stored]:
    """Every fact in order, some at a time; `replay` gives the seqs.

    Raises CorruptDatabase where the log has a hole, breaks its rules, or says what cannot be; what comes
    before that is handed out first.
    """
    expected = 0
    for rows in _rows(connection):
        stored = Stored([], [])
        facts, digests = stored
        try:
            for row in rows:
                expected += 1
                if row[0] != expected:
                    raise CorruptDatabase(f"the log jumps from position {expected - 1} to {row[0]}")
                digest = row[4]
                if type(digest) is not bytes or len(digest) != DIGEST_BYTES:
                    raise ValueError("its digest is none")
                is_message = row[1] == MESSAGE_APPENDED
                facts.append(_message(row, replay) if is_message else _other(row, replay, connection))
                digests.append(digest)
        except ValueError as error:
            yield stored
            raise CorruptDatabase(f"{_name(row, replay)}: {error}") from error
        except (CorruptDatabase, sqlite3.Error):
            yield stored
            raise
        yield stored


def _rows(connection: sqlite3.Connection) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of the log in order, up to the one that cannot be read, which raises."""
    rows: list[tuple[Any, ...]] = []
    position = size = 0
    try:
        for row in connection.execute(_FACTS + "ORDER BY l.position"):
            rows.append(row)
            content = row[6]
            if type(content) is str:
                size += len(content)
            if size >= CHARACTERS_AT_ONCE or len(rows) >= ROWS_AT_ONCE:
                position = row[0]
                yield rows
                rows, size = [], 0
    except sqlite3.Error:
        if rows:
            position = rows[-1][0]
            yield rows
        # Python's module steps on before it hands out a row, so the last good one may be lost with the bad.
        for at in (position + 1, position + 2):
            if rows := connection.execute(_FACTS + "WHERE l.position = ?", (at,)).fetchall():
                yield rows
        raise
    if rows:
        yield rows


def row_at(connection: sqlite3.Connection, position: int, replay: Replay) -> RowName:
    """The name of a row that could not be read in full. Raises sqlite3.Error."""
    query = "SELECT position, kind, session_id, message_id FROM log WHERE position = ?"
    row = connection.execute(query, (position,)).fetchone()
    return RowName(position) if row is None else _name(row, replay)


def _name(row: tuple[Any, ...], replay: Replay) -> RowName:
    """Of the row behind all that `replay` has seen."""
    position, kind, session_id, message_id = row[:4]
    is_message = kind == Kind.MESSAGE_APPENDED
    seq = max(0, replay.seqs.get(session_id, -1) + 1) if is_message else 0
    return RowName(position, session_id, message_id if is_message else 0, seq)


def digest_at(connection: sqlite3.Connection, position: int) -> bytes | None:
    """The digest of the log up to `position`, None where it ends before. Raises sqlite3.Error."""
    if position == 0:
        return GENESIS
    row = connection.execute("SELECT digest FROM log WHERE position = ?", (position,)).fetchone()
    return None if row is None else bytes(row[0])


def _message(row: tuple[Any, ...], replay: Replay) -> FactFields:
    position, _, session_id, message_id, _, role, content, created_at, meta = row
    if role is None and content is None:
        raise ValueError(f"message {message_id} is missing or in another session")
    if role not in (0, 1, 2, 3) or type(content) is not str or type(created_at) is not int:
        raise ValueError(f"message {message_id} has values that Armin never writes")
    checked = None if meta is None else meta_from_json(meta)
    seq = replay.append(session_id, message_id)
    return (position, MESSAGE_APPENDED, session_id, message_id, seq, role, content, created_at, checked, None)


def _other(row: tuple[Any, ...], replay: Replay, connection: sqlite3.Connection) -> Fact:
    position, kind, session_id = row[:3]
    if kind == SESSION_CREATED:
        return _creation(position, session_id, replay, connection)
    if kind != SESSION_CLOSED:
        raise ValueError(f"there is no kind {kind!r}")
    replay.close(session_id)
    return Fact(position, SESSION_CLOSED, session_id, 0, 0, -1, "", 0, None)


def _creation(position: int, session_id: Any, replay: Replay, connection: sqlite3.Connection) -> Fact:
    row = connection.execute(_CREATION, (session_id,)).fetchone()
    created_at, name, meta = (None, None, None) if row is None else row
    if type(created_at) is not int:
        raise ValueError(f"session {session_id} is missing or has no time")
    if name is not None and (type(name) is not str or not name):
        raise ValueError(f"session {session_id} has a name that Armin never writes")
    replay.create(session_id)
    return Fact(position, SESSION_CREATED, session_id, 0, 0, -1, name or "", created_at, _meta(meta))


def _meta(text: Any) -> Meta | None:
    return None if text is None else meta_from_json(text)


class Replay:
    """The rules of the log, held as it runs: ids ascend, sessions begin open and end closed.

    `seqs` counts each session's messages; below 0 the session is closed. Raises ValueError.
    """

    __slots__ = ("last_message", "last_session", "seqs")

    def __init__(self) -> None:
        self.seqs: dict[int, int] = {}
        self.last_session = 0
        self.last_message = 0

    def create(self, session_id: int) -> None:
        """A session is created."""
        if session_id <= self.last_session:
            raise ValueError(f"it creates session {session_id} after session {self.last_session}")
        self.last_session = session_id
        self.seqs[session_id] = 0

    def append(self, session_id: int, message_id: int) -> int:
        """A message is appended; returns its seq."""
        seq = self.seqs.get(session_id, -1) + 1
        if seq < 1:
            raise ValueError(f"session {session_id} is not open there")
        if message_id <= self.last_message:
            raise ValueError(f"message {message_id} comes after message {self.last_message}")
        self.last_message = message_id
        self.seqs[session_id] = seq
        return seq

    def close(self, session_id: int) -> None:
        """A session is closed."""
        seq = self.seqs.get(session_id, -1)
        if seq < 0:
            raise ValueError(f"session {session_id} is not open there")
        self.seqs[session_id] = -1 - seq

    def closed(self) -> set[int]:
        """The sessions that are closed by now."""
        return {session_id for session_id, seq in self.seqs.items() if seq < 0}


def last_position(connection: sqlite3.Connection) -> int:
    """The last position in the file, 0 where the log is empty."""
    return int(connection.execute("SELECT coalesce(max(position), 0) FROM log").fetchone()[0])


def sequences(connection: sqlite3.Connection) -> Sequences:
    """The last ids that SQLite has given out, deleted rows included. Raises CorruptDatabase."""
    rows = dict(connection.execute("SELECT name, seq FROM sqlite_sequence"))
    found = Sequences(rows.get("sessions", 0), rows.get("messages", 0))
    if not all(type(last) is int and last >= 0 for last in found):
        raise CorruptDatabase(f"sqlite_sequence has {found}, which are no ids")
    return found


def identity(connection: sqlite3.Connection) -> Identity:
    """Raises CorruptDatabase where the file does not know who it is."""
    rows = dict(connection.execute("SELECT key, value FROM armin"))
    for key in Identity._fields:
        value = rows.get(key)
        if type(value) is not str or not _ID.fullmatch(value):
            raise CorruptDatabase(f"the file has lost its {key} id: {value!r} is none")
    return Identity(rows["database"], rows["epoch"])
