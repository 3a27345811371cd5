"""The WAL is brought home beside the commits, and never begun anew while that goes on."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from armin_engine import Armin, OpenError, checkpoints, store
from armin_engine.checkpoints import FRAME_BYTES, Checkpoints
from armin_engine.probe import beside

PAGES = 60
LIMIT = PAGES * FRAME_BYTES
SALTS = slice(16, 24)  # of a WAL's header: others each time that it is begun anew
DEADLINE_S = 30.0


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints every few commits, and tried again at once."""
    monkeypatch.setattr(store, "CHECKPOINT_PAGES", PAGES)
    monkeypatch.setattr(checkpoints, "PAUSE_S", 0.0)


@pytest.fixture
def armin(often: None, open_engine: Callable[..., Armin]) -> Armin:
    armin = open_engine()
    armin.create_session()
    return armin


def fill(armin: Armin) -> None:
    """A commit that makes the WAL longer than it may be."""
    armin.append(1, "user", "x" * LIMIT)


def wal(armin: Armin) -> Path:
    return beside(Path(armin.path), "-wal")


def salts(armin: Armin) -> bytes:
    return wal(armin).read_bytes()[SALTS]


def brought_home(armin: Armin) -> bool:
    """Let the thread end, commit once more, and see whether the WAL is as short as it should be."""
    assert armin._store._checkpoints is not None
    thread = armin._store._checkpoints._thread
    if thread is not None:
        thread.join(DEADLINE_S)
    armin.append(1, "user", "x")
    return wal(armin).stat().st_size <= LIMIT


def commits_until_home(armin: Armin) -> int:
    return next(number for number in range(100) if brought_home(armin))


class Held(Checkpoints):
    """The thread waits before and after its checkpoint."""

    before: threading.Event
    ready: threading.Event
    after: threading.Event

    def _checkpoint(self, connection: sqlite3.Connection) -> int | None:
        if connection is self._writer:
            return super()._checkpoint(connection)
        assert self.before.wait(DEADLINE_S)
        left = super()._checkpoint(connection)
        self.ready.set()
        assert self.after.wait(DEADLINE_S)
        return left


class Unguarded(Held):
    """What the guard is there for."""

    def _run(self) -> None:
        self._left = self._checkpoint(self._runner)


class Broken:
    """A connection whose checkpoints fail with this code, and which is never closed."""

    def __init__(self, code: int) -> None:
        self._code = code

    def execute(self, statement: str) -> None:
        error = sqlite3.OperationalError("no luck")
        error.sqlite_errorcode = self._code
        raise error

    def close(self) -> None:
        pass


def held(monkeypatch: pytest.MonkeyPatch, kind: type[Held]) -> type[Held]:
    kind.before, kind.ready, kind.after = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(store, "Checkpoints", kind)
    return kind


def test_the_wal_does_not_grow_for_ever(armin: Armin) -> None:
    sizes, written = [], 0
    for _ in range(300):
        armin.append(1, "user", "x" * 2000)
        written += 4 * FRAME_BYTES  # a page of each table at least
        sizes.append(wal(armin).stat().st_size)
    commits_until_home(armin)
    assert max(sizes) < written // 2
    assert armin.verify().equal


def test_commits_go_on_while_the_wal_is_brought_home(
    monkeypatch: pytest.MonkeyPatch, often: None, open_engine: Callable[..., Armin]
) -> None:
    events = held(monkeypatch, Held)
    armin = open_engine()
    armin.create_session()
    fill(armin)
    for number in range(20):
        assert armin.append(1, "user", str(number)).first_seq == number + 2
    assert armin.verify().equal, "and reads"
    events.before.set()
    assert events.ready.wait(DEADLINE_S)
    for number in range(20):
        assert armin.append(1, "user", str(number)).first_seq == number + 22
    events.after.set()
    commits_until_home(armin)
    assert armin.verify().equal


@pytest.mark.parametrize("kind", [Held, Unguarded])
def test_no_wal_is_begun_anew_while_the_thread_is_at_its_checkpoint(
    monkeypatch: pytest.MonkeyPatch, often: None, open_engine: Callable[..., Armin], kind: type[Held]
) -> None:
    events = held(monkeypatch, kind)
    events.before.set()
    armin = open_engine()
    armin.create_session()
    fill(armin)
    first = salts(armin)
    assert events.ready.wait(DEADLINE_S)  # all is home, and nothing else holds the WAL
    for number in range(5):
        armin.append(1, "user", str(number))
    begun_anew = salts(armin) != first
    events.after.set()
    assert begun_anew == (kind is Unguarded)
    commits_until_home(armin)
    assert salts(armin) != first
    assert armin.verify().equal


def test_once_all_is_home_the_next_long_wal_is_the_threads_again(
    armin: Armin, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_writer = []
    real = Checkpoints._checkpoint

    def counting(self: Checkpoints, connection: sqlite3.Connection) -> int | None:
        by_writer.append(connection is self._writer)
        return real(self, connection)

    monkeypatch.setattr(Checkpoints, "_checkpoint", counting)
    for _ in range(3):
        fill(armin)
        assert brought_home(armin)
    assert by_writer == [False] * 3


def test_what_a_reader_holds_back_comes_home_when_it_lets_go(
    armin: Armin, foreign: sqlite3.Connection
) -> None:
    foreign.execute("BEGIN")
    foreign.execute("SELECT count(*) FROM messages").fetchone()
    for _ in range(5):
        fill(armin)
        assert not brought_home(armin)
    assert wal(armin).stat().st_size > 5 * LIMIT
    assert foreign.execute("SELECT count(*) FROM messages").fetchone() == (0,)
    foreign.execute("COMMIT")
    commits_until_home(armin)
    assert armin.verify().equal


def test_what_a_short_reader_holds_back_is_tried_again_at_once(
    armin: Armin, foreign: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "PAUSE_S", 1e9)
    foreign.execute("BEGIN")
    foreign.execute("SELECT count(*) FROM messages").fetchone()
    fill(armin)
    assert not brought_home(armin)
    foreign.execute("COMMIT")
    commits_until_home(armin)


def test_a_wal_that_a_killed_engine_left_is_brought_home(
    armin: Armin, foreign: sqlite3.Connection, open_engine: Callable[..., Armin], tmp_path: Path
) -> None:
    foreign.execute("BEGIN")
    foreign.execute("SELECT count(*) FROM messages").fetchone()
    for _ in range(5):
        fill(armin)
    copy = tmp_path / "copy.db"
    for suffix in ("", "-wal"):
        beside(copy, suffix).write_bytes(beside(Path(armin.path), suffix).read_bytes())
    foreign.execute("COMMIT")
    again = open_engine(copy)
    assert again.session(1).seq == 5
    commits_until_home(again)
    assert again.verify().equal


def test_where_no_thread_can_be_had_the_commit_does_it_itself(
    armin: Armin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    fill(armin)
    armin.append(1, "user", "x")
    assert wal(armin).stat().st_size <= LIMIT


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_FSYNC])
def test_a_checkpoint_that_fails_is_told_once_and_tried_again(
    armin: Armin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    fill(armin)
    commits_until_home(armin)  # so nothing counts as home that is not synced
    with monkeypatch.context() as patch:
        patch.setattr(armin._store._checkpoints, "_runner", Broken(code))
        fill(armin)
        for _ in range(3):
            assert not brought_home(armin)
        assert ["a checkpoint failed: no luck" in record.message for record in caplog.records] == [True]
    commits_until_home(armin)
    assert [record.message for record in caplog.records[1:]] == ["checkpoints succeed again"]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE])
def test_what_could_not_be_written_is_tried_again_whatever_was_not_synced(
    armin: Armin, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with monkeypatch.context() as patch:  # at the start a former owner's pages may not be synced
        patch.setattr(armin._store._checkpoints, "_runner", Broken(code))
        for _ in range(3):
            fill(armin)
            assert not brought_home(armin)
    commits_until_home(armin)


def test_what_counts_as_home_and_may_not_be_synced_is_kept_in_the_wal(
    armin: Armin,
    foreign: sqlite3.Connection,
    open_engine: Callable[..., Armin],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    armin.append(1, "user", "x")
    foreign.execute("BEGIN")
    foreign.execute("SELECT count(*) FROM messages").fetchone()
    fill(armin)
    assert not brought_home(armin)  # what is behind the reader counts as home, and SQLite does not sync it
    runner = armin._store._checkpoints._runner  # type: ignore[union-attr]
    monkeypatch.setattr(armin._store._checkpoints, "_runner", Broken(sqlite3.SQLITE_IOERR_FSYNC))
    foreign.execute("COMMIT")
    for _ in range(3):
        assert not brought_home(armin)
    assert [record.message for record in caplog.records if "end all others" in record.message]
    monkeypatch.undo()
    for number in range(5):
        fill(armin)
        assert not brought_home(armin), number
    seq = armin.session(1).seq
    runner.close()
    armin.close()
    assert wal(armin).stat().st_size > 5 * LIMIT, "the next start has it from there"
    again = open_engine()
    assert again.session(1).seq == seq
    assert again.verify().equal


def test_closes_though_the_thread_was_never_started(
    armin: Armin, open_engine: Callable[..., Armin], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(self: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cut_off)
        with pytest.raises(KeyboardInterrupt):
            fill(armin)
    armin.close()
    assert not wal(armin).exists()
    assert open_engine().session(1).seq == 1


def test_an_opening_that_fails_leaves_nothing_open(
    armin: Armin, open_engine: Callable[..., Armin], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_many(path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    armin.close()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "connect_read_only", too_many)
        with pytest.raises(OpenError):
            open_engine()
        assert not wal(armin).exists(), "the last one to close brings all home"
    open_engine().create_session()


def test_closing_waits_for_the_thread(
    monkeypatch: pytest.MonkeyPatch, often: None, open_engine: Callable[..., Armin]
) -> None:
    events = held(monkeypatch, Held)
    armin = open_engine()
    armin.create_session()
    fill(armin)
    closing = threading.Thread(target=armin.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    events.before.set()
    events.after.set()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    assert not wal(armin).exists(), "the last one to close brings all home"
    assert open_engine().session(1).seq == 1
