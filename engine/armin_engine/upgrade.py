"""Upgrades of files that earlier versions made.

A file that holds only `sessions` and `messages`, as the original Armin made it, is copied to
FILE.before-upgrade first; then, in one transaction, Armin's own tables are added and the log is
synthesised: creations by id, then messages by id, then closures by id. Later steps add tables and touch
nothing that is there, so they make no copy.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from armin_engine import digest
from armin_engine.errors import CorruptDatabase, OpenError
from armin_engine.facts import Fact, Kind

BACKUP_SUFFIX: Final = ".before-upgrade"

# What the original's rows must obey; anything else would be an invariant broken in silence.
_CHECKS: Final = (
    ("a session id below 1", "SELECT id FROM sessions WHERE id < 1"),
    ("a message id below 1", "SELECT id FROM messages WHERE id < 1"),
    (
        "a closed flag other than 0 and 1",
        "SELECT id FROM sessions WHERE NOT coalesce(closed IN (0, 1), 0)",
    ),
    ("an unknown role", "SELECT id FROM messages WHERE NOT coalesce(role IN (0, 1, 2, 3), 0)"),
    ("content that is not text", "SELECT id FROM messages WHERE typeof(content) <> 'text'"),
    (
        "a time that is not an integer",
        "SELECT id FROM messages WHERE typeof(created_at) <> 'integer'"
        " UNION ALL SELECT id FROM sessions WHERE typeof(created_at) <> 'integer'",
    ),
    (
        "a message of an unknown session",
        "SELECT id FROM messages AS m"
        " WHERE NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.id = m.session_id)",
    ),
    (
        "an id that sqlite_sequence does not know",
        "SELECT id FROM sessions WHERE id > coalesce("
        "(SELECT max(seq) FROM sqlite_sequence WHERE name = 'sessions'), 0)"
        " UNION ALL SELECT id FROM messages WHERE id > coalesce("
        "(SELECT max(seq) FROM sqlite_sequence WHERE name = 'messages'), 0)",
    ),
)


def check_original(reader: sqlite3.Connection, path: Path) -> None:
    """Refuse an original file whose rows Armin could not keep as they are."""
    for what, query in _CHECKS:
        row = reader.execute(query + " LIMIT 1").fetchone()
        if row is not None:
            raise CorruptDatabase(f"{path} holds {what} (id {row[0]}); it was not upgraded")


def copy_before_upgrade(reader: sqlite3.Connection, path: Path) -> Path:
    """Copy the whole database, its WAL included, beside itself; never over an earlier copy."""
    target = _unused(path.with_name(path.name + BACKUP_SUFFIX))
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        copy = sqlite3.connect(partial)
        try:
            reader.backup(copy)
        finally:
            copy.close()
        sync(partial)
        partial.rename(target)
        sync(target.parent)
    except (sqlite3.Error, OSError) as error:
        partial.unlink(missing_ok=True)
        raise OpenError(f"cannot copy {path} to {target} before its upgrade: {error}") from error
    return target


def _unused(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate


def sync(path: Path) -> None:
    """Sync a file, or a directory's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


VERSION_2: Final = "-- Version 2:"  # begins the part of schema.sql that version 1 did not have


def add_version_2(writer: sqlite3.Connection, schema: str) -> None:
    """Add the tables of keys and worker groups to a file of version 1, within the caller's transaction."""
    if writer.execute("PRAGMA user_version").fetchone()[0] != 1:
        return
    for statement in schema[schema.index(VERSION_2) :].split(";\n"):
        writer.execute(statement)
    writer.execute("PRAGMA user_version = 2")


def synthesise_log(writer: sqlite3.Connection) -> None:
    """Fill the empty log from the two original tables, within the caller's transaction."""
    writer.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?)", _rows(writer))


def _rows(connection: sqlite3.Connection) -> Iterator[tuple[int, int, int, int, bytes]]:
    head = digest.GENESIS
    for fact in _facts(connection):
        head = digest.chain(head, fact)
        yield fact.position, fact.kind, fact.session_id, fact.message_id, head


def _facts(connection: sqlite3.Connection) -> Iterator[Fact]:
    position = 0
    for session_id, created_at in connection.execute("SELECT id, created_at FROM sessions ORDER BY id"):
        position += 1
        yield Fact(position, Kind.SESSION_CREATED, session_id, 0, 0, -1, "", created_at, None)
    query = "SELECT id, session_id, role, content, created_at FROM messages ORDER BY id"
    for message_id, session_id, role, content, created_at in connection.execute(query):
        position += 1
        # The seq is no part of the digest: it follows from the order of the log.
        yield Fact(
            position, Kind.MESSAGE_APPENDED, session_id, message_id, 0, role, content, created_at, None
        )
    for (session_id,) in connection.execute("SELECT id FROM sessions WHERE closed = 1 ORDER BY id"):
        position += 1
        yield Fact(position, Kind.SESSION_CLOSED, session_id, 0, 0, -1, "", 0, None)
