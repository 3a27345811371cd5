"""Backups of a file, with and without a writer: whole and verified, or nothing at all."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from armin_engine import Armin, CorruptDatabase, NotAnArminDatabase, backup, offline, rotation
from armin_engine.backup import PARTIAL_SUFFIX, Backup, BackupFailed, back_up, name_of, remove_leftovers
from armin_engine.offline import verify_file


@pytest.fixture(autouse=True)
def _any_disk_is_large_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "RESERVE_BYTES", 0)


def fill(path: Path, messages: int = 20, content: str = "x" * 200) -> None:
    with Armin(path) as engine:
        session = engine.create_session().session
        for _ in range(messages):
            engine.append(session.id, "user", content)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "d" / "armin.db"
    path.parent.mkdir()
    fill(path)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "backups"
    directory.mkdir()
    return directory


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_copy_is_one_file_of_its_owner_that_needs_no_wal(database: Path, place: Path) -> None:
    made = back_up(database, place / "copy.db")
    assert names(place) == ["copy.db"]
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert made.position == 21
    assert made.bytes == made.path.stat().st_size
    report = verify_file(made.path).report
    assert report.equal
    assert made.head == f"21:{report.head.hex() if report.head else ''}"
    with closing(sqlite3.connect(f"{made.path.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (20,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert names(place) == ["copy.db"]
    with Armin(made.path) as engine:
        assert engine.position == 21
        assert engine.append(1, "user", "the copy is a database").first_seq == 21
        assert engine.verify().equal


def test_a_copy_of_a_database_that_is_at_rest_leaves_it_as_it_was(database: Path, place: Path) -> None:
    before = database.read_bytes()
    back_up(database, place)
    assert names(database.parent) == ["armin.db"]
    assert database.read_bytes() == before


def test_what_only_the_wal_holds_is_copied(database: Path, place: Path) -> None:
    with Armin(database) as engine:
        engine.append(1, "user", "only in the WAL")
        made = back_up(database, place)
        assert made.position == 22
        assert engine.append(1, "user", "goes on").first_seq == 22
    with closing(sqlite3.connect(made.path)) as copy:
        last = copy.execute("SELECT content FROM messages ORDER BY id DESC LIMIT 1").fetchone()
    assert last == ("only in the WAL",)


def test_in_a_directory_it_is_named_by_its_time_and_position(database: Path, place: Path) -> None:
    made = back_up(database, place)
    assert made.path == place / name_of(made.begun_at, 21)
    assert name_of(1_795_806_414_056, 7) == "armin-20261127T190654.056Z-7.db"


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_name_that_sqlite_gives_to_other_files_is_no_place(
    database: Path, place: Path, suffix: str
) -> None:
    with pytest.raises(BackupFailed, match="SQLite") as caught:
        back_up(database, place / f"copy.db{suffix}")
    assert caught.value.reason == "destination"
    assert names(place) == []


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_nothing_is_replaced(database: Path, place: Path, suffix: str) -> None:
    there = place / f"copy.db{suffix}"
    there.write_bytes(b"precious")
    with pytest.raises(BackupFailed, match="exists") as caught:
        back_up(database, place / "copy.db")
    assert caught.value.reason == "exists"
    assert names(place) == [there.name]
    assert there.read_bytes() == b"precious"


def test_a_dangling_link_is_not_written_through(database: Path, place: Path) -> None:
    (place / "copy.db").symlink_to(place / "elsewhere.db")
    with pytest.raises(BackupFailed, match="exists"):
        back_up(database, place / "copy.db")
    assert names(place) == ["copy.db"]


def test_what_came_to_the_place_meanwhile_is_not_replaced(
    database: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def late(source: Path, target: Path) -> None:
        target.write_bytes(b"precious")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(BackupFailed) as caught:
        back_up(database, place / "copy.db")
    assert caught.value.reason == "exists"
    assert names(place) == ["copy.db"]
    assert (place / "copy.db").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "name", ["armin.db", "armin.db-wal", "armin.db-shm", "armin.db-journal", "armin.db.lock"]
)
def test_the_live_file_and_what_is_beside_it_are_no_place(database: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to(database.parent)
    for directory in (database.parent, tmp_path / "link"):
        with pytest.raises(BackupFailed, match="live database") as caught:
            back_up(database, directory / name)
        assert caught.value.reason == "destination"
    assert names(database.parent) == ["armin.db"]


def test_the_live_file_by_another_name_is_no_place(database: Path, place: Path) -> None:
    (place / "soft.db").symlink_to(database)
    os.link(database, place / "hard.db")
    for name in ("soft.db", "hard.db"):
        with pytest.raises(BackupFailed, match="live database"):
            back_up(database, place / name)
    assert verify_file(database).report.equal


def test_a_missing_or_closed_directory_is_named(database: Path, place: Path) -> None:
    with pytest.raises(BackupFailed, match="no directory"):
        back_up(database, place / "absent" / "copy.db")
    if os.geteuid() == 0:
        return
    place.chmod(0o500)
    with pytest.raises(BackupFailed, match="cannot write"):
        back_up(database, place / "copy.db")
    place.chmod(0o700)
    assert names(place) == []


def test_without_a_database_there_is_no_backup(tmp_path: Path, place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        back_up(tmp_path / "absent.db", place)
    (tmp_path / "text.db").write_text("no database " * 1000, "utf-8")
    with pytest.raises(NotAnArminDatabase):
        back_up(tmp_path / "text.db", place)
    assert names(place) == []


@contextmanager
def no_file_over(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [1, 4096, 40_000])
def test_a_disk_that_ends_leaves_nothing_behind(database: Path, place: Path, limit: int) -> None:
    fill(database, 2000)
    with no_file_over(limit), pytest.raises(BackupFailed, match="cannot"):
        back_up(database, place / "copy.db")
    assert names(place) == []
    assert back_up(database, place / "copy.db").position == 2022


def test_a_copy_that_would_fill_the_disk_is_not_begun(
    database: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: full)
    with pytest.raises(BackupFailed, match="only 1,000 are free") as caught:
        back_up(database, place)
    assert caught.value.reason == "full"
    assert names(place) == []


def test_a_backup_leaves_room_for_the_engine(
    database: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = database.stat().st_size
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    for reserve, spare in ((10 * needed, 10 * needed), (0, needed // 4)):
        monkeypatch.setattr(backup, "RESERVE_BYTES", reserve)
        usage.free = needed + spare - 1
        with pytest.raises(BackupFailed, match=f"leave {spare:,} free, but only {usage.free:,}") as caught:
            back_up(database, place)
        assert caught.value.reason == "full"
        assert names(place) == []
        usage.free += 1
        back_up(database, place).path.unlink()


@pytest.mark.parametrize("ends", [1, 100])
def test_an_engine_that_comes_and_goes_meanwhile_tears_no_copy(
    database: Path, place: Path, monkeypatch: pytest.MonkeyPatch, ends: int
) -> None:
    copy, immutable = backup._copy, list[bool]()

    def disturbed(*arguments: Any, **named: Any) -> None:
        immutable.append(named["immutable"])
        copy(*arguments, **named)
        if len(immutable) <= ends:
            with Armin(database) as engine:
                engine.append(1, "user", "meanwhile")

    monkeypatch.setattr(backup, "_copy", disturbed)
    made = back_up(database, place / "copy.db")
    if ends == 1:
        assert immutable == [True, True]
    else:
        assert immutable == [True] * offline.IMMUTABLE_READS + [False]
    assert made.position == 21 + len(immutable) - 1
    assert verify_file(made.path).report.equal


def test_an_engine_that_comes_and_goes_meanwhile_is_no_damage(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = offline._check

    def disturbed(*arguments: Any) -> offline.Checked:
        arguments[0].close()
        monkeypatch.setattr(offline, "_check", check)
        with Armin(database) as engine:
            engine.append(1, "user", "meanwhile")
        raise sqlite3.DatabaseError("database disk image is malformed")  # as torn pages look

    monkeypatch.setattr(offline, "_check", disturbed)
    report = verify_file(database).report
    assert (report.equal, report.position) == (True, 22)


def test_a_damaged_database_gives_no_backup(database: Path, place: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE messages SET content = 'forged' WHERE id = 3")
    with pytest.raises(BackupFailed, match="position 4, message 3") as caught:
        back_up(database, place)
    assert caught.value.reason == "damaged"
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 3))
    with pytest.raises((BackupFailed, CorruptDatabase)):
        back_up(database, place)
    assert names(place) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from armin_engine import backup
backup.verify_file = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
backup.back_up(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_what_a_killed_backup_leaves_is_removed_by_the_next_and_nothing_else(
    database: Path, place: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(database), str(place)], check=False)
    assert done.returncode == -signal.SIGKILL
    [left] = names(place)
    assert left.endswith(PARTIAL_SUFFIX)
    written = place / f".of-another{PARTIAL_SUFFIX}"
    with written.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a backup under way holds it
        (place / "precious").touch()
        removed: list[Path] = []
        remove_leftovers(place, removed.append)
        assert [path.name for path in removed] == [left]
        assert names(place) == [written.name, "precious"]
    remove_leftovers(place)
    assert names(place) == ["precious"]


def test_a_copy_whose_file_was_taken_for_a_leftover_takes_another(
    database: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = fcntl.flock, list[Path]()

    def late(descriptor: int, how: int) -> None:
        if not removed:
            monkeypatch.setattr(fcntl, "flock", lock)
            remove_leftovers(place, removed.append)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    made = back_up(database, place / "copy.db")
    assert len(removed) == 1
    assert names(place) == ["copy.db"]
    assert made.path.read_bytes()[18:20] == b"\x01\x01", "not finished: its header tells of a WAL"


def test_a_copy_whose_file_is_looked_at_as_a_leftover_takes_another(
    database: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        [partial] = place.iterdir()
        with partial.open("rb") as other:
            lock(other, fcntl.LOCK_EX)
            partial.unlink()
            lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert back_up(database, place / "copy.db").position == 21
    assert names(place) == ["copy.db"]


# --- a rotating set -----------------------------------------------------------------------------------------


def copies(database: Path, place: Path, count: int) -> list[Backup]:
    made = []
    for _ in range(count):
        with Armin(database) as engine:
            engine.append(1, "user", "one more")
        made.append(back_up(database, place))
    return made


def test_the_oldest_go_and_the_newest_stay(database: Path, place: Path) -> None:
    made = copies(database, place, 5)
    assert rotation.prune(made[-1], 2) == [each.path for each in made[:3]]
    assert names(place) == [each.path.name for each in made[3:]]
    assert rotation.prune(made[-1], 1) == [made[3].path]
    assert rotation.prune(made[-1], 1) == []
    assert names(place) == [made[4].path.name]


def test_the_one_just_made_stays_even_if_the_clock_was_set_back(database: Path, place: Path) -> None:
    made = copies(database, place, 3)
    early = made[-1].path.rename(place / name_of(1000, made[-1].position))
    newest = made[-1]._replace(path=early)
    assert rotation.prune(newest, 1) == [made[0].path, made[1].path]
    assert names(place) == [early.name]


def test_a_name_in_the_future_is_the_first_to_go(database: Path, place: Path) -> None:
    made = copies(database, place, 3)
    ahead = name_of(time.time_ns() // 1_000_000 + 86_400_000, made[1].position)
    wrong = made[1].path.rename(place / ahead)  # as a clock that was wrong named it
    assert rotation.prune(made[2], 2) == [wrong]
    assert names(place) == [made[0].path.name, made[2].path.name]


def test_only_members_of_the_set_are_deleted_or_counted(database: Path, place: Path, tmp_path: Path) -> None:
    first, second = copies(database, place, 2)
    other = tmp_path / "o" / "armin.db"
    other.parent.mkdir()
    fill(other)
    strange = [
        back_up(other, place).path.rename(place / name_of(1, 21)),  # of another database
        back_up(database, place / "by-hand.db").path,
        back_up(database, place / name_of(2, 9)).path,  # its name says another position
        place / name_of(3, 22),  # no database at all
        place / name_of(4, 22),  # a link to one
        place / "precious",
    ]
    strange[3].write_bytes(b"not a database")
    strange[4].symlink_to(first.path)
    strange[5].touch()
    used = first.path.with_name(name_of(5, first.position))  # somebody has it open
    used.write_bytes(first.path.read_bytes())
    used.with_name(f"{used.name}-wal").touch()
    assert rotation.prune(second, 1) == [first.path]
    assert {path.name for path in strange} | {used.name, second.path.name} < set(names(place))


def test_a_backup_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(os, "nice", given.append)
    backup.give_way()
    assert given == [backup.NICE]
