"""A file of the original Armin, two tables and no more, becomes one of this Armin's."""

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

from armin_engine import Armin, CorruptDatabase, NotAnArminDatabase, OpenError
from engine.observe import contents, file_bytes, log, messages, restartable, rows

ORIGINAL = """
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    closed INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id INTEGER NOT NULL,
    role INTEGER NOT NULL,
    content TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    FOREIGN KEY (session_id) REFERENCES sessions(id)
);
CREATE INDEX idx_messages_session ON messages(session_id);
"""
SESSIONS = [(1, 0, 100), (2, 1, 200), (3, 0, 300), (7, 1, 700)]
MESSAGES = [
    (1, 2, 0, "to two", 201),
    (2, 1, 1, "to one", 150),
    (5, 2, 2, "naïve 漢字 🦊", 202),
    (6, 7, 3, "", 701),
    (9, 1, 0, "again to one", 99),
]


def original(path: Path, mode: str = "delete", more: str = "") -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.executescript(ORIGINAL)
        connection.executemany("INSERT INTO sessions VALUES (?, ?, ?)", SESSIONS)
        connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", MESSAGES)
        connection.executescript(more)
        connection.commit()


def two_tables(path: Path) -> tuple[list, list]:
    with closing(sqlite3.connect(path)) as connection:
        return (
            connection.execute("SELECT * FROM sessions").fetchall(),
            connection.execute("SELECT * FROM messages").fetchall(),
        )


def copy_of(path: Path, number: str = "") -> Path:
    return path.with_name(path.name + ".before-upgrade" + number)


@pytest.mark.parametrize("mode", ["delete", "wal", "truncate", "persist"])
def test_an_original_file_is_upgraded_with_its_log_in_order(path, mode):
    original(path, mode)
    with Armin(path) as armin:
        assert [(event.type, event.session_id) for event in log(armin)] == [
            *[("session_created", number) for number in (1, 2, 3, 7)],
            *[("message_appended", number) for number in (2, 1, 2, 7, 1)],
            *[("session_closed", number) for number in (2, 7)],
        ]
        assert [event.unpack()["message"]["id"] for event in log(armin)[4:9]] == [1, 2, 5, 6, 9]
        assert contents(messages(armin, 1)) == ["to one", "again to one"]
        assert [(m.seq, m.role, m.created_at) for m in messages(armin, 2)] == [
            (1, "user", 201),
            (2, "system", 202),
        ]
        assert [info.closed for info in armin.sessions().sessions] == [False, True, False, True]
        assert [info.created_at for info in armin.sessions().sessions] == [100, 200, 300, 700]
        assert armin.verify().equal
    assert two_tables(path) == (SESSIONS, MESSAGES)


def test_the_file_as_it_was_is_kept_beside_it(path):
    original(path)
    with Armin(path):
        pass
    assert two_tables(copy_of(path)) == (SESSIONS, MESSAGES)
    with closing(sqlite3.connect(copy_of(path))) as connection:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        assert tables == {"sessions", "messages", "sqlite_sequence"}
        assert connection.execute("PRAGMA user_version").fetchone() == (0,)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, copy_of(path).name]


def test_an_earlier_copy_is_not_overwritten(path):
    original(path)
    copy_of(path).write_text("precious")
    with Armin(path):
        pass
    assert copy_of(path).read_text() == "precious"
    assert two_tables(copy_of(path, ".2")) == (SESSIONS, MESSAGES)


def test_an_upgraded_file_is_upgraded_once(path):
    original(path)
    with Armin(path) as armin:
        before, identity = restartable(armin), armin.identity
    with Armin(path) as armin:
        assert restartable(armin) == before
        assert armin.identity == identity
    assert not copy_of(path, ".2").exists()


def test_ids_go_on_from_the_original_sequence(path):
    original(
        path,
        more="DELETE FROM messages WHERE id = 9; UPDATE sqlite_sequence SET seq = 40 WHERE name = 'sessions'",
    )
    with Armin(path) as armin:
        assert armin.append(3, "user", "x").first_id == 10
        assert armin.create_session().session.id == 41
        assert armin.verify().equal


def test_an_empty_original_file_is_upgraded(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(ORIGINAL)
    with Armin(path) as armin:
        assert armin.position == 0
        assert armin.create_session().session.id == 1
        assert armin.verify().equal


def test_what_the_original_left_in_its_wal_is_upgraded_too(path):
    script = f"""
import os, sqlite3, sys
c = sqlite3.connect(sys.argv[1])
c.execute("PRAGMA journal_mode = wal")
c.executescript({ORIGINAL!r})
c.executemany("INSERT INTO sessions VALUES (?, ?, ?)", {SESSIONS!r})
c.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", {MESSAGES!r})
c.commit()
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)
    assert path.with_name(path.name + "-wal").stat().st_size > 0
    with Armin(path) as armin:
        assert armin.position == 11
        assert armin.verify().equal
    assert two_tables(copy_of(path)) == two_tables(path) == (SESSIONS, MESSAGES)


def test_an_original_whose_last_transaction_was_cut_off_is_rolled_back_first(path):
    original(path)
    script = """
import os, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA cache_size = 5")
c.execute("BEGIN")
c.executemany("INSERT INTO messages VALUES (NULL, 1, 0, ?, 1)", [("cut off" * 200,)] * 1000)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)
    assert path.with_name(path.name + "-journal").stat().st_size > 512
    with Armin(path) as armin:
        assert contents(messages(armin, 1)) == ["to one", "again to one"]
        assert armin.verify().equal
    assert two_tables(path) == two_tables(copy_of(path)) == (SESSIONS, MESSAGES)


BROKEN = {
    "a message of an unknown session": "INSERT INTO messages VALUES (20, 99, 0, 'x', 1)",
    "an unknown role": "UPDATE messages SET role = 4 WHERE id = 1",
    "a closed flag other than 0 and 1": "UPDATE sessions SET closed = 2 WHERE id = 3",
    "a session id below 1": "INSERT INTO sessions VALUES (-1, 0, 1)",
    "a message id below 1": "INSERT INTO messages VALUES (0, 1, 0, 'x', 1)",
    "content that is not text": "UPDATE messages SET content = x'00' WHERE id = 1",
    "a time that is not an integer": "UPDATE sessions SET created_at = 'noon' WHERE id = 1",
    "an id that sqlite_sequence does not know": "UPDATE sqlite_sequence SET seq = 3 WHERE name = 'messages'",
}


@pytest.mark.parametrize("damage", BROKEN)
def test_an_original_with_broken_rows_is_refused_and_untouched(path, damage):
    original(path, more=BROKEN[damage])
    before = file_bytes(path)
    with pytest.raises(CorruptDatabase, match=damage):
        Armin(path)
    assert file_bytes(path) == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("column", ["closed", "created_at"])
def test_an_original_without_its_not_null_is_held_to_it(path, column):
    schema = ORIGINAL.replace("closed INTEGER NOT NULL DEFAULT 0", "closed INTEGER").replace(
        "created_at INTEGER NOT NULL\n", "created_at INTEGER\n"
    )
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(schema)
        values = {"closed": 0, "created_at": 1, column: None}
        connection.execute("INSERT INTO sessions VALUES (1, :closed, :created_at)", values)
        connection.commit()
    with pytest.raises(CorruptDatabase):
        Armin(path)


def test_text_that_is_no_utf8_is_refused_and_the_file_kept(path):
    original(path, more="UPDATE messages SET content = CAST(x'ff' AS TEXT) WHERE id = 2")
    with pytest.raises(OpenError, match="cannot upgrade"):
        Armin(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'log'").fetchone() == (0,)


def test_an_original_without_autoincrement_is_none(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(ORIGINAL.replace(" AUTOINCREMENT", ""))
    with pytest.raises(NotAnArminDatabase):
        Armin(path)


_KILLED_AT = """
import os, sqlite3, sys
from armin_engine import Armin, store, upgrade

at = int(sys.argv[2])
calls = 0
real = sqlite3.connect

def step(*_):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), 9)

def connect(*args, **options):
    connection = real(*args, **options)
    step()
    connection.set_trace_callback(step)
    connection.set_progress_handler(step, 200)
    return connection

sqlite3.connect = connect
with Armin(sys.argv[1]):
    pass
print(calls)
"""


def _many(path: Path) -> None:
    """An original large enough for its upgrade to spill out of the page cache."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(ORIGINAL)
        connection.executemany("INSERT INTO sessions VALUES (?, ?, 1)", [(i, i % 2) for i in range(1, 101)])
        connection.executemany(
            "INSERT INTO messages(session_id, role, content, created_at) VALUES (?, 0, ?, 1)",
            [(i % 100 + 1, "x" * 20) for i in range(1500)],
        )
        connection.commit()


def _upgrade_killed_at(path: Path, at: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _KILLED_AT, str(path), str(at)],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_kill_in_the_middle_of_an_upgrade_leaves_the_original_or_the_upgraded_file(tmp_path):
    """Killed at steps spread over the whole of it; then everything is there, and it opens."""
    path = tmp_path / "full" / "armin.db"
    path.parent.mkdir()
    _many(path)
    wanted = two_tables(path)
    steps = int(_upgrade_killed_at(path, 0).stdout)
    assert steps > 100
    seed = 20240607
    print("seed", seed)
    points = sorted({1, 2, 3, steps - 1, *random.Random(seed).sample(range(4, steps - 1), 14)})
    outcomes = set()
    for at in points:
        path = tmp_path / str(at) / "armin.db"
        path.parent.mkdir()
        _many(path)
        assert _upgrade_killed_at(path, at).returncode == -signal.SIGKILL
        with closing(sqlite3.connect(path)) as connection:
            upgraded = connection.execute("PRAGMA user_version").fetchone()[0]
            count = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'log'").fetchone()[0]
        assert upgraded == 2 * count
        outcomes.add(upgraded)
        assert two_tables(path) == wanted
        with Armin(path) as armin:
            assert armin.position == 100 + 1500 + 50
            assert armin.verify().equal
        assert two_tables(path) == wanted
        assert len(rows(path)["log"]) == 1650
        copies = list(path.parent.glob("*.before-upgrade*"))
        assert copies
        for copy in copies:
            assert two_tables(copy) == wanted
    assert outcomes == {0, 2}
