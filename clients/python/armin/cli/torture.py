"""`armin torture`: break a real engine on purpose, by a seeded plan, and check that nothing was lost."""

from __future__ import annotations

import faulthandler
import random
import shlex
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

import click

from armin.cli.exits import Exit
from armin.cli.options import json_option
from armin.cli.output import note, write_json
from armin.torture.campaign import Campaign
from armin.torture.crippled import WEAKNESSES
from armin.torture.engine import Sabotage
from armin.torture.report import Report

MINUTES: Final = 1 / 6
STUCK_S: Final = 900.0  # that a campaign may take beyond twice its length before it is ended from outside
SABOTAGES: Final = (*WEAKNESSES, *(sabotage.value for sabotage in Sabotage))


def _command(context: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no command: {error}") from None


@click.command(short_help="Break an engine on purpose and check that nothing is lost.")
@click.option("--seed", type=click.IntRange(min=0), help="Decides what is broken, and when [default: any].")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=MINUTES,
    help="Break things for this long [default: ten seconds].",
)
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the file and the evidence in DIR, whatever comes of it; DIR must be new or empty.",
)
@click.option(
    "--guests",
    metavar="COMMAND",
    default="",
    callback=_command,
    help="COMMAND runs writers, followers and workers of another client beside ours (docs/torture.md).",
)
@click.option("--sabotage", multiple=True, type=click.Choice(SABOTAGES), hidden=True)
@json_option
def torture(
    seed: int | None,
    minutes: float,
    keep: Path | None,
    guests: tuple[str, ...],
    sabotage: tuple[str, ...],
    as_json: bool,
) -> int:
    """Break an engine on purpose, and check that nothing was lost and nothing doubled.

    Starts an engine of its own on a new directory, with writers, followers and workers, and kills it, cuts
    its power, fills its disk, loses its messages, as the seed decides; then checks every acknowledged
    write, every item followed and every effect against the log. docs/torture.md says what exactly.

    \b
      armin torture --seed 7
      armin torture --seed 7 --minutes 20

    Exit code 20: something that was promised did not hold; the evidence is kept. 21: it could not run.
    """
    chosen = random.SystemRandom().randrange(10**6) if seed is None else seed
    signal.signal(signal.SIGTERM, _terminated)
    faulthandler.dump_traceback_later(120 * minutes + STUCK_S, exit=True)
    directory = _directory(keep)
    sockets = Path(tempfile.mkdtemp(prefix="armin-torture-"))  # short, whatever --keep says
    repeat = " ".join(
        [
            f"armin torture --seed {chosen} --minutes {minutes:g}",
            *(f"--sabotage {name}" for name in sabotage),
            *([f"--guests {shlex.quote(shlex.join(guests))}"] if guests else []),
        ]
    )
    try:
        campaign = partial(
            Campaign,
            chosen,
            60 * minutes,
            directory,
            sockets,
            sabotage=frozenset(map(Sabotage, set(sabotage) - WEAKNESSES.keys())),
            crippled=tuple(name for name in sabotage if name in WEAKNESSES),
            guests=guests,
            say=note if as_json else click.echo,
        )
        return _run(campaign, directory, keep is not None, repeat, as_json)
    finally:
        faulthandler.cancel_dump_traceback_later()
        shutil.rmtree(sockets, ignore_errors=True)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _directory(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="armin-evidence-"))
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise click.UsageError(f"{keep} is not empty")
    return keep


def _run(campaign: Callable[[], Campaign], directory: Path, keep: bool, repeat: str, as_json: bool) -> int:
    (note if as_json else click.echo)(f"armin torture: {repeat}")
    done = False
    try:
        report = campaign().run()
        done = report.fine
    except (OSError, RuntimeError) as error:
        note(f"armin: the campaign could not run: {error}")
        note(f"armin: what there is of it: {directory}")
        return Exit.TORTURE_FAILED
    finally:
        if done and not keep:
            shutil.rmtree(directory, ignore_errors=True)
    _show(report, directory, keep, repeat, as_json)
    return Exit.OK if report.fine else Exit.VIOLATION


def _show(report: Report, directory: Path, keep: bool, repeat: str, as_json: bool) -> None:
    kept = keep or not report.fine
    if as_json:
        write_json({**report.as_map(), "repeat": repeat, "evidence": str(directory) if kept else None})
        return
    for line in report.lines():
        click.echo(line)
    click.secho(f"armin torture: {report.verdict()}", fg="green" if report.fine else "red", bold=True)
    if kept:
        click.echo(f"  the file and the evidence: {directory}")
    if not report.fine:
        click.echo(f"  to repeat it: {repeat}")
