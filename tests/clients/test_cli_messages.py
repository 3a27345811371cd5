"""`armin append` and `read`."""

from __future__ import annotations

import signal

import pytest

from command_line import CommandLine, parsed
from harness import Engine, wait_until

COUNT = 3000  # more than several pages and more than a pipe holds


@pytest.fixture
def armin(engine: Engine) -> CommandLine:
    CommandLine(engine.directory).ok("new", "--name", "talk")
    return CommandLine(engine.directory)


@pytest.fixture
def long(engine: Engine) -> CommandLine:
    """An engine whose session 1 has COUNT messages, numbered from 1."""
    with engine.peer() as peer:
        peer.ask("create_session")
        messages = [{"role": "user", "content": f"number {n} {'x' * 100}"} for n in range(1, COUNT + 1)]
        assert peer.ask("append_many", session_id=1, messages=messages)["ok"]
    return CommandLine(engine.directory)


def numbers(text: str) -> list[int]:
    return [int(message["content"].split()[1]) for message in parsed(text)]


def test_append_prints_the_seq_and_keeps_meta(armin: CommandLine) -> None:
    assert armin.ok("append", "talk", "user", "hello") == "1\n"
    [appended] = armin.json("append", "1", "tool", "42", "--meta", '{"call": {"id": 7}, "z": [1, null]}')
    assert {name: appended[name] for name in ("id", "session_id", "seq", "at")} == {
        "id": 2,
        "session_id": 1,
        "seq": 2,
        "at": 3,
    }
    first, second = armin.json("read", "talk")
    assert first == {
        "id": 1,
        "session_id": 1,
        "seq": 1,
        "role": "user",
        "content": "hello",
        "created_at": first["created_at"],
    }
    assert second["meta"] == {"call": {"id": 7}, "z": [1, None]}
    assert second["created_at"] == appended["created_at"]


def test_append_takes_standard_input_exactly_but_for_one_final_newline(armin: CommandLine) -> None:
    cases: tuple[tuple[bytes, tuple[str, ...], str], ...] = (
        (b"plain", (), "plain"),
        (b"one newline\n", (), "one newline"),
        (b"two newlines\n\n", (), "two newlines\n"),
        (b"exact\n", ("--exact",), "exact\n"),
        (b"  spaces\t\r\nand CRLF\r\n", (), "  spaces\t\r\nand CRLF\r"),
        ("日本語 \N{ROCKET}".encode(), (), "日本語 \N{ROCKET}"),
        (b"", (), ""),
    )
    for given, options, _ in cases:
        armin.ok("append", "1", "user", "-", *options, stdin=given)
    assert [message["content"] for message in armin.json("read", "1")] == [kept for *_, kept in cases]


def test_append_refuses_standard_input_that_is_too_large_or_no_utf8(armin: CommandLine) -> None:
    result = armin.run("append", "talk", "user", "-", stdin=b"caf\xe9 au lait")
    assert result.code == 6
    assert "not UTF-8 (byte 3: 0xe9)" in result.err
    result = armin.run("append", "talk", "user", "-", stdin=b"x" * ((16 << 20) + 1))
    assert result.code == 6
    assert "16777216 bytes" in result.err
    assert armin.ok("append", "talk", "user", "-", stdin=b"x" * (16 << 20) + b"\n") == "1\n"


def test_append_with_expect_seq_appends_there_or_not_at_all(armin: CommandLine) -> None:
    assert armin.ok("append", "talk", "user", "a", "--expect-seq", "1") == "1\n"
    assert armin.run("append", "talk", "user", "b", "--expect-seq", "1").code == 5
    assert [message["content"] for message in armin.json("read", "talk")] == ["a"]


def test_read_gives_all_pages_and_each_kind_of_part(long: CommandLine) -> None:
    everything = list(range(1, COUNT + 1))
    assert numbers(long.ok("read", "1", "--json")) == everything
    for options, expected in (
        (("--last", "3"), everything[-3:]),
        (("--last", "99999"), everything),
        (("--after", "2998"), everything[2998:]),
        (("--after", "3000"), []),
        (("--after", "10", "--limit", "4"), [11, 12, 13, 14]),
        (("--before", "4"), [1, 2, 3]),
        (("--before", "1"), []),
        (("--before", "2000", "--limit", "2"), [1998, 1999]),
        (("--before", "99999", "--limit", "2"), [2999, 3000]),
        (("--after", "5", "--before", "8"), [6, 7]),
        (("--limit", "501"), everything[:501]),
    ):
        assert numbers(long.ok("read", "1", *options, "--json")) == expected, options


def test_read_of_parts_that_exclude_each_other_is_a_usage_error(armin: CommandLine) -> None:
    assert armin.run("read", "1", "--last", "3", "--limit", "2").code == 2
    assert armin.run("read", "1", "--after", "1", "--before", "9", "--limit", "2").code == 2
    assert armin.run("read", "1", "--after", "7").code == 6, "the session ends before"


def test_read_in_a_pipe_is_one_line_a_message(armin: CommandLine) -> None:
    armin.ok("append", "talk", "assistant", "two\nlines\tand a tab")
    armin.ok("append", "talk", "user", "[bold]no markup[/bold] :smile:")
    assert armin.ok("read", "talk") == (
        "     1  assistant  two\\nlines\\tand a tab\n     2  user       [bold]no markup[/bold] :smile:\n"
    )


def test_read_into_a_closed_pipe_ends_quietly(long: CommandLine) -> None:
    with long.start("read", "1", "--json") as reading:
        assert numbers(reading.line() + "\n") == [1]
        assert reading.hang_up() == 141
        assert reading.errors() == ""


def test_ctrl_c_in_read_ends_quietly_with_130(long: CommandLine) -> None:
    with long.start("read", "1", "--json") as reading:
        reading.line()
        # It is in the middle of writing: the rest does not fit into the pipe.
        wait_until(lambda: reading.unread() > 60_000)
        assert reading.signal(signal.SIGINT) == 130
        assert reading.errors() == ""
