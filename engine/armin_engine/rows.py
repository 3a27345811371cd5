"""Facts as rows of the file's tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from armin_engine import digest
from armin_engine.facts import MESSAGE_APPENDED, SESSION_CLOSED, SESSION_CREATED, Fact
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
    log: list[tuple[Any, ...]] = []
    messages: list[tuple[Any, ...]] = []
    metas: list[tuple[int, str]] = []
    others: list[Fact] = []
    for fact in facts:
        head = digest.chain(head, fact)
        position, kind, session_id, message_id, _, role, content, created_at, meta, _ = fact
        log.append((position, kind, session_id, message_id, head))
        if kind is not MESSAGE_APPENDED:
            others.append(fact)
            continue
        messages.append((message_id, session_id, role, content, created_at))
        if meta is not None:
            metas.append((message_id, meta.json))
    if others:
        _insert_sessions(writer, others)
    run = writer.executemany
    if messages:
        run("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", messages)
    if metas:
        run("INSERT INTO message_meta VALUES (?, ?)", metas)
    closed = [(fact.session_id,) for fact in others if fact.kind is SESSION_CLOSED]
    if closed:
        run("UPDATE sessions SET closed = 1 WHERE id = ?", closed)
    run("INSERT INTO log VALUES (?, ?, ?, ?, ?)", log)
    return head


def _insert_sessions(writer: sqlite3.Connection, facts: Sequence[Fact]) -> None:
    created = [fact for fact in facts if fact.kind is SESSION_CREATED]
    run = writer.executemany
    run("INSERT INTO sessions VALUES (?, 0, ?)", [(f.session_id, f.created_at) for f in created])
    run("INSERT INTO session_names VALUES (?, ?)", [(f.content, f.session_id) for f in created if f.content])
    run("INSERT INTO session_meta VALUES (?, ?)", [(f.session_id, f.meta.json) for f in created if f.meta])
