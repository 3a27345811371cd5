"""An engine looked at again and again: what it said, and how fast things went between two looks."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from armin.cli.connection import Where
from armin.cli.figures import Stats
from armin.cli.status import not_ready
from armin.client import Client
from armin.errors import ArminError, NoReply, ShuttingDown
from armin.results import Group, Hello

HISTORY: Final = 600  # looks that are remembered
PATIENCE: Final = 2.0  # seconds that one answer may take; after that it is said to be away
COUNTED: Final = ("commands", "facts", "commits")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look found; without `hello` nobody answered, and `problem` says why. `at`: local, seconds."""

    at: float
    hello: Hello | None = None
    stats: Stats = field(default_factory=Stats)
    groups: tuple[Group, ...] = ()
    reasons: tuple[str, ...] = ()
    problem: ArminError | None = None

    @property
    def state(self) -> Literal["serving", "recovering", "away"]:
        """How it was."""
        if self.hello is not None:
            return "serving"
        return "recovering" if self.problem is not None and self.problem.reason == "recovering" else "away"


class Source:
    """Looks at one engine; connects anew when it was away."""

    def __init__(self, where: Where) -> None:
        self._where = dataclasses.replace(where, wait=0.0, timeout=min(where.timeout, PATIENCE))
        self._client: Client | None = None
        self._hello: Hello | None = None

    def look(self) -> Reading:
        """One look. Raises what is no engine's absence, such as a key that is not good enough."""
        try:
            if self._client is None:
                self._client = self._where.connect()
            return self._ask(self._client)
        except (NoReply, ShuttingDown) as error:
            self.close()
            return Reading(time.time(), problem=error)

    def _ask(self, client: Client) -> Reading:
        hello = client.hello()
        stats, groups = Stats(client.stats()), client.groups()
        return Reading(time.time(), hello, stats, groups, not_ready(client))

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


class History:
    """The last readings, and rates between them."""

    def __init__(self) -> None:
        self.last: Reading | None = None
        self.served: Reading | None = None  # the last one with an answer
        self.rates: dict[str, deque[float]] = {name: deque(maxlen=HISTORY) for name in COUNTED}

    def add(self, reading: Reading) -> None:
        """Remember one."""
        before = self.served if self.last is not None and self.last.hello is not None else None
        for name, rates in self.rates.items():
            rates.append(_rate(name, before, reading))
        self.last = reading
        if reading.hello is not None:
            self.served = reading


def _rate(name: str, before: Reading | None, reading: Reading) -> float:
    """So many a second since the look before, or else what the engine says."""
    if reading.hello is None:
        return 0.0
    if before is not None and before.hello is not None and before.hello.engine == reading.hello.engine:
        passed = (reading.stats["uptime_ms"] - before.stats["uptime_ms"]) / 1000
        if passed > 0:
            return float((reading.stats[name] - before.stats[name]) / passed)
    return float(reading.stats[f"{name}_per_s"] or 0.0)


class Watch:
    """Looks every `interval` seconds in a thread of its own, and tells."""

    def __init__(self, source: Source, interval: float, tell: Callable[[Reading | Exception], None]) -> None:
        self._source = source
        self._interval = interval
        self._tell = tell
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="armin watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join(PATIENCE)  # it may wait for an answer; nobody waits longer for it

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            try:
                self._tell(self._source.look())
            except Exception as error:  # noqa: BLE001 - the thread that waits for us raises it
                self._tell(error)
                break
            due = max(due + self._interval, time.monotonic())
            self._ended.wait(due - time.monotonic())
        with contextlib.suppress(ArminError):
            self._source.close()
