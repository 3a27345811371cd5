"""`armin new`, `close`, `sessions`, and how SESSION is understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import CommandLine
from harness import Engine


@pytest.fixture
def armin(engine: Engine) -> CommandLine:
    return CommandLine(engine.directory)


def test_new_prints_the_id_alone_in_a_pipe(armin: CommandLine) -> None:
    assert armin.ok("new") == "1\n"
    assert armin.ok("new", "--name", "ticket") == "2\n"
    assert armin.ok("new", "--name", "ticket") == "2\n"
    [again] = armin.json("new", "--name", "ticket", "--meta", '{"owner": "x"}')
    assert again["id"] == 2
    assert again["duplicate"] is True
    assert "meta" not in again, "the session that was there stays as it is"


def test_session_is_an_id_or_a_name_and_name_makes_a_number_a_name(armin: CommandLine) -> None:
    armin.ok("new")
    armin.ok("new", "--name", "1")
    armin.ok("new", "--name", "trip to 東京")
    for session, content in (
        (["1"], "by id"),
        (["--name", "1"], "by name"),
        (["trip to 東京"], "plain name"),
    ):
        armin.ok("append", *session, "user", content)
    contents = [armin.json("read", str(session_id))[0]["content"] for session_id in (1, 2, 3)]
    assert contents == ["by id", "by name", "plain name"]
    assert armin.json("read", "1", "--name")[0]["content"] == "by name"
    assert armin.ok("close", "--name", "1") == ""
    assert armin.json("sessions", "--closed")[0]["name"] == "1"


def test_close_is_quiet_in_a_pipe_and_fine_twice(armin: CommandLine) -> None:
    armin.ok("new")
    assert armin.ok("close", "1") == ""
    [again] = armin.json("close", "1")
    assert again == {"session_id": 1, "at": 2, "duplicate": True}


def test_sessions_lists_newest_first_and_filters_and_limits(armin: CommandLine, engine: Engine) -> None:
    with engine.peer() as peer:
        for number in range(1, 1203):  # more than a page
            peer.ask("create_session", name=f"s{number}")
        peer.ask("close_session", session_id=3)
    ids = [session["id"] for session in armin.json("sessions")]
    assert ids == list(range(1202, 0, -1))
    assert [session["id"] for session in armin.json("sessions", "--oldest")] == ids[::-1]
    assert [session["id"] for session in armin.json("sessions", "--limit", "2")] == [1202, 1201]
    assert [session["id"] for session in armin.json("sessions", "--closed")] == [3]
    assert 3 not in [
        session["id"] for session in armin.json("sessions", "--open", "--oldest", "--limit", "9")
    ]
    line = armin.ok("sessions", "--closed").split()
    assert [line[0], *line[3:]] == ["3", "0", "closed", "s3"]
    [session] = armin.json("sessions", "--closed")
    assert session.keys() == {"id", "name", "closed", "created_at", "seq"}


@pytest.fixture
def nothing() -> CommandLine:
    return CommandLine(Path("/nonexistent"))


@pytest.mark.parametrize("meta", ["{", "[1]", "nonsense", '"text"'])
def test_meta_that_is_no_json_object_is_refused_before_the_engine_is_asked(
    nothing: CommandLine, meta: str
) -> None:
    result = nothing.run("new", "--meta", meta)
    assert result.code == 2
    assert result.err.startswith("armin: invalid value for '--meta'")
    assert result.err.count("\n") == 1
