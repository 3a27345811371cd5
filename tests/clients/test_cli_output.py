"""What people see: tables on a terminal, plain lines in a pipe, and nothing that steers the terminal."""

from __future__ import annotations

import json
import re
import signal

import pytest
from rich.cells import cell_len

from armin.cli import shown
from command_line import CommandLine
from harness import Engine

HOSTILE = (
    "\x1b]0;owned\x07 \x1b[31mred\x1b[0m \x9b31m \r\x08 \u202eesrever\u202c \u2028 [bold]b[/bold] :smile:"
)
STYLES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def armin(engine: Engine) -> CommandLine:
    with engine.peer() as peer:
        peer.ask("create_session", name=HOSTILE)
        peer.ask("append", session_id=1, role="user", content=HOSTILE + "\n\tsecond line")
        peer.ask("append", session_id=1, role="assistant", content="語" * 100)
    return CommandLine(engine.directory)


def steering(text: str) -> list[str]:
    """What could move the cursor, change the terminal or turn the line round, colours of ours excepted."""
    return re.findall(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", STYLES.sub("", text)
    )


def test_hostile_text_reaches_neither_terminal_nor_pipe(armin: CommandLine) -> None:
    for command in (("read", "1"), ("log",), ("sessions",), ("follow", "1", "--limit", "2")):
        with armin.terminal(*command) as terminal:
            result = terminal.end()
        assert result.code == 0
        assert steering(result.out) == []
        assert "\x1b[31m" not in result.out
        assert "\\x1b" in result.out
        assert command == ("log",) or "[bold]b[/bold]" in STYLES.sub("", result.out)  # log cuts lines off
        plain = armin.ok(*command)
        assert steering(plain) == []
        assert "\x1b" not in plain
        assert "\\x1b[31mred" in plain


def test_hostile_text_in_an_error_is_written_out_on_one_line(armin: CommandLine) -> None:
    result = armin.run("read", "no\nsuch \x1b[31mname")
    assert result.code == 4
    assert result.err.startswith("armin: no session has the name no\\nsuch \\x1b[31mname")
    assert result.err.count("\n") == 1


def test_json_is_exact_utf8_and_harmless_on_a_terminal(armin: CommandLine) -> None:
    text = armin.ok("read", "1", "--json")
    assert "語" in text
    first, second = (json.loads(line) for line in text.splitlines())
    assert first["content"] == HOSTILE + "\n\tsecond line"
    assert second["content"] == "語" * 100
    assert steering(text) == []
    with armin.terminal("read", "1", "--json") as terminal:
        assert terminal.end().out == text, "JSON is the same everywhere"


def test_tables_are_for_terminals_and_fit_them(armin: CommandLine) -> None:
    for command in (("read", "1"), ("log",), ("sessions",), ("status",)):
        with armin.terminal(*command, columns=60) as terminal:
            shown_lines = STYLES.sub("", terminal.end().out).splitlines()
        assert all(cell_len(line) <= 60 for line in shown_lines), command
    with armin.terminal("read", "1") as terminal:
        screen = terminal.end().out
    assert STYLES.search(screen), "colours"
    assert STYLES.sub("", screen).splitlines()[0].split() == ["seq", "role", "content"]
    assert screen.count("語") == 100, "wide characters wrap, none is lost"
    assert "seq" not in armin.ok("read", "1")
    assert STYLES.search(armin.ok("read", "1")) is None


def test_colour_can_be_turned_off(armin: CommandLine, engine: Engine) -> None:
    with CommandLine(engine.directory, NO_COLOR="1").terminal("log") as terminal:
        assert "\x1b[3" not in terminal.end().out


def test_ctrl_c_on_a_terminal_ends_follow_quietly_and_at_once(armin: CommandLine) -> None:
    with armin.terminal("follow", "1") as terminal:
        before = terminal.until("語")
        terminal.type("\x03")
        result = terminal.end()
    assert result.code == 130
    assert "Traceback" not in result.out
    assert "Aborted" not in result.out
    assert before


def test_people_get_sentences_where_programs_get_values(armin: CommandLine) -> None:
    for command, sentence in (
        (("new",), "session 2"),
        (("append", "2", "user", "hi"), "message 1 of session 2"),
        (("close", "2"), "session 2 is closed"),
        (("close", "2"), "session 2 was closed before"),
    ):
        with armin.terminal(*command) as terminal:
            result = terminal.end()
        assert result.code == 0
        assert sentence in result.out


def test_a_terminal_that_does_not_speak_utf8_gets_escapes_and_a_pipe_gets_utf8(
    armin: CommandLine, engine: Engine
) -> None:
    latin = CommandLine(engine.directory, PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert "語" in latin.ok("read", "1")
    with latin.terminal("read", "1") as terminal:
        result = terminal.end()
    assert result.code == 0
    assert "\\u8a9e" in result.out.replace("\n", "")


def test_sigterm_is_no_error_for_what_follows(armin: CommandLine) -> None:
    with armin.start("follow", "1") as follower:
        follower.lines(2)
        assert follower.signal(signal.SIGTERM) == 0
        assert follower.errors() == ""


def test_shown_text_escapes_every_control_character_but_tab_and_newline() -> None:
    for number in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), 0xD800):
        character = chr(number)
        assert shown.line(character).isprintable(), hex(number)
        assert shown.text(character).isprintable() != (character in "\t\n"), hex(number)
        assert json.loads(shown.json_safe(json.dumps(character, ensure_ascii=False))) == character
    untouched = "grüße 語 \N{FAMILY} \u200d \\x1b {} [a]"
    assert shown.line(untouched) == shown.text(untouched) == untouched
