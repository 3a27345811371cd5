"""Files deleted or replaced under the engine: it never acknowledges what nobody will read."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from armin_engine import Armin, StorageFailed
from armin_engine.lock import OwnerLock
from armin_engine.standing import Standing
from engine.observe import append, contents, create, everything, messages

FILES = ["armin.db", "armin.db-wal", "armin.db-shm", "armin.db.lock"]


def delete(file: Path) -> None:
    file.unlink()


def replace_with_a_copy(file: Path) -> None:
    copy = file.with_name("copy")
    shutil.copy(file, copy)
    copy.rename(file)


def move_away(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))


@pytest.fixture
def armin(open_engine) -> Armin:
    armin = open_engine()
    armin.apply([create("n"), append(1, "before")])
    return armin


@pytest.mark.parametrize("careless", [delete, replace_with_a_copy, move_away])
@pytest.mark.parametrize("name", FILES)
def test_no_write_is_acknowledged_once_a_file_has_gone(
    armin: Armin, path, name, careless: Callable[[Path], None]
):
    seen = everything(armin)
    careless(path.with_name(name))
    for _ in range(2):
        with pytest.raises(StorageFailed, match="deleted or replaced") as caught:
            armin.append(1, "user", "lost")
        assert (caught.value.reason, caught.value.retry) == ("file_changed", False)
        assert str(path.with_name(name)) in str(caught.value)
        assert "restart" in str(caught.value)
    assert everything(armin) == seen
    assert armin.writes_refused == "file_changed"


def test_a_file_that_is_put_back_does_not_bring_writing_back_before_a_restart(
    armin: Armin, open_engine, path
):
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(StorageFailed):
        armin.append(1, "user", "refused")
    path.with_name("elsewhere").rename(path)
    with pytest.raises(StorageFailed):
        armin.append(1, "user", "refused")
    armin.close()
    again = open_engine()
    again.append(1, "user", "after")
    assert contents(messages(again, 1)) == ["before", "after"]


def test_a_directory_that_went_with_all_files_ends_writing(open_engine, tmp_path):
    directory = tmp_path / "chat"
    directory.mkdir()
    armin = open_engine(directory / "armin.db")
    armin.create_session()
    directory.rename(tmp_path / "moved")
    with pytest.raises(StorageFailed) as caught:
        armin.append(1, "user", "x")
    assert caught.value.reason == "file_changed"


def test_the_first_write_of_a_new_file_is_watched_too(open_engine, path):
    armin = open_engine()
    path.with_name("armin.db-wal").unlink()
    with pytest.raises(StorageFailed, match="db-wal was deleted"):
        armin.create_session()


def test_what_was_acknowledged_survives_a_deleted_wal_and_a_clean_end(armin: Armin, open_engine, path):
    path.with_name("armin.db-wal").unlink()
    with pytest.raises(StorageFailed):
        armin.append(1, "user", "refused")
    armin.close()
    assert contents(messages(open_engine(), 1)) == ["before"]


def test_an_engine_whose_files_were_deleted_leaves_its_successors_alone(armin: Armin, open_engine, path):
    for name in FILES:
        path.with_name(name).unlink()
    successor = open_engine()
    successor.apply([create("m"), append(1, "new")])
    with pytest.raises(StorageFailed):
        armin.append(1, "user", "refused")
    armin.close()
    assert {path.with_name(name).exists() for name in FILES} == {True}
    successor.append(1, "user", "newer")
    assert successor.verify().equal


def test_a_file_that_cannot_be_looked_at_fails_the_group_only(armin: Armin, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("armin_engine.standing.os.stat", denied)
        with pytest.raises(StorageFailed, match="Permission denied") as caught:
            armin.append(1, "user", "x")
    assert caught.value.retry
    assert armin.append(1, "user", "after").first_id == 2


def test_a_memory_database_has_no_files_to_lose(open_engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    armin = open_engine(":memory:")
    armin.create_session()
    assert armin.append(1, "user", "x").first_id == 1


def test_files_used_as_ever_are_none_that_fell(armin: Armin, path):
    """Checkpoints, readers and other writers come and go: the files stay."""
    for number in range(5):
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        armin.append(1, "user", str(number))
    assert armin.writes_refused is None


def test_the_first_file_that_fell_is_named(tmp_path):
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.touch()
    standing = Standing(files)
    assert standing.fallen() is None
    files[2].unlink()
    assert standing.fallen() == str(files[2])
    os.replace(files[0], files[1])
    assert standing.fallen() == str(files[0])


# --- telling ---


def test_the_end_of_writing_is_logged_once_with_its_reason(armin: Armin, path, caplog):
    assert armin.writes_refused is None
    path.unlink()
    for _ in range(3):
        with pytest.raises(StorageFailed):
            armin.append(1, "user", "x")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "was deleted or replaced" in record.getMessage()


def test_an_interrupted_engine_says_so_once(armin: Armin, monkeypatch, caplog):
    def take(fact):
        raise MemoryError

    monkeypatch.setattr(armin, "take", take)
    with pytest.raises(MemoryError):
        armin.append(1, "user", "x")
    assert armin.writes_refused == "interrupted"
    for _ in range(3):
        with pytest.raises(StorageFailed):
            armin.append(1, "user", "y")
    (record,) = caplog.records
    assert (record.levelno, "interrupted" in record.getMessage()) == (logging.ERROR, True)


def test_a_closed_engine_refuses_without_a_word(armin: Armin, caplog):
    armin.close()
    with pytest.raises(StorageFailed):
        armin.append(1, "user", "x")
    assert armin.writes_refused == "closed"
    assert caplog.records == []


# --- the lock file ---


def test_a_lock_that_was_deleted_does_not_take_its_successor_along(path):
    lock = path.with_name("armin.db.lock")
    first = OwnerLock(path)
    lock.unlink()
    assert not first.still_held()
    second = OwnerLock(path)
    assert not first.still_held()
    first.release()
    assert lock.exists()
    assert second.still_held()
    second.release()
    assert not lock.exists()


def test_two_engines_after_a_deleted_lock_never_both_write(armin: Armin, open_engine, path):
    path.with_name("armin.db.lock").unlink()
    second = open_engine()
    with pytest.raises(StorageFailed, match="another engine"):
        armin.append(1, "user", "by the first")
    second.append(1, "user", "by the second")
    armin.close()
    second.append(1, "user", "by the second, again")
    assert second.verify().equal
