"""A file checked without an engine: against its own digests, read only."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from armin_engine import probe
from armin_engine.errors import EngineError, NotAnArminDatabase
from armin_engine.stored import digest_at, identity, sequences
from armin_engine.verify import FileReader, Findings, Report

Progress = Callable[[int, int], object]
_Read = TypeVar("_Read")

IMMUTABLE_READS: Final = 3  # of a file that is written each time; then under SQLite's locks


class Checked(NamedTuple):
    """The report, and the digest at the position that was asked for, None where the log ends before."""

    report: Report
    digest: bytes | None


def verify_file(file: Path, progress: Progress | None = None, at: int = 0) -> Checked:
    """Check a file against the digests stored in it, its WAL included; nothing is written.

    `progress` is called with the facts checked and their total. Raises OpenError or FileNotFoundError.
    """
    file = file.absolute()
    check_current(file)
    try:
        return undisturbed(
            file,
            lambda immutable: _check(probe.connect_read_only(file, immutable=immutable), progress, at),
        )
    except sqlite3.Error as error:
        raise probe.reading_failed(file, error) from None


def check_current(file: Path) -> None:
    """Raise FileNotFoundError or OpenError unless this is a database of a version that has digests."""
    if not file.exists():
        raise FileNotFoundError(errno.ENOENT, "no such file or directory", str(file))
    try:
        version = probe.schema_version(file)
    except sqlite3.Error as error:
        raise probe.reading_failed(file, error) from None
    if version is None:
        raise NotAnArminDatabase(f"{file} is of the original Armin; armin serve upgrades it, a copy kept")


def undisturbed(file: Path, read: Callable[[bool], _Read]) -> _Read:
    """What `read` gives; it is told whether to take the file as immutable.

    Where there is no WAL, SQLite would leave an empty one behind, so such a file is read without its locks;
    and again where an engine has started meanwhile, even if that one has ended.
    """
    for _ in range(IMMUTABLE_READS):
        before = _standing(file)
        if before is None:
            break
        try:
            result = read(True)
        except (sqlite3.Error, EngineError):
            if _standing(file) == before:
                raise
        else:
            if _standing(file) == before:
                return result
    return read(False)


def _standing(file: Path) -> tuple[int, int, int] | None:
    """What each write into the file changes; None where it has a WAL."""
    if probe.beside(file, "-wal").exists():
        return None
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _check(connection: sqlite3.Connection, progress: Progress | None, at: int) -> Checked:
    findings = Findings()
    checked = 0
    with closing(connection):
        connection.execute("BEGIN")
        reader = FileReader(connection, sequences(connection), identity(connection))
        for piece in reader.slices():
            findings.take(piece.findings)
            checked += len(piece.reads)
            if progress is not None:
                progress(checked, reader.total)
        return Checked(findings.report(reader, checked), digest_at(connection, at))
