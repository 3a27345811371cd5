"""`armin verify`: the engine's memory against its file, or a file alone against its own digests."""

from __future__ import annotations

import errno
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import click

from armin.cli.connection import Where, absence_at
from armin.cli.exits import Exit
from armin.cli.options import json_option
from armin.cli.output import note, write_json
from armin.cli.shown import line
from armin.errors import NoReply
from armin.results import VerifyReport
from armin.target import DirectoryTarget
from armin_broker.protocol import DATABASE_FILE
from armin_engine import probe
from armin_engine.errors import CorruptDatabase, NewerSchema, NotAnArminDatabase, OpenError
from armin_engine.stored import identity, sequences
from armin_engine.verify import DIFFERENCES_MAX, FileReader

Progress = Callable[[int, int], object]

# Of a file that cannot be opened: the same as armin serve's, see armin_broker.daemon.
EXIT_CODES: Final[dict[type[Exception], int]] = {
    NotAnArminDatabase: 11,
    NewerSchema: 12,
    CorruptDatabase: 13,
    OpenError: 15,
}


@click.command(short_help="Check that memory, file and digests agree.")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def verify(where: Where, path: Path | None, as_json: bool) -> int:
    """Check that memory, file and digests agree; exit code 1 if they do not.

    A running engine compares its memory with its file and serves on. Where none runs, the file alone is
    checked against the digests that were stored with it. PATH is a directory or a database file, for
    example a backup; the file is only read.

    \b
      armin verify
      armin verify backup/armin.db
    """
    file = _offline_file(where, path)
    try:
        with _progress() as progress:
            if file is not None:
                report = _verify_file(file, progress)
            else:
                engine = where if path is None else Where(path, None, where.wait, where.timeout)
                with engine.connect() as client:
                    report = client.verify(progress=progress)
    except OpenError as error:
        note(f"armin: {error}")
        return EXIT_CODES[type(error)]
    _show(report, file, as_json)
    return Exit.OK if report.equal else Exit.NO


def _offline_file(where: Where, path: Path | None) -> Path | None:
    """The file to check without an engine; None if there is one to ask."""
    if path is not None and not path.is_dir():
        return path
    target = where.target() if path is None else DirectoryTarget(str(path.absolute()))
    if not isinstance(target, DirectoryTarget):
        return None
    file = Path(target.directory, DATABASE_FILE)
    absent = absence_at(target)
    if absent is None or absent.reason != "not_running":
        return None
    if not file.exists():
        if where.wait:
            return None  # an engine that is awaited may make it
        message = f"there is no {DATABASE_FILE} in {target.directory}, and no engine runs on it"
        raise NoReply(message, reason=absent.reason, sent=False)
    note(f"no engine runs on {target.directory}; checking the file alone")
    return file


@contextmanager
def _progress() -> Iterator[Progress | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from armin.cli import terminal  # noqa: PLC0415 - rich costs time that pipes need not pay

    with terminal.bar("verifying", "facts") as bar:
        yield lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total)


def _show(report: VerifyReport, file: Path | None, as_json: bool) -> None:
    if as_json:
        write_json(
            {
                "equal": report.equal,
                "position": report.position,
                "checked": report.checked,
                "differences": list(report.differences),
                "file": None if file is None else str(file),
            }
        )
        return
    what = "memory, file and digests" if file is None else "the file and its digests"
    for difference in report.differences:
        click.echo(line(difference))
    verdict = "agree" if report.equal else "do not agree"
    click.echo(f"{what} {verdict}: {report.checked:,} facts checked")


# --- a file without an engine ---------------------------------------------------------------------


def _verify_file(file: Path, progress: Progress | None) -> VerifyReport:
    """Check a file against what is stored in it. Raises OpenError."""
    file = file.absolute()
    if not file.exists():
        raise FileNotFoundError(errno.ENOENT, "no such file or directory", str(file))
    try:
        if probe.schema_version(file) is None:
            raise NotAnArminDatabase(f"{file} is of the original Armin; armin serve upgrades it, a copy kept")
        wal = probe.beside(file, "-wal")
        # Where there is no WAL, SQLite would leave an empty one behind.
        immutable = not wal.exists()
        report = _checked(probe.connect_read_only(file, immutable=immutable), progress)
        if immutable and wal.exists():  # somebody has opened it for writing meanwhile
            report = _checked(probe.connect_read_only(file), progress)
    except sqlite3.Error as error:
        raise probe.reading_failed(file, error) from None
    return report


def _checked(connection: sqlite3.Connection, progress: Progress | None) -> VerifyReport:
    differences: list[str] = []
    count = checked = 0
    with closing(connection):
        reader = FileReader(connection, sequences(connection), identity(connection))
        for piece in reader.slices():
            count += len(piece.findings)
            differences += piece.findings[: DIFFERENCES_MAX - len(differences)]
            checked += len(piece.reads)
            if progress is not None:
                progress(checked, reader.total)
    if count > len(differences):
        differences.append(f"and {count - len(differences):,} more")
    return VerifyReport(count == 0, reader.total, checked, tuple(differences))
