"""Following through what networks and slow processes do to it: each message once and in order."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zmq

import armin
from armin import AsyncClient, Client, FollowState, Message, NewMessage, sockets
from armin.async_channel import AsyncInlet, AsyncSockets
from armin.channel import Inlet, Sockets
from armin.target import DirectoryTarget
from between import cable, event_proxy
from harness import Engine, wait_until

DONE_S = 90.0  # in which every follower here must have come to its end
WORK_S = 0.005  # of a slow follower, for each message
ONE_MESSAGE = {**sockets.LIVE, zmq.RCVHWM: 1}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def client(engine: Engine) -> Iterator[Client]:
    with armin.connect(engine.directory, timeout=60) as client:
        client.create_session()
        yield client


@pytest.fixture(params=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class NarrowSockets(Sockets):
    """The sockets of a client that holds one event at a time."""

    def live(self, endpoint: str) -> Inlet:
        return Inlet(self._plug(functools.partial(sockets.open_live, options=ONE_MESSAGE), endpoint))


class NarrowAsyncSockets(AsyncSockets):
    """The same for asyncio."""

    def live(self, endpoint: str) -> AsyncInlet:
        opener = functools.partial(sockets.open_live, options=ONE_MESSAGE)
        return AsyncInlet(self._plug(opener, endpoint), self.clock)


class Following:
    """Follows session 1 in a thread; `messages` and `states` grow as they come, `work` is done for each."""

    def __init__(self, directory: Path, *, narrow: bool = False, work: float = 0.0) -> None:
        self.target = DirectoryTarget(str(directory))
        self.narrow = narrow
        self.work = work
        self.messages: list[Message] = []
        self.states: list[FollowState] = []

    def take(self, message: Message) -> None:
        self.messages.append(message)

    def blocking(self) -> list[Message]:
        with Client((NarrowSockets if self.narrow else Sockets)(self.target, 10.0)) as client:
            for message in client.follow(1, on_state=self.states.append):
                self.take(message)
                if self.work:
                    time.sleep(self.work)
        return self.messages

    def asyncio(self) -> list[Message]:
        async def follow() -> None:
            opened = (NarrowAsyncSockets if self.narrow else AsyncSockets)(self.target, 10.0)
            async with AsyncClient(opened) as client:
                async for message in client.follow(1, on_state=self.states.append):
                    self.take(message)
                    if self.work:
                        await asyncio.sleep(self.work)

        asyncio.run(follow())
        return self.messages

    def is_live(self) -> None:
        """Wait until it says so."""
        wait_until(lambda: self.states[-1:] == [FollowState.LIVE], DONE_S)

    def has(self, count: int) -> None:
        """Wait until it has delivered so many."""
        wait_until(lambda: len(self.messages) >= count, DONE_S)


def complete(messages: list[Message], count: int) -> bool:
    """Whether these are all messages, once and in order."""
    assert [message.seq for message in messages] == list(range(1, count + 1))
    assert all(message.content == f"text {message.seq}" for message in messages)
    return True


def texts(first: int, last: int) -> list[NewMessage]:
    return [NewMessage("user", f"text {number}") for number in range(first, last + 1)]


# --- slow followers -------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_a_follower_with_a_mark_of_one_and_5_ms_of_work_gets_2000_appends_once_and_in_order(
    engine: Engine, client: Client, pool: ThreadPoolExecutor
) -> None:
    """Set ARMIN_SLOW_APPENDS for more of them."""
    count = int(os.environ.get("ARMIN_SLOW_APPENDS", "2000"))
    followers = [Following(engine.directory, narrow=True, work=WORK_S) for _ in "ab"]
    running = [pool.submit(followers[0].blocking), pool.submit(followers[1].asyncio)]
    for follower in followers:
        follower.is_live()
    for number in range(1, count + 1):
        client.append(1, "user", f"text {number}")
    client.close_session(1)
    for future in running:
        assert complete(future.result(count * 0.02 + DONE_S), count)


def test_what_the_engine_drops_for_a_follower_that_stands_still_is_read_again(
    engine: Engine, client: Client, pool: ThreadPoolExecutor
) -> None:
    """More than both high-water marks and the kernel's buffers hold: libzmq drops in the engine."""
    with Client(NarrowSockets(DirectoryTarget(str(engine.directory)), 10.0)) as narrow:
        items = narrow.follow(1)
        client.append(1, "user", "text 1")
        messages = [next(items)]
        for first in range(2, 20_002, 5_000):
            client.append_many(1, texts(first, first + 4_999))
        client.close_session(1)
        messages += pool.submit(list, items).result(DONE_S)
    assert complete(messages, 20_001)
    assert client.stats()["heals"] > 0


# --- lost events and cut connections --------------------------------------------------------------


@pytest.mark.parametrize("lost", [b"message/", b"closed/"])
def test_a_lost_last_event_is_found_by_the_heartbeat_and_not_by_silence(
    engine: Engine, client: Client, kind: str, short_dir: Path, pool: ThreadPoolExecutor, lost: bytes
) -> None:
    dropping, dropped = threading.Event(), []

    def drops(topic: bytes, event: bytes) -> bool:
        if dropped or not dropping.is_set() or not topic.startswith(lost):
            return False
        dropped.append(topic)
        return True

    with event_proxy(engine.directory, short_dir / "p", drops) as directory:
        follower = Following(directory)
        running = pool.submit(getattr(follower, kind))
        client.append_many(1, texts(1, 9))
        follower.is_live()
        follower.has(9)
        dropping.set()
        if lost == b"message/":
            client.append(1, "user", "text 10")
            follower.has(10)
            client.close_session(1)
            assert complete(running.result(DONE_S), 10)
        else:
            client.close_session(1)
            assert complete(running.result(DONE_S), 9)
    assert len(dropped) == 1
    assert FollowState.ENGINE_GONE not in follower.states


@pytest.mark.parametrize("more", [False, True], ids=["heartbeat", "gap"])
def test_what_is_lost_while_a_connection_is_cut_is_found_when_it_is_back(
    engine: Engine, client: Client, kind: str, short_dir: Path, pool: ThreadPoolExecutor, more: bool
) -> None:
    """libzmq connects and subscribes again by itself; a gap or the next heartbeat shows what it missed."""
    with cable(engine.directory, short_dir / "c") as (directory, line):
        follower = Following(directory)
        running = pool.submit(getattr(follower, kind))
        client.append(1, "user", "text 1")
        follower.is_live()
        follower.has(1)
        line.cut()
        client.append_many(1, texts(2, 50))
        line.mend()
        if more:
            wait_until(lambda: line.connections >= 2)
            client.append(1, "user", "text 51")
        count = 51 if more else 50
        follower.has(count)
        client.append(1, "user", f"text {count + 1}")
        client.close_session(1)
        assert complete(running.result(DONE_S), count + 1)


def test_a_connection_that_stays_cut_is_told_and_read_around(
    engine: Engine, client: Client, short_dir: Path, pool: ThreadPoolExecutor
) -> None:
    with cable(engine.directory, short_dir / "c") as (directory, line):
        follower = Following(directory)
        running = pool.submit(follower.blocking)
        follower.is_live()
        line.cut()
        client.append_many(1, texts(1, 5))
        follower.has(5)  # without a live socket, by reading alone
        assert FollowState.LIVE not in follower.states[2:]
        line.mend()
        follower.is_live()
        client.close_session(1)
        assert complete(running.result(DONE_S), 5)


# --- states ---------------------------------------------------------------------------------------


def test_states_are_told_in_order_through_a_kill_and_a_restart(
    engine: Engine, client: Client, kind: str, pool: ThreadPoolExecutor
) -> None:
    client.append(1, "user", "text 1")
    followers = [Following(engine.directory) for _ in range(3)]
    running = [pool.submit(getattr(follower, kind)) for follower in followers]
    for follower in followers:
        follower.is_live()
    engine.kill()
    for follower in followers:
        wait_until(lambda one=follower: one.states[-1] is FollowState.ENGINE_GONE)  # type: ignore[misc]
    engine.start()
    for follower in followers:
        follower.is_live()
    client.append(1, "user", "text 2")
    client.close_session(1)
    for future, follower in zip(running, followers, strict=True):
        assert complete(future.result(DONE_S), 2)
        assert follower.states[:3] == ["catching up", "live", "engine gone"]
        assert follower.states[3:] == ["catching up", "live"]


def test_what_a_callback_raises_ends_the_follow(engine: Engine, client: Client) -> None:
    def refuse(state: FollowState) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(client.follow(1, on_state=refuse))
    assert client.ping() == 1


# --- types ----------------------------------------------------------------------------------------


def test_both_clients_follow_the_types_that_are_wanted(engine: Engine, client: Client) -> None:
    for _ in range(3):
        session = client.create_session()
        client.append_many(session.id, texts(1, 40))
        client.close_session(session.id)
    wanted = ("session_created", "session_closed")
    expected = [event for event in client.events() if event.type in wanted]
    assert list(itertools.islice(client.follow_all(types=wanted), 7)) == expected

    async def follow() -> list[Any]:
        async with armin.connect_async(engine.directory) as other:
            found = []
            async for event in other.follow_all(types=iter(wanted)):
                found.append(event)
                if len(found) == 7:
                    await other.append(1, "user", "passed over")
                    await other.close_session(1)
                if len(found) == 8:
                    return found
            return found

    *found, last = asyncio.run(asyncio.wait_for(follow(), DONE_S))
    assert found == expected
    assert (last.type, last.session_id) == ("session_closed", 1)
    assert next(client.follow_all(last.position - 1, types=["session_closed"])) == last


# --- many follows ---------------------------------------------------------------------------------


def test_200_follows_of_one_client_ask_together_where_their_sessions_end(
    engine: Engine, client: Client
) -> None:
    follows, beats = 200, 3.0
    for _ in range(follows):
        client.create_session()

    async def follow_all_of_them() -> float:
        live: set[int] = set()
        ended: set[int] = set()

        async def follow(one: AsyncClient, session_id: int) -> None:
            def note(state: FollowState) -> None:
                (live.add if state is FollowState.LIVE else live.discard)(session_id)

            async for _ in one.follow(session_id, on_state=note):
                pass
            ended.add(session_id)

        async with armin.connect_async(engine.directory, timeout=90) as one:
            tasks = [asyncio.create_task(follow(one, number)) for number in range(2, follows + 2)]
            while len(live) < follows:
                assert not any(task.done() for task in tasks)
                await asyncio.sleep(0.05)
            appends, before, end = 0, await commands(one), time.monotonic() + beats
            while time.monotonic() < end:  # in a session that none of them follows
                await one.append(1, "user", "x")
                appends += 1
                await asyncio.sleep(0.1)
            asked = await commands(one) - before - appends - 1
            await asyncio.gather(*(one.close_session(number) for number in range(2, follows + 2)))
            await asyncio.wait_for(asyncio.gather(*tasks), DONE_S)
            assert len(ended) == follows
        return asked / beats

    async def commands(one: AsyncClient) -> int:
        return int((await one.stats())["commands"])

    assert 0 < asyncio.run(follow_all_of_them()) <= 10


def test_threads_of_one_client_ask_together_where_their_sessions_end(engine: Engine, client: Client) -> None:
    follows, beats = 20, 3.0
    sessions = [client.create_session().id for _ in range(follows)]
    live: set[int] = set()

    def follow(session_id: int) -> list[Message]:
        return list(
            client.follow(
                session_id, on_state=lambda state: live.add(session_id) if state == "live" else None
            )
        )

    with ThreadPoolExecutor(follows) as threads, armin.connect(engine.directory) as other:
        running = [threads.submit(follow, session_id) for session_id in sessions]
        wait_until(lambda: len(live) == follows)
        appends, before, end = 0, other.stats()["commands"], time.monotonic() + beats
        while time.monotonic() < end:
            other.append(1, "user", "x")
            appends += 1
            time.sleep(0.1)
        asked = other.stats()["commands"] - before - appends - 1
        for session_id in sessions:
            other.close_session(session_id)
        assert [future.result(DONE_S) for future in running] == [[]] * follows
    assert 0 < asked <= 10 * beats


# --- a stored cursor ------------------------------------------------------------------------------

STORING = """
import os, sys, armin
directory, path = sys.argv[1:]
with open(path, "a+b", buffering=0) as stored:
    stored.seek(0)
    *_, cursor = [0, *map(int, stored.read().split())]
    with armin.connect(directory, timeout=60) as client:
        for message in client.follow(1, cursor):
            stored.write(b"%d\\n" % message.seq)
"""


def test_a_follower_that_is_killed_goes_on_from_its_stored_cursor(
    engine: Engine, client: Client, short_dir: Path, pool: ThreadPoolExecutor
) -> None:
    stored = short_dir / "stored"
    stored.touch()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", STORING, str(engine.directory), str(stored)])

    def lines() -> int:
        return stored.read_bytes().count(b"\n")

    def load() -> int:
        for count in itertools.count(1):
            client.append(1, "user", "x")
            if enough.is_set():
                return count
        raise AssertionError

    enough = threading.Event()
    loading = pool.submit(load)
    for _ in range(4):
        before = lines()
        process = start()
        try:
            wait_until(lambda least=before + 50: lines() >= least, DONE_S)  # type: ignore[misc]
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    enough.set()
    count = loading.result(DONE_S)
    client.close_session(1)
    assert start().wait(DONE_S) == 0
    assert [int(line) for line in stored.read_bytes().split()] == list(range(1, count + 1))
