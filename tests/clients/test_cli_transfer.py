"""`armin import` and `export`."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from command_line import DEADLINE_S, CommandLine
from harness import Engine


@pytest.fixture
def armin(engine: Engine) -> CommandLine:
    return CommandLine(engine.directory)


def conversations(count: int, turns: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": ("user", "assistant")[turn % 2], "content": f"conversation {number}, turn {turn} 語"}
                for turn in range(turns)
            ]
        }
        for number in range(1, count + 1)
    ]


def lines(items: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode("utf-8")


def test_import_adds_each_conversation_once_and_says_its_rate(armin: CommandLine, short_dir: Path) -> None:
    file = short_dir / "chats.jsonl"
    file.write_bytes(lines(conversations(5)))
    summary = r"5 conversations, {} messages added, {} were there; \d+\.\d s, [\d,]+ messages/s\n"
    assert re.fullmatch(summary.format(10, 0), armin.ok("import", str(file)))
    assert re.fullmatch(summary.format(0, 10), armin.ok("import", str(file)))
    [record] = armin.json("import", str(file))
    assert record["outcome"] == "complete"
    assert record["format"] == "openai"
    assert (record["conversations"], record["present"], record["messages_present"]) == (5, 5, 10)
    assert record["problems"] == []
    [stats] = armin.json("status")
    assert (stats["sessions"], stats["messages"]) == (5, 10)


def test_export_of_an_import_gives_back_equal_conversations(armin: CommandLine, short_dir: Path) -> None:
    given = conversations(4, turns=3)
    armin.ok("import", "-", "--format", "openai")  # an empty file is complete
    assert armin.run("import", "-", stdin=lines(given)).code == 0
    exported = [json.loads(line) for line in armin.ok("export", "--format", "openai").splitlines()]
    assert sorted(item["messages"][0]["content"] for item in exported) == sorted(
        item["messages"][0]["content"] for item in given
    )
    assert all(item["messages"] in [one["messages"] for one in given] for item in exported)
    one = armin.ok("export", "--format", "openai", "--session", "2").splitlines()
    assert len(one) == 1
    target = short_dir / "copy.jsonl"
    summary = armin.ok("export", "-o", str(target))
    assert summary.startswith("4 sessions, 12 messages; ")
    assert target.read_text("utf-8") == armin.ok("export")
    assert list(short_dir.glob("*.partial")) == []


def test_an_export_moves_everything_to_another_engine(armin: CommandLine, short_dir: Path) -> None:
    armin.ok("new", "--name", "kept", "--meta", '{"owner": "a"}')
    armin.ok("append", "kept", "user", "hello", "--meta", '{"n": 1}')
    armin.ok("close", "kept")
    other = Engine(short_dir / "other").start()
    try:
        there = CommandLine(other.directory)
        assert there.run("import", "-", stdin=armin.ok("export").encode("utf-8")).code == 0
        [session] = there.json("sessions")
        assert (session["name"], session["closed"], session["meta"]["owner"]) == ("kept", True, "a")
        [message] = there.json("read", "kept")
        assert (message["content"], message["meta"]["n"]) == ("hello", 1)
    finally:
        other.stop()


def test_a_cut_off_file_has_its_own_exit_code_and_the_rest_comes_later(
    armin: CommandLine, short_dir: Path
) -> None:
    whole = lines(conversations(6))
    file = short_dir / "chats.jsonl"
    file.write_bytes(whole[: len(whole) - 40])
    result = armin.run("import", str(file))
    assert result.code == 8
    assert result.lines[0].startswith("5 conversations, 10 messages added")
    assert result.err.startswith("armin: ")
    assert "6" in result.err, "the line of the break is named"
    file.write_bytes(whole)
    [record] = armin.json("import", str(file))
    assert (record["outcome"], record["present"], record["messages_added"]) == ("complete", 5, 2)


def test_broken_lines_are_left_out_named_and_told_by_the_exit_code(armin: CommandLine) -> None:
    good = lines(conversations(2)).splitlines(keepends=True)
    text = good[0] + b'{"messages": [{"role": "user", "content": \x1b]0;x}]}\n' + good[1]
    result = armin.run("import", "-", stdin=text)
    assert result.code == 9
    assert result.lines[0].startswith("2 conversations, 4 messages added")
    assert result.err.count("\n") == 1
    assert "line 2" in result.err
    assert "\x1b" not in result.err
    found = armin.run("import", "-", "--json", stdin=text)
    [problem] = json.loads(found.out)["problems"]
    assert (problem["kind"], problem["line"], found.err) == ("broken", 2, "")


def test_many_problems_are_counted_not_all_listed(armin: CommandLine) -> None:
    text = lines(conversations(1)) + b"{broken\n" * 50
    result = armin.run("import", "-", stdin=text)
    assert result.code == 9
    errors = result.err.splitlines()
    assert len(errors) == 21
    assert "30 more" in errors[-1]


def test_what_cannot_be_read_or_recognised_is_refused(armin: CommandLine, short_dir: Path) -> None:
    for code, *arguments in (
        (18, "import", str(short_dir / "absent.jsonl")),
        (18, "import", str(short_dir)),
        (18, "export", "-o", str(short_dir / "absent" / "x.jsonl")),
        (2, "import", "-", "--format", "nonsense"),
        (4, "export", "--session", "nobody"),
    ):
        result = armin.run(*map(str, arguments))
        assert result.code == code, result
        assert result.err.startswith("armin: ")
        assert result.err.count("\n") == 1
    result = armin.run("import", "-", stdin=b"these are no conversations\n")
    assert result.code == 6
    assert "--format" in result.err


def test_import_shows_a_bar_with_its_rate_on_a_terminal_only(armin: CommandLine, short_dir: Path) -> None:
    file = short_dir / "chats.jsonl"
    file.write_bytes(lines(conversations(300)))
    with armin.terminal("import", str(file)) as terminal:
        result = terminal.end()
    assert result.code == 0
    assert "importing" in result.out
    assert re.search(r"[\d,]+ messages/s", result.out)
    last = result.out.rstrip().splitlines()[-1]
    assert "300 conversations, 600 messages added" in last
    with armin.terminal("export", "-o", str(short_dir / "out")) as terminal:
        assert "300 sessions, 600 messages" in terminal.end().out.rstrip().splitlines()[-1]


@pytest.mark.timeout(300)
def test_export_into_a_closed_pipe_and_ctrl_c_in_an_import_end_quietly(
    armin: CommandLine, short_dir: Path
) -> None:
    file = short_dir / "chats.jsonl"
    file.write_bytes(lines(conversations(1500, turns=8)))
    with armin.start("log", "--follow", "--json") as follower, armin.start("import", str(file)) as importing:
        follower.lines(500)  # it is under way, more than sessions alone
        assert importing.signal(signal.SIGINT) == 130
        assert importing.errors() == ""
    [record] = armin.json("import", str(file))
    assert record["outcome"] == "complete"
    assert record["messages_added"] + record["messages_present"] == 12_000
    assert record["messages_present"] > 0
    with armin.start("export") as exporting:
        exporting.line()
        assert exporting.hang_up() == 141
        assert exporting.errors() == ""


@pytest.mark.timeout(300)
def test_an_engine_that_dies_in_an_import_leaves_word_how_to_go_on(
    armin: CommandLine, engine: Engine, short_dir: Path
) -> None:
    file = short_dir / "chats.jsonl"
    file.write_bytes(lines(conversations(1500, turns=8)))
    follower = armin.start("log", "--follow", "--json")
    with follower, armin.start("--timeout", "5", "import", str(file)) as importing:
        follower.lines(1000)  # it is under way
        engine.kill()
        assert importing.process.wait(DEADLINE_S) in (3, 7)
        error = importing.errors()
    assert error.count("\n") == 1
    assert re.search(
        r"; [\d,]+ conversations, [\d,]+ messages are in and stay: run the same import again", error
    )
    assert not re.search(r"; 0 conversations", error)
    engine.start()
    [record] = armin.json("import", str(file))
    assert (record["outcome"], record["messages_added"] + record["messages_present"]) == ("complete", 12_000)


def test_an_unknown_format_is_told_in_one_short_line(armin: CommandLine) -> None:
    result = armin.run("import", "/etc/passwd")
    assert result.code == 6
    assert result.err == (
        "armin: /etc/passwd: it is of no known format; known are openai, sharegpt, armin, chitchat;"
        " --format names one\n"
    )
