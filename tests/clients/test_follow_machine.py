"""Following as a state machine: no socket, no clock; what goes in, what comes out."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgpack
import pytest

import armin
from armin import (
    CursorInvalid,
    Message,
    MessagePage,
    NoReply,
    ProtocolError,
    Tail,
    Tails,
    async_live,
    calls,
    live,
)
from armin.feeds import Feed, LogFeed, SessionFeed, checked_types, log_feed
from armin.following import Ask, AskTail, Deliver, Follower, Subscribe, Tell, Unsubscribe, Wait
from armin.results import Event, EventPage, Hello

SESSION = 5
HELLO = Hello("armin/1", "0", (), "database", "epoch", "engine-1", {}, {}, {}, 100)
SILENCE = NoReply("nobody", reason="not_running", sent=False)


def message(seq: int, **changes: Any) -> Message:
    return replace(Message(seq + 1000, SESSION, seq, "user", f"text {seq}", 1), **changes)


def page(*seqs: int, more: bool = False, closed: bool = False, position: int = 100) -> MessagePage:
    last = seqs[-1] if seqs else 0
    return MessagePage(tuple(map(message, seqs)), more, last, closed, position)


def event_frames(seq: int, position: int = 0, **changes: Any) -> list[bytes]:
    inner = {"id": seq + 1000, "session_id": SESSION, "seq": seq, "role": "user", "created_at": 1}
    inner |= {"content": f"text {seq}", **changes}
    event = {
        "position": position or 100 + seq,
        "type": "message_appended",
        "session_id": SESSION,
        "message": inner,
    }
    return [b"message/5/", msgpack.packb(event)]


def closed_frames(position: int = 200) -> list[bytes]:
    return [
        b"closed/5/",
        msgpack.packb({"position": position, "type": "session_closed", "session_id": SESSION}),
    ]


def beat_frames(position: int, engine: str = "engine-1", **changes: str) -> list[bytes]:
    beat = {"type": "heartbeat", "position": position, "database": "database", "epoch": "epoch"}
    return [b"heartbeat/", msgpack.packb({**beat, "engine": engine, "time": 1, **changes})]


def sync_frames(token: str, engine: str = "engine-1", **changes: str) -> list[bytes]:
    return [b"~sync/%s/" % token.encode(), beat_frames(100, engine, **changes)[1]]


class Script:
    """Walks a follower through a course of things, and fails where it wants something else."""

    def __init__(self, feed: Feed[Any] | None = None, timeout: float = 5.0) -> None:
        self.now = 1000.0
        tokens = (f"t{number}" for number in itertools.count(1))
        self.follower: Follower[Any] = Follower(
            SessionFeed(SESSION, 0) if feed is None else feed,
            HELLO,
            now=self.now,
            timeout=timeout,
            endpoint="ipc:///d/live.sock",
            tokens=lambda: next(tokens),
        )
        self.topics: list[bytes] = []
        self.states: list[str] = []

    def next(self) -> Any:
        """The next action; subscriptions and states are noted on the way."""
        while isinstance(action := self.follower.next(self.now), Subscribe | Unsubscribe | Tell):
            if isinstance(action, Tell):
                self.states.append(action.state)
                continue
            change = self.topics.append if isinstance(action, Subscribe) else self.topics.remove
            change(action.topic)
        return action

    def asked(self, op: str) -> Ask[Any]:
        action = self.next()
        assert isinstance(action, Ask), action
        assert action.call.op == op
        return action

    def answer(self, op: str, result: Any) -> dict[str, Any]:
        """Expect a command, answer it; gives the command's fields."""
        action = self.asked(op)
        action.then(result, self.now)
        return {name: value for name, value in action.call.fields.items() if value is not None}

    def answer_tail(self, *, seq: int, position: int, closed: bool = False) -> int:
        """Expect the question where the session ends, answer it; gives the position it is about."""
        action = self.next()
        assert isinstance(action, AskTail), action
        assert action.session_id == SESSION
        action.then(Tails((Tail(SESSION, seq, closed),), position), self.now)
        return action.position

    def fail(self, op: str, error: armin.ArminError = SILENCE) -> None:
        self.asked(op)
        self.follower.unanswered(error, self.now)

    def waits(self) -> float:
        """Expect a wait; gives its length in seconds."""
        action = self.next()
        assert isinstance(action, Wait), action
        return round(action.until - self.now, 6)

    def receive(self, frames: Sequence[bytes]) -> None:
        self.waits()
        self.follower.received(frames, self.now)

    def let_pass(self) -> None:
        """Nothing comes in the time to wait."""
        action = self.next()
        assert isinstance(action, Wait), action
        self.now = max(self.now, action.until)
        self.follower.idle(self.now)

    def delivered(self) -> list[Any]:
        action = self.next()
        assert isinstance(action, Deliver), action
        return list(action.items)

    def handshake(self, engine: str = "engine-1") -> None:
        token = self.answer("sync", 100)["token"]
        self.receive(sync_frames(token, engine))

    def go_live(self, *seqs: int) -> None:
        self.handshake()
        self.answer("read", page(*seqs))
        if seqs:
            assert [m.seq for m in self.delivered()] == list(seqs)
        assert self.waits() == 3.0


# --- the handshake --------------------------------------------------------------------------------


def test_it_subscribes_before_it_asks_for_anything() -> None:
    script = Script()
    script.asked("sync")
    assert script.topics == [
        *(b"message/5/", b"closed/5/", b"heartbeat/", b"goodbye/", b"welcome/"),
        b"~sync/t1/",
    ]


def test_the_whole_log_takes_all_facts() -> None:
    script = Script(LogFeed(0))
    script.asked("sync")
    assert script.topics[:3] == [b"created/", b"message/", b"closed/"]


def test_sync_is_repeated_every_50_ms_until_it_comes_back() -> None:
    script = Script()
    for _ in range(3):
        assert script.answer("sync", 100) == {"token": "t1"}
        assert script.waits() == 0.05
        script.let_pass()
    script.asked("sync")


def test_only_its_own_token_ends_the_handshake() -> None:
    script = Script()
    script.answer("sync", 100)
    script.receive([b"~sync/t10/", b"\x80"])
    script.let_pass()
    script.asked("sync")


def test_the_token_s_topic_is_given_up_afterwards() -> None:
    script = Script()
    script.handshake()
    script.asked("read")
    assert b"~sync/t1/" not in script.topics
    assert len(script.topics) == 5


def test_nothing_is_read_before_the_token_and_events_before_it_are_dropped() -> None:
    script = Script()
    script.answer("sync", 100)
    script.receive(event_frames(1))
    script.let_pass()
    script.handshake()
    script.answer("read", page(1, 2))
    assert script.delivered() == [message(1), message(2)]
    assert script.waits() == 3.0


def test_a_live_socket_that_stays_mute_is_an_error_that_names_it() -> None:
    script = Script(timeout=2.0)
    began = script.now
    while script.now < began + 2.0:
        script.answer("sync", 100)
        script.let_pass()
    with pytest.raises(NoReply, match=r"ipc:///d/live\.sock within 2 s"):
        script.next()


def test_no_engine_before_the_first_handshake_is_an_error() -> None:
    script = Script()
    script.asked("sync")
    with pytest.raises(NoReply) as caught:
        script.follower.unanswered(SILENCE, script.now)
    assert caught.value is SILENCE


# --- history --------------------------------------------------------------------------------------


def test_history_is_read_page_by_page_from_the_cursor() -> None:
    script = Script(SessionFeed(SESSION, 7))
    script.handshake()
    assert script.answer("read", page(8, 9, more=True)) == {"session_id": SESSION, "after": 7, "limit": 1000}
    assert script.delivered() == [message(8), message(9)]
    assert script.answer("read", page(10))["after"] == 9
    assert script.delivered() == [message(10)]
    assert script.waits() == 3.0


def test_an_engine_that_goes_away_in_the_middle_of_history_is_waited_for() -> None:
    script = Script()
    script.handshake()
    script.answer("read", page(1, more=True))
    script.delivered()
    script.fail("read")
    assert script.waits() == 0.25
    script.let_pass()
    script.answer("hello", replace(HELLO, engine="engine-2"))
    assert script.answer("read", page(2))["after"] == 1


def test_a_page_with_a_hole_is_a_protocol_error() -> None:
    script = Script()
    script.handshake()
    with pytest.raises(ProtocolError, match="after seq 0 gave seq 2"):
        script.answer("read", page(2))


def test_an_empty_page_with_more_behind_it_is_a_protocol_error_not_a_loop() -> None:
    for feed, op, empty in (
        (SessionFeed(SESSION, 0), "read", page(more=True)),
        (LogFeed(0), "log", EventPage((), True, 9)),
    ):
        script = Script(feed)
        script.handshake()
        with pytest.raises(ProtocolError, match="empty"):
            script.answer(op, empty)


def test_now_is_the_position_that_the_engine_named_first() -> None:
    assert log_feed("now", None, HELLO).cursor == log_feed(None, None, HELLO).cursor == 100
    assert log_feed(7, None, HELLO).cursor == 7


# --- live -----------------------------------------------------------------------------------------


def test_live_events_are_delivered_in_order_and_once() -> None:
    script = Script()
    script.go_live(1, 2)
    script.receive(event_frames(2))
    script.receive(event_frames(3))
    assert script.delivered() == [message(3)]
    script.receive(event_frames(3))
    script.receive(event_frames(4))
    assert script.delivered() == [message(4)]
    assert script.waits() == 3.0


def test_a_gap_is_healed_by_a_read_from_the_cursor_that_says_so() -> None:
    script = Script()
    script.go_live(1)
    script.receive(event_frames(4))
    assert script.answer("read", page(2, 3, 4)) == {
        "session_id": SESSION,
        "after": 1,
        "limit": 1000,
        "reason": "heal",
    }
    assert script.delivered() == [message(2), message(3), message(4)]
    script.receive(event_frames(4))
    script.receive(event_frames(5))
    assert script.delivered() == [message(5)]


def test_an_elided_message_is_fetched_and_not_counted_as_lost() -> None:
    script = Script()
    script.go_live(1)
    script.receive(event_frames(2, content="", elided=True))
    assert "reason" not in script.answer("read", page(2))
    assert script.delivered() == [message(2)]


def test_an_elided_message_that_was_seen_already_is_not_fetched() -> None:
    script = Script()
    script.go_live(1, 2)
    script.receive(event_frames(2, content="", elided=True))
    assert script.waits() == 3.0


def test_the_end_comes_after_a_last_look_when_the_session_is_closed() -> None:
    script = Script()
    script.go_live(1)
    script.receive(closed_frames())
    assert script.answer("read", page(2, closed=True))["after"] == 1
    assert script.delivered() == [message(2)]
    assert script.next() is None
    assert script.next() is None


def test_a_session_that_is_closed_already_ends_after_its_history() -> None:
    script = Script()
    script.handshake()
    script.answer("read", page(1, closed=True, more=True))
    script.delivered()
    script.answer("read", page(2, closed=True))
    assert script.delivered() == [message(2)]
    assert script.next() is None


def test_unknown_topics_and_events_of_unknown_types_are_passed_over() -> None:
    script = Script()
    script.go_live(1)
    script.receive([b"weather/", b"\x80"])
    later = {"position": 190, "type": "session_renamed", "session_id": SESSION}
    script.receive([b"message/5/", msgpack.packb(later)])
    assert script.waits() == 3.0


@pytest.mark.parametrize("frames", [[b"message/5/"], [b"message/5/", b"\xc1"], [b"heartbeat/", b"\x80"]])
def test_a_live_message_that_is_none_is_a_protocol_error(frames: list[bytes]) -> None:
    script = Script()
    script.go_live(1)
    with pytest.raises(ProtocolError):
        script.receive(frames)


def test_the_log_is_followed_by_position_over_all_sessions() -> None:
    script = Script(LogFeed(100))
    script.handshake()
    script.answer("log", EventPage((Event(101, "session_created", 9),), False, 101))
    assert script.delivered() == [Event(101, "session_created", 9)]
    script.receive(event_frames(1, position=101))
    script.receive(event_frames(7, position=102))
    assert script.delivered() == [Event(102, "message_appended", SESSION, message(7), 1)]
    script.receive(closed_frames(104))
    closed = Event(104, "session_closed", SESSION)
    script.answer("log", EventPage((Event(103, "session_created", 10), closed), False, 104))
    assert script.delivered() == [Event(103, "session_created", 10), closed]


def test_an_elided_message_in_the_log_is_passed_on_as_it_is() -> None:
    script = Script(LogFeed(100))
    script.handshake()
    script.answer("log", EventPage((), False, 100))
    script.receive(event_frames(1, position=101, elided=True))
    [event] = script.delivered()
    assert event.message == message(1, content="", elided=True)


# --- heartbeats -----------------------------------------------------------------------------------


def test_a_heartbeat_at_what_is_known_changes_nothing() -> None:
    script = Script()
    script.go_live(1)
    script.receive(event_frames(2, position=104))
    script.delivered()
    script.receive(beat_frames(104))
    assert script.waits() == 3.0


def test_a_heartbeat_ahead_asks_for_the_tail_and_is_content_if_nothing_is_missing() -> None:
    script = Script()
    script.go_live(1)
    script.receive(beat_frames(150))
    assert script.answer_tail(seq=1, position=160) == 150
    script.receive(beat_frames(160))
    assert script.waits() == 3.0


def test_a_tail_ahead_is_healed_if_the_event_does_not_come_after_all() -> None:
    script = Script()
    script.go_live(1)
    script.receive(beat_frames(150))
    script.answer_tail(seq=2, position=150)
    assert script.waits() == 0.25
    script.let_pass()
    assert script.answer("read", page(2))["reason"] == "heal"
    assert script.delivered() == [message(2)]


def test_a_tail_ahead_is_not_healed_if_the_event_was_only_on_its_way() -> None:
    script = Script()
    script.go_live(1)
    script.receive(beat_frames(150))
    script.answer_tail(seq=2, position=150)
    script.receive(event_frames(2, position=150))
    script.delivered()
    script.let_pass()
    assert 2.0 < script.waits() <= 3.0


def test_a_lost_closure_is_found_by_its_heartbeat() -> None:
    script = Script()
    script.go_live(1)
    script.receive(beat_frames(150))
    script.answer_tail(seq=1, position=150, closed=True)
    script.let_pass()
    script.answer("read", page(closed=True))
    assert script.next() is None


def test_a_heartbeat_ahead_of_the_log_s_cursor_is_a_loss_by_itself() -> None:
    script = Script(LogFeed(100))
    script.handshake()
    script.answer("log", EventPage((), False, 100))
    script.receive(beat_frames(101))
    script.answer("log", EventPage((Event(101, "session_created", 9),), False, 101))
    assert script.delivered() == [Event(101, "session_created", 9)]


def test_another_engine_is_greeted_then_read_then_a_new_handshake_made() -> None:
    script = Script()
    script.go_live(1)
    script.receive(beat_frames(100, engine="engine-2"))
    script.answer("hello", replace(HELLO, engine="engine-2"))
    assert script.answer("read", page(2)) == {
        "session_id": SESSION,
        "after": 1,
        "limit": 1000,
        "reason": "heal",
    }
    assert script.delivered() == [message(2)]
    script.handshake("engine-2")
    script.answer("read", page(3))
    assert script.delivered() == [message(3)]
    script.receive(beat_frames(100, engine="engine-2"))
    assert script.waits() == 3.0
    assert sorted(script.topics) == [b"closed/5/", b"goodbye/", b"heartbeat/", b"message/5/", b"welcome/"]


@pytest.mark.parametrize("changes", [{"database": "other"}, {"epoch": "other"}])
def test_another_database_or_epoch_ends_with_an_error(changes: dict[str, Any]) -> None:
    script = Script()
    script.go_live(1)
    with pytest.raises(CursorInvalid):
        script.receive(beat_frames(100, **changes))

    script = Script()
    script.go_live(1)
    script.let_pass()
    with pytest.raises(CursorInvalid):
        script.answer("hello", replace(HELLO, engine="engine-2", **changes))


def test_a_welcome_of_this_epoch_is_a_sign_of_life() -> None:
    script = Script()
    script.answer("sync", 100)
    script.receive([b"welcome/epoch"])
    script.let_pass()
    script.go_live(1)
    script.now += 2
    script.receive([b"welcome/epoch"])
    assert script.waits() == 3.0


def test_a_welcome_of_another_epoch_ends_it() -> None:
    script = Script()
    script.go_live(1)
    with pytest.raises(CursorInvalid, match="restored database"):
        script.receive([b"welcome/restored"])

    script = Script()
    script.answer("sync", 100)
    with pytest.raises(CursorInvalid, match="restored database"):  # before any event of it is looked at
        script.receive([b"welcome/restored"])


def test_pages_are_asked_for_with_the_epoch_where_the_engine_takes_it() -> None:
    hello = replace(HELLO, features=("epochs",))
    script = Script(LogFeed(100))
    script.follower._hello = hello
    script.handshake()
    assert script.answer("log", EventPage((), False, 100)) == {"after": 100, "limit": 1000, "epoch": "epoch"}
    script = Script()
    script.follower._hello = hello
    script.handshake()
    asked = script.answer("read", page(1))
    assert asked == {"session_id": SESSION, "after": 0, "limit": 1000, "epoch": "epoch"}


def test_three_seconds_of_silence_lead_to_a_new_look() -> None:
    script = Script()
    script.go_live(1)
    script.receive(beat_frames(100))
    assert script.waits() == 3.0
    script.let_pass()
    script.asked("hello")


def test_a_backlog_after_a_long_pause_of_the_caller_is_not_silence() -> None:
    script = Script()
    script.go_live(1)
    script.now += 60
    assert script.waits() < 0
    script.receive(event_frames(2))
    script.delivered()
    assert script.waits() == 3.0


def test_a_long_history_is_not_silence() -> None:
    script = Script()
    script.handshake()
    script.answer("read", page(1, more=True))
    script.delivered()
    script.now += 60
    script.answer("read", page(2))
    script.delivered()
    assert script.waits() == 3.0


def test_a_goodbye_leads_to_a_new_look_after_a_pause() -> None:
    script = Script()
    script.go_live(1)
    script.receive([b"goodbye/", msgpack.packb({"type": "goodbye"})])
    assert script.waits() == 0.25
    script.let_pass()
    script.fail("hello")
    script.let_pass()
    script.asked("hello")


def test_an_absent_engine_is_waited_for_without_end() -> None:
    script = Script()
    script.go_live(1)
    script.let_pass()
    for _ in range(1000):
        script.fail("hello")
        assert script.waits() == 0.25
        script.let_pass()
    script.answer("hello", HELLO)
    script.asked("read")


def test_with_the_live_socket_mute_it_still_reads_now_and_then() -> None:
    script = Script()
    script.go_live(1)
    script.let_pass()
    for seq in range(2, 6):
        script.answer("hello", HELLO)
        script.answer("read", page(seq))
        assert script.delivered() == [message(seq)]
        began = script.now
        while isinstance(action := script.next(), Wait) or action.call.op == "sync":
            if isinstance(action, Ask):
                action.then(100, script.now)
            else:
                script.let_pass()
        assert script.now - began == pytest.approx(3.0, abs=0.06)
    assert sum(topic.startswith(b"~sync/") for topic in script.topics) == 0


# --- what is told of it ---------------------------------------------------------------------------


def test_live_is_told_after_the_handshake_and_the_read_and_behind_their_messages() -> None:
    script = Script()
    script.handshake()
    script.answer("read", page(1, more=True))
    script.delivered()
    script.answer("read", page(2))
    script.delivered()
    assert script.states == ["catching up"]
    script.waits()
    assert script.states == ["catching up", "live"]


def test_a_loss_is_catching_up_and_a_message_too_large_for_the_stream_is_not() -> None:
    script = Script()
    script.go_live(1)
    script.receive(event_frames(2, content="", elided=True))
    script.answer("read", page(2))
    script.delivered()
    script.receive(event_frames(4))
    assert script.states == ["catching up", "live"]
    script.answer("read", page(3, 4))
    script.delivered()
    script.waits()
    assert script.states == ["catching up", "live", "catching up", "live"]


def test_silence_is_told_as_the_engine_gone_until_it_answers_again() -> None:
    script = Script()
    script.go_live(1)
    script.let_pass()
    for _ in range(3):
        script.fail("hello")
        script.let_pass()
    assert script.states == ["catching up", "live", "engine gone"]
    script.answer("hello", replace(HELLO, engine="engine-2"))
    script.answer("read", page())
    script.handshake("engine-2")
    assert script.states[3:] == ["catching up"]
    script.answer("read", page())
    script.waits()
    assert script.states[3:] == ["catching up", "live"]


def test_a_goodbye_is_the_engine_gone_and_another_engine_s_heartbeat_is_not() -> None:
    script = Script()
    script.go_live(1)
    script.receive(beat_frames(100, engine="engine-2"))
    script.asked("hello")
    assert script.states == ["catching up", "live", "catching up"]
    script = Script()
    script.go_live(1)
    script.receive([b"goodbye/", msgpack.packb({"type": "goodbye"})])
    script.waits()
    assert script.states == ["catching up", "live", "engine gone"]


def test_a_handshake_with_another_engine_than_was_greeted_begins_anew() -> None:
    script = Script()
    token = script.answer("sync", 100)["token"]
    script.receive(sync_frames(token, "engine-2"))
    script.answer("hello", replace(HELLO, engine="engine-2"))
    script.answer("read", page(1))
    assert script.states == ["catching up"]

    script = Script()
    token = script.answer("sync", 100)["token"]
    with pytest.raises(CursorInvalid, match="another database"):
        script.receive(sync_frames(token, database="other"))


# --- types ----------------------------------------------------------------------------------------


def test_the_cursor_moves_over_facts_of_other_types() -> None:
    feed = LogFeed(100, frozenset({"session_closed"}))
    script = Script(feed)
    script.handshake()
    facts = (
        Event(101, "session_created", 9),
        Event(102, "session_closed", 9),
        Event(103, "session_created", 8),
    )
    script.answer("log", EventPage(facts, False, 103))
    assert script.delivered() == [facts[1]]
    script.receive(event_frames(1, position=104))
    assert feed.cursor == 104
    script.receive(beat_frames(104))
    script.receive(closed_frames(105))
    assert script.delivered() == [Event(105, "session_closed", SESSION)]
    assert script.waits() == 3.0


@pytest.mark.parametrize("types", [[], ["message"], "session_closed", ["session_closed", "x"], [3]])
def test_types_that_are_none_are_refused(types: Any) -> None:
    with pytest.raises(armin.BadRequest) as caught:
        checked_types(types)
    assert caught.value.field == "types"


# --- who drives it --------------------------------------------------------------------------------


class OneQuestion:
    """Stands in for a follower that asks once, and for what it asks through."""

    def __init__(self, outcome: int | armin.ArminError) -> None:
        self.outcome = outcome
        self.told: list[Any] = []
        self.actions: list[Any] = [Ask(calls.ping(), lambda result, now: self.told.append(result))]

    def next(self, now: float) -> Any:
        return self.actions.pop() if self.actions else None

    def unanswered(self, error: armin.ArminError, now: float) -> None:
        self.told.append(error)

    def put(self, question: Any) -> int:
        if isinstance(self.outcome, armin.ArminError):
            raise self.outcome
        return self.outcome


class AsyncOneQuestion(OneQuestion):
    """The same for asyncio."""

    async def put(self, question: Any) -> int:  # type: ignore[override]
        return super().put(question)


def drive_blocking(outcome: int | armin.ArminError) -> list[Any]:
    both: Any = OneQuestion(outcome)
    assert list(live.drive(both, both, both, float, live.unheard)) == []
    return list(both.told)


def drive_asyncio(outcome: int | armin.ArminError) -> list[Any]:
    async def drive() -> list[Any]:
        both: Any = AsyncOneQuestion(outcome)
        assert [item async for item in async_live.drive(both, both, both, float, live.unheard)] == []
        return list(both.told)

    return asyncio.run(drive())


@pytest.mark.parametrize("drive", [drive_blocking, drive_asyncio])
def test_who_drives_it_tells_answers_and_absences_and_raises_the_rest(drive: Any) -> None:
    leaving = armin.ShuttingDown("later")
    assert drive(7) == [7]
    assert drive(SILENCE) == [SILENCE]
    assert drive(leaving) == [leaving]
    with pytest.raises(armin.SessionNotFound):
        drive(armin.SessionNotFound("gone"))


class Coming:
    """Stands in for a live socket on which this is there already, and an error behind it."""

    def __init__(self, *coming: list[bytes] | armin.ArminError) -> None:
        self.coming = list(coming)

    def take(self) -> list[bytes]:
        following = self.coming.pop(0)
        if isinstance(following, armin.ArminError):
            raise following
        return following

    def receive(self, until: float) -> list[bytes]:
        return self.take()


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (beat_frames(104, epoch="another"), CursorInvalid),
        ([b"message/5/"], ProtocolError),
        (armin.ClientClosed("closed"), armin.ClientClosed),
    ],
)
def test_what_came_before_an_error_is_delivered_before_it_is_raised(last: Any, error: Any) -> None:
    script = Script()
    script.go_live(1)
    inlet: Any = Coming(*map(event_frames, (2, 3, 4)), last)
    nothing_to_ask: Any = None
    following = live.drive(script.follower, nothing_to_ask, inlet, lambda: script.now, live.unheard)
    assert [next(following).seq for _ in range(3)] == [2, 3, 4]
    with pytest.raises(error):
        next(following)
