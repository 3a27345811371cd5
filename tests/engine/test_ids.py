"""Ids come from SQLite's own sequence, never from the greatest row."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from armin_engine import StorageFailed
from engine.observe import append, create, messages, rows


def by_hand(path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


def test_ids_follow_the_sequence_and_not_the_greatest_row(open_engine, path):
    armin = open_engine()
    armin.apply([create(), append(1, "a")])
    armin.close()
    by_hand(path, "UPDATE sqlite_sequence SET seq = 500 WHERE name = 'messages'")
    by_hand(path, "UPDATE sqlite_sequence SET seq = 70 WHERE name = 'sessions'")
    armin = open_engine()
    appended, created = armin.apply([append(1, "b"), create("n")])
    assert (appended.first_id, appended.first_seq, appended.first_at) == (501, 2, 3)
    assert created.session.id == 71
    assert dict(rows(path)["sqlite_sequence"]) == {"sessions": 71, "messages": 501}
    assert armin.session(71).name == "n"
    assert [session.id for session in armin.sessions().sessions] == [1, 71]
    assert [session.id for session in armin.sessions(before=71).sessions] == [1]
    assert [session.id for session in armin.sessions(after=1).sessions] == [71]
    armin.append(71, "user", "c")
    armin.refresh_snapshot()
    assert armin.snapshot().get(71).seq == 1
    assert armin.snapshot().get(2) is armin.snapshot().get(70) is None
    assert armin.verify().equal
    armin.close()
    again = open_engine()
    assert [message.id for message in messages(again, 1)] == [1, 501]
    assert again.create_session().session.id == 72
    assert again.verify().equal


def test_ids_are_dense_within_one_life(open_engine):
    armin = open_engine(":memory:")
    armin.apply([create()] * 3)
    for session_id in (3, 1, 2, 2):
        armin.apply([append(session_id, "a", "b")])
    found = sorted(message.id for session_id in (1, 2, 3) for message in messages(armin, session_id))
    assert found == list(range(1, 9))


@pytest.mark.parametrize(("table", "command"), [("messages", append(1, "x", "y")), ("sessions", create())])
def test_a_database_that_has_used_up_its_ids_says_so(open_engine, path, table, command):
    armin = open_engine()
    armin.apply([create(), append(1, "a")])
    armin.close()
    by_hand(path, f"UPDATE sqlite_sequence SET seq = {2**63 - 1} WHERE name = '{table}'")
    armin = open_engine()
    (outcome,) = armin.apply([command])
    assert isinstance(outcome, StorageFailed)
    assert (outcome.reason, outcome.retry) == ("ids", False)
    assert armin.position == 2
    assert armin.close_session(1).at == 3


def test_the_last_id_is_given_out(open_engine, path):
    armin = open_engine()
    armin.apply([create(), append(1, "a")])
    armin.close()
    by_hand(path, f"UPDATE sqlite_sequence SET seq = {2**63 - 2} WHERE name = 'messages'")
    armin = open_engine()
    assert armin.append(1, "user", "last").first_id == 2**63 - 1
    with pytest.raises(StorageFailed):
        armin.append(1, "user", "none left")
    assert messages(armin, 1)[1].id == 2**63 - 1
    armin.close()
    assert messages(open_engine(), 1)[1].id == 2**63 - 1
