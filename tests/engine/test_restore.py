"""A backup takes the place of the database: in a new epoch, what was there kept, and never by halves."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from armin_engine import Armin, NotAnArminDatabase
from armin_engine.backup import Backup, BackupFailed, back_up
from armin_engine.offline import verify_file
from armin_engine.restore import RestoreRefused, restore
from armin_engine.stored import identity

LOST = 5  # messages written after the backup


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "d" / "armin.db"
    path.parent.mkdir()
    with Armin(path) as engine:
        session = engine.create_session("talk").session
        for number in range(10):
            engine.append(session.id, "user", f"message {number}")
    return path


@pytest.fixture
def made(database: Path, tmp_path: Path) -> Backup:
    """A backup, after which the database went on."""
    made = back_up(database, tmp_path / "copy.db")
    with Armin(database) as engine:
        for number in range(LOST):
            engine.append(1, "user", f"lost {number}")
    return made


def epoch_of(path: Path) -> str:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        return identity(connection).epoch


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def position_of(path: Path) -> int:
    with Armin(path) as engine:
        assert engine.verify().equal
        return engine.position


def test_into_an_empty_directory(made: Backup, tmp_path: Path) -> None:
    database = tmp_path / "new" / "deep" / "armin.db"
    done = restore(made.path, database)
    assert (done.path, done.position, done.head) == (database, 11, made.head)
    assert (done.replaced, done.replaced_position, done.lost) == (None, None, None)
    assert done.last_message_at is not None
    assert names(database.parent) == ["armin.db"]
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    assert stat.S_IMODE(database.parent.stat().st_mode) == 0o700
    assert position_of(database) == 11


def test_the_epoch_is_new_and_the_database_the_same(made: Backup, database: Path, tmp_path: Path) -> None:
    epochs = {epoch_of(made.path)}
    for name in ("a", "b"):
        done = restore(made.path, tmp_path / name / "armin.db")
        assert epoch_of(done.path) == done.epoch
        epochs.add(done.epoch)
        with Armin(done.path) as engine, Armin(database) as before:
            assert engine.identity.database == done.database == before.identity.database
    assert len(epochs) == 3


def test_a_database_that_is_there_is_not_replaced_unasked(made: Backup, database: Path) -> None:
    before = database.read_bytes()
    with pytest.raises(RestoreRefused, match="--replace") as caught:
        restore(made.path, database)
    assert caught.value.reason == "exists"
    assert database.read_bytes() == before
    assert names(database.parent) == ["armin.db"]


def test_replaced_it_is_kept_whole_with_what_only_its_wal_held(
    made: Backup, database: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed" / "armin.db"
    killed.parent.mkdir()
    with Armin(database) as engine:
        engine.append(1, "user", "only in the WAL")
        for suffix in ("", "-wal"):  # as a kill leaves them
            shutil.copy(f"{database}{suffix}", f"{killed}{suffix}")
    done = restore(made.path, killed, replace=True)
    assert (done.position, done.replaced_position, done.lost) == (11, 12 + LOST, 1 + LOST)
    assert done.replaced is not None
    assert names(killed.parent) == ["armin.db", done.replaced.name]
    assert verify_file(done.replaced).report.position == 12 + LOST
    assert position_of(killed) == 11
    again = restore(done.replaced, killed, replace=True)
    assert again.lost == 0
    assert position_of(killed) == 12 + LOST


def test_a_damaged_database_is_moved_aside_with_its_wal(made: Backup, database: Path) -> None:
    damaged = b"not a database " * 1000
    database.write_bytes(damaged)
    wal = database.with_name("armin.db-wal")
    wal.write_bytes(b"a WAL")
    done = restore(made.path, database, replace=True)
    assert (done.replaced_position, done.lost) == (None, None)
    assert done.replaced is not None
    assert done.replaced.read_bytes() == damaged
    assert done.replaced.with_name(f"{done.replaced.name}-wal").read_bytes() == b"a WAL"
    assert position_of(database) == 11


def test_a_wal_without_its_database_is_not_taken_for_nothing(made: Backup, database: Path) -> None:
    database.unlink()
    wal = database.with_name("armin.db-wal")
    wal.write_bytes(b"a WAL")
    with pytest.raises(RestoreRefused, match="-wal exists"):
        restore(made.path, database)
    done = restore(made.path, database, replace=True)
    assert not wal.exists()
    assert done.replaced is not None
    assert done.replaced.with_name(f"{done.replaced.name}-wal").read_bytes() == b"a WAL"
    assert position_of(database) == 11


def test_an_empty_wal_is_nothing_that_was_replaced(made: Backup, tmp_path: Path) -> None:
    database = tmp_path / "new" / "armin.db"
    database.parent.mkdir()
    database.with_name("armin.db-wal").touch()
    assert restore(made.path, database).replaced is None
    assert position_of(database) == 11
    assert names(database.parent) == ["armin.db"]


def test_refused_while_a_reader_holds_back_the_wal(made: Backup, database: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed" / "armin.db"
    killed.parent.mkdir()
    with Armin(database) as engine:
        engine.append(1, "user", "only in the WAL")
        for suffix in ("", "-wal"):  # as a kill leaves them
            shutil.copy(f"{database}{suffix}", f"{killed}{suffix}")
    with closing(sqlite3.connect(killed, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT max(position) FROM log").fetchone() == (12 + LOST,)
        with pytest.raises(RestoreRefused, match="somebody reads") as caught:
            restore(made.path, killed, replace=True)
        assert caught.value.reason == "busy"
        assert names(killed.parent) == ["armin.db", "armin.db-shm", "armin.db-wal"]
    assert restore(made.path, killed, replace=True).lost == 1 + LOST


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_restores_belongs_to_the_owner_of_the_directory(made: Backup, tmp_path: Path) -> None:
    place = tmp_path / "of-another"
    place.mkdir()
    os.chown(place, 65534, 65533)
    for directory in (place, place / "new"):
        done = restore(made.path, directory / "armin.db")
        for path in (directory, done.path):
            assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65533)


def test_an_epoch_that_cannot_be_written_is_a_failed_copy(
    made: Backup, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = database.read_bytes()
    monkeypatch.setattr("armin_engine.restore._NUMBER_GROUPS_ANEW", ("UPDATE absent SET id = :step",))
    with pytest.raises(BackupFailed, match="new epoch") as caught:
        restore(made.path, database, replace=True)
    assert caught.value.reason == "copy"
    assert database.read_bytes() == before
    assert names(database.parent) == ["armin.db"]


def test_refused_while_an_engine_owns_it(made: Backup, database: Path) -> None:
    with Armin(database) as engine:
        with pytest.raises(RestoreRefused, match="owned") as caught:
            restore(made.path, database, replace=True)
        assert caught.value.reason == "owned"
        assert engine.append(1, "user", "undisturbed").first_seq == 11 + LOST
    assert verify_file(database).report.equal


def test_the_database_is_no_backup_of_itself(database: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(database)
    for backup in (database, tmp_path / "link.db"):
        with pytest.raises(RestoreRefused, match="itself"):
            restore(backup, database, replace=True)
    assert position_of(database) == 11


def test_what_is_no_sound_backup_changes_nothing(made: Backup, database: Path, tmp_path: Path) -> None:
    before = database.read_bytes()
    with closing(sqlite3.connect(made.path)) as connection, connection:
        connection.execute("UPDATE messages SET content = 'forged' WHERE id = 3")
    with pytest.raises(BackupFailed, match="message 3") as caught:
        restore(made.path, database, replace=True)
    assert caught.value.reason == "damaged"
    (tmp_path / "text").write_text("text " * 1000, "utf-8")
    with pytest.raises(NotAnArminDatabase):
        restore(tmp_path / "text", database, replace=True)
    for absent in (tmp_path / "absent.db", tmp_path):
        with pytest.raises(FileNotFoundError):
            restore(absent, database, replace=True)
    assert names(database.parent) == ["armin.db"]
    assert database.read_bytes() == before


def test_a_kept_head_shows_another_past(made: Backup, database: Path) -> None:
    position, digest = made.head.split(":")
    other = "0" * len(digest)
    for expect, what in (
        ((int(position), other), "has the digest"),
        ((int(position) + 1, digest), "ends at"),
    ):
        with pytest.raises(RestoreRefused, match=what) as caught:
            restore(made.path, database, replace=True, expect=expect)
        assert caught.value.reason == "expect"
    assert names(database.parent) == ["armin.db"]
    assert restore(made.path, database, replace=True, expect=(int(position), digest)).position == 11


KILLED = """
import os, signal, sys
from pathlib import Path
from armin_engine import restore as restoring
step = int(sys.argv[3])
seen = 0

def at_step(call):
    def stepped(*arguments, **named):
        global seen
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return stepped

for name in ("link", "rename", "fsync"):
    setattr(os, name, at_step(getattr(os, name)))
for name in ("_renew", "_fold_wal", "_standing"):
    setattr(restoring, name, at_step(getattr(restoring, name)))
restoring.restore(Path(sys.argv[1]), Path(sys.argv[2]), replace=True)
"""


def test_killed_at_any_step_it_is_as_it_was_or_restored_and_a_rerun_succeeds(
    made: Backup, database: Path, tmp_path: Path
) -> None:
    states = set()
    for step in range(1, 40):
        place = tmp_path / f"k{step}" / "armin.db"
        place.parent.mkdir()
        with Armin(database) as engine:
            engine.append(1, "user", "only in the WAL")
            end = engine.position
            for suffix in ("", "-wal"):
                shutil.copy(f"{database}{suffix}", f"{place}{suffix}")
        command = [sys.executable, "-c", KILLED, str(made.path), str(place), str(step)]
        code = subprocess.run(command, check=False).returncode
        assert code in (0, -signal.SIGKILL)
        stands = tmp_path / f"s{step}"
        shutil.copytree(place.parent, stands)
        position = position_of(stands / "armin.db")
        assert position in (11, end)
        states.add(position == 11)
        assert restore(made.path, place, replace=True).position == 11
        assert position_of(place) == 11
        assert not [name for name in names(place.parent) if name.startswith(".")]
        if code == 0:
            break
    assert code == 0
    assert step > 6
    assert states == {True, False}


def test_a_disk_that_ends_leaves_the_directory_as_it_was(made: Backup, database: Path) -> None:
    before = database.read_bytes()
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from armin_engine.backup import BackupFailed\n"
        "from armin_engine.restore import restore\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "try:\n"
        "    restore(Path(sys.argv[1]), Path(sys.argv[2]), replace=True)\n"
        "except BackupFailed:\n"
        "    sys.exit(18)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(made.path), str(database)], check=False)
    assert done.returncode == 18
    assert names(database.parent) == ["armin.db"]
    assert database.read_bytes() == before


def test_the_lock_file_is_gone_afterwards(made: Backup, database: Path) -> None:
    restore(made.path, database, replace=True)
    assert not os.path.lexists(f"{database}.lock")
