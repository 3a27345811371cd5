"""How to work for a group: what to lease, begin, extend, ack and nack, and when.

A state machine without sockets, threads and clocks, as following.py has one: `next` says what to do, the
other methods say what came of it, and time is passed in. The blocking and the asyncio worker both drive it.

It asks on two lines, one command at a time on each:

    LEASES      long polls, for no more effects than there are free places
    OUTCOMES    extensions, acks and nacks; what comes up while one is under way goes together in the next

What was not answered is asked again in the same words: a poll keeps its token, and acks may be repeated.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Final

from armin import group_calls
from armin.calls import Call
from armin.effect import Counters, Effect, Failure
from armin.errors import ArminError, ProtocolError
from armin.results import Leases, Outcomes
from armin_broker.protocol import LEASES_MAX

POLL_MS: Final = 1000  # a poll is asked anew after this long: an engine that restarted forgot the last one
PATIENCE: Final = 1.0  # seconds until a command is repeated, which does no harm here
RETRY_FIRST: Final = 0.05  # seconds between two attempts; doubles
RETRY_MAX: Final = 1.0
GATHER: Final = 0.001  # seconds that a few free places wait for more, so that one poll is for all
RENEWALS: Final = 3  # a lease is extended so many times as often as it has to be

logger = logging.getLogger("armin.worker")


class Line(Enum):
    """Where a command is asked; see the module's text."""

    LEASES = auto()
    OUTCOMES = auto()


@dataclass(frozen=True, slots=True)
class Begin:
    """Call the handler; then say `finished`."""

    effect: Effect


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a command; then say `answered`, or `unanswered` with the error."""

    line: Line
    call: Call[Any]


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until something is said, or until this time."""

    until: float


Action = Begin | Ask | Wait


@dataclass(slots=True)
class _Held:
    """A lease whose handler runs; extended when `renew_at` has come."""

    effect: Effect
    renew_at: float


@dataclass(slots=True)
class _Poll:
    """A poll that may have been given leases, whether an answer came or not; `taken` are those we know."""

    places: int
    token: str
    repeated: bool = False
    taken: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Settlement:
    """A command on the line of outcomes: what to do with its result, and how to take it back or let it be."""

    call: Call[Any]
    then: Callable[[Any, float], None]
    again: Callable[[], None]
    give_up: Callable[[], None]


@dataclass(slots=True)
class _Pause:
    """When a line may be used again after a failure; each failure in a row doubles the pause."""

    until: float = -math.inf
    seconds: float = RETRY_FIRST

    def failed(self, now: float) -> None:
        """Pause from now."""
        self.until = now + self.seconds
        self.seconds = min(RETRY_MAX, 2 * self.seconds)

    def answered(self) -> None:
        """The next failure is the first again."""
        self.seconds = RETRY_FIRST


def patience(timeout: float, lease_ms: int) -> float:
    """Seconds to wait for an answer: leases must be extended in time even if an answer is lost."""
    return min(timeout, PATIENCE, max(0.05, lease_ms / 1000 / (RENEWALS + 1)))


class Work:
    """One worker's share of a group.

    Args:
        group: its name.
        concurrency: effects handled at a time.
        lease_ms: how long each lease runs, unless extended.
        timeout: seconds after a stop until it gives up on an engine that does not answer.
        tokens: makes a new token for each poll.
    """

    def __init__(
        self, group: str, *, concurrency: int, lease_ms: int, timeout: float, tokens: Callable[[], str]
    ) -> None:
        self.counters = Counters()
        self.error: ArminError | None = None  # why it stopped by itself
        self._group = group
        self._concurrency = concurrency
        self._half = min(concurrency, LEASES_MAX) // 2
        self._lease_ms = lease_ms
        self._renewal = lease_ms / 1000 / RENEWALS  # seconds between two extensions
        self._timeout = timeout
        self._tokens = tokens
        self._fresh: deque[Effect] = deque()  # held, not begun yet
        self._held: dict[str, _Held] = {}  # by lease
        self._acks: deque[Effect] = deque()
        self._nacks: deque[tuple[Effect, Failure]] = deque()
        self._poll: _Poll | None = None
        self._polling = False  # an answer is to come on LEASES
        self._recalling = False  # and one to the recall, on OUTCOMES
        self._recalled = False
        self._poll_pause = _Pause()
        self._free_since: float | None = None  # places, without a poll for them
        self._settlement: _Settlement | None = None  # its answer is to come on OUTCOMES
        self._settle_pause = _Pause()
        self._stopping = False
        self._give_up_at = math.inf

    # --- what to do -------------------------------------------------------------------------------

    def next(self, now: float) -> Action | None:
        """What to do now; None: nothing is left to be done, ever."""
        if self._fresh:
            return self._begin(self._fresh.popleft())
        poll_at = self._poll_at(now)
        if now >= poll_at:
            return Ask(Line.LEASES, self._ask_leases())
        if self._settlement is None and now >= self._settle_pause.until:
            self._settlement = self._next_settlement(now)
            if self._settlement is not None:
                return Ask(Line.OUTCOMES, self._settlement.call)
        if self._stopping and not self._held and self._ends(now):
            return None
        return Wait(self._deadline(poll_at))

    def _begin(self, effect: Effect) -> Begin:
        if effect.attempt > 1:
            self._count(redelivered=1)
        return Begin(effect)

    def _poll_at(self, now: float) -> float:
        """When to poll: at once where half of the places are free, else a moment later.

        For others are free by then where handlers take no time. A poll for the first one alone would have all
        of them wait for its answer, and two such polls, for one place and for the rest, take turns for ever.
        """
        if self._stopping or self._polling:
            return math.inf
        if self._poll is not None:
            return self._poll_pause.until
        free = self._places()
        if free <= 0:
            self._free_since = None
            return math.inf
        if self._free_since is None:
            self._free_since = now
        gather = 0.0 if free >= self._half else GATHER
        return max(self._poll_pause.until, self._free_since + gather)

    def _places(self) -> int:
        """Effects that could be begun at once; none while outcomes pile up that the engine does not take."""
        return min(self._concurrency - len(self._held), LEASES_MAX - len(self._acks) - len(self._nacks))

    def _ask_leases(self) -> Call[Leases]:
        if self._poll is None:
            self._poll = _Poll(self._places(), self._tokens())
            self._free_since = None
        self._polling = True
        return self._lease_call(self._poll, POLL_MS)

    def _lease_call(self, poll: _Poll, wait_ms: int) -> Call[Leases]:
        return group_calls.lease(self._group, poll.places, self._lease_ms, wait_ms, poll.token)

    def _next_settlement(self, now: float) -> _Settlement | None:
        """What is most urgent on the line of outcomes."""
        if self._wants_recall():
            return self._recall()
        if due := [held for held in self._held.values() if held.renew_at <= now]:
            return self._extend(due, now)
        if self._acks:
            return self._ack()
        return self._nack() if self._nacks else None

    def _wants_recall(self) -> bool:
        return self._stopping and self._poll is not None and not self._recalled

    def _ends(self, now: float) -> bool:
        """Whether the engine knows all that happened, and has given us nothing that we do not know of."""
        if not (self._acks or self._nacks or self._settlement or self._poll):
            return True
        self._give_up_at = min(self._give_up_at, now + self._timeout)
        if now < self._give_up_at:
            return False
        if self._settlement is not None:
            self._settlement.give_up()
        self._lose([*self._acks, *(effect for effect, _ in self._nacks)])
        return True

    def _deadline(self, poll_at: float) -> float:
        moments = [self._give_up_at, poll_at]
        if self._settlement is None:
            if self._acks or self._nacks or self._wants_recall():
                moments.append(self._settle_pause.until)
            renewals = (held.renew_at for held in self._held.values())
            moments.append(max(self._settle_pause.until, min(renewals, default=math.inf)))
        return min(moments)

    # --- what came of it --------------------------------------------------------------------------

    def stop(self) -> None:
        """Lease no more; what is held is finished first."""
        self._stopping = True

    def finished(self, effect: Effect, outcome: Failure | None) -> None:
        """The handler has returned (None), or failed."""
        del self._held[effect.lease.lease]
        if effect.lost:
            return  # counted when that was found out
        if outcome is None:
            self._acks.append(effect)
        else:
            self._nacks.append((effect, outcome))

    def answered(self, line: Line, result: Any, now: float) -> None:
        """The engine has answered what was asked on this line."""
        if line is Line.LEASES:
            self._poll_pause.answered()
            self._polling = False
            self._take(result, now)
        else:
            self._settle_pause.answered()
            self._answered_settlement().then(result, now)

    def unanswered(self, line: Line, error: ArminError, now: float) -> None:
        """Nobody answered, or the engine refused: again if that may help, else this is the end."""
        if not error.retry:
            self.error = self.error or error
            self.stop()
        if line is Line.LEASES:
            self._poll_pause.failed(now)
            self._polling = False
            if not error.retry or self._recalled:
                self._forget_poll()
            elif self._poll is not None:
                self._poll.repeated = True
        else:
            self._settle_pause.failed(now)
            settlement = self._answered_settlement()
            (settlement.again if error.retry else settlement.give_up)()

    def _answered_settlement(self) -> _Settlement:
        settlement, self._settlement = self._settlement, None
        assert settlement is not None, "nothing was asked"
        return settlement

    def _take(self, found: Leases, now: float) -> None:
        """Hold what a poll was given. Its recall, and its repetition, may name the same leases again."""
        poll = self._poll
        assert poll is not None, "nothing was polled for"
        for lease in found.leases:
            if lease.lease not in poll.taken:
                poll.taken.add(lease.lease)
                effect = Effect(lease)
                self._fresh.append(effect)
                # A repeated poll may have been answered long ago, for all we know.
                self._held[lease.lease] = _Held(effect, now if poll.repeated else now + self._renewal)
        self._forget_poll()

    def _forget_poll(self) -> None:
        """Unless something may still come of it."""
        if not (self._polling or self._recalling):
            self._poll = None

    # --- the line of outcomes -----------------------------------------------------------------------

    def _recall(self) -> _Settlement:
        """End the parked poll, and learn of what it was given meanwhile. Tried once: then leases expire."""
        assert self._poll is not None, "there is no poll to recall"
        self._recalled = self._recalling = True

        def then(found: Leases, now: float) -> None:
            self._recalling = False
            self._take(found, now)

        def give_up() -> None:
            self._recalling = False
            self._forget_poll()

        return _Settlement(self._lease_call(self._poll, 0), then, give_up, give_up)

    def _extend(self, due: Sequence[_Held], asked_at: float) -> _Settlement:
        batch = {held.effect.lease.lease: held for held in due[:LEASES_MAX]}

        def then(found: Outcomes, now: float) -> None:
            lost = _lost([held.effect for held in batch.values()], found)
            for held in batch.values():
                held.renew_at = math.inf if held.effect in lost else asked_at + self._renewal
            self._lose([effect for effect in lost if effect.lease.lease in self._held])

        def give_up() -> None:
            self._lose([held.effect for name, held in batch.items() if name in self._held])
            for held in batch.values():
                held.renew_at = math.inf

        call = group_calls.extend(self._group, batch, self._lease_ms)
        return _Settlement(call, then, lambda: None, give_up)

    def _ack(self) -> _Settlement:
        batch = [self._acks.popleft() for _ in range(min(LEASES_MAX, len(self._acks)))]

        def then(found: Outcomes, now: float) -> None:
            lost = _lost(batch, found)
            self._count(handled=len(batch) - len(lost))
            self._lose(lost)

        return _Settlement(
            group_calls.ack(self._group, [effect.lease for effect in batch]),
            then,
            lambda: self._acks.extendleft(reversed(batch)),
            lambda: self._lose(batch),
        )

    def _nack(self) -> _Settlement:
        """All that failed for the same reason as the first."""
        failure = self._nacks[0][1]
        batch = [effect for effect, other in self._nacks if other == failure][:LEASES_MAX]
        self._nacks = deque(item for item in self._nacks if item[0] not in batch)

        def then(found: Outcomes, now: float) -> None:
            lost = _lost(batch, found)
            dead = sum(outcome.dead for outcome in found.outcomes)
            self._count(failed=len(batch) - len(lost), dead=dead)
            self._lose(lost)

        return _Settlement(
            group_calls.nack(
                self._group, [effect.lease for effect in batch], failure.reason or None, failure.delay_ms
            ),
            then,
            lambda: self._nacks.extendleft((effect, failure) for effect in reversed(batch)),
            lambda: self._lose(batch),
        )

    def _lose(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            effect.lost = True
            logger.info("the lease of %r is lost", effect)
        self._count(lost=len(effects))

    def _count(self, **more: int) -> None:
        now = {name: getattr(self.counters, name) + number for name, number in more.items()}
        self.counters = replace(self.counters, **now)


def _lost(batch: Sequence[Effect], found: Outcomes) -> list[Effect]:
    """The effects whose outcome says that the lease was gone."""
    if [outcome.lease for outcome in found.outcomes] != [effect.lease.lease for effect in batch]:
        raise ProtocolError("the outcomes are not those of the leases that were named")
    return [effect for effect, outcome in zip(batch, found.outcomes, strict=True) if not outcome.ok]
