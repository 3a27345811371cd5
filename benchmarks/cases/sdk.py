"""Beside the session store of an agents' SDK, used as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import armin
from benchmarks.bench import MESSAGE_BYTES, SYNC, TEXT, Bench, Missing, case
from benchmarks.rows import Check, Row, Sample, paired
from benchmarks.servers import Engine

ITEM: Final = {"role": "user", "content": TEXT}
SYNCHRONOUS: Final = ("OFF", "NORMAL", "FULL", "EXTRA")  # as SQLite numbers them


async def one_by_one(act: Callable[[], Awaitable[object]], count: int) -> Sample:
    """One after the other, the latency of each noted."""
    latencies: list[float] = []
    began = before = time.perf_counter()
    for _ in itertools.repeat(None, count):
        await act()
        after = time.perf_counter()
        latencies.append(after - before)
        before = after
    return Sample(count, before - began, latencies)


@contextlib.contextmanager
def sdk_session(path: Path) -> Iterator[Any]:
    """A SQLiteSession with nothing set but its file."""
    try:
        from agents import SQLiteSession  # noqa: PLC0415 - a peer that may not be installed
    except ImportError:
        raise Missing("the OpenAI Agents SDK is not installed (pip install openai-agents)") from None
    with contextlib.closing(SQLiteSession("s", path)) as session:
        yield session


def modes(path: Path) -> str:
    """Journal and sync mode of a connection that sets neither, as the SDK's sets no sync mode."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
        (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
    return f"journal_mode={journal}, synchronous={SYNCHRONOUS[synchronous]}"


@contextlib.contextmanager
def async_client(runner: asyncio.Runner, directory: Path) -> Iterator[armin.AsyncClient]:
    """A client that lives in the runner's loop."""

    async def made() -> armin.AsyncClient:
        return armin.connect_async(directory, timeout=60.0)

    client = runner.run(made())
    try:
        yield client
    finally:
        runner.run(client.close())


@case("S", "one append at a time, asyncio / one item at a time, OpenAI Agents SDK's SQLiteSession")
def beside_sdk(bench: Bench, row: Row) -> None:
    count = bench.size(2000, 500)
    with (
        bench.directory() as directory,
        sdk_session(directory / "s.db") as theirs,
        Engine(directory / "e") as engine,
        asyncio.Runner() as runner,
        async_client(runner, engine.directory) as ours,
    ):
        session = runner.run(ours.create_session()).id

        def measure(act: Callable[[], Awaitable[object]]) -> Callable[[], Sample]:
            return lambda: runner.run(one_by_one(act, count))

        pairs = paired(
            measure(lambda: ours.append(session, "user", TEXT)),
            measure(lambda: theirs.add_items([ITEM])),
            bench.rounds,
        )
        peer = (
            f"openai-agents {version('openai-agents')}, SQLite {sqlite3.sqlite_version}, SQLiteSession with"
            f" its default settings: {modes(directory / 's.db')}"
        )
    row.sides = {"armin": pairs.ours, "SQLiteSession": pairs.theirs}
    row.checks = [
        Check("appends a second", pairs.rate_ratios()),
        *(Check(name, pairs.latency_ratios(name), at_most=True) for name in ("p50", "p99", "p99.9")),
    ]
    row.setting |= {
        "sync": SYNC,
        "writers": 1,
        "message_bytes": MESSAGE_BYTES,
        "keys": "the client's, UUIDv7",
        "sessions": 1,
        "appends_a_run": count,
        "peer": peer,
    }
    row.notes.append(
        "Both from one asyncio loop: `AsyncClient.append`, which asks another process, and"
        " `SQLiteSession.add_items` of one item, which writes in a thread of this one."
    )
