"""The asyncio client: the same methods as the blocking one, which documents them in full."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import zmq.asyncio

from armin import calls, replies
from armin.async_channel import AsyncSockets
from armin.async_groups import AsyncGroupCommands
from armin.async_live import AsyncQuestions, Pending, drive
from armin.client import TIMEOUT, VERIFY_POLL, positive
from armin.feeds import Feed, LogFeed, SessionFeed, check_epoch, checked_types, epoch_to_keep, log_feed
from armin.following import Follower
from armin.heads import parse_head
from armin.live import new_token, unheard
from armin.results import (
    Appended,
    AppendedMany,
    BackupReport,
    Closed,
    Event,
    EventPage,
    FollowState,
    Health,
    Hello,
    Message,
    MessagePage,
    NewMessage,
    Refreshed,
    Session,
    SessionPage,
    SnapshotPage,
    Tails,
    VerifyReport,
)
from armin.tails import Boards
from armin.target import find_target

T = TypeVar("T")


def connect_async(
    target: str | os.PathLike[str] | None = None,
    *,
    timeout: float = TIMEOUT,
    key: str | os.PathLike[str] | None = None,
    context: zmq.asyncio.Context | None = None,
) -> AsyncClient:
    """The asyncio twin of `connect`: `async with armin.connect_async(...) as client`.

    Takes and raises what `connect` does. The client belongs to the event loop that first uses it.
    """
    return AsyncClient(AsyncSockets(find_target(target, os.environ, key), positive(timeout), context))


class AsyncClient(AsyncGroupCommands):
    """One engine, seen from one event loop; made by `connect_async`. Requests may overlap.

    Every method does, takes and raises what the method of the same name of `Client` does.
    """

    def __init__(self, sockets: AsyncSockets) -> None:
        self._sockets = sockets
        self._channel = sockets.channel()
        self._boards: Boards[Pending] = Boards()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every socket, those of running iterators included; what waits raises ClientClosed."""
        await self._channel.close()
        self._sockets.close()

    # --- the engine ---

    async def hello(self) -> Hello:
        """Who the engine is: protocol, version, database, epoch, endpoints, limits."""
        return await self._channel.request(calls.hello())

    async def ping(self) -> int:
        """The engine's last committed position, which shows that it answers."""
        return await self._channel.request(calls.ping())

    async def sync(self, token: str) -> int:
        """Have `~sync/TOKEN/` published on the live socket; gives the last committed position."""
        return await self._channel.request(calls.sync(token))

    async def stats(self) -> dict[str, Any]:
        """Counters and gauges of the engine by name."""
        return await self._channel.request(calls.stats())

    async def health(self) -> Health:
        """Whether the engine can do its work, and why not."""
        return await self._channel.request(calls.health())

    async def refresh_snapshot(self) -> Refreshed:
        """Fold the delta into the next snapshot; the engine also does so by itself."""
        return await self._channel.request(calls.refresh_snapshot())

    async def verify(
        self, *, progress: Callable[[int, int], object] | None = None, expect: str | None = None
    ) -> VerifyReport:
        """Have the engine compare its memory with the file, and wait for the result."""
        kept = None if expect is None else parse_head(expect)
        return await self._job_done(
            lambda job: calls.verify(job, kept), lambda state: calls.verify_report(state, progress, kept)
        )

    async def backup(self, name: str | None = None) -> BackupReport:
        """Have the engine make a verified copy of its database in DIR/backups, and wait for it."""
        return await self._job_done(
            lambda job: calls.backup(name if job is None else None, job), calls.backup_report
        )

    async def _job_done(
        self,
        ask: Callable[[int | None], calls.Call[replies.Fields]],
        report: Callable[[replies.Fields], T | None],
    ) -> T:
        job = None
        while True:
            state = await self._channel.request(ask(job))
            if (done := report(state)) is not None:
                return done
            job = replies.integer(state, "job")
            await asyncio.sleep(VERIFY_POLL)

    # --- writes ---

    async def create_session(
        self, name: str | None = None, meta: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> Session:
        """Create a session. If one has this `name`, give that one, unchanged, with `duplicate` True."""
        return await self._channel.request(calls.create_session(name, meta, key))

    async def append(
        self,
        session_id: int,
        role: str,
        content: str,
        meta: Mapping[str, Any] | None = None,
        *,
        expect_seq: int | None = None,
        key: str | None = None,
    ) -> Appended:
        """Append one message; when this returns, it is on disk."""
        return await self._channel.request(calls.append(session_id, role, content, meta, expect_seq, key))

    async def append_many(
        self,
        session_id: int,
        messages: Iterable[Mapping[str, Any] | NewMessage],
        *,
        expect_seq: int | None = None,
        key: str | None = None,
    ) -> AppendedMany:
        """Append messages to one session: all or none, consecutive. Errors are those of `append`."""
        return await self._channel.request(calls.append_many(session_id, messages, expect_seq, key))

    async def close_session(self, session_id: int) -> Closed:
        """Close a session for good. Closing it again changes nothing and says `duplicate`."""
        return await self._channel.request(calls.close_session(session_id))

    # --- reads ---

    async def session(self, session_id: int | None = None, *, name: str | None = None) -> Session:
        """The session of this id, or of this name."""
        return await self._channel.request(calls.session(session_id, name))

    async def sessions(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        closed: bool | None = None,
    ) -> SessionPage:
        """A page of sessions: those with an id above `after`, or the last ones below `before`."""
        return await self._channel.request(calls.sessions(after, before, limit, closed))

    async def tails(self, session_ids: Iterable[int]) -> Tails:
        """The last seq of each session and whether it is closed; at most 10,000 at once."""
        return await self._channel.request(calls.tails(session_ids))

    async def read(
        self,
        session_id: int,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        reason: str | None = None,
        epoch: str | None = None,
    ) -> MessagePage:
        """A page of a session: messages with a seq above `after`, or the page that ends below `before`."""
        return await self._channel.request(calls.read(session_id, after, before, limit, reason, epoch))

    async def snapshot(
        self, session_id: int, *, after: int | None = None, limit: int | None = None
    ) -> SnapshotPage:
        """A page of what the last snapshot holds of a session. For everyday use, `read`."""
        return await self._channel.request(calls.snapshot(session_id, after, limit))

    async def delta(
        self,
        session_id: int,
        *,
        after: int | None = None,
        limit: int | None = None,
        snapshot_position: int | None = None,
    ) -> SnapshotPage:
        """A page of what a session gained since the snapshot. For everyday use, `read`."""
        return await self._channel.request(calls.delta(session_id, after, limit, snapshot_position))

    async def log(
        self, *, after: int | None = None, limit: int | None = None, epoch: str | None = None
    ) -> EventPage:
        """A page of the whole database's facts in commit order, those after position `after`."""
        return await self._channel.request(calls.log(after, limit, epoch))

    def messages(
        self, session_id: int, after: int = 0, *, epoch: str | None = None
    ) -> AsyncGenerator[Message, None]:
        """Every message of a session with a seq above `after`, read page by page until none is left."""
        return self._pages(SessionFeed(session_id, after), epoch)

    def events(self, after: int = 0, *, epoch: str | None = None) -> AsyncGenerator[Event, None]:
        """Every fact after position `after`, read page by page until none is left."""
        return self._pages(LogFeed(after), epoch)

    async def _pages(self, feed: Feed[T], epoch: str | None) -> AsyncGenerator[T, None]:
        more = True
        while more:
            items, more, _ = feed.take_page(await self._channel.request(feed.page_call(None, epoch)))
            if more and epoch is None:
                epoch = epoch_to_keep(await self.hello())
            for item in items:
                yield item

    # --- what goes on ---

    def follow(
        self,
        session_id: int,
        after: int = 0,
        *,
        epoch: str | None = None,
        on_state: Callable[[FollowState], object] | None = None,
    ) -> AsyncGenerator[Message, None]:
        """Every message of a session with a seq above `after`: history first, then live."""
        return self._follow(lambda hello: SessionFeed(session_id, after), epoch, on_state)

    def follow_all(
        self,
        after: int | Literal["now"] | None = 0,
        *,
        epoch: str | None = None,
        types: Iterable[str] | None = None,
        on_state: Callable[[FollowState], object] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Every fact of the whole database behind position `after`: the log first, then live; never ends."""
        wanted = checked_types(types)
        return self._follow(lambda hello: log_feed(after, wanted, hello), epoch, on_state)

    async def _follow(
        self,
        feed_of: Callable[[Hello], Feed[T]],
        epoch: str | None,
        on_state: Callable[[FollowState], object] | None,
    ) -> AsyncGenerator[T, None]:
        sockets = self._sockets
        hello = await self.hello()
        check_epoch(hello, epoch)
        feed = feed_of(hello)
        endpoint = sockets.target.live(hello)
        with sockets.live(endpoint) as live, self._boards.joined(hello, feed.session_ids) as board:
            follower = Follower(
                feed,
                hello,
                now=sockets.clock(),
                timeout=sockets.timeout,
                endpoint=endpoint,
                tokens=new_token,
            )
            questions = AsyncQuestions(self._channel, board)
            following = drive(follower, questions, live, sockets.clock, on_state or unheard)
            async with aclosing(following) as items:
                async for item in items:
                    yield item

    async def effects(self, timeout: float | None = None) -> AsyncGenerator[Event, None]:
        """Committed facts as side effects, shared out among everybody who takes them. At most once."""
        sockets = self._sockets
        wait = math.inf if timeout is None else timeout
        endpoint = sockets.target.effects(await self.hello())
        with sockets.effects(endpoint) as inlet:
            while (frames := await inlet.receive(sockets.clock() + wait)) is not None:
                yield replies.decode_effect(frames)
