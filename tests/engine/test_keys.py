"""Idempotency keys: the same request again gives the first outcome, whatever happened in between."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from armin_engine import (
    Append,
    Appended,
    Armin,
    BadRequest,
    Closed,
    CloseSession,
    Conflict,
    Created,
    CreateSession,
    Recorded,
    RecordingSink,
    Rows,
    SessionNotFound,
    StorageFailed,
    TooLarge,
    limits,
)
from armin_engine.keys import LOOKUP
from armin_engine.records import new_message


def append(session_id: int, content: str, key: str | None = None, after_key: str | None = None) -> Append:
    return Append(session_id, (new_message("user", content),), None, key, after_key)


def contents(armin: Armin, session_id: int) -> list[str]:
    page = armin.read(session_id, limit=10_000)
    return [message.content for message in page.messages]


def refused(armin: Armin, command: Append | CreateSession) -> Conflict:
    position = armin.position
    (outcome,) = armin.apply([command])
    assert isinstance(outcome, Conflict)
    assert armin.position == position
    return outcome


def test_a_key_again_gives_the_first_outcome_and_writes_nothing(open_engine):
    sink = RecordingSink()
    armin = open_engine(sink=sink)
    session_id = armin.create_session().session.id
    armin.append(session_id, "user", "before")
    first = armin.append(session_id, "user", "hello", {"a": 1}, key="k")
    armin.append(session_id, "user", "after")
    emitted = len(sink.events)
    again = armin.append(session_id, "user", "hello", {"a": 1}, key="k")
    assert again == first._replace(duplicate=True)
    assert not first.duplicate
    assert armin.position == 4
    assert len(sink.events) == emitted
    assert armin.verify().equal


def test_a_key_is_kept_across_restarts_and_refreshes(open_engine):
    armin = open_engine()
    session_id = armin.create_session(key="s").session.id
    many = [{"role": "user", "content": str(i)} for i in range(5)]
    first = armin.append_many(session_id, many, key="many")
    armin.refresh_snapshot()
    assert armin.append_many(session_id, many, key="many") == first._replace(duplicate=True)
    armin.close()
    armin = open_engine()
    assert armin.append_many(session_id, many, key="many") == first._replace(duplicate=True)
    created = armin.create_session(key="s")
    assert created.duplicate
    assert created.session.id == session_id
    assert created.session.seq == 5


def test_a_key_counts_within_its_group(armin):
    create = CreateSession(None, None, "c")
    one, two = armin.apply([create, create])
    assert isinstance(one, Created)
    assert isinstance(two, Created)
    assert (one.duplicate, two.duplicate, one.session.id) == (False, True, two.session.id)
    outcomes = armin.apply([append(1, "x", "k"), append(1, "y"), append(1, "x", "k")])
    assert outcomes[2] == outcomes[0]._replace(duplicate=True)
    assert contents(armin, 1) == ["x", "y"]


def test_append_and_append_many_share_their_keys(armin):
    armin.create_session()
    first = armin.append(1, "user", "x", key="k")
    assert armin.append_many(1, [{"role": "user", "content": "x"}], key="k").first_id == first.first_id


def test_creations_have_keys_of_their_own_and_so_has_each_session(armin):
    armin.create_session(key="k")
    armin.create_session()
    assert not armin.append(1, "user", "x", key="k").duplicate
    assert not armin.append(2, "user", "y", key="k").duplicate
    assert armin.append(2, "user", "y", key="k").duplicate


@pytest.mark.parametrize(
    "other",
    [
        Append(1, (new_message("user", "y"),), None, "k"),
        Append(1, (new_message("tool", "x"),), None, "k"),
        Append(1, (new_message("user", "x", {}),), None, "k"),
        Append(1, (new_message("user", "x"), new_message("user", "x")), None, "k"),
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_a_key_for_another_request_is_a_conflict(open_engine, other, restart):
    armin = open_engine()
    armin.create_session()
    armin.apply([append(1, "x", "k")])
    if restart:
        armin.close()
        armin = open_engine()
    conflict = refused(armin, other)
    assert (conflict.field, conflict.reason, conflict.retry) == ("key", "key_reused", False)


def test_messages_cannot_be_shifted_into_one_another(armin):
    armin.create_session()
    armin.append_many(1, [{"role": "user", "content": "ab"}, {"role": "user", "content": "c"}], key="k")
    with pytest.raises(Conflict):
        armin.append_many(1, [{"role": "user", "content": "a"}, {"role": "user", "content": "bc"}], key="k")


def test_a_creation_with_another_name_or_meta_is_a_conflict(armin):
    armin.create_session("a", {"x": 1}, key="k")
    for name, meta in (("b", {"x": 1}), ("a", {"x": 2}), (None, {"x": 1}), ("a", None)):
        with pytest.raises(Conflict) as conflict:
            armin.create_session(name, meta, key="k")
        assert conflict.value.reason == "key_reused"


def test_a_name_that_exists_uses_up_no_key(armin):
    armin.create_session("a")
    assert armin.create_session("a", key="k").duplicate
    assert not armin.create_session("b", key="k").duplicate


def test_what_is_expected_beforehand_is_no_part_of_the_request(armin):
    armin.create_session()
    armin.append(1, "user", "x", key="k", expect_seq=1)
    assert armin.append(1, "user", "x", key="k", expect_seq=1).duplicate
    assert armin.append(1, "user", "x", key="k", after_key="nowhere").duplicate


def test_a_resend_is_answered_as_committed_though_the_session_was_closed(armin):
    armin.create_session()
    first = armin.append(1, "user", "x", key="k")
    armin.close_session(1)
    assert armin.append(1, "user", "x", key="k") == first._replace(duplicate=True)


def test_a_failure_is_not_remembered(armin):
    with pytest.raises(SessionNotFound):
        armin.append(1, "user", "x", key="k")
    armin.create_session()
    with pytest.raises(Conflict):
        armin.append(1, "user", "x", key="k", expect_seq=7)
    assert not armin.append(1, "user", "other", key="k").duplicate


def test_a_failed_commit_forgets_its_keys(armin, foreign):
    armin.create_session()
    foreign.execute("BEGIN IMMEDIATE")
    outcomes = armin.apply([append(1, "x", "k"), append(1, "x", "k")])
    assert [type(outcome) for outcome in outcomes] == [StorageFailed, StorageFailed]
    foreign.execute("ROLLBACK")
    assert not armin.append(1, "user", "x", key="k").duplicate
    assert armin.append(1, "user", "x", key="k").duplicate


def test_a_stored_key_is_answered_though_its_group_fails(armin, foreign):
    armin.create_session()
    first = armin.append(1, "user", "x", key="k")
    foreign.execute("BEGIN IMMEDIATE")
    again, new = armin.apply([append(1, "x", "k"), append(1, "y", "l")])
    foreign.execute("ROLLBACK")
    assert again == first._replace(duplicate=True)
    assert isinstance(new, StorageFailed)


def test_a_write_whose_predecessor_is_missing_is_out_of_order(armin):
    armin.create_session()
    conflict = refused(armin, append(1, "b", "2", after_key="1"))
    assert (conflict.field, conflict.reason, conflict.retry) == ("after_key", "out_of_order", True)
    outcomes = armin.apply([append(1, "a", "1"), append(1, "b", "2", after_key="1")])
    assert all(isinstance(outcome, Appended) for outcome in outcomes)
    assert isinstance(armin.append(1, "user", "c", key="3", after_key="2"), Appended)
    assert contents(armin, 1) == ["a", "b", "c"]


def test_a_predecessor_of_another_session_or_later_in_the_group_does_not_count(armin):
    armin.create_session()
    armin.create_session()
    armin.append(2, "user", "a", key="1")
    refused(armin, append(1, "b", "2", after_key="1"))
    late, _ = armin.apply([append(1, "b", "2", after_key="0"), append(1, "a", "0")])
    assert isinstance(late, Conflict)


def test_a_predecessor_that_failed_breaks_the_chain(armin):
    armin.create_session()
    chain = [
        Append(1, (new_message("user", "a"),), 7, "1"),
        append(1, "b", "2", after_key="1"),
        append(1, "c", "3", after_key="2"),
        append(1, "d", "4"),
    ]
    outcomes = armin.apply(chain)
    assert [getattr(outcome, "reason", None) for outcome in outcomes] == [
        "expect_seq",
        "out_of_order",
        "out_of_order",
        None,
    ]
    assert contents(armin, 1) == ["d"]


def test_the_order_of_checks(armin):
    armin.create_session()
    armin.append(1, "user", "x", key="k")
    armin.close_session(1)
    assert refused(armin, append(1, "y", "k", after_key="nowhere")).reason == "key_reused"
    assert refused(armin, append(1, "y", "l", after_key="nowhere")).reason == "out_of_order"
    with pytest.raises(SessionNotFound):
        armin.append(2, "user", "x", key="k", after_key="nowhere")


@pytest.mark.parametrize("field", ["key", "after_key"])
def test_the_limits_of_a_key(armin, field):
    armin.create_session()
    with pytest.raises(BadRequest, match=f"{field} must not be empty"):
        armin.append(1, "user", "x", **{field: ""})
    with pytest.raises(TooLarge) as over:
        armin.append(1, "user", "x", **{field: "ä" * (limits.KEY_BYTES_MAX // 2) + "x"})
    assert (over.value.field, over.value.limit) == (field, limits.KEY_BYTES_MAX)
    armin.append(1, "user", "x", key="ä" * (limits.KEY_BYTES_MAX // 2))


def test_a_lookup_searches_and_never_scans(armin, foreign):
    (plan,) = foreign.execute(f"EXPLAIN QUERY PLAN {LOOKUP}", ("k", 1)).fetchall()
    assert plan[3] == "SEARCH append_keys USING PRIMARY KEY (key=? AND session_id=?)"


def test_a_large_group_of_old_keys_and_a_new_one(open_engine):
    armin = open_engine()
    armin.create_session()
    keys = [f"{i:06}" for i in range(1000)]
    armin.apply([append(1, key, key) for key in keys])
    armin.close()
    armin = open_engine()
    outcomes = armin.apply([append(1, key, key) for key in reversed([*keys, "new"])])
    duplicates = [isinstance(outcome, Appended) and outcome.duplicate for outcome in outcomes]
    assert duplicates == [False] + [True] * len(keys)


def test_keys_beside_a_greater_one_are_found_and_those_above_it_are_new(open_engine):
    armin = open_engine()
    armin.create_session()
    for key in ("zz", "a", "\U0001f98a", "\uffff", "zz\0"):
        assert not armin.append(1, "user", key, key=key).duplicate
    armin.close()
    armin = open_engine()
    for key in ("zz", "a", "\U0001f98a", "\uffff", "zz\0"):
        assert armin.append(1, "user", key, key=key).duplicate


def test_a_key_that_points_elsewhere_is_refused_not_answered_wrongly(armin, path):
    for _ in range(2):
        armin.create_session()
    armin.append(1, "user", "x", key="k")
    armin.append(2, "user", "x", key="l")
    armin.close()
    for position in (0, 1, 4, 99):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE append_keys SET position = ? WHERE key = 'k'", (position,))
        with Armin(path) as opened:
            with pytest.raises(StorageFailed) as failed:
                opened.append(1, "user", "x", key="k")
            assert failed.value.reason == "keys"
            assert not failed.value.retry


def test_random_groups_against_a_plain_map(open_engine):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    armin = open_engine()
    sessions = 3
    for _ in range(sessions):
        armin.create_session()
    known: dict[tuple[int, str], str] = {}
    written: dict[int, list[str]] = {i + 1: [] for i in range(sessions)}
    for _ in range(150):
        group, expected = [], []
        for _ in range(chance.randrange(1, 12)):
            session_id, key = chance.randint(1, sessions), f"{chance.randrange(60):02}"
            content = chance.choice("ab")
            after = f"{chance.randrange(60):02}" if chance.random() < 0.5 else None
            group.append(append(session_id, content, key, after))
            if (session_id, key) in known:
                expected.append("duplicate" if known[session_id, key] == content else "key_reused")
            elif after is not None and (session_id, after) not in known:
                expected.append("out_of_order")
            else:
                known[session_id, key] = content
                written[session_id].append(content)
                expected.append("new")
        outcomes = armin.apply(group)
        found = [
            ("duplicate" if outcome.duplicate else "new")
            if isinstance(outcome, Appended)
            else getattr(outcome, "reason", None)
            for outcome in outcomes
        ]
        assert found == expected
        if chance.random() < 0.1:
            armin.close()
            armin = open_engine()
    assert {session_id: contents(armin, session_id) for session_id in written} == written
    assert armin.verify().equal


# --- rows of the layer above ------------------------------------------------------------------------


def rows_of(name: str) -> Rows:
    return Rows(
        (
            (
                "INSERT INTO worker_groups (name, settings, cursor, created_at) VALUES (?, '{}', 0, 0)",
                [(name,)],
            ),
        )
    )


def test_rows_are_committed_with_the_facts_of_their_group(armin, foreign):
    outcomes = armin.apply([CreateSession(None, None), rows_of("a"), CloseSession(1)])
    assert [type(outcome) for outcome in outcomes] == [Created, Recorded, Closed]
    assert foreign.execute("SELECT name FROM worker_groups").fetchall() == [("a",)]
    assert armin.select("SELECT name FROM worker_groups") == [("a",)]


def test_rows_alone_are_committed_and_announce_nothing(open_engine):
    sink = RecordingSink()
    armin = open_engine(sink=sink)
    assert armin.apply([rows_of("a")]) == [Recorded()]
    assert armin.position == 0
    assert sink.events == []
    armin.create_session()
    assert armin.verify().equal
    armin.close()
    assert open_engine().select("SELECT name FROM worker_groups") == [("a",)]


def test_rows_that_fail_fail_their_group(armin):
    armin.apply([rows_of("a")])
    outcomes = armin.apply([CreateSession(None, None), rows_of("a")])
    assert [type(outcome) for outcome in outcomes] == [StorageFailed, StorageFailed]
    assert armin.position == 0


# --- version 1 ----------------------------------------------------------------------------------------


def as_version_1(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for table in ("append_keys", "worker_groups", "taken_effects"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version = 1")


def test_a_file_of_version_1_gets_the_new_tables_and_keeps_all_it_has(open_engine, path):
    armin = open_engine()
    armin.create_session("name", {"a": 1})
    armin.append(1, "user", "x")
    armin.close()
    as_version_1(path)
    armin = open_engine()
    assert contents(armin, 1) == ["x"]
    assert not armin.append(1, "user", "y", key="k").duplicate
    armin.close()
    armin = open_engine()
    assert armin.append(1, "user", "y", key="k").duplicate
    assert armin.verify().equal
    assert not list(path.parent.glob("*.before-upgrade*"))
