"""A commit that SQLite fails leaves no trace, fails its whole group, and no later one."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing

import pytest

from armin_engine import Armin, RecordingSink, SessionClosed, SessionNotFound, StorageFailed
from engine.observe import (
    Listener,
    append,
    close,
    contents,
    create,
    everything,
    log,
    messages,
    positions,
    restartable,
    rows,
)

TRIGGERS = {
    # Where in the transaction the failure comes: at its first row, at its last, on an update.
    "message": "CREATE TRIGGER boom BEFORE INSERT ON messages WHEN new.content = 'boom'"
    " BEGIN SELECT raise(ABORT, 'injected'); END",
    "session": "CREATE TRIGGER boom BEFORE INSERT ON session_names WHEN new.name = 'boom'"
    " BEGIN SELECT raise(ROLLBACK, 'injected'); END",
    "close": "CREATE TRIGGER boom BEFORE UPDATE ON sessions WHEN old.id = 2"
    " BEGIN SELECT raise(FAIL, 'injected'); END",
    "log": "CREATE TRIGGER boom AFTER INSERT ON log WHEN new.position = 9"
    " BEGIN SELECT raise(ABORT, 'injected'); END",
}
FAILING = {
    "message": [append(1, "fine"), append(1, "boom"), append(2, "fine")],
    "session": [append(1, "fine"), create("boom"), append(3, "to the new one")],
    "close": [append(1, "fine"), close(2), create()],
    "log": [append(1, *"abcdefgh")],
}


@pytest.fixture(params=TRIGGERS)
def failing(request, open_engine, path) -> tuple[Armin, list, RecordingSink]:
    """An engine with two sessions, four facts, and a trap in the file."""
    open_engine().close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(TRIGGERS[request.param])
    sink = RecordingSink()
    armin = open_engine(sink=sink)
    armin.apply([create("one"), create("two"), append(1, "before"), append(2, "before")])
    return armin, FAILING[request.param], sink


def test_a_failed_commit_fails_every_write_of_its_group(failing):
    armin, commands, _ = failing
    outcomes = armin.apply(commands)
    assert all(isinstance(outcome, StorageFailed) for outcome in outcomes)
    assert all(outcome.retry and outcome.reason == "commit" for outcome in outcomes)
    assert "injected" in str(outcomes[0])
    assert armin.counters.commits_failed == 1


def test_a_failed_commit_leaves_no_trace(failing, path):
    armin, commands, sink = failing
    armin.refresh_snapshot()
    armin.append(2, "user", "in the delta")
    listener, subscription = Listener(), armin.live.subscribe()
    armin.live.attach(listener)
    seen, stored, effects = everything(armin), rows(path), list(sink.events)
    snapshot = armin.snapshot()
    armin.apply(commands)
    assert everything(armin) == seen
    assert rows(path) == stored
    assert sink.events == effects
    assert listener.events == []
    assert subscription.get() is None
    assert armin.snapshot() is snapshot
    assert armin.verify().equal


def test_a_failed_commit_uses_up_no_id(failing, path):
    armin, commands, _ = failing
    armin.apply(commands)
    appended = armin.append(1, "user", "after")
    created = armin.create_session()
    assert (appended.first_id, appended.first_at, appended.first_seq) == (3, 5, 2)
    assert created.session.id == 3
    assert dict(rows(path)["sqlite_sequence"]) == {"sessions": 3, "messages": 3}


def test_a_failed_commit_fails_no_later_group(failing):
    armin, commands, sink = failing
    armin.apply(commands)
    armin.apply([append(1, "after"), append(2, "after")])
    assert contents(messages(armin, 1)) == contents(messages(armin, 2)) == ["before", "after"]
    assert positions(sink.events) == positions(log(armin)) == [1, 2, 3, 4, 5, 6]


def test_what_failed_is_not_there_after_a_restart(failing, open_engine):
    armin, commands, _ = failing
    armin.apply(commands)
    seen = restartable(armin)
    armin.close()
    assert restartable(open_engine()) == seen


def test_refusals_of_a_failed_group_keep_their_own_reason(open_engine, path):
    open_engine().close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(TRIGGERS["message"])
    armin = open_engine()
    armin.apply([create("old"), create()])
    armin.close_session(2)
    outcomes = armin.apply(
        [
            append(9, "nowhere"),
            append(2, "closed before"),
            create("old"),
            close(2),
            create("new"),
            create("new"),
            close(1),
            append(1, "closed in this group only"),
            append(3, "boom"),
        ]
    )
    assert isinstance(outcomes[0], SessionNotFound)
    assert isinstance(outcomes[1], SessionClosed)
    assert outcomes[2].duplicate  # found, not written: the session is there
    assert outcomes[3].duplicate
    # These stood on what the group would have done.
    assert [type(outcome) for outcome in outcomes[4:]] == [StorageFailed] * 5
    assert armin.append(1, "user", "still open").first_seq == 1
    with pytest.raises(SessionNotFound):
        armin.session(name="new")


def test_a_single_write_raises_what_its_group_failed_with(open_engine, path):
    open_engine().close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(TRIGGERS["message"])
    armin = open_engine()
    armin.create_session()
    with pytest.raises(StorageFailed, match="injected"):
        armin.append(1, "user", "boom")
    assert armin.append(1, "user", "fine").first_id == 1


def test_a_full_database_fails_the_group_and_works_again_when_there_is_room(open_engine, path):
    armin = open_engine()
    armin.create_session()
    writer = armin._store._writer
    assert writer is not None
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages}")
    seen, stored = everything(armin), rows(path)
    outcomes = armin.apply([append(1, "small"), append(1, "x" * 100_000), create()])
    assert [type(outcome) for outcome in outcomes] == [StorageFailed] * 3
    assert "full" in str(outcomes[0])
    assert everything(armin) == seen
    assert rows(path) == stored
    writer.execute("PRAGMA max_page_count = 1000000")
    assert armin.append(1, "user", "x" * 100_000).first_id == 1
    assert armin.verify().equal


def test_a_foreign_writer_who_holds_the_file_fails_the_group_only(armin, path, monkeypatch):
    armin.create_session()
    armin._store._writer.execute("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageFailed, match="locked") as caught:
            armin.append(1, "user", "x")
        assert caught.value.retry
        other.execute("ROLLBACK")
    assert armin.append(1, "user", "x").first_id == 1


_UNDER_A_LOWERED_FILE_SIZE = """
import json, os, resource, sys
from armin_engine import Armin, RecordingSink, StorageFailed
from engine.observe import append, create, everything, log, messages, positions

sink = RecordingSink()
armin = Armin(sys.argv[1], sink=sink)
armin.apply([create(), append(1, "before")])
seen = everything(armin)
wal = os.path.getsize(sys.argv[1] + "-wal")
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (wal + int(sys.argv[2]), hard))
failed = armin.apply([append(1, "x" * 50_000), create(), append(2, "y")])
assert [type(outcome) for outcome in failed] == [StorageFailed] * 3, failed
assert everything(armin) == seen
assert positions(sink.events) == [1, 2]
failed_again = armin.apply([append(1, "x" * 50_000)])
assert isinstance(failed_again[0], StorageFailed)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert armin.verify().equal
after = armin.append(1, "user", "after")
assert positions(sink.events) == positions(log(armin)) == [1, 2, 3]
assert armin.verify().equal
print(json.dumps([after.first_id, after.first_seq, str(failed[0])]), flush=True)
if sys.argv[3] == "kill":
    os.kill(os.getpid(), 9)
armin.close()
"""


@pytest.mark.parametrize("end", ["close", "kill"])
@pytest.mark.parametrize("room", [0, 5_000, 30_000])
def test_a_wal_write_that_fails_leaves_no_trace(open_engine, path, room, end):
    """The system refuses to let the WAL grow (EFBIG), at its first frame or in the middle."""
    run = subprocess.run(
        [sys.executable, "-c", _UNDER_A_LOWERED_FILE_SIZE, str(path), str(room), end],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
        check=False,
    )
    assert run.returncode == (0 if end == "close" else -9), run.stderr
    first_id, first_seq, message = json.loads(run.stdout)
    assert (first_id, first_seq) == (2, 2)
    assert "SQLite could not commit" in message
    armin = open_engine()
    assert contents(messages(armin, 1)) == ["before", "after"]
    assert armin.verify().equal


def test_a_failed_commit_is_logged_with_its_cause(open_engine, path, caplog):
    open_engine().close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(TRIGGERS["message"])
    armin = open_engine()
    armin.create_session()
    armin.apply([append(1, "boom")])
    assert "injected" in caplog.text


def test_a_rollback_that_fails_does_not_hide_the_cause(armin, monkeypatch):
    """SQLite has often rolled back by itself; whatever ROLLBACK says then, the next group may come."""

    class Writer:
        def __init__(self, inner: sqlite3.Connection) -> None:
            self.inner, self.failing = inner, True

        def __getattr__(self, name: str) -> Callable:
            return getattr(self.inner, name)

        def execute(self, statement: str, *rest: object) -> object:
            if self.failing and statement in ("COMMIT", "ROLLBACK"):
                raise sqlite3.OperationalError(f"{statement} failed")
            return self.inner.execute(statement, *rest)

    armin.create_session()
    writer = armin._store._writer = Writer(armin._store._writer)
    with pytest.raises(StorageFailed, match="COMMIT failed"):
        armin.append(1, "user", "x")
    with pytest.raises(StorageFailed):  # the transaction is still open: cannot begin another
        armin.append(1, "user", "x")
    writer.failing = False
    with pytest.raises(StorageFailed):
        armin.append(1, "user", "x")
    assert armin.append(1, "user", "x").first_id == 1
    assert armin.verify().equal
