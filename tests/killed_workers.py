"""Workers that are killed all the time, and what their handlers saw.

    python tests/killed_workers.py --effects 20000 --every 1.0 [--ordered]

Three worker processes share one group. One of them is killed every so often and replaced, and the engine
twice in between. Every handler writes down when it began and when it ended; `Report` is made from that.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import armin
from armin import Effect
from harness import Engine

WORKERS = 3
GROUP = "killed"
SESSIONS = 40
LEASE_MS = 2000  # how long the effects of a killed worker lie still
KIND = "message_appended"


@dataclass
class Span:
    """One call of a handler; without an end if its process was killed."""

    position: int
    session_id: int
    pid: int
    begun: int
    ended: int | None = None


@dataclass
class Report:
    """What came of it."""

    effects: int
    handled: int
    handled_twice: int
    kills: int
    engine_kills: int
    seconds: float
    spans: list[Span]

    def out_of_order(self, killed_at: dict[int, int]) -> list[tuple[Span, Span]]:
        """Pairs of calls for one session that overlapped, or of which the later one went back."""
        wrong = []
        sessions: defaultdict[int, list[Span]] = defaultdict(list)
        for span in sorted(self.spans, key=lambda span: span.begun):
            sessions[span.session_id].append(span)
        for spans in sessions.values():
            for before, after in pairwise(spans):
                end = killed_at.get(before.pid) if before.ended is None else before.ended
                if end is None or end > after.begun or before.position > after.position:
                    wrong.append((before, after))
        return wrong


class Campaign:
    """One engine, its workers, and whoever kills them."""

    def __init__(self, directory: Path, effects: int, *, ordered: bool, every: float, seed: int) -> None:
        self.engine = Engine(directory / "e")
        self.killed_at: dict[int, int] = {}
        self._log = directory / "log"
        self._log.touch()
        self._effects = effects
        self._ordered = ordered
        self._every = every
        self._random = random.Random(seed)

    def run(self) -> Report:
        """Until everything is handled."""
        self.engine.start()
        self._append()
        begun = time.monotonic()
        with self._workers() as workers:
            kills = engine_kills = handled = 0
            while not self._done():
                time.sleep(self._every)  # the rhythm of the kills; nothing is awaited by it
                if self._ended() - handled < self._effects // 100:
                    continue  # on a busy machine, workers would be killed before they have begun
                handled = self._ended()
                self._replace(workers)
                kills += 1
                if engine_kills < 2 and self._ended() > self._effects * (engine_kills + 1) / 4:
                    self.engine.kill()
                    self.engine.start()
                    engine_kills += 1
            seconds = time.monotonic() - begun
        self.engine.stop()
        return self._report(kills, engine_kills, seconds)

    def _append(self) -> None:
        with armin.connect(self.engine.directory) as client:
            sessions = [client.create_session().id for _ in range(SESSIONS)]
            for session_id, share in zip(sessions, self._shares(), strict=True):
                client.append_many(session_id, [{"role": "user", "content": "x"}] * share)

    def _shares(self) -> list[int]:
        share, rest = divmod(self._effects, SESSIONS)
        return [share + (index < rest) for index in range(SESSIONS)]

    @contextmanager
    def _workers(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        workers = [self._start() for _ in range(WORKERS)]
        try:
            yield workers
        finally:
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            codes = [worker.wait(90) for worker in workers]
        assert set(codes) <= {0, -signal.SIGTERM}, codes  # the latter had not begun yet

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = [str(self.engine.directory), str(self._log), "ordered" if self._ordered else ""]
        return subprocess.Popen([sys.executable, __file__, "--worker", *arguments])

    def _replace(self, workers: list[subprocess.Popen[bytes]]) -> None:
        index = self._random.randrange(WORKERS)
        self.killed_at[workers[index].pid] = time.monotonic_ns()  # it lived until now
        workers[index].kill()
        workers[index].wait()
        workers[index] = self._start()

    def _ended(self) -> int:
        return self._log.read_bytes().count(b"end")

    def _done(self) -> bool:
        try:
            with armin.connect(self.engine.directory) as client:
                [group] = client.groups(GROUP)
        except armin.GroupNotFound:  # no worker has come so far yet
            return False
        return group.behind + group.waiting + group.leased == 0

    def _report(self, kills: int, engine_kills: int, seconds: float) -> Report:
        spans: dict[tuple[int, int, int], Span] = {}
        for line in self._log.read_text("ascii").splitlines():
            what, *fields = line.split()
            position, session_id, pid, attempt, moment = map(int, fields)
            if what == "begin":
                spans[position, pid, attempt] = Span(position, session_id, pid, moment)
            else:
                spans[position, pid, attempt].ended = moment
        ends = Counter(span.position for span in spans.values() if span.ended is not None)
        twice = sum(number > 1 for number in ends.values())
        return Report(self._effects, len(ends), twice, kills, engine_kills, seconds, list(spans.values()))


async def work(directory: str, log: str, ordered: bool) -> None:
    """What each worker process does, until SIGTERM."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)

    def note(what: str, effect: Effect) -> None:
        fields = (effect.position, effect.session_id, os.getpid(), effect.attempt, time.monotonic_ns())
        os.write(descriptor, f"{what} {' '.join(map(str, fields))}\n".encode("ascii"))

    async def handle(effect: Effect) -> None:
        note("begin", effect)
        await asyncio.sleep(0.01)
        note("end", effect)

    async with armin.connect_async(directory) as client:
        worker = client.worker(
            GROUP,
            handle,
            concurrency=8,
            types=[KIND],
            ordered=ordered,
            max_attempts=1000,
            lease_ms=LEASE_MS,
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()


def main() -> None:
    """By hand: run it and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--effects", type=int, default=20_000)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ordered", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="armin-") as directory:
        campaign = Campaign(
            Path(directory), given.effects, ordered=given.ordered, every=given.every, seed=given.seed
        )
        report = campaign.run()
        wrong = report.out_of_order(campaign.killed_at) if given.ordered else []
    print(
        f"{report.handled} of {report.effects} handled, {report.handled_twice} of them twice, "
        f"{report.kills} workers killed, {report.engine_kills} engines, {report.seconds:.1f} s"
    )
    if given.ordered:
        print(f"{len(wrong)} calls overlapped another of their session, or went back")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        asyncio.run(work(sys.argv[2], sys.argv[3], sys.argv[4] == "ordered"))
    else:
        main()
