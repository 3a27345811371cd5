"""Random turns against a model of a few lines: each effect is in exactly one state, and in the right one."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from armin_broker import protocol
from armin_broker.groups.commands import Ack, Command, CreateGroup, Discard, DropGroup, Extend, Nack, Requeue
from armin_broker.groups.coordinator import Answer
from armin_broker.groups.effect import DEAD, LEASED, WAITING
from armin_broker.groups.errors import GroupNotFound
from armin_broker.groups.polls import Poll
from armin_engine.facts import EVENT_TYPES
from groups_machine import Machine, settings

STATE_NAMES = {WAITING: "waiting", LEASED: "leased", DEAD: "dead"}


@dataclass
class Effect:
    session: int
    state: str = "waiting"
    attempts: int = 0
    deliveries: int = 0
    due: int = 0
    lease: str = ""
    request: str | None = None


@dataclass
class Model:
    """What the documentation says of one group."""

    group_id: int
    settings: dict[str, Any]
    cursor: int = 0
    effects: dict[int, Effect] = field(default_factory=dict)
    acked: set[str] = field(default_factory=set)

    def held(self, lease: str) -> Effect | None:
        found = [e for e in self.effects.values() if e.state == "leased" and e.lease == lease]
        return found[0] if found else None

    def fail(self, effect: Effect, now: int, due: int) -> None:
        effect.lease, effect.request = "", None
        if effect.attempts == self.settings["max_attempts"]:
            effect.state, effect.due = "dead", now
        else:
            effect.state, effect.due = "waiting", due

    def blocked(self, position: int, session: int) -> bool:
        if not self.settings["ordered"]:
            return False
        return any(
            e.session == session and (e.state == "leased" or (e.state == "waiting" and p < position))
            for p, e in self.effects.items()
        )

    def halted(self) -> bool:
        dead = any(effect.state == "dead" for effect in self.effects.values())
        return dead and self.settings["on_dead"] == "halt"

    def grant(self, poll: Poll, machine: Machine) -> list[tuple[int, int]]:
        """Positions and attempts that a poll gets."""
        got: list[tuple[int, int]] = []
        while len(got) < poll.max and not self.halted():
            position = self.next(machine)
            if position is None:
                break
            effect = self.effects[position]
            effect.state, effect.due, effect.request = "leased", machine.now + poll.lease_ms, poll.request
            effect.attempts += 1
            effect.deliveries += 1
            effect.lease = f"{self.group_id}.{position}.{effect.deliveries}"
            got.append((position, effect.attempts))
        return got

    def next(self, machine: Machine) -> int | None:
        for position, effect in sorted(self.effects.items()):
            is_due = effect.state == "waiting" and effect.due <= machine.now
            if is_due and not self.blocked(position, effect.session):
                return position
        while self.cursor < machine.facts.position:
            self.cursor += 1
            entry = machine.facts.log.entry(self.cursor)
            if self.settings["types"] is None or EVENT_TYPES[entry.kind] in self.settings["types"]:
                self.effects[self.cursor] = Effect(entry.session_id)
                busy = any(
                    e.session == entry.session_id and e.state != "dead" and p < self.cursor
                    for p, e in self.effects.items()
                )
                if not (busy and self.settings["ordered"]):
                    return self.cursor
        return None


class Campaign:
    """A machine and its models, driven by one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = Machine()
        self.models: dict[str, Model] = {}
        self.waiting: list[Poll] = []
        self.leases: list[str] = ["garbage", "1.1.1", "9.9.9"]
        self.created = 0
        self.request = 0
        for _ in range(3):
            self.machine.session()

    def step(self) -> None:
        choose = self.random.random
        machine = self.machine
        machine.now += self.random.choice((0, 0, 1, 50, 500, 3000))
        if choose() < 0.4:
            machine.append(self.random.randint(1, 3), self.random.randint(1, 4))
        if choose() < 0.05:
            machine.session()
        for name in ("a", "b"):
            if name not in self.models:
                self.create(name)
        machine.fails = choose() < 0.1
        self.turn()
        if choose() < 0.05:
            machine.restart()
            self.waiting = []
            for model in self.models.values():
                model.acked = set()
        self.check()

    def create(self, name: str) -> None:
        fields = {
            "start": self.random.choice(("begin", "now")),
            "types": self.random.choice((None, frozenset(("message_appended",)))),
            "ordered": self.random.random() < 0.5,
            "max_attempts": self.random.randint(1, 4),
            "backoff_ms": self.random.choice((0, 100)),
            "on_dead": self.random.choice(("skip", "halt")),
        }
        self.machine.fails = False
        (created,), answers = self.machine.turn(CreateGroup(name, settings(**fields)))
        assert "duplicate" not in created
        self.created += 1
        cursor = 0 if fields["start"] == "begin" else self.machine.facts.position
        self.models[name] = Model(self.created, fields, cursor)
        self.expire()
        self.compare(answers, self.serve())

    # --- a turn ---

    def turn(self) -> None:
        commands = [self.command() for _ in range(self.random.choice((0, 1, 1, 2, 4)))]
        polls = [self.poll() for _ in range(self.random.choice((0, 0, 1, 2)))]
        before = copy.deepcopy(self.models)
        outcomes, answers = self.machine.turn(*commands, polls=tuple(polls))
        expected = [self.expect(command) for command in commands]
        self.expire()
        got = self.expect_answers(polls)
        if self.machine.failed:  # nothing changed, but that those polls are answered
            self.models = before
            assert all(got[id(answer.poll)] == [] or answer.grants or answer.error for answer in answers)
            return
        assert [shape(outcome) for outcome in outcomes] == expected, commands
        self.compare(answers, got)
        self.vanish(answers)

    def command(self) -> Command:
        name = self.random.choice(("a", "a", "b", "b", "none"))
        kind = self.random.randint(0, 11)
        leases = tuple(self.random.choices(self.leases[-12:], k=self.random.randint(0, 4)))
        if kind < 4:
            return Ack(name, leases)
        if kind < 7:
            return Nack(name, leases, self.random.choice((None, "why")), self.random.choice((None, 0, 70)))
        if kind < 9:
            return Extend(name, leases, self.random.choice((20, 5000)))
        positions = self.random.choice((None, tuple(range(1, 30, 2)), (7, 7, 999)))
        if kind < 11:
            return self.random.choice((Requeue, Discard))(name, positions)
        return DropGroup(name) if self.random.random() < 0.3 else Ack(name, leases)

    def poll(self) -> Poll:
        self.request += self.random.random() < 0.7
        request = self.random.choice((None, f"r{self.request}"))
        return self.machine.poll(
            self.random.choice((1, 2, 5)),
            self.random.choice(("a", "b")),
            self.random.choice((0, 0, 40, 4000)),
            lease_ms=self.random.choice((60, 800, 10_000)),
            request=request,
        )

    def expect(self, command: Command) -> Any:
        model = self.models.get(command.group)
        if isinstance(command, DropGroup):
            self.models.pop(command.group, None)
            return {"dropped": model is not None}
        if model is None:
            return GroupNotFound
        if isinstance(command, Requeue | Discard):
            return self.expect_dead(model, command)
        assert isinstance(command, Ack | Nack | Extend)
        return {"outcomes": [self.expect_outcome(model, command, lease) for lease in command.leases]}

    def expect_dead(self, model: Model, command: Requeue | Discard) -> Any:
        dead = [
            position
            for position, effect in model.effects.items()
            if effect.state == "dead" and (command.positions is None or position in command.positions)
        ]
        for position in dead:
            if isinstance(command, Discard):
                del model.effects[position]
            else:
                effect = model.effects[position]
                effect.state, effect.attempts, effect.due = "waiting", 0, 0
        return {"requeued" if isinstance(command, Requeue) else "discarded": len(dead)}

    def expect_outcome(self, model: Model, command: Ack | Nack | Extend, lease: str) -> dict[str, Any]:
        effect = model.held(lease)
        if effect is None:
            if isinstance(command, Ack) and lease in model.acked:
                return {"lease": lease, "ok": True, "duplicate": True}
            return {"lease": lease, "ok": False}
        now = self.machine.now
        if isinstance(command, Ack):
            model.effects = {p: e for p, e in model.effects.items() if e is not effect}
            model.acked.add(lease)
        elif isinstance(command, Extend):
            effect.due = now + command.lease_ms
            return {"lease": lease, "ok": True, "until": effect.due}
        else:
            backoff = model.settings["backoff_ms"] * 2 ** (effect.attempts - 1)
            model.fail(effect, now, now + (backoff if command.delay_ms is None else command.delay_ms))
            if effect.state == "dead":
                return {"lease": lease, "ok": True, "dead": True}
        return {"lease": lease, "ok": True}

    def expire(self) -> None:
        for model in self.models.values():
            for effect in model.effects.values():
                if effect.state == "leased" and effect.due <= self.machine.now:
                    model.fail(effect, self.machine.now, 0)

    def expect_answers(self, polls: list[Poll]) -> dict[int, Any]:
        """What each answered poll gets, by its identity."""
        answers: dict[int, Any] = {}
        for poll in polls:
            model = self.models.get(poll.group)
            if model is None:
                answers[id(poll)] = GroupNotFound
                continue
            held = sorted(
                (p, e.attempts)
                for p, e in model.effects.items()
                if e.state == "leased" and e.request is not None and e.request == poll.request
            )
            if held:
                answers[id(poll)] = held
                continue
            same = [p for p in self.waiting if (p.group, p.request) == (poll.group, poll.request)]
            if poll.request is not None and same:
                answers[id(same[0])] = []
                self.waiting[self.waiting.index(same[0])] = poll
            else:
                self.waiting.append(poll)
        return answers | self.serve()

    def serve(self) -> dict[int, Any]:
        answers: dict[int, Any] = {}
        for poll in list(self.waiting):
            model = self.models.get(poll.group)
            got: Any = GroupNotFound if model is None else model.grant(poll, self.machine)
            if got or poll.deadline <= self.machine.now:
                answers[id(poll)] = got
                self.waiting.remove(poll)
        return answers

    def compare(self, answers: list[Answer], got: dict[int, Any]) -> None:
        seen = {}
        for answer in answers:
            grants = [(grant.effect.position, grant.effect.attempts) for grant in answer.grants]
            self.leases += [grant.effect.lease for grant in answer.grants]
            seen[id(answer.poll)] = GroupNotFound if answer.error is not None else grants
            assert len(grants) <= answer.poll.max or answer.poll.request is not None
        assert seen == got

    def vanish(self, answers: list[Answer]) -> None:
        """Now and then a poller has gone: what it got returns in the next turn, uncounted."""
        for answer in answers:
            if answer.grants and self.random.random() < 0.1 and answer.is_written:
                leases = [grant.effect.lease for grant in answer.grants]
                self.machine.coordinator.give_back(answer.poll.group, leases)
                for lease in leases:
                    effect = self.models[answer.poll.group].held(lease)
                    assert effect is not None
                    effect.state, effect.due, effect.lease, effect.request = "waiting", 0, "", None
                    effect.attempts -= 1
        self.catch_up()

    def catch_up(self) -> None:
        """A turn without commands, so that machine and models have the same behind them."""
        self.machine.fails = False
        _, answers = self.machine.turn()
        self.expire()
        self.compare(answers, self.serve())

    # --- what must hold at any time ---

    def check(self) -> None:
        coordinator = self.machine.coordinator
        assert set(coordinator.groups) == set(self.models)
        assert len(coordinator.polls) == len(self.waiting)
        again = self.machine.restarted()
        for name, model in self.models.items():
            group = coordinator.groups[name]
            expected = {p: (e.state, e.attempts, e.deliveries, e.lease) for p, e in model.effects.items()}
            for each in (group, again.groups[name]):
                assert {
                    p: (STATE_NAMES[e.state], e.attempts, e.deliveries, e.lease)
                    for p, e in each.taken.items()
                } == expected
                states = [state for state, *_ in expected.values()]
                counts = each.waiting, each.leased, len(each.dead)
                assert counts == (states.count("waiting"), states.count("leased"), states.count("dead"))
                assert set(each.by_lease) == {lease for *_, lease in expected.values() if lease}
            assert group.taken == again.groups[name].taken
            assert max(expected, default=0) <= again.groups[name].cursor <= group.cursor
            if group.settings.ordered:
                leased = [e.session for e in model.effects.values() if e.state == "leased"]
                assert len(leased) == len(set(leased)), "one effect of a session at a time"


def shape(outcome: Any) -> Any:
    """An outcome without the words of its errors."""
    if isinstance(outcome, GroupNotFound):
        return GroupNotFound
    if "outcomes" not in outcome:
        return outcome
    for each in outcome["outcomes"]:
        assert each["ok"] or each["error"]["code"] == protocol.ErrorCode.LEASE_LOST
    return {"outcomes": [{k: v for k, v in each.items() if k != "error"} for each in outcome["outcomes"]]}


@pytest.mark.parametrize("seed", range(25))
def test_random_turns_do_what_the_model_says(seed: int) -> None:
    campaign = Campaign(seed)
    for _ in range(120):
        campaign.step()
