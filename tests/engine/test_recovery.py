"""Recovery: the same views as before, and silence."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from armin_engine import Armin, CorruptDatabase, MemoryExceeded, OpenError, RecordingSink, memory
from armin_engine.stored import Replay, stored_facts
from engine.observe import (
    append,
    close,
    contents,
    create,
    everything,
    file_bytes,
    log,
    messages,
    restartable,
    session_ids,
)


def lived(armin: Armin, seed: int = 1) -> None:
    """Some history of every kind."""
    chance = random.Random(seed)
    armin.apply([create("first", {"title": "α"}), create(), create("third")])
    for step in range(120):
        sessions = session_ids(armin)
        armin.apply(
            [
                append(chance.choice(sessions), *["x" * chance.randint(0, 2000)] * chance.randint(1, 4)),
                append(chance.choice(sessions), "naïve 漢字 🦊"),
            ]
        )
        armin_meta = {"tool_calls": [{"id": step}], "cost": 0.5}
        armin.append(1, "tool", "", armin_meta)
        if step % 20 == 19:
            armin.apply([create(f"s{step}"), close(chance.choice(sessions[1:]))])
        if step % 33 == 0:
            armin.refresh_snapshot()


def test_a_restart_gives_the_same_views(open_engine):
    armin = open_engine()
    lived(armin)
    before = restartable(armin)
    armin.close()
    again = open_engine()
    assert restartable(again) == before
    assert again.snapshot().position == again.position
    assert again.verify().equal


def test_a_restart_goes_on_where_it_stopped(open_engine):
    armin = open_engine()
    lived(armin)
    position, info = armin.position, armin.session(1)
    last = max(m.id for s in session_ids(armin) for m in messages(armin, s))
    armin.close()
    again = open_engine()
    appended = again.append(1, "user", "next")
    assert (appended.first_at, appended.first_seq, appended.first_id) == (
        position + 1,
        info.seq + 1,
        last + 1,
    )
    assert again.verify().equal


def test_recovery_emits_and_publishes_nothing(open_engine, monkeypatch):
    armin = open_engine()
    lived(armin)
    armin.close()
    published: list[object] = []
    monkeypatch.setattr("armin_engine.live.LiveHub.publish", lambda *args: published.append(args))
    sink = RecordingSink()
    again = open_engine(sink=sink)
    assert sink.events == published == []
    assert again.counters.commits == again.counters.facts == again.counters.refreshes == 0


def test_identity_stays_across_restarts_and_differs_between_files(open_engine, tmp_path):
    armin = open_engine()
    identity = armin.identity
    armin.close()
    assert open_engine().identity == identity
    other = open_engine(tmp_path / "other.db").identity
    assert other.database != identity.database
    assert other.epoch != identity.epoch


def test_recovery_tells_its_progress(open_engine):
    armin = open_engine()
    armin.create_session()
    armin.apply([append(1, *["x"] * 9000)])
    armin.close()
    told: list[tuple[int, int]] = []
    open_engine(progress=lambda done, total: told.append((done, total)))
    assert len(told) >= 3
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert {total for _, total in told} == {9001}
    assert told[-1] == (9001, 9001)


def test_an_interrupted_recovery_lets_go_of_the_file(open_engine):
    armin = open_engine()
    lived(armin)
    armin.close()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_engine(progress=interrupt)
    assert open_engine().verify().equal


def test_recovery_is_the_same_in_small_slices(open_engine, monkeypatch):
    armin = open_engine()
    lived(armin)
    before = restartable(armin)
    armin.close()
    monkeypatch.setattr("armin_engine.stored.ROWS_AT_ONCE", 3)
    monkeypatch.setattr("armin_engine.limits.CHUNK_BYTES", 1000)
    again = open_engine()
    assert restartable(again) == before
    assert again.delta_messages == 0


def test_what_is_read_at_a_time_is_bounded_in_rows_and_in_characters(armin, path, monkeypatch):
    armin.apply([create(), append(1, *("x" * 100 for _ in range(7))), append(1, *"abcdefgh")])
    monkeypatch.setattr("armin_engine.stored.CHARACTERS_AT_ONCE", 250)
    monkeypatch.setattr("armin_engine.stored.ROWS_AT_ONCE", 5)
    with closing(sqlite3.connect(path)) as connection:
        read = [len(facts) for facts, _ in stored_facts(connection, Replay())]
    assert read == [4, 3, 5, 4]


def test_messages_of_the_time_zero_are_recovered_whole(open_engine):
    armin = open_engine(clock=lambda: 0)
    armin.create_session()
    armin.append_many(1, [{"role": "user", "content": "a"}, {"role": "user", "content": "b", "meta": {}}])
    before = restartable(armin)
    armin.close()
    again = open_engine()
    assert restartable(again) == before
    assert [message.content for message in again.read(1).messages] == ["a", "b"]
    assert again.verify().equal


def test_memory_is_counted_the_same_after_a_restart(open_engine):
    armin = open_engine()
    lived(armin)
    held = armin.gauges()["history_bytes"]
    armin.close()
    assert open_engine().gauges()["history_bytes"] == held


def test_a_history_over_the_budget_is_refused_with_figures(open_engine, path):
    armin = open_engine()
    armin.create_session()
    armin.apply([append(1, *["x" * 100_000] * 100)])
    armin.close()
    before = file_bytes(path)
    with pytest.raises(MemoryExceeded, match=r"more than \d+ MiB of memory; the budget is 4 MiB"):
        open_engine(memory_budget=4 << 20, progress=lambda *_: pytest.fail("the file's size says it at once"))
    assert file_bytes(path) == before
    assert open_engine(memory_budget=64 << 20).session(1).seq == 100


def test_a_history_that_only_the_count_shows_too_large_is_refused_on_the_way(open_engine, monkeypatch):
    armin = open_engine()
    armin.create_session()
    armin.apply([append(1, *["x" * 1000] * 9000)])
    armin.close()
    monkeypatch.setattr(memory, "FILE_SHARE_MIN", 0.0)
    progress: list[int] = []
    with pytest.raises(MemoryExceeded):
        open_engine(memory_budget=4 << 20, progress=lambda done, total: progress.append(done))
    assert max(progress) < 5000


def test_memory_near_its_budget_is_warned_of_once(open_engine, caplog):
    armin = open_engine(memory_budget=100_000)
    armin.create_session()
    for _ in range(4):
        armin.append(1, "user", "x" * 30_000)
    assert caplog.text.count("memory budget") == 1


_KILLED = """
import os, sys
from armin_engine import Armin
from engine.observe import append, create, close
armin = Armin(sys.argv[1])
armin.apply([create("n"), append(1, "a")])
armin.refresh_snapshot()
armin.append(1, "user", "only in the WAL")
os.kill(os.getpid(), 9)
"""


def run_until_killed(code: str, path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        check=False,
        timeout=60,
    )
    assert run.returncode == -signal.SIGKILL


@pytest.mark.parametrize("without_shm", [False, True])
def test_a_file_with_a_hot_wal_is_recovered(open_engine, path, without_shm):
    run_until_killed(_KILLED, path)
    assert path.with_name("armin.db-wal").stat().st_size > 0
    if without_shm:
        path.with_name("armin.db-shm").unlink()
    armin = open_engine()
    assert contents(messages(armin, 1)) == ["a", "only in the WAL"]
    assert armin.verify().equal


def test_a_clean_close_leaves_the_main_file_alone(open_engine, path):
    armin = open_engine()
    lived(armin)
    armin.close()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


BROKEN = {
    "a hole in the log": "DELETE FROM log WHERE position = 3",
    "a message lost": "DELETE FROM messages WHERE id = 1",
    "a session lost": "PRAGMA foreign_keys = OFF; DELETE FROM sessions WHERE id = 2",
    "a message in another session": "UPDATE messages SET session_id = 2 WHERE id = 1",
    "an unknown kind": "UPDATE log SET kind = 9 WHERE position = 4",
    "a kind that is text": "UPDATE log SET kind = 'x' WHERE position = 4",
    "an unknown role": "UPDATE messages SET role = 7 WHERE id = 1",
    "content that is bytes": "UPDATE messages SET content = x'00ff' WHERE id = 1",
    "content that is no UTF-8": "UPDATE messages SET content = CAST(x'ff41' AS TEXT) WHERE id = 1",
    "a time that is text": "UPDATE messages SET created_at = 'noon' WHERE id = 1",
    "a session's time that is text": "UPDATE sessions SET created_at = 'noon' WHERE id = 1",
    "a digest of another length": "UPDATE log SET digest = x'00' WHERE position = 4",
    "a digest that is text": "UPDATE log SET digest = 'abcdefghijklmnop' WHERE position = 4",
    "a meta that is no JSON": "UPDATE message_meta SET meta = '{'",
    "a meta that is no map": "UPDATE session_meta SET meta = '[1]'",
    "a meta too deep": "UPDATE message_meta SET meta = '{\"a\":' || "
    "replace(hex(zeroblob(50000)), '00', '[') || '1' || replace(hex(zeroblob(50000)), '00', ']') || '}'",
    "a meta with an integer beyond 64 bits": "UPDATE message_meta SET meta = '{\"a\":99999999999999999999}'",
    "a name that is empty": "UPDATE session_names SET name = ''",
    "an append after the close": "UPDATE log SET session_id = 2, message_id = 9 WHERE position = 6;"
    "INSERT INTO messages VALUES (9, 2, 0, 'x', 1)",
    "a session created twice": "UPDATE log SET kind = 1, session_id = 1, message_id = 0 WHERE position = 4",
    "a session closed twice": "UPDATE log SET kind = 3, session_id = 2, message_id = 0 WHERE position = 6",
    "a message twice": "UPDATE log SET message_id = 1 WHERE position = 6",
    "an id sequence behind the ids": "UPDATE sqlite_sequence SET seq = 1 WHERE name = 'messages'",
    "an id sequence that is text": "UPDATE sqlite_sequence SET seq = 'abc'",
    "an id sequence that is null": "UPDATE sqlite_sequence SET seq = NULL WHERE name = 'sessions'",
    "an id sequence that is no integer": "UPDATE sqlite_sequence SET seq = 9.5 WHERE name = 'messages'",
    "a table lost": "DROP TABLE session_names",
    "no database id": "DELETE FROM armin WHERE key = 'database'",
    "an empty database id": "UPDATE armin SET value = '' WHERE key = 'database'",
    "an epoch that is a word": "UPDATE armin SET value = 'restored' WHERE key = 'epoch'",
    "an epoch that is no text": "UPDATE armin SET value = zeroblob(32) WHERE key = 'epoch'",
    "a schema version of 0": "PRAGMA user_version = 0",
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_file_that_contradicts_itself_is_refused_and_untouched(open_engine, path, damage):
    armin = open_engine()
    armin.apply([create("n", {"a": 1}), create(), append(1, "a"), append(1, "b"), close(2), append(1, "c")])
    armin.append(1, "user", "d", {"b": 2})
    armin.close()
    import sqlite3

    connection = sqlite3.connect(path)
    connection.executescript(BROKEN[damage])
    connection.close()
    before = file_bytes(path)
    with pytest.raises(CorruptDatabase) as caught:
        open_engine()
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, OpenError)
    assert file_bytes(path) == before
    assert not path.with_name("armin.db.lock").exists()


def test_everything_read_after_a_restart_was_read_before(open_engine):
    """The same pages, byte by byte."""
    armin = open_engine()
    lived(armin, seed=9)
    pages = [armin.read(s, limit=10_000).packed for s in session_ids(armin)]
    events = [event.packed for event in log(armin)]
    armin.close()
    again = open_engine()
    assert [again.read(s, limit=10_000).packed for s in session_ids(again)] == pages
    assert [event.packed for event in log(again)] == events
    assert everything(again)["gauges"]["delta_messages"] == 0
