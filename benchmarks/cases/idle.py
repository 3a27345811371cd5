"""What costs nothing: clients that are connected and silent, and an engine with followers and no news."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import msgpack
import zmq

import armin
from armin_broker import protocol
from benchmarks.bench import MESSAGE_BYTES, SYNC, TEXT, Bench, case
from benchmarks.cases.reads import fill
from benchmarks.rows import Check, Row, Sample, paired
from benchmarks.servers import Engine, Hand, cpu_seconds, crew

PING: Final[bytes] = msgpack.packb({"op": "ping"})
PING_WAIT_MS: Final = 10_000
GONE_S: Final = 10.0  # until the engine has noticed that connections were closed
SETTLE_S: Final = 3.0  # until nobody is starting any more


# --- C: idle clients --------------------------------------------------------------------------------------


@case("C", "10 clients that append, 490 more connected and idle / the 10 alone")
def idle_clients(bench: Bench, row: Row) -> None:
    active, idle, seconds = 10, 490, bench.size(2, 1)
    row.setting |= {
        "sync": SYNC,
        "message_bytes": MESSAGE_BYTES,
        "writers": f"{active} processes, a session each, one append at a time",
        "idle": f"{idle} DEALERs in one process, each answered a ping when it connected",
        "seconds_per_sample": seconds,
    }
    with (
        bench.directory() as root,
        Engine(root / "e") as engine,
        crew(active, _append, engine.directory) as writers,
        crew(1, _hold, engine.directory) as [holder],
    ):
        for writer in writers:
            writer.hear()

        def with_idle() -> Sample:
            with _held(holder, idle, engine):
                return _appended(writers, seconds)

        pairs = paired(with_idle, lambda: _appended(writers, seconds), bench.rounds)
    row.sides = {f"{active} and {idle} idle": pairs.ours, f"{active} alone": pairs.theirs}
    row.checks.append(Check("appends a second", pairs.rate_ratios(), 0.95))
    row.checks.append(Check("append, p99", pairs.latency_ratios("p99"), 1.1, at_most=True))
    row.checks.append(Check("append, p50", pairs.latency_ratios("p50"), at_most=True))


def _append(pipe: Connection, directory: Path) -> None:
    """For ever: hear a deadline, append one by one until then, tell each one's time."""
    with armin.connect(directory, timeout=60.0) as client:
        session = client.create_session().id
        pipe.send(session)
        while True:
            deadline: float = pipe.recv()
            latencies = []
            while (before := time.monotonic()) < deadline:
                client.append(session, "user", TEXT)
                latencies.append(time.monotonic() - before)
            pipe.send(latencies)


def _appended(writers: Sequence[Hand], seconds: float) -> Sample:
    """What all writers append in this time."""
    began = time.monotonic()
    for writer in writers:
        writer.tell(began + seconds)
    latencies = [latency for writer in writers for latency in writer.hear()]
    return Sample(len(latencies), time.monotonic() - began, latencies)


@contextlib.contextmanager
def _held(holder: Hand, count: int, engine: Engine) -> Iterator[None]:
    """So many idle connections; gone, for the engine too, at the end."""
    before = _descriptors(engine)
    holder.tell(count)
    assert holder.hear() == count
    assert _descriptors(engine) >= before + count
    yield
    holder.tell(0)
    assert holder.hear() == 0
    deadline = time.monotonic() + GONE_S
    while _descriptors(engine) > before:
        assert time.monotonic() < deadline, "the engine keeps connections that were closed"
        time.sleep(0.01)


def _descriptors(engine: Engine) -> int:
    return len(os.listdir(f"/proc/{engine.pid}/fd"))


def _hold(pipe: Connection, directory: Path) -> None:
    """For ever: hear a number, keep so many connections open, tell it when all of them were answered."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each takes some descriptors
    endpoint = f"ipc://{directory / protocol.COMMANDS_SOCKET}"
    with zmq.Context() as context:
        while True:
            count: int = pipe.recv()
            with contextlib.ExitStack() as stack:
                sockets = [stack.enter_context(context.socket(zmq.DEALER)) for _ in range(count)]
                for socket in sockets:
                    _connect(socket, endpoint)
                pipe.send(len(sockets))
                if sockets:
                    pipe.poll(None)  # the next number ends them


def _connect(socket: zmq.Socket[bytes], endpoint: str) -> None:
    socket.linger = 0
    socket.connect(endpoint)
    socket.send(PING)
    if not socket.poll(PING_WAIT_MS):
        raise RuntimeError("the engine did not answer a ping")
    socket.recv()


# --- I: nothing happens -----------------------------------------------------------------------------------


@case("I", "processor time of an idle engine and 20 idle followers")
def idle_engine(bench: Bench, row: Row) -> None:
    size, messages, seconds = 20, 20_000, bench.size(5, 3)
    row.setting |= {
        "followers": f"{size} processes, a session each",
        "messages_stored": messages,
        "message_bytes": MESSAGE_BYTES,
        "seconds_per_sample": seconds,
        "heartbeat_ms": protocol.HEARTBEAT_MS,
    }
    with bench.directory() as root, Engine(root / "e") as engine:
        with engine.connect() as client:
            fill(client, messages)
        with crew(size, _follow, engine.directory) as hands:
            pids = [hand.hear() for hand in hands]
            time.sleep(SETTLE_S)
            shares = [_shares(engine.pid, pids, seconds) for _ in range(bench.rounds)]
    together = [sum(share) for share in shares]
    row.checks.append(Check("engine and followers, of one core", together, 1.0, at_most=True, unit="%"))
    for what, values in zip(("engine", f"{size} followers"), zip(*shares, strict=True), strict=True):
        row.checks.append(Check(f"{what}, of one core", values, at_most=True, unit="%"))
    row.notes.append(
        "User and system time of the processes, their ZeroMQ threads included; no writes at all."
    )


def _follow(pipe: Connection, directory: Path) -> None:
    """Follow a new session; tells the process's id when it is live."""

    def tell(state: armin.FollowState) -> None:
        if state is armin.FollowState.LIVE:
            pipe.send(os.getpid())

    with armin.connect(directory) as client:
        for message in client.follow(client.create_session().id, on_state=tell):
            raise AssertionError(f"nobody wrote {message}")


def _shares(engine: int, followers: Sequence[int], seconds: float) -> tuple[float, float]:
    """Per cent of one core that the engine takes, and that all followers take together."""
    began = time.monotonic()
    before = [cpu_seconds(engine), sum(map(cpu_seconds, followers))]
    time.sleep(seconds)
    after = [cpu_seconds(engine), sum(map(cpu_seconds, followers))]
    lasted = time.monotonic() - began
    its, theirs = (100 * (b - a) / lasted for a, b in zip(before, after, strict=True))
    return its, theirs
