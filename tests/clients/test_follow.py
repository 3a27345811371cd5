"""Following a real engine: history, then live, through lossy sockets, deaths and restarts."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import armin
from armin import Client, Event, Message, NewMessage, NoReply
from armin.channel import Inlet, Sockets
from armin.target import DirectoryTarget
from harness import Engine, wait_until

DONE_S = 90.0  # in which every follower here must have come to its end

WRITER = """
import sys, armin
directory, count = sys.argv[1], int(sys.argv[2])
with armin.connect(directory, timeout=60) as client:
    for number in range(1, count + 1):
        client.append(1, "user", f"text {number}")
    client.close_session(1)
"""


@contextmanager
def writer(directory: Path, count: int) -> Iterator[None]:
    """Another process that appends `count` messages to session 1 and closes it."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(directory), str(count)])
    try:
        yield
        assert process.wait(DONE_S) == 0
    finally:
        process.kill()
        process.wait()


class Following:
    """Follows session 1 in a thread of its own; `messages` grows as they come."""

    def __init__(self, directory: Path, timeout: float = 5.0) -> None:
        self.directory = directory
        self.timeout = timeout
        self.messages: list[Message] = []

    def blocking(self, after: int = 0) -> list[Message]:
        with armin.connect(self.directory, timeout=self.timeout) as client:
            self.messages.extend(client.follow(1, after))
        return self.messages

    def asyncio(self, after: int = 0) -> list[Message]:
        async def follow() -> None:
            async with armin.connect_async(self.directory, timeout=self.timeout) as client:
                async for message in client.follow(1, after):
                    self.messages.append(message)

        asyncio.run(follow())
        return self.messages

    def has(self, count: int) -> None:
        """Wait until it has delivered so many."""
        wait_until(lambda: len(self.messages) >= count, DONE_S)


def follow_blocking(directory: Path, after: int = 0) -> list[Message]:
    return Following(directory).blocking(after)


def follow_asyncio(directory: Path, after: int = 0) -> list[Message]:
    return Following(directory).asyncio(after)


Follow = Callable[..., list[Message]]


@pytest.fixture(params=[follow_blocking, follow_asyncio])
def follow(request: pytest.FixtureRequest) -> Follow:
    chosen: Follow = request.param
    return chosen


@pytest.fixture(params=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def client(engine: Engine) -> Iterator[Client]:
    with armin.connect(engine.directory, timeout=60) as client:
        yield client


def complete(messages: list[Message], count: int, after: int = 0) -> bool:
    """Whether these are all messages up to `count`: no gap, no repeat, in order."""
    assert [message.seq for message in messages] == list(range(after + 1, count + 1))
    assert all(message.content == f"text {message.seq}" for message in messages)
    return True


# --- history and live -----------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("begin", [0, 1, 500, 1500, 1990])
def test_a_follower_that_starts_during_2000_appends_misses_none(
    engine: Engine, client: Client, pool: ThreadPoolExecutor, begin: int
) -> None:
    client.create_session()
    with writer(engine.directory, 2000):
        wait_until(lambda: client.session(1).seq >= begin)
        followers = [
            pool.submit(follow, engine.directory)
            for follow in (follow_blocking, follow_asyncio)
            for _ in "ab"
        ]
        assert all(complete(follower.result(DONE_S), 2000) for follower in followers)


def test_a_follower_starts_behind_its_cursor(engine: Engine, client: Client, follow: Follow) -> None:
    client.create_session()
    client.append_many(1, [NewMessage("user", f"text {number}") for number in range(1, 2501)])
    client.close_session(1)
    assert complete(follow(engine.directory, 0), 2500)
    assert complete(follow(engine.directory, 1234), 2500, after=1234)
    assert follow(engine.directory, 2500) == []


def test_a_live_message_is_the_message_that_a_read_gives(
    engine: Engine, client: Client, follow: Follow, pool: ThreadPoolExecutor
) -> None:
    client.create_session()
    following = pool.submit(follow, engine.directory)
    client.append(1, "assistant", "äöü", {"tool": {"calls": [1, None]}})
    client.append(1, "user", "x" * 300_000, {"large": True})
    client.append_many(1, [NewMessage("tool", "y" * 65_536), NewMessage("system", "")])
    client.close_session(1)
    assert following.result(DONE_S) == list(client.messages(1))


def test_one_session_s_follower_sees_nothing_of_another(
    engine: Engine, client: Client, follow: Follow, pool: ThreadPoolExecutor
) -> None:
    for _ in range(11):  # session 1 and 11 share the beginning of their topics' text
        client.create_session()
    following = pool.submit(follow, engine.directory)
    for number in range(1, 51):
        client.append(11, "user", "other")
        client.append(1, "user", f"text {number}")
    client.close_session(11)
    client.close_session(1)
    assert complete(following.result(DONE_S), 50)


def test_a_closed_session_is_followed_to_its_end(engine: Engine, client: Client, follow: Follow) -> None:
    client.create_session()
    client.append(1, "user", "text 1")
    client.close_session(1)
    assert complete(follow(engine.directory), 1)


def test_an_empty_session_that_is_closed_while_followed_ends(
    engine: Engine, client: Client, follow: Follow, pool: ThreadPoolExecutor
) -> None:
    client.create_session()
    following = pool.submit(follow, engine.directory)
    client.close_session(1)
    assert following.result(DONE_S) == []


def test_following_what_is_not_there_is_an_error(engine: Engine, follow: Follow, short_dir: Path) -> None:
    with pytest.raises(armin.SessionNotFound):
        follow(engine.directory)
    with armin.connect(engine.directory) as client:
        client.create_session()
    with pytest.raises(armin.CursorInvalid):
        follow(engine.directory, 5)


def test_following_without_an_engine_is_an_error(short_dir: Path) -> None:
    with armin.connect(short_dir, timeout=0.2) as client, pytest.raises(NoReply):
        next(client.follow(1))


# --- the whole log --------------------------------------------------------------------------------


def facts(client: Client, count: int) -> list[Event]:
    items = client.follow_all()
    try:
        return [next(items) for _ in range(count)]
    finally:
        items.close()


def test_the_whole_log_is_followed_while_2000_messages_come(
    engine: Engine, client: Client, pool: ThreadPoolExecutor
) -> None:
    client.create_session("n", {"m": 1})
    with writer(engine.directory, 2000):
        followers = []
        for begin in (0, 700, 1400):
            wait_until(lambda least=begin: client.ping() >= least)  # type: ignore[misc]
            followers.append(pool.submit(facts, client, 2002))
        for follower in followers:
            assert [event.position for event in follower.result(DONE_S)] == list(range(1, 2003))
    assert facts(client, 2002) == list(client.events())


@pytest.mark.parametrize("now", ["now", None])
def test_from_now_on_means_nothing_before(
    engine: Engine, client: Client, pool: ThreadPoolExecutor, now: Any
) -> None:
    client.create_session()
    client.append_many(1, [NewMessage("user", "x")] * 99)
    with armin.connect(engine.directory) as other:
        items = other.follow_all(after=now)
        first = pool.submit(next, items)
        while not first.done():
            client.append(1, "user", "x")
        position = first.result().position
        assert position > 100
        client.append(1, "user", "x")
        assert next(items).position == position + 1


def test_asyncio_follows_the_whole_log_too(engine: Engine, client: Client) -> None:
    async def follow(count: int) -> list[Event]:
        async with armin.connect_async(engine.directory) as own:
            seen: list[Event] = []
            async for event in own.follow_all():
                seen.append(event)
                if len(seen) == 2:
                    await own.append_many(1, [NewMessage("user", "x")] * (count - 3))
                    await own.close_session(1)
                if len(seen) == count:
                    break
            return seen

    client.create_session()
    client.append(1, "user", "x")
    assert asyncio.run(asyncio.wait_for(follow(60), DONE_S)) == list(client.events())[:60]


# --- losses ---------------------------------------------------------------------------------------


class LossyInlet(Inlet):
    """A live socket that loses what `loses` says."""

    loses: Callable[[bytes], bool]

    def receive(self, deadline: float) -> list[bytes] | None:
        while (frames := super().receive(deadline)) is not None and self.loses(frames[0]):
            pass
        return frames


class LossySockets(Sockets):
    """The sockets of a client whose live socket loses things."""

    def __init__(self, directory: Path, loses: Callable[[bytes], bool]) -> None:
        super().__init__(DirectoryTarget(str(directory)), 10.0)
        self._loses = loses

    def live(self, endpoint: str) -> Inlet:
        inlet = LossyInlet(super().live(endpoint)._plug)
        inlet.loses = self._loses
        return inlet


def test_lost_events_are_healed_and_counted(engine: Engine, client: Client, pool: ThreadPoolExecutor) -> None:
    chance = random.Random(7)
    client.create_session()
    lossy = Client(LossySockets(engine.directory, lambda topic: b"1/" in topic and chance.random() < 0.3))
    seen: list[Message] = []
    with lossy:
        following = pool.submit(lambda: seen.extend(lossy.follow(1)))
        everything = pool.submit(facts, lossy, 1002)
        for last in range(50, 1001, 50):  # the follower comes along, so it loses something each time
            for number in range(last - 49, last + 1):
                client.append(1, "user", f"text {number}")
            wait_until(lambda least=last: len(seen) >= least)  # type: ignore[misc]
        client.close_session(1)
        following.result(DONE_S)
        assert complete(seen, 1000)
        assert [event.position for event in everything.result(DONE_S)] == list(range(1, 1003))
    assert client.stats()["heals"] > 10


def test_a_lost_last_message_and_closure_are_found_by_the_heartbeat(
    engine: Engine, client: Client, pool: ThreadPoolExecutor
) -> None:
    client.create_session()
    client.append(1, "user", "text 1")
    with Client(LossySockets(engine.directory, lambda topic: b"/1/" in topic)) as deaf:
        items = deaf.follow(1)
        assert next(items).seq == 1
        coming = pool.submit(next, items)
        client.append(1, "user", "text 2")
        assert coming.result(DONE_S).seq == 2
        ending = pool.submit(list, items)
        client.close_session(1)
        assert ending.result(DONE_S) == []


def test_without_any_live_message_a_follower_still_goes_on_reading(
    engine: Engine, client: Client, pool: ThreadPoolExecutor
) -> None:
    deaf_now = threading.Event()
    client.create_session()
    client.append(1, "user", "text 1")
    with Client(LossySockets(engine.directory, lambda topic: deaf_now.is_set())) as deaf:
        items = deaf.follow(1)
        next(items)
        deaf_now.set()
        coming = pool.submit(next, items)
        client.append(1, "user", "text 2")
        assert coming.result(DONE_S).seq == 2


def test_a_mute_live_socket_at_the_start_is_an_error(engine: Engine, client: Client) -> None:
    client.create_session()
    sockets = LossySockets(engine.directory, lambda topic: True)
    sockets.timeout = 3.0
    with (
        Client(sockets) as deaf,
        pytest.raises(NoReply, match=r"nothing came over its live socket .*live\.sock"),
    ):
        next(deaf.follow(1))


# --- deaths and restarts --------------------------------------------------------------------------


def test_a_follower_survives_kill_9_and_restart_under_load(
    engine: Engine, client: Client, kind: str, pool: ThreadPoolExecutor
) -> None:
    def load() -> tuple[int, int]:
        """Append until told to stop; gives how many were acknowledged, and of how many nobody knows."""
        acknowledged = unknown = 0
        with armin.connect(engine.directory, timeout=1.0) as writing:
            while not enough.is_set():
                try:
                    writing.append(1, "user", "x")
                    acknowledged += 1
                except NoReply:
                    unknown += 1
        return acknowledged, unknown

    enough = threading.Event()
    client.create_session()
    follower = Following(engine.directory)
    following, loading = pool.submit(getattr(follower, kind)), pool.submit(load)
    everything = pool.submit(lambda: list(itertools.takewhile(goes_on, client.follow_all())))
    for death in range(1, 4):
        follower.has(200 * death)
        engine.kill()
        engine.start()
    enough.set()
    acknowledged, unknown = loading.result(DONE_S)
    client.close_session(1)
    history = list(client.messages(1))
    assert following.result(DONE_S) == history
    assert everything.result(DONE_S) == list(client.events())[:-1]
    assert acknowledged <= len(history) <= acknowledged + unknown
    assert [message.seq for message in history] == list(range(1, len(history) + 1))


def goes_on(event: Event) -> bool:
    return event.type != "session_closed"


def test_a_follower_survives_a_long_absence_and_a_clean_stop(
    engine: Engine, client: Client, kind: str, pool: ThreadPoolExecutor
) -> None:
    client.create_session()
    client.append(1, "user", "text 1")
    follower = Following(engine.directory, timeout=2.0)
    following = pool.submit(getattr(follower, kind))
    live = client.follow(1)
    next(live)
    follower.has(1)
    assert engine.stop() == 0
    absence = pool.submit(next, live)
    with pytest.raises(TimeoutError):
        absence.result(4.0)  # more than heartbeats may be missing for; it waits quietly
    engine.start()
    client.append(1, "user", "text 2")
    assert absence.result(DONE_S).seq == 2
    client.close_session(1)
    assert complete(following.result(DONE_S), 2)
    assert list(live) == []


def test_a_follower_survives_an_engine_that_is_only_slow(
    engine: Engine, client: Client, kind: str, pool: ThreadPoolExecutor
) -> None:
    client.create_session()
    follower = Following(engine.directory, timeout=2.0)
    following = pool.submit(getattr(follower, kind))
    client.append(1, "user", "text 1")
    follower.has(1)
    os.kill(engine.pid, signal.SIGSTOP)
    threading.Timer(4.0, os.kill, (engine.pid, signal.SIGCONT)).start()
    client.append(1, "user", "text 2")
    client.close_session(1)
    assert complete(following.result(DONE_S), 2)


def test_another_database_in_the_same_place_ends_a_follower(
    engine: Engine, client: Client, pool: ThreadPoolExecutor
) -> None:
    client.create_session()
    client.append(1, "user", "text 1")
    session, log = client.follow(1), client.follow_all()
    next(session)
    assert [next(log).position, next(log).position] == [1, 2]
    waiting: list[Future[Any]] = [pool.submit(next, session), pool.submit(next, log)]
    engine.stop()
    for file in engine.directory.glob("armin.db*"):
        file.unlink()
    engine.start()
    for future in waiting:
        with pytest.raises(armin.CursorInvalid, match="another database"):
            future.result(DONE_S)


def test_a_follower_over_tcp_is_a_follower(short_dir: Path, pool: ThreadPoolExecutor) -> None:
    engine = Engine(short_dir / "e", "--tcp", "127.0.0.1:0").start()
    with armin.connect(engine.directory) as local:
        port = local.hello().endpoints["tcp"]["commands"]
    with armin.connect(f"tcp://127.0.0.1:{port}") as client:
        client.create_session()
        following = pool.submit(lambda: list(client.follow(1)))
        for number in range(1, 101):
            client.append(1, "user", f"text {number}")
        client.close_session(1)
        assert complete(following.result(DONE_S), 100)
        assert len(list(itertools.islice(client.effects(timeout=60), 102))) == 102
    engine.stop()
