"""What the processes of a campaign wrote down, and what the engine and its file held at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from armin.results import FollowState
from armin.torture.evidence import Record, all_records
from armin.torture.facts import Fact
from armin.torture.follows import LOG


class Outcome(Enum):
    """What a writer knows of a write."""

    ACKNOWLEDGED = auto()
    REFUSED = auto()
    UNKNOWN = auto()


@dataclass(slots=True)
class Write:
    """One write that was tried. `reply` is what acknowledged it; `writer` made them one after the other."""

    name: str
    op: str
    session_id: int
    digests: list[str]
    own_key: bool = True  # its name is its key, else the client made one
    outcome: Outcome = Outcome.UNKNOWN
    reply: Record = field(default_factory=dict)

    @property
    def writer(self) -> str:
        """Who wrote it."""
        return self.name.rpartition(".")[0]

    def tags(self) -> list[str]:
        """The tags of its messages, or of its session."""
        if self.op == "create_session":
            return [self.name]
        return [f"{self.name}/{index}" for index in range(len(self.digests))]

    def facts(self) -> list[Fact]:
        """What an acknowledged append says that the log holds."""
        first_id, first_seq, first_at = self.reply["first"]
        return [
            Fact(
                first_at + index,
                "message_appended",
                self.session_id,
                first_id + index,
                first_seq + index,
                self.reply["created_at"],
                f"{self.name}/{index}",
                digest,
            )
            for index, digest in enumerate(self.digests)
        ]


@dataclass(slots=True)
class Follow:
    """What one follower was given over all its lives, in order; `session_id` is LOG for everything."""

    name: str
    session_id: int
    items: list[Fact] = field(default_factory=list)
    ended: bool = False
    heals: int = 0  # times that it was live and went back to reading, or lost the engine
    state: str = ""

    @property
    def of_log(self) -> bool:
        """Whether it follows everything."""
        return self.session_id == LOG


@dataclass(slots=True)
class Handling:
    """One attempt to handle an effect, by seconds of the system's clock; `ended` is None for a kill.

    left: seconds that its lease had when it began.
    """

    group: str
    position: int
    session_id: int
    began: float
    ended: float | None = None
    handled: bool = False
    left: float = math.inf


@dataclass(slots=True)
class Rest:
    """What is there when all has come to rest: as the engine tells it, and as the file has it.

    `named` are the sessions as the engine lists them: id, closed, seq. `keys` are rows of the file: key,
    session, position, count. `faults` are findings of verify and of SQLite itself, each in words.
    """

    engine: list[Fact] = field(default_factory=list)
    file: list[Fact] = field(default_factory=list)
    sessions: dict[int, tuple[bool, int]] = field(default_factory=dict)
    file_sessions: dict[int, bool] = field(default_factory=dict)
    keys: list[tuple[str, int, int, int]] = field(default_factory=list)
    dead: dict[str, set[int]] = field(default_factory=dict)  # by group: positions of its dead letters
    taken: dict[str, int] = field(default_factory=dict)  # by group: its cursor
    faults: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Testimony:
    """Everything that the checks look at."""

    writes: dict[str, Write] = field(default_factory=dict)
    follows: dict[str, Follow] = field(default_factory=dict)
    handlings: list[Handling] = field(default_factory=list)
    announced: list[Fact] = field(default_factory=list)  # seen on the live socket itself
    emitted: list[Fact] = field(default_factory=list)  # seen on the effects socket itself
    found: list[str] = field(default_factory=list)  # violations seen by the processes as they went
    rest: Rest = field(default_factory=Rest)


def heard(directory: Path) -> Testimony:
    """The testimony of every process that left an evidence file."""
    testimony = Testimony()
    for _, record in all_records(directory, "writers"):
        _hear_writer(testimony, record)
    for _, record in all_records(directory, "followers"):
        _hear_follower(testimony, record)
    for role in ("workers", "colleagues"):
        testimony.handlings += _handlings(directory, role)
    for role in ("writers", "followers", "workers", "colleagues", "tap"):
        testimony.found += list(_violations(directory, role))
    for _, record in all_records(directory, "tap"):
        if record["what"] == "announced":
            testimony.announced.append(Fact(*record["fact"]))
        elif record["what"] == "emitted":
            testimony.emitted.append(Fact(*record["fact"]))
    return testimony


def _handlings(directory: Path, role: str) -> Iterator[Handling]:
    """Every attempt of the workers of one role; a lease is begun at most once."""
    under_way: dict[str, Handling] = {}
    for _, record in all_records(directory, role):
        match record["what"]:
            case "begin":
                handling = Handling(
                    record["group"],
                    record["position"],
                    record["session"],
                    record["at"],
                    left=record["left"],
                )
                under_way[record["lease"]] = handling
                yield handling
            case "handled" | "failed":
                handling = under_way.pop(record["lease"])
                handling.ended, handling.handled = record["at"], record["what"] == "handled"


def _violations(directory: Path, role: str) -> Iterator[str]:
    for life, record in all_records(directory, role):
        if record["what"] == "violation":
            yield f"{life}: {record['text']}"


def _hear_writer(testimony: Testimony, record: Record) -> None:
    match record:
        case {"what": "try", "write": name}:
            testimony.writes[name] = Write(
                name, record["op"], record["session"], record["digests"], record["own_key"]
            )
        case {"what": "done", "write": name}:
            write = testimony.writes[name]
            write.outcome, write.reply = Outcome.ACKNOWLEDGED, record
        case {"what": "refused", "write": name}:
            testimony.writes[name].outcome = Outcome.REFUSED


def _hear_follower(testimony: Testimony, record: Record) -> None:
    match record:
        case {"what": "begin", "follower": name, "session": session_id}:
            testimony.follows.setdefault(name, Follow(name, session_id))
        case {"what": "item", "follower": name}:
            testimony.follows[name].items.append(Fact(*record["fact"]))
        case {"what": "state", "follower": name, "state": state}:
            follow = testimony.follows[name]
            follow.heals += follow.state == FollowState.LIVE
            follow.state = state
        case {"what": "ended", "follower": name}:
            testimony.follows[name].ended = True


def count(writes: dict[str, Write], outcome: Outcome, op: str = "") -> int:
    """How many writes came to this; of one kind, or of all."""
    return sum(write.outcome is outcome and op in ("", write.op) for write in writes.values())
