"""Another process commits to the engine's file: harmless things are warned of, others end all writing."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from armin_engine import Armin, StorageFailed
from engine.observe import append, contents, create, everything, messages


@pytest.fixture
def armin(open_engine, path) -> Armin:
    """An engine on a file that holds a table of somebody else's, too."""
    open_engine().close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes(x)")
    armin = open_engine()
    armin.apply([create("n"), append(1, "a"), create()])
    return armin


def test_a_harmless_commit_is_warned_of_once_and_writing_goes_on(armin: Armin, foreign, caplog):
    foreign.execute("INSERT INTO notes VALUES (1)")
    armin.append(1, "user", "b")
    assert caplog.text.count("another process wrote") == 1
    armin.append(1, "user", "c")
    assert caplog.text.count("another process wrote") == 1
    foreign.execute("INSERT INTO notes VALUES (2)")
    armin.append(1, "user", "d")
    assert caplog.text.count("another process wrote") == 2
    assert contents(messages(armin, 1)) == ["a", "b", "c", "d"]
    assert armin.verify().equal


def test_readers_beside_the_engine_are_not_noticed(armin: Armin, foreign, caplog):
    assert foreign.execute("SELECT count(*) FROM messages").fetchone() == (1,)
    armin.append(1, "user", "b")
    assert foreign.execute("SELECT count(*) FROM messages").fetchone() == (2,)
    assert caplog.text == ""


CHANGES = {
    "the log": [
        "INSERT INTO log VALUES (4, 3, 1, 0, zeroblob(16))",
        "DELETE FROM log WHERE position = 3",
        "UPDATE log SET digest = zeroblob(16) WHERE position = 3",
    ],
    "sqlite_sequence": [
        "INSERT INTO messages VALUES (NULL, 1, 0, 'foreign', 1)",
        "INSERT INTO sessions VALUES (NULL, 0, 1)",
        "UPDATE sqlite_sequence SET seq = 99 WHERE name = 'messages'",
        "DELETE FROM sqlite_sequence",
        "UPDATE sqlite_sequence SET seq = 'abc'",
        "UPDATE sqlite_sequence SET seq = NULL WHERE name = 'messages'",
    ],
    "the schema": ["CREATE TABLE mine(x)", "CREATE INDEX mine ON messages(role)", "DROP TABLE session_names"],
}


@pytest.mark.parametrize(("what", "statement"), [(w, s) for w, many in CHANGES.items() for s in many])
def test_a_commit_that_touches_what_is_armins_ends_all_writing(armin: Armin, foreign, what, statement):
    before = everything(armin)
    foreign.execute(statement)
    for _ in range(2):
        with pytest.raises(StorageFailed, match=what) as caught:
            armin.append(1, "user", "b")
        assert caught.value.reason == "file_changed"
        assert not caught.value.retry
        assert "restart" in str(caught.value)
    assert {outcome.reason for outcome in armin.apply([create(), append(1, "x")])} == {"file_changed"}
    assert everything(armin) == before
    assert foreign.execute("SELECT count(*) FROM messages WHERE content = 'b'").fetchone() == (0,)


def test_reads_and_verify_go_on_after_writing_has_ended(armin: Armin, foreign):
    foreign.execute("UPDATE messages SET content = 'changed' WHERE id = 1")
    foreign.execute("INSERT INTO messages VALUES (NULL, 1, 0, 'foreign', 1)")
    with pytest.raises(StorageFailed):
        armin.append(1, "user", "b")
    assert contents(messages(armin, 1)) == ["a"]
    assert not armin.verify().equal


def test_a_commit_between_recovery_and_writing_is_noticed(open_engine, path, monkeypatch):
    """The last moment at which the file could have moved under what was read."""
    armin = open_engine()
    armin.create_session()
    armin.close()
    from armin_engine import OpenError, store

    real = store.SQLiteStore.start_writing

    def late(self):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DELETE FROM log")
            connection.commit()
        real(self)

    monkeypatch.setattr(store.SQLiteStore, "start_writing", late)
    with pytest.raises(OpenError, match="the log"):
        open_engine()
    assert not path.with_name("armin.db.lock").exists()


def test_a_foreign_checkpoint_harms_nothing(armin: Armin, foreign):
    for number in range(20):
        armin.append(1, "user", str(number))
        foreign.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert armin.verify().equal
    assert armin.session(1).seq == 21


def test_a_reader_that_stays_harms_no_commit(armin: Armin, foreign):
    foreign.execute("BEGIN")
    foreign.execute("SELECT count(*) FROM messages").fetchone()
    for number in range(50):
        armin.append(1, "user", str(number))
    assert foreign.execute("SELECT count(*) FROM messages").fetchone() == (1,)
    foreign.execute("COMMIT")
    assert armin.verify().equal
