"""The memory of an engine that has lived long: what it is made of, to the byte."""

from __future__ import annotations

import gc
import itertools
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

from armin_broker.config import Config
from armin_engine import Append, Armin, CloseSession, CreateSession
from armin_engine.records import Command, new_message
from benchmarks.bench import TEXT, Bench, Missing, case
from benchmarks.filled import commit, spare_history_from_collection
from benchmarks.footprint import Held, Objects, can_tell
from benchmarks.rows import Check, Row, Sample
from benchmarks.servers import crew

CONTENT_BYTES: Final = 50
OPEN: Final = 1_000  # sessions at a time
EACH: Final = 100  # messages of a session, then it is closed
GROUP: Final = 1_000  # commands in one commit
PARTS: Final = 10  # of the run, after each of which memory is looked at
MB: Final = 1e6

MESSAGE: Final = (new_message("user", TEXT[:CONTENT_BYTES]),)


class Look(NamedTuple):
    """The engine at one moment; what it has done since the last one."""

    messages: int
    seconds: float
    resident: int
    history: int  # what the engine itself reckons
    file: int


class Account(NamedTuple):
    """Where the memory is at the end: bytes by what they are for, and how many objects of each type."""

    terms: dict[str, int]
    objects: dict[str, int]
    resident: int


@case("M", "memory after 10,000,000 small appends with refreshes, sessions closed")
def churn(bench: Bench, row: Row) -> None:
    if not can_tell():
        raise Missing("the system's malloc does not say what it holds (glibc 2.33 or newer does)")
    messages = bench.size(10_000_000, 300_000)
    row.setting |= {
        "engine": "embedded, in a process of its own",
        "messages": messages,
        "message_bytes": CONTENT_BYTES,
        "sessions": f"{OPEN:,} open at a time, written in turn, each closed after {EACH} messages",
        "appends_a_commit": GROUP,
        "refresh": f"at {_refresh_at():,} messages in the delta, as the daemon's",
        "keys": "none: they are on disk alone",
        "garbage_collector": "as the daemon sets it",
    }
    with bench.directory() as directory:
        path = directory / "armin.db"
        with crew(1, _churn, path, messages) as [hand]:
            looks = [Look(*hand.hear()) for _ in range(PARTS)]
            account = Account(*hand.hear())
        with crew(1, _recover, path) as [hand]:
            recovered = int(hand.hear())
    _report(row, looks, account, recovered)


def _refresh_at() -> int:
    return Config(Path()).snapshot_messages


# --- in a process of its own --------------------------------------------------------------------------------


def _churn(pipe: Connection, path: Path, messages: int) -> None:
    gc.collect()
    before = Held.now()
    with Armin(path) as engine:
        spare_history_from_collection()
        commands = _commands()
        for part in range(1, PARTS + 1):
            pipe.send(_append(engine, commands, path, messages * part // PARTS))
        engine.refresh_snapshot()
        pipe.send(_account(engine, before))
        pipe.recv()  # until it is ended


def _commands() -> Iterator[Command]:
    """Sessions that are written in turn; where one is full it is closed and a new one takes its place."""
    yield from (CreateSession(None, None) for _ in range(OPEN))
    last = OPEN
    ids = list(range(1, OPEN + 1))
    left = [EACH - index % EACH for index in range(OPEN)]  # they are not full all at once
    for index in itertools.cycle(range(OPEN)):
        yield Append(ids[index], MESSAGE, None)
        left[index] -= 1
        if not left[index]:
            yield CloseSession(ids[index])
            yield CreateSession(None, None)
            last += 1
            ids[index], left[index] = last, EACH


def _append(engine: Armin, commands: Iterator[Command], path: Path, until: int) -> Look:
    """Append until there are so many messages."""
    refresh_at, before = _refresh_at(), engine.gauges()["messages"]
    began = time.perf_counter()
    while engine.gauges()["messages"] < until:
        commit(engine, list(itertools.islice(commands, GROUP)))
        if engine.delta_messages >= refresh_at:
            engine.refresh_snapshot()
    taken = time.perf_counter() - began
    done = engine.gauges()["messages"] - before
    return Look(done, taken, Held.now().resident, engine.history_bytes, path.stat().st_size)


def _account(engine: Armin, before: Held) -> Account:
    """Every term is measured by itself: none is what is left over."""
    now = Held.now()  # before the objects are counted, which takes memory too
    log: list[Any] = list(vars(engine.log).values())
    objects = Objects(engine, apart=log)
    terms = {
        "interpreter, libraries and imports": before.resident,
        "packed messages": objects.payload["bytes"],
        "their offsets, and ids of sessions": objects.payload["array"],
        "the log, two arrays": sum(map(sys.getsizeof, log)),
        "pointers in lists": objects.payload["list"],
        "room to grow in arrays and lists": objects.room,
        **{f"{name}: objects, or their headers": size for name, size in objects.size.most_common()},
        "rounding up of blocks": objects.rounding,
        "SQLite, its page cache above all": now.sqlite - before.sqlite,
        "free in pymalloc": now.free_pymalloc - before.free_pymalloc,
        "free in malloc": now.free_malloc - before.free_malloc,
    }
    return Account(terms, dict(objects.count), now.resident)


def _recover(pipe: Connection, path: Path) -> None:
    with Armin(path):
        pipe.send(Held.now().resident)
        pipe.recv()  # until it is ended


# --- what is said of it -------------------------------------------------------------------------------------


def _report(row: Row, looks: list[Look], account: Account, recovered: int) -> None:
    resident = account.resident
    messages = sum(look.messages for look in looks)
    beside = resident - account.terms["packed messages"] - account.terms["interpreter, libraries and imports"]
    row.sides["embedded engine"] = [Sample(look.messages, look.seconds) for look in looks]
    row.setting |= {f"objects of type {name}": count for name, count in _large(account.objects)}
    row.setting |= {f"bytes, {name}": size for name, size in account.terms.items() if size >= MB / 10}
    row.setting |= {"bytes, all of these": sum(account.terms.values()), "bytes, resident": resident}
    row.setting["looks"] = [look._asdict() for look in looks]
    row.checks += [
        Check("memory that is explained", [100 * sum(account.terms.values()) / resident], 95, unit="%"),
        Check("memory", [resident / MB], unit="MB"),
        Check("memory beside packed messages, a message", [beside / messages], at_most=True, unit="bytes"),
        Check("free in the allocators", [100 * _free(account) / resident], at_most=True, unit="%"),
        Check("memory / the same after a restart", [resident / recovered], at_most=True),
        Check("memory / what the engine reckons", [resident / looks[-1].history], at_most=True),
        Check("growth, second half / first half", [_growth(looks)], at_most=True),
        Check("appends a second, last tenth / first", [_rate(looks[-1]) / _rate(looks[0])]),
    ]
    row.notes += [_in_words(account)]


def _large(objects: dict[str, int]) -> list[tuple[str, int]]:
    return [(name, count) for name, count in objects.items() if count >= OPEN]


def _free(account: Account) -> int:
    return account.terms["free in pymalloc"] + account.terms["free in malloc"]


def _growth(looks: list[Look]) -> float:
    """Memory that a message of the second half added, over one of the first half without its first tenth."""
    middle = len(looks) // 2
    first, half, end = (looks[index].resident for index in (0, middle - 1, -1))
    return (end - half) / (len(looks) - middle) / ((half - first) / (middle - 1))


def _rate(look: Look) -> float:
    return look.messages / look.seconds


def _in_words(account: Account) -> str:
    terms = sorted(account.terms.items(), key=lambda term: -term[1])
    parts = [f"{name} {size / MB:,.1f} MB" for name, size in terms if abs(size) >= account.resident / 1000]
    return f"Of {account.resident / MB:,.1f} MB: {', '.join(parts)}."
