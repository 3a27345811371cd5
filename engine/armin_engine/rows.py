"""Facts as rows of the file's tables.

sqlite3 asks for an adapter of each value that is no int, str, float or bytearray by its very type: to bind
bytes or a member of an enum takes four times as long.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import repeat
from typing import Any, Final

from armin_engine import digest
from armin_engine.facts import MESSAGE_APPENDED, SESSION_CLOSED, SESSION_CREATED, Fact
from armin_engine.keys import KeyRow
from armin_engine.records import Rows

COLUMNS: Final = 5  # of each of the three large tables
ROWS_AT_ONCE: Final = 64  # of one statement at most, a power of two; more bring nothing
_APPENDED: Final = int(MESSAGE_APPENDED)
_ROW: Final = "(?, ?, ?, ?, ?)"


def insert(
    writer: sqlite3.Connection,
    facts: Sequence[Fact],
    keys: Sequence[KeyRow],
    rows: Sequence[Rows],
    head: bytes,
) -> bytes:
    """Write facts after the one with the digest `head`; returns the digest of the last. Commits nothing."""
    if keys:
        values: list[Any] = []
        for key, session_id, position, count, request in keys:
            values += (key, session_id, position, count, bytearray(request))
        _insert(writer, "append_keys", values)
    for group in rows:
        for statement, parameters in group.statements:
            writer.executemany(statement, parameters)
    return _insert_facts(writer, facts, head) if facts else head


def _insert_facts(writer: sqlite3.Connection, facts: Sequence[Fact], head: bytes) -> bytes:
    log: list[Any] = []
    messages: list[Any] = []
    metas: list[tuple[int, str]] = []
    others: list[Fact] = []
    for fact in facts:
        head = digest.chain(head, fact)
        position, kind, session_id, message_id, _, role, content, created_at, meta, _ = fact
        if kind is not MESSAGE_APPENDED:
            log += (position, int(kind), session_id, message_id, bytearray(head))
            others.append(fact)
            continue
        log += (position, _APPENDED, session_id, message_id, bytearray(head))
        messages += (message_id, session_id, role, content, created_at)
        if meta is not None:
            metas.append((message_id, meta.json))
    if others:
        _insert_sessions(writer, others)
    _insert(writer, "messages", messages)
    if metas:
        writer.executemany("INSERT INTO message_meta VALUES (?, ?)", metas)
    closed = [(fact.session_id,) for fact in others if fact.kind is SESSION_CLOSED]
    if closed:
        writer.executemany("UPDATE sessions SET closed = 1 WHERE id = ?", closed)
    _insert(writer, "log", log)
    return head


def _insert(writer: sqlite3.Connection, table: str, values: list[Any]) -> None:
    """Insert rows of COLUMNS values each, many with one statement: that halves what a row costs."""
    done, left = 0, len(values) // COLUMNS
    while left:
        rows = min(ROWS_AT_ONCE, 1 << left.bit_length() - 1)
        width = COLUMNS * rows
        writer.execute(_statement(table, rows), values[done : done + width])
        done += width
        left -= rows


@cache  # so few: one for each table and power of two
def _statement(table: str, rows: int) -> str:
    return f"INSERT INTO {table} VALUES {', '.join(repeat(_ROW, rows))}"


def _insert_sessions(writer: sqlite3.Connection, facts: Sequence[Fact]) -> None:
    created = [fact for fact in facts if fact.kind is SESSION_CREATED]
    run = writer.executemany
    run("INSERT INTO sessions VALUES (?, 0, ?)", [(f.session_id, f.created_at) for f in created])
    run("INSERT INTO session_names VALUES (?, ?)", [(f.content, f.session_id) for f in created if f.content])
    run("INSERT INTO session_meta VALUES (?, ?)", [(f.session_id, f.meta.json) for f in created if f.meta])
