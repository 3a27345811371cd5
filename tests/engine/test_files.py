"""Files: the schema and the pragmas, and what Armin will not open."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from armin_engine import (
    Armin,
    CorruptDatabase,
    NewerSchema,
    NotAnArminDatabase,
    OpenError,
    StorageFailed,
)
from engine.observe import append, close, contents, create, everything, file_bytes, messages, rows

SCHEMA = {
    "sessions": [
        ("id", "INTEGER", 0, None, 1),
        ("closed", "INTEGER", 1, "0", 0),
        ("created_at", "INTEGER", 1, None, 0),
    ],
    "messages": [
        ("id", "INTEGER", 0, None, 1),
        ("session_id", "INTEGER", 1, None, 0),
        ("role", "INTEGER", 1, None, 0),
        ("content", "TEXT", 1, None, 0),
        ("created_at", "INTEGER", 1, None, 0),
    ],
    "log": [
        ("position", "INTEGER", 0, None, 1),
        ("kind", "INTEGER", 1, None, 0),
        ("session_id", "INTEGER", 1, None, 0),
        ("message_id", "INTEGER", 1, None, 0),
        ("digest", "BLOB", 1, None, 0),
    ],
    "message_meta": [("message_id", "INTEGER", 0, None, 1), ("meta", "TEXT", 1, None, 0)],
    "session_meta": [("session_id", "INTEGER", 0, None, 1), ("meta", "TEXT", 1, None, 0)],
    "session_names": [("name", "TEXT", 1, None, 0), ("session_id", "INTEGER", 0, None, 1)],
    "append_keys": [
        ("key", "TEXT", 1, None, 1),
        ("session_id", "INTEGER", 1, None, 2),
        ("position", "INTEGER", 1, None, 0),
        ("count", "INTEGER", 1, None, 0),
        ("request", "BLOB", 1, None, 0),
    ],
    "worker_groups": [
        ("id", "INTEGER", 0, None, 1),
        ("name", "TEXT", 1, None, 0),
        ("settings", "TEXT", 1, None, 0),
        ("cursor", "INTEGER", 1, None, 0),
        ("created_at", "INTEGER", 1, None, 0),
    ],
    "taken_effects": [
        ("group_id", "INTEGER", 1, None, 1),
        ("position", "INTEGER", 1, None, 2),
        ("state", "INTEGER", 1, None, 0),
        ("attempts", "INTEGER", 1, None, 0),
        ("deliveries", "INTEGER", 1, None, 0),
        ("due", "INTEGER", 1, None, 0),
        ("request", "TEXT", 0, None, 0),
        ("reason", "TEXT", 0, None, 0),
    ],
    "armin": [("key", "TEXT", 1, None, 1), ("value", "TEXT", 1, None, 0)],
}


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_the_schema_is_as_designed(armin: Armin, foreign):
    found = {
        name: [row[1:] for row in foreign.execute(f"PRAGMA table_info({name})")]
        for (name,) in foreign.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
        )
    }
    assert found == SCHEMA
    statements = dict(foreign.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    for table in ("sessions", "messages"):
        assert "AUTOINCREMENT" in statements[table]
    assert [row[2:5] for row in foreign.execute("PRAGMA foreign_key_list(messages)")] == [
        ("sessions", "session_id", "id")
    ]
    assert [row[2] for row in foreign.execute("PRAGMA index_info(messages_by_session)")] == ["session_id"]


def test_the_file_is_marked(armin: Armin, foreign):
    assert pragma(foreign, "application_id") == int.from_bytes(b"ARMN", "big")
    assert pragma(foreign, "user_version") == 2
    assert pragma(foreign, "journal_mode") == "wal"


def test_the_writer_syncs_every_commit(armin: Armin):
    writer = armin._store._writer
    assert pragma(writer, "journal_mode") == "wal"
    assert pragma(writer, "synchronous") == 2
    assert pragma(writer, "fullfsync") == 1
    assert pragma(writer, "checkpoint_fullfsync") == 1
    assert pragma(writer, "foreign_keys") == 1


def test_rows_are_what_was_committed(open_engine, path):
    armin = open_engine(clock=lambda: 1000)
    armin.apply([create("n", {"b": 1, "a": [2.0]}), create()])
    armin.append_many(
        1, [{"role": "tool", "content": "x", "meta": {"k": None}}, {"role": "user", "content": ""}]
    )
    armin.close_session(1)
    found = rows(path)
    assert found["sessions"] == [(1, 1, 1000), (2, 0, 1000)]
    assert found["messages"] == [(1, 1, 3, "x", 1000), (2, 1, 0, "", 1000)]
    assert found["message_meta"] == [(1, '{"k":null}')]
    assert found["session_meta"] == [(1, '{"b":1,"a":[2.0]}')]
    assert found["session_names"] == [("n", 1)]
    assert [row[:4] for row in found["log"]] == [
        (1, 1, 1, 0),
        (2, 1, 2, 0),
        (3, 2, 1, 1),
        (4, 2, 1, 2),
        (5, 3, 1, 0),
    ]
    assert len({row[4] for row in found["log"]}) == 5
    assert dict(found["armin"]) == {"database": armin.identity.database, "epoch": armin.identity.epoch}


def test_memory_databases_keep_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Armin(":memory:") as armin:
        armin.apply([create("n"), append(1, "a")])
        assert armin.verify().equal
    assert list(tmp_path.iterdir()) == []


def test_the_database_id_is_a_new_one_in_every_file(tmp_path):
    identities = set()
    for name in ("a", "b", ":memory:"):
        with Armin(name if name == ":memory:" else tmp_path / name) as armin:
            identities |= set(armin.identity)
    assert len(identities) == 6


# --- names of files ---


@pytest.mark.parametrize(
    "name", ["a b.db", "q?mode=rw#x%20.db", "名前.db", "file:x.db", "no-suffix", "'; --.db"]
)
def test_any_file_name_works(tmp_path, name):
    path = tmp_path / name
    for count in (1, 2):
        with Armin(path) as armin:
            armin.create_session()
            assert armin.verify().equal
            assert len(armin.sessions().sessions) == count
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_relative_path_and_a_string_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Armin("x.db") as armin:
        armin.create_session()
        assert armin.path == tmp_path / "x.db"


def test_an_empty_file_becomes_a_database_and_keeps_its_mode(path):
    path.touch(mode=0o600)
    path.chmod(0o600)
    with Armin(path) as armin:
        armin.create_session()
    assert path.stat().st_mode & 0o777 == 0o600
    with Armin(path) as armin:
        assert len(armin.sessions().sessions) == 1


def test_leftovers_of_a_creation_that_was_cut_off_do_not_matter(path):
    for suffix in (".new", ".new-journal", ".new-wal"):
        path.with_name(path.name + suffix).write_bytes(b"half a file")
    with Armin(path) as armin:
        armin.create_session()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# --- what is refused ---


def refused(path: Path, error: type[OpenError]) -> str:
    before = file_bytes(path)
    with pytest.raises(error) as caught:
        Armin(path)
    assert file_bytes(path) == before
    assert not path.with_name(path.name + ".lock").exists()
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("wal", [False, True])
def test_a_foreign_database_is_refused(path, wal):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {'wal' if wal else 'delete'}")
        connection.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, text)")
        connection.execute("INSERT INTO notes(text) VALUES ('mine')")
        connection.commit()
    assert "none of Armin's" in refused(path, NotAnArminDatabase)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # no litter beside it


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE sessions(id INTEGER PRIMARY KEY, closed, created_at);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, session_id, role, content, created_at)",
        "CREATE TABLE sessions(id INTEGER PRIMARY KEY AUTOINCREMENT, closed, created_at)",
        "CREATE TABLE sessions(id INTEGER PRIMARY KEY AUTOINCREMENT, closed, created_at);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY AUTOINCREMENT, session_id, role, content, created_at);"
        "CREATE TABLE more(x)",
        "CREATE TABLE sessions(id INTEGER PRIMARY KEY AUTOINCREMENT, user, created_at);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY AUTOINCREMENT, session_id, role, content, created_at)",
        "CREATE TABLE empty(x); DROP TABLE empty",
        "CREATE TABLE sessions(id INTEGER PRIMARY KEY AUTOINCREMENT, closed, created_at);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY AUTOINCREMENT, session_id, role, content, created_at);"
        "PRAGMA user_version = 3",
    ],
)
def test_a_database_that_merely_looks_alike_is_refused(path, schema):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(schema)
    refused(path, NotAnArminDatabase)


_KILLED_WHILE_WRITING = """
import os, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA journal_mode = " + sys.argv[2])
c.execute("PRAGMA cache_size = 5")
c.executescript(sys.argv[3])
c.execute("BEGIN")
c.execute(sys.argv[4])
os.kill(os.getpid(), 9)
"""


def killed_while_writing(path: Path, mode: str, before: str, cut_off: str) -> None:
    """Another program's file, left with a hot journal or WAL."""
    script = [sys.executable, "-c", _KILLED_WHILE_WRITING, str(path), mode, before, cut_off]
    assert subprocess.run(script, check=False, timeout=60).returncode == -9


@pytest.mark.parametrize("without_shm", [False, True])
def test_a_foreign_database_with_a_hot_wal_is_refused_and_keeps_it(path, without_shm):
    killed_while_writing(path, "wal", "CREATE TABLE notes(x); INSERT INTO notes VALUES (1)", "SELECT 1")
    assert path.with_name("armin.db-wal").stat().st_size > 0
    if without_shm:
        path.with_name("armin.db-shm").unlink()
    refused(path, NotAnArminDatabase)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM notes").fetchall() == [(1,)]


FILL = (
    "WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 3000)"
    " INSERT INTO notes SELECT value || hex(zeroblob(400)) FROM n"
)


def test_a_foreign_database_with_a_hot_journal_is_refused_and_keeps_it(path):
    killed_while_writing(path, "delete", "CREATE TABLE notes(x);" + FILL, "UPDATE notes SET x = 'y' || x")
    assert path.with_name("armin.db-journal").stat().st_size > 512
    refused(path, NotAnArminDatabase)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM notes WHERE x LIKE 'y%'").fetchone() == (0,)


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"x",
        b"# a text file\n" * 500,
        b"SQLite format 3\0",
        b"\0" * 4096,
        b"\x7fELF" + b"\1" * 9000,
    ],
    ids=["line", "byte", "text", "magic only", "zeros", "binary"],
)
def test_a_file_that_is_no_database_is_refused(path, content):
    path.write_bytes(content)
    refused(path, OpenError)


def test_a_text_file_is_called_no_database(path):
    path.write_text("dear diary\n" * 1000)
    assert "no SQLite database" in refused(path, NotAnArminDatabase)


def test_a_newer_schema_is_refused(open_engine, path):
    open_engine().close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 3")
    assert "newer Armin" in refused(path, NewerSchema)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(OpenError, match="is a directory"):
        Armin(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_path_in_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(OpenError, match="No such file or directory"):
        Armin(tmp_path / "missing" / "armin.db")


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_missing_database_whose_wal_or_journal_is_left_is_refused(path, suffix):
    """SQLite would throw away what they hold, or play it into the new file."""
    path.with_name(path.name + suffix).write_bytes(b"\x37\x7f\x06\x82" + b"\1" * 5000)
    with pytest.raises(OpenError, match="missing or empty"):
        Armin(path)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name + suffix]


def test_the_wal_of_another_file_is_not_taken_for_an_empty_one(path, tmp_path):
    path.touch()
    path.with_name("armin.db-wal").write_bytes(b"\1" * 5000)
    refused(path, OpenError)


# --- damage ---


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> bytes:
    """A closed database of about 100 pages."""
    path = tmp_path_factory.mktemp("template") / "armin.db"
    with Armin(path) as armin:
        for number in range(30):
            armin.apply([create(f"s{number}", {"n": number}), append(number + 1, *["x" * 900] * 10)])
            armin.append(number + 1, "tool", "y", {"k": [number]})
        armin.close_session(3)
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(path, template, share):
    path.write_bytes(template[: int(len(template) * share)])
    refused(path, OpenError)


@pytest.mark.parametrize("cut", [1, 100, 4095, 4096, 4097])
def test_a_file_torn_at_its_end_is_refused(path, template, cut):
    path.write_bytes(template[:-cut])
    refused(path, OpenError)


def test_a_file_overwritten_with_garbage_is_refused_or_found_by_verify(path, template):
    """Whatever page is hit: a clear error, or an engine whose verify says what is wrong; never a crash."""
    chance = random.Random(42)
    pages = len(template) // 4096
    refusals = found = 0
    for number in range(2 * pages):
        damaged = bytearray(template)
        begin = number // 2 * 4096 + chance.choice([0, 8, 100, 2000])
        length = chance.choice([16, 400, 2000])
        damaged[begin : begin + length] = chance.randbytes(length) if number % 2 else b"z" * length
        path.write_bytes(damaged)
        try:
            armin = Armin(path)
        except OpenError:
            assert path.read_bytes() == damaged
            refusals += 1
            continue
        with armin:
            report = armin.verify()
            assert report.equal or report.differences
            found += not report.equal
    assert refusals > pages
    assert found > 0


def test_garbage_in_one_place_of_each_table_is_refused_or_found_by_verify(path, template):
    """A flipped byte within a value: nothing that SQLite would notice."""
    for needle in (b"x" * 500, b'{"k":[7]}', b'{"n":7}', b"s17"):
        at = template.index(needle)
        damaged = bytearray(template)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        try:
            armin = Armin(path)
        except CorruptDatabase:
            continue
        with armin:
            assert not armin.verify().equal
    path.write_bytes(template)
    with Armin(path) as armin:
        assert armin.verify().equal


def test_a_garbage_wal_is_not_believed(path, template):
    """SQLite ignores frames whose checksums are wrong: the database is as it was before them."""
    path.write_bytes(template)
    path.with_name("armin.db-wal").write_bytes(random.Random(1).randbytes(50_000))
    with Armin(path) as armin:
        assert armin.verify().equal
        assert len(armin.sessions().sessions) == 30
        armin.create_session()


# --- what cannot be written ---


def _immutable(path: Path, on: bool) -> bool:
    run = subprocess.run(
        ["chattr", "+i" if on else "-i", str(path)], capture_output=True, check=False, timeout=10
    )
    return run.returncode == 0


def test_a_file_that_cannot_be_written_is_refused(path, open_engine):
    armin = open_engine()
    armin.create_session()
    armin.close()
    try:
        immutable = _immutable(path, True)
    except FileNotFoundError:
        pytest.skip("no chattr here")
    if not immutable:
        if os.geteuid() == 0:
            pytest.skip("neither permissions nor chattr stop this user here")
        path.chmod(0o400)
    try:
        with pytest.raises(OpenError, match="cannot open"):
            Armin(path)
        assert not path.with_name("armin.db.lock").exists()
    finally:
        _immutable(path, False)
        path.chmod(0o600)
    assert len(open_engine().sessions().sessions) == 1


_UNDER_A_FILE_SIZE_OF_NOTHING = """
import resource, sys
from armin_engine import Armin, OpenError
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
try:
    Armin(sys.argv[1])
except OpenError as error:
    print(type(error).__name__, error, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
with Armin(sys.argv[1]) as armin:
    armin.create_session()
    assert armin.verify().equal
"""


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("room", [0, 5, 9000])
def test_a_disk_that_is_full_at_the_start_is_a_clear_error(path, exists, room):
    if exists:
        with Armin(path) as armin:
            armin.create_session()
    run = subprocess.run(
        [sys.executable, "-c", _UNDER_A_FILE_SIZE_OF_NOTHING, str(path), str(room)],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert exists or run.stdout.startswith("OpenError cannot create"), run.stdout
    with Armin(path) as armin:
        assert len(armin.sessions().sessions) == 1 + exists


# --- closing ---


def test_closing_twice_is_no_error(armin: Armin):
    armin.create_session()
    armin.close()
    armin.close()
    with armin:
        pass


def test_after_closing_writes_are_refused_and_reads_go_on(armin: Armin):
    armin.apply([create("n"), append(1, "a")])
    before = everything(armin)
    armin.close()
    for call in (
        lambda: armin.append(1, "user", "b"),
        armin.create_session,
        lambda: armin.close_session(1),
        armin.verify,
    ):
        with pytest.raises(StorageFailed, match="closed") as caught:
            call()
        assert caught.value.reason == "closed"
        assert not caught.value.retry
    assert armin.apply([close(1)])[0].reason == "closed"
    assert everything(armin) == before
    assert armin.refresh_snapshot() == 2


def test_a_closed_engine_leaves_the_next_one_alone(open_engine, path):
    first = open_engine()
    first.create_session()
    first.close()
    second = open_engine()
    first.close()
    with pytest.raises(StorageFailed):
        first.append(1, "user", "x")
    assert path.with_name("armin.db.lock").exists()
    second.append(1, "user", "y")
    assert contents(messages(second, 1)) == ["y"]
