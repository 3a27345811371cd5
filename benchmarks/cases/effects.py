"""Side effects: a worker group with a backlog, worked off by the real workers and by bare sockets."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgpack
import zmq

import armin
from benchmarks.bench import MESSAGE_BYTES, SYNC, TEXT, Bench, case
from benchmarks.rows import Check, Row, Sample
from benchmarks.servers import Engine

BATCH: Final = 100  # effects leased at a time, at most
SESSIONS: Final = 100
ONE_AT_A_TIME: Final = 1_000  # effects for the worker with concurrency 1

Work = Callable[[str], Sample]  # works off a new group of this name


@case("14", "effects leased, handled by a no-op and acked, batches of 100, one worker")
def effects(bench: Bench, row: Row) -> None:
    row.setting |= {
        "sync": SYNC,
        "effects": bench.size(40_000, 10_000),
        "workers": 1,
        "batch": f"concurrency={BATCH}: at most so many leases a command",
        "message_bytes": MESSAGE_BYTES,
        "sessions": SESSIONS,
    }
    with bench.directory() as directory, Engine(directory / "e") as engine, engine.connect() as client:
        last = fill(client, row.setting["effects"])
        with bare_peer(engine) as ask:
            ways: dict[str, Work] = {
                "armin Worker": lambda group: blocking(client, group, last),
                "armin AsyncWorker": lambda group: asynchronous(engine, group, last),
                "armin Worker, concurrency 1": lambda group: blocking(client, group, ONE_AT_A_TIME, 1),
                "bare DEALER": lambda group: in_turn(ask, group),
            }
            used = measure(bench, engine, ways, row.sides)
    rates = {name: [sample.rate for sample in samples] for name, samples in row.sides.items()}
    row.checks += [
        Check("Worker, effects a second", rates["armin Worker"], 30_000, unit="/s"),
        *(Check(f"{name}, effects a second", rates[name], unit="/s") for name in list(ways)[1:]),
        Check("processor time of the engine for the bare DEALER", used, at_most=True, unit="us an effect"),
    ]
    row.notes += [
        "From `run` to its return, the creation of the group included. Each lease and each ack is a change of"
        " a row, synced before it is answered. Every run works off a new group over the same backlog.",
        f"Concurrency 1, the default, is measured over the first {ONE_AT_A_TIME:,} effects.",
        "The bare DEALER leases a batch, acks it, and looks at no effect: what the engine can do by itself.",
    ]


def measure(
    bench: Bench, engine: Engine, ways: dict[str, Work], sides: dict[str, list[Sample]]
) -> list[float]:
    """Fill in the sides, in turn; returns microseconds of the engine's processor an effect of the last."""
    used: list[float] = []
    sides |= {name: [] for name in ways}
    for number in range(1 + bench.rounds):
        for name, work in ways.items():
            before = engine.cpu_seconds()
            sample = work(f"{name}-{number}".replace(" ", "-").replace(",", ""))
            spent = engine.cpu_seconds() - before
            if number:  # the first round is the warm-up
                sides[name].append(sample)
        if number:
            used.append(1e6 * spent / sample.operations)
    return used


def fill(client: armin.Client, facts: int) -> int:
    """Sessions with messages, so many facts in all; the last one's position."""
    sessions = [client.create_session().id for _ in range(SESSIONS)]
    left = facts - SESSIONS
    for session, begin in zip(sessions, itertools.count(0, left // SESSIONS), strict=False):
        count = left - begin if session == sessions[-1] else left // SESSIONS
        appended = client.append_many(session, [armin.NewMessage("user", TEXT)] * count)
    return appended.position


# --- the workers, as their users have them ----------------------------------------------------------------


def blocking(client: armin.Client, group: str, last: int, concurrency: int = BATCH) -> Sample:
    """A Worker over all effects up to a position."""

    def handle(effect: armin.Effect) -> None:
        if effect.position == last:
            worker.stop()

    worker = client.worker(group, handle, concurrency=concurrency)
    began = time.perf_counter()
    worker.run()
    return _worked(worker.counters, last, time.perf_counter() - began)


def asynchronous(engine: Engine, group: str, last: int) -> Sample:
    """The same with an AsyncWorker."""

    async def run() -> Sample:
        async def handle(effect: armin.Effect) -> None:
            if effect.position == last:
                worker.stop()

        async with armin.connect_async(engine.directory) as client:
            worker = client.worker(group, handle, concurrency=BATCH)
            began = time.perf_counter()
            await worker.run()
            return _worked(worker.counters, last, time.perf_counter() - began)

    return asyncio.run(run())


def _worked(counters: armin.Counters, least: int, seconds: float) -> Sample:
    """What a worker has done: all of it, and none twice."""
    assert counters.handled >= least, counters
    assert counters.lost == counters.failed == counters.redelivered == 0, counters
    return Sample(counters.handled, seconds)


# --- bare sockets -----------------------------------------------------------------------------------------

Ask = Callable[..., dict[str, Any]]


@contextmanager
def bare_peer(engine: Engine) -> Iterator[Ask]:
    """A DEALER without any client around it."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"ipc://{engine.directory}/commands.sock")

        def ask(op: str, **fields: Any) -> dict[str, Any]:
            socket.send(msgpack.packb({"op": op, **fields}))
            reply: dict[str, Any] = msgpack.unpackb(socket.recv())
            assert reply["ok"], reply
            return reply

        yield ask


def in_turn(ask: Ask, group: str) -> Sample:
    """Lease a batch, ack it, until nothing is left."""
    began = time.perf_counter()
    ask("create_group", group=group, start="begin")
    done = 0
    while leases := ask("lease", group=group, max=BATCH)["leases"]:
        done += len(ask("ack", group=group, leases=[lease["lease"] for lease in leases])["outcomes"])
    return Sample(done, time.perf_counter() - began)
