"""Group commit: what a group of commands comes to when the commit succeeds."""

from __future__ import annotations

import pytest

from armin_engine import (
    Appended,
    Armin,
    Closed,
    Conflict,
    Created,
    RecordingSink,
    SessionClosed,
    SessionNotFound,
)
from engine.observe import append, close, contents, create, log, messages, positions, rows


def test_a_group_is_one_commit(open_engine, path):
    armin = open_engine()
    outcomes = armin.apply([create(), create(), append(1, "a"), append(2, "b"), close(1)])
    assert all(isinstance(outcome, Created | Appended | Closed) for outcome in outcomes)
    assert armin.counters.commits == 1
    assert [row[0] for row in rows(path)["log"]] == [1, 2, 3, 4, 5]


def test_an_empty_group_commits_nothing(armin: Armin):
    assert armin.apply([]) == []
    assert armin.counters.commits == 0


def test_a_command_may_build_on_an_earlier_one_of_its_group(armin: Armin):
    created, first, second, closed = armin.apply([create("n"), append(1, "a"), append(1, "b", "c"), close(1)])
    assert created == Created(armin.session(1).__class__(1, "n", False, first.created_at, 0, None), False)
    assert (first.first_id, first.first_seq, first.first_at, first.count) == (1, 1, 2, 1)
    assert (second.first_id, second.first_seq, second.first_at, second.count) == (2, 2, 3, 2)
    assert closed == Closed(5, duplicate=False)
    assert contents(messages(armin, 1)) == ["a", "b", "c"]


def test_an_earlier_command_of_a_group_knows_nothing_of_a_later_one(armin: Armin):
    unknown, created = armin.apply([append(1, "too early"), create()])
    assert isinstance(unknown, SessionNotFound)
    assert created.session.id == 1
    assert messages(armin, 1) == []


def test_a_name_used_twice_in_a_group_is_one_session(armin: Armin):
    first, again, appended, later = armin.apply(
        [create("n", {"a": 1}), create("n", {"b": 2}), append(1, "x"), create("n")]
    )
    assert (first.session.id, first.duplicate) == (1, False)
    assert (again.session.id, again.duplicate) == (1, True)
    assert again.session.meta == {"a": 1}
    assert appended.first_seq == 1
    assert later.session.seq == 1
    assert len(armin.sessions().sessions) == 1


def test_a_name_that_exists_returns_its_session_unchanged(armin: Armin):
    armin.create_session("n", {"a": 1})
    armin.append(1, "user", "x")
    again = armin.create_session("n", {"b": 2})
    assert again.duplicate
    assert again.session == armin.session(1)
    assert again.session.meta == {"a": 1}
    assert armin.position == 2


def test_close_then_append_in_one_group_refuses_the_append(armin: Armin):
    armin.create_session()
    closed, refused, again = armin.apply([close(1), append(1, "late"), close(1)])
    assert closed == Closed(2, duplicate=False)
    assert isinstance(refused, SessionClosed)
    assert again == Closed(2, duplicate=True)
    assert armin.position == 2


def test_append_then_close_in_one_group_keeps_the_append(armin: Armin):
    armin.create_session()
    appended, closed = armin.apply([append(1, "in time"), close(1)])
    assert (appended.first_at, closed.at) == (2, 3)
    assert contents(messages(armin, 1)) == ["in time"]


def test_expect_seq_counts_what_the_group_has_done(armin: Armin):
    armin.create_session()
    right, right_again, wrong, unasked = armin.apply(
        [
            append(1, "a", expect_seq=1),
            append(1, "b", "c", expect_seq=2),
            append(1, "x", expect_seq=2),
            append(1, "d"),
        ]
    )
    assert (right.first_seq, right_again.first_seq, unasked.first_seq) == (1, 2, 4)
    assert isinstance(wrong, Conflict)
    assert wrong.reason == "expect_seq"
    assert contents(messages(armin, 1)) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("expected", [1, 2, 4, 2**63 - 1])
def test_expect_seq_refuses_any_other_place(armin: Armin, expected: int):
    armin.create_session()
    armin.append_many(1, [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    with pytest.raises(Conflict, match="next seq of session 1 is 3"):
        armin.append(1, "user", "x", expect_seq=expected)
    assert armin.append(1, "user", "c", expect_seq=3).first_seq == 3


def test_a_bad_command_fails_alone(open_engine):
    sink = RecordingSink()
    armin = open_engine(sink=sink)
    outcomes = armin.apply(
        [create(), append(9, "no"), append(1, "a"), close(9), append(1, "no", expect_seq=7), append(1, "b")]
    )
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Created",
        "SessionNotFound",
        "Appended",
        "SessionNotFound",
        "Conflict",
        "Appended",
    ]
    assert contents(messages(armin, 1)) == ["a", "b"]
    assert [message.id for message in messages(armin, 1)] == [1, 2]
    assert positions(sink.events) == positions(log(armin)) == [1, 2, 3]


def test_bad_commands_use_up_no_id_and_no_position(armin: Armin):
    armin.create_session()
    for _ in range(3):
        with pytest.raises(SessionNotFound):
            armin.append(2, "user", "x")
    appended = armin.append(1, "user", "y")
    assert (appended.first_id, appended.first_at) == (1, 2)
    assert armin.create_session().session.id == 2


def test_a_group_of_refusals_alone_commits_nothing(armin: Armin):
    outcomes = armin.apply([append(1, "x"), close(2)])
    assert all(isinstance(outcome, SessionNotFound) for outcome in outcomes)
    assert armin.counters.commits == 0


def test_append_many_is_consecutive_whatever_surrounds_it(armin: Armin):
    armin.apply([create(), create()])
    one, many, other = armin.apply([append(1, "a"), append(2, "b", "c", "d"), append(1, "e")])
    assert (many.first_id, many.count, other.first_id) == (2, 3, 5)
    assert [message.id for message in messages(armin, 2)] == [2, 3, 4]
    assert one.first_id == 1


def test_closure_is_permanent(open_engine):
    armin = open_engine()
    armin.create_session("n")
    at = armin.close_session(1).at
    for engine in (armin, _reopened(armin, open_engine)):
        with pytest.raises(SessionClosed):
            engine.append(1, "user", "x")
        assert engine.close_session(1) == Closed(at, duplicate=True)
        assert engine.create_session("n").session.closed
        assert engine.read(1).closed


def _reopened(armin: Armin, open_engine) -> Armin:
    armin.close()
    return open_engine()


def test_times_come_from_the_clock_that_was_given(open_engine):
    now = [1_700_000_000_000]
    armin = open_engine(clock=lambda: now[0])
    created = armin.create_session().session.created_at
    now[0] += 5
    appended = armin.append(1, "user", "x").created_at
    assert (created, appended, messages(armin, 1)[0].created_at) == (now[0] - 5, now[0], now[0])


def test_every_message_of_a_group_has_the_time_of_the_group(open_engine):
    ticks = iter(range(1000, 2000))
    armin = open_engine(clock=lambda: next(ticks))
    armin.apply([create(), append(1, "a", "b"), append(1, "c")])
    assert len({message.created_at for message in messages(armin, 1)}) == 1
