"""`armin follow`, `log` and `effects`."""

from __future__ import annotations

import json
import signal

import pytest

from command_line import DEADLINE_S, CommandLine, Running
from harness import Engine, wait_until


@pytest.fixture
def armin(engine: Engine) -> CommandLine:
    return CommandLine(engine.directory)


def append(engine: Engine, *contents: str, session_id: int = 1) -> None:
    with engine.peer() as peer:
        for content in contents:
            reply = peer.ask("append", session_id=session_id, role="user", content=content)
            assert reply["ok"], reply


def test_follow_gives_history_then_live_messages_and_ends_with_the_session(
    armin: CommandLine, engine: Engine
) -> None:
    armin.ok("new", "--name", "talk")
    append(engine, "one", "two", "three")
    with armin.start("follow", "talk", "--last", "2", "--json") as follower:
        assert [json.loads(line)["content"] for line in follower.lines(2)] == ["two", "three"]
        append(engine, "four")
        assert json.loads(follower.line())["content"] == "four"
        armin.ok("close", "talk")
        assert follower.process.wait(DEADLINE_S) == 0
        assert follower.errors() == ""
    assert armin.ok("follow", "talk", "--after", "3") == "     4  user       four\n"


def test_follow_survives_sigkill_and_restart_without_a_gap_or_a_repeat(
    armin: CommandLine, engine: Engine
) -> None:
    armin.ok("new")
    with armin.start("follow", "1", "--json") as session, armin.start("log", "-f", "--json") as everything:
        append(engine, "before")
        assert json.loads(session.line())["content"] == "before"
        assert [json.loads(line)["position"] for line in everything.lines(2)] == [1, 2]
        engine.kill()
        engine.start()
        append(engine, "after", "and on")
        assert [json.loads(line)["seq"] for line in session.lines(2)] == [2, 3]
        assert [json.loads(line)["position"] for line in everything.lines(2)] == [3, 4]
        assert session.signal(signal.SIGTERM) == 0
        assert everything.signal(signal.SIGINT) == 130
        assert session.errors() == everything.errors() == ""


def test_follow_without_session_begins_where_it_is_told(armin: CommandLine, engine: Engine) -> None:
    armin.ok("new")
    append(engine, "one", "two", "three")

    def positions(*options: str) -> list[int]:
        return [event["position"] for event in armin.json("follow", *options)]

    assert positions("--from-start", "--limit", "3") == [1, 2, 3]
    assert positions("--after", "2", "--limit", "2") == [3, 4]
    assert positions("--last", "1", "--limit", "1") == [4]
    assert armin.run("follow", "--last", "1", "--from-start").code == 2


def test_follow_and_log_give_the_types_that_are_wanted(armin: CommandLine, engine: Engine) -> None:
    armin.ok("new")
    append(engine, "one", "two", "three")
    armin.ok("close", "1")
    armin.ok("new")
    ends = ("--type", "session_created", "--type", "session_closed")

    def positions(*arguments: str) -> list[int]:
        return [event["position"] for event in armin.json(*arguments, *ends)]

    assert positions("log") == positions("follow", "--from-start", "--limit", "3") == [1, 5, 6]
    assert positions("log", "--limit", "2") == positions("log", "-f", "--limit", "2") == [1, 5]
    assert positions("log", "--after", "4") == positions("log", "--last", "2") == [5, 6]
    assert armin.run("log", "--type", "message").code == 2
    assert armin.run("follow", "1", "--type", "session_closed").code == 2


def test_follow_says_how_it_stands_on_a_terminal_or_when_asked(armin: CommandLine, engine: Engine) -> None:
    armin.ok("new")
    append(engine, "hello")
    with armin.start("follow", "1", "--states") as follower, armin.terminal("follow", "1") as terminal:
        assert follower.line().endswith("hello")
        follower.says("live")
        terminal.until("armin: live")
        engine.stop()
        terminal.until("armin: engine gone; waiting for it to come back")
        engine.start()
        armin.ok("close", "1")
        assert terminal.end().code == 0
        assert follower.process.wait(DEADLINE_S) == 0
        told = [line.removeprefix("armin: ") for line in follower.errors().splitlines()]
    assert told[:4] == ["catching up", "live", "engine gone; waiting for it to come back", "catching up"]


def test_follow_whose_reader_goes_away_ends_although_nothing_comes(
    armin: CommandLine, engine: Engine
) -> None:
    armin.ok("new")
    append(engine, "only")
    with armin.start("follow", "1") as follower:
        follower.line()
        assert follower.hang_up() == 141
        assert follower.errors() == ""


def test_follow_waits_for_an_engine_that_comes_later(armin: CommandLine, engine: Engine) -> None:
    armin.ok("new")
    append(engine, "hello")
    engine.stop()
    with armin.start("--wait", "inf", "follow", "1") as follower:
        engine.start()
        assert follower.line() == "     1  user       hello"


def test_effects_go_on_after_the_engine_was_killed_and_restarted(armin: CommandLine, engine: Engine) -> None:
    armin.ok("new")
    with armin.start("effects", "--json") as worker:
        assert json.loads(worker.line())["position"] == 1
        engine.kill()
        engine.start()
        append(engine, "after")
        assert json.loads(worker.line())["message"]["content"] == "after"


def test_log_gives_every_fact_in_order(armin: CommandLine, engine: Engine) -> None:
    armin.ok("new", "--name", "talk", "--meta", '{"k": 1}')
    append(engine, "hi")
    armin.ok("close", "1")
    created, appended, closed = armin.json("log")
    assert created == {
        "position": 1,
        "type": "session_created",
        "session_id": 1,
        "created_at": created["created_at"],
        "name": "talk",
        "meta": {"k": 1},
    }
    assert appended["message"]["content"] == "hi"
    assert closed == {"position": 3, "type": "session_closed", "session_id": 1}
    assert armin.json("log", "--after", "1", "--limit", "1") == [appended]
    assert armin.json("log", "--last", "1") == [closed]
    assert armin.run("log", "--after", "4").code == 6
    assert [line.split()[-2:] for line in armin.ok("log").splitlines()] == [
        ["created", "talk"],
        ["user", "hi"],
        ["1", "closed"],
    ]
    with armin.start("log", "--follow", "--json") as following:
        assert [json.loads(line) for line in following.lines(3)] == [created, appended, closed]
        armin.ok("new")
        assert json.loads(following.line())["position"] == 4


def test_a_message_too_large_for_a_stream_says_so_and_read_has_it(armin: CommandLine, engine: Engine) -> None:
    armin.ok("new")
    append(engine, "x" * 100_000)
    assert "armin read" in armin.ok("log", "--last", "1")
    [event] = armin.json("log", "--last", "1")
    assert event["message"]["elided"] is True
    assert "content" not in event["message"]
    assert len(armin.json("read", "1")[0]["content"]) == 100_000


def test_effects_are_shared_out_each_to_one_taker(armin: CommandLine, engine: Engine) -> None:
    armin.ok("new")
    first = armin.json("effects", "--limit", "1")
    assert [effect["type"] for effect in first] == ["session_created"]
    with armin.start("effects", "--json") as one, armin.start("effects", "--json") as two:
        workers = (one, two)
        taken: dict[Running, list[int]] = {one: [], two: []}
        expected = 1
        while not all(taken.values()):  # the first one may have connected before the second
            append(engine, "something")
            expected += 1
            wait_until(lambda: any(worker.has_more() for worker in workers))
            for worker in workers:
                while worker.has_more():
                    taken[worker].append(json.loads(worker.line())["position"])
        assert sorted(taken[one] + taken[two]) == list(range(2, expected + 1))
        assert one.signal(signal.SIGTERM) == two.signal(signal.SIGTERM) == 0
        assert one.errors() == two.errors() == ""
