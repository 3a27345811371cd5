"""`armin restore`: a backup becomes the database again."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from armin.cli.backup import Stopped, bar, exit_code, stopping
from armin.cli.exits import Exit
from armin.cli.options import json_option
from armin.cli.output import moment, note, write_json
from armin.heads import parse_head
from armin_broker.protocol import DATABASE_FILE
from armin_engine.errors import EngineError
from armin_engine.restore import Restored, RestoreRefused
from armin_engine.restore import restore as restore_file


@click.command(short_help="Put a backup in the place of the database.")
@click.argument("backup", metavar="BACKUP", type=click.Path(path_type=Path))
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--replace", is_flag=True, help="Move the database that is there aside; nothing is deleted.")
@click.option("--expect", metavar="POSITION:DIGEST", help="The backup must hold what --head said then.")
@json_option
def restore(backup: Path, directory: Path, replace: bool, expect: str | None, as_json: bool) -> int:
    """Put BACKUP in the place of the database in DIR, while no engine runs there.

    The copy is verified before it takes its place, and gets a new epoch: followers of the database as it was
    before, and whoever kept a position of it, are told cursor_invalid and must begin anew; worker groups go
    on from where they stood in the backup. What was written after the backup is gone, but for what --replace
    has moved aside. If it is interrupted, run it again.

    \b
      armin restore /mnt/b/armin-20261127T180000.000Z-4711.db ./armin-data
      armin serve ./armin-data

    \b
    Exit codes:
      0  it is restored
      1  the backup differs from its digests, or from --expect
      10-16  the backup cannot be opened, or is damaged: see armin serve --help
      18  there is no such file, or DIR cannot be written
      25  refused: an engine runs on DIR, somebody reads the database there, or it
          is there without --replace
    """
    kept = None if expect is None else parse_head(expect)
    try:
        with stopping(signal.SIGTERM, signal.SIGHUP), bar("verifying the backup") as progress:
            done = restore_file(
                backup, directory / DATABASE_FILE, replace=replace, expect=kept, progress=progress
            )
    except RestoreRefused as error:
        note(f"armin: {error}")
        return Exit.NO if error.reason == "expect" else Exit.RESTORE_REFUSED
    except Stopped as stopped:
        return stopped.code
    except EngineError as error:
        note(f"armin: {error}")
        return exit_code(error)
    if as_json:
        write_json(_record(done))
    else:
        _show(done)
    return Exit.OK


def _record(done: Restored) -> dict[str, Any]:
    replaced = None if done.replaced is None else str(done.replaced)
    return done._asdict() | {"path": str(done.path), "replaced": replaced}


def _show(done: Restored) -> None:
    last = "no message" if done.last_message_at is None else f"last message {moment(done.last_message_at)}"
    click.echo(f"{done.path}: restored up to position {done.position:,}, {last}")
    click.echo(f"head {done.head}")
    click.echo(f"new epoch {done.epoch}: followers from before get cursor_invalid and must begin anew")
    if done.replaced is None:
        return
    click.echo(f"the database before it is {done.replaced}")
    if done.lost:
        click.echo(f"{done.lost:,} facts are only there, those after position {done.position:,}")
    elif done.lost is None and done.replaced_position is not None:
        click.echo(f"it is of another history, up to position {done.replaced_position:,}")
    elif done.replaced_position is None:
        click.echo("it cannot be read, so what is lost with it is not known")
