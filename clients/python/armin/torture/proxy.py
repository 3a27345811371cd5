"""What lies between the processes and the engine, and does what networks do: loses, delays, cuts.

It forwards the byte streams of the three Unix sockets and knows just enough of ZMTP to lose one whole
message, or to cut a connection in the middle of one. Each client keeps a connection of its own to the
engine, so an engine that dies, a peer that vanishes and a full high-water mark look as they do without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from armin.torture.frames import Splitter, Unit
from armin_broker.protocol import COMMANDS_SOCKET, EFFECTS_SOCKET, LIVE_SOCKET

CHUNK_BYTES: Final = 1 << 16
START_S: Final = 60.0  # a proxy that takes longer to listen, or to end, is broken


class Way(StrEnum):
    """What a message is, by the socket that it goes over and its direction."""

    COMMAND = "command"
    REPLY = "reply"
    EVENT = "event"
    EFFECT = "effect"
    SUBSCRIPTION = "subscription"  # never lost: no client of ZeroMQ can make up for that


TO_ENGINE: Final = {
    COMMANDS_SOCKET: Way.COMMAND,
    LIVE_SOCKET: Way.SUBSCRIPTION,
    EFFECTS_SOCKET: Way.SUBSCRIPTION,
}
FROM_ENGINE: Final = {COMMANDS_SOCKET: Way.REPLY, LIVE_SOCKET: Way.EVENT, EFFECTS_SOCKET: Way.EFFECT}


@dataclass(frozen=True, slots=True)
class Weather:
    """The chance, from 0 to 1, that something befalls a message; `delay` is seconds at most."""

    lost_commands: float = 0.0
    lost_replies: float = 0.0
    lost_events: float = 0.0
    delayed: float = 0.0
    delay: float = 0.0
    cut: float = 0.0

    def loses(self, way: Way) -> float:
        """The chance that a message of this kind is lost."""
        match way:
            case Way.COMMAND:
                return self.lost_commands
            case Way.REPLY:
                return self.lost_replies
            case Way.EVENT:
                return self.lost_events
            case _:
                return 0.0


CLEAR: Final = Weather()


class _Cut(Exception):
    """This connection ends here."""


class Proxy:
    """Listens in `front` for what listens in `back`; runs in a thread of its own.

    `counts` has what was done so far: `lost command`, `delayed reply`, `cut`, ...
    """

    def __init__(self, front: Path, back: Path, chance: random.Random) -> None:
        self.weather = CLEAR
        self.counts: Counter[str] = Counter()
        self._front = front
        self._back = back
        self._chance = chance
        self._links: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="torture proxy", daemon=True)

    def start(self) -> None:
        """Listen; from now on clients may connect to `front`."""
        self._thread.start()
        if not self._listening.wait(START_S):
            raise RuntimeError("the proxy does not listen")

    def stop(self) -> None:
        """Cut every connection and end."""
        if self._loop is not None and self._end is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._end.set)
        if self._thread.is_alive():
            self._thread.join(START_S)

    def cut(self) -> int:
        """Cut every connection now; gives how many there were."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._cut_all(), self._loop).result(START_S)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        servers = [
            await asyncio.start_unix_server(self._acceptor(name), self._front / name) for name in TO_ENGINE
        ]
        self._listening.set()
        await self._end.wait()
        for server in servers:
            server.close()
        await self._cut_all()

    async def _cut_all(self) -> int:
        links = [link for link in self._links if not link.done()]
        for link in links:
            link.cancel()
        if links:
            await asyncio.wait(links)
        return len(links)

    def _acceptor(self, name: str) -> Any:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            link = asyncio.ensure_future(self._link(name, reader, writer))
            self._links.add(link)
            link.add_done_callback(self._links.discard)

        return accept

    async def _link(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, from its acceptance to its end."""
        try:
            engine_reader, engine_writer = await asyncio.open_unix_connection(self._back / name)
        except OSError:  # no engine: the client finds nobody, as it would without a proxy
            _drop(writer)
            return
        try:
            await _first(
                self._pump(TO_ENGINE[name], reader, engine_writer),
                self._pump(FROM_ENGINE[name], engine_reader, writer),
            )
        except (_Cut, OSError, asyncio.CancelledError):
            pass  # that is how connections end here
        finally:
            _drop(writer)
            _drop(engine_writer)

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        splitter = Splitter()
        while chunk := await reader.read(CHUNK_BYTES):
            for unit in splitter.feed(chunk):
                await self._forward(way, unit, writer)
            await writer.drain()

    async def _forward(self, way: Way, unit: Unit, writer: asyncio.StreamWriter) -> None:
        weather, chance = self.weather, self._chance
        if unit.message and weather is not CLEAR and way is not Way.SUBSCRIPTION:
            if chance.random() < weather.loses(way):
                self.counts[f"lost {way}"] += 1
                return
            if chance.random() < weather.delayed:
                self.counts[f"delayed {way}"] += 1
                await asyncio.sleep(chance.uniform(0, weather.delay))
            if chance.random() < weather.cut:
                self.counts["cut"] += 1
                writer.write(unit.data[: chance.randrange(len(unit.data))])
                raise _Cut
        if writer.is_closing():
            raise _Cut
        writer.write(unit.data)


async def _first(*pumps: Coroutine[Any, Any, None]) -> None:
    """Run them until the first one ends, and end the others."""
    tasks = [asyncio.ensure_future(pump) for pump in pumps]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _drop(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()
