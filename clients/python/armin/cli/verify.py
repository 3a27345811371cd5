"""`armin verify`: the engine's memory against its file, or a file alone against its own digests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from armin.cli.connection import Where, absence_at
from armin.cli.exits import Exit
from armin.cli.options import json_option
from armin.cli.output import note, write_json
from armin.cli.shown import line
from armin.errors import NoReply
from armin.heads import Head, parse_head
from armin.results import BadRow, VerifyReport
from armin.target import DirectoryTarget
from armin_broker.protocol import DATABASE_FILE
from armin_engine.errors import CorruptDatabase, NewerSchema, NotAnArminDatabase, OpenError
from armin_engine.offline import verify_file

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
@click.option("--head", is_flag=True, help="If all agrees, print only POSITION:DIGEST, to be kept elsewhere.")
@click.option(
    "--expect", metavar="POSITION:DIGEST", help="The file must still hold what it held when --head said this."
)
@json_option
@click.pass_obj
def verify(where: Where, path: Path | None, head: bool, expect: str | None, as_json: bool) -> int:
    """Check that memory, file and digests agree; exit code 1 if they do not.

    A running engine compares its memory with its file and serves on. Where none runs, the file alone is
    checked against the digests that were stored with it. PATH is a directory or a database file, for
    example a backup; the file is only read. The first row that is wrong is named.

    The digests form a chain, so its head stands for everything before it. Kept elsewhere, it shows that
    a tail was cut off, or that the past was rewritten, digests and all.

    \b
      armin verify
      armin verify backup/armin.db
      armin verify --head > elsewhere/head
      armin verify --expect "$(cat elsewhere/head)"

    \b
    Exit codes:
      0  all agrees
      1  something does not; the output says what, and names the first bad row
      10-16  the file cannot be opened, or is damaged: see armin serve --help
      18  there is no such file
    """
    if head and as_json:
        raise click.UsageError("--json has the head already; give either --head or --json")
    kept = None if expect is None else parse_head(expect)
    file = _offline_file(where, path)
    try:
        with _progress() as progress:
            if file is not None:
                report = _verify_file(file, progress, kept)
            else:
                engine = where if path is None else Where(path, wait=where.wait, timeout=where.timeout)
                with engine.connect() as client:
                    report = client.verify(progress=progress, expect=expect)
    except OpenError as error:
        note(f"armin: {error}")
        return EXIT_CODES[type(error)]
    if head:
        _show_head(report)
    else:
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


def _show_head(report: VerifyReport) -> None:
    """The head of a chain that agrees; of another one nothing should be kept."""
    if report.equal:
        click.echo(report.head)
        return
    for difference in report.differences:
        note(difference)
    note("armin: no head is given for what does not agree")


def _show(report: VerifyReport, file: Path | None, as_json: bool) -> None:
    if as_json:
        write_json(
            {
                "equal": report.equal,
                "position": report.position,
                "checked": report.checked,
                "head": report.head,
                "first_bad": None if report.first_bad is None else asdict(report.first_bad),
                "differences": list(report.differences),
                "file": None if file is None else str(file),
            }
        )
        return
    what = "memory, file and digests" if file is None else "the file and its digests"
    for difference in report.differences:
        click.echo(line(difference))
    if report.first_bad is not None:
        click.echo(f"first bad row: {report.first_bad}")
    verdict = "agree" if report.equal else "do not agree"
    click.echo(f"{what} {verdict}: {report.checked:,} facts checked")


def _verify_file(file: Path, progress: Progress | None, expect: Head | None) -> VerifyReport:
    """Check a file without an engine. Raises OpenError."""
    report, digest = verify_file(file, progress, 0 if expect is None else expect.position)
    differences = list(report.differences)
    if report.differences_count > len(differences):
        differences.append(f"and {report.differences_count - len(differences):,} more")
    lacking = None
    if expect is not None:
        lacking = expect.difference(report.position, None if digest is None else digest.hex())
    if lacking is not None:
        differences.append(lacking)
    head, row = report.head, report.first_bad
    return VerifyReport(
        report.equal and lacking is None,
        report.position,
        report.checked,
        tuple(differences),
        None if head is None else str(Head(report.position, head.hex())),
        None if row is None else BadRow(*row),
    )
