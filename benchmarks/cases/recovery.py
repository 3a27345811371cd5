"""Starting on a large file: how long until the engine serves, and the memory that it then takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from armin_broker.protocol import DATABASE_FILE
from benchmarks.bench import MESSAGE_BYTES, Bench, case
from benchmarks.filled import Filling, filled, many_short, ordinary
from benchmarks.rows import Check, Row, Sample
from benchmarks.servers import Engine

KIB: Final = 1024
MB: Final = 1e6
STARTS: Final = 4  # of what the row is held to
STARTS_TOLD: Final = 2  # of the rest
BATCH: Final = 100  # messages in an append_many, where those of one share a key


class Start(NamedTuple):
    """One start: seconds until the engine said that it was ready, and its memory at that moment."""

    seconds: float
    peak_bytes: int
    resident_bytes: int


@case("10", "recovery of 2,000,000 messages")
def recovery(bench: Bench, row: Row) -> None:
    sides = fillings(bench)
    row.setting |= {
        "message_bytes": MESSAGE_BYTES,
        "start": "`armin serve`, from its launch to its line that it is ready; interpreter and imports too",
        "page_cache": "warm, but where it says cold",
        **{f"stored, {name}": str(filling) for name, filling in sides.items()},
    }
    for number, (name, filling) in enumerate(sides.items()):
        directory = filled(bench, filling)
        starts = [
            started(directory) for _ in range(STARTS_TOLD if number else bench.size(STARTS, STARTS_TOLD))
        ]
        _report(bench, row, name, starts, bounds=(None, None) if number else (400_000, 1.5))
    name, usual = next(iter(sides.items()))
    cold = _started_cold(filled(bench, usual))
    row.checks += [
        Check(f"messages a second, {name}, cold", [usual.messages / cold.seconds], unit="/s"),
        Check("a start on an empty directory", _empty_starts(bench), unit="ms"),
    ]
    row.notes += [
        "Peak: the most that was resident (VmHWM) up to the line that it is ready. The file: armin.db after a"
        " clean end, its WAL merged. Keys are in the file and not in memory: where each message has one, as"
        " appends by themselves leave them, the file is a quarter larger than with one for a batch.",
        "The time of a start on an empty directory is not subtracted.",
    ]


def fillings(bench: Bench) -> dict[str, Filling]:
    """What is recovered, by the name of its side; the first one is what the row is held to."""
    usual, short = ordinary(bench), many_short(bench)
    return {
        f"{usual.sessions:,} sessions": usual,
        "one session": Filling(1, usual.messages, open_at_once=1, turn=1_000, keys="turns"),
        f"{short.sessions:,} sessions": short,
        f"{usual.sessions:,} sessions, keys of batches": Filling(
            usual.sessions, usual.each, usual.open_at_once, BATCH, keys="turns"
        ),
    }


def _report(
    bench: Bench, row: Row, name: str, starts: list[Start], bounds: tuple[float | None, float | None]
) -> None:
    """A side and its checks; `bounds` are those of its rate and of its memory."""
    filling = fillings(bench)[name]
    size = (filled(bench, filling) / DATABASE_FILE).stat().st_size
    samples = row.sides[name] = [Sample(filling.messages, start.seconds) for start in starts]
    row.setting[f"file_bytes, {name}"] = size
    row.checks += [
        Check(f"messages a second, {name}", [sample.rate for sample in samples], bounds[0], unit="/s"),
        Check(
            f"peak memory / file, {name}",
            [start.peak_bytes / size for start in starts],
            bounds[1],
            at_most=True,
        ),
        Check(f"memory / file, {name}", [start.resident_bytes / size for start in starts]),
        Check(f"memory, {name}", [start.resident_bytes / MB for start in starts], unit="MB"),
    ]


def started(directory: Path) -> Start:
    """Start an engine and end it again."""
    with Engine(directory) as engine:
        return Start(engine.started_in, peak_bytes(engine.pid), engine.memory_bytes())


def peak_bytes(pid: int) -> int:
    """The most that was ever resident of a process."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * KIB


def _started_cold(directory: Path) -> Start:
    """A start on a file that the page cache has let go of."""
    descriptor = os.open(directory / DATABASE_FILE, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # only what is on disk can be let go of
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return started(directory)


def _empty_starts(bench: Bench) -> list[float]:
    """Milliseconds until an engine that has nothing to recover is ready."""
    with bench.directory() as directory:
        return [1000 * started(directory / "e").seconds for _ in range(bench.rounds)]
