"""Keys that the clients make and send: they grow, nobody shares them, an engine's death doubles nothing."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from pathlib import Path
from unittest import mock

import pytest

import armin
from armin.keys import Keys, new_key
from command_line import CommandLine
from harness import Engine, wait_until

APPENDS = 300


# --- keys -------------------------------------------------------------------------------------------


def test_keys_are_uuids_of_version_7_that_grow() -> None:
    keys = [new_key() for _ in range(2000)]
    assert keys == sorted(set(keys))
    for key in keys[:100]:
        assert uuid.UUID(key).version == 7
        assert uuid.UUID(key).variant == uuid.RFC_4122
        assert str(uuid.UUID(key)) == key


@pytest.mark.parametrize("times", [[5_000_000] * 500, list(range(900_000_000, 0, -1_000_000))])
def test_keys_grow_within_a_millisecond_and_while_the_clock_goes_back(times: list[int]) -> None:
    source = Keys()
    with mock.patch("armin.keys.time.time_ns", side_effect=times):
        keys = [source.new() for _ in times]
    assert keys == sorted(set(keys))


def test_keys_of_one_millisecond_that_overflow_go_on_in_the_next() -> None:
    source = Keys()
    with (
        mock.patch("armin.keys.time.time_ns", return_value=7_000_000),
        mock.patch("armin.keys.secrets.randbits", side_effect=lambda bits: (1 << bits) - 1),
    ):
        first = source.new()
        source._random = (1 << 74) - 1
        second = source.new()
    assert first < second
    assert uuid.UUID(second).version == 7


def test_threads_share_no_key() -> None:
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append([new_key() for _ in range(2000)])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key for keys in found for key in keys}) == 8000


def test_a_fork_makes_other_keys() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, new_key().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    mine = new_key()
    theirs = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)
    assert uuid.UUID(theirs).version == 7
    assert theirs[-12:] != mine[-12:]


# --- through an engine's death ----------------------------------------------------------------------


def contents(engine: Engine, session_id: int) -> list[str]:
    with armin.connect(engine.directory) as client:
        return [message.content for message in client.messages(session_id)]


def kill_and_restart(engine: Engine, session_id: int) -> None:
    with armin.connect(engine.directory) as client:
        wait_until(lambda: client.session(session_id).seq >= APPENDS // 10)
    engine.kill()
    engine.start()


def test_a_blocking_client_appends_on_over_a_kill(engine: Engine) -> None:
    with armin.connect(engine.directory, timeout=60) as client:
        session_id = client.create_session().id
        killer = threading.Thread(target=kill_and_restart, args=(engine, session_id))
        killer.start()
        seqs = [client.append(session_id, "user", str(number)).seq for number in range(APPENDS)]
        while killer.is_alive():
            seqs.append(client.append(session_id, "user", str(len(seqs))).seq)
        killer.join()
    assert seqs == list(range(1, len(seqs) + 1))
    assert contents(engine, session_id) == [str(number) for number in range(len(seqs))]


def test_many_tasks_keep_their_order_over_a_kill_and_cancellations(engine: Engine) -> None:
    cancelled = range(50, 2000, 97)

    async def run() -> int:
        async with armin.connect_async(engine.directory, timeout=60) as client:
            session_id = (await client.create_session()).id
            killer = asyncio.create_task(asyncio.to_thread(kill_and_restart, engine, session_id))
            tasks = [asyncio.create_task(client.append(session_id, "user", str(n))) for n in range(2000)]
            await asyncio.sleep(0)  # all have asked by now
            for number in cancelled:
                tasks[number].cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for n, result in enumerate(done) if n not in cancelled] == [
                armin.Appended
            ] * (2000 - len(cancelled))
            await killer
            return session_id

    found = contents(engine, asyncio.run(run()))
    assert len(set(found)) == len(found)
    assert found == sorted(found, key=int)
    assert set(map(str, range(2000))) - set(found) <= set(map(str, cancelled))


def test_an_error_has_the_key_and_the_write_can_be_sent_again_with_it(short_dir: Path) -> None:
    engine = Engine(short_dir / "e").start()
    with armin.connect(engine.directory, timeout=60) as client:
        session_id = client.create_session().id
        engine.kill()
        with armin.connect(engine.directory, timeout=0.3) as hasty, pytest.raises(armin.NoReply) as lost:
            hasty.append(session_id, "user", "once")
        engine.start()
        assert lost.value.key is not None
        for _ in range(2):
            client.append(session_id, "user", "once", key=lost.value.key)
        with pytest.raises(armin.Conflict) as reused:
            client.append(session_id, "user", "twice", key=lost.value.key)
        assert reused.value.reason == "key_reused"
    assert contents(engine, session_id) == ["once"]
    engine.stop()


def test_the_command_line_takes_keys(engine: Engine) -> None:
    command = CommandLine(engine.directory)
    [one, two] = [command.ok("new", "--key", "a").strip() for _ in range(2)]
    assert one == two
    for _ in range(2):
        command.ok("append", one, "user", "hello", "--key", "b")
    assert [message["content"] for message in command.json("read", one)] == ["hello"]
