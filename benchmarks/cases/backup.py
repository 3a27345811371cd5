"""Appends while the whole database is backed up, again and again, and while it is not."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple

import armin
from armin.pipeline import Pending, Pipeline
from armin_broker.protocol import BACKUPS_DIRECTORY, DATABASE_FILE
from armin_engine.offline import verify_file
from benchmarks.bench import MESSAGE_BYTES, SYNC, TEXT, Bench, case
from benchmarks.cases.appends import IN_FLIGHT
from benchmarks.rows import Check, Pairs, Row, Sample
from benchmarks.servers import Engine, Hand, crew

MIB: Final = 1 << 20
SESSIONS: Final = 100
STORED_BYTES: Final = 5_000  # a message as agents write them: most of the file is theirs
STORED: Final = (TEXT * (STORED_BYTES // len(TEXT) + 1))[:STORED_BYTES]
WAYS: Final = ("armin backup", "the op backup")
BACKUP_S: Final = 300.0  # one that takes longer is a failure
QUIET_S: Final = 3.0  # a window without backups is no longer
IN_FLIGHT_ROUNDS: Final = 3  # fewer, as the file grows by a tenth in each


class Made(NamedTuple):
    """One backup: its file, last position and how long it took, in seconds, from the asking to the answer."""

    path: Path
    position: int
    seconds: float


@case("16", "p99 of appends during full backups, one after the other / p99 without")
def backups(bench: Bench, row: Row) -> None:
    stored = bench.size(50_000, 10_000)
    each = bench.size(3, 1)
    row.setting |= {
        "sync": SYNC,
        "message_bytes": MESSAGE_BYTES,
        "writers": 1,
        "stored": f"{stored:,} messages of {STORED_BYTES:,} bytes in {SESSIONS} sessions, a key each",
        "window": f"as long as {each} backups take, one after the other (in flight: one), then up to"
        f" {QUIET_S:.0f} s without",
        "keys": "the client's, UUIDv7",
    }
    for way in WAYS:
        with (
            bench.directory() as root,
            Engine(root / "e") as engine,
            engine.connect() as client,
            client.pipeline() as pipe,
            crew(1, _back_up, root / "e") as [copier],
        ):
            directory = engine.directory
            session = client.create_session().id
            _fill(pipe, client, stored)
            row.setting["file"] = f"{(directory / DATABASE_FILE).stat().st_size // MIB} MiB at first"
            alone, in_flight = partial(_alone, client, session), partial(_in_flight, pipe, session)
            _measure(row, f"one at a time, {way}", Stage(directory, copier, each), way, alone, bench.rounds)
            rounds = bench.size(IN_FLIGHT_ROUNDS, 1)
            _measure(row, f"in flight, {way}", Stage(directory, copier, 1), way, in_flight, rounds)
    row.notes += [
        "Every copy is verified once more when its window is over, and holds every append acknowledged before"
        " it was asked for; else the row fails. `armin backup` is a process of its own from its start to its"
        " end; the op is asked for by a client, and a process of the engine's makes the copy.",
        f"In flight: {IN_FLIGHT} at a time, as fast as the engine takes them; a time runs until the answer is"
        " looked at, with those before it in the same pipe.",
    ]


def _fill(pipe: Pipeline, client: armin.Client, messages: int) -> None:
    ids = [client.create_session().id for _ in range(SESSIONS)]
    for session_id in itertools.islice(itertools.cycle(ids), messages):
        pipe.append(session_id, "user", STORED)
    pipe.flush()
    client.refresh_snapshot()


class Load(NamedTuple):
    """Appends until `end` says so: what they took, and the position of the last acknowledged one."""

    sample: Sample
    position: int


class Stage(NamedTuple):
    """What the windows are measured on: the engine's directory, and who makes `each` backups in a window."""

    directory: Path
    copier: Hand
    each: int

    def busy(self, way: str, load: Callable[[Callable[[], bool]], Load]) -> tuple[Sample, list[Made]]:
        """A window with backups; all of them are looked at afterwards."""
        taken, made = [], []
        acknowledged = load(lambda: True).position
        for _ in range(self.each):
            self.copier.tell(way)
            part = load(self.copier.pipe.poll)
            taken.append(part.sample)
            done: Made = self.copier.hear(BACKUP_S)
            if done.position < acknowledged:
                raise RuntimeError(f"a copy ends at {done.position}, {acknowledged} was acknowledged before")
            acknowledged = part.position
            made.append(done)
        for each in made:
            _check(each)
        return _joined(taken), made

    def quiet(self, seconds: float, load: Callable[[Callable[[], bool]], Load]) -> Sample:
        """A window of this length without."""
        until = time.perf_counter() + seconds
        return load(lambda: time.perf_counter() >= until).sample


def _check(made: Made) -> None:
    report = verify_file(made.path).report
    if not report.equal or report.position != made.position:
        raise RuntimeError(f"{made.path} does not agree: {report}")
    made.path.unlink()


def _joined(samples: list[Sample]) -> Sample:
    latencies = list(itertools.chain.from_iterable(sample.latencies for sample in samples))
    return Sample(len(latencies), sum(sample.seconds for sample in samples), latencies)


def _back_up(pipe: Connection, directory: Path) -> None:
    """For ever: make a backup in the way that comes."""
    target = directory.parent / "copies"
    target.mkdir()
    with armin.connect(directory, timeout=60.0) as client:
        while True:
            way, began = pipe.recv(), time.perf_counter()
            if way == WAYS[0]:
                command = [str(Path(sys.executable).with_name("armin")), "--dir", str(directory)]
                done = subprocess.run(
                    [*command, "backup", str(target), "--json"], check=True, stdout=subprocess.PIPE
                )
                record = json.loads(done.stdout)
                made = Made(Path(record["path"]), record["position"], time.perf_counter() - began)
            else:
                report = client.backup()
                path = directory / BACKUPS_DIRECTORY / report.name
                made = Made(path, report.position, time.perf_counter() - began)
            pipe.send(made)


def _measure(
    row: Row, name: str, stage: Stage, way: str, load: Callable[[Callable[[], bool]], Load], rounds: int
) -> None:
    """Rounds of a window with backups and one without, in turn; the first does not count."""
    pairs, made = Pairs([], []), []
    for number in range(1 + rounds):
        busy, copies = stage.busy(way, load)
        quiet = stage.quiet(min(busy.seconds, QUIET_S), load)
        if number:
            pairs.ours.append(busy)
            pairs.theirs.append(quiet)
            made += copies
    row.sides |= {f"backups, {name}": pairs.ours, f"quiet, {name}": pairs.theirs}
    row.checks += [
        Check(f"p99, {name}", pairs.latency_ratios("p99"), 3, at_most=True),
        Check(f"p99.9, {name}", pairs.latency_ratios("p99.9"), at_most=True),
        Check(f"appends a second, {name}", pairs.rate_ratios()),
        Check(f"slowest, {name}", [1000 * max(each.latencies) for each in pairs.ours], unit="ms"),
        Check(f"slowest, {name}, quiet", [1000 * max(each.latencies) for each in pairs.theirs], unit="ms"),
        Check(f"one backup, {name}", [each.seconds for each in made], unit="s"),
    ]


def _alone(client: armin.Client, session: int, end: Callable[[], bool]) -> Load:
    latencies: list[float] = []
    began = before = time.perf_counter()
    while True:
        appended = client.append(session, "user", TEXT)
        after = time.perf_counter()
        latencies.append(after - before)
        if end():
            return Load(Sample(len(latencies), after - began, latencies), appended.at)
        before = time.perf_counter()


def _in_flight(pipe: Pipeline, session: int, end: Callable[[], bool]) -> Load:
    """As many in flight as the pipeline lets through, each one's time noted."""
    waiting: deque[tuple[float, Pending[armin.Appended]]] = deque()
    latencies: list[float] = []
    position = 0

    def look(most: int) -> None:
        nonlocal position
        while waiting and (len(waiting) > most or waiting[0][1].done()):
            sent, append = waiting.popleft()
            position = append.result().at
            latencies.append(time.perf_counter() - sent)

    began = time.perf_counter()
    for number in itertools.count():
        look(IN_FLIGHT - 1)
        waiting.append((time.perf_counter(), pipe.append(session, "user", TEXT)))
        if number % IN_FLIGHT == 0 and end():
            break
    look(0)
    return Load(Sample(len(latencies), time.perf_counter() - began, latencies), position)
