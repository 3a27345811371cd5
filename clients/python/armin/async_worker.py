"""The asyncio worker: does what a Work says, with a task for each handler."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from armin.async_channel import AsyncChannel, AsyncSockets
from armin.calls import Call
from armin.effect import Counters, Effect, Failure, Settings, completed, failure, missing
from armin.errors import ArminError
from armin.live import new_token
from armin.worker import READ_ATTEMPTS, READ_PAUSE
from armin.working import POLL_MS, Ask, Begin, Line, Wait, Work, patience


class AsyncWorker:
    """The asyncio twin of Worker, made by `AsyncClient.worker`; handlers are coroutine functions."""

    def __init__(
        self,
        sockets: AsyncSockets,
        group: str,
        handler: Callable[[Effect], Awaitable[object]],
        settings: Settings,
        *,
        concurrency: int,
        lease_ms: int,
        whole: bool,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self.group = group
        self._sockets = sockets
        self._handler = handler
        self._settings = settings
        self._whole = whole
        self._patience = patience(sockets.timeout, lease_ms)
        self._work = Work(
            group, concurrency=concurrency, lease_ms=lease_ms, timeout=sockets.timeout, tokens=new_token
        )
        self._channels: dict[Line, AsyncChannel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._said = asyncio.Event()
        self._bug: BaseException | None = None
        self._begun = False

    @property
    def counters(self) -> Counters:
        """What was done so far."""
        return self._work.counters

    def stop(self) -> None:
        """Lease no more; `run` returns when what is held is finished. From the event loop's thread."""
        self._work.stop()
        self._said.set()

    async def run(self) -> None:
        """Create the group unless it exists, and handle its effects until `stop`.

        Raises what the blocking worker's does. If it is cancelled, so are the handlers, and what they held
        goes to other workers when the leases end; `stop` is the better way.
        """
        if self._begun:
            raise RuntimeError("a worker runs once; make another one")
        self._begun = True
        outcomes = self._sockets.channel(self._patience)
        try:
            await self._create_group()
            self._channels = {
                Line.LEASES: self._sockets.channel(POLL_MS / 1000 + self._patience),
                Line.OUTCOMES: outcomes,
            }
            await self._loop()
        finally:
            await self._end_tasks()
            for channel in (outcomes, *self._channels.values()):
                await channel.close()
        if self._work.error is not None:
            raise self._work.error

    async def _create_group(self) -> None:
        channel = self._sockets.channel()
        try:
            await channel.request(self._settings.call(self.group))
        finally:
            await channel.close()

    async def _loop(self) -> None:
        clock = self._sockets.clock
        while (action := self._work.next(clock())) is not None:
            match action:
                case Begin(effect):
                    self._start(self._handle(effect))
                case Ask(line, call):
                    self._start(self._ask(line, call))
                case Wait(until):
                    await self._wait(until)

    async def _wait(self, until: float) -> None:
        try:
            async with asyncio.timeout(None if until == math.inf else until - self._sockets.clock()):
                await self._said.wait()
        except TimeoutError:
            pass
        self._said.clear()
        if self._bug is not None:
            raise self._bug

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bug = error
            self._said.set()

    async def _ask(self, line: Line, call: Call[Any]) -> None:
        clock = self._sockets.clock
        try:
            result = await self._channels[line].request(call)
        except ArminError as error:
            self._work.unanswered(line, error, clock())
        else:
            self._work.answered(line, result, clock())
        self._said.set()

    async def _handle(self, effect: Effect) -> None:
        outcome: Failure | None = None
        try:
            if self._whole:
                await self._complete(effect)
            await self._handler(effect)
        except Exception as error:  # noqa: BLE001 - goes to the log and to the engine
            outcome = failure(effect, error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            outcome = failure(effect, error)  # something within the handler was cancelled, not the worker
        self._work.finished(effect, outcome)
        self._said.set()

    async def _complete(self, effect: Effect) -> None:
        call = missing(effect.event)
        if call is None:
            return
        for attempt in range(READ_ATTEMPTS):
            if attempt:
                await asyncio.sleep(READ_PAUSE)
            channel = self._sockets.channel()
            try:
                effect.event = completed(effect.event, await channel.request(call))
                return
            except ArminError as error:
                if not error.retry or attempt + 1 == READ_ATTEMPTS:
                    raise
            finally:
                await channel.close()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
