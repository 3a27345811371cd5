"""Batches of 1,000: through the client, and straight into SQLite's tables."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from armin.keys import new_key
from armin_engine.facts import Kind
from armin_engine.store import SQLiteStore
from benchmarks.bench import TEXT, Bench, case
from benchmarks.cases.appends import armin_client, keyless_batch, measure_both, messages, one_by_one
from benchmarks.rows import Row, Sample

ROWS: Final = 1000  # messages in one append_many, and in one transaction


class Table:
    """A file of the store's making and the connection that it writes through: same schema, same pragmas."""

    INSERTS: Final = (
        "INSERT INTO append_keys VALUES (?, ?, ?, ?, ?)",
        "INSERT INTO messages VALUES (?, ?, ?, ?, ?)",
        "INSERT INTO log VALUES (?, ?, ?, ?, ?)",
    )

    def __init__(self, path: Path) -> None:
        self._store = SQLiteStore(path)
        for _ in self._store.recovered():
            pass  # there is nothing yet, but the store writes only after it has looked
        self._store.start_writing()
        assert self._store._writer is not None
        self._writer: sqlite3.Connection = self._store._writer
        self._writer.execute("INSERT INTO sessions VALUES (1, 0, 0)")
        self._next_id = 1

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def measure(self, batches: int, *, keyed: bool) -> Sample:
        """So many transactions of 1,000 messages; what goes into them is made before the clock runs."""
        prepared = [self._rows(keyed) for _ in range(batches)]
        return one_by_one([partial(self._write, rows) for rows in prepared], ROWS)

    def _write(self, rows: tuple[list[tuple[Any, ...]], ...]) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        for insert, parameters in zip(self.INSERTS, rows, strict=True):
            if parameters:
                self._writer.executemany(insert, parameters)
        self._writer.execute("COMMIT")

    def _rows(self, keyed: bool) -> tuple[list[tuple[Any, ...]], ...]:
        ids = range(self._next_id, self._next_id + ROWS)
        self._next_id += ROWS
        created_at = time.time_ns() // 1_000_000
        return (
            [(new_key(), 1, ids[0] + 1, ROWS, os.urandom(16))] if keyed else [],
            [(number, 1, 0, TEXT, created_at) for number in ids],
            [(number + 1, Kind.MESSAGE_APPENDED.value, 1, number, os.urandom(16)) for number in ids],
        )


@case("6", "append_many of 1,000 through the client / executemany of the same rows, same schema")
def beside_sqlite(bench: Bench, row: Row) -> None:
    batches, batch = bench.size(30, 10), messages(ROWS)

    def measure(act: Callable[[], object]) -> Callable[[], Sample]:
        return lambda: one_by_one(itertools.repeat(act, batches), ROWS)

    with (
        armin_client(bench) as (client, session),
        bench.directory() as directory,
        contextlib.closing(Table(directory / "t.db")) as table,
    ):
        measure_both(
            bench,
            row,
            "executemany",
            0.6,
            keyed=(
                measure(lambda: client.append_many(session, batch)),
                lambda: table.measure(batches, keyed=True),
            ),
            keyless=(
                measure(lambda: client._channel.request(keyless_batch(session, batch))),
                lambda: table.measure(batches, keyed=False),
            ),
        )
    row.setting |= {"batch": ROWS, "batches_a_run": batches, "sqlite": sqlite3.sqlite_version}
    row.notes.append(
        "executemany: messages, log and (with keys) append_keys, through the connection that the store itself"
        " opens, one BEGIN IMMEDIATE to COMMIT around each 1,000, in this process; rows and digests (random"
        " bytes) are made beforehand. Latencies are those of whole batches."
    )
