"""What idempotency keys and the digest chain cost, in one engine on one file, in turn.

    python benchmarks/keys_and_chain.py [--stored 1000000] [--group 256] [--rounds 40]

Blocks of groups with both, without keys, without the chain's hashing and without either take turns on the
same engine, embedded, `synchronous=FULL`; reported are medians of the time of an append and of the ratios
to the block without either of the same round. Contents are 200 bytes; keys grow with time.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from armin_engine import Append, Armin, CreateSession, digest
from armin_engine.digest import DIGEST_BYTES
from armin_engine.errors import EngineError
from armin_engine.records import new_message

GROUPS_A_BLOCK = 20
VARIANTS = (
    ("keys and chain", True, True),
    ("chain", False, True),
    ("keys", True, False),
    ("none", False, False),
)


def keys() -> Iterator[str]:
    return (f"01900000-0000-7000-8000-{number:012x}" for number in itertools.count(1))


def commit(armin: Armin, group: list[Append]) -> float:
    began = time.perf_counter()
    outcomes = armin.apply(group)
    taken = time.perf_counter() - began
    failed = [outcome for outcome in outcomes if isinstance(outcome, EngineError)]
    if failed:
        sys.exit(f"an append failed: {failed[0]}")
    return taken


def fill(armin: Armin, stored: int, sessions: int, source: Iterator[str]) -> None:
    armin.apply([CreateSession(None, None) for _ in range(sessions)])
    message = (new_message("user", "x" * 200),)
    for begin in range(0, stored, 1000):
        group = [Append((begin + i) % sessions + 1, message, None, next(source)) for i in range(1000)]
        commit(armin, group)
        armin.refresh_snapshot()


def block(armin: Armin, size: int, spread: int, source: Iterator[str] | None) -> float:
    """Seconds that an append takes, in groups of `size` over `spread` sessions."""
    message = (new_message("user", "x" * 200),)
    seconds = 0.0
    for _ in range(GROUPS_A_BLOCK):
        group = []
        previous: dict[int, str] = {}
        for i in range(size):
            session_id = i % spread + 1
            key = None if source is None else next(source)
            group.append(Append(session_id, message, None, key, previous.get(session_id)))
            if key is not None:
                previous[session_id] = key
        seconds += commit(armin, group)
    armin.refresh_snapshot()
    return seconds / (GROUPS_A_BLOCK * size)


def measure(armin: Armin, size: int, spread: int, rounds: int, source: Iterator[str]) -> None:
    times: dict[str, list[float]] = {name: [] for name, _, _ in VARIANTS}
    for turn in range(rounds):
        order = VARIANTS[turn % 4 :] + VARIANTS[: turn % 4]
        for name, with_keys, with_chain in order:
            with mock.patch.object(digest, "chain", digest.chain if with_chain else no_chain):
                times[name].append(block(armin, size, spread, source if with_keys else None))
    print(f"groups of {size}, {spread} session(s) a group:")
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times["none"], strict=True)]
        print(
            f"  {name:15} {statistics.median(values) * 1e6:6.2f} us an append,"
            f" {statistics.median(ratios):.3f} x none"
        )


def no_chain(previous: bytes, fact: object) -> bytes:
    return bytes(DIGEST_BYTES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stored", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--group", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=40)
    asked = parser.parse_args()
    source = keys()
    with tempfile.TemporaryDirectory() as directory, Armin(Path(directory) / "armin.db") as armin:
        fill(armin, asked.stored, asked.sessions, source)
        for spread in (1, min(256, asked.sessions)):
            measure(armin, asked.group, spread, asked.rounds, source)


if __name__ == "__main__":
    main()
