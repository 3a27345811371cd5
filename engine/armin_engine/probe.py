"""What a file is, found out without changing it, not even one with a hot journal or WAL."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final, NamedTuple

from armin_engine.errors import CorruptDatabase, NewerSchema, NotAnArminDatabase, OpenError
from armin_engine.limits import ID_MAX

APPLICATION_ID: Final = 0x41524D4E  # "ARMN"
SCHEMA_VERSION: Final = 2

_ORIGINAL_TABLES: Final = {
    "sessions": ("id", "closed", "created_at"),
    "messages": ("id", "session_id", "role", "content", "created_at"),
}

# What SQLite says of a file whose contents are at fault, not its surroundings. ERROR: a table is missing.
_BROKEN_CODES: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def beside(path: Path, suffix: str) -> Path:
    """The file of SQLite's that stands beside `path`: `-wal`, `-shm` or `-journal`."""
    return path.with_name(path.name + suffix)


def connect_read_only(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """A read-only connection, usable in any one thread at a time.

    immutable: look at the main file alone, as if nobody ever wrote to it.
    """
    uri = path.as_uri() + "?mode=ro" + ("&immutable=1" if immutable else "")
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    return connection


def schema_version(path: Path) -> int | None:
    """The schema version of an Armin file, or None for one of the original Armin.

    Raises NotAnArminDatabase, NewerSchema or CorruptDatabase.
    """
    try:
        # SQLite leaves an empty WAL behind where it has read a file that has none.
        if _holds_bytes(beside(path, "-journal")) or beside(path, "-wal").exists():
            if _holds_bytes(beside(path, "-wal")):
                _check_wal_is_its_own(path)
            return _identify(path, immutable=False)
        return _identify(path, immutable=True)
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
    # A transaction was cut off, and only a writer can roll it back: so the main file, as it stands, must
    # show that it is one of ours before anybody writes.
    _identify(path, immutable=True)
    _roll_back_cut_off_transaction(path)
    return _identify(path, immutable=False)


def _roll_back_cut_off_transaction(path: Path) -> None:
    """What SQLite does with a hot journal when a writer reads for the first time."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        connection.close()


def _holds_bytes(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _identify(path: Path, *, immutable: bool) -> int | None:
    connection = connect_read_only(path, immutable=immutable)
    try:
        application_id: int = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if application_id == APPLICATION_ID:
            version = _check_version(path, version)
            if immutable:
                _check_whole_pages(path, connection)
            return version
        if application_id != 0 or version != 0 or not _holds_the_original_tables(connection):
            raise NotAnArminDatabase(
                f"{path} is a SQLite database, but none of Armin's; it was left as it is"
            )
        return None
    finally:
        connection.close()


class _Marks(NamedTuple):
    """What no commit ever changes: the database's id, and a row of the log."""

    database: object
    position: object
    digest: object


def _check_wal_is_its_own(path: Path) -> None:
    """SQLite plays any WAL that is whole into the file that it lies beside, that of another one too."""
    try:
        alone = _marks(path, immutable=True, position=ID_MAX)
        if alone is None:
            return
        together = _marks(path, immutable=False, position=alone.position)
    except sqlite3.DatabaseError:
        return  # cut off in a checkpoint, or damaged: whoever reads on will see
    if alone != together:
        raise CorruptDatabase(
            f"{beside(path, '-wal')} belongs to another database than {path}; both were left as they are."
            " Put the WAL back that belongs to it, or move this one away"
        )


def _marks(path: Path, *, immutable: bool, position: object) -> _Marks | None:
    """Those of the file, alone or with its WAL: the last row of the log up to `position`, if there is one."""
    connection = connect_read_only(path, immutable=immutable)
    try:
        row = connection.execute(
            "SELECT (SELECT value FROM armin WHERE key = 'database'), position, digest FROM log"
            " WHERE position <= ? ORDER BY position DESC LIMIT 1",
            (position,),
        ).fetchone()
    finally:
        connection.close()
    return None if row is None else _Marks(*row)


def _check_whole_pages(path: Path, connection: sqlite3.Connection) -> None:
    """A file cut off within its last page is filled up with zeros by SQLite, silently."""
    page_size: int = connection.execute("PRAGMA page_size").fetchone()[0]
    if path.stat().st_size % page_size:
        raise damaged(path, "it is cut off within a page")


def _check_version(path: Path, version: int) -> int:
    if version > SCHEMA_VERSION:
        raise NewerSchema(
            f"{path} has schema version {version}; this Armin knows up to {SCHEMA_VERSION}."
            " Use the newer Armin that wrote it"
        )
    if version < 1:
        raise CorruptDatabase(f"{path} is marked as Armin's, but its schema version is {version}")
    return version


def _holds_the_original_tables(connection: sqlite3.Connection) -> bool:
    found = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
    ).fetchall()
    columns = {
        name: tuple(row[1] for row in connection.execute("SELECT * FROM pragma_table_info(?)", (name,)))
        for name, _ in found
    }
    return columns == _ORIGINAL_TABLES and all("AUTOINCREMENT" in sql.upper() for _, sql in found)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file's contents are at fault, not its surroundings."""
    return _code(error) in _BROKEN_CODES


def _code(error: sqlite3.Error) -> int:
    # Text that is no UTF-8 is refused by Python's module, without a code.
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)) & 0xFF


def reading_failed(path: Path, error: sqlite3.Error) -> OpenError:
    """The error for a file that SQLite would not read."""
    if _code(error) == sqlite3.SQLITE_NOTADB:
        return NotAnArminDatabase(f"{path} is no SQLite database; it was left as it is")
    if is_damage(error):
        return damaged(path, str(error))
    return OpenError(f"cannot open {path}: {error}")


def damaged(path: Path, what: str) -> CorruptDatabase:
    """The error for a file that contradicts itself."""
    return CorruptDatabase(f"{path} is damaged: {what}. Restore a backup")
