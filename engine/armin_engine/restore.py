"""A backup becomes the database again: verified, in a new epoch, what it replaces kept beside it."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from armin_engine import probe
from armin_engine.backup import SQLITE_SUFFIXES, Copy, copied, copying_failed, remove_leftovers
from armin_engine.errors import AlreadyOwned, EngineError
from armin_engine.lock import OwnerLock
from armin_engine.offline import Progress
from armin_engine.ownership import give, make_directory
from armin_engine.stored import digest_at, last_position
from armin_engine.upgrade import sync

logger = logging.getLogger(__name__)

REPLACED: Final = ".replaced-"  # then the time in UTC: what a restore has moved aside

_LAST_MESSAGE: Final = (
    "SELECT m.created_at FROM log AS l JOIN messages AS m ON m.id = l.message_id"
    " WHERE l.kind = 2 ORDER BY l.position DESC LIMIT 1"
)
# A lease is named by its group's id; with new ids no lease of the lost future fits an effect of the new one.
_NUMBER_GROUPS_ANEW: Final = (
    "UPDATE taken_effects SET group_id = group_id + :step",
    "UPDATE worker_groups SET id = id + :step",
    "UPDATE sqlite_sequence SET seq = seq + :step WHERE name = 'worker_groups'",
)


class RestoreRefused(EngineError):
    """Nothing was changed. ``reason``: `owned`, `exists`, `expect` or `busy` (somebody reads it)."""


class Restored(NamedTuple):
    """How the database stands now.

    `last_message_at` is in milliseconds since the Unix epoch, None without messages. `replaced` is what the
    database before it is called now, `replaced_position` where that one ended, if it could be told, `lost`
    how many facts it has after `position`, if it went on from there.
    """

    path: Path
    position: int
    head: str
    last_message_at: int | None
    database: str
    epoch: str
    replaced: Path | None = None
    replaced_position: int | None = None
    lost: int | None = None


class _Old(NamedTuple):
    """Where the database ended that is replaced."""

    position: int
    lost: int | None


def restore(
    backup: Path,
    database: Path,
    *,
    replace: bool = False,
    expect: tuple[int, str] | None = None,
    progress: Progress | None = None,
) -> Restored:
    """Make a verified copy of `backup` the file `database`, in a directory that is made if it is not there.

    expect: a position and the digest, in hex, that the backup must have there.

    Raises RestoreRefused, BackupFailed where it is damaged or cannot be written, FileNotFoundError where
    there is no backup, OpenError where it cannot be read or is none. The directory is then as it was.
    """
    backup = Path(os.path.realpath(backup))
    if not backup.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(backup))
    make_directory(database.parent)
    database = Path(os.path.realpath(database))
    try:
        lock = OwnerLock(database)
    except AlreadyOwned as error:
        raise RestoreRefused(f"{error.message}; stop it first", reason="owned") from None
    try:
        lock.note("restoring")
        remove_leftovers(database.parent)
        _check_replaceable(backup, database, replace=replace)
        with copied(backup, database.parent, progress) as copy:
            _check_expected(copy, expect)
            return _take_over(copy, database)
    finally:
        lock.release()


def _check_replaceable(backup: Path, database: Path, *, replace: bool) -> None:
    found = _files(database)
    if not found:
        return
    if backup in found:
        raise RestoreRefused(f"{backup} is the database itself, not a backup of it", reason="exists")
    if not replace:
        raise RestoreRefused(
            f"{found[0]} exists; with --replace it is moved aside and the backup takes its place",
            reason="exists",
        )


def _files(database: Path) -> list[Path]:
    """The database, and what SQLite keeps beside it unless that is empty, as far as they are there."""
    beside = [probe.beside(database, suffix) for suffix in SQLITE_SUFFIXES]
    found = [each for each in beside if each.exists() and each.stat().st_size]
    return [database, *found] if database.exists() else found


def _check_expected(copy: Copy, expect: tuple[int, str] | None) -> None:
    if expect is None:
        return
    position, wanted = expect
    with closing(probe.connect_read_only(copy.path, immutable=True)) as connection:
        found = digest_at(connection, position)
    if found is None:
        raise RestoreRefused(
            f"the backup ends at position {copy.position}, before {position}", reason="expect"
        )
    if found.hex() != wanted:
        raise RestoreRefused(
            f"the backup has the digest {found.hex()} at position {position}, not {wanted}", reason="expect"
        )


def _take_over(copy: Copy, database: Path) -> Restored:
    """From here on no step leaves the directory without a whole database, or with a WAL of another one."""
    try:
        identity, last_message_at = _renew(copy.path)
    except sqlite3.Error as error:
        raise copying_failed(f"cannot begin a new epoch in {copy.path}", error) from error
    give(copy.descriptor, database.parent)
    os.fsync(copy.descriptor)
    sync(database.parent)
    aside = _set_aside(database, copy)
    os.rename(copy.path, database)
    sync(database.parent)
    restored = Restored(database, copy.position, f"{copy.position}:{copy.digest}", last_message_at, *identity)
    if aside is None:
        return restored
    replaced, old = aside
    position, lost = (None, None) if old is None else old
    return restored._replace(replaced=replaced, replaced_position=position, lost=lost)


def _renew(path: Path) -> tuple[tuple[str, str], int | None]:
    """Begin a new epoch; gives the database's id and epoch, and the time of the last message."""
    epoch = uuid.uuid4().hex
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_mode = MEMORY")  # it is thrown away if this breaks off
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE armin SET value = ? WHERE key = 'epoch'", (epoch,))
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version >= 2:  # before, there were no worker groups
            for statement in _NUMBER_GROUPS_ANEW:
                connection.execute(statement, {"step": time.time_ns() // 1_000_000})
        connection.execute("COMMIT")
        (name,) = connection.execute("SELECT value FROM armin WHERE key = 'database'").fetchone()
        last = connection.execute(_LAST_MESSAGE).fetchone()
    return (name, epoch), None if last is None else last[0]


# --- what is replaced ---


def _set_aside(database: Path, copy: Copy) -> tuple[Path, _Old | None] | None:
    """Give the database a second name, and leave it whole without a WAL until the first one is taken over."""
    files = _files(database)
    if not files:
        return None
    old = None
    if database in files:
        old = _standing(database, copy)
        if old is not None:
            _fold_wal(database)
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = _unused(database.with_name(f"{database.name}{REPLACED}{moment}"))
    # The WAL goes last but one: by then the file needs none, or it was missing or damaged anyway.
    for each in _files(database):
        target = aside.with_name(aside.name + each.name.removeprefix(database.name))
        if each == database:
            _name_twice(each, target)
        else:
            os.rename(each, target)
    sync(database.parent)
    return aside, old


def _standing(database: Path, copy: Copy) -> _Old | None:
    """Where it ends, and how many facts it has that the copy has not; None if that cannot be told."""
    try:
        if probe.schema_version(database) is None:
            return None
        with (
            closing(probe.connect_read_only(database)) as old,
            closing(probe.connect_read_only(copy.path, immutable=True)) as new,
        ):
            position = last_position(old)
            shared = min(position, copy.position)
            agree = digest_at(old, shared) == digest_at(new, shared)
    except (sqlite3.Error, EngineError, OSError):
        return None
    return _Old(position, position - shared if agree else None)


def _fold_wal(database: Path) -> None:
    """Write the WAL into the file, so that there is no moment at which it would be missing.

    Raises RestoreRefused where somebody holds a part of it back.
    """
    try:
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
            busy, held, written = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise _read_by_others(database) from None
        logger.warning("%s cannot be read (%s); it is kept as it is", database, error)
    else:
        if busy or held != written:
            raise _read_by_others(database)


def _read_by_others(database: Path) -> RestoreRefused:
    return RestoreRefused(
        f"somebody reads {database}; end that first, or what only its WAL holds could get lost", reason="busy"
    )


def _name_twice(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # a file system without hard links
        os.rename(path, target)


def _unused(path: Path) -> Path:
    candidate, number = path, 1
    while any(os.path.lexists(probe.beside(candidate, suffix)) for suffix in ("", *SQLITE_SUFFIXES)):
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate
