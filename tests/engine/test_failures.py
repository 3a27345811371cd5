"""Failed commits are told of in the log, and never fill it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from armin_engine import StorageFailed
from armin_engine.failures import FailureLog

DISK_FULL = sqlite3.OperationalError("database or disk is full")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures(clock: Clock) -> FailureLog:
    return FailureLog(clock)


def test_a_flood_of_failures_is_one_line_a_second(failures: FailureLog, clock: Clock, caplog):
    for _ in range(3):
        for _ in range(1000):
            failures.failed(2, DISK_FULL)
        clock.now += 1.0
    failures.failed(2, DISK_FULL)
    first, *later = [record.getMessage() for record in caplog.records]
    assert first == "a commit of 2 facts failed: database or disk is full"
    assert later == [f"{first} (999 more have failed since the last such line)"] * 3
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_the_end_of_the_failures_is_one_line_with_those_untold(failures: FailureLog, caplog):
    for _ in range(5):
        failures.failed(1, DISK_FULL)
    caplog.clear()
    for _ in range(5):
        failures.succeeded()
    (record,) = caplog.records
    assert record.getMessage() == "commits succeed again; 4 more had failed"


def test_success_alone_says_nothing(failures: FailureLog, caplog):
    failures.succeeded()
    assert caplog.records == []


def test_failures_between_successes_do_not_fill_the_log_either(failures: FailureLog, clock: Clock, caplog):
    for _ in range(1000):
        failures.failed(1, DISK_FULL)
        failures.succeeded()
    assert len(caplog.records) == 2
    clock.now += 1.0
    failures.failed(1, DISK_FULL)
    assert "(999 more" in caplog.records[-1].getMessage()


def test_an_engine_that_cannot_commit_tells_so_and_when_it_can_again(open_engine, path, caplog):
    open_engine().close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER boom BEFORE INSERT ON messages WHEN new.content = 'boom'"
            " BEGIN SELECT raise(ABORT, 'injected'); END"
        )
    armin = open_engine()
    armin._store._failures = FailureLog(Clock())
    armin.create_session()
    for _ in range(50):
        with pytest.raises(StorageFailed):
            armin.append(1, "user", "boom")
    armin.append(1, "user", "fine")
    armin.append(1, "user", "fine")
    assert [record.getMessage() for record in caplog.records] == [
        "a commit of 1 facts failed: injected",
        "commits succeed again; 49 more had failed",
    ]
