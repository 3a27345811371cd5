"""A committed fact as the checks see it, from an event, from the engine's log or from the file."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from armin.results import Event, Message
from armin.torture.content import TAG, digest, message_digest, tag_of
from armin_broker.protocol import MESSAGE_APPENDED, ROLES, SESSION_CLOSED, SESSION_CREATED


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact of the log. `message_id` and `seq` are 0 where there is no message.

    `tag` and `digest` are of the message, or of the session's name and meta; None where an event came
    elided, or there is nothing to say, as for a closure.
    """

    position: int
    type: str
    session_id: int
    message_id: int = 0
    seq: int = 0
    created_at: int | None = None
    tag: str | None = None
    digest: str | None = None

    def row(self) -> list[Any]:
        """As it stands in an evidence file."""
        return [
            self.position,
            self.type,
            self.session_id,
            self.message_id,
            self.seq,
            self.created_at,
            self.tag,
            self.digest,
        ]

    def agrees(self, other: Fact) -> bool:
        """Whether both are the same fact, as far as both say."""
        mine, others = self.row(), other.row()
        if None in (self.digest, other.digest):
            return mine[:6] == others[:6]
        return mine == others


def of_event(event: Event) -> Fact:
    """The fact that an event announces."""
    message = event.message
    if message is not None:
        return of_message(event.position, message)
    if event.type == SESSION_CREATED:
        tag = None if event.meta is None else event.meta.get(TAG)
        about = digest(event.name, event.meta)
        return Fact(event.position, event.type, event.session_id, 0, 0, event.created_at, tag, about)
    return Fact(event.position, event.type, event.session_id)


def of_message(position: int, message: Message) -> Fact:
    """The fact that a message was appended."""
    tag = None if message.elided else tag_of(message.content, message.meta)
    about = None if message.elided else message_digest(message.role, message.content, message.meta)
    return Fact(
        position,
        MESSAGE_APPENDED,
        message.session_id,
        message.id,
        message.seq,
        message.created_at,
        tag,
        about,
    )


_FILE_FACTS: Final = """
    SELECT l.position, l.kind, l.session_id, l.message_id,
           m.role, m.content, m.created_at, mm.meta, s.created_at, n.name, sm.meta, m.session_id
    FROM log AS l
    LEFT JOIN messages AS m ON m.id = l.message_id
    LEFT JOIN message_meta AS mm ON mm.message_id = l.message_id
    LEFT JOIN sessions AS s ON s.id = l.session_id
    LEFT JOIN session_names AS n ON n.session_id = l.session_id
    LEFT JOIN session_meta AS sm ON sm.session_id = l.session_id
    ORDER BY l.position
"""
_TYPES: Final = {1: SESSION_CREATED, 2: MESSAGE_APPENDED, 3: SESSION_CLOSED}


def of_file(connection: sqlite3.Connection) -> list[Fact]:
    """Every fact that the file holds, by position, read with nothing of the engine's in between."""
    seqs: dict[int, int] = {}
    facts = []
    for row in connection.execute(_FILE_FACTS):
        position, kind, session_id, message_id, role, content, sent_at, meta, created_at, name, about, of = (
            row
        )
        if kind == 2:
            seq = seqs[session_id] = seqs.get(session_id, 0) + 1
            map_ = None if meta is None else json.loads(meta)
            known = of == session_id and content is not None and role in range(len(ROLES))
            tag = tag_of(content, map_) if known else "a message that is not there"
            what = message_digest(ROLES[role], content, map_) if known else "none"
            facts.append(
                Fact(position, _TYPES[kind], session_id, message_id, seq, sent_at, tag, what),
            )
        elif kind == 1:
            map_ = None if about is None else json.loads(about)
            tag = None if map_ is None else map_.get(TAG)
            facts.append(Fact(position, _TYPES[kind], session_id, 0, 0, created_at, tag, digest(name, map_)))
        else:
            facts.append(Fact(position, _TYPES.get(kind, f"kind {kind}"), session_id))
    return facts
