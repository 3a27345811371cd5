"""The blocking client's commands about worker groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from armin import group_calls
from armin.channel import Channel, Sockets
from armin.effect import BACKOFF_MS, LEASE_MS, MAX_ATTEMPTS, Effect, Settings
from armin.results import DeadLetterPage, Group, Lease, Leases, Outcomes
from armin.worker import Worker

Start = Literal["begin", "now"]
OnDead = Literal["skip", "halt"]


class GroupCommands:
    """Side effects at least once: a group takes every fact, and gives each to one of its workers."""

    _sockets: Sockets
    _channel: Channel

    def worker(
        self,
        group: str,
        handler: Callable[[Effect], object],
        *,
        concurrency: int = 1,
        start: Start = "begin",
        types: Iterable[str] | None = None,
        ordered: bool = False,
        max_attempts: int = MAX_ATTEMPTS,
        backoff_ms: int = BACKOFF_MS,
        on_dead: OnDead = "skip",
        lease_ms: int = LEASE_MS,
        whole: bool = True,
    ) -> Worker:
        """A worker of this group: `run` calls `handler` for each effect, until `stop`.

        A handler that returns has handled its effect; one that raises has not, and the effect comes again
        after a pause that doubles, until it is a dead letter. `raise Retry(delay_ms=...)` chooses the
        pause. An effect may come twice: after a crash, or where a lease was lost.

        Args:
            group: its name; `run` creates it with these settings unless it exists.
            handler: called with an Effect, in threads of the worker's own.
            concurrency: so many handlers at a time.
            start: where a new group begins: at the `begin` of the log, or `now`.
            types: event types to take; None takes all.
            ordered: one session's effects one at a time, in order.
            max_attempts: after so many failures an effect is a dead letter.
            backoff_ms: the pause after the first failure.
            on_dead: `skip` a dead letter, or `halt` the group until somebody requeues or discards it.
            lease_ms: an effect whose worker says nothing for so long goes to another one. A worker that is
                alive extends its leases by itself.
            whole: have the content of a message too large for an event read before the handler is called.
        """
        settings = Settings.of(start, types, ordered, max_attempts, backoff_ms, on_dead)
        return Worker(
            self._sockets, group, handler, settings, concurrency=concurrency, lease_ms=lease_ms, whole=whole
        )

    def create_group(
        self,
        group: str,
        *,
        start: Start = "begin",
        types: Iterable[str] | None = None,
        ordered: bool = False,
        max_attempts: int = MAX_ATTEMPTS,
        backoff_ms: int = BACKOFF_MS,
        on_dead: OnDead = "skip",
    ) -> Group:
        """Create a worker group. If it exists with the same settings, give it with `duplicate` True.

        Raises:
            Conflict: it exists with other settings; `field` names the first that differs.
        """
        settings = Settings.of(start, types, ordered, max_attempts, backoff_ms, on_dead)
        return self._channel.request(settings.call(group))

    def lease(
        self,
        group: str,
        *,
        max: int = 1,
        lease_ms: int = LEASE_MS,
        wait_ms: int = 0,
        request: str | None = None,
    ) -> Leases:
        """Take up to `max` effects for `lease_ms`, waiting up to `wait_ms` for the first one.

        The same `request` token (1 to 64 bytes) again gives the same leases while any of them is held, so
        a call whose answer was lost can be repeated. Waiting happens on a connection of its own. `worker`
        does all this.

        Raises:
            GroupNotFound: there is no such group.
        """
        call = group_calls.lease(group, max, lease_ms, wait_ms, request)
        if not wait_ms:
            return self._channel.request(call)
        with self._sockets.channel(self._sockets.timeout + wait_ms / 1000) as channel:
            return channel.request(call)

    def ack(self, group: str, leases: Iterable[Lease | str]) -> Outcomes:
        """Say that these effects, at most 1,000, were handled; one outcome each."""
        return self._channel.request(group_calls.ack(group, leases))

    def nack(
        self,
        group: str,
        leases: Iterable[Lease | str],
        *,
        reason: str | None = None,
        delay_ms: int | None = None,
    ) -> Outcomes:
        """Say that these effects could not be handled: again in `delay_ms`, or after the group's backoff."""
        return self._channel.request(group_calls.nack(group, leases, reason, delay_ms))

    def extend(self, group: str, leases: Iterable[Lease | str], *, lease_ms: int = LEASE_MS) -> Outcomes:
        """Keep these effects for `lease_ms` from now."""
        return self._channel.request(group_calls.extend(group, leases, lease_ms))

    def groups(self, group: str | None = None) -> tuple[Group, ...]:
        """All worker groups as they stand, or this one.

        Raises:
            GroupNotFound: there is no such group.
        """
        return self._channel.request(group_calls.groups(group))

    def dead_letters(
        self, group: str, *, after: int | None = None, limit: int | None = None
    ) -> DeadLetterPage:
        """A page of a group's dead letters, those behind position `after`."""
        return self._channel.request(group_calls.dead_letters(group, after, limit))

    def requeue(self, group: str, positions: Iterable[int] | None = None) -> int:
        """Try the dead letters at these positions again, or all; gives how many there were."""
        return self._channel.request(group_calls.requeue(group, positions))

    def discard(self, group: str, positions: Iterable[int] | None = None) -> int:
        """Give the dead letters at these positions up for good, or all; gives how many there were."""
        return self._channel.request(group_calls.discard(group, positions))

    def drop_group(self, group: str) -> bool:
        """Remove a group and all that it knows; False if there was none."""
        return self._channel.request(group_calls.drop_group(group))
