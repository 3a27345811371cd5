"""How fast workers are: a handler that does nothing, on a real engine and a real disk.

    python benchmarks/workers.py [--facts 20000] [--concurrency 100] [--directory DIR]

Prints effects handled a second, from the first lease to the last ack, for both kinds of worker. Every lease
and every ack is a row in SQLite, synced (`synchronous=FULL`) before it is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import armin

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from harness import Engine


def fill(directory: Path, facts: int) -> None:
    """One session with so many messages of 100 bytes, less its creation."""
    with armin.connect(directory) as client:
        session = client.create_session()
        left = facts - 1
        while left:
            count = min(left, 5000)
            client.append_many(session.id, [{"role": "user", "content": "x" * 100}] * count)
            left -= count


async def asynchronous(directory: Path, facts: int, concurrency: int) -> float:
    """Seconds for all effects."""

    async def handle(effect: armin.Effect) -> None:
        if effect.position == facts:
            worker.stop()

    async with armin.connect_async(directory) as client:
        worker = client.worker("asyncio", handle, concurrency=concurrency)
        begun = time.perf_counter()
        await worker.run()
        assert worker.counters.handled == facts, worker.counters
        return time.perf_counter() - begun


def blocking(directory: Path, facts: int, concurrency: int) -> float:
    """Seconds for all effects."""

    def handle(effect: armin.Effect) -> None:
        if effect.position == facts:
            worker.stop()

    with armin.connect(directory) as client:
        worker = client.worker("blocking", handle, concurrency=concurrency)
        begun = time.perf_counter()
        worker.run()
        assert worker.counters.handled == facts, worker.counters
        return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--directory", type=Path, help="on the disk to be measured")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="armin-", dir=given.directory) as directory:
        engine = Engine(Path(directory) / "e").start()
        try:
            fill(engine.directory, given.facts)
            for name, seconds in (
                ("asyncio", asyncio.run(asynchronous(engine.directory, given.facts, given.concurrency))),
                ("blocking", blocking(engine.directory, given.facts, given.concurrency)),
            ):
                print(f"{name:8} concurrency {given.concurrency}: {given.facts / seconds:,.0f} effects/s")
        finally:
            engine.stop()


if __name__ == "__main__":
    main()
