"""What idempotency keys and the digest chain cost, in one engine on one file."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Final, NamedTuple
from unittest import mock

from armin_engine import Append, Armin, CreateSession, digest
from armin_engine.errors import EngineError
from armin_engine.records import NewMessage, new_message
from benchmarks.bench import MESSAGE_BYTES, SYNC, TEXT, Bench, case
from benchmarks.rows import Check, Row, Sample

GROUP: Final = 256  # appends in one commit
GROUPS: Final = 20  # commits in one sample
SESSIONS: Final = 1_000
FILL: Final = 1_000  # appends in one commit while the file is filled
ROUNDS: Final = 3  # for each of the bench's: samples are short

MESSAGE: Final[tuple[NewMessage, ...]] = (new_message("user", TEXT),)

Keys = Iterator[str]


class Variant(NamedTuple):
    """Appends with keys or without, in an engine that chains digests or leaves that out."""

    name: str
    keys: bool
    chain: bool


PLAIN: Final = Variant("neither", False, False)
VARIANTS: Final = (
    Variant("armin, keys and chain", True, True),
    Variant("armin, chain alone", False, True),
    Variant("armin, keys alone", True, False),
    PLAIN,
)


@case("K", "an append with an idempotency key and the digest chain / the same without")
def keys_and_chain(bench: Bench, row: Row) -> None:
    stored = bench.size(500_000, 50_000)
    row.setting |= {
        "sync": SYNC,
        "engine": "embedded, in this process: no sockets",
        "stored": f"{stored} messages with keys in {SESSIONS} sessions",
        "appends_a_commit": GROUP,
        "message_bytes": MESSAGE_BYTES,
        "keys": "grow with time, as UUIDv7 do; each names the one before it in its session",
    }
    keys = (f"01900000-0000-7000-8000-{number:012x}" for number in itertools.count(1))
    with bench.directory() as directory, Armin(directory / "armin.db") as armin:
        fill(armin, stored, keys)
        for sessions in (1, GROUP):
            where = "one session" if sessions == 1 else f"{sessions} sessions"
            samples = measure(armin, sessions, ROUNDS * bench.rounds, keys)
            row.sides |= {f"{name}, {where}": taken for name, taken in samples.items()}
            row.checks += [
                Check(f"time, {name.removeprefix('armin, ')}, {where}", _ratios(taken, samples[PLAIN.name]))
                for name, taken in samples.items()
                if name != PLAIN.name
            ]
    row.notes.append(
        "Without the chain: the same rows, but nothing is hashed for them. Every commit is synced."
    )


def _ratios(samples: list[Sample], plain: list[Sample]) -> list[float]:
    """Times over the plain ones of the same round."""
    return [b.rate / a.rate for a, b in zip(samples, plain, strict=True)]


def fill(armin: Armin, stored: int, keys: Keys) -> None:
    """So many messages over all sessions."""
    armin.apply([CreateSession(None, None) for _ in range(SESSIONS)])
    for begin in range(0, stored, FILL):
        sessions = ((begin + i) % SESSIONS + 1 for i in range(FILL))
        commit(armin, [Append(session_id, MESSAGE, None, next(keys)) for session_id in sessions])
        armin.refresh_snapshot()


def measure(armin: Armin, sessions: int, rounds: int, keys: Keys) -> dict[str, list[Sample]]:
    """Samples of every variant, in turn, each round beginning with another one."""
    samples: dict[str, list[Sample]] = {variant.name: [] for variant in VARIANTS}
    for number in range(1 + rounds):
        first = number % len(VARIANTS)
        for variant in VARIANTS[first:] + VARIANTS[:first]:
            with _chained(variant.chain):
                sample = block(armin, sessions, keys if variant.keys else None)
            if number:  # the first round is the warm-up
                samples[variant.name].append(sample)
    return samples


def block(armin: Armin, sessions: int, keys: Keys | None) -> Sample:
    """Some commits over so many sessions."""
    groups = [group(sessions, keys) for _ in range(GROUPS)]
    seconds = sum(commit(armin, appends) for appends in groups)
    armin.refresh_snapshot()
    return Sample(GROUPS * GROUP, seconds)


def group(sessions: int, keys: Keys | None) -> list[Append]:
    """Appends of one commit, the sessions taking turns."""
    appends: list[Append] = []
    before: dict[int, str] = {}
    for i in range(GROUP):
        session_id = i % sessions + 1
        key = None if keys is None else next(keys)
        appends.append(Append(session_id, MESSAGE, None, key, before.get(session_id)))
        if key is not None:
            before[session_id] = key
    return appends


def commit(armin: Armin, appends: list[Append]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    outcomes = armin.apply(appends)
    taken = time.perf_counter() - began
    failed = [outcome for outcome in outcomes if isinstance(outcome, EngineError)]
    if failed:
        raise failed[0]
    return taken


def _chained(chain: bool) -> AbstractContextManager[object]:
    return nullcontext() if chain else mock.patch.object(digest, "chain", _nothing)


def _nothing(previous: bytes, fact: object) -> bytes:
    return bytes(digest.DIGEST_BYTES)
