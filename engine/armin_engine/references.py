"""Rows that point into the log: idempotency keys, worker groups, taken effects. Whether they still fit it.

Nothing chains them. A key's row is held against the write that it stands for, digest and all, so only
the key itself could change unseen; a row of a worker group is wrong where it says what cannot be.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from armin_engine import limits
from armin_engine.digest import text_digest
from armin_engine.facts import Kind, Meta
from armin_engine.keys import NO_SESSION, append_request, create_request
from armin_engine.records import CreateSession, NewMessage

ROWS_AT_ONCE: Final = 500  # rows looked at between two turns

_KEYS: Final = "SELECT key, session_id, position, count, request FROM append_keys"

_CREATION: Final = """
    SELECT n.name, m.meta FROM log AS l
    LEFT JOIN session_names AS n ON n.session_id = l.session_id
    LEFT JOIN session_meta AS m ON m.session_id = l.session_id
    WHERE l.position = ? AND l.kind = ?
"""

_MESSAGES: Final = """
    SELECT m.role, m.content, mm.meta FROM log AS l
    JOIN messages AS m ON m.id = l.message_id
    LEFT JOIN message_meta AS mm ON mm.message_id = l.message_id
    WHERE l.position BETWEEN ? AND ? AND l.session_id = ? AND l.kind = ?
    ORDER BY l.position
"""

_GROUPS: Final = """
    SELECT id, typeof(name) = 'text' AND name <> '' AND json_valid(settings)
           AND typeof(cursor) = 'integer' AND cursor BETWEEN 0 AND ?
           AND typeof(created_at) = 'integer'
    FROM worker_groups
"""

_TAKEN: Final = """
    SELECT t.group_id, t.position, g.id IS NOT NULL AND t.state IN (1, 2, 3)
           AND typeof(t.position) = 'integer' AND t.position BETWEEN 1 AND ?
           AND typeof(t.attempts) = 'integer' AND t.attempts >= 0
           AND typeof(t.deliveries) = 'integer' AND t.deliveries >= 0
           AND typeof(t.due) = 'integer'
    FROM taken_effects AS t LEFT JOIN worker_groups AS g ON g.id = t.group_id
"""


def broken_references(connection: sqlite3.Connection, total: int) -> Iterator[list[str]]:
    """What is wrong with the rows that point into a log of `total` positions, some rows at a time.

    Raises sqlite3.Error.
    """
    if connection.execute("PRAGMA user_version").fetchone()[0] < 2:
        return  # it had none of these tables
    for rows in _some_at_once(connection.execute(_KEYS)):
        yield [
            f"key {row[0]!r} (session {row[1]}, position {row[2]}) does not fit the log"
            for row in rows
            if not _key_fits(connection, *row)
        ]
    for rows in _some_at_once(connection.execute(_GROUPS, (total,))):
        yield [f"worker group {number} does not fit the log" for number, fits in rows if not fits]
    for rows in _some_at_once(connection.execute(_TAKEN, (total,))):
        yield [
            f"the effect of position {position} that worker group {number} has taken does not fit the log"
            for number, position, fits in rows
            if not fits
        ]


def _key_fits(
    connection: sqlite3.Connection, key: Any, session_id: Any, position: Any, count: Any, request: Any
) -> bool:
    """Whether the facts that the key stands for are those that were asked for with it."""
    if type(key) is not str or not key or not all(type(n) is int for n in (session_id, position, count)):
        return False
    if session_id == NO_SESSION:
        row = connection.execute(_CREATION, (position, Kind.SESSION_CREATED)).fetchone()
        return row is not None and count == 1 and bool(request == _creation(*row))
    if not 0 < count <= limits.BATCH_MESSAGES_MAX:
        return False
    last = min(position + count - 1, limits.ID_MAX)
    bounds = (position, last, session_id, Kind.MESSAGE_APPENDED)
    rows = connection.execute(_MESSAGES, bounds).fetchall()
    messages = [NewMessage(role, content, _meta(meta), size=0) for role, content, meta in rows]
    digests = [text_digest(message.content) for message in messages]
    return len(rows) == count and bool(request == append_request(messages, digests))


def _creation(name: str | None, meta: str | None) -> bytes:
    return create_request(CreateSession(name, _meta(meta)))


def _meta(text: str | None) -> Meta | None:
    return None if text is None else Meta(text, b"")  # its packed form is no part of the digest


def _some_at_once(cursor: sqlite3.Cursor) -> Iterator[list[tuple[Any, ...]]]:
    return iter(lambda: cursor.fetchmany(ROWS_AT_ONCE), [])
