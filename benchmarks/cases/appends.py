"""One client that appends, in flight, in batches and one at a time; beside an echo, Redis and NATS."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import zmq

import armin
from armin import calls
from armin.pipeline import Pipeline
from benchmarks.bench import MESSAGE_BYTES, SYNC, TEXT, Bench, Missing, case
from benchmarks.rows import Check, Row, Sample, paired
from benchmarks.servers import Engine, echo_server, nats_server, redis_server

IN_FLIGHT: Final = 256  # the window that a pipeline has built in
NATS_WAIT_S: Final = 60.0  # for one acknowledgement
MESSAGE: Final = {"role": "user", "content": TEXT}
ONE_WRITER: Final = {
    "sync": SYNC,
    "writers": 1,
    "message_bytes": MESSAGE_BYTES,
    "keys": "the client's, UUIDv7",
}

Measure = Callable[[], Sample]
Act = Callable[[], object]


# --- clocks -------------------------------------------------------------------------------------------


def timed(operations: int, act: Act) -> Sample:
    """All of it in one go."""
    began = time.perf_counter()
    act()
    return Sample(operations, time.perf_counter() - began)


def one_by_one(acts: Iterable[Act], operations_each: int = 1) -> Sample:
    """One after the other, the latency of each noted."""
    latencies: list[float] = []
    began = before = time.perf_counter()
    for act in acts:
        act()
        after = time.perf_counter()
        latencies.append(after - before)
        before = after
    return Sample(operations_each * len(latencies), before - began, latencies)


# --- our side -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def armin_client(bench: Bench) -> Iterator[tuple[armin.Client, int]]:
    """A client of an engine of its own, and a session there."""
    with bench.directory() as directory, Engine(directory / "e") as engine, engine.connect() as client:
        yield client, client.create_session().id


def keyless_append(session_id: int) -> calls.Call[armin.Appended]:
    """An append without an idempotency key. The public methods always send one."""
    call = calls.append(session_id, "user", TEXT, None, None, key="")
    call.fields["key"] = None  # None is not sent
    return call


def keyless_batch(session_id: int, batch: list[dict[str, Any]]) -> calls.Call[armin.AppendedMany]:
    """The same for many messages."""
    call = calls.append_many(session_id, batch, None, key="")
    call.fields["key"] = None
    return call


def in_flight(pipe: Pipeline, session_id: int, count: int) -> Sample:
    """So many appends, as many in flight as the pipeline lets through; all acknowledgements looked at."""

    def act() -> None:
        for _ in range(count):
            pipe.append(session_id, "user", TEXT)
        pipe.flush()

    return timed(count, act)


def in_flight_without_keys(pipe: Pipeline, session_id: int, count: int) -> Sample:
    """The same, each without a key."""

    def act() -> None:
        for _ in range(count):
            pipe._send(keyless_append(session_id))
        pipe.flush()

    return timed(count, act)


def messages(count: int) -> list[dict[str, Any]]:
    """What append_many is given."""
    return [dict(MESSAGE) for _ in range(count)]


# --- what the rows with and without keys share ----------------------------------------------------------


def measure_both(
    bench: Bench,
    row: Row,
    peer: str,
    bound: float,
    *,
    keyed: tuple[Measure, Measure],
    keyless: tuple[Measure, Measure],
) -> None:
    """Fill in a row measured with the keys that the client sends, then without; each is ours and theirs."""
    first, second = paired(*keyed, bench.rounds), paired(*keyless, bench.rounds)
    row.sides = {
        "armin": first.ours,
        "armin, no keys": second.ours,
        peer: first.theirs,
        f"{peer}, beside no keys": second.theirs,
    }
    row.checks += [
        Check("appends a second", first.rate_ratios(), bound),
        Check("appends a second, no keys", second.rate_ratios()),
    ]
    row.setting |= ONE_WRITER


class Pipelined(NamedTuple):
    """Our side with a full pipeline, with and without keys, and the session that it fills."""

    session: int
    keyed: Measure
    keyless: Measure


@contextlib.contextmanager
def pipelined(bench: Bench, row: Row, count: int) -> Iterator[Pipelined]:
    """A pipeline that each run puts so many appends through."""
    row.setting |= {"in_flight": IN_FLIGHT, "sessions": 1, "appends_a_run": count}
    row.notes.append(
        "Armin: `Pipeline.append`, then `flush`, which decodes and checks each acknowledgement. No keys: the"
        " same pipeline is handed the same call with its key taken out; the public methods always add one."
    )
    with armin_client(bench) as (client, session), client.pipeline() as pipe:
        yield Pipelined(
            session,
            lambda: in_flight(pipe, session, count),
            lambda: in_flight_without_keys(pipe, session, count),
        )


# --- 1: a bare echo -------------------------------------------------------------------------------------


def echo_in_flight(socket: zmq.Socket[bytes], payload: bytes, count: int) -> Sample:
    """Messages there and back, the window refilled as soon as what has come back was taken."""
    send, receive = socket.send, socket.recv

    def act() -> None:
        sent = back = 0
        while back < count:
            while sent < count and sent - back < IN_FLIGHT:
                send(payload)
                sent += 1
            receive()
            back += 1
            with contextlib.suppress(zmq.Again):
                while True:
                    receive(zmq.NOBLOCK)
                    back += 1

    return timed(count, act)


def echo_in_bursts(socket: zmq.Socket[bytes], payload: bytes, count: int) -> Sample:
    """A full window out, then all of it back: the fewest switches between the two processes."""
    send, receive = socket.send, socket.recv

    def act() -> None:
        for _ in range(count // IN_FLIGHT):
            for _ in range(IN_FLIGHT):
                send(payload)
            for _ in range(IN_FLIGHT):
                receive()

    return timed(count, act)


@contextlib.contextmanager
def echo_client(bench: Bench) -> Iterator[zmq.Socket[bytes]]:
    """A raw DEALER to a bare ROUTER."""
    with (
        bench.directory() as directory,
        echo_server(directory) as endpoint,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as socket,
    ):
        socket.connect(endpoint)
        yield socket


@case("1", "one client, 256 appends in flight / bare ROUTER echo")
def beside_an_echo(bench: Bench, row: Row) -> None:
    count = IN_FLIGHT * bench.size(80, 20)
    with pipelined(bench, row, count) as ours, echo_client(bench) as socket:
        keyed = calls.append(ours.session, "user", TEXT, None, None).encode()
        keyless = keyless_append(ours.session).encode()
        measure_both(
            bench,
            row,
            "echo",
            0.75,
            keyed=(ours.keyed, lambda: echo_in_flight(socket, keyed, count)),
            keyless=(ours.keyless, lambda: echo_in_flight(socket, keyless, count)),
        )
        bursts = paired(ours.keyed, lambda: echo_in_bursts(socket, keyed, count), bench.rounds)
    row.sides["echo, in bursts"] = bursts.theirs
    row.checks.append(Check("appends a second, echo in bursts", bursts.rate_ratios()))
    row.setting |= {"echoed_bytes": len(keyed), "echoed_bytes_no_keys": len(keyless)}
    row.notes.append(
        "The echo stores nothing. Its client sends one prepared frame, an append as it is encoded, from a raw"
        " DEALER in a tight loop. In bursts: all 256 out, then all 256 back, so that the two processes"
        " seldom wait for each other."
    )


# --- 2 and 2b: Redis --------------------------------------------------------------------------------------


@contextlib.contextmanager
def redis_client(bench: Bench) -> Iterator[Any]:
    """redis-py, connected to a server of its own."""
    try:
        import redis  # noqa: PLC0415 - a peer that may not be installed
    except ImportError:
        raise Missing("redis-py is not installed (pip install redis)") from None
    with (
        bench.directory() as directory,
        redis_server(directory) as path,
        redis.Redis(unix_socket_path=path) as client,
    ):
        yield client


def redis_setting(client: Any) -> str:
    """The peer as a reader must know it."""
    from redis.utils import HIREDIS_AVAILABLE  # noqa: PLC0415 - there where the client is

    parser = "hiredis" if HIREDIS_AVAILABLE else "its own parser"
    return (
        f"redis-server {client.info('server')['redis_version']}, Unix socket, appendonly yes,"
        f" appendfsync always; redis-py {version('redis')} with {parser}; fields role and content"
    )


def flush(client: Any) -> None:
    """A window of XADD in one pipeline, and all their answers."""
    pipe = client.pipeline(transaction=False)
    for _ in range(IN_FLIGHT):
        pipe.xadd("s", MESSAGE)
    pipe.execute()


def flushes(client: Any, count: int) -> Sample:
    """So many of them; the latencies are those of whole flushes."""
    return one_by_one(itertools.repeat(lambda: flush(client), count), IN_FLIGHT)


@case("2", "256 appends in flight, each acknowledged / redis-py pipeline of 256 XADD in one flush")
def beside_redis(bench: Bench, row: Row) -> None:
    batches = bench.size(80, 20)
    with redis_client(bench) as client, pipelined(bench, row, IN_FLIGHT * batches) as ours:

        def theirs() -> Sample:
            return flushes(client, batches)

        row.setting["peer"] = redis_setting(client)
        measure_both(bench, row, "redis-py", 0.9, keyed=(ours.keyed, theirs), keyless=(ours.keyless, theirs))
    row.notes.append(
        "redis-py: `pipeline(transaction=False)`, 256 XADD, one `execute`; its latencies are a flush's."
    )


@case("2b", "append_many of 256 / redis-py pipeline of 256 XADD in one flush")
def batches_beside_redis(bench: Bench, row: Row) -> None:
    batches, batch = bench.size(80, 20), messages(IN_FLIGHT)
    with armin_client(bench) as (ours, session), redis_client(bench) as theirs:

        def measure(act: Act) -> Measure:
            return lambda: one_by_one(itertools.repeat(act, batches), IN_FLIGHT)

        row.setting["peer"] = redis_setting(theirs)
        peer = measure(lambda: flush(theirs))
        measure_both(
            bench,
            row,
            "redis-py",
            2.5,
            keyed=(measure(lambda: ours.append_many(session, batch)), peer),
            keyless=(measure(lambda: ours._channel.request(keyless_batch(session, batch))), peer),
        )
    row.setting |= {"batch": IN_FLIGHT, "batches_a_run": batches}
    row.notes.append("Latencies are those of whole batches. An append_many has one key for the whole batch.")


# --- 3: NATS ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def jetstream(bench: Bench) -> Iterator[tuple[asyncio.Runner, Any, str]]:
    """nats-py's JetStream with a stream of its own, the loop that it lives in, and its setting."""
    try:
        import nats  # noqa: PLC0415 - a peer that may not be installed
    except ImportError:
        raise Missing("nats-py is not installed (pip install nats-py)") from None

    async def open_stream(url: str) -> tuple[Any, Any]:
        connection = await nats.connect(url)
        stream = connection.jetstream(timeout=NATS_WAIT_S, publish_async_max_pending=IN_FLIGHT)
        await stream.add_stream(name="S", subjects=["s.>"])
        return connection, stream

    with bench.directory() as directory, nats_server(directory) as url, asyncio.Runner() as runner:
        connection, stream = runner.run(open_stream(url))
        try:
            yield runner, stream, _nats_setting(connection)
        finally:
            runner.run(connection.close())


def _nats_setting(connection: Any) -> str:
    server = connection.connected_server_version
    return (
        f"nats-server {server.major}.{server.minor}.{server.patch}, TCP on the loopback, JetStream file"
        f" store, sync_interval always, one replica; nats-py {version('nats-py')}"
    )


async def publish(stream: Any, windows: int) -> Sample:
    """Windows of messages, all acknowledgements of one taken before the next."""
    payload = TEXT.encode()
    began = time.perf_counter()
    for _ in range(windows):
        # A sliding window, a semaphore around `publish` and a gather of 256 of them were no faster.
        futures = [await stream.publish_async("s.user", payload) for _ in range(IN_FLIGHT)]
        await asyncio.wait_for(stream.publish_async_completed(), NATS_WAIT_S)
        for future in futures:
            future.result()
    return Sample(windows * IN_FLIGHT, time.perf_counter() - began)


@case("3", "one client, 256 appends in flight / nats-py JetStream with 256 in flight")
def beside_nats(bench: Bench, row: Row) -> None:
    windows = bench.size(20, 5)
    with (
        jetstream(bench) as (runner, stream, peer),
        pipelined(bench, row, IN_FLIGHT * bench.size(80, 20)) as ours,
    ):

        def theirs() -> Sample:
            return runner.run(publish(stream, windows))

        measure_both(bench, row, "nats-py", 10.0, keyed=(ours.keyed, theirs), keyless=(ours.keyless, theirs))
    row.setting |= {"published_a_run": IN_FLIGHT * windows, "peer": peer}
    row.notes.append(
        "nats-py: `publish_async` of the content alone, the role in its subject, until 256 are"
        " unacknowledged; then all acknowledgements are taken."
    )


# --- 5: one at a time -------------------------------------------------------------------------------------


@case("5", "one append at a time, one client / redis-py XADD one at a time")
def one_at_a_time(bench: Bench, row: Row) -> None:
    count = bench.size(5000, 1000)

    def measure(act: Act) -> Measure:
        return lambda: one_by_one(itertools.repeat(act, count))

    with armin_client(bench) as (ours, session), redis_client(bench) as theirs:
        row.setting["peer"] = redis_setting(theirs)
        pairs = paired(
            measure(lambda: ours.append(session, "user", TEXT)),
            measure(lambda: theirs.xadd("s", MESSAGE)),
            bench.rounds,
        )
    row.sides = {"armin": pairs.ours, "redis-py": pairs.theirs}
    row.checks = [
        Check("appends a second", pairs.rate_ratios(), 1.0),
        *(Check(name, pairs.latency_ratios(name), at_most=True) for name in ("p50", "p99", "p99.9")),
    ]
    row.setting |= {**ONE_WRITER, "sessions": 1, "appends_a_run": count}
