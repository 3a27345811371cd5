"""A file checked without an engine: against its own digests, read only."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from armin_engine import probe
from armin_engine.errors import NotAnArminDatabase
from armin_engine.stored import digest_at, identity, sequences
from armin_engine.verify import FileReader, Findings, Report

Progress = Callable[[int, int], object]


class Checked(NamedTuple):
    """The report, and the digest at the position that was asked for, None where the log ends before."""

    report: Report
    digest: bytes | None


def verify_file(file: Path, progress: Progress | None = None, at: int = 0) -> Checked:
    """Check a file against the digests stored in it, its WAL included; nothing is written.

    `progress` is called with the facts checked and their total. Raises OpenError or FileNotFoundError.
    """
    file = file.absolute()
    if not file.exists():
        raise FileNotFoundError(errno.ENOENT, "no such file or directory", str(file))
    try:
        if probe.schema_version(file) is None:
            raise NotAnArminDatabase(f"{file} is of the original Armin; armin serve upgrades it, a copy kept")
        wal = probe.beside(file, "-wal")
        # Where there is no WAL, SQLite would leave an empty one behind.
        immutable = not wal.exists()
        checked = _check(probe.connect_read_only(file, immutable=immutable), progress, at)
        if immutable and wal.exists():  # somebody has opened it for writing meanwhile
            checked = _check(probe.connect_read_only(file), progress, at)
    except sqlite3.Error as error:
        raise probe.reading_failed(file, error) from None
    return checked


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
