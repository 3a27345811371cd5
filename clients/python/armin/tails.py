"""Where followed sessions end: one question answers for every follow of a client.

A heartbeat ahead of what a follower knows may mean that it lost something, and only the engine can say.
Who is first to wonder asks for all sessions that the client follows; the others take that answer. A
question that the engine refuses because one of its sessions is unknown says nothing of the others: each
of them then asks once for itself, so that the error reaches the follow that it belongs to and no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

from armin.errors import ProtocolError
from armin.results import Hello, Tail, Tails
from armin_broker.protocol import TAILS_MAX

P = TypeVar("P")


class Database(NamedTuple):
    """Whose sessions they are: ids mean something else in another file."""

    id: str
    epoch: str


class Board(Generic[P]):
    """What one client knows of the sessions that it follows in one database. Does no I/O.

    `pending` is the question under way, for whoever would ask the same: what it waits on is up to the
    side that does the I/O.
    """

    def __init__(self) -> None:
        self.pending: P | None = None
        self._follows: Counter[int] = Counter()
        self._known: dict[int, Tails] = {}
        self._alone: set[int] = set()  # one of them is unknown to the engine: not yet known which

    def join(self, session_ids: Iterable[int]) -> None:
        """One more follow of these sessions."""
        self._follows.update(session_ids)

    def leave(self, session_ids: Iterable[int]) -> None:
        """It has ended."""
        for session_id in session_ids:
            self._follows[session_id] -= 1
            if not self._follows[session_id]:
                del self._follows[session_id]
                self._known.pop(session_id, None)
                self._alone.discard(session_id)

    @property
    def empty(self) -> bool:
        """Whether nobody follows anything."""
        return not self._follows

    def answer(self, session_id: int, position: int) -> Tails | None:
        """Where the session ended at `position` or later, if that is known."""
        known = self._known.get(session_id)
        return known if known is not None and known.position >= position else None

    def question(self, session_id: int, position: int) -> list[int]:
        """What to ask the engine: this session, and all others of which as much is not known."""
        if session_id in self._alone:
            return [session_id]
        others = (
            other
            for other in self._follows
            if other != session_id and other not in self._alone and self.answer(other, position) is None
        )
        return [session_id, *islice(others, TAILS_MAX - 1)]

    def answered(self, asked: Sequence[int], answer: Tails) -> Tails:
        """Take the engine's answer; gives the part of the session that was asked for first."""
        if [tail.session_id for tail in answer.tails] != list(asked):
            raise ProtocolError("the tails are not those that were asked for")
        for tail in answer.tails:
            if tail.session_id in self._follows:  # else its follow has ended meanwhile
                self._known[tail.session_id] = _single(tail, answer.position)
                self._alone.discard(tail.session_id)
        return _single(answer.tails[0], answer.position)

    def refused(self, asked: Sequence[int]) -> None:
        """One of these sessions does not exist: let each be asked for alone."""
        self._alone.update(session_id for session_id in asked if session_id in self._follows)


def _single(tail: Tail, position: int) -> Tails:
    return Tails((tail,), position)


class Boards(Generic[P]):
    """The boards of one client, one for each database that it has seen followed."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._boards: dict[Database, Board[P]] = {}

    @contextmanager
    def joined(self, hello: Hello, session_ids: Sequence[int]) -> Iterator[Board[P]]:
        """The board to ask by, for as long as these sessions are followed."""
        database = Database(hello.database, hello.epoch)
        with self.lock:
            board = self._boards.setdefault(database, Board())
            board.join(session_ids)
        try:
            yield board
        finally:
            with self.lock:
                board.leave(session_ids)
                if board.empty:
                    self._boards.pop(database, None)
