"""Requests through whatever may happen to them, simulated from a seed; and the outbox's rules one by one."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgpack
import pytest

from armin import (
    ArminError,
    Conflict,
    NoReply,
    ProtocolError,
    SessionClosed,
    ShuttingDown,
    StorageFailed,
    calls,
    replies,
)
from armin.calls import Call
from armin.outbox import PAUSE, RESEND_FIRST, RESEND_MAX, TOGETHER, TOGETHER_BYTES, WINDOW, Outbox, Request

SESSIONS = 3
TIMEOUT = 30.0


def given_up(request: Request) -> ArminError:
    return NoReply("nobody", reason="silent", sent=request.was_sent)


class Engine:
    """Keys, order and closures as the engine has them; it keeps all that over its deaths."""

    def __init__(self, knows_pipelines: bool) -> None:
        self.knows_pipelines = knows_pipelines
        self.sessions: dict[int, list[str]] = {number: [] for number in range(1, SESSIONS + 1)}
        self.closed: set[int] = set()
        self.keys: dict[tuple[int, str], int] = {}

    def take(self, command: dict[str, Any]) -> dict[str, Any]:
        if command["op"] == "pipeline":
            if not self.knows_pipelines:
                return refusal("unknown_op")
            return {"ok": True, "position": 1, "replies": [self.take(each) for each in command["commands"]]}
        session_id = command["session_id"]
        contents = self.sessions[session_id]
        if command["op"] == "close_session":
            self.closed.add(session_id)
            return {"ok": True, "position": 1, "at": 1}
        key = session_id, command["key"]
        seq = self.keys.get(key)
        if seq is None:
            after = command.get("after_key")
            if after is not None and (session_id, after) not in self.keys:
                return refusal("conflict", "out_of_order")
            if session_id in self.closed:
                return refusal("session_closed")
            if command["content"] == "bad":
                return refusal("bad_request")
            contents.append(command["content"])
            seq = self.keys[key] = len(contents)
        return {"ok": True, "position": 1, "id": 1, "seq": seq, "at": 1, "created_at": 1}


def refusal(code: str, reason: str | None = None) -> dict[str, Any]:
    return {"ok": False, "position": 1, "error": {"code": code, "message": code, "reason": reason}}


class World:
    """One outbox, one engine, and what is on its way between them."""

    def __init__(self, seed: int, timeout: float = TIMEOUT, *, together: bool = True) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.outbox = Outbox(timeout, given_up)
        self.outbox._knows_pipelines = together
        self.engine = Engine(knows_pipelines=seed % 4 != 3)
        self.commands: list[list[bytes]] = []
        self.replies: list[list[bytes]] = []
        self.loss = self.random.choice([0.0, 0.02, 0.2, 0.5])
        self.results: dict[int, replies.Fields | ArminError] = {}
        self.asked = 0

    def ask(self, call: Call[Any]) -> int:
        number = self.asked
        self.asked += 1
        self.outbox.add(call, self.now, lambda result: self.results.__setitem__(number, result))
        return number

    def send(self) -> None:
        while (following := self.outbox.next_to_send()) is not None:
            requests, frames = following
            self.outbox.sent(requests, self.now)
            if self.random.random() >= self.loss:
                self.commands.append(frames)

    def step(self) -> None:
        match self.random.choice(("serve", "serve", "hear", "hear", "wait", "cut")):
            case "serve":
                for correlation, command in self.some(self.commands):
                    reply = msgpack.packb(self.engine.take(msgpack.unpackb(command)))
                    if self.random.random() >= self.loss:
                        self.replies.append([correlation, reply])
            case "hear":
                for frames in self.some(self.replies):
                    self.outbox.received(frames, self.now)
            case "wait":
                self.now += self.random.choice((0.01, 0.1, RESEND_FIRST))
                self.outbox.tick(self.now)
            case "cut" if self.random.random() < self.loss:
                self.commands.clear()
                self.replies.clear()
        self.send()

    def some(self, waiting: list[list[bytes]]) -> list[list[bytes]]:
        """The first few, or many, taken out."""
        count = self.random.choice((1, 3, 1000))
        taken, waiting[:] = waiting[:count], waiting[count:]
        return taken

    def rest(self) -> None:
        """From here on nothing is lost."""
        self.loss = 0.0
        for _ in range(20_000):
            if not len(self.outbox):
                return
            self.step()
        raise AssertionError(f"{len(self.outbox)} requests are stuck")


@pytest.mark.parametrize("seed", range(40))
def test_every_write_is_made_once_and_in_order_whatever_is_lost(seed: int) -> None:
    world = World(seed, timeout=1e9)
    wanted: dict[int, list[str]] = {number: [] for number in range(1, SESSIONS + 1)}
    for number in range(400):
        session_id = world.random.randint(1, SESSIONS)
        bad = world.random.random() < 0.02
        content = "bad" if bad else str(number)
        world.ask(calls.append(session_id, "user", content, None, None))
        if not bad:
            wanted[session_id].append(content)
        world.send()
        for _ in range(world.random.randrange(6)):
            world.step()
    world.rest()
    assert world.engine.sessions == wanted
    assert len(world.results) == world.asked
    codes = Counter(r.code for r in world.results.values() if isinstance(r, ArminError))
    assert set(codes) <= {"bad_request"}


@pytest.mark.parametrize("seed", range(30))
def test_what_is_given_up_neither_doubles_nor_reorders_what_is_answered(seed: int) -> None:
    world = World(seed, timeout=3.0)
    asked: dict[int, tuple[int, str]] = {}
    for number in range(300):
        session_id = world.random.randint(1, SESSIONS)
        asked[world.ask(calls.append(session_id, "user", str(number), None, None))] = session_id, str(number)
        for _ in range(world.random.randrange(5)):
            world.step()
    world.rest()
    for session_id, contents in world.engine.sessions.items():
        assert len(set(contents)) == len(contents)
        answered = [
            content
            for number, (of, content) in asked.items()
            if of == session_id and not isinstance(world.results[number], ArminError)
        ]
        there = [content for content in contents if content in set(answered)]
        assert there == answered


@pytest.mark.parametrize("seed", range(20))
def test_a_closure_comes_after_all_writes_before_it_and_before_all_behind_it(seed: int) -> None:
    world = World(seed, timeout=1e9)
    before = [world.ask(calls.append(1, "user", str(n), None, None)) for n in range(30)]
    close = world.ask(calls.close_session(1))
    behind = [world.ask(calls.append(1, "user", "late", None, None)) for _ in range(5)]
    other = world.ask(calls.append(2, "user", "other", None, None))
    world.send()
    for _ in range(200):
        world.step()
    world.rest()
    assert world.engine.sessions[1] == [str(n) for n in range(30)]
    assert not any(isinstance(world.results[number], ArminError) for number in (*before, close, other))
    assert all(isinstance(world.results[number], SessionClosed) for number in behind)


def test_a_line_that_is_refused_is_sent_again_about_once_not_once_for_each() -> None:
    world = lossless()
    world.engine.closed.add(1)
    numbers = [world.ask(calls.append(1, "user", "late", None, None)) for _ in range(WINDOW)]
    sent = 0
    for _ in range(3 * WINDOW):
        world.send()
        sent += len(world.commands)
        for correlation, command in world.some(world.commands):
            world.replies.append([correlation, msgpack.packb(world.engine.take(msgpack.unpackb(command)))])
        for frames in world.replies:
            world.outbox.received(frames, world.now)
        world.replies.clear()
        sent -= len(world.commands)
    world.rest()
    assert all(isinstance(world.results[number], SessionClosed) for number in numbers)
    assert sent <= 4 * WINDOW


# --- one by one -----------------------------------------------------------------------------------


def sent_now(world: World) -> list[dict[str, Any]]:
    world.send()
    commands = [msgpack.unpackb(command) for _, command in world.commands]
    return commands


def lossless(*, together: bool = False) -> World:
    world = World(0, together=together)
    world.loss = 0.0
    return world


def reply_to(world: World, frames: list[bytes], reply: dict[str, Any]) -> None:
    world.outbox.received([frames[0], msgpack.packb(reply)], world.now)


def test_only_a_write_with_an_unanswered_one_before_it_names_that_one() -> None:
    world = lossless()
    for session_id, key in ((1, "a"), (1, "b"), (2, "c"), (1, "d")):
        world.ask(calls.append(session_id, "user", "x", None, None, key))
    assert [c.get("after_key") for c in sent_now(world)] == [None, "a", None, "b"]


def test_the_window_is_bounded_and_moves_on_with_each_answer() -> None:
    world = lossless()
    for _ in range(WINDOW + 10):
        world.ask(calls.append(1, "user", "x", None, None))
    assert len(sent_now(world)) == WINDOW
    assert world.outbox.is_full
    world.outbox.received([world.commands[0][0], msgpack.packb(ok(1))], world.now)
    world.send()
    assert len(world.commands) == WINDOW + 1


def ok(seq: int) -> dict[str, Any]:
    return {"ok": True, "position": 1, "id": 1, "seq": seq, "at": 1, "created_at": 1}


def test_a_refusal_of_an_earlier_transmission_is_no_news_and_a_success_is() -> None:
    world = lossless()
    number = world.ask(calls.append(1, "user", "x", None, None))
    world.send()
    [first] = world.commands
    world.now = RESEND_FIRST
    world.outbox.tick(world.now)
    world.send()
    assert len(world.commands) == 2
    assert world.commands[1][0] != first[0]
    reply_to(world, first, refusal("storage_failed"))
    assert number not in world.results
    reply_to(world, first, ok(1))
    assert isinstance(world.results[number], dict)


def test_storage_failed_is_told_at_once_with_the_key() -> None:
    world = lossless()
    number = world.ask(calls.append(1, "user", "x", None, None, "mine"))
    world.send()
    reply_to(world, world.commands[0], refusal("storage_failed"))
    error = world.results[number]
    assert isinstance(error, StorageFailed)
    assert error.key == "mine"


def test_a_write_outlasts_an_engine_that_is_shutting_down_and_a_read_does_not() -> None:
    world = lossless()
    write, read = world.ask(calls.append(1, "user", "x", None, None)), world.ask(calls.ping())
    world.send()
    for frames in list(world.commands):
        reply_to(world, frames, refusal("shutting_down"))
    assert isinstance(world.results[read], ShuttingDown)
    assert write not in world.results
    assert world.outbox.next_due() == PAUSE


def test_what_cannot_be_done_twice_is_not_sent_again() -> None:
    world = lossless()
    world.ask(Call("lease", {"group": "g"}, lambda fields: fields))
    world.send()
    world.now = TIMEOUT - 0.1
    world.outbox.tick(world.now)
    world.send()
    assert len(world.commands) == 1
    world.outbox.tick(TIMEOUT)
    assert isinstance(world.results[0], NoReply)


def test_a_write_that_was_skipped_is_sent_again_at_once_and_a_poll_is_not() -> None:
    world = lossless()
    world.ask(Call("lease", {"group": "g"}, lambda fields: fields))
    for key in ("a", "b"):
        world.ask(calls.append(1, "user", "x", None, None, key))
    world.send()
    reply_to(world, world.commands[2], ok(2))
    world.send()
    assert [msgpack.unpackb(command).get("key") for _, command in world.commands[3:]] == ["a"]


def test_a_write_that_nobody_waits_for_any_more_stays_once_it_was_sent() -> None:
    world = lossless()
    unsent = world.outbox.add(calls.append(1, "user", "x", None, None), 0, lambda result: None)
    world.outbox.forget(unsent)
    assert len(world.outbox) == 0
    assert sent_now(world) == []
    request = world.outbox.add(calls.append(1, "user", "x", None, None, "k"), 0, lambda result: None)
    world.send()
    world.outbox.forget(request)
    world.ask(calls.append(1, "user", "y", None, None))
    world.send()
    assert msgpack.unpackb(world.commands[-1][1])["after_key"] == "k"


def test_replies_to_nothing_are_ignored() -> None:
    world = lossless()
    pipeline = [bytes(12) + b"\0\2", msgpack.packb({"ok": True, "replies": [ok(1), ok(2)]})]
    alone = ([], [b""], [b"x", b"y"], [bytes(12), b"\xc1"], [bytes(12), msgpack.packb(ok(1)), b""])
    for frames in (*alone, pipeline):
        world.outbox.received(frames, 0.0)
    assert len(world.outbox) == 0


# --- together -------------------------------------------------------------------------------------


def pipelines(world: World) -> list[list[str]]:
    """The keys of what was sent, pipeline by pipeline; "" for what has none."""
    commands = [msgpack.unpackb(command) for _, command in world.commands]
    return [[each.get("key", "") for each in command.get("commands", [command])] for command in commands]


def ask_for(world: World, *keys: str, content: str = "x") -> list[int]:
    return [world.ask(calls.append(1, "user", content, None, None, key)) for key in keys]


def test_writes_go_together_each_after_the_one_before_it() -> None:
    world = lossless(together=True)
    ask_for(world, "a", "b", "c")
    [pipeline] = sent_now(world)
    assert pipeline["op"] == "pipeline"
    assert [each.get("after_key") for each in pipeline["commands"]] == [None, "a", "b"]
    assert world.outbox.next_to_send() is None


def test_each_of_a_pipeline_gets_its_own_reply() -> None:
    world = lossless(together=True)
    first, bad, last = ask_for(world, "a", "b", "c")
    world.send()
    reply = {"ok": True, "position": 1, "replies": [ok(1), refusal("storage_failed"), ok(2)]}
    reply_to(world, world.commands[0], reply)
    assert isinstance(world.results[first], dict)
    assert isinstance(world.results[last], dict)
    error = world.results[bad]
    assert isinstance(error, StorageFailed)
    assert error.key == "b"
    assert len(world.outbox) == 0


def test_only_writes_that_follow_one_another_go_together() -> None:
    world = lossless(together=True)
    ask_for(world, "a", "b")
    world.ask(calls.ping())
    ask_for(world, "c", "d")
    world.ask(calls.close_session(1))
    ask_for(world, "behind")
    world.send()
    assert pipelines(world) == [["a", "b"], [""], ["c", "d"]]


def test_a_pipeline_is_bounded_by_count_and_bytes() -> None:
    world = lossless(together=True)
    ask_for(world, *map(str, range(TOGETHER + 2)))
    ask_for(world, "large", content="x" * TOGETHER_BYTES)
    ask_for(world, "behind")
    world.send()
    assert list(map(len, pipelines(world))) == [TOGETHER, 2, 1, 1]


def test_what_is_sent_again_goes_alone() -> None:
    world = lossless(together=True)
    ask_for(world, "a", "b")
    world.send()
    world.now = RESEND_FIRST
    world.outbox.tick(world.now)
    world.send()
    assert pipelines(world) == [["a", "b"], ["a"], ["b"]]
    reply_to(world, world.commands[0], {"ok": True, "position": 1, "replies": [ok(1), ok(2)]})
    assert len(world.results) == 2  # late, and a success all the same


def test_an_engine_that_knows_no_pipelines_gets_each_by_itself_from_then_on() -> None:
    world = lossless(together=True)
    ask_for(world, "a", "b")
    world.send()
    reply_to(world, world.commands[0], refusal("unknown_op"))
    ask_for(world, "c", "d")
    world.send()
    assert pipelines(world) == [["a", "b"], ["a"], ["b"], ["c"], ["d"]]
    assert not world.results


def test_a_pipeline_outlasts_an_engine_that_is_shutting_down() -> None:
    world = lossless(together=True)
    ask_for(world, "a", "b")
    world.send()
    reply_to(world, world.commands[0], refusal("shutting_down"))
    assert not world.results
    world.now = PAUSE
    world.outbox.tick(world.now)
    world.send()
    assert pipelines(world)[1:] == [["a"], ["b"]]


def test_each_of_a_refused_pipeline_gets_an_error_of_its_own() -> None:
    world = lossless(together=True)
    for session_id, key in ((1, "a"), (2, "b")):
        world.ask(calls.append(session_id, "user", "x", None, None, key))
    world.send()
    reply_to(world, world.commands[0], refusal("storage_failed"))
    errors = [error for error in world.results.values() if isinstance(error, StorageFailed)]
    assert [(error.key, error.message, error.code) for error in errors] == [
        ("a", "storage_failed", "storage_failed"),
        ("b", "storage_failed", "storage_failed"),
    ]


def test_what_was_under_way_when_sending_was_interrupted_is_sent_again_and_counts_as_sent() -> None:
    world = lossless(together=True)
    ask_for(world, "sent")
    world.send()
    ask_for(world, "a", "b")
    assert world.outbox.next_to_send() is not None
    ask_for(world, "waits")
    world.outbox.interrupted(world.now)
    world.send()
    assert pipelines(world) == [["sent"], ["waits"]]
    world.now = RESEND_FIRST
    world.outbox.tick(world.now)
    assert world.outbox.next_to_send() is not None  # and that is interrupted, too
    world.outbox.interrupted(world.now)
    world.send()
    world.now = 2 * RESEND_MAX
    world.outbox.tick(world.now)
    world.send()
    assert {"sent", "a", "b"} <= {key for keys in pipelines(world)[2:] for key in keys}
    world.now = TIMEOUT
    world.outbox.tick(world.now)
    assert [isinstance(error, NoReply) and error.sent for error in world.results.values()] == [True] * 4


@pytest.mark.parametrize("wrong", [{}, {"replies": [ok(1)]}, {"replies": 7}, {"replies": [7, ok(2)]}])
def test_a_wrong_reply_to_a_pipeline_is_told_and_does_not_hold_up_what_is_behind(wrong) -> None:
    world = lossless(together=True)
    ask_for(world, "a", "b")
    world.send()
    reply_to(world, world.commands[0], {"ok": True, "position": 1, **wrong})
    assert isinstance(world.results[0], ProtocolError)
    world.rest()
    assert isinstance(world.results[1], dict)


def test_time_in_which_nobody_cared_does_not_count() -> None:
    world = lossless(together=True)
    ask_for(world, "sent")
    world.send()
    ask_for(world, "held")
    world.now = 2 * TIMEOUT
    world.outbox.was_left(2 * TIMEOUT)
    world.outbox.tick(world.now)
    assert not world.results
    world.now += TIMEOUT
    world.outbox.tick(world.now)
    assert all(isinstance(result, NoReply) for result in world.results.values())
    assert len(world.results) == 2


def test_what_waits_is_ripe_at_once_while_little_is_on_the_wire() -> None:
    world = lossless(together=True)
    ripe = []
    for number in range(8):
        ask_for(world, str(number))
        ripe.append(world.outbox.is_ripe)
        if ripe[-1]:
            world.send()
    assert ripe == [True, True, True, False, True, False, False, True]
    assert list(map(len, pipelines(world))) == [1, 1, 1, 2, 3]


def test_a_conflict_that_is_none_of_order_is_told() -> None:
    world = lossless()
    number = world.ask(calls.append(1, "user", "x", None, 7))
    world.send()
    reply_to(world, world.commands[0], refusal("conflict", "expect_seq"))
    assert isinstance(world.results[number], Conflict)
