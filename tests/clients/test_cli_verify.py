"""`armin verify`: with an engine, and on a file without one."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest

from command_line import CommandLine
from harness import Engine


@pytest.fixture
def armin(engine: Engine) -> CommandLine:
    with engine.peer() as peer:
        peer.ask("create_session", name="talk")
        for number in range(20):
            peer.ask("append", session_id=1, role="user", content=f"message {number}")
        peer.ask("close_session", session_id=1)
    return CommandLine(engine.directory)


def rot(database: Path) -> None:
    """Change the third message behind the engine's back."""
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE messages SET content = 'forged' WHERE id = 3")
    connection.close()


def contents(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.iterdir() if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_verify_asks_a_running_engine(armin: CommandLine, engine: Engine) -> None:
    assert armin.ok("verify") == "memory, file and digests agree: 22 facts checked\n"
    [report] = armin.json("verify")
    assert report == {"equal": True, "position": 22, "checked": 22, "differences": [], "file": None}
    assert CommandLine().ok("verify", str(engine.directory)).startswith("memory, file and digests agree")
    rot(engine.directory / "armin.db")
    result = armin.run("verify")
    assert result.code == 1
    assert "position 4: memory differs from the file" in result.lines
    assert result.lines[-1].startswith("memory, file and digests do not agree")


def test_verify_shows_a_progress_bar_on_a_terminal_and_cleans_it_up(armin: CommandLine) -> None:
    with armin.terminal("verify") as terminal:
        result = terminal.end()
    assert result.code == 0
    assert "verifying" in result.out
    assert result.out.rstrip().endswith("memory, file and digests agree: 22 facts checked")


def test_verify_without_an_engine_checks_the_file_alone_and_changes_nothing(
    armin: CommandLine, engine: Engine
) -> None:
    engine.stop()
    before = contents(engine.directory)
    result = armin.run("verify")
    assert (result.code, result.out) == (0, "the file and its digests agree: 22 facts checked\n")
    assert result.err == f"no engine runs on {engine.directory}; checking the file alone\n"
    assert contents(engine.directory) == before
    rot(engine.directory / "armin.db")
    result = armin.run("verify")
    assert result.code == 1
    assert result.lines[0] == "position 4: the digest does not match what is stored"


def test_verify_lists_a_hundred_differences_and_counts_the_rest(armin: CommandLine, engine: Engine) -> None:
    with engine.peer() as peer:
        peer.ask("create_session")
        messages = [{"role": "user", "content": "x"}] * 150
        assert peer.ask("append_many", session_id=2, messages=messages)["ok"]
    engine.stop()
    with sqlite3.connect(engine.directory / "armin.db") as connection:
        connection.execute("UPDATE messages SET content = 'forged'")
    connection.close()
    result = armin.run("verify")
    assert result.code == 1
    assert result.lines[100] == "and 70 more"
    assert len(result.lines) == 102


def test_verify_of_a_killed_engines_file_reads_its_wal(armin: CommandLine, engine: Engine) -> None:
    engine.kill()
    database = contents(engine.directory)["armin.db"]
    assert armin.run("verify").out == "the file and its digests agree: 22 facts checked\n"
    assert contents(engine.directory)["armin.db"] == database
    engine.start()
    assert armin.ok("verify").startswith("memory, file and digests agree: 22 facts")


def test_verify_of_a_copy_works_while_the_engine_runs(
    armin: CommandLine, engine: Engine, short_dir: Path
) -> None:
    copy = short_dir / "copy of armin.db"
    with sqlite3.connect(engine.directory / "armin.db") as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    [report] = CommandLine().json("verify", str(copy))
    assert report == {"equal": True, "position": 22, "checked": 22, "differences": [], "file": str(copy)}


def test_verify_of_what_is_no_armin_database_has_the_codes_of_serve(short_dir: Path) -> None:
    armin = CommandLine()
    text, foreign, damaged = short_dir / "text", short_dir / "foreign.db", short_dir / "damaged.db"
    text.write_text("no database" * 1000, "utf-8")
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    engine = Engine(short_dir / "e").start()
    assert engine.stop() == 0
    whole = (engine.directory / "armin.db").read_bytes()
    damaged.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    with sqlite3.connect(short_dir / "e" / "armin.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for path, code in ((text, 11), (foreign, 11), (engine.directory / "armin.db", 12)):
        result = armin.run("verify", str(path))
        assert result.code == code, result
        assert str(path) in result.err
        assert result.err.count("\n") == 1
    assert armin.run("verify", str(damaged)).code in (1, 13)
    assert armin.run("verify", str(short_dir / "absent.db")).code == 18
    empty = short_dir / "empty"
    empty.mkdir()
    result = armin.run("verify", str(empty))
    assert (result.code, result.err) == (
        3,
        f"armin: there is no armin.db in {empty}, and no engine runs on it\n",
    )
