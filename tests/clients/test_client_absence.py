"""What the client says when nobody answers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import armin
from armin import NoReply
from harness import Engine, wait_until

SHORT = 0.3  # seconds: nobody answers, so every one of them is waited for


Append = Callable[..., Any]


def blocking_append(target: str | Path, hush: Callable[[], None] | None = None) -> Any:
    """Append through a new client; `hush` is called while it is connected already."""
    with armin.connect(target, timeout=SHORT) as client:
        if hush is not None:
            wait_until(lambda: answers(client))
            hush()
        return client.append(1, "user", "x")


def asyncio_append(target: str | Path, hush: Callable[[], None] | None = None) -> Any:
    """The same with asyncio."""

    async def append() -> Any:
        async with armin.connect_async(target, timeout=SHORT) as client:
            if hush is not None:
                while not await answers_async(client):
                    pass
                hush()
            return await client.append(1, "user", "x")

    return asyncio.run(append())


@pytest.fixture(params=[blocking_append, asyncio_append])
def append(request: pytest.FixtureRequest) -> Append:
    chosen: Append = request.param
    return chosen


def ask(append: Append, target: str | Path, *arguments: Any) -> NoReply:
    began = time.monotonic()
    with pytest.raises(NoReply) as caught:
        append(target, *arguments)
    assert SHORT * 0.9 <= time.monotonic() - began < 60
    assert caught.value.retry
    return caught.value


def own(directory: Path, lines: str) -> None:
    """Pretend that an engine owns the directory."""
    directory.joinpath("armin.db.lock").write_text(lines, "ascii")


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_directory_that_is_not_there(append: Append, short_dir: Path) -> None:
    error = ask(append, short_dir / "missing")
    assert (error.reason, error.sent) == ("no_directory", False)
    assert str(error) == f"no such directory: {short_dir}/missing"


@pytest.mark.parametrize("lock", [None, "", "not a pid\n", "0\nserving\n", f"{1 << 70}\nserving\n", "dead"])
def test_no_engine_says_how_to_start_one(append: Append, short_dir: Path, lock: str | None) -> None:
    if lock is not None:
        own(short_dir, f"{dead_pid()}\nserving\n" if lock == "dead" else lock)
    error = ask(append, short_dir)
    assert (error.reason, error.sent) == ("not_running", False)
    assert str(error) == f"no engine is running on {short_dir} (start one with: armin serve {short_dir})"


@pytest.mark.parametrize("state", ["recovering", "opening"])
def test_an_engine_that_recovers_is_named(append: Append, short_dir: Path, state: str) -> None:
    own(short_dir, f"{os.getpid()}\n{state}\n")
    error = ask(append, short_dir)
    assert (error.reason, error.sent) == ("recovering", False)
    assert f"the engine (pid {os.getpid()}) is recovering" in str(error)


def test_an_engine_that_takes_no_connection_is_named(append: Append, short_dir: Path) -> None:
    own(short_dir, f"{os.getpid()}\nserving\n")
    (short_dir / "commands.sock").touch()  # nobody listens
    error = ask(append, short_dir)
    assert (error.reason, error.sent) == ("unreachable", False)
    assert f"(pid {os.getpid()}) but took no connection" in str(error)
    assert "outcome" not in str(error)


def test_an_engine_that_stays_silent_leaves_a_write_s_outcome_unknown(append: Append, engine: Engine) -> None:
    try:
        error = ask(append, engine.directory, lambda: os.kill(engine.pid, signal.SIGSTOP))
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    assert (error.reason, error.sent) == ("silent", True)
    assert str(error) == (
        f"an engine is there (pid {engine.pid}) but did not answer within 0.3 s; "
        f"the outcome of this write is unknown, sending it again with the key {error.key} cannot double it"
    )
    assert error.key is not None


def test_a_read_without_an_answer_speaks_of_no_outcome(engine: Engine) -> None:
    with armin.connect(engine.directory, timeout=SHORT) as client:
        wait_until(lambda: answers(client))
        os.kill(engine.pid, signal.SIGSTOP)
        try:
            with pytest.raises(NoReply) as caught:
                client.read(1)
        finally:
            os.kill(engine.pid, signal.SIGCONT)
    assert "outcome" not in str(caught.value)


def test_an_engine_that_dies_over_a_write_leaves_its_outcome_unknown(engine: Engine) -> None:
    with armin.connect(engine.directory, timeout=5.0) as client:
        client.ping()
        os.kill(engine.pid, signal.SIGSTOP)
        killer = threading.Timer(1.0, engine.kill)
        killer.start()
        with pytest.raises(NoReply) as caught:
            client.create_session()
        killer.join()
    assert (caught.value.reason, caught.value.sent) == ("not_running", True)
    assert caught.value.key is not None
    assert f"unknown, sending it again with the key {caught.value.key}" in str(caught.value)


def test_nothing_at_a_tcp_address(append: Append) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, and nobody listens
        port = unused.getsockname()[1]
        error = ask(append, f"tcp://127.0.0.1:{port}")
    assert (error.reason, error.sent) == ("unreachable", False)
    assert str(error).startswith(f"nothing answered at 127.0.0.1:{port} within 0.3 s")
    assert "ARMIN_KEY" in str(error), "an engine that asks for a key may look the same"


def test_a_tcp_server_that_speaks_something_else(append: Append) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        error = ask(append, f"tcp://127.0.0.1:{server.getsockname()[1]}")
    assert "nothing answered at 127.0.0.1:" in str(error)


# --- giving up does no harm -----------------------------------------------------------------------


def test_a_command_that_was_given_up_unsent_is_not_executed_later(short_dir: Path) -> None:
    engine = Engine(short_dir / "e")
    with armin.connect(engine.directory, timeout=SHORT) as client:
        with pytest.raises(NoReply):
            client.create_session("given up")
        engine.start()
        wait_until(lambda: answers(client))
        with armin.connect(engine.directory) as another:
            assert another.ping() == 0
    engine.stop()


def answers(client: armin.Client) -> bool:
    try:
        client.ping()
    except NoReply:
        return False
    return True


async def answers_async(client: armin.AsyncClient) -> bool:
    try:
        await client.ping()
    except NoReply:
        return False
    return True


def test_a_reply_that_comes_too_late_is_not_taken_for_another(engine: Engine) -> None:
    with armin.connect(engine.directory, timeout=2.0) as client:
        client.create_session()
        os.kill(engine.pid, signal.SIGSTOP)
        for _ in range(3):
            with pytest.raises(NoReply):
                client.append(1, "user", "x")
        os.kill(engine.pid, signal.SIGCONT)
        wait_until(lambda: answers(client))
        assert client.session(1).seq == 3  # it was sent, and done
        assert client.append(1, "user", "y").seq == 4


def test_a_client_may_be_made_before_its_engine(short_dir: Path) -> None:
    engine = Engine(short_dir / "e")
    with armin.connect(engine.directory, timeout=60) as client:
        starter = threading.Timer(0.3, engine.start)
        starter.start()
        assert client.create_session().id == 1
        starter.join()
    engine.stop()


def test_a_client_goes_on_with_the_next_engine(engine: Engine) -> None:
    with armin.connect(engine.directory, timeout=60) as client:
        client.create_session()
        for seq in range(1, 4):
            engine.kill()
            engine.start()
            assert client.append(1, "user", "x").seq == seq
