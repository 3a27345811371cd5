"""The op `backup`: a process beside the loop makes the copy; nothing outlives its failure or its engine."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from armin_broker import protocol
from armin_engine.backup import PARTIAL_SUFFIX
from armin_engine.offline import verify_file
from harness import Engine, Peer, failing_writes, wait_until


def backups(engine: Engine) -> Path:
    return engine.directory / protocol.BACKUPS_DIRECTORY


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def polled(peer: Peer, job: int) -> dict[str, Any]:
    reply: dict[str, Any] = {}

    def is_over() -> bool:
        reply.clear()
        reply.update(peer.ask("backup", job=job))
        return not reply["ok"] or reply["done"]

    wait_until(is_over)
    return reply


def fill(peer: Peer, megabytes: int) -> None:
    peer.ask("create_session")
    for _ in range(megabytes):
        messages = [{"role": "user", "content": "x" * 1000}] * 1000
        assert peer.ask("append_many", session_id=1, messages=messages)["ok"]


def children(engine: Engine) -> list[int]:
    """Its child processes, as soon as they are what they are to be: before, the engine waits for that."""
    found = []
    for task in Path(f"/proc/{engine.pid}/task").iterdir():
        with suppress(OSError):  # a thread that has ended
            found += [int(pid) for pid in (task / "children").read_text("ascii").split()]
    return [pid for pid in found if b"backup_process" in command_line(pid)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def slow_child(engine: Engine, peer: Peer) -> tuple[int, int]:
    """A backup whose process is stopped while it writes: its job and its pid."""
    fill(peer, 1)
    job = peer.ask("backup", name="b")["job"]
    found: list[int] = []
    wait_until(lambda: bool(found.extend(children(engine)) or found))
    (pid,) = found
    os.kill(pid, signal.SIGSTOP)
    return job, pid


def test_it_holds_what_was_acknowledged_before_and_is_the_owners_alone(engine: Engine, peer: Peer) -> None:
    fill(peer, 1)
    position = peer.ask("ping")["position"]
    begun = peer.ask("backup", name="b")
    assert begun == {"ok": True, "position": position, "job": 1, "done": False}
    reply = polled(peer, 1)
    copy = backups(engine) / "b"
    assert reply == {
        "ok": True,
        "position": position,
        "job": 1,
        "done": True,
        "name": "b",
        "bytes": copy.stat().st_size,
        "backup_position": position,
        "head": reply["head"],
        "duration_ms": reply["duration_ms"],
    }
    report = verify_file(copy).report
    assert report.equal
    assert reply["head"] == f"{position}:{report.head.hex() if report.head else ''}"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(backups(engine).stat().st_mode) == 0o700
    assert names(backups(engine)) == ["b"]


def test_one_at_a_time(engine: Engine, peer: Peer) -> None:
    job, pid = slow_child(engine, peer)
    for fields in ({}, {"name": "c"}):
        error = peer.ask("backup", **fields)["error"]
        assert (error["code"], error["reason"], error["retry"]) == ("conflict", "backup_running", True)
    assert peer.ask("backup", name="b")["job"] == job
    assert peer.ask("backup", job=job)["done"] is False
    assert peer.ask("append", session_id=1, role="user", content="meanwhile")["ok"]
    os.kill(pid, signal.SIGCONT)
    assert polled(peer, job)["name"] == "b"
    error = peer.ask("backup", name="b")["error"]
    assert (error["code"], error["reason"], error["retry"]) == ("conflict", "backup_exists", False)
    assert polled(peer, peer.ask("backup")["job"])["done"] is True
    assert len(names(backups(engine))) == 2


def test_an_unknown_job_is_a_bad_request_and_old_ones_are_forgotten(engine: Engine, peer: Peer) -> None:
    for number in range(1, 19):
        assert polled(peer, peer.ask("backup", name=f"b{number}")["job"])["job"] == number
    for job in (19, 2):
        error = peer.ask("backup", job=job)["error"]
        assert (error["code"], error["field"]) == ("bad_request", "job")
    assert peer.ask("backup", job=3)["name"] == "b3"


def test_a_disk_that_ends_fails_the_job_leaves_nothing_and_harms_nobody(engine: Engine, peer: Peer) -> None:
    fill(peer, 1)
    with failing_writes(engine):  # and so for the process that it starts
        reply = polled(peer, peer.ask("backup", name="b")["job"])
    assert reply["error"]["code"] == "storage_failed"
    assert reply["error"]["reason"] == "backup"
    assert names(backups(engine)) == []
    assert peer.ask("append", session_id=1, role="user", content="goes on")["ok"]
    stats = peer.ask("stats")
    assert (stats["backup_ok"], stats["backups_failed"], stats["backup_finished_at"]) == (False, 1, None)
    assert polled(peer, peer.ask("backup", name="b")["job"])["done"] is True
    stats = peer.ask("stats")
    assert (stats["backup_ok"], stats["backups_failed"]) == (True, 1)
    assert stats["backup_position"] == peer.ask("ping")["position"]
    assert stats["backup_bytes"] > 1_000_000


def test_a_damaged_database_gives_no_backup(engine: Engine, peer: Peer) -> None:
    fill(peer, 1)
    with sqlite3.connect(engine.directory / "armin.db") as connection:
        connection.execute("UPDATE messages SET content = 'forged' WHERE id = 3")
    connection.close()
    error = polled(peer, peer.ask("backup", name="b")["job"])["error"]
    assert (error["code"], error["reason"]) == ("storage_failed", "backup")
    assert "message 3" in error["message"]
    assert names(backups(engine)) == []


def test_a_killed_process_is_a_failed_job(engine: Engine, peer: Peer) -> None:
    job, pid = slow_child(engine, peer)
    os.kill(pid, signal.SIGKILL)
    assert polled(peer, job)["error"]["reason"] == "backup"
    assert polled(peer, peer.ask("backup", name="b")["job"])["done"] is True
    assert names(backups(engine)) == ["b"]


def test_a_stop_ends_it_and_leaves_nothing(engine: Engine, peer: Peer) -> None:
    _, pid = slow_child(engine, peer)
    assert engine.stop() == 0
    assert not Path(f"/proc/{pid}").exists()
    assert names(backups(engine)) == []


def test_it_ends_with_an_engine_that_is_killed(engine: Engine, peer: Peer) -> None:
    _, pid = slow_child(engine, peer)
    engine.kill()
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not is_alive(pid))
    assert not [name for name in names(backups(engine)) if name.endswith(PARTIAL_SUFFIX)]


def is_alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text("ascii")
    except OSError:
        return False


def test_what_a_killed_engine_left_is_removed_at_the_next_start(engine: Engine, peer: Peer) -> None:
    peer.ask("create_session")
    assert polled(peer, peer.ask("backup", name="b")["job"])["done"] is True
    engine.kill()
    (backups(engine) / f".0123{PARTIAL_SUFFIX}").write_bytes(b"half")
    (engine.directory / f".4567{PARTIAL_SUFFIX}").write_bytes(b"half")  # of a restore
    engine.start()
    assert not (engine.directory / f".4567{PARTIAL_SUFFIX}").exists()
    assert names(backups(engine)) == ["b"]


def test_a_directory_that_cannot_be_used_is_an_error(engine: Engine, peer: Peer) -> None:
    backups(engine).write_text("a file", "utf-8")
    for fields in ({}, {"name": "b"}):
        error = peer.ask("backup", **fields)["error"]
        assert (error["code"], error["reason"]) == ("storage_failed", "backup")
    assert backups(engine).read_text("utf-8") == "a file"
    stats = peer.ask("stats")
    assert (stats["backup_ok"], stats["backups_failed"]) == (False, 2)


@pytest.mark.parametrize("name", ["b-wal", "b.db-shm", "b.db-journal"])
def test_a_name_that_sqlite_gives_to_other_files_is_refused(engine: Engine, peer: Peer, name: str) -> None:
    error = peer.ask("backup", name=name)["error"]
    assert (error["code"], error["field"]) == ("bad_request", "name")
    assert not backups(engine).exists()


@pytest.mark.parametrize("name", ["../b", "/tmp/b", "a/../../b"])
def test_no_name_leads_out_of_the_directory(engine: Engine, peer: Peer, name: str) -> None:
    error = peer.ask("backup", name=name)["error"]
    assert (error["code"], error["field"]) == ("bad_request", "name")
    assert not backups(engine).exists()
