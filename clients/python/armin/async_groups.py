"""The asyncio client's commands about worker groups: the blocking one documents them in full."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from armin import group_calls
from armin.async_channel import AsyncChannel, AsyncSockets
from armin.async_worker import AsyncWorker
from armin.effect import BACKOFF_MS, LEASE_MS, MAX_ATTEMPTS, Effect, Settings
from armin.groups import OnDead, Start
from armin.results import DeadLetterPage, Group, Lease, Leases, Outcomes


class AsyncGroupCommands:
    """Side effects at least once: as GroupCommands has them."""

    _sockets: AsyncSockets
    _channel: AsyncChannel

    def worker(
        self,
        group: str,
        handler: Callable[[Effect], Awaitable[object]],
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
    ) -> AsyncWorker:
        """A worker of this group: `run` calls `handler` for each effect, until `stop`."""
        settings = Settings.of(start, types, ordered, max_attempts, backoff_ms, on_dead)
        return AsyncWorker(
            self._sockets, group, handler, settings, concurrency=concurrency, lease_ms=lease_ms, whole=whole
        )

    async def create_group(
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
        """Create a worker group. If it exists with the same settings, give it with `duplicate` True."""
        settings = Settings.of(start, types, ordered, max_attempts, backoff_ms, on_dead)
        return await self._channel.request(settings.call(group))

    async def lease(
        self,
        group: str,
        *,
        max: int = 1,
        lease_ms: int = LEASE_MS,
        wait_ms: int = 0,
        request: str | None = None,
    ) -> Leases:
        """Take up to `max` effects for `lease_ms`, waiting up to `wait_ms` for the first one."""
        call = group_calls.lease(group, max, lease_ms, wait_ms, request)
        if not wait_ms:
            return await self._channel.request(call)
        channel = self._sockets.channel(self._sockets.timeout + wait_ms / 1000)
        try:
            return await channel.request(call)
        finally:
            await channel.close()

    async def ack(self, group: str, leases: Iterable[Lease | str]) -> Outcomes:
        """Say that these effects, at most 1,000, were handled; one outcome each."""
        return await self._channel.request(group_calls.ack(group, leases))

    async def nack(
        self,
        group: str,
        leases: Iterable[Lease | str],
        *,
        reason: str | None = None,
        delay_ms: int | None = None,
    ) -> Outcomes:
        """Say that these effects could not be handled: again in `delay_ms`, or after the group's backoff."""
        return await self._channel.request(group_calls.nack(group, leases, reason, delay_ms))

    async def extend(
        self, group: str, leases: Iterable[Lease | str], *, lease_ms: int = LEASE_MS
    ) -> Outcomes:
        """Keep these effects for `lease_ms` from now."""
        return await self._channel.request(group_calls.extend(group, leases, lease_ms))

    async def groups(self, group: str | None = None) -> tuple[Group, ...]:
        """All worker groups as they stand, or this one."""
        return await self._channel.request(group_calls.groups(group))

    async def dead_letters(
        self, group: str, *, after: int | None = None, limit: int | None = None
    ) -> DeadLetterPage:
        """A page of a group's dead letters, those behind position `after`."""
        return await self._channel.request(group_calls.dead_letters(group, after, limit))

    async def requeue(self, group: str, positions: Iterable[int] | None = None) -> int:
        """Try the dead letters at these positions again, or all; gives how many there were."""
        return await self._channel.request(group_calls.requeue(group, positions))

    async def discard(self, group: str, positions: Iterable[int] | None = None) -> int:
        """Give the dead letters at these positions up for good, or all; gives how many there were."""
        return await self._channel.request(group_calls.discard(group, positions))

    async def drop_group(self, group: str) -> bool:
        """Remove a group and all that it knows; False if there was none."""
        return await self._channel.request(group_calls.drop_group(group))
