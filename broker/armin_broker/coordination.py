"""Worker groups between the engine and the command socket: what they plan is committed, then answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from armin_broker import replies
from armin_broker.command_socket import CommandSocket
from armin_broker.commands import InternalFault
from armin_broker.groups.commands import Command, CreateGroup
from armin_broker.groups.coordinator import Answer, Coordinator
from armin_broker.groups.polls import Poll
from armin_broker.parsed import Lease
from armin_engine import Armin
from armin_engine.errors import CommandError, EngineError
from armin_engine.plan import Outcome
from armin_engine.records import Command as EngineCommand
from armin_engine.records import Rows

logger = logging.getLogger(__name__)

RETRY_MS: Final = 1000  # after a failed commit, before what is due by the clock is tried again

Apply = Callable[[Sequence[EngineCommand]], Sequence[Outcome]]
Changed = dict[str, Any] | EngineError  # fields of the reply, or what is wrong


class Coordination:
    """Drives the state machine: one turn of it goes into one commit.

    `apply` commits a group, `fault` renders an error. clock: milliseconds, monotonic; wall_clock: seconds
    since the epoch, read once, so that a clock that is set cannot end or prolong leases.
    """

    def __init__(
        self,
        armin: Armin,
        commands: CommandSocket,
        apply: Apply,
        fault: Callable[[EngineError], bytes],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.coordinator = Coordinator(armin)
        self._armin = armin
        self._commands = commands
        self._apply = apply
        self._fault = fault
        self._clock = clock
        self._epoch = wall_clock() * 1000 - clock()
        self._retry_at = 0
        self._asked: Sequence[Poll] = ()
        self._answers: list[Answer] = []  # of this turn
        self._is_planned = False  # whether this turn's leases are
        self.coordinator.recover(armin.select, self._now())

    def _now(self) -> int:
        return int(self._epoch + self._clock())

    def deadline(self) -> float | None:
        """When there is something to do by the clock, on the loop's clock; None for never."""
        now = self._now()
        deadline = self.coordinator.deadline(now)
        return None if deadline is None else max(deadline, self._retry_at) - self._epoch

    def is_due(self) -> bool:
        """Whether that is now."""
        deadline = self.deadline()
        return deadline is not None and deadline <= self._clock()

    # --- a turn: `commit`, answer the rest, `answer_polls` ---

    def commit(
        self, writes: Sequence[EngineCommand], commands: Sequence[Command], asked: Sequence[Poll]
    ) -> tuple[Sequence[Outcome], list[Changed]]:
        """Commit writes and changes of groups in one transaction, one outcome each.

        Without writes, leases go into the same one. Else `answer_polls` writes them, so that they are of what
        is in the log by then and nobody's append waits for them.
        """
        now = self._now()
        self._asked = asked
        changed = self._plan(commands, now)
        if not writes:
            self._plan_leases(now)
        outcomes, error = self._store(writes)
        return outcomes, changed if error is None else [error] * len(changed)

    def answer_polls(self) -> None:
        """Lease to whoever waits, if that is still to be done, and send what polls come to."""
        if not self._is_planned:
            self._plan_leases(self._now())
            self._store(())
        self._is_planned = False
        answers, self._answers = self._answers, []
        for answer in answers:
            self._send(answer)

    def create(self, command: CreateGroup) -> dict[str, Any]:
        """Create a group in a commit of its own, between turns. Raises EngineError."""
        created = self.coordinator.plan(command, self._now())
        _, error = self._store(())
        if error is not None:
            raise error
        return created

    def shut_down(self, refusal: bytes) -> None:
        """Refuse whoever waits."""
        for poll in self.coordinator.drain_polls():
            self._commands.send(poll.ticket, refusal)

    def poll(self, lease: Lease, envelope: list[bytes]) -> Poll:
        """A poll that begins to wait now."""
        deadline = self._now() + lease.wait_ms
        return Poll(lease.group, lease.max, lease.lease_ms, deadline, lease.request, envelope)

    # --- its parts ---

    def _plan(self, commands: Sequence[Command], now: int) -> list[Changed]:
        changed: list[Changed] = []
        try:
            for command in commands:
                try:
                    changed.append(self.coordinator.plan(command, now))
                except CommandError as error:
                    changed.append(error)
        except Exception:  # a bug must not stop the daemon: as if the commit had failed
            logger.exception("planning %d commands of worker groups failed", len(commands))
            return [self._planning_failed()] * len(commands)
        return changed

    def _plan_leases(self, now: int) -> None:
        self._is_planned = True
        asked, self._asked = self._asked, ()
        try:
            if now >= self._retry_at:
                self.coordinator.plan_due(now)
            for poll in asked:
                self._answers += self.coordinator.ask(poll)
            self._answers += self.coordinator.plan_leases(now)
        except Exception:  # as above; whoever waits hears of it
            logger.exception("planning leases failed")
            fault = self._planning_failed()
            waiting = [*self.coordinator.drain_polls(), *asked, *(answer.poll for answer in self._answers)]
            self._answers = [Answer(poll, error=fault) for poll in dict.fromkeys(waiting)]

    def _planning_failed(self) -> EngineError:
        self.coordinator.roll_back()
        self._retry_at = self._now() + RETRY_MS
        return InternalFault("the engine failed on this command; its log says more")

    def _store(self, writes: Sequence[EngineCommand]) -> tuple[Sequence[Outcome], EngineError | None]:
        """Write what was planned, with the writes; their outcomes, and what went wrong with the plan."""
        statements = self.coordinator.statements()
        commands = [*writes, Rows(statements)] if statements else writes
        outcomes = list(self._apply(commands)) if commands else []
        error = outcomes.pop() if statements else None
        if isinstance(error, EngineError):
            self._failed(error)
            return outcomes, error
        self.coordinator.settle()
        return outcomes, None

    def _failed(self, error: EngineError) -> None:
        self.coordinator.roll_back()
        self._retry_at = self._now() + RETRY_MS
        for answer in self._answers:
            if answer.is_written:
                answer.error, answer.grants = error, []

    def _send(self, answer: Answer) -> None:
        envelope, lost = answer.poll.ticket, None
        if answer.error is not None:
            reply = self._fault(answer.error)
        else:
            reply = replies.leases(self._armin.position, answer.grants)
        if answer.grants:
            leases = [grant.effect.lease for grant in answer.grants]
            lost = partial(self.coordinator.give_back, answer.poll.group, leases)
        self._commands.send(envelope, reply, lost)
