"""What does not get slower as the file grows: appends, and the folding of the delta into the snapshot."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import armin
from armin.pipeline import Pipeline
from armin_broker.protocol import DATABASE_FILE
from armin_engine import Append, Armin
from benchmarks.bench import MESSAGE_BYTES, SYNC, TEXT, Bench, case
from benchmarks.cases.appends import IN_FLIGHT, in_flight, one_by_one, timed
from benchmarks.filled import (
    MESSAGE,
    Filling,
    commit,
    copied,
    filled,
    many_short,
    ordinary,
    spare_history_from_collection,
)
from benchmarks.rows import Check, Pairs, Row, Sample, paired
from benchmarks.servers import Engine, Hand, crew

INTERLEAVED: Final = 1_000  # sessions that take turns
DELTA: Final = 10_000  # messages that a refresh folds
DELTA_GROUP: Final = 1_000  # of them in one commit
REFRESHES: Final = 2  # for each of the bench's rounds: they are short
TOLD: Final = 3  # rounds of what is told beside what the row is held to
SEED: Final = 13

Measure = Callable[[], Sample]


@contextlib.contextmanager
def engines(bench: Bench, *fillings: Filling) -> Iterator[list[armin.Client]]:
    """Clients of engines that run at the same time: one on a copy of each filling, the last on nothing."""
    with contextlib.ExitStack() as stack:
        directories = [stack.enter_context(copied(bench, filling)) for filling in fillings]
        directories.append(stack.enter_context(bench.directory()) / "e")
        started = [stack.enter_context(Engine(directory)) for directory in directories]
        yield [stack.enter_context(engine.connect()) for engine in started]


# --- 11: one session ------------------------------------------------------------------------------------


@case("11", "appends with 2,000,000 messages stored / with none, one session in a group")
def one_session(bench: Bench, row: Row) -> None:
    in_a_run, single = IN_FLIGHT * bench.size(80, 20), bench.size(2_000, 500)
    usual, short = ordinary(bench), many_short(bench)
    row.setting |= {
        "sync": SYNC,
        "message_bytes": MESSAGE_BYTES,
        "writers": 1,
        "stored": str(usual),
        "stored, many sessions": str(short),
        "in_flight": IN_FLIGHT,
        "appends_a_run": f"{in_a_run:,} in flight, {single:,} one at a time",
        "keys": "the client's, UUIDv7",
    }
    with engines(bench, usual, short) as [grown, many, new], contextlib.ExitStack() as stack:
        rates: list[Measure] = []
        singles: list[Measure] = []
        for client in (grown, many, new):
            session = client.create_session().id
            pipe = stack.enter_context(client.pipeline())
            rates.append(_bind_in_flight(pipe, session, in_a_run))
            singles.append(_bind_single(client, session, single))
        for name, index in ((f"{usual.messages:,} stored", 0), (f"{short.sessions:,} sessions stored", 1)):
            rounds = TOLD if index else bench.rounds
            pipelined = paired(rates[index], rates[2], rounds)
            alone = paired(singles[index], singles[2], rounds)
            _report_appends(row, name, pipelined, alone, held=index == 0)
    row.notes += [
        "All engines run at the same time and are loaded in turn. The session that is appended to is new in"
        " each. p99 is of appends one at a time, measured apart from the rate with 256 in flight.",
    ]


def _bind_in_flight(pipe: Pipeline, session: int, count: int) -> Measure:
    return lambda: in_flight(pipe, session, count)


def _bind_single(client: armin.Client, session: int, count: int) -> Measure:
    def append() -> object:
        return client.append(session, "user", TEXT)

    return lambda: one_by_one(itertools.repeat(append, count))


def _report_appends(row: Row, name: str, pipelined: Pairs, alone: Pairs, *, held: bool) -> None:
    beside = "none stored" if held else f"none stored, beside {name}"
    row.sides |= {
        f"{name}, in flight": pipelined.ours,
        f"{beside}, in flight": pipelined.theirs,
        f"{name}, one at a time": alone.ours,
        f"{beside}, one at a time": alone.theirs,
    }
    row.checks += [
        Check(f"appends a second in flight, {name}", pipelined.rate_ratios(), 0.9 if held else None),
        Check(f"p99 one at a time, {name}", alone.latency_ratios("p99"), 1.3 if held else None, at_most=True),
        Check(f"appends a second one at a time, {name}", alone.rate_ratios()),
    ]


# --- 11b: many sessions -----------------------------------------------------------------------------------


@case("11b", "appends with 2,000,000 messages stored / with none, 1,000 sessions in turn")
def sessions_in_turn(bench: Bench, row: Row) -> None:
    in_a_run, single = IN_FLIGHT * bench.size(80, 20), bench.size(1_000, 300)
    usual = ordinary(bench)
    row.setting |= {
        "sync": SYNC,
        "message_bytes": MESSAGE_BYTES,
        "writers": 1,
        "stored": str(usual),
        "in_flight": f"{IN_FLIGHT}, each of another session",
        "appends_a_run": f"{in_a_run:,} in flight, {single:,} one at a time",
        "keys": "the client's, UUIDv7",
    }
    with engines(bench, usual) as [grown, new], grown.pipeline() as full, new.pipeline() as empty:
        for _ in range(INTERLEAVED):
            empty.create_session()
        empty.flush()
        spread = _spread(usual.sessions, min(INTERLEAVED, usual.sessions))
        ours, theirs = Turns(spread), Turns(range(1, INTERLEAVED + 1))
        alone = new.create_session().id
        group = _group_size(grown)
        pairs = paired(
            lambda: ours.in_flight(full, in_a_run), lambda: theirs.in_flight(empty, in_a_run), bench.rounds
        )
        row.setting["appends_a_group"] = round(group())
        beside_one = paired(
            lambda: ours.in_flight(full, in_a_run),
            lambda: in_flight(empty, alone, in_a_run),
            TOLD,
        )
        singles = paired(
            lambda: ours.one_by_one(grown, single), lambda: theirs.one_by_one(new, single), bench.rounds
        )
    row.setting["sessions_in_turn"] = f"{len(spread):,} of those stored; {INTERLEAVED:,} new ones"
    _report_turns(row, f"{usual.messages:,} stored", pairs, beside_one, singles)
    row.notes.append(
        "The stored sessions that are appended to are spread over all of them, so each append of a group goes"
        " to another page of the index of messages by session."
    )


def _report_turns(row: Row, name: str, pairs: Pairs, beside_one: Pairs, singles: Pairs) -> None:
    row.sides = {
        f"{name}, in turn": pairs.ours,
        "none stored, in turn": pairs.theirs,
        f"{name}, in turn, beside one": beside_one.ours,
        "none stored, one session": beside_one.theirs,
        f"{name}, one at a time": singles.ours,
        "none stored, one at a time": singles.theirs,
    }
    row.checks += [
        Check("appends a second in flight, both in turn", pairs.rate_ratios(), 0.5),
        Check("appends a second in flight, in turn / one session", beside_one.rate_ratios()),
        Check("p99 one at a time, both in turn", singles.latency_ratios("p99"), at_most=True),
    ]


def _spread(sessions: int, count: int) -> list[int]:
    """So many ids, evenly over all."""
    return [1 + index * sessions // count for index in range(count)]


class Turns:
    """Sessions that are appended to in turn."""

    def __init__(self, session_ids: Sequence[int]) -> None:
        self._ids = itertools.cycle(session_ids)

    def in_flight(self, pipe: Pipeline, count: int) -> Sample:
        """As many in flight as the pipeline lets through."""

        def act() -> None:
            for session_id in itertools.islice(self._ids, count):
                pipe.append(session_id, "user", TEXT)
            pipe.flush()

        return timed(count, act)

    def one_by_one(self, client: armin.Client, count: int) -> Sample:
        """One append at a time."""

        def append() -> object:
            return client.append(next(self._ids), "user", TEXT)

        return one_by_one(itertools.repeat(append, count))


def _group_size(client: armin.Client) -> Callable[[], float]:
    """Counts from now on; says how many facts a commit had since."""
    before = client.stats()

    def mean() -> float:
        after = client.stats()
        commits: int = after["commits"] - before["commits"]
        facts: int = after["facts"] - before["facts"]
        return facts / commits

    return mean


# --- 13: refresh ------------------------------------------------------------------------------------------


@case("13", "refresh of 10,000 messages with 2,000,000 in 200,000 sessions stored / with 20,000 in 2,000")
def refresh(bench: Bench, row: Row) -> None:
    large, small = many_short(bench), Filling(2_000, each=10, open_at_once=1_000)
    wide = min(DELTA, large.sessions)
    row.setting |= {
        "engine": "embedded, a process each: no refresh comes by itself",
        "message_bytes": MESSAGE_BYTES,
        "stored": str(large),
        "stored, small": str(small),
        "delta": f"{DELTA:,} messages over sessions drawn at random, seed {SEED}",
        "garbage_collector": "as the daemon sets it",
    }
    deltas = ((wide, small.sessions), *((touched, touched) for touched in (small.sessions, 500, 100)))
    with (
        bench.directory() as copies,
        crew(1, _refresher, filled(bench, large), copies, False) as [ours],
        crew(1, _refresher, filled(bench, small), copies, True) as [theirs],
    ):
        for touched, beside in deltas:
            pairs = paired(_asking(ours, touched), _asking(theirs, beside), REFRESHES * bench.rounds)
            _report_refresh(row, touched, beside, pairs, held=touched == beside == small.sessions)
    row.notes += [
        "The time of refresh_snapshot alone, the delta being there. The ratio is held where the delta is the"
        " same in both, over as many sessions as the small file has: what the size of the file alone costs."
        " Over 10,000 sessions the fold changes five times as many as the small file has at all.",
        "Nobody was handed a view, as in the daemon; else the fold copies the sessions that the view has.",
        "A fold seals a session's last messages into a chunk only when there are some (16 at present): deltas"
        " of 20 and more messages a session seal all of theirs, the others none.",
        "The large engine grows by half a percent with each refresh; the small one begins anew for each.",
    ]


def _asking(hand: Hand, touched: int) -> Measure:
    def ask() -> Sample:
        hand.tell(touched)
        seconds = float(hand.hear())
        return Sample(DELTA, seconds, [seconds])

    return ask


def _report_refresh(row: Row, touched: int, beside: int, pairs: Pairs, *, held: bool) -> None:
    delta = f"{touched:,} sessions x {DELTA // touched}"
    both = f"{delta} / {beside:,} x {DELTA // beside}" if touched != beside else f"{delta} in both"
    milliseconds = [1000 * sample.seconds for sample in pairs.ours]
    row.sides |= {f"large, {delta}": pairs.ours, f"small, {both}": pairs.theirs}
    row.checks += [
        Check(
            f"time, {both}", [1 / ratio for ratio in pairs.rate_ratios()], 2 if held else None, at_most=True
        ),
        Check(f"time, large, {delta}", milliseconds, 20, at_most=True, unit="ms"),
        Check(f"slowest, large, {delta}", [max(milliseconds)], at_most=True, unit="ms"),
    ]


def _refresher(pipe: Connection, source: Path, copies: Path, afresh: bool) -> None:
    """For ever: hear over how many sessions to spread a delta, tell the seconds of its refresh.

    `afresh`: each time with an engine on a new copy of `source`.
    """
    draw = random.Random(SEED)
    while True:
        with _embedded(source, copies) as engine:
            spare_history_from_collection()
            again = True
            while again:
                sessions = draw.sample(range(1, engine.gauges()["sessions"] + 1), pipe.recv())
                _append_delta(engine, sessions)
                began = time.perf_counter()
                engine.refresh_snapshot()
                pipe.send(time.perf_counter() - began)
                again = not afresh


@contextlib.contextmanager
def _embedded(source: Path, copies: Path) -> Iterator[Armin]:
    directory = Path(tempfile.mkdtemp(dir=copies))
    try:
        shutil.copy(source / DATABASE_FILE, directory)
        with Armin(directory / DATABASE_FILE) as engine:
            yield engine
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _append_delta(engine: Armin, session_ids: Sequence[int]) -> None:
    turns = itertools.islice(itertools.cycle(session_ids), DELTA)
    appends = [Append(session_id, (MESSAGE,), None) for session_id in turns]
    for first in range(0, DELTA, DELTA_GROUP):
        commit(engine, appends[first : first + DELTA_GROUP])
