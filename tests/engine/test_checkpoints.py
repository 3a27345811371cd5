"""The WAL is kept short; what a failed sync may have lost is kept in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from armin_engine import Armin, OpenError, checkpoints, store
from armin_engine.checkpoints import FRAME_BYTES
from armin_engine.probe import beside

PAGES = 60
LIMIT = PAGES * FRAME_BYTES


@pytest.fixture
def armin(monkeypatch: pytest.MonkeyPatch, open_engine: Callable[..., Armin]) -> Armin:
    """An engine with a short WAL, which tries again at once."""
    monkeypatch.setattr(store, "CHECKPOINT_PAGES", PAGES)
    monkeypatch.setattr(checkpoints, "PAUSE_S", 0.0)
    armin = open_engine()
    armin.create_session()
    return armin


class Broken:
    """The writer's connection, on a disk on which checkpoints fail with this code."""

    def __init__(self, code: int) -> None:
        self._code = code
        self.asked = 0

    def execute(self, statement: str) -> None:
        self.asked += 1
        error = sqlite3.OperationalError("no luck")
        error.sqlite_errorcode = self._code
        raise error


def breaking(monkeypatch: pytest.MonkeyPatch, armin: Armin, code: int) -> Broken:
    broken = Broken(code)
    monkeypatch.setattr(armin._store._checkpoints, "_writer", broken)
    return broken


def wal(armin: Armin) -> Path:
    return beside(Path(armin.path), "-wal")


def fill(armin: Armin) -> bool:
    """A commit that makes the WAL longer than it may be, and one more; whether it is short again."""
    armin.append(1, "user", "x" * LIMIT)
    return is_home(armin)


def is_home(armin: Armin) -> bool:
    """One more commit, with which a WAL is begun anew if all is home."""
    armin.append(1, "user", "x")
    return wal(armin).stat().st_size <= LIMIT


def test_the_wal_does_not_grow_for_ever(armin: Armin) -> None:
    sizes = []
    for _ in range(300):
        armin.append(1, "user", "x" * 2000)
        sizes.append(wal(armin).stat().st_size)
    assert max(sizes) < 2 * LIMIT < 300 * FRAME_BYTES
    assert armin.verify().equal


def test_what_a_reader_holds_back_comes_home_when_it_lets_go(
    armin: Armin, foreign: sqlite3.Connection
) -> None:
    foreign.execute("BEGIN")
    foreign.execute("SELECT count(*) FROM messages").fetchone()
    for _ in range(5):
        assert not fill(armin)
    assert wal(armin).stat().st_size > 5 * LIMIT
    assert foreign.execute("SELECT count(*) FROM messages").fetchone() == (0,)
    foreign.execute("COMMIT")
    assert [is_home(armin) for _ in range(2)] == [False, True]
    assert armin.verify().equal


def test_what_a_short_reader_holds_back_is_tried_again_at_once(
    armin: Armin, foreign: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "PAUSE_S", 1e9)
    foreign.execute("BEGIN")
    foreign.execute("SELECT count(*) FROM messages").fetchone()
    assert not fill(armin)
    foreign.execute("COMMIT")
    assert [is_home(armin) for _ in range(2)] == [False, True]


def test_a_long_reader_is_given_time(
    armin: Armin, foreign: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "PAUSE_S", 1e9)
    monkeypatch.setattr(checkpoints, "HELD_FRAMES", 1)
    foreign.execute("BEGIN")
    foreign.execute("SELECT count(*) FROM messages").fetchone()
    assert not fill(armin)
    foreign.execute("COMMIT")
    assert not any(is_home(armin) for _ in range(5))


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
    assert again.session(1).seq == 10
    again.append(1, "user", "x")
    assert is_home(again)
    assert again.verify().equal


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_FSYNC])
def test_a_checkpoint_that_fails_is_told_once_and_tried_again(
    armin: Armin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    assert fill(armin)  # so nothing counts as home that is not synced
    with monkeypatch.context() as patch:
        broken = breaking(patch, armin, code)
        assert not any(fill(armin) for _ in range(3))
        assert broken.asked == 6
        assert ["a checkpoint failed: no luck" in record.message for record in caplog.records] == [True]
    armin.append(1, "user", "x")
    assert is_home(armin)
    assert [record.message for record in caplog.records[1:]] == ["checkpoints succeed again"]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE])
def test_what_could_not_be_written_is_tried_again_whatever_was_not_synced(
    armin: Armin, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with monkeypatch.context() as patch:  # at the start a former owner's pages may not be synced
        breaking(patch, armin, code)
        assert not any(fill(armin) for _ in range(3))
    armin.append(1, "user", "x")
    assert is_home(armin)


def test_what_counts_as_home_and_may_not_be_synced_is_kept_in_the_wal(
    armin: Armin,
    foreign: sqlite3.Connection,
    open_engine: Callable[..., Armin],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert fill(armin)
    foreign.execute("BEGIN")
    foreign.execute("SELECT count(*) FROM messages").fetchone()
    assert not fill(armin)  # what is behind the reader counts as home, and SQLite does not sync it
    with monkeypatch.context() as patch:
        breaking(patch, armin, sqlite3.SQLITE_IOERR_FSYNC)
        foreign.execute("COMMIT")
        assert not is_home(armin)
    assert "end all others" in caplog.records[-1].message
    assert not any(fill(armin) for _ in range(5))
    seq = armin.session(1).seq
    armin.close()
    assert wal(armin).stat().st_size > 5 * LIMIT, "the next start has it from there"
    again = open_engine()
    assert again.session(1).seq == seq
    assert again.verify().equal


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


def test_a_clean_end_leaves_no_wal(armin: Armin, open_engine: Callable[..., Armin]) -> None:
    fill(armin)
    armin.close()
    assert not wal(armin).exists()
    assert open_engine().session(1).seq == 2
