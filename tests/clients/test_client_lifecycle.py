"""Opening, sharing, interrupting and closing clients: nothing hangs, nothing is left behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

import armin
from armin import ClientClosed, NewMessage, channel
from armin.channel import Sockets
from armin.target import DirectoryTarget
from harness import Engine, wait_until

PROMPT_S = 20.0  # what must happen at once has happened long before


class Remembers:
    """Mixed into a context: it remembers the sockets it made."""

    def socket(self, *arguments: Any, **named: Any) -> Any:
        made = super().socket(*arguments, **named)  # type: ignore[misc]
        self.__dict__.setdefault("made", []).append(made)
        return made

    @property
    def open_sockets(self) -> int:
        return sum(not made.closed for made in self.__dict__.get("made", []))


class Witness(Remembers, zmq.Context[zmq.Socket[bytes]]):
    """For the blocking client."""


class AsyncWitness(Remembers, zmq.asyncio.Context):
    """For the asyncio client."""


@pytest.fixture
def witness() -> Iterator[Witness]:
    with Witness() as context:
        yield context


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def uses(client: Any) -> dict[str, Callable[[], Any]]:
    """One use of every method but `close`."""
    return {
        "hello": client.hello,
        "ping": client.ping,
        "sync": lambda: client.sync("t"),
        "stats": client.stats,
        "health": client.health,
        "refresh_snapshot": client.refresh_snapshot,
        "verify": client.verify,
        "backup": client.backup,
        "create_session": client.create_session,
        "append": lambda: client.append(1, "user", "x"),
        "append_many": lambda: client.append_many(1, [NewMessage("user", "x")]),
        "close_session": lambda: client.close_session(1),
        "session": lambda: client.session(1),
        "sessions": client.sessions,
        "tails": lambda: client.tails([1]),
        "read": lambda: client.read(1),
        "snapshot": lambda: client.snapshot(1),
        "delta": lambda: client.delta(1),
        "log": client.log,
        "messages": lambda: client.messages(1),
        "events": client.events,
        "follow": lambda: client.follow(1),
        "follow_all": client.follow_all,
        "effects": client.effects,
    }


def test_the_uses_are_all_methods() -> None:
    public = {name for name in vars(armin.Client) if not name.startswith("_")}
    with armin.connect("/nowhere") as client:
        assert set(uses(client)) == public - {"close", "pipeline"}


# --- the blocking client --------------------------------------------------------------------------


def test_a_closed_client_can_be_closed_again_and_used_no_more(short_dir: Path) -> None:
    client = armin.connect(short_dir)
    client.close()
    client.close()
    for use in uses(client).values():
        with pytest.raises(ClientClosed):
            list(use())


def test_a_client_leaves_no_descriptor_behind(engine: Engine) -> None:
    def use_one() -> None:
        with armin.connect(engine.directory) as client:
            client.ping()
            next(client.follow_all(after=0))

    with armin.connect(engine.directory) as client:
        client.create_session()
    use_one()
    before = descriptors()
    for _ in range(10):
        use_one()
    assert descriptors() == before


def test_a_context_of_the_caller_s_is_left_open(engine: Engine, witness: Witness) -> None:
    with armin.connect(engine.directory, context=witness) as client:
        client.ping()
        assert witness.open_sockets == 1
    assert witness.open_sockets == 0
    assert not witness.closed


@pytest.mark.parametrize("iterate", ["follow", "follow_all", "effects"])
def test_leaving_an_iterator_closes_its_sockets(engine: Engine, witness: Witness, iterate: str) -> None:
    with armin.connect(engine.directory, context=witness) as client:
        session = client.create_session()
        client.append(session.id, "user", "x")
        for _ in client.follow(session.id) if iterate == "follow" else getattr(client, iterate)():
            assert witness.open_sockets > 1
            break
        assert witness.open_sockets == 1


def test_closing_ends_iterators_that_wait_elsewhere(engine: Engine) -> None:
    client = armin.connect(engine.directory)
    session = client.create_session()
    client.append(session.id, "user", "x")
    everybody = threading.Barrier(4)

    def drain(items: Iterator[Any], there: int) -> None:
        for _ in range(there):
            next(items)
        everybody.wait(PROMPT_S)
        next(items)

    with ThreadPoolExecutor(3) as pool:
        iterators = [(client.follow(session.id), 1), (client.follow_all(after=1), 1), (client.effects(), 2)]
        drains = [pool.submit(drain, *each) for each in iterators]
        everybody.wait(PROMPT_S)
        began = time.monotonic()
        client.close()
        ends = [type(end.exception(PROMPT_S)) for end in drains]
    assert ends == [ClientClosed] * 3
    assert time.monotonic() - began < PROMPT_S


def test_closing_ends_a_request_that_waits_elsewhere(short_dir: Path) -> None:
    client = armin.connect(short_dir, timeout=60)
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(client.ping)
        wait_until(request.running)
        began = time.monotonic()
        client.close()
        with pytest.raises(ClientClosed):
            request.result(PROMPT_S)
    assert time.monotonic() - began < PROMPT_S


def test_an_iterator_of_a_closed_client_goes_no_further(engine: Engine) -> None:
    with armin.connect(engine.directory) as client:
        session = client.create_session()
        client.append(session.id, "user", "x")
        items = client.follow(session.id)
        next(items)
    with pytest.raises(ClientClosed):
        next(items)


def test_several_threads_share_a_client_and_each_gets_its_own_replies(engine: Engine) -> None:
    with armin.connect(engine.directory) as client, ThreadPoolExecutor(8) as pool:
        session = client.create_session()

        def appends(thread: int) -> list[bool]:
            texts = [f"{thread}/{number}" for number in range(100)]
            places = [(client.append(session.id, "user", text).seq, text) for text in texts]
            return [
                client.read(session.id, after=seq - 1, limit=1).messages[0].content == text
                for seq, text in places
            ]

        assert all(all(right) for right in pool.map(appends, range(8)))
        assert client.session(session.id).seq == 800


FOLLOWER = """
import sys, armin
with armin.connect(sys.argv[1]) as client:
    try:
        for message in client.follow(1):
            print(message.seq, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c_in_a_waiting_follower_is_felt_at_once(engine: Engine) -> None:
    with armin.connect(engine.directory) as client:
        client.append(client.create_session().id, "user", "x")
    command = [sys.executable, "-c", FOLLOWER, str(engine.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "1\n"
        began = time.monotonic()
        follower.send_signal(signal.SIGINT)
        assert follower.stdout.readline() == "interrupted\n"
        assert follower.wait(PROMPT_S) == 0
        assert time.monotonic() - began < PROMPT_S


FORKING = """
import os, sys, time
from armin.channel import Sockets
from armin.target import DirectoryTarget

looks = 0

def clock():
    global looks
    looks += 1
    return time.monotonic()

inlet = Sockets(DirectoryTarget(sys.argv[1]), 1.0, clock=clock).effects(f"ipc://{sys.argv[1]}/nobody")
child = os.fork()
if not child:
    inlet.close()
    os._exit(0)
os.waitpid(child, 0)
inlet.receive(time.monotonic() + 0.3)
print(looks, flush=True)
os._exit(0)
"""

SIGNALLED = """
import signal, sys, threading, time
from armin.channel import Sockets
from armin.target import DirectoryTarget

waiting = threading.Event()

def clock():
    waiting.set()
    return time.monotonic()

def handle(*_):
    raise SystemExit("handled")

def send():
    waiting.wait()
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

signal.signal(signal.SIGUSR1, handle)
sockets = Sockets(DirectoryTarget(sys.argv[1]), 1.0, clock=clock)
inlet = sockets.effects(f"ipc://{sys.argv[1]}/nobody")
threading.Thread(target=send).start()
try:
    inlet.receive(time.monotonic() + 600)
finally:
    sockets.close()
"""


def script(text: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs it to its end, which comes soon."""
    command = [sys.executable, "-W", "ignore", "-c", text, str(directory)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=3 * PROMPT_S)


def test_closing_in_a_fork_leaves_the_parent_waiting_at_ease(short_dir: Path) -> None:
    assert int(script(FORKING, short_dir).stdout) < 10


def test_a_signal_that_another_thread_took_is_handled_soon(short_dir: Path) -> None:
    assert script(SIGNALLED, short_dir).stderr == "handled\n"


def test_a_channel_that_cannot_be_made_leaves_no_socket_open(
    short_dir: Path, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_many() -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(channel, "socketpair", too_many)
    with pytest.raises(OSError, match="Too many"):
        armin.connect(short_dir, context=witness)
    assert witness.open_sockets == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_channels_that_are_dropped_unclosed_leave_no_descriptor_behind(short_dir: Path) -> None:
    def drop_one(context: zmq.Context[zmq.Socket[bytes]]) -> None:
        Sockets(DirectoryTarget(str(short_dir)), 1.0, context).channel()
        gc.collect()

    with zmq.Context() as context:
        drop_one(context)
        before = descriptors()
        for _ in range(20):
            drop_one(context)
        wait_until(lambda: descriptors() <= before + 4)  # libzmq closes its own a little later


# --- the asyncio client ---------------------------------------------------------------------------


def test_a_closed_asyncio_client_can_be_closed_again_and_used_no_more(short_dir: Path) -> None:
    async def run() -> None:
        client = armin.connect_async(short_dir)
        await client.close()
        await client.close()
        for use in uses(client).values():
            result = use()
            with pytest.raises(ClientClosed):
                await (anext(result) if hasattr(result, "__anext__") else result)

    asyncio.run(run())


def test_requests_overlap_and_each_gets_its_own_reply(engine: Engine) -> None:
    async def run() -> None:
        async with armin.connect_async(engine.directory) as client:
            session = await client.create_session()
            appended = await asyncio.gather(
                *(client.append(session.id, "user", str(number)) for number in range(1000))
            )
            assert [a.seq for a in appended] == list(range(1, 1001))
            contents = [m.content async for m in client.messages(session.id)]
            assert contents == [str(number) for number in range(1000)]

    asyncio.run(run())


def test_a_cancelled_request_harms_no_other(engine: Engine) -> None:
    async def run() -> None:
        async with armin.connect_async(engine.directory, timeout=60) as client:
            session = await client.create_session()
            tasks = [
                asyncio.create_task(client.append(session.id, "user", str(number))) for number in range(300)
            ]
            await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results[::3])
            for number, result in enumerate(results):
                if number % 3:
                    assert isinstance(result, armin.Appended)
                    page = await client.read(session.id, after=result.seq - 1, limit=1)
                    assert page.messages[0].content == str(number)

    asyncio.run(run())


def test_a_request_cancelled_before_it_was_sent_is_never_sent(short_dir: Path) -> None:
    engine = Engine(short_dir / "e")

    async def run() -> None:
        async with armin.connect_async(engine.directory, timeout=60) as client:
            request = asyncio.create_task(client.create_session("cancelled"))
            await asyncio.sleep(0)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await asyncio.to_thread(engine.start)
            assert await client.ping() == 0

    asyncio.run(run())
    engine.stop()


def test_closing_an_asyncio_client_ends_what_waits(engine: Engine, short_dir: Path) -> None:
    async def run() -> None:
        client = armin.connect_async(engine.directory)
        elsewhere = armin.connect_async(short_dir, timeout=60)
        session = await client.create_session()
        await client.append(session.id, "user", "x")
        following, effects = client.follow(session.id), client.effects()
        await anext(following)
        await anext(effects)
        await anext(effects)
        waiting: list[asyncio.Task[Any]] = [
            asyncio.create_task(step)  # type: ignore[arg-type]
            for step in (anext(following), anext(effects), elsewhere.ping())
        ]
        done, _ = await asyncio.wait(waiting, timeout=0.1)
        assert not done
        await client.close()
        await elsewhere.close()
        results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PROMPT_S)
        assert [type(result) for result in results] == [ClientClosed] * 3

    asyncio.run(run())


@pytest.mark.parametrize("iterate", ["follow", "follow_all", "effects"])
def test_leaving_an_asyncio_iterator_closes_its_sockets(engine: Engine, iterate: str) -> None:
    async def run(context: AsyncWitness) -> None:
        async with armin.connect_async(engine.directory, context=context) as client:
            session = await client.create_session()
            await client.append(session.id, "user", "x")
            async for _ in client.follow(session.id) if iterate == "follow" else getattr(client, iterate)():
                assert context.open_sockets == 2
                break
            async with asyncio.timeout(PROMPT_S):
                while context.open_sockets > 1:  # the loop closes what was left
                    await asyncio.sleep(0.01)
        assert context.open_sockets == 0

    with AsyncWitness() as context:
        asyncio.run(run(context))


def test_a_cancelled_follower_closes_its_sockets_and_is_cancelled(engine: Engine) -> None:
    async def run(context: AsyncWitness) -> None:
        async with armin.connect_async(engine.directory, context=context) as client:
            session = await client.create_session()
            for moment in range(40):  # in the first request, in the handshake, in the live wait
                task = asyncio.create_task(anext(client.follow(session.id)))  # type: ignore[arg-type]
                await asyncio.sleep(0.002 * moment)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert context.open_sockets == 1
            assert await client.ping() == 1

    with AsyncWitness() as context:
        asyncio.run(asyncio.wait_for(run(context), 90))


def test_a_task_that_is_cancelled_while_its_client_closes_is_cancelled(engine: Engine) -> None:
    async def run() -> None:
        client = armin.connect_async(engine.directory)
        session = await client.create_session()
        following = client.follow(session.id)
        task = asyncio.create_task(anext(following))  # type: ignore[arg-type]
        done, _ = await asyncio.wait([task], timeout=0.3)
        assert not done
        await client.close()
        task.cancel()  # before it has felt that the client is closed
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_flood_of_live_events_leaves_other_tasks_their_turn(engine: Engine) -> None:
    async def run() -> None:
        async with armin.connect_async(engine.directory) as client:
            session = await client.create_session()
            following = client.follow(session.id)
            first = asyncio.create_task(anext(following))  # type: ignore[arg-type]
            await client.append(session.id, "user", "x")
            await first
            await client.append_many(session.id, [NewMessage("user", "x")] * 5000)
            turns = 0

            async def others() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            other = asyncio.create_task(others())
            async for message in following:
                if message.seq == 5001:
                    break
            other.cancel()
            assert turns > 20

    asyncio.run(run())
