"""What `stats` counts and times: buckets, windows, rates; the figures of a running engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from armin_broker.statistics import RATE_S, WINDOW_S, Distribution, bucket_of, upper_end
from harness import Engine, Peer, failing_writes, wait_until

NUMBERS = st.integers(1, 10**9)


@given(NUMBERS)
def test_a_bucket_holds_its_numbers_and_is_narrow(number: int) -> None:
    bucket = bucket_of(number)
    assert upper_end(bucket - 1) < number <= upper_end(bucket)
    assert upper_end(bucket) - upper_end(bucket - 1) <= max(1, number / 16 + 1)


@pytest.mark.parametrize("power", range(31))
def test_powers_of_two_end_buckets(power: int) -> None:
    assert upper_end(bucket_of(1 << power)) == 1 << power
    assert bucket_of((1 << power) + 1) == bucket_of(1 << power) + 1


@given(st.lists(NUMBERS, min_size=1, max_size=200))
def test_percentiles_are_the_numbers_within_a_bucket(numbers: list[int]) -> None:
    distribution = Distribution()
    for count, number in enumerate(numbers):
        distribution.record(number)
        if count % 7 == 0:
            distribution.end_second()
    found = distribution.percentiles(0.5, 0.99)
    if len(numbers) > 7 * WINDOW_S:
        return
    ordered = sorted(numbers)
    exact = [ordered[max(-(-len(ordered) * share // 100), 1) - 1] for share in (50, 99)]
    assert found is not None
    assert [bucket_of(each) for each in found] == [*map(bucket_of, exact), bucket_of(ordered[-1])]
    assert found[-1] == max(numbers)
    assert sum(distribution.counts().values()) == distribution.count == len(numbers)
    assert distribution.sum == sum(numbers)


def test_what_is_older_than_the_window_leaves_percentiles_but_not_the_counts() -> None:
    distribution = Distribution()
    distribution.record(1_000_000)
    distribution.end_second()
    for _ in range(WINDOW_S - 1):
        distribution.record(5)
        distribution.end_second()
    assert distribution.percentiles(1.0) == [1_000_000, 1_000_000]
    distribution.end_second()
    assert distribution.percentiles(0.5, 1.0) == [5, 5, 5]
    for _ in range(WINDOW_S):
        distribution.end_second()
    assert distribution.percentiles(0.5) is None
    assert distribution.count == WINDOW_S


# --- a running engine -----------------------------------------------------------------------------


def test_nothing_is_said_of_commits_before_the_first_one(peer: Peer) -> None:
    stats = peer.ask("stats")
    ends = ("p50", "p99", "max")
    assert [stats[f"{name}_{end}"] for name in ("group_size", "commit_ms") for end in ends] == [None] * 6
    assert (stats["refreshed_at"], stats["refresh_ms"]) == (None, None)
    assert (stats["facts_per_s"], stats["commits_per_s"]) == (0, 0)


def test_commits_are_timed_and_their_writes_counted(peer: Peer) -> None:
    peer.ask("create_session")
    append = {"op": "append", "session_id": 1, "role": "user", "content": "x"}
    peer.ask("pipeline", commands=[append] * 40)
    stats = peer.ask("stats")
    assert (stats["group_size_p50"], stats["group_size_max"]) == (1, 40)
    assert 0 < stats["commit_ms_p50"] <= stats["commit_ms_p99"] <= stats["commit_ms_max"] < 10_000
    assert stats["facts_per_s"] > 41 / (RATE_S + 1)
    assert stats["wal_bytes"] > 4096


def test_rates_end_when_nobody_writes(peer: Peer) -> None:
    peer.ask("create_session")
    assert peer.ask("stats")["facts_per_s"] > 0
    wait_until(lambda: peer.ask("stats")["facts_per_s"] == 0)


def test_a_refresh_is_dated_and_timed(peer: Peer) -> None:
    created = peer.ask("create_session")["session"]["created_at"]
    peer.ask("refresh_snapshot")
    stats = peer.ask("stats")
    assert created <= stats["refreshed_at"] < created + 60_000
    assert 0 < stats["refresh_ms"] < 10_000
    peer.ask("refresh_snapshot")
    assert peer.ask("stats")["refreshes"] == 1, "there was nothing to do"


def test_recovery_is_counted_and_timed(engine: Engine) -> None:
    with engine.peer() as peer:
        assert peer.ask("stats")["recovered_facts"] == 0
        peer.ask("create_session")
    engine.kill()
    with engine.start().peer() as peer:
        stats = peer.ask("stats")
    assert stats["recovered_facts"] == 1
    assert 0 < stats["recovery_ms"] < 10_000


def test_a_failed_commit_is_no_commit(engine: Engine, peer: Peer) -> None:
    with failing_writes(engine):
        assert not peer.ask("create_session")["ok"]
    stats = peer.ask("stats")
    assert (stats["commits"], stats["commits_failed"], stats["commit_ms_max"]) == (0, 1, None)


def test_connections_are_counted(engine: Engine, peer: Peer) -> None:
    wait_until(lambda: peer.ask("stats")["connections_ipc"] == 1, what="its own is counted")
    with engine.peer() as other:
        other.ask("ping")
        other.open(zmq.SUB, engine.endpoint("live"), b"")
        wait_until(lambda: peer.ask("stats")["followers"] == 1)
        wait_until(lambda: peer.ask("stats")["connections_ipc"] == 3)
    wait_until(lambda: peer.ask("stats")["connections_ipc"] == 1)


# --- health ---------------------------------------------------------------------------------------


def health(peer: Peer) -> tuple[bool, bool, str, list[str]]:
    reply = peer.ask("health")
    return reply["live"], reply["ready"], reply["state"], reply["reasons"]


def test_an_engine_whose_commits_fail_is_not_ready_until_one_is_made(engine: Engine, peer: Peer) -> None:
    assert health(peer) == (True, True, "serving", [])
    with failing_writes(engine):
        assert not peer.ask("create_session")["ok"]
        assert health(peer) == (True, False, "degraded", ["commits_failing"])
    assert peer.ask("create_session")["ok"]
    assert health(peer) == (True, True, "serving", [])


def test_a_failure_of_long_ago_is_forgotten(engine: Engine, peer: Peer) -> None:
    with failing_writes(engine):
        assert not peer.ask("create_session")["ok"]
    wait_until(lambda: peer.ask("health")["ready"])


def test_an_engine_that_refuses_writes_is_not_ready(engine: Engine, peer: Peer) -> None:
    assert peer.ask("create_session")["ok"]
    (engine.directory / "armin.db-wal").unlink()
    assert not peer.ask("create_session")["ok"]
    assert health(peer) == (True, False, "refusing_writes", ["file_changed"])


def test_an_engine_over_its_memory_budget_is_not_ready(short_dir: Path) -> None:
    engine = Engine(short_dir / "e", "--memory", "1").start()
    try:
        with engine.peer() as peer:
            peer.ask("create_session")
            assert peer.ask("health")["ready"]
            peer.ask("append", session_id=1, role="user", content="x" * (2 << 20))
            assert health(peer) == (True, False, "degraded", ["memory_over_budget"])
    finally:
        engine.stop()
