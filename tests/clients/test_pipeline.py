"""Writes that overlap: through a proxy that loses replies and cuts connections, over an engine's death."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

import armin
from armin import outbox
from armin.channel import Sockets
from armin.client import Client
from armin.pipeline import Pending
from armin.target import find_target
from harness import Engine
from proxy import LossyProxy

SESSIONS = 4


@contextlib.contextmanager
def lossy(engine: Engine, directory: Path) -> Iterator[LossyProxy]:
    """A directory that looks like the engine's, with the proxy's socket in it."""
    directory.mkdir()
    listen = f"ipc://{directory}/commands.sock"
    with LossyProxy(listen, engine.endpoint("commands"), drop=0.02, cut=0.005, seed=7) as proxy:
        yield proxy


def contents(client: armin.Client, session_id: int) -> list[str]:
    return [message.content for message in client.messages(session_id)]


def expected(number: int, count: int) -> list[str]:
    return [f"m{n}" for n in range(number, count, SESSIONS)]


def catch(pending: Pending[armin.Appended]) -> armin.ArminError | None:
    try:
        pending.result()
    except armin.ArminError as error:
        return error
    return None


def test_a_pipeline_through_a_lossy_proxy_writes_each_once_in_order(engine: Engine, short_dir: Path) -> None:
    count = 20_000
    with armin.connect(engine.directory) as direct:
        ids = [direct.create_session().id for _ in range(SESSIONS)]
        with (
            lossy(engine, short_dir / "p") as proxy,
            armin.connect(short_dir / "p", timeout=60) as client,
            client.pipeline() as pipe,
        ):
            pending = [pipe.append(ids[n % SESSIONS], "user", f"m{n}") for n in range(count)]
        assert proxy.dropped > 5
        assert proxy.cuts > 1
        for number, session_id in enumerate(ids):
            assert contents(direct, session_id) == expected(number, count)
            seqs = [answer.result().seq for answer in pending[number::SESSIONS]]
            assert seqs == list(range(1, len(seqs) + 1))


def test_asyncio_tasks_through_a_lossy_proxy_write_each_once_in_order(
    engine: Engine, short_dir: Path
) -> None:
    count = 20_000

    async def write(ids: list[int]) -> None:
        async with armin.connect_async(short_dir / "p", timeout=60) as client:
            await asyncio.gather(*(client.append(ids[n % SESSIONS], "user", f"m{n}") for n in range(count)))

    with armin.connect(engine.directory) as direct:
        ids = [direct.create_session().id for _ in range(SESSIONS)]
        with lossy(engine, short_dir / "p") as proxy:
            asyncio.run(write(ids))
        assert proxy.dropped
        for number, session_id in enumerate(ids):
            assert contents(direct, session_id) == expected(number, count)


def test_an_engine_killed_and_restarted_loses_and_doubles_nothing(engine: Engine) -> None:
    count = 3000

    def restart() -> None:
        engine.kill()
        engine.start()

    with armin.connect(engine.directory) as client:
        ids = [client.create_session().id for _ in range(SESSIONS)]
        with client.pipeline() as pipe:
            for n in range(count):
                if n == count // 2:
                    restarting = threading.Thread(target=restart)
                    restarting.start()
                pipe.append(ids[n % SESSIONS], "user", f"m{n}")
        restarting.join()
        for number, session_id in enumerate(ids):
            assert contents(client, session_id) == expected(number, count)


def test_leaving_a_pipeline_raises_the_first_error_that_nobody_looked_at(engine: Engine) -> None:
    with armin.connect(engine.directory) as client:
        session = client.create_session()
        pipe = client.pipeline()
        assert isinstance(catch(pipe.append(session.id, "nobody", "x")), armin.BadRequest)
        pipe.append(session.id + 1, "user", "x")
        pipe.append(session.id, "user", "behind a failure")
        with pytest.raises(armin.SessionNotFound), pipe:
            pass  # leaving it is what raises
        assert contents(client, session.id) == ["behind a failure"]


def test_a_close_in_a_pipeline_comes_after_all_that_was_written_before(engine: Engine) -> None:
    with armin.connect(engine.directory) as client:
        session = client.create_session()
        with client.pipeline() as pipe:
            for n in range(100):
                pipe.append(session.id, "user", str(n))
            pipe.close_session(session.id)
            late = pipe.append(session.id, "user", "late")
            error = catch(late)
        assert isinstance(error, armin.SessionClosed)
        assert client.session(session.id).seq == 100
        assert client.session(session.id).closed


def test_a_pipeline_that_was_left_takes_no_more(short_dir: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as deaf, armin.connect(short_dir) as client:
        deaf.bind(f"ipc://{short_dir}/commands.sock")
        pipe = client.pipeline()
        while not deaf.poll(10):
            pipe.append(1, "user", "x")
        for _ in range(4):
            pipe.append(1, "user", "x")
        while pipe._channel._outbox._fresh:  # until the next one would not be sent at once
            pipe.append(1, "user", "x")
        with contextlib.suppress(ZeroDivisionError), pipe:
            raise ZeroDivisionError
        with pytest.raises(armin.ClientClosed):
            pipe.append(1, "user", "x")


def interrupting(function: Any, at: int, *, after: bool) -> Any:
    """The function, with a Ctrl-C before or after its so-manieth call."""
    calls = itertools.count(1)

    def interrupted(*arguments: Any, **named: Any) -> Any:
        comes = next(calls) == at
        if comes and not after:
            raise KeyboardInterrupt
        result = function(*arguments, **named)
        if comes:
            raise KeyboardInterrupt
        return result

    return interrupted


@pytest.mark.parametrize(
    ("where", "name", "after"),
    [
        (outbox, "_frames_together", False),
        (zmq.Socket, "send_multipart", False),
        (zmq.Socket, "send_multipart", True),
        (outbox.Outbox, "sent", False),
        (outbox.Outbox, "sent", True),
    ],
)
def test_ctrl_c_while_a_pipeline_sends_loses_and_doubles_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, after: bool
) -> None:
    interrupts = 0
    with armin.connect(engine.directory) as client:
        session_id = client.create_session().id
        with client.pipeline() as pipe:
            pipe.append(session_id, "user", "0").result()
            monkeypatch.setattr(where, name, interrupting(getattr(where, name), 3, after=after))
            for n in range(1, 300):
                try:
                    pipe.append(session_id, "user", str(n))
                except KeyboardInterrupt:
                    interrupts += 1
        assert contents(client, session_id) == [str(n) for n in range(300)]
    assert interrupts == 1


def test_a_pause_of_the_caller_gives_nothing_up(engine: Engine) -> None:
    """The last writes of a burst may be sent when the next method is called, however late that is."""
    passed = 0.0
    sockets = Sockets(find_target(engine.directory, {}), 5.0, clock=lambda: time.monotonic() + passed)
    with Client(sockets) as client:
        session_id = client.create_session().id
        with client.pipeline() as pipe:
            burst = [pipe.append(session_id, "user", str(n)) for n in range(100)]
            passed = 3600.0
            last = pipe.append(session_id, "user", "100")
        assert [answer.result().seq for answer in (*burst, last)] == list(range(1, 102))
