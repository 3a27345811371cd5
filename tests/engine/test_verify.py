"""verify: equal as long as nobody meddled, and a difference named wherever somebody did."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from armin_engine import Armin
from armin_engine.verify import DIFFERENCES_MAX
from engine.observe import append, close, create, everything


def lived(armin: Armin) -> Armin:
    armin.apply([create("n", {"a": 1}), create("m"), append(1, "one", "two"), create(None, {"b": 2})])
    armin.append(2, "tool", "three", {"k": "v"})
    armin.refresh_snapshot()
    armin.append(1, "assistant", "four", {"k": 4})
    armin.close_session(3)
    armin.append(2, "system", "five")
    return armin


@pytest.fixture
def armin(open_engine) -> Armin:
    return lived(open_engine())


def test_an_untouched_file_is_equal(armin: Armin, open_engine):
    report = armin.verify()
    assert report.equal
    assert (report.position, report.checked, report.differences) == (armin.position, armin.position, ())
    armin.close()
    assert open_engine().verify() == report


@pytest.mark.parametrize("count", [1, 2, 7, 63, 64, 65, 127, 200])
def test_a_group_of_any_size_is_in_the_file(open_engine, count: int):
    armin = open_engine()
    armin.create_session()
    group = [append(1, str(number))._replace(key=f"k{number:03}") for number in range(count)]
    first = armin.apply(group)
    assert armin.verify().equal
    armin.close()
    again = open_engine()
    assert again.verify().equal
    assert again.apply(group) == [outcome._replace(duplicate=True) for outcome in first]


def test_an_empty_database_is_equal(open_engine):
    assert open_engine().verify().equal
    assert lived(open_engine(":memory:")).verify().equal


def test_verify_changes_nothing(armin: Armin):
    before = everything(armin)
    armin.verify()
    assert everything(armin) == before


TAMPERED = {
    "content": "UPDATE messages SET content = 'twO' WHERE id = 2",
    "content to empty": "UPDATE messages SET content = '' WHERE id = 2",
    "role": "UPDATE messages SET role = 2 WHERE id = 1",
    "a message's time": "UPDATE messages SET created_at = created_at + 1 WHERE id = 5",
    "a message's session": "UPDATE messages SET session_id = 2 WHERE id = 1",
    "a message's id": "UPDATE messages SET id = 77 WHERE id = 5",
    "two contents swapped": "UPDATE messages SET content = CASE id WHEN 1 THEN 'two' ELSE 'one' END"
    " WHERE id < 3",
    "a message's meta": "UPDATE message_meta SET meta = '{\"k\":5}' WHERE message_id = 4",
    "a meta in other words": "UPDATE message_meta SET meta = '{\"k\": 4}' WHERE message_id = 4",
    "a meta deleted": "DELETE FROM message_meta WHERE message_id = 4",
    "a meta added": "INSERT INTO message_meta VALUES (1, '{}')",
    "a meta of no message": "INSERT INTO message_meta VALUES (99, '{}')",
    "a session's meta": "UPDATE session_meta SET meta = '{\"a\":2}' WHERE session_id = 1",
    "a session's meta deleted": "DELETE FROM session_meta WHERE session_id = 1",
    "a session's meta added": "INSERT INTO session_meta VALUES (2, '{}')",
    "a name": "UPDATE session_names SET name = 'N' WHERE session_id = 1",
    "a name deleted": "DELETE FROM session_names WHERE session_id = 1",
    "a name added": "INSERT INTO session_names VALUES ('x', 3)",
    "a name of no session": "INSERT INTO session_names VALUES ('x', 99)",
    "two names swapped": "UPDATE session_names SET session_id = -session_id;"
    "UPDATE session_names SET session_id = 3 + session_id",
    "a session closed": "UPDATE sessions SET closed = 1 WHERE id = 1",
    "a session opened": "UPDATE sessions SET closed = 0 WHERE id = 3",
    "a closure moved": "UPDATE sessions SET closed = 1 - closed WHERE id > 1",
    "a closed flag of 2": "UPDATE sessions SET closed = 2 WHERE id = 3",
    "a session's time": "UPDATE sessions SET created_at = 0 WHERE id = 2",
    "a session added": "INSERT INTO sessions VALUES (9, 0, 1)",
    "a session deleted": "DELETE FROM sessions WHERE id = 3",
    "a message added": "INSERT INTO messages VALUES (NULL, 1, 0, 'x', 1)",
    "a message added within": "DELETE FROM messages WHERE id = 5;"
    "INSERT INTO messages VALUES (5, 1, 0, 'five', 1)",
    "a message deleted": "DELETE FROM messages WHERE id = 5",
    "a log row deleted": "DELETE FROM log WHERE position = 5",
    "the last log row deleted": "DELETE FROM log WHERE position = 9",
    "the log's tail and its message deleted": "DELETE FROM log WHERE position = 9;"
    "DELETE FROM messages WHERE id = 5",
    "the log emptied": "DELETE FROM log",
    "a log row added": "INSERT INTO log VALUES (10, 3, 1, 0, zeroblob(16))",
    "a log row far ahead": "INSERT INTO log VALUES (99, 3, 1, 0, zeroblob(16))",
    "a log row of another kind": "UPDATE log SET kind = 3, message_id = 0 WHERE position = 4",
    "two log rows swapped": "UPDATE log SET message_id = 3 - message_id WHERE position IN (3, 4)",
    "a digest": "UPDATE log SET digest = zeroblob(16) WHERE position = 3",
    "the last digest": "UPDATE log SET digest = zeroblob(16) WHERE position = 9",
    "the message sequence": "UPDATE sqlite_sequence SET seq = 50 WHERE name = 'messages'",
    "the session sequence": "UPDATE sqlite_sequence SET seq = 2 WHERE name = 'sessions'",
    "the sequence deleted": "DELETE FROM sqlite_sequence",
    "the sequences no numbers": "UPDATE sqlite_sequence SET seq = 'abc'",
    "a sequence null": "UPDATE sqlite_sequence SET seq = NULL WHERE name = 'sessions'",
    "a table dropped": "DROP TABLE session_meta",
    "the database id": "UPDATE armin SET value = 'x' WHERE key = 'database'",
    "the epoch deleted": "DELETE FROM armin WHERE key = 'epoch'",
    "the epoch emptied": "UPDATE armin SET value = '' WHERE key = 'epoch'",
    "the database id a blob": "UPDATE armin SET value = zeroblob(32) WHERE key = 'database'",
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_file_that_was_meddled_with_differs(armin: Armin, path, what):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(TAMPERED[what])
    report = armin.verify()
    assert not report.equal
    assert report.differences
    assert report.differences_count >= len(report.differences)


def test_a_check_that_breaks_off_hides_nothing_found_before_it(armin: Armin, foreign):
    foreign.execute("INSERT INTO sessions VALUES (9, 0, 1)")
    foreign.execute("UPDATE sqlite_sequence SET seq = 'abc'")
    differences = armin.verify().differences
    assert any("sessions has 4 rows" in difference for difference in differences)
    assert any("no ids" in difference for difference in differences)


def test_a_tail_that_vanished_without_a_trace_in_the_file_differs(armin: Armin, open_engine, path):
    """A file that agrees with itself, but ends before what memory had."""
    armin.close()
    again = open_engine()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(TAMPERED["the log's tail and its message deleted"])
    (difference,) = again.verify().differences
    assert difference == "the file ends at position 8, memory had 9 before that"


# What a restart takes for the truth, and only the digests or the counts show.
KNOWN_BY_THE_FILE_ALONE = [
    "content",
    "role",
    "a message's time",
    "two contents swapped",
    "a message's meta",
    "a meta in other words",
    "a meta deleted",
    "a meta added",
    "a meta of no message",
    "a session's meta",
    "a name",
    "a name deleted",
    "a name of no session",
    "a session closed",
    "a session opened",
    "a session's time",
    "a session added",
    "a message added",
    "a digest",
    "the last digest",
]


@pytest.mark.parametrize("what", KNOWN_BY_THE_FILE_ALONE)
def test_what_was_changed_while_the_engine_was_away_differs(armin: Armin, open_engine, path, what):
    armin.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(TAMPERED[what])
    assert not open_engine().verify().equal


def corrupt_delta(armin: Armin) -> None:
    armin._delta.get(1).tail[0] = armin._delta.get(2).tail[0]


def corrupt_snapshot(armin: Armin) -> None:
    tail = armin._snapshot.get(1).tail
    assert b"two" in tail[1]
    tail[1] = tail[1].replace(b"two", b"owt")


def lose_a_message(armin: Armin) -> None:
    armin._delta.get(1).tail.pop()


def lose_a_closure(armin: Armin) -> None:
    armin._delta.get(3).closed_at = 0


def lose_a_name(armin: Armin) -> None:
    del armin._index.names["n"]


def rename(armin: Armin) -> None:
    armin._snapshot.get(1).name = "other"


def change_a_time(armin: Armin) -> None:
    armin._snapshot.get(2).created_at += 1


def change_a_meta(armin: Armin) -> None:
    armin._snapshot.get(1).packed_meta = None


def lose_a_session(armin: Armin) -> None:
    del armin._delta._sessions[3]
    armin._snapshot = armin._snapshot.empty(armin._index.ids)


def change_the_log(armin: Armin) -> None:
    armin.log._sessions[3] = 2


def shorten_the_log(armin: Armin) -> None:
    armin.log._sessions.pop()
    armin.log._slots.pop()


@pytest.mark.parametrize(
    "corrupt",
    [
        corrupt_delta,
        corrupt_snapshot,
        lose_a_message,
        lose_a_closure,
        lose_a_name,
        rename,
        change_a_time,
        change_a_meta,
        lose_a_session,
        change_the_log,
        shorten_the_log,
    ],
)
def test_memory_that_is_not_what_the_file_says_differs(armin: Armin, corrupt):
    corrupt(armin)
    report = armin.verify()
    assert not report.equal
    assert any("memory" in difference for difference in report.differences)


def test_a_difference_names_its_position(armin: Armin, foreign):
    foreign.execute("UPDATE messages SET content = 'changed' WHERE id = 2")
    differences = armin.verify().differences
    assert any("position 4" in difference and "digest" in difference for difference in differences)
    assert any("position 4" in difference and "memory" in difference for difference in differences)
    assert not any("position 5" in difference for difference in differences)


def test_what_was_found_before_the_log_breaks_is_told_too(armin: Armin, foreign):
    foreign.execute("UPDATE messages SET content = 'changed' WHERE id = 1")
    foreign.execute("DELETE FROM log WHERE position = 6")
    differences = armin.verify().differences
    assert any("position 3" in difference for difference in differences)
    assert any("jumps from position 5 to 7" in difference for difference in differences)


def test_more_differences_than_are_listed_are_counted(armin: Armin, foreign):
    armin.apply([append(1, *["x"] * 494), append(2, "x")])
    foreign.execute("UPDATE messages SET role = 3")
    report = armin.verify()
    assert len(report.differences) == DIFFERENCES_MAX
    assert report.differences_count == 2 * 499  # the digest and the memory of each; one had the role


def test_verify_in_slices_while_the_engine_writes_on(armin: Armin):
    """As the daemon does it: a pinned position, compared between turns, with commits in between."""
    armin.apply([append(1, *["x" * 100] * 3000)])
    comparison = armin.comparison()
    reader, connection = armin.file_reader()
    pieces, position = 0, armin.position
    for piece in reader.slices():
        comparison.compare(piece)
        pieces += 1
        armin.apply([append(1, "more"), create(), create("again")])
        armin.refresh_snapshot()
        if pieces == 2:
            armin.close_session(2)
    connection.close()
    report = comparison.report(reader)
    assert report.differences == ()
    assert report.position == position
    assert pieces > 5


def test_verify_reads_what_was_committed_when_it_began(armin: Armin):
    comparison = armin.comparison()
    reader, connection = armin.file_reader()
    position = armin.position
    slices = reader.slices()
    comparison.compare(next(slices))
    armin.apply([append(1, "later"), close(1), close(2), create("later")])
    for piece in slices:
        comparison.compare(piece)
    connection.close()
    report = comparison.report(reader)
    assert (report.position, report.checked, report.differences) == (position, position, ())


# --- rows that point into the log ---

REFERENCES = {
    "a key of no position": "UPDATE append_keys SET position = 99 WHERE key = 'many'",
    "a key of another write": "UPDATE append_keys SET position = position - 1 WHERE key = 'many'",
    "a key of another session": "UPDATE append_keys SET session_id = 2 WHERE key = 'many'",
    "a key of more than was written": "UPDATE append_keys SET count = 3 WHERE key = 'many'",
    "a key of less": "UPDATE append_keys SET count = 1 WHERE key = 'many'",
    "a key of a creation that is none": "UPDATE append_keys SET position = 2 WHERE key = 'create'",
    "a key of two creations": "UPDATE append_keys SET count = 2 WHERE key = 'create'",
    "a key of another creation": "UPDATE append_keys SET position = 3 WHERE key = 'create'",
    "a key of another request": "UPDATE append_keys SET request = zeroblob(length(request))",
    "a key that is none": "UPDATE append_keys SET key = '' WHERE key = 'many'",
    "a group ahead of the log": "UPDATE worker_groups SET cursor = 99",
    "a group of broken settings": "UPDATE worker_groups SET settings = '{'",
    "an effect of no group": "UPDATE taken_effects SET group_id = 9",
    "an effect of no position": "UPDATE taken_effects SET position = 99",
    "an effect in no state": "UPDATE taken_effects SET state = 7",
}


@pytest.fixture
def referring(open_engine, path) -> Armin:
    armin = open_engine()
    armin.create_session("n", {"a": 1}, key="create")
    armin.append(1, "user", "zero")
    armin.create_session()
    many = [{"role": "user", "content": text, "meta": {"k": text}} for text in ("one", "two")]
    armin.append_many(1, many, key="many")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO worker_groups VALUES (1, 'g', '{}', 5, 0)")
        connection.execute("INSERT INTO taken_effects VALUES (1, 2, 1, 0, 0, 0, NULL, NULL)")
    return armin


def test_rows_that_fit_the_log_are_equal(referring: Armin):
    assert referring.verify().differences == ()


@pytest.mark.parametrize("what", REFERENCES)
def test_a_row_that_does_not_fit_the_log_differs(referring: Armin, path, what):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(REFERENCES[what])
    differences = referring.verify().differences
    assert differences
    assert all("does not fit the log" in difference for difference in differences)
