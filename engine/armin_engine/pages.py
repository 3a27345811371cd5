"""Results of reads: pages of packed items, decoded on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgpack

from armin_engine.facts import Event, Message, SessionInfo, message_from


class Tail(NamedTuple):
    """Where a session ends."""

    session_id: int
    seq: int
    closed: bool


def _decode(packed: bytes) -> list[Message]:
    unpacker = msgpack.Unpacker(max_buffer_size=0)
    unpacker.feed(packed)
    return [message_from(fields) for fields in unpacker]


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Messages of one session, ascending. `seq` is the session's last one, `closed` its state.

    `more` tells whether there is more in the paging direction.
    """

    packed: bytes
    count: int
    more: bool
    seq: int
    closed: bool

    @property
    def messages(self) -> list[Message]:
        """The messages, decoded."""
        return _decode(self.packed)


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """Messages of the snapshot's or the delta's part of one session, and where the two meet."""

    packed: bytes
    count: int
    more: bool
    snapshot_position: int
    snapshot_seq: int

    @property
    def messages(self) -> list[Message]:
        """The messages, decoded."""
        return _decode(self.packed)


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Sessions by ascending id; `packed` holds each one's map."""

    sessions: tuple[SessionInfo, ...]
    packed: tuple[bytes, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class EventPage:
    """Facts in commit order."""

    events: tuple[Event, ...]
    more: bool
