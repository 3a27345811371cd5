"""`armin backup` and `armin restore`, as their users see them."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from armin import BackupReport, Conflict, connect, connect_async
from command_line import CommandLine, parsed
from harness import Engine, wait_until


@pytest.fixture
def armin(engine: Engine) -> CommandLine:
    with engine.peer() as peer:
        peer.ask("create_session", name="talk")
        for number in range(20):
            peer.ask("append", session_id=1, role="user", content=f"message {number}")
    return CommandLine(engine.directory)


@pytest.fixture
def place(short_dir: Path) -> Path:
    directory = short_dir / "backups"
    directory.mkdir()
    return directory


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_beside_a_running_engine(armin: CommandLine, place: Path) -> None:
    out = armin.ok("backup", str(place / "b.db"))
    size = (place / "b.db").stat().st_size
    assert out.startswith(f"{place / 'b.db'}: {size:,} bytes up to position 21, verified; ")
    [record] = armin.json("backup", str(place))
    assert record.keys() == {"path", "bytes", "position", "head", "begun_at", "duration_ms"}
    assert Path(record["path"]).parent == place
    assert record["position"] == 21
    assert armin.ok("verify", record["path"], "--head") == f"{record['head']}\n"
    assert stat.S_IMODE(Path(record["path"]).stat().st_mode) == 0o600


def test_without_an_engine_and_after_a_kill(armin: CommandLine, engine: Engine, place: Path) -> None:
    engine.kill()
    wal = engine.directory / "armin.db-wal"
    held = wal.read_bytes()
    assert held
    assert armin.json("backup", str(place / "killed.db"))[0]["position"] == 21
    assert wal.read_bytes() == held  # a reader brings nothing home
    engine.start()
    assert engine.stop() == 0
    assert armin.json("backup", str(place / "stopped.db"))[0]["position"] == 21
    assert names(engine.directory) == ["armin.db"]


def test_what_is_refused_has_its_exit_code(armin: CommandLine, engine: Engine, place: Path) -> None:
    armin.ok("backup", str(place / "b.db"))
    for destination, what in (
        (place / "b.db", "exists"),
        (engine.directory / "armin.db", "live database"),
        (engine.directory / "armin.db-wal", "live database"),
        (place / "absent" / "b.db", "no directory"),
    ):
        result = armin.run("backup", str(destination))
        assert (result.code, result.out) == (18, "")
        assert what in result.err
    assert armin.run("backup").code == 2
    assert armin.run("backup", str(place / "c.db"), "--every", "1h").code == 2
    assert armin.run("backup", str(place), "--every", "often").code == 2
    assert armin.run("backup", str(place), "--keep", "0").code == 2
    empty = CommandLine(place)
    assert empty.run("backup", str(place / "c.db")).code == 18
    assert names(place) == ["b.db"]


def test_a_damaged_database_is_exit_code_1(armin: CommandLine, engine: Engine, place: Path) -> None:
    with sqlite3.connect(engine.directory / "armin.db") as connection:
        connection.execute("UPDATE messages SET content = 'forged' WHERE id = 3")
    connection.close()
    result = armin.run("backup", str(place))
    assert result.code == 1
    assert "position 4, message 3" in result.err
    assert names(place) == []


def test_keep_deletes_the_oldest_and_says_so(armin: CommandLine, place: Path) -> None:
    (place / "precious").touch()
    made = [armin.json("backup", str(place))[0]["path"] for _ in range(3)]
    result = armin.run("backup", str(place), "--keep", "2", "--json")
    assert result.code == 0
    [last] = parsed(result.out)
    assert result.err.count("deleted") == 2
    assert names(place) == [*sorted(Path(path).name for path in (made[2], last["path"])), "precious"]


def test_every_goes_on_until_it_is_told_and_outlives_a_failure(
    armin: CommandLine, engine: Engine, place: Path
) -> None:
    with armin.start("backup", str(place), "--every", "1", "--keep", "2", "--json") as running:
        first, second, _ = (Path(parsed(line + "\n")[0]["path"]) for line in running.lines(3))
        wait_until(lambda: not first.exists())
        aside = engine.directory.with_name("aside.db")
        engine.stop()
        (engine.directory / "armin.db").rename(aside)
        running.says("this backup failed; the next try is in 1 s")
        kept = names(place)
        running.says("this backup failed; the next try is in 1 s", times=2)
        assert names(place) == kept  # what fails deletes nothing
        assert len(kept) == 2
        aside.rename(engine.directory / "armin.db")
        while parsed(running.line() + "\n")[0]["path"] in [str(place / name) for name in kept]:
            pass
        assert running.line()  # so the one before has ended
        wait_until(lambda: names(place)[0] > kept[0])
        assert running.signal(signal.SIGTERM) == 0
    assert not second.exists()
    assert 2 <= len(names(place)) <= 3  # the signal may come before the oldest is deleted


def test_every_ends_with_the_code_of_a_failure(engine: Engine, place: Path) -> None:
    armin = CommandLine(place)  # where no database is
    for number in (signal.SIGTERM, signal.SIGINT):
        with armin.start("backup", str(place), "--every", "1h") as running:
            running.says("next try is in 3600 s")
            assert running.signal(number) == 18
    assert names(place) == []


SLOW = """
import sys, time
from armin_engine import backup
def slow(*arguments):
    print("verifying", flush=True)
    time.sleep(60)
backup.verify_file = slow
from armin.cli.main import main
main(sys.argv[1:])
"""


def broken_off(number: signal.Signals, *arguments: str) -> int:
    """The exit code of a command that gets a signal when its copy stands, but is not verified."""
    command = [sys.executable, "-c", SLOW, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "verifying\n"
        process.send_signal(number)
        return process.wait(90)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(
    armin: CommandLine, engine: Engine, place: Path, short_dir: Path, number: signal.Signals
) -> None:
    directory = str(engine.directory)
    assert broken_off(number, "--dir", directory, "backup", str(place / "b.db")) == 128 + number
    assert names(place) == []
    armin.ok("backup", str(place / "b.db"))
    new = short_dir / "new"
    assert broken_off(number, "restore", str(place / "b.db"), str(new)) == 128 + number
    assert names(new) == []


def test_what_a_kill_left_is_removed_where_dest_is_a_file(
    armin: CommandLine, engine: Engine, place: Path
) -> None:
    command = ["--dir", str(engine.directory), "backup", str(place / "a.db")]
    assert broken_off(signal.SIGKILL, *command) == -signal.SIGKILL
    assert len(names(place)) == 1
    armin.ok("backup", str(place / "b.db"))
    assert names(place) == ["b.db"]


def test_where_a_directory_is_meant_no_file_is_made(armin: CommandLine, engine: Engine, place: Path) -> None:
    for destination in (f"{place}/absent/", str(engine.directory / "backups")):
        result = armin.run("backup", destination)
        assert (result.code, result.out) == (18, "")
        assert "no directory" in result.err
    assert names(place) == []
    assert not (engine.directory / "backups").exists()
    armin.ok("backup", str(place / "backups"))  # elsewhere it is a name like any other
    (engine.directory / "backups").mkdir()
    armin.ok("backup", str(engine.directory / "backups"))
    assert len(names(engine.directory / "backups")) == 1


def test_of_an_engine_elsewhere(short_dir: Path) -> None:
    engine = Engine(short_dir / "e", "--tcp", "127.0.0.1:0").start()
    try:
        with engine.peer() as peer:
            peer.ask("create_session")
            port = peer.ask("hello")["endpoints"]["tcp"]["commands"]
        armin = CommandLine(ARMIN_URL=f"tcp://127.0.0.1:{port}")
        assert armin.ok("backup", "b.db").startswith("b.db in the engine's backups: ")
        assert (engine.directory / "backups" / "b.db").exists()
        [record] = armin.json("backup")
        assert record.keys() == {"name", "bytes", "position", "head", "duration_ms"}
        assert armin.run("backup", "b.db").code == 5
        assert armin.run("backup", "../b.db").code == 6
        assert armin.run("backup", "b.db", "--every", "1h").code == 2
    finally:
        engine.stop()


def test_a_failed_one_is_named_as_trouble(armin: CommandLine, engine: Engine) -> None:
    (engine.directory / "backups").write_text("a file", "utf-8")
    with engine.peer() as peer:
        assert peer.ask("backup")["error"]["reason"] == "backup"
    assert "1 backups failed" in armin.ok("status")


def test_both_clients_wait_for_it(engine: Engine) -> None:
    with connect(engine.directory) as blocking:
        session = blocking.create_session()
        report = blocking.backup("b.db")
        assert report == BackupReport("b.db", report.bytes, session.id, report.head, report.duration_ms)
        with pytest.raises(Conflict) as caught:
            blocking.backup("b.db")
        assert caught.value.reason == "backup_exists"

    async def concurrently() -> BackupReport:
        async with connect_async(engine.directory) as concurrent:
            return await concurrent.backup()

    assert asyncio.run(concurrently()).position == 1


# --- restore ----------------------------------------------------------------------------------------------


@pytest.fixture
def made(armin: CommandLine, place: Path) -> Path:
    """A backup, after which the engine went on and was killed."""
    armin.ok("backup", str(place / "b.db"))
    return place / "b.db"


def test_restore_says_where_it_stands_and_what_is_only_in_what_it_replaced(
    armin: CommandLine, engine: Engine, made: Path
) -> None:
    armin.ok("append", "1", "user", "lost")
    result = armin.run("restore", str(made), str(engine.directory), "--replace")
    assert result.code == 25
    assert f"pid {engine.pid}" in result.err
    engine.kill()
    result = armin.run("restore", str(made), str(engine.directory))
    assert result.code == 25
    assert "--replace" in result.err
    out = armin.ok("restore", str(made), str(engine.directory), "--replace").splitlines()
    assert out[0].startswith(f"{engine.directory / 'armin.db'}: restored up to position 21, last message ")
    assert out[1] == f"head {armin.ok('verify', str(made), '--head').strip()}"
    assert out[2].startswith("new epoch ")
    assert "cursor_invalid" in out[2]
    [replaced] = engine.directory.glob("armin.db.replaced-*")
    assert out[3] == f"the database before it is {replaced}"
    assert out[4] == "1 facts are only there, those after position 21"
    assert armin.json("verify", str(replaced))[0]["position"] == 22
    engine.start()
    assert armin.ok("verify") == "memory, file and digests agree: 21 facts checked\n"


def test_restore_as_json_and_with_a_kept_head(armin: CommandLine, made: Path, short_dir: Path) -> None:
    head = armin.ok("verify", str(made), "--head").strip()
    new = str(short_dir / "new")
    result = armin.run("restore", str(made), new, "--expect", f"21:{'0' * 32}")
    assert (result.code, result.out) == (1, "")
    assert armin.run("restore", str(made), new, "--expect", "21").code == 6
    [record] = armin.json("restore", str(made), new, "--expect", head)
    assert record["head"] == head
    assert record["position"] == 21
    assert record["replaced"] is None
    with connect(armin.environ["ARMIN_DIR"]) as client:
        assert record["epoch"] != client.hello().epoch


def test_what_is_no_sound_backup_is_refused(armin: CommandLine, made: Path, short_dir: Path) -> None:
    new = str(short_dir / "new")
    assert armin.run("restore", str(short_dir / "absent.db"), new).code == 18
    text = short_dir / "text.db"
    text.write_text("text " * 1000, "utf-8")
    assert armin.run("restore", str(text), new).code == 11
    damaged = bytearray(made.read_bytes())
    at = damaged.index(b"message 7")
    damaged[at : at + 9] = b"message 8"
    made.write_bytes(damaged)
    result = armin.run("restore", str(made), new)
    assert result.code == 1
    assert "message 8 (session 1, seq 8)" in result.err
    assert not (short_dir / "new" / "armin.db").exists()
