"""Ctrl-C, want of memory, threads, and mistakes of our own: never a wrong answer afterwards."""

from __future__ import annotations

import sqlite3
import struct
import threading

import pytest

from armin_engine import Append, Armin, RecordingSink, StorageFailed, derived, snapshot
from armin_engine.facts import pack_plain
from armin_engine.records import NewMessage
from engine.observe import append, close, contents, create, everything, messages, positions


class Interrupting:
    """A connection that is interrupted at one statement, before or after SQLite has run it."""

    def __init__(
        self, inner: sqlite3.Connection, statement: str, when: str, error: type[BaseException]
    ) -> None:
        self.inner, self.statement, self.when, self.error = inner, statement, when, error

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def execute(self, statement: str, *rest: object):
        return self._run(self.inner.execute, statement, *rest)

    def executemany(self, statement: str, *rest: object):
        return self._run(self.inner.executemany, statement, *rest)

    def _run(self, call, statement: str, *rest: object):
        hit = self.statement and statement.startswith(self.statement)
        if hit and self.when == "before":
            self.statement = ""
            raise self.error
        result = call(statement, *rest)
        if hit:
            self.statement = ""
            raise self.error
        return result


@pytest.fixture
def armin(open_engine) -> Armin:
    armin = open_engine(sink=RecordingSink())
    armin.apply([create("n"), append(1, "before")])
    return armin


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(
    ("statement", "when"),
    [
        ("BEGIN", "before"),
        ("BEGIN", "after"),
        ("PRAGMA", "after"),
        ("INSERT INTO messages", "before"),
        ("INSERT INTO log", "after"),
    ],
)
def test_an_interruption_before_the_commit_is_as_if_nothing_happened(armin: Armin, statement, when, error):
    before = everything(armin)
    armin._store._writer = Interrupting(armin._store._writer, statement, when, error)
    with pytest.raises(error):
        armin.append(1, "user", "x")
    assert everything(armin) == before
    assert armin.append(1, "user", "after").first_id == 2
    assert armin.verify().equal
    assert positions(armin._sink.events) == [1, 2, 3]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_right_after_the_commit_ends_all_writing(armin: Armin, open_engine, error):
    """The message is on disk and not in memory: a plan made from this memory would be wrong."""
    before = everything(armin)
    armin._store._writer = Interrupting(armin._store._writer, "COMMIT", "after", error)
    with pytest.raises(error):
        armin.append(1, "user", "committed")
    for _ in range(2):
        with pytest.raises(StorageFailed, match="interrupted") as caught:
            armin.append(1, "user", "not this")
        assert (caught.value.reason, caught.value.retry) == ("interrupted", False)
    assert everything(armin) == before
    assert positions(armin._sink.events) == [1, 2]
    armin.close()
    again = open_engine()
    assert contents(messages(again, 1)) == ["before", "committed"]
    assert again.verify().equal


@pytest.mark.parametrize("after", [1, 2])
def test_an_interruption_while_memory_takes_a_commit_in_ends_all_writing(
    armin: Armin, open_engine, monkeypatch, after
):
    left = [after]

    def pack(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return pack_plain(*arguments)

    monkeypatch.setattr(derived, "pack_plain", pack)
    with pytest.raises(KeyboardInterrupt):
        armin.apply([append(1, "a", "b", "c")])
    with pytest.raises(StorageFailed, match="interrupted"):
        armin.create_session()
    assert contents(messages(armin, 1)) == ["before", "a", "b", "c"][: 1 + after]
    assert positions(armin.events().events) == [1, 2]
    monkeypatch.undo()
    armin.close()
    assert contents(messages(open_engine(), 1)) == ["before", "a", "b", "c"]


@pytest.mark.parametrize("after", range(1, 4))
def test_a_fold_that_was_interrupted_is_done_again_as_if_nothing_had_happened(
    armin: Armin, open_engine, monkeypatch, after
):
    """Sessions are changed in place: those that were must not count what they took in twice."""
    armin.apply([create(), create(), append(1, *map(str, range(20))), append(2, "x"), close(2)])
    before, left = everything(armin), [after]

    def extend(*arguments):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(*arguments)

    real = snapshot.SessionSnapshot.extend
    monkeypatch.setattr(snapshot.SessionSnapshot, "extend", extend)
    with pytest.raises(KeyboardInterrupt):
        armin.refresh_snapshot()
    monkeypatch.undo()
    assert everything(armin) == before
    assert armin.append(1, "user", "next").first_seq == armin.session(1).seq
    armin.refresh_snapshot()
    after_fold = everything(armin)
    assert armin.verify().equal
    armin.close()
    assert everything(open_engine()) == after_fold


def test_an_interruption_while_it_is_announced_keeps_engine_and_order(open_engine):
    class Impatient(RecordingSink):
        def emit(self, event) -> None:
            super().emit(event)
            if event.position == 2:
                raise KeyboardInterrupt

    sink = Impatient()
    armin = open_engine(sink=sink)
    with pytest.raises(KeyboardInterrupt):
        armin.apply([create(), append(1, "a", "b")])
    armin.append(1, "user", "c")
    assert contents(messages(armin, 1)) == ["a", "b", "c"]
    assert positions(sink.events) == [1, 2, 4]  # the effect at 3 is lost with the interrupted call
    assert armin.verify().equal


def test_two_threads_that_write_at_once_are_told(armin: Armin):
    """The second is refused while the first is within its commit; the first is not harmed."""
    inside, leave = threading.Event(), threading.Event()
    writer = armin._store._writer

    class Slow(Interrupting):
        def _run(self, call, statement, *rest):
            if statement == "COMMIT":
                inside.set()
                assert leave.wait(timeout=30)
            return call(statement, *rest)

    armin._store._writer = Slow(writer, "", "", KeyboardInterrupt)
    thread = threading.Thread(target=armin.append, args=(1, "user", "first"))
    thread.start()
    assert inside.wait(timeout=30)
    with pytest.raises(RuntimeError, match="two threads"):
        armin.append(1, "user", "second")
    leave.set()
    thread.join(timeout=30)
    assert contents(messages(armin, 1)) == ["before", "first"]
    assert armin.append(1, "user", "third").first_id == 3
    assert armin.verify().equal


def test_an_engine_may_be_handed_from_thread_to_thread(armin: Armin):
    for number in range(3):
        thread = threading.Thread(target=armin.append, args=(1, "user", str(number)))
        thread.start()
        thread.join(timeout=30)
    assert contents(messages(armin, 1)) == ["before", "0", "1", "2"]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (NewMessage(0, "\ud800", None, 1), UnicodeEncodeError),
        (NewMessage(2**70, "x", None, 1), struct.error),
    ],
)
def test_a_command_made_past_the_checks_raises_and_changes_nothing(armin: Armin, message, error):
    before = everything(armin)
    with pytest.raises(error):
        armin.apply([append(1, "good"), Append(1, (message,), None)])
    assert everything(armin) == before
    assert armin.append(1, "user", "after").first_id == 2
    assert armin.verify().equal


def test_something_that_is_no_command_raises_and_changes_nothing(armin: Armin):
    before = everything(armin)
    with pytest.raises(AssertionError):
        armin.apply([append(1, "good"), "append"])
    assert everything(armin) == before
    assert armin.append(1, "user", "after").first_id == 2
