"""Side effects: one for each committed fact, in commit order, and from nothing else."""

from __future__ import annotations

import logging

from armin_engine import Event, NullSink, RecordingSink
from engine.observe import Listener, append, close, create, everything, log, positions


class Raising:
    """Fails on some positions, keeps the others."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad
        self.seen: list[int] = []

    def emit(self, event: Event) -> None:
        if event.position in self.bad:
            raise RuntimeError(f"no {event.position}")
        self.seen.append(event.position)


def test_each_fact_is_one_effect_in_commit_order(open_engine):
    sink = RecordingSink()
    armin = open_engine(sink=sink)
    armin.apply([create("n", {"a": 1}), create(), append(2, "a", "b"), append(1, "c")])
    armin.close_session(1)
    armin.append(2, "tool", "d", {"k": [1]})
    assert positions(sink.events) == [1, 2, 3, 4, 5, 6, 7]
    assert [event.type for event in sink.events] == [
        "session_created",
        "session_created",
        "message_appended",
        "message_appended",
        "message_appended",
        "session_closed",
        "message_appended",
    ]
    assert [event.unpack() for event in sink.events] == [event.unpack() for event in log(armin)]


def test_an_effect_says_what_was_committed(open_engine):
    sink = RecordingSink()
    armin = open_engine(sink=sink, clock=lambda: 1000)
    armin.create_session("n", {"a": 1})
    armin.create_session()
    armin.append(1, "assistant", "hi", {"b": None})
    armin.close_session(2)
    assert [event.unpack() for event in sink.events] == [
        {
            "position": 1,
            "type": "session_created",
            "session_id": 1,
            "created_at": 1000,
            "name": "n",
            "meta": {"a": 1},
        },
        {"position": 2, "type": "session_created", "session_id": 2, "created_at": 1000},
        {
            "position": 3,
            "type": "message_appended",
            "session_id": 1,
            "message": {
                "id": 1,
                "session_id": 1,
                "seq": 1,
                "role": "assistant",
                "content": "hi",
                "created_at": 1000,
                "meta": {"b": None},
            },
        },
        {"position": 4, "type": "session_closed", "session_id": 2},
    ]


def test_duplicates_and_refusals_have_no_effect(open_engine):
    sink = RecordingSink()
    armin = open_engine(sink=sink)
    armin.apply([create("n"), create("n"), append(5, "x"), close(1), close(1), append(1, "x")])
    armin.apply([create("n"), close(1)])
    assert positions(sink.events) == [1, 2]


def test_reads_refresh_verify_and_recovery_have_no_effect(open_engine):
    armin = open_engine()
    armin.apply([create("n"), append(1, "a", "b"), close(1)])
    armin.close()
    sink, listener = RecordingSink(), Listener()
    armin = open_engine(sink=sink)
    armin.live.attach(listener)
    everything(armin)
    armin.refresh_snapshot()
    armin.verify()
    assert sink.events == listener.events == []
    armin.create_session()
    assert positions(sink.events) == positions(listener.events) == [5]


def test_a_raising_sink_harms_neither_the_commit_nor_the_next_effects(open_engine, caplog):
    sink = Raising(2, 3)
    armin = open_engine(sink=sink)
    listener = Listener()
    armin.live.attach(listener)
    with caplog.at_level(logging.CRITICAL, "armin_engine"):
        outcomes = armin.apply([create(), append(1, "a"), append(1, "b"), append(1, "c")])
        armin.append(1, "user", "d")
    assert [outcome.first_seq for outcome in outcomes[1:]] == [1, 2, 3]
    assert sink.seen == [1, 4, 5]
    assert positions(listener.events) == [1, 2, 3, 4, 5]
    assert armin.counters.effects_failed == 2
    assert armin.verify().equal


def test_effects_come_after_the_commit_and_after_memory(open_engine, path):
    """What a sink sees when it looks around: the fact is on disk and can be read."""
    looks = []

    class Looking:
        def emit(self, event: Event) -> None:
            looks.append((event.position, armin.position, armin.read(1).count, armin.verify().equal))

    armin = open_engine(sink=Looking())
    armin.apply([create(), append(1, "a", "b")])
    assert looks == [(1, 3, 2, True), (2, 3, 2, True), (3, 3, 2, True)]


def test_a_sink_may_write_and_order_holds(open_engine):
    class Answering(RecordingSink):
        def emit(self, event: Event) -> None:
            super().emit(event)
            if event.type == "message_appended" and event.unpack()["message"]["role"] == "user":
                armin.append(event.session_id, "assistant", "re: " + event.unpack()["message"]["content"])

    sink, listener = Answering(), Listener()
    armin = open_engine(sink=sink)
    armin.live.attach(listener)
    armin.apply([create(), append(1, "a", "b")])
    assert positions(sink.events) == positions(listener.events) == [1, 2, 3, 4, 5]
    assert [m.content for m in armin.read(1).messages] == ["a", "b", "re: a", "re: b"]


def test_the_null_sink_takes_everything(open_engine):
    armin = open_engine(sink=NullSink())
    armin.apply([create(), append(1, "a")])
    assert armin.counters.effects_failed == 0
