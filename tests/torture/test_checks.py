"""Each check holds on a testimony in which all is well, and speaks when one thing in it is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from armin.torture.checks import CHECKS
from armin.torture.facts import Fact
from armin.torture.follows import LOG
from armin.torture.handling import ANY_ORDER, ORDERED
from armin.torture.testimony import Follow, Handling, Outcome, Rest, Write
from armin.torture.testimony import Testimony as Account

SENT_AT = 1_700_000_000_000


def message(position: int, session_id: int, message_id: int, seq: int, tag: str) -> Fact:
    return Fact(position, "message_appended", session_id, message_id, seq, SENT_AT, tag, f"digest of {tag}")


def log() -> list[Fact]:
    return [
        Fact(1, "session_created", 1, 0, 0, SENT_AT, "w.1", "about w.1"),
        message(2, 1, 1, 1, "w.2/0"),
        Fact(3, "session_created", 2, 0, 0, SENT_AT, "v.1", "about v.1"),
        message(4, 1, 2, 2, "w.3/0"),
        message(5, 1, 3, 3, "w.3/1"),
        message(6, 2, 4, 1, "v.2/0"),
        Fact(7, "session_closed", 1),
    ]


def write(name: str, op: str, session_id: int, *digests: str, **reply: object) -> Write:
    outcome = Outcome.ACKNOWLEDGED if reply else Outcome.UNKNOWN
    return Write(name, op, session_id, list(digests), True, outcome, dict(reply))


def writes() -> list[Write]:
    return [
        write("w.1", "create_session", 0, "about w.1", id=1, created_at=SENT_AT),
        write("w.2", "append", 1, "digest of w.2/0", first=[1, 1, 2], created_at=SENT_AT, count=1),
        write("v.1", "create_session", 0, "about v.1", id=2, created_at=SENT_AT),
        write(
            "w.3",
            "append_many",
            1,
            "digest of w.3/0",
            "digest of w.3/1",
            first=[2, 2, 4],
            created_at=SENT_AT,
            count=2,
        ),
        write("v.2", "append", 2, "digest of v.2/0"),  # unknown, and there
        write("v.3", "append", 2, "digest of v.3/0"),  # unknown, and not there
        replace(write("v.4", "append", 1, "digest of v.4/0"), outcome=Outcome.REFUSED),
        write("w.4", "close_session", 1, at=7),
    ]


def all_is_well() -> Account:
    facts = log()
    of_session = [replace(fact, position=0) for fact in facts if fact.session_id == 1 and fact.message_id]
    return Account(
        writes={write.name: write for write in writes()},
        follows={
            "everything": Follow("everything", LOG, log()),
            "session 1": Follow("session 1", 1, of_session, ended=True),
        },
        handlings=[
            Handling(group, fact.position, fact.session_id, fact.position, fact.position + 0.5, handled=True)
            for group in (ORDERED, ANY_ORDER)
            for fact in facts
            if fact.position != 6
        ]
        + [Handling(group, 6, 2, 9.0, 9.5) for group in (ORDERED, ANY_ORDER)],
        announced=log(),
        emitted=log()[2:],
        rest=Rest(
            engine=log(),
            file=log(),
            sessions={1: (True, 3), 2: (False, 1)},
            file_sessions={1: True, 2: False},
            keys=[("w.1", 0, 1, 1), ("w.2", 1, 2, 1), ("v.1", 0, 3, 1), ("w.3", 1, 4, 2), ("v.2", 2, 6, 1)],
            dead={ORDERED: {6}, ANY_ORDER: {6}},
            taken={ORDERED: 7, ANY_ORDER: 7},
        ),
    )


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_check_is_silent_where_all_is_well(check: Callable[[Account], object]) -> None:
    assert list(check(all_is_well())) == []  # type: ignore[call-overload]


Doctor = Callable[[Account], object]
ONCE = "acknowledged writes are in the log once"
WHOLE = "no write is there twice, in part, or though refused"
NOBODY = "nothing is there that nobody wrote"
ORDER = "each writer's order is kept"
DENSE = "positions and seqs are dense"
CLOSED = "closed sessions stay closed"
SAME = "memory equals the file, the chain holds"
KEYS = "keys are kept"
FOLLOWED = "followers were given everything once"
COMMITTED = "nothing was announced that was not committed"
EFFECTS = "effects were handled, or are dead letters"
PASSED = "an ordered group keeps each session's order"
SEEN = "nothing was wrong on the way"


def changed(testimony: Account, place: int, **fields: object) -> None:
    for facts in (testimony.rest.file, testimony.rest.engine):
        facts[place] = replace(facts[place], **fields)  # type: ignore[arg-type]


def both(act: Callable[[list[Fact]], object]) -> Doctor:
    return lambda it: (act(it.rest.file), act(it.rest.engine))


DOCTORED: list[tuple[str, str, Doctor]] = [
    (ONCE, "an acknowledged message is lost", both(lambda facts: facts.pop(1))),
    (ONCE, "an acknowledged message is there twice", both(lambda facts: facts.append(facts[1]))),
    (ONCE, "another position", lambda it: it.writes["w.2"].reply.update(first=[1, 1, 3])),
    (ONCE, "another id", lambda it: changed(it, 1, message_id=9)),
    (ONCE, "another seq", lambda it: changed(it, 1, seq=9)),
    (ONCE, "another time", lambda it: changed(it, 4, created_at=SENT_AT + 1)),
    (ONCE, "another content", lambda it: changed(it, 1, digest="digest of something")),
    (ONCE, "another session's id", lambda it: changed(it, 0, session_id=9)),
    (ONCE, "an acknowledged session is lost", both(lambda facts: facts.pop(2))),
    (ONCE, "an acknowledged closure is lost", both(lambda facts: facts.pop(6))),
    (ONCE, "half a batch acknowledged", lambda it: it.writes["w.3"].reply.update(count=1)),
    (WHOLE, "an unknown write is there twice", both(lambda facts: facts.append(facts[5]))),
    (WHOLE, "half of a batch is there", both(lambda facts: facts.pop(4))),
    (WHOLE, "a refused write is there", lambda it: changed(it, 5, tag="v.4/0")),
    (NOBODY, "a message of nobody", lambda it: changed(it, 5, tag="nobody")),
    (NOBODY, "a message without a tag", lambda it: changed(it, 5, tag=None)),
    (NOBODY, "other content than was written", lambda it: changed(it, 5, digest="digest of rot")),
    (NOBODY, "a closure of nobody", lambda it: it.writes.pop("w.4")),
    (
        ORDER,
        "two acknowledged writes changed places",
        lambda it: (
            it.writes["w.2"].reply.update(first=[2, 2, 4]),
            it.writes["w.3"].reply.update(first=[1, 1, 2]),
        ),
    ),
    (DENSE, "a hole in the log", lambda it: it.rest.engine.pop(2)),
    (DENSE, "a seq that is given twice", lambda it: changed(it, 3, seq=1)),
    (DENSE, "an id that goes back", lambda it: changed(it, 5, message_id=1)),
    (DENSE, "a session that says a wrong end", lambda it: it.rest.sessions.update({2: (False, 2)})),
    (CLOSED, "a closed session is open in the file", lambda it: it.rest.file_sessions.update({1: False})),
    (CLOSED, "a closed session is open in memory", lambda it: it.rest.sessions.update({1: (False, 3)})),
    (CLOSED, "an open session is closed in the file", lambda it: it.rest.file_sessions.update({2: True})),
    (CLOSED, "a message behind the closure", both(lambda facts: facts.append(message(8, 1, 5, 4, "w.9/0")))),
    (CLOSED, "a session that was never created", both(lambda facts: facts.pop(0))),
    (SAME, "memory lacks a fact", lambda it: it.rest.engine.pop()),
    (SAME, "memory says another content", lambda it: it.rest.engine.__setitem__(1, message(2, 1, 1, 1, "x"))),
    (SAME, "verify finds something", lambda it: it.rest.faults.append("the chain breaks at 4")),
    (KEYS, "a key is not kept", lambda it: it.rest.keys.pop(1)),
    (KEYS, "a key is kept with another position", lambda it: it.rest.keys.__setitem__(1, ("w.2", 1, 3, 1))),
    (KEYS, "a creation's key is not kept", lambda it: it.rest.keys.pop(0)),
    (FOLLOWED, "a gap", lambda it: it.follows["everything"].items.pop(3)),
    (FOLLOWED, "a repeat", lambda it: it.follows["everything"].items.insert(3, log()[2])),
    (FOLLOWED, "the last one is missing", lambda it: it.follows["everything"].items.pop()),
    (FOLLOWED, "a message is missing", lambda it: it.follows["session 1"].items.pop(1)),
    (
        FOLLOWED,
        "another content",
        lambda it: it.follows["everything"].items.__setitem__(1, message(2, 1, 1, 1, "x")),
    ),
    (
        FOLLOWED,
        "another content of a session",
        lambda it: it.follows["session 1"].items.__setitem__(0, message(0, 1, 1, 1, "x")),
    ),
    (
        FOLLOWED,
        "more than there is",
        lambda it: it.follows["everything"].items.append(message(8, 1, 5, 4, "x")),
    ),
    (FOLLOWED, "a closed session does not end", lambda it: setattr(it.follows["session 1"], "ended", False)),
    (
        COMMITTED,
        "an announced fact is not in the log",
        lambda it: it.announced.append(message(8, 1, 5, 4, "x")),
    ),
    (
        COMMITTED,
        "an announced fact is another one",
        lambda it: it.announced.__setitem__(1, message(2, 1, 1, 1, "x")),
    ),
    (COMMITTED, "an emitted fact is not in the log", lambda it: it.emitted.append(message(8, 1, 5, 4, "x"))),
    (COMMITTED, "a fact is announced twice", lambda it: it.announced.append(log()[3])),
    (COMMITTED, "a fact is emitted twice", lambda it: it.emitted.append(log()[3])),
    (EFFECTS, "an effect was not handled", lambda it: it.handlings.pop(1)),
    (EFFECTS, "a dead letter is gone", lambda it: it.rest.dead[ORDERED].clear()),
    (EFFECTS, "a dead letter that nobody tried", lambda it: it.rest.dead[ANY_ORDER].add(8)),
    (EFFECTS, "a group did not come to the end", lambda it: it.rest.taken.update({ORDERED: 6})),
    (PASSED, "a later effect was begun first", lambda it: setattr(it.handlings[1], "began", 8.0)),
    (PASSED, "two effects overlapped", lambda it: setattr(it.handlings[1], "ended", 4.2)),
    (SEEN, "a process says so", lambda it: it.found.append("a reader missed something")),
]


@pytest.mark.parametrize(
    ("name", "doctor"),
    [(name, doctor) for name, _, doctor in DOCTORED],
    ids=[f"{what}" for _, what, _ in DOCTORED],
)
def test_a_check_speaks_where_one_thing_is_not(name: str, doctor: Doctor) -> None:
    testimony = copy.deepcopy(all_is_well())
    doctor(testimony)
    assert list(CHECKS[name](testimony)), name


def test_every_check_was_made_to_speak() -> None:
    assert {name for name, _, _ in DOCTORED} == set(CHECKS)


def test_the_document_lists_the_checks() -> None:
    document = (Path(__file__).parents[2] / "docs" / "torture.md").read_text("utf-8")
    table = document.split("| check | what it holds |\n|---|---|\n")[1].split("\n\n")[0]
    assert [row.split("|")[1].strip() for row in table.splitlines()] == list(CHECKS)


def test_an_elided_event_is_held_against_what_it_says() -> None:
    testimony = all_is_well()
    elided = replace(log()[1], tag=None, digest=None)
    testimony.announced[1] = testimony.follows["everything"].items[1] = elided
    assert not [finding for check in CHECKS.values() for finding in check(testimony)]
    testimony.announced[1] = replace(elided, seq=2)
    assert list(CHECKS[COMMITTED](testimony))


def test_a_lease_that_ended_before_its_handling_keeps_nobody_off() -> None:
    testimony = all_is_well()
    testimony.handlings[1].ended = 4.2
    assert list(CHECKS[PASSED](testimony))
    testimony.handlings[1].left = 0.0
    assert not list(CHECKS[PASSED](testimony))


def test_a_handling_cut_off_by_a_kill_overlaps_nothing() -> None:
    testimony = all_is_well()
    testimony.handlings.append(Handling(ORDERED, 2, 1, 1.5, None))
    assert not list(CHECKS[PASSED](testimony))
