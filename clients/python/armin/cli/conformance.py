"""`armin conformance`: play the protocol's vectors against an engine, whoever wrote it."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Final

import click

from armin.cli.connection import Where
from armin.cli.exits import Exit
from armin.cli.options import json_option
from armin.cli.output import Column, Listing, View, write_json
from armin.cli.records import Record
from armin.cli.shown import line
from armin.conformance.bench import Bench
from armin.conformance.cases import EngineCase, VectorError, default_directory, load
from armin.conformance.running import Played, Verdict, play_all

RUN_BYTES: Final = 4  # of chance in every name of a run, so that runs do not meet


@click.command(short_help="Check an engine against the protocol's vectors.")
@click.argument("engine", required=False, metavar="[URL_OR_DIR]")
@click.option(
    "--only",
    multiple=True,
    metavar="GLOB",
    help="Play these cases alone: FILE or FILE/CASE, where * is anything. May be given several times.",
)
@click.option(
    "--slow",
    is_flag=True,
    help="Also play what takes long, leaves much behind or fills a limit: for a fresh engine.",
)
@click.option(
    "--vectors",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Take the vectors from DIR [default: those that come with armin].",
)
@click.option("--list", "listing", is_flag=True, help="List the cases and play none; needs no engine.")
@json_option
@click.pass_obj
def conformance(
    where: Where,
    engine: str | None,
    only: tuple[str, ...],
    slow: bool,
    directory: Path | None,
    listing: bool,
    as_json: bool,
) -> int:
    """Check an engine against the protocol's vectors.

    Sends the commands of the vectors over bare sockets and compares replies, events and effects with what
    the vectors expect. What needs power over the engine (its disk fails, it is ended or killed) is listed
    as not played.

    It writes sessions and worker groups of its own into that engine, some 22,000 messages, and takes what
    waits on its effects socket. The groups are dropped afterwards; the sessions stay, as sessions do. So
    play it against an engine set up for it, that nobody else writes to meanwhile.

    \b
      armin conformance tcp://127.0.0.1:7400
      armin conformance ./scratch --only 'append*' --only limits/meta_depth

    Exit code 1: the engine does not conform.
    """
    try:
        cases = _selected(load(directory or default_directory()).engine, only)
    except VectorError as error:
        raise click.UsageError(str(error)) from None
    if listing:
        Listing(_CASES, as_json=as_json).show(cases)
        return Exit.OK
    if engine is not None:
        where = replace(where, directory=None, url=engine)
    where.connect().close()  # says in the usual words that there is none
    with Bench(where.target(), where.timeout, f"conformance{secrets.token_hex(RUN_BYTES)}") as bench:
        played = play_all(cases, bench, slow=slow)
        return _show_json(played) if as_json else _show(played)


def _selected(cases: Sequence[EngineCase], only: tuple[str, ...]) -> list[EngineCase]:
    if not only:
        return list(cases)
    found = [case for case in cases if any(_is_meant(case, glob) for glob in only)]
    if not found:
        raise click.UsageError(f"no case is called {' or '.join(only)}; --list shows them")
    return found


def _is_meant(case: EngineCase, glob: str) -> bool:
    return fnmatchcase(case.id, glob) or fnmatchcase(case.file, glob)


# --- what is shown --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    """What became of the cases of one file."""

    name: str
    counts: Counter[Verdict]
    seconds: float


def _file_cells(file: _File) -> tuple[str, ...]:
    counts = (str(file.counts[verdict]) for verdict in Verdict)
    return (file.name, f"{file.seconds:.2f} s", *counts, "FAILED" if file.counts[Verdict.FAILED] else "")


_FILES: Final[View[_File]] = View(
    (
        Column("vectors", 24),
        Column("time", 8, "right"),
        Column("passed", 6, "right"),
        Column("failed", 6, "right"),
        Column("not played", 10, "right"),
        Column(""),
    ),
    _file_cells,
    lambda file: {"file": file.name},
    lambda file: "bold red" if file.counts[Verdict.FAILED] else "",
)


def _flags(case: EngineCase) -> str:
    return ", ".join((*case.needs, *(("slow",) if case.slow else ())))


def _case_record(case: EngineCase) -> Record:
    return {
        "file": case.file,
        "case": case.name,
        "needs": list(case.needs),
        "slow": case.slow,
        "why": case.why,
    }


_CASES: Final[View[EngineCase]] = View(
    (Column("case", 56), Column("needs", 16), Column("why")),
    lambda case: (case.id, _flags(case), case.why),
    _case_record,
    one_line=True,
)


def _show(played: Iterable[Played]) -> int:
    """One line for each file, the failures below it, and what it comes to."""
    listing = Listing(_FILES, as_json=False)
    total: Counter[Verdict] = Counter()
    reasons: Counter[str] = Counter()
    for name, group in groupby(played, key=lambda each: each.case.file):
        done = list(group)
        counts = Counter(each.verdict for each in done)
        listing.show([_File(name, counts, sum(each.seconds for each in done))])
        for text in _failures(done):
            click.echo(line(text))
        total += counts
        reasons.update(each.reason for each in done if each.reason)
    for reason, count in reasons.items():
        click.echo(f"not played, {count} cases: {line(reason)}")
    failed = total[Verdict.FAILED]
    verdict = f"{failed} cases fail: this engine does not conform" if failed else "this engine conforms"
    rest = f"{total[Verdict.PASSED]} cases pass, {total[Verdict.NOT_PLAYED]} not played"
    click.secho(f"armin conformance: {verdict}; {rest}", fg="red" if failed else "green", bold=True)
    return Exit.NO if failed else Exit.OK


def _failures(played: Iterable[Played]) -> Iterator[str]:
    """One line for each failure."""
    for each in played:
        yield from (f"FAILED {each.case.id}: {failure}" for failure in each.failures)


def _show_json(played: Iterable[Played]) -> int:
    code = Exit.OK
    for each in played:
        failures = [{"step": failure.step, **asdict(failure.difference)} for failure in each.failures]
        record: Record = {"file": each.case.file, "case": each.case.name, "verdict": str(each.verdict)}
        record["seconds"] = round(each.seconds, 3)
        write_json({**record, **({"reason": each.reason} if each.reason else {}), "failures": failures})
        if each.verdict is Verdict.FAILED:
            code = Exit.NO
    return code
