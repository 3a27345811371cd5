"""Facts as rows of the file's tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from armin_engine import digest
from armin_engine.facts import Fact, Kind
from armin_engine.keys import KeyRow
from armin_engine.records import Rows


def insert(
    writer: sqlite3.Connection,
    facts: Sequence[Fact],
    keys: Sequence[KeyRow],
    rows: Sequence[Rows],
    head: bytes,
) -> bytes:
    """Write facts after the one with the digest `head`; returns the digest of the last. Commits nothing."""
    run = writer.executemany
    if keys:
        run("INSERT INTO append_keys VALUES (?, ?, ?, ?, ?)", keys)
    for group in rows:
        for statement, parameters in group.statements:
            run(statement, parameters)
    return _insert_facts(writer, facts, head) if facts else head


def _insert_facts(writer: sqlite3.Connection, facts: Sequence[Fact], head: bytes) -> bytes:
    log = []
    for fact in facts:
        head = digest.chain(head, fact)
        log.append((fact.position, fact.kind, fact.session_id, fact.message_id, head))
    created = [fact for fact in facts if fact.kind is Kind.SESSION_CREATED]
    appended = [fact for fact in facts if fact.kind is Kind.MESSAGE_APPENDED]
    run = writer.executemany
    if created:
        run("INSERT INTO sessions VALUES (?, 0, ?)", [(f.session_id, f.created_at) for f in created])
        run(
            "INSERT INTO session_names VALUES (?, ?)",
            [(f.content, f.session_id) for f in created if f.content],
        )
        run(
            "INSERT INTO session_meta VALUES (?, ?)",
            [(f.session_id, f.meta.json) for f in created if f.meta],
        )
    if appended:
        run(
            "INSERT INTO messages VALUES (?, ?, ?, ?, ?)",
            [(f.message_id, f.session_id, f.role, f.content, f.created_at) for f in appended],
        )
        run(
            "INSERT INTO message_meta VALUES (?, ?)",
            [(f.message_id, f.meta.json) for f in appended if f.meta],
        )
    run(
        "UPDATE sessions SET closed = 1 WHERE id = ?",
        [(f.session_id,) for f in facts if f.kind is Kind.SESSION_CLOSED],
    )
    run("INSERT INTO log VALUES (?, ?, ?, ?, ?)", log)
    return head
