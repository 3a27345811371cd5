"""A worker's state machine: what it asks, when, and what it makes of the answers. No engine, no clock."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from armin.calls import Call
from armin.effect import Effect, Failure
from armin.errors import GroupNotFound, LeaseLost, NoReply, StorageFailed
from armin.results import Event, Lease, Leases, Outcome, Outcomes
from armin.working import GATHER, POLL_MS, RETRY_MAX, Ask, Begin, Line, Wait, Work, patience

TIMEOUT = 5.0
LEASE_MS = 3000  # extended once a second


def lease(position: int, attempt: int = 1) -> Lease:
    return Lease(f"L{position}.{attempt}", position, attempt, 0, Event(position, "session_created", position))


def leases(*positions: int) -> Leases:
    return Leases(tuple(lease(position) for position in positions), 99)


def outcomes(call: Call[Any], *lost: str, dead: bool = False) -> Outcomes:
    return Outcomes(
        tuple(
            Outcome(name, ok=False, error=LeaseLost("gone"))
            if name in lost
            else Outcome(name, ok=True, dead=dead)
            for name in call.fields["leases"]
        ),
        99,
    )


def silence() -> NoReply:
    return NoReply("nobody", reason="silent", sent=True)


class Bench:
    """Drives a Work by hand: time stands still unless told, and every answer is given by the test."""

    def __init__(self, concurrency: int = 1) -> None:
        tokens: Iterator[int] = count(1)
        self.now = 100.0
        self.work = Work(
            "g",
            concurrency=concurrency,
            lease_ms=LEASE_MS,
            timeout=TIMEOUT,
            tokens=lambda: f"t{next(tokens)}",
        )

    def actions(self) -> list[Any]:
        """All there is to do now, up to the wait or the end."""
        found: list[Any] = []
        while True:
            action = self.work.next(self.now)
            found.append(action)
            if action is None or isinstance(action, Wait):
                return found

    def one(self) -> Any:
        """The only thing to do now."""
        first, *rest = self.actions()
        assert not any(isinstance(action, Ask | Begin) for action in rest), (first, rest)
        return first

    def asked(self, op: str) -> Call[Any]:
        """The only thing to do now, which is a command."""
        action = self.one()
        assert isinstance(action, Ask), action
        assert action.call.op == op, action
        assert (action.line is Line.LEASES) == (op == "lease" and action.call.fields["wait_ms"] > 0)
        return action.call

    def begin(self, *positions: int) -> list[Effect]:
        """Answer the poll that is asked now, and begin what it gave."""
        self.asked("lease")
        self.give(*positions)
        actions = self.actions()
        begun = [action.effect for action in actions if isinstance(action, Begin)]
        assert [effect.position for effect in begun] == list(positions)
        return begun

    def give(self, *positions: int) -> None:
        self.work.answered(Line.LEASES, leases(*positions), self.now)

    def settle(self, result: Any) -> None:
        self.work.answered(Line.OUTCOMES, result, self.now)

    def waits_until(self) -> float:
        wait = self.one()
        assert isinstance(wait, Wait), wait
        return wait.until


def test_it_leases_no_more_than_it_can_begin_and_polls_once_at_a_time() -> None:
    bench = Bench(concurrency=3)
    call = bench.asked("lease")
    assert (call.fields["max"], call.fields["wait_ms"], call.fields["lease_ms"]) == (3, POLL_MS, LEASE_MS)
    bench.give(1, 2)
    actions = bench.actions()
    assert [action.effect.position for action in actions if isinstance(action, Begin)] == [1, 2]
    [poll] = [action.call for action in actions if isinstance(action, Ask)]
    assert poll.fields["max"] == 1
    assert poll.fields["request"] != call.fields["request"]
    bench.give(3)
    assert [type(action) for action in bench.actions()] == [Begin, Wait]


def polls(actions: list[Any]) -> list[int]:
    """Places that these actions poll for."""
    calls = [action.call for action in actions if isinstance(action, Ask)]
    return [call.fields["max"] for call in calls if call.op == "lease"]


def test_a_few_free_places_wait_a_moment_for_more_and_half_of_all_wait_for_none() -> None:
    bench = Bench(concurrency=6)
    effects = bench.begin(1, 2, 3, 4, 5, 6)
    bench.work.finished(effects[0], None)
    bench.now += 1.0
    bench.work.finished(effects[1], None)
    *actions, wait = bench.actions()
    assert polls(actions) == []
    assert wait.until == pytest.approx(bench.now + GATHER)
    bench.work.finished(effects[2], None)
    assert polls(bench.actions()) == [3]


def test_a_few_free_places_wait_no_longer_than_that_however_long_the_other_handlers_take() -> None:
    bench = Bench(concurrency=6)
    effects = bench.begin(1, 2, 3, 4, 5, 6)
    bench.work.finished(effects[0], None)
    *_, wait = bench.actions()
    bench.now = wait.until - GATHER / 2
    bench.work.finished(effects[1], None)
    assert polls(bench.actions()) == []
    bench.now = wait.until
    assert polls(bench.actions()) == [2]
    bench.give(7, 8)
    assert polls(bench.actions()) == []
    bench.work.finished(effects[2], None)
    *actions, wait = bench.actions()
    assert polls(actions) == []
    assert wait.until == pytest.approx(bench.now + GATHER)


def test_what_is_handled_while_an_ack_is_under_way_goes_together_in_the_next() -> None:
    bench = Bench(concurrency=3)
    one, two, three = bench.begin(1, 2, 3)
    bench.work.finished(one, None)
    actions = [action for action in bench.actions() if isinstance(action, Ask)]
    assert [action.call.op for action in actions] == ["lease", "ack"]
    first = actions[1].call
    assert first.fields["leases"] == ["L1.1"]
    bench.work.finished(three, None)
    bench.work.finished(two, None)
    bench.waits_until()
    bench.settle(outcomes(first))
    second = bench.asked("ack")
    assert second.fields["leases"] == ["L3.1", "L2.1"]
    bench.settle(outcomes(second))
    assert bench.work.counters.handled == 3


def test_a_lost_reply_to_a_poll_is_asked_for_again_with_the_same_token_and_its_leases_renewed() -> None:
    bench = Bench()
    first = bench.asked("lease")
    bench.work.unanswered(Line.LEASES, silence(), bench.now)
    bench.now = bench.waits_until()
    again = bench.asked("lease")
    assert again.fields == first.fields
    bench.give(1)
    begin, extend, _ = bench.actions()
    assert begin.effect.position == 1
    assert extend.call.op == "extend"  # who knows how old the lease is


def test_a_lost_ack_is_repeated_and_a_lease_that_is_gone_by_then_is_counted() -> None:
    bench = Bench(concurrency=2)
    for effect in bench.begin(1, 2):
        bench.work.finished(effect, None)
    assert {action.call.op for action in bench.actions() if isinstance(action, Ask)} == {"lease", "ack"}
    bench.work.unanswered(Line.OUTCOMES, silence(), bench.now)
    bench.now = bench.waits_until()
    again = bench.asked("ack")
    assert again.fields["leases"] == ["L1.1", "L2.1"]
    bench.settle(outcomes(again, "L2.1"))
    assert (bench.work.counters.handled, bench.work.counters.lost) == (1, 1)
    assert bench.work.error is None


def test_pauses_between_attempts_double_up_to_a_bound() -> None:
    bench = Bench()
    pauses = []
    for _ in range(8):
        bench.asked("lease")
        bench.work.unanswered(Line.LEASES, StorageFailed("disk full"), bench.now)
        until = bench.waits_until()
        pauses.append(until - bench.now)
        bench.now = until
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.1
    assert pauses[-1] == pytest.approx(RETRY_MAX)


def test_a_long_handler_keeps_its_lease_and_is_told_when_it_is_lost_all_the_same() -> None:
    bench = Bench()
    [effect] = bench.begin(1)
    until = bench.waits_until()
    assert until - bench.now == pytest.approx(LEASE_MS / 1000 / 3)
    bench.now = until
    extend = bench.asked("extend")
    assert extend.fields == {"group": "g", "leases": ["L1.1"], "lease_ms": LEASE_MS}
    bench.settle(outcomes(extend))
    assert not effect.lost
    bench.now = bench.waits_until()
    bench.settle(outcomes(bench.asked("extend"), "L1.1"))
    assert effect.lost
    assert bench.work.counters.lost == 1
    bench.work.finished(effect, None)
    assert bench.asked("lease")  # no ack: it is another worker's now
    assert bench.work.counters.lost == 1


def test_failures_of_one_kind_go_back_together() -> None:
    bench = Bench(concurrency=3)
    one, two, three = bench.begin(1, 2, 3)
    bench.work.finished(one, Failure("boom"))
    bench.work.finished(two, Failure("later", 50))
    bench.work.finished(three, Failure("boom"))
    _, nack, *_ = bench.actions()
    assert (nack.call.op, nack.call.fields["leases"]) == ("nack", ["L1.1", "L3.1"])
    assert nack.call.fields["reason"] == "boom"
    assert nack.call.fields["delay_ms"] is None
    bench.settle(outcomes(nack.call, dead=True))
    again = bench.asked("nack")
    assert (again.fields["leases"], again.fields["delay_ms"]) == (["L2.1"], 50)
    bench.settle(outcomes(again))
    assert (bench.work.counters.failed, bench.work.counters.dead) == (3, 2)


def test_stop_with_nothing_under_way_is_the_end() -> None:
    bench = Bench()
    bench.work.stop()
    assert bench.actions() == [None]


def test_stop_recalls_the_parked_poll_and_finishes_what_it_was_given_once() -> None:
    bench = Bench(concurrency=2)
    parked = bench.asked("lease")
    bench.work.stop()
    recall = bench.one()
    assert recall.line is Line.OUTCOMES
    assert recall.call.fields == {**parked.fields, "wait_ms": 0}
    bench.settle(leases(1))
    begin = bench.one()
    bench.give(1)  # the poll's own answer names the same lease
    assert isinstance(bench.one(), Wait)
    bench.work.finished(begin.effect, None)
    ack = bench.asked("ack")
    bench.settle(outcomes(ack))
    assert bench.actions() == [None]
    assert bench.work.counters.handled == 1


@pytest.mark.parametrize("recalled_first", [False, True])
def test_after_a_stop_both_answers_are_awaited(recalled_first: bool) -> None:
    bench = Bench()
    bench.asked("lease")
    bench.work.stop()
    assert isinstance(bench.one(), Ask)
    answers = [bench.give, lambda: bench.settle(leases())]
    first, second = reversed(answers) if recalled_first else answers
    first()
    assert isinstance(bench.one(), Wait)
    second()
    assert bench.actions() == [None]


def test_a_stop_while_the_engine_is_away_ends_and_counts_what_could_not_be_said() -> None:
    bench = Bench(concurrency=2)
    for effect in bench.begin(1, 2):
        bench.work.finished(effect, None)
    bench.actions()
    bench.work.stop()
    begun = bench.now
    for _ in range(100):
        if bench.work._settlement is not None:
            bench.work.unanswered(Line.OUTCOMES, silence(), bench.now)
        if bench.work._polling:
            bench.work.unanswered(Line.LEASES, silence(), bench.now)
        *_, last = bench.actions()
        if last is None:
            break
        bench.now = last.until
    else:
        pytest.fail("it never ends")
    assert bench.now - begun <= TIMEOUT + RETRY_MAX
    assert bench.work.counters.lost == 2
    assert bench.work.error is None


def test_a_dropped_group_ends_the_worker_when_what_it_holds_is_finished() -> None:
    bench = Bench(concurrency=2)
    [effect] = bench.begin(1)
    bench.work.unanswered(Line.LEASES, GroupNotFound("dropped"), bench.now)
    assert isinstance(bench.one(), Wait)
    bench.work.finished(effect, None)
    bench.asked("ack")
    bench.work.unanswered(Line.OUTCOMES, GroupNotFound("dropped"), bench.now)
    assert bench.actions() == [None]
    assert isinstance(bench.work.error, GroupNotFound)
    assert bench.work.counters.lost == 1


def test_redelivered_effects_are_counted() -> None:
    bench = Bench()
    bench.asked("lease")
    bench.work.answered(Line.LEASES, Leases((lease(1, attempt=2),), 9), bench.now)
    begin = bench.one()
    assert begin.effect.attempt == 2
    assert bench.work.counters.redelivered == 1


def test_answers_are_awaited_no_longer_than_leases_can_bear() -> None:
    assert patience(5.0, 30_000) == 1.0
    assert patience(0.2, 30_000) == 0.2
    assert patience(5.0, 400) == pytest.approx(0.1)
    assert patience(5.0, 10) == 0.05
