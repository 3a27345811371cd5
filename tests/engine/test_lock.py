"""One owner: whoever comes second is told who is first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from armin_engine import AlreadyOwned, Armin, OpenError
from armin_engine.lock import OwnerLock
from engine.observe import append, contents, create, messages

OWNER = """
import sys
from armin_engine import Armin
armin = Armin(sys.argv[1])
armin.create_session()
armin.append(1, "user", "mine")
print("open", flush=True)
sys.stdin.read()
armin.close()
"""


@contextmanager
def owner(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the file until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)
        process.stdin.close()
        process.stdout.close()


def test_a_second_owner_in_this_process_is_refused_with_the_pid(armin: Armin, path):
    with pytest.raises(AlreadyOwned, match=f"pid {os.getpid()}") as caught:
        Armin(path)
    assert caught.value.pid == os.getpid()
    assert armin.create_session().session.id == 1


def test_a_second_owner_in_another_process_is_refused_with_the_pid(path):
    with owner(path) as process:
        with pytest.raises(AlreadyOwned, match=f"pid {process.pid}") as caught:
            Armin(path)
        assert caught.value.pid == process.pid
        assert process.poll() is None


def test_the_lock_falls_when_the_owner_is_killed(path):
    with owner(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        assert path.with_name("armin.db.lock").exists()
        with Armin(path) as armin:
            assert contents(messages(armin, 1)) == ["mine"]
    assert not path.with_name("armin.db.lock").exists()


def test_the_lock_falls_when_the_owner_closes(open_engine):
    for count in range(1, 4):
        armin = open_engine()
        assert armin.create_session().session.id == count
        armin.close()


def test_a_refused_owner_changes_nothing(armin: Armin, path):
    armin.create_session()
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir() if entry.suffix != ".db-shm"}
    with pytest.raises(AlreadyOwned):
        Armin(path)
    assert before == {
        entry.name: entry.read_bytes() for entry in path.parent.iterdir() if entry.suffix != ".db-shm"
    }


def test_a_link_is_the_file_it_points_to(armin: Armin, path, tmp_path):
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    with pytest.raises(AlreadyOwned):
        Armin(link)
    armin.create_session()
    armin.close()
    with Armin(link) as through_link:
        assert through_link.path == path
        assert len(through_link.sessions().sessions) == 1
    assert [entry.name for entry in link.parent.iterdir()] == ["link.db"]


def test_a_link_to_nothing_makes_the_file_it_points_to(path, tmp_path):
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with Armin(link) as armin:
        armin.create_session()
    assert path.is_file()
    assert link.is_symlink()


def test_the_lock_says_who_owns_the_file_and_what_they_do(open_engine, path):
    lock = path.with_name("armin.db.lock")
    seen = []
    first = open_engine()
    first.apply([create(), append(1, "a")])
    first.close()
    armin = open_engine(progress=lambda *_: seen.append(lock.read_text()))
    assert seen == [f"{os.getpid()}\nrecovering\n"]
    armin.note("serving")
    assert lock.read_text() == f"{os.getpid()}\nserving\n"
    armin.note("x")
    assert lock.read_text() == f"{os.getpid()}\nx\n"


def test_a_lock_file_left_by_a_dead_owner_does_not_matter(path):
    path.with_name("armin.db.lock").write_text("999999\nserving\n")
    with Armin(path) as armin:
        armin.create_session()


def test_a_lock_file_with_nonsense_in_it_does_not_matter(path):
    lock = path.with_name("armin.db.lock")
    lock.write_bytes(b"\xff\x00 not a pid" * 100)
    with Armin(path):
        lock.write_bytes(b"\xff\x00 not a pid" * 100)
        with pytest.raises(AlreadyOwned) as caught:
            Armin(path)
        assert caught.value.pid is None


def test_a_lock_taken_on_a_file_that_was_just_removed_is_taken_again(path, monkeypatch):
    """Its last owner removed it between our open and our flock: that inode protects nothing."""
    lock = path.with_name("armin.db.lock")
    real = os.open
    removed = []

    def opening(name, *args, **options):
        descriptor = real(name, *args, **options)
        if name == lock and len(removed) < 3:
            removed.append(lock.stat().st_ino)
            lock.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", opening)
    mine = OwnerLock(path)
    monkeypatch.undo()
    try:
        assert len(removed) == 3
        with pytest.raises(AlreadyOwned):
            OwnerLock(path)
    finally:
        mine.release()
    assert not lock.exists()


def test_many_who_want_the_file_get_it_one_at_a_time(path):
    owners, most = 0, 0
    guard = threading.Lock()
    wins = []

    def want() -> None:
        nonlocal owners, most
        while len(wins) < 200:
            try:
                lock = OwnerLock(path)
            except AlreadyOwned:
                continue
            with guard:
                owners += 1
                most = max(most, owners)
            wins.append(1)
            with guard:
                owners -= 1
            lock.release()

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert most == 1
    assert len(wins) >= 200


def test_a_lock_that_the_file_system_refuses_is_a_clear_error(path, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("armin_engine.lock.fcntl.flock", flock)
    with pytest.raises(OpenError, match="cannot lock"):
        Armin(path)


def test_a_fork_neither_writes_nor_lets_go_of_the_lock(armin: Armin, path):
    armin.create_session()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            armin.append(1, "user", "from the fork")
        except RuntimeError:
            armin._store._lock.release()
            code = 42
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 42
    assert path.with_name("armin.db.lock").exists()
    with pytest.raises(AlreadyOwned):
        Armin(path)
    assert armin.append(1, "user", "from the owner").first_id == 1
