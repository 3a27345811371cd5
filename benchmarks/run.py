"""The command: measures rows one after the other, says what came of each, and keeps it.

A row that fails does not stop the others; what was measured is written after each row.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console
from rich.text import Text

from benchmarks import cases, machine, plots, report
from benchmarks.bench import CASES, Bench, Case
from benchmarks.results import Fields, Results, place
from benchmarks.rows import Row

OUT: Final = Path(__file__).parent / "results"
OUT_QUICK: Final = OUT / "quick"  # never over the figures of a whole run
RESULTS: Final = "results.json"
REPORT: Final = "results.md"

SOCKET_PATH_MAX: Final = 107  # bytes of a Unix socket's path
DEEPEST: Final = len("/bxxxxxxxx/engine/commands.sock")  # what a case adds to the directory

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_TERMINATED: Final = 143


class Refused(Exception):
    """What was asked for cannot be done; says why."""


def load() -> dict[str, Case]:
    """Every case there is, by its number, in the report's order."""
    for module in pkgutil.iter_modules(cases.__path__):
        importlib.import_module(f"{cases.__name__}.{module.name}")
    return {number: CASES[number] for number in sorted(CASES, key=place)}


def chosen(numbers: Sequence[str], registered: dict[str, Case]) -> list[Case]:
    """The cases of these numbers, all where none is given."""
    unknown = [number for number in numbers if number not in registered]
    if unknown:
        raise Refused(f"there is no row {', '.join(unknown)}; the rows are {', '.join(registered)}")
    return [case for number, case in registered.items() if not numbers or number in numbers]


# --- measuring ----------------------------------------------------------------------------------------


def measured(case: Case, bench: Bench) -> Fields:
    """A row as it is stored; where the case fails, its traceback goes to standard error."""
    began = time.perf_counter()
    try:
        row = case.measure(bench).as_json()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other rows are measured
        traceback.print_exc()
        failed = f"{type(error).__name__}: {error}".removesuffix(": ")
        row = Row(case.number, case.title, failed=failed).as_json()
    return {**row, "date": _now(), "seconds": round(time.perf_counter() - began, 1)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def measure_all(
    wanted: Iterable[Case], bench: Bench, results: Results, run: Fields, keep: Callable[[], None]
) -> bool:
    """Measure the wanted cases into `results`, calling `keep` after each; whether none has failed."""
    name = results.begin(run)
    console = Console()
    fine = True
    for case in wanted:
        with console.status(f"{case.number}  {case.title}"):
            row = {**measured(case, bench), "run": name}
        results.put(row)
        keep()
        for line in said(row):
            console.print(line, soft_wrap=True, highlight=False)
        fine = fine and row["failed"] is None
    return fine


def said(row: Fields) -> list[Text]:
    """What a terminal shows of a row: its title, then a line for each figure."""
    head = Text(f"{row['number']:>3}  {row['title']}", "bold")
    head.append(f"  {row['seconds']:.0f} s", "dim")
    for what in ("missing", "failed"):
        if row[what] is not None:
            head.append(f"\n     {what}: {row[what]}", "yellow" if what == "missing" else "red")
    lines = [head]
    for check in row["checks"]:
        line = Text(f"     {check['what']}: {report.figure(check)}")
        if check["bound"] is not None:
            line.append(f", {report.bound(check)}: ")
            line.append("met" if check["met"] else "NOT MET", "green" if check["met"] else "bold red")
        lines.append(line)
    return lines


# --- where ----------------------------------------------------------------------------------------------


@contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """A directory for this run on a disk that can be measured, removed at the end."""
    parent = parent.resolve()
    kind = machine.filesystem(parent)
    if kind in machine.MEMORY_FILESYSTEMS:
        raise Refused(
            f"{parent} is in memory ({kind}), where a sync costs nothing; give --directory on a disk"
        )
    root = Path(tempfile.mkdtemp(prefix=".bench-", dir=parent))
    try:
        if len(bytes(root)) + DEEPEST > SOCKET_PATH_MAX:
            raise Refused(f"{parent} is too deep for the path of a Unix socket; give a shorter --directory")
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM: what was started is ended, what was made is removed."""
    sys.exit(EXIT_TERMINATED)


# --- the command ------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Its options."""
    made = argparse.ArgumentParser(
        "python -m benchmarks", description="Measure Armin side by side with its peers.", allow_abbrev=False
    )
    made.add_argument("rows", nargs="*", metavar="ROW", help="numbers as --list has them; default all")
    made.add_argument("--quick", action="store_true", help="less of everything: a look, not a measurement")
    made.add_argument(
        "--directory", type=Path, default=Path(), help="on the disk to be measured; default here"
    )
    made.add_argument(
        "--out",
        type=Path,
        help=f"where the report goes; default {OUT.name}/ or with --quick "
        f"{OUT.name}/{OUT_QUICK.name}/ beside the cases",
    )
    made.add_argument("--list", action="store_true", help="say which rows there are")
    made.add_argument("--render", action="store_true", help="measure nothing; write table and plots anew")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    asked = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, terminated)
    try:
        return _main(asked)
    except Refused as refused:
        print(f"benchmarks: {refused}", file=sys.stderr)
        return EXIT_USAGE


def _main(asked: argparse.Namespace) -> int:
    registered = load()
    if asked.list:
        for number, case in registered.items():
            print(f"{number:>3}  {case.title}")
        return 0
    wanted = chosen(asked.rows, registered)
    out: Path = asked.out or (OUT_QUICK if asked.quick else OUT)
    if asked.render:
        render(Results.read(out / RESULTS), out)
        return 0
    return _measure(asked, wanted, out)


def _measure(asked: argparse.Namespace, wanted: Sequence[Case], out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    # A run of everything starts anew: its table is of one run.
    results = Results.read(out / RESULTS) if asked.rows else Results()
    with workplace(asked.directory) as root:
        run = described(root, asked.quick, asked.rows)
        try:
            fine = measure_all(
                wanted, Bench(root, asked.quick), results, run, lambda: results.write(out / RESULTS)
            )
        finally:
            if results.rows:
                render(results, out)
    return 0 if fine else EXIT_FAILED


def described(root: Path, quick: bool, rows: Sequence[str]) -> Fields:
    """A run: when, of what, where, and how to repeat it."""
    command = " ".join(["python -m benchmarks", *(["--quick"] if quick else []), *rows])
    return {"date": _now(), "command": command, "quick": quick, **machine.commit(), **machine.described(root)}


def render(results: Results, out: Path) -> None:
    """Write the table and the plots."""
    drawn = plots.draw(results.rows, out)
    (out / REPORT).write_text(report.markdown(results, drawn), "utf-8")
    print(f"written: {', '.join([RESULTS, REPORT, *drawn])} in {out}")
