"""The state machine of all worker groups: commands and time in, outcomes and rows out. No I/O.

A turn plans (`plan`, `plan_due`, `plan_leases`, in any order), takes `statements` to the store, and
calls `settle` once they are on disk, or `roll_back` where that failed: then all stands as before the turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from armin_broker import protocol
from armin_broker.groups import stored
from armin_broker.groups.commands import (
    Ack,
    Command,
    CreateGroup,
    Discard,
    DropGroup,
    Extend,
    Nack,
    Requeue,
)
from armin_broker.groups.effect import DEAD, WAITING, Effect
from armin_broker.groups.errors import GroupNotFound, TooManyPolls
from armin_broker.groups.group import Group
from armin_broker.groups.leasing import ITEM_BYTES, Grant, Work, can_give, held_by_request, lease
from armin_broker.groups.polls import Poll, Polls
from armin_broker.groups.recent import RecentAcks
from armin_broker.groups.turn import Counters, Turn
from armin_engine import limits
from armin_engine.derived import Derived
from armin_engine.errors import CursorInvalid, EngineError, TooLarge

Fields = dict[str, Any]

EXPIRIES_MAX: Final = 2048  # leases that expire in one turn; the rest in the next
_LOST: Final = {
    "code": str(protocol.ErrorCode.LEASE_LOST),
    "message": "this lease has ended, or was never given",
    "retry": False,
}
_EXPIRED: Final = "the lease expired"


@dataclass(slots=True)
class Answer:
    """What a poll comes to; `is_written` where it stands only once the turn is on disk."""

    poll: Poll
    grants: list[Grant] = field(default_factory=list)
    error: EngineError | None = None
    is_written: bool = False


class Coordinator:
    """All worker groups over one log. Times are milliseconds since the epoch and never go back."""

    def __init__(self, facts: Derived) -> None:
        self.groups: dict[str, Group] = {}
        self.polls = Polls()
        self.counters = Counters()
        self._facts = facts
        self._last_id = 0
        self._recent = RecentAcks()
        self._returning: list[tuple[str, Sequence[str]]] = []
        self._unfinished = False
        self._turn = Turn()
        self._turns = 0

    def recover(self, select: stored.Select, now: int) -> None:
        """Take in what is on disk. Raises CorruptDatabase."""
        self.groups, self._last_id = stored.recovered(select, self._facts, now)

    # --- commands ---

    def plan(self, command: Command, now: int) -> Fields:
        """The reply's fields, provided that the turn is committed. Raises CommandError, nothing changed."""
        match command:
            case Ack():
                return self._ack(command)
            case Nack():
                return self._nack(command, now)
            case Extend():
                return self._extend(command, now)
            case Requeue():
                return {"requeued": self._requeue(command)}
            case Discard():
                return {"discarded": self._discard(command)}
            case CreateGroup():
                return self._create(command, now)
            case DropGroup():
                return {"dropped": self._drop(command.group)}

    def _group(self, name: str) -> Group:
        group = self.groups.get(name)
        if group is None:
            raise GroupNotFound(name)
        return group

    def _touched(self, name: str) -> Group:
        group = self._group(name)
        self._turn.touched[group] = None
        return group

    def _create(self, command: CreateGroup, now: int) -> Fields:
        name = command.group
        standing = self.groups.get(name)
        if standing is not None:
            standing.settings.check_same(command.settings, name)
            return {"group": self.describe(standing), "duplicate": True}
        if len(self.groups) >= protocol.GROUPS_MAX:
            raise TooLarge(
                f"there are {protocol.GROUPS_MAX} worker groups already; drop one that is not used",
                field="groups",
                limit=protocol.GROUPS_MAX,
            )
        self._last_id += 1
        cursor = 0 if command.settings.start == "begin" else self._facts.position
        group = Group(self._last_id, name, command.settings, cursor, now)
        self.groups[name] = group
        self._turn.created[group] = None
        return {"group": self.describe(group)}

    def _drop(self, name: str) -> bool:
        group = self.groups.pop(name, None)
        if group is None:
            return False
        self._turn.dropped[group] = None
        return True

    def _ack(self, command: Ack) -> Fields:
        group = self._touched(command.group)
        outcomes: list[Fields] = []
        acked, by_lease, own = self._turn.acked, group.by_lease, f"{group.id}."
        for name in command.leases:
            effect = by_lease.get(name)
            if effect is not None:
                group.change(effect.position, None)
                acked[name] = None
                outcomes.append({"lease": name, "ok": True})
            elif (name in acked or name in self._recent) and name.startswith(own):
                outcomes.append({"lease": name, "ok": True, "duplicate": True})
            else:
                outcomes.append(_lost(name))
        return {"outcomes": outcomes}

    def _nack(self, command: Nack, now: int) -> Fields:
        group = self._touched(command.group)
        outcomes = []
        for name in command.leases:
            effect = group.by_lease.get(name)
            if effect is None:
                outcomes.append(_lost(name))
                continue
            delay = group.settings.backoff(effect.attempts) if command.delay_ms is None else command.delay_ms
            self._turn.counters.nacked += 1
            died = self._fail(group, effect, now, now + delay, command.reason)
            outcomes.append({"lease": name, "ok": True, **({"dead": True} if died else {})})
        return {"outcomes": outcomes}

    def _extend(self, command: Extend, now: int) -> Fields:
        group = self._touched(command.group)
        outcomes, until = [], now + command.lease_ms
        for name in command.leases:
            effect = group.by_lease.get(name)
            if effect is None:
                outcomes.append(_lost(name))
                continue
            group.change(effect.position, effect._replace(due=until))
            outcomes.append({"lease": name, "ok": True, "until": until})
        return {"outcomes": outcomes}

    def _fail(self, group: Group, effect: Effect, now: int, due: int, reason: str | None) -> bool:
        """An attempt has failed; whether it was the last one."""
        died = effect.attempts >= group.settings.max_attempts
        state, due = (DEAD, now) if died else (WAITING, due)
        failed = effect._replace(state=state, due=due, lease="", request=None, reason=reason)
        group.change(effect.position, failed)
        self._turn.counters.died += died
        return died

    def _requeue(self, command: Requeue) -> int:
        group = self._touched(command.group)
        dead = _dead(group, command.positions)
        for effect in dead:
            again = Effect(effect.position, effect.session_id, WAITING, 0, effect.deliveries, 0)
            group.change(effect.position, again)
        return len(dead)

    def _discard(self, command: Discard) -> int:
        group = self._touched(command.group)
        dead = _dead(group, command.positions)
        for effect in dead:
            group.change(effect.position, None)
        return len(dead)

    # --- time ---

    def give_back(self, group: str, leases: Sequence[str]) -> None:
        """The reply with these leases could not be delivered; the next `plan_due` returns them."""
        self._returning.append((group, leases))

    def plan_due(self, now: int) -> None:
        """Return the leases of vanished pollers, expire those whose time is over: a bounded number."""
        returning, self._returning = self._returning, []
        self._turn.returned += returning
        for name, leases in returning:
            self._return(name, leases)
        left = EXPIRIES_MAX
        for group in self.groups.values():
            while left and (effect := group.pop_expired(now)) is not None:
                left -= 1
                self._turn.touched[group] = None
                self._turn.counters.expired += 1
                self._fail(group, effect, now, 0, _EXPIRED)

    def _return(self, name: str, leases: Sequence[str]) -> None:
        """Undo leases that nobody got: they do not count as attempts."""
        group = self.groups.get(name)
        if group is None:
            return
        self._turn.touched[group] = None
        for effect in filter(None, map(group.by_lease.get, leases)):
            attempts = effect.attempts - 1
            back = effect._replace(state=WAITING, attempts=attempts, due=0, lease="", request=None)
            group.change(effect.position, back)
            self._turn.counters.returned += 1

    def deadline(self, now: int) -> int | None:
        """When there is something to do without a command; None for never."""
        if self._returning or self._unfinished:
            return now
        deadlines = [self.polls.first_deadline()]
        for group in self.groups.values():
            if group.leased:
                deadlines.append(group.first_expiry())
            if group.waiting and not group.halted and self.polls.count(group.name):
                deadlines.append(group.next_due())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # --- polls ---

    def ask(self, poll: Poll) -> list[Answer]:
        """Take in a poll, to be answered by `plan_leases`, unless there is an answer already."""
        group = self.groups.get(poll.group)
        if group is None:
            return [Answer(poll, error=GroupNotFound(poll.group), is_written=bool(self._turn.dropped))]
        if poll.request is not None and poll.request in group.by_request:
            return [Answer(poll, held_by_request(group, poll.request, self._facts))]
        older = self.polls.add(poll)
        return [] if older is None else [Answer(older)]

    def plan_leases(self, now: int) -> list[Answer]:
        """Answer the polls that can be: they get leases, or an error, or their time is over."""
        if not self.polls:
            self._unfinished = False
            return []
        answers: list[Answer] = []
        work = Work()
        names = self.polls.groups()
        self._turns += 1
        first = self._turns % len(names)  # nobody is always last where the work is cut short
        for name in names[first:] + names[:first]:
            answers += self._serve(name, now, work)
        self._unfinished = work.left <= 0
        for poll in self.polls.over(now):
            group = self.groups[poll.group]
            if not (self._unfinished and can_give(group, self._facts, now)):
                # That there is nothing may be so because of what this turn gave to others.
                answers.append(self._answered(Answer(poll, is_written=group in self._turn.touched)))
        while len(self.polls) > protocol.POLLS_MAX:
            answers.append(self._answered(Answer(self.polls.newest(), error=TooManyPolls())))
        return answers

    def _serve(self, name: str, now: int, work: Work) -> list[Answer]:
        """Lease what one group has to those who wait for it, in their order."""
        group = self.groups.get(name)
        if group is None:
            gone = GroupNotFound(name)
            return [self._answered(Answer(poll, error=gone, is_written=True)) for poll in self.polls.of(name)]
        answers: list[Answer] = []
        while work.left > 0 and can_give(group, self._facts, now):
            poll = self.polls.first(name)
            if poll is None:
                break
            self._turn.touched[group] = None
            grants = lease(group, poll, self._facts, now, work)
            if grants:
                self._turn.counters.granted += len(grants)
                answers.append(self._answered(Answer(poll, grants, is_written=True)))
        return answers

    def _answered(self, answer: Answer) -> Answer:
        self.polls.remove(answer.poll)
        return answer

    def drain_polls(self) -> list[Poll]:
        """Let go of everybody who waits."""
        polls = self.polls.all()
        self.polls = Polls()
        return polls

    # --- the end of a turn ---

    def statements(self) -> tuple[stored.Statement, ...]:
        """Rows that the turn has to write; empty where it changed nothing that is kept."""
        return () if self._turn.is_empty else self._turn.statements(self.groups)

    def settle(self) -> None:
        """The turn's rows are on disk, or there are none."""
        if self._turn.is_empty:
            return
        self._turn.settle()
        self._recent.add(self._turn.acked)
        self._turn.counters.acked = len(self._turn.acked)
        self.counters.add(self._turn.counters)
        self._turn = Turn()

    def roll_back(self) -> None:
        """The turn's rows are not on disk: all stands as before it, but for polls that were answered."""
        self._turn.roll_back(self.groups)
        self._returning = self._turn.returned + self._returning
        self._unfinished = bool(self.polls)
        self._turn = Turn()

    # --- reading ---

    def describe(self, group: Group) -> Fields:
        """A group as it goes over the wire."""
        return {
            "group": group.name,
            **group.settings.shown(),
            "created_at": group.created_at,
            "cursor": group.cursor,
            "behind": self._facts.position - group.cursor,
            "waiting": group.waiting,
            "leased": group.leased,
            "dead": len(group.dead),
            "halted": group.halted,
            "pollers": self.polls.count(group.name),
        }

    def described(self, name: str | None) -> list[Fields]:
        """One group, or all of them by name. Raises GroupNotFound."""
        groups = self.groups.values() if name is None else [self._group(name)]
        return [self.describe(group) for group in sorted(groups, key=lambda group: group.name)]

    def dead_letters(self, name: str, after: int, limit: int) -> tuple[list[Grant], bool]:
        """A page of dead letters behind position `after`, and whether there are more. Raises CommandError."""
        group = self._group(name)
        if after > self._facts.position:
            raise CursorInvalid(
                f"after is {after}, but the log ends at {self._facts.position}: it belongs to another or a"
                " restored database",
                field="after",
                limit=self._facts.position,
            )
        positions = group.dead_after(after, limit + 1)
        letters: list[Grant] = []
        room = limits.PAGE_BYTES_MAX
        for position in positions[:limit]:
            letter = Grant(group.taken[position], self._facts.event(position).packed)
            room -= len(letter.event) + len((letter.effect.reason or "").encode()) + ITEM_BYTES
            if room < 0 and letters:
                break
            letters.append(letter)
        return letters, len(letters) < len(positions)

    def gauges(self) -> dict[str, int]:
        """Sizes as they stand, and what happened since the start."""
        groups, counters = self.groups.values(), self.counters
        return {
            "worker_groups": len(groups),
            "waiting": sum(group.waiting for group in groups),
            "leased": sum(group.leased for group in groups),
            "dead": sum(len(group.dead) for group in groups),
            "polls": len(self.polls),
            "leases_granted": counters.granted,
            "leases_acked": counters.acked,
            "leases_nacked": counters.nacked,
            "leases_expired": counters.expired,
            "leases_returned": counters.returned,
            "effects_died": counters.died,
        }


def _lost(lease: str) -> Fields:
    return {"lease": lease, "ok": False, "error": _LOST}


def _dead(group: Group, positions: Sequence[int] | None) -> list[Effect]:
    """Those of the positions that are dead letters; the last one first, which the list of them likes best."""
    wanted = list(group.dead) if positions is None else sorted(set(positions))
    effects = (group.taken.get(position) for position in reversed(wanted))
    return [effect for effect in effects if effect is not None and effect.state == DEAD]
