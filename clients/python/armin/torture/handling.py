"""The workers: two groups, one of them ordered; handlers fail now and then, and with some effects always."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Final

from armin.async_client import AsyncClient
from armin.client import Client
from armin.effect import Effect, Retry
from armin.errors import ArminError
from armin.torture.evidence import EvidenceFile
from armin.torture.writing import UNCERTAIN
from armin.worker import Worker

ORDERED: Final = "torture, ordered"
ANY_ORDER: Final = "torture, any order"
GROUPS: Final = (ORDERED, ANY_ORDER)
CONCURRENCY: Final = 3
LEASE_MS: Final = 2000  # so long, nobody handles what a killed worker had
MAX_ATTEMPTS: Final = 6  # kills use attempts up, too
BACKOFF_MS: Final = 10
WORK_S: Final = 0.01  # at most, for one effect
FAILS: Final = 0.08  # of the attempts
DOOMED: Final = 0.01  # of the effects fail each time
AGAIN_S: Final = 0.1


def doomed(seed: str, group: str, position: int) -> bool:
    """Whether no handler ever handles this effect."""
    return random.Random(f"doom {seed}/{group}/{position}").random() < DOOMED


class Handlers:
    """What the handlers of one process do, and write down."""

    def __init__(self, seed: str, evidence: EvidenceFile) -> None:
        self._seed = seed
        self._evidence = evidence

    def begin(self, group: str, effect: Effect) -> float:
        """An effect came; gives the seconds that handling it takes."""
        self._write("begin", group, effect)
        return random.Random(f"work {effect.position}").uniform(0, WORK_S)

    def end(self, group: str, effect: Effect) -> None:
        """It was handled, or Retry is raised."""
        position, attempt = effect.position, effect.attempt
        fate = random.Random(f"fate {self._seed}/{group}/{position}/{attempt}")
        if doomed(self._seed, group, position) or fate.random() < FAILS:
            self._write("failed", group, effect)
            raise Retry("not this time")
        self._write("handled", group, effect)

    def _write(self, what: str, group: str, effect: Effect) -> None:
        self._evidence.write(
            what,
            group=group,
            position=effect.position,
            session=effect.session_id,
            attempt=effect.attempt,
            lease=effect.lease.lease,
            left=effect.lease.until / 1000 - time.time(),
        )

    def broken(self, group: str, error: ArminError) -> None:
        """Nothing that may happen to a worker."""
        self._evidence.write("violation", text=f"worker of {group}: {error.code}: {error.message}")


def _settings(group: str) -> dict[str, Any]:
    return {
        "concurrency": CONCURRENCY,
        "ordered": group == ORDERED,
        "max_attempts": MAX_ATTEMPTS,
        "backoff_ms": BACKOFF_MS,
        "lease_ms": LEASE_MS,
    }


def work(handlers: Handlers, client: Client, group: str, hand_over: Callable[[Worker], None]) -> None:
    """Work for a group until the worker that was handed over is stopped."""

    def handle(effect: Effect) -> None:
        time.sleep(handlers.begin(group, effect))
        handlers.end(group, effect)

    while True:
        worker = client.worker(group, handle, **_settings(group))
        hand_over(worker)
        try:
            worker.run()
        except UNCERTAIN:  # there is no engine to begin with, or no disk for it
            time.sleep(AGAIN_S)
        except ArminError as error:
            handlers.broken(group, error)
            return
        else:
            return


async def work_async(
    handlers: Handlers, client: AsyncClient, group: str, finished: Callable[[], bool]
) -> None:
    """The asyncio twin of `work`; stops when it is time to finish."""

    async def handle(effect: Effect) -> None:
        await asyncio.sleep(handlers.begin(group, effect))
        handlers.end(group, effect)

    while True:
        worker = client.worker(group, handle, **_settings(group))
        running = asyncio.ensure_future(worker.run())
        while not finished() and not running.done():
            await asyncio.wait([running], timeout=AGAIN_S)
        worker.stop()
        try:
            await running
        except UNCERTAIN:
            await asyncio.sleep(AGAIN_S)
        except ArminError as error:
            handlers.broken(group, error)
            return
        else:
            return
