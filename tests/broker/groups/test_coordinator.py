"""The state machine at its limits: sizes, work in a turn, deadlines, failed commits, rows that contradict."""

from __future__ import annotations

import pytest

from armin_broker import protocol
from armin_broker.groups import coordinator, leasing
from armin_broker.groups.commands import Ack, CreateGroup, Discard, DropGroup, Extend, Nack, Requeue
from armin_broker.groups.coordinator import Answer
from armin_broker.groups.polls import Poll
from armin_engine.errors import Conflict, CorruptDatabase, CursorInvalid, TooLarge
from groups_machine import Machine, leases, settings


@pytest.fixture
def machine() -> Machine:
    return Machine()


def names(got: list[tuple[str, int, int]]) -> tuple[str, ...]:
    return tuple(lease for lease, _, _ in got)


def positions(got: list[tuple[str, int, int]]) -> list[int]:
    return [position for _, position, _ in got]


def answered(answers: list[Answer], poll: Poll) -> bool:
    return any(answer.poll is poll for answer in answers)


# --- one turn, several commands ---


def test_two_acks_for_one_lease_in_one_turn_are_one_ack_and_a_duplicate(machine: Machine) -> None:
    machine.create()
    machine.session()
    ack = Ack("g", names(machine.lease()))
    (first, second), _ = machine.turn(ack, ack)
    assert (first["outcomes"][0]["ok"], "duplicate" in first["outcomes"][0]) == (True, False)
    assert second["outcomes"][0]["duplicate"] is True
    assert machine.group()["leased"] == 0


@pytest.mark.parametrize("ack_first", [True, False])
def test_of_an_ack_and_a_nack_in_one_turn_the_first_one_counts(machine: Machine, ack_first: bool) -> None:
    machine.create()
    machine.session()
    held = names(machine.lease())
    commands = [Ack("g", held), Nack("g", held, None, 0)]
    outcomes, _ = machine.turn(*(commands if ack_first else commands[::-1]))
    assert [outcome["outcomes"][0]["ok"] for outcome in outcomes] == [True, False]
    assert positions(machine.lease()) == ([] if ack_first else [1])


def test_a_group_created_twice_in_one_turn_is_created_once(machine: Machine) -> None:
    outcomes, _ = machine.turn(
        CreateGroup("g", settings()), CreateGroup("g", settings()), CreateGroup("g", settings(ordered=True))
    )
    assert ["duplicate" in outcome for outcome in outcomes[:2]] == [False, True]
    assert isinstance(outcomes[2], Conflict)
    assert (outcomes[2].reason, outcomes[2].field) == ("settings", "ordered")
    assert len(machine.restarted().groups) == 1


def test_a_group_dropped_and_created_again_in_one_turn_is_another_one(machine: Machine) -> None:
    machine.create()
    machine.session()
    held = names(machine.lease())
    outcomes, _ = machine.turn(DropGroup("g"), CreateGroup("g", settings()), Ack("g", held))
    assert outcomes[0] == {"dropped": True}
    assert outcomes[2]["outcomes"][0]["ok"] is False
    again = machine.lease()
    assert (positions(again), names(again) == held) == ([1], False)
    machine.restart()
    assert machine.do(Ack("g", names(again)))["outcomes"][0]["ok"] is True


def test_a_failed_turn_leaves_groups_as_they_were(machine: Machine) -> None:
    machine.create(max_attempts=1)
    machine.create("b")
    machine.append(machine.session(), 5)
    dead, held, free = names(machine.lease(3))
    machine.do(Nack("g", (dead,), "why", None))
    before = dict(machine.coordinator.groups["g"].taken), machine.group(), machine.group("b")
    machine.fails = True
    outcomes, answers = machine.turn(
        Ack("g", (held,)),
        Extend("g", (free,), 10),
        Requeue("g", None),
        DropGroup("b"),
        CreateGroup("b", settings(ordered=True)),
        CreateGroup("c", settings()),
        polls=(machine.poll(10),),
    )
    assert (outcomes, answers) == (["failed"] * 6, [])
    assert (dict(machine.coordinator.groups["g"].taken), machine.group(), machine.group("b")) == before
    assert sorted(machine.coordinator.groups) == ["b", "g"]
    machine.fails = False
    assert machine.do(Ack("g", (held,)))["outcomes"] == [{"lease": held, "ok": True}], "it was never acked"
    assert positions(machine.lease(10)) == [4, 5, 6]


def test_leases_of_a_vanished_poller_return_even_after_a_failed_commit(machine: Machine) -> None:
    machine.create(max_attempts=1)
    machine.session()
    held = names(machine.lease())
    machine.coordinator.give_back("g", held)
    assert machine.coordinator.deadline(machine.now) == machine.now
    machine.fails = True
    machine.turn()
    assert machine.group()["leased"] == 1
    machine.fails = False
    machine.turn()
    assert (machine.group()["waiting"], machine.coordinator.counters.returned) == (1, 1)
    ((lease, position, attempt),) = machine.lease()
    assert (position, attempt, lease != held[0]) == (1, 1, True), "it does not count, but is another delivery"


# --- bounds ---


def test_a_page_of_leases_is_bounded_in_bytes_but_has_one(machine: Machine) -> None:
    machine.create(types=frozenset(("message_appended",)))
    session = machine.session()
    machine.append(session, 30, "x" * 60_000)
    got = machine.lease(30)
    assert 15 < len(got) < 18, "a MiB of them"
    machine.append(session, 1, "x" * 200_000)
    assert len(machine.lease(30)) + len(got) == 31, "an elided one is small"


def test_the_cursor_rests_when_too_many_effects_are_taken(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "TAKEN_MAX", 5)
    machine.create()
    machine.append(machine.session(), 20)
    first = machine.lease(20)
    assert positions(first) == [1, 2, 3, 4, 5]
    poll = machine.poll(20, wait_ms=1000)
    _, answers = machine.turn(polls=(poll,))
    assert not answers
    _, answers = machine.turn(Ack("g", names(first)[:2]))
    assert positions(leases(answers, poll)) == [6, 7]
    machine.do(Nack("g", names(first)[2:], None, 0))
    assert positions(machine.lease(20)) == [3, 4, 5], "what waits is leased even so"


def test_an_ordered_group_holds_no_more_than_its_bound(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "TAKEN_MAX", 5)
    machine.create(ordered=True)
    busy = machine.session()
    machine.append(busy, 20)
    other = machine.session()
    assert positions(machine.lease(20)) == [1]
    assert (machine.group()["waiting"], machine.group()["cursor"]) == (4, 5)
    assert other == 2


def test_a_turn_looks_at_a_bounded_number_of_facts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "WORK_MAX", 100)
    machine.create(types=frozenset(("session_closed",)))
    machine.append(machine.session(), 250)
    poll = machine.poll()
    _, answers = machine.turn(polls=(poll,))
    assert not answers, "it is not answered before all has been looked at"
    turns = 1
    while not answers:
        assert machine.coordinator.deadline(machine.now) == machine.now
        _, answers = machine.turn()
        turns += 1
    assert (leases(answers, poll), turns) == ([], 3)
    assert machine.coordinator.deadline(machine.now) is None


def test_everybody_gets_his_turn_where_work_is_cut_short(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasing, "WORK_MAX", 5 * leasing.TAKING)
    machine.append(machine.session(), 500)
    for name in "abc":
        machine.create(name)
    polls = [machine.poll(1000, name, wait_ms=10) for name in "abc" for _ in range(2)]
    _, answers = machine.turn(polls=tuple(polls))
    served = [answer.poll.group for answer in answers]
    for _ in range(5):
        _, answers = machine.turn()
        served += [answer.poll.group for answer in answers]
    assert sorted(served) == ["a", "a", "b", "b", "c", "c"]
    assert sorted(served[:3]) == ["a", "b", "c"]


def test_facts_passed_over_are_stored_now_and_then(machine: Machine) -> None:
    machine.create(types=frozenset(("session_closed",)))
    machine.append(machine.session(), 100)
    assert machine.lease() == []
    assert (machine.group()["behind"], machine.restarted().groups["g"].cursor) == (0, 0)
    machine.append(1, 30_000)
    poll = machine.poll(wait_ms=10_000)
    machine.turn(polls=(poll,))
    while machine.coordinator.deadline(machine.now) == machine.now:
        machine.turn()
    assert machine.restarted().groups["g"].cursor > 20_000


def test_expiries_are_done_in_bounded_turns(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "EXPIRIES_MAX", 10)
    machine.create()
    machine.append(machine.session(), 24)
    machine.lease(25, lease_ms=100)
    machine.now += 100
    left = []
    for _ in range(3):
        machine.turn()
        left.append(machine.group()["leased"])
    assert left == [15, 5, 0]


def test_acked_leases_leave_no_deadlines_behind(machine: Machine) -> None:
    machine.create()
    session = machine.session()
    for _ in range(50):
        machine.append(session, 100)
        machine.do(Ack("g", names(machine.lease(1000, lease_ms=86_400_000))))
    group = machine.coordinator.groups["g"]
    assert len(group._expiries) < 1000
    assert machine.coordinator.deadline(machine.now) is None


# --- the clock ---


def test_the_deadline_is_the_next_thing_to_do(machine: Machine) -> None:
    machine.create()
    machine.append(machine.session(), 1)
    assert machine.coordinator.deadline(machine.now) is None
    held = names(machine.lease(2, lease_ms=5000))
    assert machine.coordinator.deadline(machine.now) == machine.now + 5000
    machine.do(Nack("g", held[:1], None, 100))
    assert machine.coordinator.deadline(machine.now) == machine.now + 5000, "nobody waits for it"
    machine.turn(polls=(machine.poll(wait_ms=3000),))
    assert machine.coordinator.deadline(machine.now) == machine.now + 100
    machine.turn(polls=(machine.poll(wait_ms=50),))
    assert machine.coordinator.deadline(machine.now) == machine.now + 50


def test_a_halted_group_with_pollers_sleeps(machine: Machine) -> None:
    machine.create(max_attempts=1, on_dead="halt")
    machine.append(machine.session(), 5)
    held = names(machine.lease(2))
    machine.do(Nack("g", held[:1], None, None))
    poll = machine.poll(wait_ms=60_000)
    _, answers = machine.turn(polls=(poll,))
    assert not answers
    assert machine.group()["halted"] is True
    machine.now += 29_000
    machine.turn()
    assert machine.coordinator.deadline(machine.now) == machine.now + 1000, "the end of a lease"
    outcomes, answers = machine.turn(Ack("g", held[1:]))
    assert outcomes[0]["outcomes"][0]["ok"] is True
    assert not answers
    _, answers = machine.turn(Discard("g", (1,)))
    assert positions(leases(answers, poll)) == [3]


def test_the_backoff_doubles_up_to_an_hour(machine: Machine) -> None:
    machine.create(max_attempts=1000, backoff_ms=1000)
    machine.session()
    waits = []
    for _ in range(40):
        (lease, *_), *_ = machine.lease()
        machine.do(Nack("g", (lease,), None, None))
        due = machine.coordinator.groups["g"].taken[1].due
        waits.append(due - machine.now)
        machine.now = due - 1
        assert machine.lease() == []
        machine.now = due
    assert waits[:4] == [1000, 2000, 4000, 8000]
    assert waits[-1] == max(waits) == 3_600_000


def test_an_ack_that_comes_before_the_expiry_is_noticed_still_counts(machine: Machine) -> None:
    machine.create()
    machine.session()
    held = names(machine.lease(lease_ms=10))
    machine.now += 5000
    assert machine.do(Ack("g", held))["outcomes"] == [{"lease": held[0], "ok": True}]


# --- polls ---


def test_polls_are_served_in_their_order_and_a_resent_one_keeps_its_place(machine: Machine) -> None:
    machine.create()
    first, second = machine.poll(wait_ms=1000, request="a"), machine.poll(wait_ms=1000)
    machine.turn(polls=(first, second))
    again = machine.poll(wait_ms=5000, request="a")
    _, answers = machine.turn(polls=(again,))
    assert leases(answers, first) == []
    machine.append(machine.session())
    _, answers = machine.turn()
    assert [answer.poll for answer in answers] == [again, second]
    assert positions(leases(answers, again)) == [1]


def test_no_more_polls_than_the_limit_wait(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "POLLS_MAX", 3)
    machine.create()
    polls = [machine.poll(wait_ms=1000) for _ in range(4)]
    _, answers = machine.turn(polls=tuple(polls))
    (answer,) = answers
    assert answer.poll is polls[3]
    assert isinstance(answer.error, TooLarge)
    assert (answer.error.field, answer.error.limit, answer.error.retry) == ("polls", 3, True)
    machine.session()
    _, answers = machine.turn(polls=(machine.poll(),))
    assert answered(answers, polls[0]), "what can be served is"


def test_no_more_groups_than_the_limit_exist(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "GROUPS_MAX", 2)
    machine.create("a")
    machine.create("b")
    error = machine.create("c")
    assert isinstance(error, TooLarge)
    assert (error.field, error.limit) == ("groups", 2)
    assert "duplicate" in machine.create("b")


def test_a_dead_letter_page_is_bounded_and_goes_on(machine: Machine) -> None:
    machine.create(max_attempts=1)
    machine.append(machine.session(), 40, "x" * 60_000)
    while held := names(machine.lease(50)):
        machine.do(Nack("g", held, "no", None))
    seen: list[int] = []
    more = True
    while more:
        letters, more = machine.coordinator.dead_letters("g", seen[-1] if seen else 0, 30)
        assert len(letters) < 19
        seen += [letter.effect.position for letter in letters]
    assert seen == list(range(1, 42))
    with pytest.raises(CursorInvalid):
        machine.coordinator.dead_letters("g", 42, 10)


# --- rows that contradict ---


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE worker_groups SET cursor = 99", "cursor of worker group 'g' is 99, but the log ends at 3"),
        ("UPDATE worker_groups SET cursor = -1", "cursor"),
        ("UPDATE worker_groups SET settings = 'x'", "settings"),
        ("UPDATE worker_groups SET settings = '[]'", "settings"),
        ("UPDATE worker_groups SET settings = '{\"types\":null}'", "settings"),
        ("UPDATE worker_groups SET name = x'00'", "name"),
        ("UPDATE taken_effects SET position = 77 WHERE position = 1", "position 77"),
        ("UPDATE taken_effects SET state = 9", "state"),
        ("UPDATE taken_effects SET attempts = 'many'", "state"),
        ("UPDATE taken_effects SET due = -5", "state"),
        ("UPDATE taken_effects SET reason = x'00'", "texts"),
        ("UPDATE taken_effects SET group_id = 8", "worker group 8"),
    ],
)
def test_rows_that_contradict_the_log_are_refused_at_the_start(
    machine: Machine, damage: str, words: str
) -> None:
    machine.create()
    machine.append(machine.session(), 2)
    machine.lease(2)
    machine.file.execute(damage)
    with pytest.raises(CorruptDatabase, match=words):
        machine.restart()


def test_a_deadline_from_a_clock_that_was_wrong_is_cut_at_the_start(machine: Machine) -> None:
    machine.create()
    machine.session()
    machine.lease()
    machine.file.execute("UPDATE taken_effects SET due = due + 1000000000000")
    machine.restart()
    assert machine.coordinator.deadline(machine.now) == machine.now + protocol.LEASE_MS_MAX


def test_a_resent_ack_is_known_within_its_group_alone(machine: Machine) -> None:
    machine.create("a")
    machine.create("b")
    machine.session()
    held = names(machine.lease(name="a"))
    machine.do(Ack("a", held))
    assert machine.do(Ack("a", held))["outcomes"][0].get("duplicate") is True
    assert machine.do(Ack("b", held))["outcomes"][0]["ok"] is False
