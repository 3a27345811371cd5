"""A rotating set of backups in one directory: which files are members of it, and which may go."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from armin_engine import probe
from armin_engine.backup import SQLITE_SUFFIXES, Backup, name_of
from armin_engine.errors import EngineError
from armin_engine.stored import identity, last_position

_NAME: Final = re.compile(r"armin-(\d{8}T\d{6}\.\d{3}Z)-(\d{1,19})\.db", re.ASCII)


class _Member(NamedTuple):
    """A backup of this database, made under this name. The names' times sort as they passed."""

    moment: str
    path: Path


def prune(newest: Backup, keep: int) -> list[Path]:
    """Delete the oldest backups of its database beside `newest` until `keep` are left; gives those deleted.

    Whatever is no whole Armin database of this id, at the position that its name says, is left alone and not
    counted. `newest` is never deleted. One whose name lies in the future was made while the clock was wrong,
    and is taken for older than all others. Raises OSError.
    """
    database = _database_of(newest.path, newest.position)
    if database is None:
        return []
    now = name_of(time.time_ns() // 1_000_000, 0).split("-")[1]
    found = sorted(_members(newest.path.parent, database), key=lambda each: (each.moment <= now, each))
    others = [each.path for each in found if each.path != newest.path]
    deleted = others[: max(0, len(others) + 1 - keep)]
    for path in deleted:
        path.unlink()
    return deleted


def _members(directory: Path, database: str) -> list[_Member]:
    members = []
    for path in directory.iterdir():
        match = _NAME.fullmatch(path.name)
        if (
            match
            and path.is_file()
            and not path.is_symlink()
            and _database_of(path, int(match[2])) == database
        ):
            members.append(_Member(match[1], path))
    return members


def _database_of(path: Path, position: int) -> str | None:
    """The id of the database that this file is a copy of, None if it is no copy of one that ends there."""
    if any(probe.beside(path, suffix).exists() for suffix in SQLITE_SUFFIXES):
        return None  # somebody uses it as a database
    with contextlib.suppress(sqlite3.Error, EngineError):
        if probe.schema_version(path) is None:
            return None
        with closing(probe.connect_read_only(path, immutable=True)) as connection:
            if last_position(connection) == position:
                return identity(connection).database
    return None
