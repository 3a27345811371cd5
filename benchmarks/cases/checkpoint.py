"""Appends while SQLite brings a large write-ahead log home, and while it does not."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple

import armin
from armin.pipeline import Pending, Pipeline
from armin_broker.protocol import DATABASE_FILE
from benchmarks.bench import MESSAGE_BYTES, SYNC, TEXT, Bench, case
from benchmarks.cases.appends import IN_FLIGHT, one_by_one
from benchmarks.filled import copied, ordinary
from benchmarks.rows import Check, Pairs, Row, Sample
from benchmarks.servers import Engine, Hand, crew

ALONE: Final = 900  # appends one at a time in a window: p99.9 is the slowest of fewer than 1,000
GROWING: Final = 2_000  # appends between two looks at how long the log is
GROWTHS_MAX: Final = 1_000
FRAME_BYTES: Final = 4096 + 24  # a page and its header
HOLD: Final = ("BEGIN", "SELECT max(position) FROM log")  # only a read takes hold
LET_GO: Final = ("COMMIT",)
WINDOWS: Final = ("no large log", "log held", "checkpoint")

# SQLite's index of the log (FILE-shm): two copies of a header of 48 bytes, then how many frames were
# brought home. https://www.sqlite.org/walformat.html#the_wal_index_file_format
_LAST_FRAME: Final = 16
_FRAMES_HOME: Final = 96

Window = Callable[[], Sample]


class Log(NamedTuple):
    """The write-ahead log: frames in it, and how many of them are in the database file too."""

    frames: int
    home: int

    @classmethod
    def of(cls, database: Path) -> Log:
        """As it stands now."""
        index = database.with_name(f"{database.name}-shm").read_bytes()
        (frames,), (home,) = (struct.unpack_from("=I", index, at) for at in (_LAST_FRAME, _FRAMES_HOME))
        return cls(frames, home)


@case("15", "p99.9 of appends while SQLite checkpoints a large WAL / p99.9 without")
def checkpoint(bench: Bench, row: Row) -> None:
    frames, in_flight = bench.size(64, 8) * (1 << 20) // FRAME_BYTES, IN_FLIGHT * bench.size(40, 20)
    usual = ordinary(bench)
    row.setting |= {
        "sync": SYNC,
        "message_bytes": MESSAGE_BYTES,
        "writers": 1,
        "stored": str(usual),
        "log": f"at least {frames:,} pages of 4 KiB, of appends over all stored sessions",
        "window": f"{ALONE} appends one at a time, or {in_flight:,} with {IN_FLIGHT} in flight",
        "keys": "the client's, UUIDv7",
    }
    with (
        copied(bench, usual) as directory,
        Engine(directory) as engine,
        engine.connect() as client,
        client.pipeline() as pipe,
        crew(1, _read, directory / DATABASE_FILE) as [reader],
    ):
        session = client.create_session().id
        stage = Stage(directory / DATABASE_FILE, reader, Growth(pipe, usual.sessions), frames)
        _measure(row, "one at a time", stage, lambda: _alone(client, session), bench.rounds)
        _measure(row, "in flight", stage, lambda: _in_flight(pipe, session, in_flight), bench.rounds)
    row.notes += [
        "A reader holds a transaction open, as a verification or a backup does, so that nothing behind it can"
        " be brought home and the log grows. Then it lets go, and the window begins at once: SQLite brings"
        " home all of it. No large log: a window before, with the small checkpoints that come every 4,000"
        " pages. Held: a window while the log is large and the reader still there.",
        f"One at a time, p99.9 of {ALONE} appends is the slowest of them. In flight, an append's time runs"
        " until its answer is looked at, with those before it in the same pipe.",
    ]


class Growth:
    """Appends that make the log longer, over many sessions so that they touch many pages."""

    def __init__(self, pipe: Pipeline, sessions: int) -> None:
        self._pipe = pipe
        self._ids = itertools.cycle(range(1, sessions + 1))

    def __call__(self) -> None:
        """Some more."""
        for session_id in itertools.islice(self._ids, GROWING):
            self._pipe.append(session_id, "user", TEXT)
        self._pipe.flush()


class Stage(NamedTuple):
    """What the windows are measured on.

    reader: holds the log of `database` when it is told to. grow: makes the log longer, to `frames` frames.
    """

    database: Path
    reader: Hand
    grow: Callable[[], None]
    frames: int

    @contextlib.contextmanager
    def large_log(self) -> Iterator[None]:
        """A log that is large and cannot be brought home before this ends."""
        self._tell(HOLD)
        for _ in range(GROWTHS_MAX):
            if _waiting(Log.of(self.database)) >= self.frames:
                break
            self.grow()
        else:
            raise RuntimeError("the log does not grow, though a reader holds it")
        try:
            yield
        finally:
            self._tell(LET_GO)

    def _tell(self, statements: tuple[str, ...]) -> None:
        self.reader.tell(statements)
        self.reader.hear()

    def round(self, window: Window) -> tuple[list[Sample], float]:
        """A window of each kind, and the share of the large log that was home after the last one."""
        before = window()
        with self.large_log():
            held = window()
            log = Log.of(self.database)
        after = window()
        now = Log.of(self.database)
        restarted = now.frames < log.frames  # which SQLite does only when all is home
        share = 1.0 if restarted else (now.home - log.home) / _waiting(log)
        return [before, held, after], min(share, 1.0)


def _read(pipe: Connection, database: Path) -> None:
    """For ever: run the statements that come. In a process of its own, as SQLite's locks are a process's."""
    reader = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None)
    while True:
        for statement in pipe.recv():
            reader.execute(statement).fetchall()
        pipe.send(None)


def _waiting(log: Log) -> int:
    return log.frames - log.home


def _measure(row: Row, name: str, stage: Stage, window: Window, rounds: int) -> None:
    """Rounds of the three windows, in turn; the first does not count."""
    taken = [stage.round(window) for _ in range(1 + rounds)][1:]
    samples = dict(zip(WINDOWS, map(list, zip(*(each for each, _ in taken), strict=True)), strict=True))
    row.sides |= {f"{kind}, {name}": samples[kind] for kind in reversed(WINDOWS)}
    normal, held, large = (samples[kind] for kind in WINDOWS)
    row.checks += [
        Check(f"p99.9, {name}", Pairs(large, normal).latency_ratios("p99.9"), 2, at_most=True),
        Check(f"p99.9, {name}, / log held", Pairs(large, held).latency_ratios("p99.9"), at_most=True),
        Check(f"p99, {name}", Pairs(large, normal).latency_ratios("p99"), at_most=True),
        Check(f"slowest, {name}", [1000 * max(sample.latencies) for sample in large], unit="ms"),
        Check(f"slowest, {name}, no large log", [1000 * max(each.latencies) for each in normal], unit="ms"),
        Check(f"share of the log brought home in the window, {name}", [share for _, share in taken]),
    ]


def _alone(client: armin.Client, session: int) -> Sample:
    return one_by_one(itertools.repeat(lambda: client.append(session, "user", TEXT), ALONE))


def _in_flight(pipe: Pipeline, session: int, count: int) -> Sample:
    """As many in flight as the pipeline lets through, each one's time noted."""
    waiting: deque[tuple[float, Pending[armin.Appended]]] = deque()
    latencies: list[float] = []

    def look(most: int) -> None:
        while waiting and (len(waiting) > most or waiting[0][1].done()):
            sent, append = waiting.popleft()
            append.result()
            latencies.append(time.perf_counter() - sent)

    began = time.perf_counter()
    for _ in range(count):
        look(IN_FLIGHT - 1)
        waiting.append((time.perf_counter(), pipe.append(session, "user", TEXT)))
    look(0)
    return Sample(count, time.perf_counter() - began, latencies)
