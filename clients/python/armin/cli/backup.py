"""`armin backup`: a verified copy of the database while the engine goes on; once, or again and again."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from armin.cli.connection import Where
from armin.cli.exits import Exit
from armin.cli.options import json_option
from armin.cli.output import note, write_json
from armin.cli.verify import EXIT_CODES, Progress
from armin.errors import ArminError
from armin.target import DirectoryTarget
from armin_broker.protocol import BACKUPS_DIRECTORY, DATABASE_FILE
from armin_engine import rotation
from armin_engine.backup import Backup, BackupFailed, back_up, give_way, remove_leftovers
from armin_engine.errors import EngineError

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}  # seconds
_EVERY: Final = re.compile(r"(\d{1,9})([smhd]?)", re.ASCII)


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    match = _EVERY.fullmatch(value)
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(f"{value} is no time, as 3600, 30m, 1h or 1d is one")
    return int(match[1]) * _UNITS[match[2]]


class Stopped(BaseException):
    """A signal: a copy under way is cleaned up, then it ends."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number  # as a shell says it


@click.command(short_help="Make a verified copy of the database.")
@click.argument("destination", metavar="DEST", required=False)
@click.option("--every", metavar="TIME", callback=_seconds, help="Again and again: 3600, 30m, 1h, 1d.")
@click.option("--keep", metavar="N", type=click.IntRange(min=1), help="Of those in DEST, keep the N newest.")
@json_option
@click.pass_obj
def backup(where: Where, destination: str | None, every: int | None, keep: int | None, as_json: bool) -> int:
    """Make a verified copy of the database, while the engine goes on or without one.

    DEST is a new file, or a directory, in which the copy is named by its time (UTC) and its position. The
    copy is one file, for its owner alone; it holds every write acknowledged before it began. Nothing is ever
    replaced, and a copy that fails leaves nothing behind. With --keep the oldest copies of the same database
    in the directory DEST are deleted once a new one is verified; other files stay. With --every it goes on
    until SIGTERM or Ctrl-C; what fails is tried again at the next turn.

    Of an engine named by a tcp:// address, the copy goes into its own directory, DIR/backups; DEST is then a
    name there, or left out. armin restore brings a copy back.

    \b
      armin backup /mnt/other-disk/armin.db
      armin backup /mnt/other-disk/armin --every 1h --keep 48

    \b
    Exit codes:
      0  the copy is there and verified; with --every: the last one was
      1  the copy differs from its digests: armin verify says where
      3  the engine elsewhere does not answer
      5  the engine elsewhere has a backup DEST, or one under way
      6  DEST is no name for a backup of an engine elsewhere
      7  the engine elsewhere could not make it: its log says more
      10-16  the database cannot be opened, or is damaged: see armin serve --help
      18  the copy cannot be written, or DEST exists
    """
    target = where.target()
    if not isinstance(target, DirectoryTarget):
        if every is not None or keep is not None:
            raise click.UsageError(
                "--every and --keep need the engine's directory: armin --dir DIR backup DEST"
            )
        return _ask_engine(where, destination, as_json)
    if not destination:
        raise click.UsageError("say where the copy goes: armin backup DEST")
    place = Path(destination)
    if not place.is_dir() and _names_a_directory(destination, place):
        note(f"armin: {place} is no directory; make it first")
        return Exit.FILE
    if (every is not None or keep is not None) and not place.is_dir():
        raise click.UsageError(f"--every and --keep need a directory, and {place} is none")
    give_way()
    task = _Task(Path(target.directory, DATABASE_FILE), place, keep, as_json)
    if every is not None:
        return task.again_and_again(every)
    try:
        with stopping(signal.SIGTERM, signal.SIGHUP):
            return task.once()
    except Stopped as stopped:
        return stopped.code


def _names_a_directory(destination: str, place: Path) -> bool:
    """By its slash, or as the place of what the op `backup` makes: a file there would be in its way."""
    reserved = place.name == BACKUPS_DIRECTORY and (place.parent / DATABASE_FILE).exists()
    return reserved or destination.endswith("/")


def _ask_engine(where: Where, name: str | None, as_json: bool) -> int:
    with where.connect() as client:
        made = client.backup(name)
    if as_json:
        write_json(
            {
                "name": made.name,
                "bytes": made.bytes,
                "position": made.position,
                "head": made.head,
                "duration_ms": made.duration_ms,
            }
        )
    else:
        click.echo(
            f"{made.name} in the engine's backups: {_summary(made.bytes, made.position, made.duration_ms)}"
        )
    return Exit.OK


def _summary(size: int, position: int, duration_ms: int) -> str:
    return f"{size:,} bytes up to position {position:,}, verified; {duration_ms / 1000:.1f} s"


class _Task:
    """What to copy where, and how many to keep."""

    def __init__(self, database: Path, place: Path, keep: int | None, as_json: bool) -> None:
        self._database = database
        self._place = place
        self._keep = keep
        self._as_json = as_json

    def once(self) -> int:
        """One backup; gives the exit code."""
        with bar("verifying the copy") as progress:
            try:
                remove_leftovers(self._place if self._place.is_dir() else self._place.parent)
                made = back_up(self._database, self._place, progress)
            except EngineError as error:
                note(f"armin: {error}")
                return exit_code(error)
        self._say(made)
        try:
            self._prune(made)
        except OSError as error:
            note(f"armin: the backup is made, but an old one cannot be deleted: {error}")
            return Exit.FILE
        return Exit.OK

    def _say(self, made: Backup) -> None:
        if self._as_json:
            write_json(_record(made))
        else:
            click.echo(f"{made.path}: {_summary(made.bytes, made.position, made.duration_ms)}")
        sys.stdout.flush()

    def _prune(self, made: Backup) -> None:
        if self._keep is None:
            return
        for path in rotation.prune(made, self._keep):
            note(f"armin: deleted {path}, as {self._keep} newer ones are kept")

    def again_and_again(self, every: int) -> int:
        """One each `every` seconds until a signal; gives the exit code of the last one that ended."""
        code = int(Exit.OK)
        try:
            with stopping(signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                while True:
                    due = time.monotonic() + every
                    code = self._try()
                    if code != Exit.OK:
                        note(f"armin: this backup failed; the next try is in {every} s")
                    time.sleep(max(0.0, due - time.monotonic()))
        except Stopped:
            return code

    def _try(self) -> int:
        try:
            return self.once()
        except (OSError, ArminError) as error:
            note(f"armin: {error}")
            return Exit.FILE


def exit_code(error: EngineError) -> int:
    """The exit code for a copy that was not made."""
    if isinstance(error, BackupFailed):
        return Exit.NO if error.reason == "damaged" else Exit.FILE
    return EXIT_CODES[type(error)]


def _record(made: Backup) -> dict[str, Any]:
    return made._asdict() | {"path": str(made.path)}


@contextmanager
def bar(what: str) -> Iterator[Progress | None]:
    """How to tell a progress bar what is verified; None where nobody looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from armin.cli import terminal  # noqa: PLC0415 - rich costs time that pipes need not pay

    with terminal.bar(what, "facts") as shown:
        yield lambda done, total: shown.update(shown.task_ids[0], completed=done, total=total)


@contextmanager
def stopping(*numbers: signal.Signals) -> Iterator[None]:
    """Raise Stopped at the first of these signals; those that are ignored, as by nohup, stay so."""
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # another one would cut off the cleaning up
        raise Stopped(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
