"""What reaches followers: how much to fifty, how soon to one, and what a stopped one does to the others.

Times are compared across processes: `time.monotonic` is one clock for the whole machine on Linux.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import zmq

import armin
from armin_broker import protocol
from benchmarks.bench import MESSAGE_BYTES, SYNC, TEXT, Bench, case
from benchmarks.rows import Check, Row, Sample, paired
from benchmarks.servers import Engine, Hand, crew, in_process

BATCH: Final = 250  # messages in one append_many of a writer in a hurry
LATE_S: Final = 60.0  # an event that takes longer is lost
SAY_S: Final = 0.05  # between two tries to reach subscribers that are still connecting
PAGE_BYTES: Final = 4096  # what the echo server writes and syncs


def append_fast(client: armin.Client, session: int, messages: int) -> None:
    """As fast as it goes: batches, 256 of them in flight."""
    batch = [armin.NewMessage("user", TEXT)] * BATCH
    with client.pipeline() as pipe:
        for _ in range(0, messages, BATCH):
            pipe.append_many(session, batch)


# --- followers ----------------------------------------------------------------------------------------


def follow(pipe: Connection, directory: Path, session: int, stints: Sequence[int]) -> None:
    """Follow for ever; after each stint of so many messages, in turn, tell when each of it was in hand."""
    with armin.connect(directory, timeout=60.0) as client:
        feed = client.follow(session, on_state=TellLive(pipe))
        for stint in cycle(stints):
            pipe.send([time.monotonic() for _ in islice(feed, stint)])


def _count(pipe: Connection, directory: Path, session: int, stint: int) -> None:
    """Follow for ever; after each stint of so many messages tell the time."""
    with armin.connect(directory, timeout=60.0) as client:
        feed = client.follow(session, on_state=TellLive(pipe))
        while True:
            for _ in range(stint):
                next(feed)
            pipe.send(time.monotonic())


class TellLive:
    """Says so when a follower is live for the first time."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._said = False

    def __call__(self, state: armin.FollowState) -> None:
        if state is armin.FollowState.LIVE and not self._said:
            self._said = True
            self._pipe.send(state.value)


@contextlib.contextmanager
def followers(
    size: int, target: Callable[..., None], directory: Path, session: int, *arguments: object
) -> Iterator[list[Hand]]:
    """So many processes that follow one session, all of them live."""
    with crew(size, target, directory, session, *arguments) as hands:
        for hand in hands:
            assert hand.hear() == armin.FollowState.LIVE.value
        yield hands


# --- 8: fan-out ---------------------------------------------------------------------------------------


@case("8", "events delivered to 50 subscriber processes / bare PUB of the same bytes")
def fan_out(bench: Bench, row: Row) -> None:
    subscribers, events = 50, 10_000
    row.setting |= {
        "sync": SYNC,
        "message_bytes": MESSAGE_BYTES,
        "subscribers": subscribers,
        "processors": os.cpu_count(),
        "events_per_sample": events,
        "writers": f"1, append_many of {BATCH}, pipelined",
        "bare PUB": "high-water marks 0 on both sides, so that nothing is lost",
    }
    row.notes.append(
        "A delivery is one event in the hands of one subscriber; the clock stops when the last one has the"
        " last. Followers decode, check and deduplicate each event and read again what the live socket"
        " dropped (`heals`: such reads); the bare SUBs receive two frames (`recv` twice) and drop them."
    )
    with bench.directory() as root, Engine(root / "e") as engine, engine.connect() as client:
        session = client.create_session().id
        frames = _event(client, engine.directory)
        row.setting["event_bytes"] = sum(map(len, frames))
        with bare_pub(root, subscribers, events, frames) as theirs:
            with followers(subscribers, _count, engine.directory, session, events) as hands:
                heals = client.stats()["heals"]
                pairs = paired(lambda: _delivered(client, session, hands, events), theirs, bench.rounds)
                row.setting["heals"] = client.stats()["heals"] - heals
            row.sides = {"armin followers": pairs.ours, "bare PUB, bare SUBs": pairs.theirs}
            row.checks.append(Check("deliveries a second", pairs.rate_ratios(), 0.8))
        _bare_subscribers(bench, row, client, root, frames)


def _bare_subscribers(
    bench: Bench, row: Row, client: armin.Client, root: Path, frames: Sequence[bytes]
) -> None:
    """The same with bare SUBs on Armin's live socket, for the engine's side alone."""
    subscribers, events = row.setting["subscribers"], 3_000
    session = client.create_session().id
    live = f"ipc://{client.hello().endpoints['ipc']['live']}"
    topic = protocol.message_topic(session)
    with (
        bare_pub(root, subscribers, events, frames) as theirs,
        crew(subscribers, _receive, live, topic, events) as hands,
    ):
        _all_subscribed(hands, client.sync)
        pairs = paired(lambda: _delivered(client, session, hands, events), theirs, bench.rounds)
    row.sides |= {"armin, bare SUBs": pairs.ours, "bare PUB, bare SUBs (again)": pairs.theirs}
    row.checks.append(Check("deliveries a second, bare SUBs on both", pairs.rate_ratios(), 0.8))
    row.notes.append(
        f"Bare SUBs on Armin's live socket show the engine without its client: {events:,} events at a time,"
        " fewer than its high-water mark of 4,096, since a bare SUB cannot read again what was dropped."
    )


def _delivered(client: armin.Client, session: int, hands: Sequence[Hand], events: int) -> Sample:
    """Append so many messages and wait until every subscriber has them all."""
    began = time.monotonic()
    append_fast(client, session, events)
    return Sample(events * len(hands), max(hand.hear(LATE_S) for hand in hands) - began)


def _event(client: armin.Client, directory: Path) -> list[bytes]:
    """The frames with which the engine announces a message of the usual size, in a session of its own."""
    session = client.create_session().id
    topic = protocol.message_topic(session)
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.subscribe(topic)
        socket.connect(f"ipc://{directory / protocol.LIVE_SOCKET}")
        while not socket.poll(int(1000 * SAY_S)):
            client.append(session, "user", TEXT)  # the first ones may come before the subscription
        return socket.recv_multipart()


@contextlib.contextmanager
def bare_pub(
    root: Path, subscribers: int, events: int, frames: Sequence[bytes]
) -> Iterator[Callable[[], Sample]]:
    """A bare PUB and as many bare SUBs; gives a function that sends them so many events."""
    endpoint = f"ipc://{root / 'pub.sock'}"
    with (
        crew(1, _publish, endpoint) as [pub],
        crew(subscribers, _receive, endpoint, frames[0], events) as subs,
    ):
        _all_subscribed(subs, lambda token: pub.tell((1, protocol.sync_topic(token), b"")))

        def send() -> Sample:
            pub.tell((events, *frames))
            began = pub.hear()
            return Sample(events * len(subs), max(sub.hear(LATE_S) for sub in subs) - began)

        yield send


def _publish(pipe: Connection, endpoint: str) -> None:
    """Send what it is told, so often; tells when it began, but for what is sent once."""
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.sndhwm = 0
        socket.bind(endpoint)
        while True:
            times, topic, event = pipe.recv()
            began = time.monotonic()
            for _ in range(times):
                socket.send(topic, zmq.SNDMORE | zmq.NOBLOCK)
                socket.send(event, zmq.NOBLOCK)
            if times > 1:
                pipe.send(began)


def _receive(pipe: Connection, endpoint: str, topic: bytes, stint: int) -> None:
    """Receive for ever; after each stint of so many events tell the time. First come `ready` and `begin`."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.rcvhwm = 0
        socket.subscribe(topic)
        for token in ("ready", "begin"):
            socket.subscribe(protocol.sync_topic(token))
        socket.connect(endpoint)
        for token in ("ready", "begin"):
            while socket.recv_multipart()[0] != protocol.sync_topic(token):
                pass
            pipe.send(token)
        receive = socket.recv  # an event has two frames; recv_multipart takes three times as long
        while True:
            for _ in range(stint):
                receive()
                receive()
            pipe.send(time.monotonic())


def _all_subscribed(hands: Sequence[Hand], say: Callable[[str], object]) -> None:
    """Say `ready` until every subscriber has heard it, then `begin`: nothing but events comes after that."""
    for hand in hands:
        while not hand.pipe.poll(SAY_S):
            say("ready")
        assert hand.hear() == "ready"
    say("begin")
    for hand in hands:
        assert hand.hear() == "begin"


# --- 9: how soon --------------------------------------------------------------------------------------


@case("9", "append to follower's hands, idle engine, p50 and p99 / echo round trip + one sync")
def append_to_hands(bench: Bench, row: Row) -> None:
    appends, spacing_s = bench.size(300, 100), 0.010
    row.setting |= {
        "sync": SYNC,
        "message_bytes": MESSAGE_BYTES,
        "writers": 1,
        "followers": 1,
        "appends_per_sample": appends,
        "spacing_ms": 1000 * spacing_s,
        "echo": f"a bare ROUTER; appends {PAGE_BYTES} bytes to a file and calls fdatasync before it answers",
    }
    with (
        bench.directory() as root,
        Engine(root / "e") as engine,
        engine.connect() as client,
        synced_echo(root) as echo,
    ):
        session = client.create_session().id
        with followers(1, follow, engine.directory, session, [appends]) as [hand]:

            def ours() -> Sample:
                began = _spaced(lambda: client.append(session, "user", TEXT), appends, spacing_s)
                return _sample(began, hand.hear())

            def theirs() -> Sample:
                ended: list[float] = []
                began = _spaced(lambda: ended.append(echo()), appends, spacing_s)
                return _sample(began, ended)

            pairs = paired(ours, theirs, bench.rounds)
    row.sides = {"armin": pairs.ours, "echo + one sync": pairs.theirs}
    row.checks.append(
        Check("append to follower's hands, p50", pairs.latency_ratios("p50"), 1.5, at_most=True)
    )
    row.checks.append(Check("append to follower's hands, p99", pairs.latency_ratios("p99"), 3, at_most=True))
    row.notes.append(
        "From before `append` is called in one process until the iterator of `follow` gives the message in"
        " another. The rates only show the spacing."
    )


def _spaced(act: Callable[[], object], times: int, spacing_s: float) -> list[float]:
    """Act so often, at even distances; the time before each."""
    began = []
    due = time.monotonic()
    for _ in range(times):
        time.sleep(max(0.0, due - time.monotonic()))
        began.append(time.monotonic())
        act()
        due += spacing_s
    return began


def _sample(began: Sequence[float], ended: Sequence[float]) -> Sample:
    latencies = [end - begin for begin, end in zip(began, ended, strict=True)]
    return Sample(len(latencies), ended[-1] - began[0], latencies)


@contextlib.contextmanager
def synced_echo(root: Path) -> Iterator[Callable[[], float]]:
    """A function that sends a message, waits until it comes back from behind a sync, and gives the time."""
    endpoint = f"ipc://{root / 'synced.sock'}"
    with (
        in_process(_echo_synced, endpoint, root / "synced"),
        zmq.Context() as context,
        context.socket(zmq.DEALER) as socket,
    ):
        socket.connect(endpoint)
        payload = TEXT.encode()

        def echo() -> float:
            socket.send(payload)
            socket.recv()
            return time.monotonic()

        yield echo


def _echo_synced(endpoint: str, path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    page = bytes(PAGE_BYTES)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(endpoint)
        while True:
            frames = socket.recv_multipart()
            os.write(file, page)
            os.fdatasync(file)
            socket.send_multipart(frames)


# --- F: a follower that stops reading --------------------------------------------------------------------


@case("F", "latencies while one of five followers is stopped / while all five read")
def stopped_follower(bench: Bench, row: Row) -> None:
    size, backlog, appends, spacing_s = 5, 8_000, bench.size(600, 300), 0.003
    row.setting |= {
        "sync": SYNC,
        "message_bytes": MESSAGE_BYTES,
        "writers": 1,
        "followers": size,
        "stopped": "one, by SIGSTOP",
        "backlog_messages": backlog,
        "appends_per_sample": appends,
        "spacing_ms": 1000 * spacing_s,
    }
    with bench.directory() as root, Engine(root / "e") as engine, engine.connect() as client:
        session = client.create_session().id
        with followers(size, follow, engine.directory, session, [backlog, appends]) as hands:
            run = _Stopping(client, session, hands, backlog, appends, spacing_s)
            pairs = paired(lambda: run.measure(stop=True), lambda: run.measure(stop=False), bench.rounds)
    row.sides = {"to the others, one stopped": pairs.ours, "to the same, all reading": pairs.theirs}
    row.checks.append(
        Check("append to follower's hands, p99", pairs.latency_ratios("p99"), 1.2, at_most=True)
    )
    row.checks.append(Check("append to follower's hands, p50", pairs.latency_ratios("p50"), at_most=True))
    stopped, reading = run.appends[True][-bench.rounds :], run.appends[False][-bench.rounds :]
    row.sides |= {"append, one stopped": stopped, "append, all reading": reading}
    ratios = [a.latency("p99") / b.latency("p99") for a, b in zip(stopped, reading, strict=True)]
    row.checks.append(Check("append, p99", ratios, 1.2, at_most=True))
    row.notes.append(
        f"Before each sample {backlog:,} messages are appended at once, so that the stopped follower's queue"
        " is at the engine's high-water mark and further events to it are dropped; the others have read them"
        " all when the sample begins. After it the stopped one goes on and must get every message, in order."
    )


class _Stopping:
    """Samples with and without a stopped follower; keeps those of the appends themselves beside them."""

    def __init__(
        self,
        client: armin.Client,
        session: int,
        hands: Sequence[Hand],
        backlog: int,
        appends: int,
        spacing_s: float,
    ) -> None:
        self.appends: dict[bool, list[Sample]] = {True: [], False: []}
        self._client = client
        self._session = session
        self._victim, *self._others = hands
        self._backlog = backlog
        self._count = appends
        self._spacing_s = spacing_s

    def measure(self, *, stop: bool) -> Sample:
        """Latencies to the followers that are never stopped."""
        victim = self._victim.process.pid
        assert victim is not None
        if stop:
            os.kill(victim, signal.SIGSTOP)
        try:
            sample = self._measure(stop)
        finally:
            os.kill(victim, signal.SIGCONT)
        for stint in (self._backlog, self._count):
            assert len(self._victim.hear()) == stint
        return sample

    def _measure(self, stop: bool) -> Sample:
        append_fast(self._client, self._session, self._backlog)
        for hand in self._others:
            hand.hear()
        ended: list[float] = []

        def append() -> None:
            self._client.append(self._session, "user", TEXT)
            ended.append(time.monotonic())

        began = _spaced(append, self._count, self._spacing_s)
        self.appends[stop].append(_sample(began, ended))
        samples = [_sample(began, hand.hear()) for hand in self._others]
        latencies = [latency for sample in samples for latency in sample.latencies]
        return Sample(len(latencies), statistics.fmean(sample.seconds for sample in samples), latencies)
