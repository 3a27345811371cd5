"""`armin verify`: with an engine, and on a file without one."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from armin import BadRequest, VerifyReport, connect, connect_async
from armin.heads import parse_head
from armin_engine.digest import GENESIS, chain
from armin_engine.facts import new_fact
from armin_engine.stored import Replay, stored_facts
from command_line import CommandLine, parsed
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
    head = report.pop("head")
    assert report == {
        "equal": True,
        "position": 22,
        "checked": 22,
        "first_bad": None,
        "differences": [],
        "file": None,
    }
    assert armin.ok("verify", "--head") == f"{head}\n"
    assert CommandLine().ok("verify", str(engine.directory)).startswith("memory, file and digests agree")
    rot(engine.directory / "armin.db")
    result = armin.run("verify")
    assert result.code == 1
    assert "position 4, message 3 (session 1, seq 3): memory differs from the file" in result.lines
    assert "first bad row: position 4, message 3 (session 1, seq 3)" in result.lines
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
    assert result.lines == [
        "position 4, message 3 (session 1, seq 3): the digest does not match what is stored",
        "first bad row: position 4, message 3 (session 1, seq 3)",
        "the file and its digests do not agree: 22 facts checked",
    ]
    [report] = parsed(armin.run("verify", "--json").out)
    assert report["first_bad"] == {"position": 4, "session_id": 1, "message_id": 3, "seq": 3}


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
    assert result.lines[101] == "first bad row: position 2, message 1 (session 1, seq 1)"
    assert len(result.lines) == 103


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
    assert (report["equal"], report["checked"], report["file"]) == (True, 22, str(copy))


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


# --- the head, kept elsewhere ---------------------------------------------------------------------


def rewrite_the_past(database: Path) -> None:
    """Change a message and every digest behind it: the file agrees with itself again."""
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE messages SET content = 'forged' WHERE id = 3")
        head = GENESIS
        for fact in [new_fact(fields) for facts, _ in stored_facts(connection, Replay()) for fields in facts]:
            head = chain(head, fact)
            connection.execute("UPDATE log SET digest = ? WHERE position = ?", (head, fact.position))
    connection.close()


def cut_the_tail_off(database: Path) -> None:
    """Take the last two facts away, as if they had never been."""
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM log WHERE position > 20")
        connection.execute("DELETE FROM messages WHERE id = 20")
        connection.execute("UPDATE sessions SET closed = 0")
        connection.execute("UPDATE sqlite_sequence SET seq = 19 WHERE name = 'messages'")
    connection.close()


def test_a_kept_head_is_found_again_with_an_engine_and_without(armin: CommandLine, engine: Engine) -> None:
    head = armin.ok("verify", "--head").strip()
    position, digest = head.split(":")
    assert (position, len(digest)) == ("22", 32)
    armin.ok("new")
    later = armin.ok("verify", "--head").strip()
    assert later.startswith("23:")
    assert armin.ok("verify", "--expect", head).startswith("memory, file and digests agree")
    engine.stop()
    database = str(engine.directory / "armin.db")
    assert CommandLine().ok("verify", database, "--head") == f"{later}\n"
    for kept in (head, later, "0:" + "0" * 32):
        assert CommandLine().ok("verify", database, "--expect", kept).startswith("the file and its digests")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (rewrite_the_past, "position 22 has the digest "),
        (cut_the_tail_off, "the log ends at position 20; what followed up to position 22 is cut off"),
    ],
)
def test_a_kept_head_shows_what_the_file_alone_cannot(
    armin: CommandLine, engine: Engine, damage: Callable[[Path], None], complaint: str
) -> None:
    head = armin.ok("verify", "--head").strip()
    engine.stop()
    damage(engine.directory / "armin.db")
    database = str(engine.directory / "armin.db")
    assert CommandLine().ok("verify", database).startswith("the file and its digests agree")
    result = CommandLine().run("verify", database, "--expect", head)
    assert result.code == 1
    assert result.lines[0].startswith(complaint)
    engine.start()
    online = armin.run("verify", "--expect", head)
    assert online.code == 1
    assert online.lines[0].startswith(complaint)


def test_no_head_is_given_for_what_does_not_agree(armin: CommandLine, engine: Engine) -> None:
    engine.stop()
    rot(engine.directory / "armin.db")
    result = CommandLine().run("verify", str(engine.directory / "armin.db"), "--head")
    assert (result.code, result.out) == (1, "")
    assert "position 4, message 3" in result.err


def test_a_head_that_is_none_is_refused(short_dir: Path) -> None:
    digest = "0" * 32
    for kept in ("", "22", "22:abc", f"x:{digest}", f"-1:{digest}", f"{'9' * 19}:{digest}", f"1:{digest}0"):
        with pytest.raises(BadRequest, match="POSITION:DIGEST"):
            parse_head(kept)
    result = CommandLine().run("verify", str(short_dir / "absent.db"), "--expect", "22")
    assert (result.code, "POSITION:DIGEST" in result.err) == (6, True)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_both_clients_give_and_take_a_head(armin: CommandLine, engine: Engine, asynchronous: bool) -> None:
    def verify(expect: str | None) -> VerifyReport:
        if not asynchronous:
            with connect(engine.directory) as client:
                return client.verify(expect=expect)

        async def ask() -> VerifyReport:
            async with connect_async(engine.directory) as client:
                return await client.verify(expect=expect)

        return asyncio.run(ask())

    head = verify(None).head
    assert head is not None
    assert verify(head).equal
    report = verify(head[:-1] + ("0" if head[-1] != "0" else "1"))
    assert not report.equal
    assert "the past was rewritten" in report.differences[-1]
