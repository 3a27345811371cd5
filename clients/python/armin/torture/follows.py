"""The followers: they write down each item as it comes, and resume after the last one written down."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from armin.async_client import AsyncClient
from armin.client import Client
from armin.errors import ArminError, NoReply, ShuttingDown
from armin.results import FollowState
from armin.torture import facts
from armin.torture.evidence import EvidenceFile, lives, records

AWAY: Final = (NoReply, ShuttingDown)  # there is no engine to begin with: try again
AGAIN_S: Final = 0.1
LOG: Final = 0  # "session" of those who follow everything
SLOW: Final = 0.02  # of the items are followed by some work
SLOW_S: Final = 0.03

Tails = Mapping[int, tuple[int, bool]]  # session id: its last seq, whether it is closed


class Follows:
    """Who follows what in one process, how far each has come, and what is still to be followed."""

    def __init__(self, directory: Path, evidence: EvidenceFile, chance: random.Random) -> None:
        self._evidence = evidence
        self._chance = chance
        self._lock = threading.Lock()
        self._cursors: dict[str, int] = {}
        self._sessions: dict[str, int] = {}  # what each follows; LOG is everything
        self._ended: set[str] = set()
        self._orphans: list[str] = []  # sessions begun in an earlier life, to be gone on with
        self._remember(directory)
        evidence.write("standing", cursors=self._cursors, sessions=self._sessions, ended=sorted(self._ended))

    def _remember(self, directory: Path) -> None:
        """Take up where the last life stood, from what it wrote when it began and as it went on."""
        for path in reversed(lives(directory, "followers")):
            before = list(records(path))
            if before:
                for record in before:
                    self._recall(record)
                break
        self._orphans = [
            name for name, session in self._sessions.items() if session != LOG and name not in self._ended
        ]

    def _recall(self, record: Mapping[str, Any]) -> None:
        match record["what"]:
            case "standing":
                self._cursors, self._sessions = record["cursors"], record["sessions"]
                self._ended = set(record["ended"])
            case "begin":
                self._sessions[record["follower"]] = record["session"]
                self._cursors.setdefault(record["follower"], 0)
            case "item":
                self._cursors[record["follower"]] = _place(facts.Fact(*record["fact"]))
            case "ended":
                self._ended.add(record["follower"])

    def begin(self, name: str, session_id: int) -> int:
        """This one follows this session, or LOG, from now on; gives the cursor to begin behind."""
        with self._lock:
            self._sessions[name] = session_id
            cursor = self._cursors.setdefault(name, 0)
        self._evidence.write("begin", follower=name, session=session_id, after=cursor)
        return cursor

    def choose(self, listed: Sequence[int]) -> tuple[str, int] | None:
        """A session to follow next: one that was begun, else the newest that nobody has followed."""
        with self._lock:
            if self._orphans:
                name = self._orphans.pop()
                return name, self._sessions[name]
            free = set(listed) - set(self._sessions.values())
            if not free:
                return None
            name = f"session {max(free)}"
            self._sessions[name], self._cursors[name] = max(free), 0
            return name, max(free)

    def item(self, name: str, fact: facts.Fact) -> float:
        """Something came; gives the seconds that working on it takes."""
        self._evidence.write("item", follower=name, fact=fact.row())
        self._cursors[name] = _place(fact)
        return SLOW_S if self._chance.random() < SLOW else 0.0

    def listener(self, name: str) -> Callable[[FollowState], None]:
        """Writes down how a follow stands whenever that changes."""
        return lambda state: self._evidence.write("state", follower=name, state=state)

    def ended(self, name: str) -> None:
        """The session is closed and was followed to its end."""
        self._evidence.write("ended", follower=name)
        with self._lock:
            self._ended.add(name)

    def failed(self, name: str, error: ArminError) -> None:
        """Nothing that may happen to a follower."""
        self._evidence.write("violation", text=f"follower {name}: {error.code}: {error.message}")

    def behind(self, position: int, tails: Tails) -> list[str]:
        """Who has not come to the end yet."""
        with self._lock:
            names = list(self._sessions)
        return [name for name in names if not self._arrived(name, position, tails)]

    def _arrived(self, name: str, position: int, tails: Tails) -> bool:
        session_id = self._sessions[name]
        if session_id == LOG:
            return self._cursors[name] >= position
        seq, closed = tails.get(session_id, (0, False))
        return name in self._ended if closed else self._cursors[name] >= seq


def _place(fact: facts.Fact) -> int:
    """The cursor of whoever was given this: of a log its position, of a session its seq."""
    return fact.seq if fact.position == 0 else fact.position


def follow_log(follows: Follows, client: Client, name: str) -> None:
    """Follow everything, for ever."""
    while True:
        cursor = follows.begin(name, LOG)
        try:
            for event in client.follow_all(after=cursor, on_state=follows.listener(name)):
                time.sleep(follows.item(name, facts.of_event(event)))
        except AWAY:
            time.sleep(AGAIN_S)
        except ArminError as error:
            follows.failed(name, error)
            return


def follow_sessions(follows: Follows, client: Client) -> None:
    """Follow one session after the other, each to its end."""
    while True:
        try:
            chosen = follows.choose(_ids(client))
        except AWAY:
            chosen = None
        if chosen is None:
            time.sleep(AGAIN_S)
        else:
            _follow_session(follows, client, *chosen)


def _ids(client: Client) -> list[int]:
    return [session.id for session in client.sessions(before=1 << 62, limit=20).sessions]


def _follow_session(follows: Follows, client: Client, name: str, session_id: int) -> None:
    while True:
        cursor = follows.begin(name, session_id)
        try:
            for item in client.follow(session_id, after=cursor, on_state=follows.listener(name)):
                time.sleep(follows.item(name, facts.of_message(0, item)))
            follows.ended(name)
            return
        except AWAY:
            time.sleep(AGAIN_S)
        except ArminError as error:
            follows.failed(name, error)
            return


async def follow_log_async(follows: Follows, client: AsyncClient, name: str) -> None:
    """The asyncio twin of `follow_log`."""
    while True:
        cursor = follows.begin(name, LOG)
        try:
            async for event in client.follow_all(after=cursor, on_state=follows.listener(name)):
                await asyncio.sleep(follows.item(name, facts.of_event(event)))
        except AWAY:
            await asyncio.sleep(AGAIN_S)
        except ArminError as error:
            follows.failed(name, error)
            return


async def follow_sessions_async(follows: Follows, client: AsyncClient) -> None:
    """The asyncio twin of `follow_sessions`."""
    while True:
        try:
            page = await client.sessions(before=1 << 62, limit=20)
        except AWAY:
            await asyncio.sleep(AGAIN_S)
            continue
        chosen = follows.choose([session.id for session in page.sessions])
        if chosen is None:
            await asyncio.sleep(AGAIN_S)
        else:
            await _follow_session_async(follows, client, *chosen)


async def _follow_session_async(follows: Follows, client: AsyncClient, name: str, session_id: int) -> None:
    while True:
        cursor = follows.begin(name, session_id)
        try:
            async for item in client.follow(session_id, after=cursor, on_state=follows.listener(name)):
                await asyncio.sleep(follows.item(name, facts.of_message(0, item)))
            follows.ended(name)
            return
        except AWAY:
            await asyncio.sleep(AGAIN_S)
        except ArminError as error:
            follows.failed(name, error)
            return
