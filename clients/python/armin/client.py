"""The blocking client."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import zmq

from armin import calls, replies
from armin.channel import Channel, Sockets
from armin.feeds import Feed, LogFeed, SessionFeed, check_epoch, checked_types, epoch_to_keep, log_feed
from armin.following import Follower
from armin.groups import GroupCommands
from armin.heads import parse_head
from armin.live import Pending, Questions, drive, new_token, unheard
from armin.pipeline import Pipeline
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

TIMEOUT: Final = 5.0  # seconds that a request waits for its reply
VERIFY_POLL: Final = 0.1  # seconds between two questions after a running comparison

T = TypeVar("T")


def connect(
    target: str | os.PathLike[str] | None = None,
    *,
    timeout: float = TIMEOUT,
    key: str | os.PathLike[str] | None = None,
    context: zmq.Context[zmq.Socket[bytes]] | None = None,
) -> Client:
    """A client of the engine at `target`; nothing is sent yet, so the engine may start later.

    Args:
        target: a data directory, `ipc://DIR` or `tcp://HOST:PORT`. None takes ARMIN_URL or ARMIN_DIR
            from the environment; where both are set, ARMIN_URL.
        timeout: seconds that each request waits for its reply before it raises NoReply.
        key: the file to come in with by TCP, as `armin keys new` wrote it. None takes ARMIN_KEY from the
            environment, if it is there.
        context: a ZeroMQ context to share; by default the client has one of its own.

    Raises:
        TargetError: neither `target` nor the environment says where the engine is, or the key cannot be used.
    """
    return Client(Sockets(find_target(target, os.environ, key), positive(timeout), context))


def positive(timeout: float) -> float:
    """A timeout that makes sense."""
    if not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
    return timeout


class Client(GroupCommands):
    """One engine, seen from this process. Safe to use from several threads; made by `connect`.

    Every method may raise NoReply, and the ArminError that the engine answers with; `close` alone does not.
    """

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self._channel: Channel = sockets.channel()
        self._boards: Boards[Pending] = Boards()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every socket, those of running iterators included. Closing twice is fine."""
        self._sockets.close()

    # --- the engine ---

    def hello(self) -> Hello:
        """Who the engine is: protocol, version, database, epoch, endpoints, limits."""
        return self._channel.request(calls.hello())

    def ping(self) -> int:
        """The engine's last committed position, which shows that it answers."""
        return self._channel.request(calls.ping())

    def sync(self, token: str) -> int:
        """Have `~sync/TOKEN/` published on the live socket; gives the last committed position.

        A subscriber that sees it has missed nothing after it. `token` is 1 to 64 of a-z, 0-9.
        """
        return self._channel.request(calls.sync(token))

    def stats(self) -> dict[str, Any]:
        """Counters and gauges of the engine by name."""
        return self._channel.request(calls.stats())

    def health(self) -> Health:
        """Whether the engine can do its work, and why not."""
        return self._channel.request(calls.health())

    def refresh_snapshot(self) -> Refreshed:
        """Fold the delta into the next snapshot; the engine also does so by itself."""
        return self._channel.request(calls.refresh_snapshot())

    def verify(
        self, *, progress: Callable[[int, int], object] | None = None, expect: str | None = None
    ) -> VerifyReport:
        """Have the engine compare its memory with the file, and wait for the result.

        It may take long on a large file and does not hold up others. `progress` is called now and then,
        and at the end, with the facts checked and their total. `expect` is a `head` of an earlier report:
        the file must still hold what it held then.
        """
        kept = None if expect is None else parse_head(expect)
        return self._job_done(
            lambda job: calls.verify(job, kept), lambda state: calls.verify_report(state, progress, kept)
        )

    def backup(self, name: str | None = None) -> BackupReport:
        """Have the engine make a verified copy of its database in DIR/backups, and wait for it.

        It holds every write acknowledged before. `name` is the file's, 1 to 128 of a-z, A-Z, 0-9, `.`, `_`
        and `-`, not beginning with a dot; without one it is named by its time and its position. It is not
        asked for again where no reply came: then it may be there or be under way.

        Raises:
            Conflict: there is a backup of this `name`, or another one is under way (`reason` `backup_exists`,
                `backup_running`).
            StorageFailed: it could not be made; nothing was left behind.
        """
        return self._job_done(
            lambda job: calls.backup(name if job is None else None, job), calls.backup_report
        )

    def _job_done(
        self,
        ask: Callable[[int | None], calls.Call[replies.Fields]],
        report: Callable[[replies.Fields], T | None],
    ) -> T:
        """Begin a job, and ask how it stands until that is its report."""
        job = None
        while True:
            state = self._channel.request(ask(job))
            if (done := report(state)) is not None:
                return done
            job = replies.integer(state, "job")
            time.sleep(VERIFY_POLL)

    # --- writes ---

    def create_session(
        self, name: str | None = None, meta: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> Session:
        """Create a session. If one has this `name`, give that one, unchanged, with `duplicate` True.

        `key` is as in `append`.
        """
        return self._channel.request(calls.create_session(name, meta, key))

    def append(
        self,
        session_id: int,
        role: str,
        content: str,
        meta: Mapping[str, Any] | None = None,
        *,
        expect_seq: int | None = None,
        key: str | None = None,
    ) -> Appended:
        """Append one message; when this returns, it is on disk.

        Args:
            session_id: the session.
            role: `user`, `assistant`, `system` or `tool`.
            content: its text, at most 16 MiB in UTF-8.
            meta: a map of JSON values to keep with it, at most 64 KiB.
            expect_seq: the seq that the message must get.
            key: the write's idempotency key, at most 256 bytes in UTF-8; without one the client makes a key
                that grows with time. The same key with the same content again, even after years, gives the
                first result with `duplicate` True. An unanswered write is sent again with its key until the
                client's `timeout` is over; the error then has it as `key`.

        Raises:
            SessionNotFound: there is no such session.
            SessionClosed: it takes no more messages.
            Conflict: another seq than `expect_seq` is next, or `key` stands for another write (`reason`
                `key_reused`); nothing changed.
            BadRequest: a value of the wrong shape.
            TooLarge: a value over its limit.
            StorageFailed: it could not be committed.
        """
        return self._channel.request(calls.append(session_id, role, content, meta, expect_seq, key))

    def append_many(
        self,
        session_id: int,
        messages: Iterable[Mapping[str, Any] | NewMessage],
        *,
        expect_seq: int | None = None,
        key: str | None = None,
    ) -> AppendedMany:
        """Append messages to one session: all or none, consecutive. Errors are those of `append`.

        Each message is a NewMessage or a map `{role, content, meta?}`; at most 10,000 of them and 16 MiB.
        """
        return self._channel.request(calls.append_many(session_id, messages, expect_seq, key))

    def close_session(self, session_id: int) -> Closed:
        """Close a session for good. Closing it again changes nothing and says `duplicate`."""
        return self._channel.request(calls.close_session(session_id))

    def pipeline(self) -> Pipeline:
        """Many writes in flight, over a connection of their own: `with client.pipeline() as pipe:`."""
        return Pipeline(self._sockets.channel())

    # --- reads ---

    def session(self, session_id: int | None = None, *, name: str | None = None) -> Session:
        """The session of this id, or of this name.

        Raises:
            SessionNotFound: there is none.
        """
        return self._channel.request(calls.session(session_id, name))

    def sessions(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        closed: bool | None = None,
    ) -> SessionPage:
        """A page of sessions: those with an id above `after`, or the last ones below `before`.

        `limit` is 100 unless given; `closed` takes only those that are closed, or only those that are not.
        """
        return self._channel.request(calls.sessions(after, before, limit, closed))

    def tails(self, session_ids: Iterable[int]) -> Tails:
        """The last seq of each session and whether it is closed; at most 10,000 at once."""
        return self._channel.request(calls.tails(session_ids))

    def read(
        self,
        session_id: int,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        reason: str | None = None,
        epoch: str | None = None,
    ) -> MessagePage:
        """A page of a session: messages with a seq above `after`, or the page that ends below `before`.

        Always in ascending order. `limit` is 100 unless given; a page is at most 1 MiB but has at least
        one message. `reason="heal"` lets the engine count reads that made up for lost live events. `epoch` is
        as in `follow`.

        Raises:
            SessionNotFound: there is no such session.
            CursorInvalid: the cursor is ahead of the session, or of another `epoch`.
        """
        return self._channel.request(calls.read(session_id, after, before, limit, reason, epoch))

    def snapshot(
        self, session_id: int, *, after: int | None = None, limit: int | None = None
    ) -> SnapshotPage:
        """A page of what the last snapshot holds of a session. For everyday use, `read`."""
        return self._channel.request(calls.snapshot(session_id, after, limit))

    def delta(
        self,
        session_id: int,
        *,
        after: int | None = None,
        limit: int | None = None,
        snapshot_position: int | None = None,
    ) -> SnapshotPage:
        """A page of what a session gained since the snapshot. For everyday use, `read`.

        Raises:
            Conflict: the snapshot is no longer at `snapshot_position`.
        """
        return self._channel.request(calls.delta(session_id, after, limit, snapshot_position))

    def log(
        self, *, after: int | None = None, limit: int | None = None, epoch: str | None = None
    ) -> EventPage:
        """A page of the whole database's facts in commit order, those after position `after`.

        `epoch` is as in `follow`.

        Raises:
            CursorInvalid: `after` is ahead of the log, or of another `epoch`.
        """
        return self._channel.request(calls.log(after, limit, epoch))

    def messages(
        self, session_id: int, after: int = 0, *, epoch: str | None = None
    ) -> Generator[Message, None, None]:
        """Every message of a session with a seq above `after`, read page by page until none is left."""
        return self._pages(SessionFeed(session_id, after), epoch)

    def events(self, after: int = 0, *, epoch: str | None = None) -> Generator[Event, None, None]:
        """Every fact after position `after`, read page by page until none is left."""
        return self._pages(LogFeed(after), epoch)

    def _pages(self, feed: Feed[T], epoch: str | None) -> Generator[T, None, None]:
        more = True
        while more:
            items, more, _ = feed.take_page(self._channel.request(feed.page_call(None, epoch)))
            if more and epoch is None:  # a restore before the next page is asked for must not go unnoticed
                epoch = epoch_to_keep(self.hello())
            yield from items

    # --- what goes on ---

    def follow(
        self,
        session_id: int,
        after: int = 0,
        *,
        epoch: str | None = None,
        on_state: Callable[[FollowState], object] | None = None,
    ) -> Generator[Message, None, None]:
        """Every message of a session with a seq above `after`: history first, then live.

        No gap, no repeat, in order, across restarts of the engine, for whose return it waits. Ends when
        the session is closed and everything was delivered. Uses two connections of its own, closed when the
        iterator is.

        To go on later, ask for the `epoch` (see `hello`) once before following, give it as `epoch`, and store
        that value with each `seq` that you keep for `after`: where a backup is restored, the same `seq` may
        come to stand for another message.

        `on_state` is called with each FollowState as it changes, between the messages and in this thread,
        first with CATCHING_UP. What it raises ends the iteration.

        Raises:
            NoReply: no engine answers at the start.
            SessionNotFound: there is no such session.
            CursorInvalid: `after` is ahead of the session or of another `epoch`, or the engine came back with
                another database or a restored one.
        """
        return self._follow(lambda hello: SessionFeed(session_id, after), epoch, on_state)

    def follow_all(
        self,
        after: int | Literal["now"] | None = 0,
        *,
        epoch: str | None = None,
        types: Iterable[str] | None = None,
        on_state: Callable[[FollowState], object] | None = None,
    ) -> Generator[Event, None, None]:
        """Every fact of the whole database behind position `after`: the log first, then live; never ends.

        "now" or None starts at the present position. `types` takes only facts of these types:
        `session_created`, `message_appended`, `session_closed`; the others are read and passed over. As
        `follow` otherwise, with `position` to be stored. A message over 64 KiB comes with `elided` True
        and without content, in the log too: `read` has it.

        Raises:
            BadRequest: there is no such type.
        """
        wanted = checked_types(types)
        return self._follow(lambda hello: log_feed(after, wanted, hello), epoch, on_state)

    def _follow(
        self,
        feed_of: Callable[[Hello], Feed[T]],
        epoch: str | None,
        on_state: Callable[[FollowState], object] | None,
    ) -> Generator[T, None, None]:
        sockets = self._sockets
        with sockets.channel() as channel:
            hello = channel.request(calls.hello())
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
                questions = Questions(channel, self._boards, board)
                yield from drive(follower, questions, live, sockets.clock, on_state or unheard)

    def effects(self, timeout: float | None = None) -> Generator[Event, None, None]:
        """Committed facts as side effects, shared out among everybody who takes them.

        At most once: what was handed to a process that dies is gone, and so is what the engine could not
        keep while nobody took any. Ends when nothing came for `timeout` seconds; None waits for ever. A
        message over 64 KiB comes `elided`.
        """
        sockets = self._sockets
        wait = math.inf if timeout is None else timeout
        endpoint = sockets.target.effects(self.hello())
        with sockets.effects(endpoint) as inlet:
            while (frames := inlet.receive(sockets.clock() + wait)) is not None:
                yield replies.decode_effect(frames)
