"""Reading what is stored: whole sessions, and pages out of large and small ones."""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import armin
from benchmarks.bench import MESSAGE_BYTES, TEXT, Bench, Missing, case
from benchmarks.rows import Check, Row, Sample, paired
from benchmarks.servers import Engine, redis_server

BATCH: Final = 5_000  # messages in one append_many of a filling
SESSION: Final = 1_000  # messages in a session of ordinary size
PAGE: Final = 100
SEED: Final = 12
PURE: Final = "parser in Python"
IN_C: Final = "parser in C (hiredis)"


def timed(read: Callable[[], object], times: int) -> Sample:
    """Call `read` so often; each call's time is a latency."""
    latencies = []
    began = time.perf_counter()
    for _ in range(times):
        before = time.perf_counter()
        read()
        latencies.append(time.perf_counter() - before)
    return Sample(times, time.perf_counter() - began, latencies)


def fill(client: armin.Client, messages: int) -> int:
    """A new session with so many messages, in the snapshot; its id."""
    session = client.create_session().id
    with client.pipeline() as pipe:
        for start in range(0, messages, BATCH):
            batch = [armin.NewMessage("user", TEXT)] * min(BATCH, messages - start)
            pipe.append_many(session, batch)
    client.refresh_snapshot()
    return session


# --- 7: a whole session -----------------------------------------------------------------------------


@case("7", "reading a session of 1,000 messages into Python objects / redis-py XRANGE of the same")
def whole_session(bench: Bench, row: Row) -> None:
    reads = bench.size(200, 50)
    row.setting |= {
        "messages": SESSION,
        "message_bytes": MESSAGE_BYTES,
        "reads_per_sample": reads,
        "readers": 1,
        "transport": "Unix sockets",
        "armin": "client.read(session, limit=1000): one page of Message objects, every field checked",
        "redis-py": "XRANGE - + of all entries, fields role and content",
    }
    with (
        bench.directory() as root,
        Engine(root / "e") as engine,
        engine.connect() as client,
        _stream(root) as connect,
    ):
        session = fill(client, SESSION)

        def read() -> None:
            assert len(client.read(session, limit=SESSION).messages) == SESSION

        for parser, bound in _parsers():
            with connect(parser) as xrange:
                pairs = paired(partial(timed, read, reads), partial(timed, xrange, reads), bench.rounds)
            ours = "armin" if parser == PURE else f"armin (beside {parser})"
            row.sides |= {ours: pairs.ours, f"redis-py, {parser}": pairs.theirs}
            row.checks.append(Check(f"sessions read a second, {parser}", pairs.rate_ratios(), bound))
            row.checks.append(Check(f"p50 of a read, {parser}", pairs.latency_ratios("p50"), at_most=True))
    row.notes.append(
        "Both sides read from memory. redis-py gives a dict of bytes for each entry, field names included;"
        " Armin a Message of eight typed fields, its text decoded. `pip install redis` brings the parser in"
        " Python; the one in C is the package hiredis, and is measured where it is installed."
    )


def _parsers() -> list[tuple[str, float | None]]:
    """redis-py's parsers that are here, and what the ratio with each is held to."""
    parsers: list[tuple[str, float | None]] = [(PURE, 8)]
    if importlib.util.find_spec("hiredis") is not None:
        parsers.append((IN_C, None))
    return parsers


@contextmanager
def _stream(root: Path) -> Iterator[Callable[[str], AbstractContextManager[Callable[[], None]]]]:
    """A Redis stream of the same messages; gives a function that connects to it with a parser."""
    try:
        from redis import connection as connections  # noqa: PLC0415
    except ImportError:
        raise Missing("redis-py is not installed (pip install redis)") from None
    with redis_server(root) as path:

        @contextmanager
        def connect(parser: str) -> Iterator[Callable[[], None]]:
            # redis-py takes hiredis wherever it finds it; its own parser has no public name.
            options = {"parser_class": connections._RESP2Parser} if parser == PURE else {}
            with _redis(connections, path, options) as client:

                def read() -> None:
                    assert len(client.xrange("session")) == SESSION

                yield read

        with _redis(connections, path, {}) as client, client.pipeline(transaction=False) as pipe:
            for _ in range(SESSION):
                pipe.xadd("session", {"role": "user", "content": TEXT})
            pipe.execute()
        yield connect


def _redis(connections: Any, path: str, options: dict[str, Any]) -> Any:
    """A redis-py client over the Unix socket."""
    import redis  # noqa: PLC0415

    kind = connections.UnixDomainSocketConnection
    return redis.Redis.from_pool(connections.ConnectionPool(connection_class=kind, path=path, **options))


# --- 12: a page out of a large session ----------------------------------------------------------------


@case("12", "a page of 100 from a session of 1,000,000 / from one of 1,000")
def page_of_large_session(bench: Bench, row: Row) -> None:
    large, pages = bench.size(1_000_000, 100_000), bench.size(2_000, 500)
    row.setting |= {
        "large_session_messages": large,
        "small_session_messages": SESSION,
        "page_messages": PAGE,
        "message_bytes": MESSAGE_BYTES,
        "pages_per_sample": pages,
        "readers": 1,
        "places": f"uniformly random, seed {SEED}",
    }
    places = random.Random(SEED)
    with bench.directory() as root, Engine(root / "e") as engine, engine.connect() as client:
        ids = {size: fill(client, size) for size in (large, SESSION)}

        def read(size: int) -> Sample:
            return timed(lambda: _page(client, ids[size], places.randint(0, size - PAGE)), pages)

        pairs = paired(lambda: read(large), lambda: read(SESSION), bench.rounds)
    row.sides = {f"a session of {large:,}": pairs.ours, f"a session of {SESSION:,}": pairs.theirs}
    row.checks.append(Check("time of a page, p50", pairs.latency_ratios("p50"), 1.2, at_most=True))
    row.checks.append(Check("time of a page, p99", pairs.latency_ratios("p99"), at_most=True))
    row.notes.append("Both sessions are in one engine at once, and both are read through the same client.")


def _page(client: armin.Client, session: int, after: int) -> None:
    messages = client.read(session, after=after, limit=PAGE).messages
    assert (messages[0].seq, len(messages)) == (after + 1, PAGE)
