"""Processes, each appending one message at a time: through the engine, and into a file that they share."""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import armin
from benchmarks.bench import MESSAGE_BYTES, SYNC, TEXT, Bench, case
from benchmarks.rows import Check, Row, Sample, paired, percentile
from benchmarks.servers import START_S, Engine, in_process

PROCESSES: Final = 32
LEAD_S: Final = 0.2  # for the start to reach all of them
BUSY_S: Final = 60.0  # SQLite waits so long for its turn

# What a program that keeps conversations in SQLite has: no log, no keys.
SCHEMA: Final = """
    CREATE TABLE sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, created_at INTEGER NOT NULL);
    CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT,
                           session_id INTEGER NOT NULL REFERENCES sessions(id),
                           role INTEGER NOT NULL, content TEXT NOT NULL, created_at INTEGER NOT NULL);
    CREATE INDEX messages_by_session ON messages(session_id);
"""

Append = Callable[[], int]  # one message, on disk; gives how often it had to be tried again


class Window(NamedTuple):
    """When to append, in seconds of the monotonic clock, which all processes of a machine share."""

    start: float
    stop: float


class Written(NamedTuple):
    """What one process did. `within` the window that many were done; latencies are of all that it began."""

    within: int
    latencies: array[float]
    retries: int


# --- in the processes -------------------------------------------------------------------------------------


def serve(orders: Connection, append: Append) -> None:
    """Say that this process is ready, then append in each window that it is given."""
    orders.send(None)
    with contextlib.suppress(EOFError):
        while True:
            orders.send(write(orders.recv(), append))


def write(window: Window, append: Append) -> Written:
    """One message after the other until the window closes."""
    clock = time.monotonic
    within, retries, latencies = 0, 0, array("d")
    time.sleep(max(0.0, window.start - clock()))
    while (began := clock()) < window.stop:
        retries += append()
        ended = clock()
        latencies.append(ended - began)
        within += ended <= window.stop
    return Written(within, latencies, retries)


def armin_process(orders: Connection, directory: Path) -> None:
    """A client with a session of its own."""
    with armin.connect(directory, timeout=BUSY_S) as client:
        session = client.create_session()

        def append() -> int:
            client.append(session.id, "user", TEXT)
            return 0

        serve(orders, append)


def sqlite_process(orders: Connection, path: Path) -> None:
    """A connection to the shared file, and a session of its own."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        session = connection.execute("INSERT INTO sessions (created_at) VALUES (0)").lastrowid
        assert session is not None
        serve(orders, lambda: insert(connection, session))


def insert(connection: sqlite3.Connection, session: int) -> int:
    """One message in one transaction, however often it takes."""
    retries = 0
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "INSERT INTO messages (session_id, role, content, created_at) VALUES (?, 0, ?, ?)",
                (session, TEXT, time.time_ns() // 1_000_000),
            )
            connection.execute("COMMIT")
            return retries
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:  # the low byte is the primary code
                raise
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            retries += 1


# --- and around them ----------------------------------------------------------------------------------------


class Crowd:
    """Processes that are there already and append when they are told to."""

    def __init__(self, orders: list[Connection]) -> None:
        self._orders = orders
        self.windows: list[list[Written]] = []  # what each process did in each of them

    def ready(self) -> None:
        """Wait for all of them."""
        for each in self._orders:
            _heard(each, START_S)

    def measure(self, seconds: float) -> Sample:
        """All of them through one window; the rate is what they did within it."""
        start = time.monotonic() + LEAD_S
        for each in self._orders:
            each.send(Window(start, start + seconds))
        written: list[Written] = [_heard(each, seconds + 2 * BUSY_S) for each in self._orders]
        self.windows.append(written)
        latencies = [latency for each in written for latency in each.latencies]
        return Sample(sum(each.within for each in written), seconds, latencies)

    def middle_p99(self, rounds: int) -> list[float]:
        """The p99 in seconds that the middle process had, for each of the last windows."""
        return [
            median(percentile(each.latencies, 0.99) for each in window) for window in self.windows[-rounds:]
        ]

    def idle(self, rounds: int) -> list[int]:
        """How many processes had no append acknowledged, for each of the last windows."""
        return [sum(each.within == 0 for each in window) for window in self.windows[-rounds:]]

    @property
    def retries(self) -> int:
        """Over all windows, of all processes."""
        return sum(each.retries for window in self.windows for each in window)


def _heard(orders: Connection, patience: float) -> Any:
    if not orders.poll(patience):
        raise RuntimeError(f"a process said nothing for {patience:.0f} s")
    return orders.recv()  # EOFError: it died


@contextlib.contextmanager
def crowd(target: Callable[[Connection, Path], None], path: Path) -> Iterator[Crowd]:
    """So many processes of one kind, ended afterwards."""
    with contextlib.ExitStack() as stack:
        kept: list[Connection] = []
        for _ in range(PROCESSES):
            ours, theirs = multiprocessing.get_context("spawn").Pipe()
            stack.enter_context(in_process(target, theirs, path))
            theirs.close()  # so that the end of the process is heard
            kept.append(stack.enter_context(ours))
        made = Crowd(kept)
        made.ready()
        yield made


def fairness(ours: Crowd, theirs: Crowd, rounds: int) -> list[Check]:
    """How the single processes fared in the windows that count."""
    mine, others = ours.middle_p99(rounds), theirs.middle_p99(rounds)
    ratios = [a / b for a, b in zip(mine, others, strict=True)]
    what = "processes that appended nothing"
    return [
        Check("p99 of the middle process", ratios, at_most=True),
        Check(f"{what}, armin", ours.idle(rounds), at_most=True, unit=f"of {PROCESSES}"),
        Check(f"{what}, sqlite3", theirs.idle(rounds), at_most=True, unit=f"of {PROCESSES}"),
    ]


def shared_file(path: Path) -> Path:
    """A new SQLite file in WAL mode."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA)
    return path


@case("4", "32 processes, one append at a time each / 32 processes sharing a SQLite file")
def many_processes(bench: Bench, row: Row) -> None:
    seconds, rounds = bench.size(3, 1), bench.rounds
    with (
        bench.directory() as directory,
        Engine(directory / "e") as engine,
        crowd(armin_process, engine.directory) as ours,
        crowd(sqlite_process, shared_file(directory / "s.db")) as theirs,
    ):
        pairs = paired(lambda: ours.measure(seconds), lambda: theirs.measure(seconds), rounds)
    row.sides = {"armin": pairs.ours, "sqlite3": pairs.theirs}
    row.checks = [
        Check("appends a second", pairs.rate_ratios(), 5.0),
        Check("p99", pairs.latency_ratios("p99"), 1.0, at_most=True),
        *(Check(name, pairs.latency_ratios(name), at_most=True) for name in ("p50", "p99.9")),
        *fairness(ours, theirs, rounds),
    ]
    row.setting |= {
        "sync": SYNC,
        "writers": PROCESSES,
        "message_bytes": MESSAGE_BYTES,
        "keys": "the client's, UUIDv7",
        "sessions": "one for each process",
        "window_s": seconds,
        "peer": f"stdlib sqlite3 {sqlite3.sqlite_version}, WAL, synchronous=FULL, BEGIN IMMEDIATE, INSERT,"
        f" COMMIT; busy timeout {BUSY_S:.0f} s",
        "database_is_locked": theirs.retries,
    }
    row.notes.append(
        "All processes start together and the rate counts what was acknowledged within the window; latencies"
        " are those of every append begun in it, also where it ended later. The shared file has sessions,"
        " messages and their index alone; Armin writes its log and keys as well."
    )
    row.notes.append(
        "SQLite's lock has no queue: who has just committed takes it again while the others sleep up to"
        " 100 ms, so a few processes may do nearly all the appends, fast, and the rest none. Percentiles over"
        " all appends are then those of the few. The p99 of the middle process takes each process's own p99,"
        " and the median of the 32."
    )
