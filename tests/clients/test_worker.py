"""Workers of both kinds against a real engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import armin
from armin import Counters, Effect, Retry
from armin.channel import Sockets
from armin.target import find_target
from harness import Engine, wait_until

GROUP = "g"
END_S = 60.0


class Shift:
    """A worker of either kind in a thread, with a blocking handler."""

    def __init__(
        self,
        kind: str,
        engine: Engine,
        handler: Callable[[Effect], Any],
        *,
        timeout: float = 20.0,
        **options: Any,
    ) -> None:
        self._timeout = timeout
        self.worker: Any = None
        self.error: BaseException | None = None
        self._ready = threading.Event()
        self._stop: Callable[[], None] = lambda: None
        target = {"blocking": self._run_blocking, "asyncio": self._run_asyncio}[kind]
        self._thread = threading.Thread(target=target, args=(engine, handler, options))
        self._thread.start()
        assert self._ready.wait(END_S)

    def _run_blocking(self, engine: Engine, handler: Callable[[Effect], Any], options: Any) -> None:
        with armin.connect(engine.directory, timeout=self._timeout) as client:
            self.worker = client.worker(GROUP, handler, **options)
            self._stop = self.worker.stop
            self._ready.set()
            try:
                self.worker.run()
            except armin.ArminError as error:
                self.error = error

    def _run_asyncio(self, engine: Engine, handler: Callable[[Effect], Any], options: Any) -> None:
        async def handle(effect: Effect) -> None:
            await asyncio.to_thread(handler, effect)

        async def run() -> None:
            loop = asyncio.get_running_loop()
            async with armin.connect_async(engine.directory, timeout=self._timeout) as client:
                self.worker = client.worker(GROUP, handle, **options)
                self._stop = lambda: loop.call_soon_threadsafe(self.worker.stop) and None
                self._ready.set()
                try:
                    await self.worker.run()
                except armin.ArminError as error:
                    self.error = error

        asyncio.run(run())

    @property
    def counters(self) -> Counters:
        counters: Counters = self.worker.counters
        return counters

    def stop(self) -> None:
        self._stop()

    def join(self) -> None:
        self._thread.join(END_S)
        assert not self._thread.is_alive(), "the worker does not end"

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()


@pytest.fixture(params=["blocking", "asyncio"])
def start(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Callable[..., Shift]]:
    """Starts workers, and ends them."""
    shifts: list[Shift] = []

    def begin(handler: Callable[[Effect], Any], **options: Any) -> Shift:
        shifts.append(Shift(request.param, engine, handler, **options))
        return shifts[-1]

    yield begin
    for shift in shifts:
        if not shift.over:
            shift.stop()
        shift.join()


@pytest.fixture
def client(engine: Engine) -> Iterator[armin.Client]:
    with armin.connect(engine.directory) as client:
        yield client


def fill(client: armin.Client, sessions: int, messages: int = 0) -> int:
    """Commit facts; returns how many."""
    for _ in range(sessions):
        session = client.create_session()
        if messages:
            client.append_many(session.id, [{"role": "user", "content": "x"}] * messages)
    return sessions * (1 + messages)


def left(client: armin.Client) -> int:
    """Effects that are not handled and not dead."""
    try:
        [group] = client.groups(GROUP)
    except armin.GroupNotFound:
        return -1
    return group.behind + group.waiting + group.leased


class Together:
    """A handler that returns when so many run at once; `most` is how many ever did."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count, timeout=END_S)
        self._lock = threading.Lock()
        self._running = 0
        self.most = 0

    def handle(self, effect: Effect) -> None:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        self._barrier.wait()
        with self._lock:
            self._running -= 1


def test_every_effect_is_handled_once_and_in_order(start: Any, client: armin.Client) -> None:
    facts = fill(client, 2, 10)
    seen: list[int] = []
    shift = start(lambda effect: seen.append(effect.position))
    wait_until(lambda: left(client) == 0)
    facts += fill(client, 1)
    wait_until(lambda: left(client) == 0 and shift.counters.handled == facts)
    assert seen == list(range(1, facts + 1))
    assert shift.counters == Counters(handled=facts)


def test_what_fails_comes_again_and_is_a_dead_letter_in_the_end(start: Any, client: armin.Client) -> None:
    fill(client, 2)
    attempts: list[tuple[int, int]] = []

    def handle(effect: Effect) -> None:
        attempts.append((effect.position, effect.attempt))
        if effect.position == 1:
            raise ValueError("it is the first")

    shift = start(handle, max_attempts=3, backoff_ms=1)
    wait_until(lambda: client.groups(GROUP)[0].dead == 1 if left(client) >= 0 else False)
    wait_until(lambda: left(client) == 0)
    assert sorted(attempts) == [(1, 1), (1, 2), (1, 3), (2, 1)]
    [letter] = client.dead_letters(GROUP).dead_letters
    assert (letter.position, letter.attempts, letter.reason) == (1, 3, "ValueError: it is the first")
    wait_until(lambda: shift.counters == Counters(handled=1, failed=3, dead=1, redelivered=2))
    assert client.requeue(GROUP) == 1
    wait_until(lambda: attempts.count((1, 1)) == 2)


def test_retry_chooses_the_pause_and_the_reason(start: Any, client: armin.Client) -> None:
    fill(client, 1)
    attempts: list[int] = []

    def handle(effect: Effect) -> None:
        attempts.append(effect.attempt)
        if effect.attempt < 3:
            raise Retry("not yet", delay_ms=0)
        raise Retry("\ud800" + "€" * 1000)

    start(handle, max_attempts=3, backoff_ms=3_600_000)
    wait_until(lambda: left(client) == 0)
    assert attempts == [1, 2, 3]
    [letter] = client.dead_letters(GROUP).dead_letters
    assert letter.reason == "?" + "€" * 341  # 1,024 bytes, whole characters


def test_a_handler_keeps_its_effect_for_as_long_as_it_takes(start: Any, client: armin.Client) -> None:
    fill(client, 1)
    begun = threading.Event()
    release = threading.Event()
    seen: list[int] = []

    def handle(effect: Effect) -> None:
        seen.append(effect.attempt)
        begun.set()
        assert release.wait(END_S)

    one, other = (start(handle, lease_ms=3000) for _ in range(2))
    assert begun.wait(END_S)
    over = time.monotonic() + 4.0  # longer than a lease
    wait_until(lambda: time.monotonic() > over)
    assert client.groups(GROUP)[0].leased == 1
    release.set()
    wait_until(lambda: left(client) == 0)
    wait_until(lambda: one.counters.handled + other.counters.handled == 1)
    assert seen == [1]


def test_a_handler_that_lost_its_effect_is_told_and_nothing_breaks(start: Any, client: armin.Client) -> None:
    fill(client, 1)
    lost: list[bool] = []
    again = threading.Event()

    def handle(effect: Effect) -> None:
        if lost:
            again.set()
            return
        client.drop_group(GROUP)  # and with it the lease
        client.create_group(GROUP)
        wait_until(lambda: effect.lost)
        lost.append(effect.lost)

    shift = start(handle, lease_ms=3000)
    assert again.wait(END_S)
    wait_until(lambda: shift.counters == Counters(handled=1, lost=1))


def test_stop_finishes_what_has_begun_and_takes_no_more(start: Any, client: armin.Client) -> None:
    facts = fill(client, 10)
    begun = threading.Semaphore(0)
    release = threading.Event()

    def handle(effect: Effect) -> None:
        begun.release()
        assert release.wait(END_S)

    shift = start(handle, concurrency=3)
    for _ in range(3):
        assert begun.acquire(timeout=END_S)
    [group] = client.groups(GROUP)
    assert (group.leased, group.pollers) == (3, 0)
    shift.stop()
    release.set()
    shift.join()
    assert shift.counters == Counters(handled=3)
    [group] = client.groups(GROUP)
    assert (group.leased, group.behind + group.waiting, group.pollers) == (0, facts - 3, 0)


def test_stop_ends_an_idle_worker_at_once_and_leaves_no_poll_behind(start: Any, client: armin.Client) -> None:
    shift = start(lambda effect: None)
    wait_until(lambda: left(client) >= 0 and client.groups(GROUP)[0].pollers == 1)
    shift.stop()
    shift.join()
    wait_until(lambda: client.groups(GROUP)[0].pollers == 0)
    fill(client, 1)
    [group] = client.groups(GROUP)
    assert group.leased == 0


def test_so_many_handlers_run_at_a_time_and_no_more(start: Any, client: armin.Client) -> None:
    fill(client, 12)
    together = Together(4)
    start(together.handle, concurrency=4)
    wait_until(lambda: left(client) == 0)
    assert together.most == 4


def test_threads_come_in_time_where_handlers_wait_for_each_other(
    engine: Engine, client: armin.Client
) -> None:
    fill(client, 60)
    together = Together(20)
    shift = Shift("blocking", engine, together.handle, concurrency=20)
    try:
        wait_until(lambda: left(client) == 0)
    finally:
        shift.stop()
        shift.join()
    assert together.most == 20
    assert shift.counters == Counters(handled=60)


def test_one_thread_handles_all_that_takes_no_time(engine: Engine, client: armin.Client) -> None:
    facts = fill(client, 30)
    threads: set[int] = set()

    def handle(effect: Effect) -> None:
        threads.add(threading.get_ident())
        if effect.position == facts:
            worker.stop()

    # On this clock no time passes, however busy the machine is.
    sockets = Sockets(find_target(engine.directory, {}), 5.0, clock=lambda: time.monotonic() / 1e6)
    with armin.Client(sockets) as patient:
        worker = patient.worker(GROUP, handle, concurrency=10)
        worker.run()
    assert worker.counters == Counters(handled=facts)
    assert len(threads) == 1


def test_one_session_s_effects_are_never_handled_together_in_an_ordered_group(
    start: Any, client: armin.Client
) -> None:
    facts = fill(client, 3, 15)
    running: set[int] = set()
    seen: dict[int, list[int]] = {1: [], 2: [], 3: []}
    wrong: list[Effect] = []

    def handle(effect: Effect) -> None:
        if effect.session_id in running:
            wrong.append(effect)
        running.add(effect.session_id)
        seen[effect.session_id].append(effect.position)
        running.discard(effect.session_id)
        if effect.position % 7 == 0 and effect.attempt == 1:
            raise Retry(delay_ms=5)

    for _ in range(2):
        start(handle, concurrency=4, ordered=True)
    wait_until(lambda: left(client) == 0)
    assert not wrong
    for positions in seen.values():
        assert positions == sorted(positions)
    assert sum(len(set(positions)) for positions in seen.values()) == facts


def test_a_worker_goes_on_when_the_engine_was_killed_or_restarted(
    start: Any, client: armin.Client, engine: Engine
) -> None:
    facts = fill(client, 20)
    seen: set[int] = set()
    shift = start(lambda effect: seen.add(effect.position), concurrency=2, lease_ms=1000)
    wait_until(lambda: len(seen) > 5)
    engine.kill()
    engine.start()
    wait_until(lambda: left(client) == 0)
    engine.stop()
    engine.start()
    facts += fill(client, 5)
    wait_until(lambda: left(client) == 0)
    assert seen == set(range(1, facts + 1))
    assert not shift.over


def test_a_large_message_is_read_whole_unless_told_otherwise(start: Any, client: armin.Client) -> None:
    session = client.create_session()
    client.append(session.id, "user", "small")
    client.append(session.id, "user", "x" * 100_000, {"k": 1})
    contents: list[tuple[int, bool, Any]] = []

    def handle(effect: Effect) -> None:
        assert effect.message is not None
        contents.append((len(effect.message.content), effect.message.elided, effect.message.meta))

    shift = start(handle, types=["message_appended"])
    wait_until(lambda: len(contents) == 2)
    assert contents == [(5, False, None), (100_000, False, {"k": 1})]
    shift.stop()
    shift.join()
    client.drop_group(GROUP)
    start(handle, types=["message_appended"], whole=False)
    wait_until(lambda: len(contents) == 4)
    assert contents[3] == (0, True, None)


def test_other_settings_are_refused_and_a_dropped_group_ends_its_workers(
    start: Any, client: armin.Client
) -> None:
    shift = start(lambda effect: None)
    wait_until(lambda: left(client) == 0)
    other = start(lambda effect: None, ordered=True)
    other.join()
    assert isinstance(other.error, armin.Conflict)
    client.drop_group(GROUP)
    shift.join()
    assert isinstance(shift.error, armin.GroupNotFound)


def test_without_an_engine_a_worker_says_so(start: Any, engine: Engine) -> None:
    engine.stop()
    shift = start(lambda effect: None, timeout=0.2)
    shift.join()
    assert isinstance(shift.error, armin.NoReply)


def test_a_worker_of_a_closed_client_ends(engine: Engine, client: armin.Client) -> None:
    worker = client.worker(GROUP, lambda effect: None)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except armin.ArminError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    with armin.connect(engine.directory) as other:
        wait_until(lambda: left(other) == 0 and other.groups(GROUP)[0].pollers == 1)
    client.close()
    thread.join(END_S)
    assert [type(error) for error in ended] == [armin.ClientClosed]


def test_a_cancelled_worker_ends_its_handlers(engine: Engine) -> None:
    async def run() -> list[str]:
        said: list[str] = []

        async def handle(effect: Effect) -> None:
            said.append("begun")
            try:
                await asyncio.Event().wait()
            finally:
                said.append("ended")

        async with armin.connect_async(engine.directory) as client:
            await client.create_session()
            task = asyncio.create_task(client.worker(GROUP, handle).run())
            while not said:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return said

    assert asyncio.run(run()) == ["begun", "ended"]


def test_keyboard_interrupt_finishes_what_has_begun(engine: Engine, client: armin.Client) -> None:
    fill(client, 2)
    script = """
import os, signal, sys, time, armin
def handle(effect):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    print("finished", effect.position, flush=True)
with armin.connect(sys.argv[1]) as client:
    worker = client.worker("g", handle)
    try:
        worker.run()
    except KeyboardInterrupt:
        print(worker.counters.handled)
"""
    command = [sys.executable, "-c", script, str(engine.directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=END_S, check=True)
    assert done.stdout == "finished 1\n1\n"
    assert left(client) == 1


@pytest.mark.parametrize("concurrency", [0, -1])
def test_a_worker_without_hands_is_refused(client: armin.Client, concurrency: int) -> None:
    with pytest.raises(ValueError, match="concurrency"):
        client.worker(GROUP, lambda effect: None, concurrency=concurrency)
