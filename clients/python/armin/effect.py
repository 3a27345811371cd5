"""What a handler gets, what it may say, and what a worker counts."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from armin import calls, group_calls
from armin.calls import Call
from armin.errors import ProtocolError
from armin.results import Event, Group, Lease, Message, MessagePage
from armin_broker.protocol import LEASE_MS_DEFAULT, NACK_REASON_BYTES_MAX

LEASE_MS: Final = LEASE_MS_DEFAULT
MAX_ATTEMPTS: Final = 5  # these two as the protocol's GROUP_DEFAULTS
BACKOFF_MS: Final = 1000

logger = logging.getLogger("armin.worker")


class Retry(Exception):
    """Raised by a handler: not done, again after the group's backoff, or in `delay_ms` milliseconds.

    Any other exception does as well; this one is no surprise, so it is logged without a traceback, and
    its text alone is the nack's reason. The attempt counts as failed all the same.
    """

    def __init__(self, reason: str = "", *, delay_ms: int | None = None) -> None:
        super().__init__(reason)
        self.delay_ms = delay_ms


class Effect:
    """One committed fact that is to be handled, as a handler gets it.

    `lost` turns True if the effect went to another worker while it was being handled: whatever is still
    to be done here will be done there, too.
    """

    __slots__ = ("event", "lease", "lost")

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.event: Event = lease.event
        self.lost = False

    def __repr__(self) -> str:
        return f"<Effect {self.type} at {self.position}, attempt {self.attempt}>"

    @property
    def position(self) -> int:
        """The fact's position in the log: the same each time, so fit to tell repetitions."""
        return self.lease.position

    @property
    def attempt(self) -> int:
        """1 for the first time; above it, the effect may have been handled before."""
        return self.lease.attempt

    @property
    def type(self) -> str:
        """`session_created`, `message_appended` or `session_closed`."""
        return self.event.type

    @property
    def session_id(self) -> int:
        """The session that it happened to."""
        return self.event.session_id

    @property
    def message(self) -> Message | None:
        """What was appended, if that is what happened."""
        return self.event.message


@dataclass(frozen=True, slots=True)
class Settings:
    """A group's settings, given to the engine when the worker starts."""

    start: str
    types: tuple[str, ...] | None
    ordered: bool
    max_attempts: int
    backoff_ms: int
    on_dead: str

    @classmethod
    def of(
        cls,
        start: str,
        types: Iterable[str] | None,
        ordered: bool,
        max_attempts: int,
        backoff_ms: int,
        on_dead: str,
    ) -> Settings:
        """What the caller said. A single type as a string is left for the call to refuse."""
        kinds = None if types is None else (types if isinstance(types, str) else tuple(types))
        return cls(start, kinds, ordered, max_attempts, backoff_ms, on_dead)  # type: ignore[arg-type]

    def call(self, group: str) -> Call[Group]:
        """Create the group, or find it."""
        return group_calls.create_group(
            group, self.start, self.types, self.ordered, self.max_attempts, self.backoff_ms, self.on_dead
        )


@dataclass(frozen=True, slots=True)
class Counters:
    """What a worker has done so far.

    `handled`: the handler returned and the engine took the ack. `failed`: it raised, and the engine took
    the nack; `dead` of these were the last attempt. `lost`: the lease was gone when it was to be extended,
    acked or nacked; after an engine restart that may be an ack that had arrived. `redelivered`: begun with
    an attempt above 1.
    """

    handled: int = 0
    failed: int = 0
    dead: int = 0
    lost: int = 0
    redelivered: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a handler did not handle its effect, and when to try again if it chose so."""

    reason: str
    delay_ms: int | None = None


def failure(effect: Effect, error: BaseException) -> Failure:
    """What a nack says of an exception, which is logged in the same words: bounded, and sure to be text."""
    expected = isinstance(error, Retry)
    reason = cut(str(error) if expected else f"{type(error).__name__}: {error}".removesuffix(": "))
    logger.warning(
        "the effect at position %d failed (attempt %d)%s%s",
        effect.position,
        effect.attempt,
        reason and ": ",
        reason,
        exc_info=None if expected else error,
    )
    delay_ms = error.delay_ms if isinstance(error, Retry) else None
    return Failure(reason, None if delay_ms is None else max(0, delay_ms))


def cut(reason: str) -> str:
    """As much of a reason as a nack may carry."""
    return reason.encode("utf-8", "replace")[:NACK_REASON_BYTES_MAX].decode("utf-8", "ignore")


def missing(event: Event) -> Call[MessagePage] | None:
    """The read that completes an event whose message was elided."""
    if event.message is None or not event.message.elided:
        return None
    return calls.read(event.session_id, after=event.message.seq - 1, limit=1)


def completed(event: Event, page: MessagePage) -> Event:
    """The event with the message that was read."""
    if not page.messages or event.message is None or page.messages[0].id != event.message.id:
        raise ProtocolError(f"the message of the event at position {event.position} cannot be read")
    return replace(event, message=page.messages[0])
