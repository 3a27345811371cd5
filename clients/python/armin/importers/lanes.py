"""Several conversations on their way at once, each over a connection of its own."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from armin.importers.transfer import Delivery, ImportClient, Transfer

_WAITING_MAX: Final = 3  # conversations in a lane, the one under way included: they are in memory


class Lanes:
    """A thread for each client, to complete what was begun elsewhere.

    Conversations of the same name go through the same lane, in order.
    """

    def __init__(self, clients: Sequence[ImportClient]) -> None:
        self._clients = clients
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix="armin import") for _ in clients]
        self._under_way: list[deque[Future[Delivery]]] = [deque() for _ in clients]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)
        for thread in self._threads:
            thread.shutdown()

    def put(self, name: str, transfer: Transfer) -> Iterator[Delivery]:
        """Hand in a transfer, waiting while its lane is full. What was delivered meanwhile.

        Raises:
            ArminError: what any lane failed with.
        """
        number = zlib.crc32(name.encode()) % len(self._clients)
        lane = self._under_way[number]
        if len(lane) >= _WAITING_MAX:
            yield lane.popleft().result()
        lane.append(self._threads[number].submit(transfer.complete, self._clients[number]))
        for each in self._under_way:
            while each and each[0].done():
                yield each.popleft().result()

    def drain(self) -> Iterator[Delivery]:
        """Wait for all that is under way. Errors are those of `put`."""
        for lane in self._under_way:
            while lane:
                yield lane.popleft().result()
