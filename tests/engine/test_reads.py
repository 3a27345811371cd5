"""Reads touch memory alone, change nothing, and refuse what makes no sense."""

from __future__ import annotations

import sqlite3

import pytest

from armin_engine import Armin, BadRequest, CursorInvalid, RecordingSink, SessionNotFound, limits
from armin_engine.facts import unpack
from engine.observe import (
    Listener,
    append,
    close,
    contents,
    create,
    everything,
    file_bytes,
    listed,
    listed_backward,
    session_ids,
)


def every_read(armin: Armin) -> None:
    everything(armin)
    for session_id in (1, 2):
        armin.read(session_id)
        armin.read(session_id, before=2)
        armin.read_snapshot(session_id)
        armin.read_delta(session_id)
        armin.delta(session_id)
        armin.packed_message(session_id, 1)
        armin.find(session_id)
    armin.session(name="n")
    armin.sessions(before=2**63 - 1, closed=True)
    armin.tails([1, 2])
    armin.events()
    armin.event(1)
    list(armin.snapshot())
    armin.gauges()
    assert armin.identity
    for call in (lambda: armin.read(9), lambda: armin.read(1, after=99), lambda: armin.session(name="no")):
        with pytest.raises((SessionNotFound, CursorInvalid)):
            call()


@pytest.fixture
def filled(open_engine) -> Armin:
    armin = open_engine()
    armin.apply([create("n", {"a": 1}), append(1, "a", "b"), create(), append(2, "c"), close(2)])
    armin.refresh_snapshot()
    armin.append(1, "user", "in the delta")
    return armin


def test_reads_make_no_sqlite_call(filled: Armin, monkeypatch):
    statements: list[str] = []
    store = filled._store
    assert store._reader is None
    store._writer.set_trace_callback(statements.append)
    opened: list[object] = []
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: opened.append(args))
    every_read(filled)
    assert statements == []
    assert opened == []
    filled.append(1, "user", "and the callback works")
    assert any("INSERT INTO messages" in statement for statement in statements)


def test_reads_change_nothing(filled: Armin, path):
    listener = Listener()
    filled.live.attach(listener)
    before, gauges, counters = file_bytes(path), filled.gauges(), str(filled.counters)
    snapshot, seen = filled.snapshot(), everything(filled)
    every_read(filled)
    assert file_bytes(path) == before
    assert filled.gauges() == gauges
    assert str(filled.counters) == counters
    assert filled.snapshot() is snapshot
    assert everything(filled) == seen
    assert listener.events == []


def test_reads_have_no_effect(open_engine):
    sink = RecordingSink()
    armin = open_engine(sink=sink)
    armin.apply([create("n"), append(1, "a"), create()])
    count = len(sink.events)
    every_read(armin)
    assert len(sink.events) == count


def test_a_page_of_the_log_has_the_event_of_each_position_whatever_session_it_is_of(filled: Armin):
    filled.apply([append(1, "d"), create("m"), append(3, "e"), append(1, "f"), append(3, "g"), close(3)])
    events = filled.events().events
    assert list(events) == [filled.event(position) for position in range(1, filled.position + 1)]
    messages = [event.unpack()["message"] for event in events if event.type == "message_appended"]
    for message in messages:
        assert message == unpack(filled.packed_message(message["session_id"], message["seq"]))
    assert len(messages) == 8


def test_a_session_is_found_by_id_or_by_name(filled: Armin):
    assert filled.session(1) == filled.session(name="n")
    assert filled.session(1).seq == 3
    assert filled.session(2).closed
    for wrong in ({}, {"session_id": 1, "name": "n"}):
        with pytest.raises(BadRequest):
            filled.session(**wrong)
    with pytest.raises(SessionNotFound):
        filled.session(3)
    with pytest.raises(SessionNotFound):
        filled.session(name="N")


def test_tails_tell_where_sessions_end(filled: Armin):
    assert filled.tails([2, 1, 2]) == [(2, 1, True), (1, 3, False), (2, 1, True)]
    assert filled.tails([]) == []
    with pytest.raises(SessionNotFound):
        filled.tails([1, 3])


@pytest.mark.parametrize("value", [0, -1, 2**63, True, "1", 1.0, None, b"1"])
def test_ids_out_of_range_or_of_another_type_are_refused(filled: Armin, value):
    for call in (
        lambda: filled.read(value),
        lambda: filled.tails([value]),
        lambda: filled.append(value, "user", "x"),
        lambda: filled.close_session(value),
        lambda: filled.delta(value),
    ):
        with pytest.raises(BadRequest) as caught:
            call()
        assert caught.value.field == "session_id"


@pytest.mark.parametrize("value", [-1, 2**63, False, "", 0.0])
def test_cursors_out_of_range_or_of_another_type_are_refused(filled: Armin, value):
    for call in (
        lambda: filled.read(1, after=value),
        lambda: filled.events(after=value),
        lambda: filled.sessions(after=value),
        lambda: filled.read(1, before=value),
        lambda: filled.sessions(before=value),
    ):
        with pytest.raises(BadRequest):
            call()


@pytest.mark.parametrize("limit", [0, -1, True, "5", None])
def test_a_limit_below_one_is_refused(filled: Armin, limit):
    for call in (filled.events, filled.sessions, lambda limit: filled.read(1, limit=limit)):
        with pytest.raises(BadRequest) as caught:
            call(limit=limit)
        assert caught.value.field == "limit"


def test_a_limit_over_the_maximum_is_clamped(open_engine):
    armin = open_engine(":memory:")
    armin.create_session()
    for _ in range(3):
        armin.apply([append(1, *["x"] * 5000)])
    assert armin.read(1, limit=2**40).count == limits.PAGE_ITEMS_MAX
    assert armin.read(1, before=15_001, limit=2**40).count == limits.PAGE_ITEMS_MAX


def test_cursors_ahead_of_what_exists_are_invalid(filled: Armin):
    assert filled.read(1, after=3).count == 0
    assert filled.events(after=filled.position).events == ()
    for call in (lambda: filled.read(1, after=4), lambda: filled.events(after=filled.position + 1)):
        with pytest.raises(CursorInvalid) as caught:
            call()
        assert caught.value.field == "after"


def test_one_cursor_at_a_time(filled: Armin):
    for call in (lambda: filled.read(1, after=0, before=5), lambda: filled.sessions(after=0, before=5)):
        with pytest.raises(BadRequest):
            call()


def test_more_is_told_in_the_paging_direction(filled: Armin):
    filled.append_many(1, [{"role": "user", "content": c} for c in "xyz"])
    assert [filled.read(1, after=a, limit=2).more for a in range(7)] == [True] * 4 + [False] * 3
    assert [filled.read(1, before=b, limit=2).more for b in range(1, 8)] == [False] * 3 + [True] * 4
    page = filled.read(1, before=2**63 - 1, limit=2)
    assert contents(page.messages) == ["y", "z"]
    assert (page.seq, page.closed) == (6, False)


def test_reading_a_session_without_messages(filled: Armin):
    filled.create_session()
    for page in (filled.read(3), filled.read(3, before=1), filled.read(3, before=50)):
        assert (page.messages, page.count, page.more, page.seq, page.packed) == ([], 0, False, 0, b"")


def test_sessions_are_listed_both_ways_and_by_closure(open_engine):
    armin = open_engine(":memory:")
    armin.apply([create()] * 25)
    for session_id in (1, 2, 7, 25):
        armin.close_session(session_id)
    shut = {1, 2, 7, 25}
    for closed, ids in (
        (None, list(range(1, 26))),
        (True, sorted(shut)),
        (False, [i for i in range(1, 26) if i not in shut]),
    ):
        for limit in (1, 2, 3, 24, 25, 26):
            assert listed(armin, closed, limit) == ids
            assert listed_backward(armin, closed, limit) == ids


def test_a_page_of_sessions_is_bounded_in_bytes(open_engine):
    armin = open_engine(":memory:")
    armin.apply([create(None, {"x": "y" * 60_000})] * 40)
    page = armin.sessions(limit=40)
    assert page.more
    assert sum(len(session.pack()) for session in page.sessions) <= limits.PAGE_BYTES_MAX
    assert session_ids(armin) == list(range(1, 41))
