"""One process of the campaign: `python -m armin.torture.process`, told by a JSON map what to be."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import armin
from armin.async_client import AsyncClient
from armin.torture import crippled, follows, handling, script
from armin.torture.control import Control
from armin.torture.evidence import EvidenceFile, life_file
from armin.torture.writing import Reader, Sessions, Writer
from armin.worker import Worker

POLL_S: Final = 0.02
WRITERS: Final = "writers"
FOLLOWERS: Final = "followers"
WORKERS: Final = "workers"
COLLEAGUES: Final = "colleagues"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process is told; it goes as JSON over the command line."""

    role: str
    life: int
    engine: str  # directory that the clients connect to
    evidence: str
    seed: str
    pace: float  # seconds between two writes of one writer, on average
    timeout: float  # seconds that the clients wait for a reply
    crippled: tuple[str, ...] = ()

    def encode(self) -> str:
        """As an argument."""
        return json.dumps(asdict(self))


class Crew:
    """Everybody who works in this process: threads with a blocking client, tasks with an asyncio one."""

    def __init__(self, settings: Settings, evidence: EvidenceFile) -> None:
        self.settings = settings
        self.evidence = evidence
        self.threads: list[threading.Thread] = []

    def chance(self, name: str) -> random.Random:
        """The dice of one of them."""
        return random.Random(f"{self.settings.seed}/{self.settings.role}/{self.settings.life}/{name}")

    def thread(self, name: str, work: Callable[[armin.Client], None]) -> None:
        """Start one with a blocking client."""

        def run() -> None:
            with armin.connect(Path(self.settings.engine), timeout=self.settings.timeout) as client:
                work(client)

        self._start(name, run)

    def tasks(self, name: str, *works: Callable[[AsyncClient], Coroutine[Any, Any, None]]) -> None:
        """Start some that share one event loop and one asyncio client."""

        async def run() -> None:
            async with armin.connect_async(
                Path(self.settings.engine), timeout=self.settings.timeout
            ) as client:
                await asyncio.gather(*(work(client) for work in works))

        self._start(name, lambda: asyncio.run(run()))

    def _start(self, name: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guarded, args=(name, run), name=name, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _guarded(self, name: str, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the campaign must hear of it
            import traceback  # noqa: PLC0415 - seldom needed

            self.evidence.write("violation", text=f"{name} failed: {error!r}", trace=traceback.format_exc())


def write(crew: Crew, control: Control) -> None:
    """Two blocking writers, three asyncio ones and a reader, on sessions that they share."""
    sessions = Sessions(_open_sessions(crew))
    life = crew.settings.life

    def writer(name: str) -> script.Script:
        name = f"w{life}{name}"
        return Writer(
            name, crew.chance(name), crew.evidence, sessions, crew.settings.pace, control.finish.is_set
        ).script()

    def blocking(name: str) -> Callable[[armin.Client], None]:
        return lambda client: script.run(writer(name), client)

    for name in ("a", "b"):
        crew.thread(f"writer {name}", blocking(name))
    crew.tasks(
        "asyncio writers",
        *(lambda client, name=name: script.run_async(writer(name), client) for name in ("c", "d", "e")),
    )
    reader = Reader(crew.chance("reader"), crew.evidence, sessions, control.finish.is_set)
    crew.thread("reader", lambda client: script.run(reader.script(), client))
    for thread in crew.threads:
        thread.join()


def _open_sessions(crew: Crew) -> list[int]:
    """What the writers of an earlier life left open; nothing if the engine is away."""
    if crew.settings.life == 1:
        return []
    with (
        armin.connect(Path(crew.settings.engine), timeout=crew.settings.timeout) as client,
        suppress(armin.ArminError),
    ):
        page = client.sessions(before=1 << 62, limit=4, closed=False)
        return [session.id for session in page.sessions]
    return []


def follow(crew: Crew, control: Control) -> None:
    """Two who follow everything and four who follow sessions, half of them with asyncio."""
    directory = Path(crew.settings.evidence)
    everyone = follows.Follows(directory, crew.evidence, crew.chance("slow"))
    crew.thread("log follower", lambda client: follows.follow_log(everyone, client, "everything"))
    for number in (1, 2):
        crew.thread(f"session follower {number}", lambda client: follows.follow_sessions(everyone, client))
    crew.tasks(
        "asyncio followers",
        lambda client: follows.follow_log_async(everyone, client, "everything, asyncio"),
        lambda client: follows.follow_sessions_async(everyone, client),
        lambda client: follows.follow_sessions_async(everyone, client),
    )
    control.finish.wait()
    tails = {int(session_id): tuple(tail) for session_id, tail in control.order["tails"].items()}
    late_before: list[str] = []
    while late := everyone.behind(control.order["position"], tails):
        if late != late_before:
            crew.evidence.write("late", followers=late)
        late_before = late
        time.sleep(POLL_S)


def work(crew: Crew, control: Control) -> None:
    """A blocking worker for each group."""
    handlers = handling.Handlers(crew.settings.seed, crew.evidence)
    workers: dict[str, Worker] = {}

    def worker(group: str) -> Callable[[armin.Client], None]:
        def hand_over(made: Worker) -> None:
            workers[group] = made
            if control.finish.is_set():
                made.stop()

        return lambda client: handling.work(handlers, client, group, hand_over)

    for group in handling.GROUPS:
        crew.thread(f"worker of {group}", worker(group))
    control.finish.wait()
    for made in workers.values():
        made.stop()
    for thread in crew.threads:
        thread.join()


def work_async(crew: Crew, control: Control) -> None:
    """An asyncio worker for each group."""
    handlers = handling.Handlers(crew.settings.seed, crew.evidence)

    def worker(group: str) -> Callable[[AsyncClient], Coroutine[Any, Any, None]]:
        return lambda client: handling.work_async(handlers, client, group, control.finish.is_set)

    crew.tasks("asyncio workers", *map(worker, handling.GROUPS))
    for thread in crew.threads:
        thread.join()


ROLES: Final[dict[str, Callable[[Crew, Control], None]]] = {
    WRITERS: write,
    FOLLOWERS: follow,
    WORKERS: work,
    COLLEAGUES: work_async,
}


def main(argument: str) -> None:
    """Be what the argument says, until told to finish."""
    settings = Settings(**json.loads(argument))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the campaign decides when we go
    directory = Path(settings.evidence)
    stacks = (directory / f"{settings.role}-{settings.life}.stacks").open("w")
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    control = Control()
    for weakness in settings.crippled:
        crippled.WEAKNESSES[weakness]()
    evidence = EvidenceFile(life_file(directory, settings.role, settings.life))
    ROLES[settings.role](Crew(settings, evidence), control)
    evidence.write("finished")
    os._exit(0)  # threads may still wait for what will never come


if __name__ == "__main__":
    main(sys.argv[1])
