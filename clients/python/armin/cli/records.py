"""What `--json` prints: the shapes of the wire, with absent fields left out."""

from __future__ import annotations

import dataclasses
from typing import Any

from armin.results import DeadLetter, Event, Group, Message, Session

Record = dict[str, Any]


def message_record(message: Message) -> Record:
    """`{id, session_id, seq, role, content, created_at, meta?}`, or `elided` instead of the content."""
    record: Record = {
        "id": message.id,
        "session_id": message.session_id,
        "seq": message.seq,
        "role": message.role,
    }
    if message.elided:
        return {**record, "created_at": message.created_at, "elided": True}
    record |= {"content": message.content, "created_at": message.created_at}
    return record if message.meta is None else {**record, "meta": message.meta}


def session_record(session: Session) -> Record:
    """`{id, name?, closed, created_at, seq, meta?}`."""
    record: Record = {
        "id": session.id,
        "name": session.name,
        "closed": session.closed,
        "created_at": session.created_at,
        "seq": session.seq,
        "meta": session.meta,
    }
    return _given(record)


def event_record(event: Event) -> Record:
    """`{position, type, session_id, created_at?, name?, meta?}`, or `message` for an append."""
    record: Record = {"position": event.position, "type": event.type, "session_id": event.session_id}
    if event.message is not None:
        return {**record, "message": message_record(event.message)}
    return _given({**record, "created_at": event.created_at, "name": event.name, "meta": event.meta})


def group_record(group: Group) -> Record:
    """The group as `groups` gives it: its settings, and how it stands."""
    record = dataclasses.asdict(group)
    del record["duplicate"]
    return record | {"types": list(group.types)}


def dead_letter_record(letter: DeadLetter) -> Record:
    """`{position, attempts, reason?, died_at, event}`."""
    record: Record = {
        "position": letter.position,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "died_at": letter.died_at,
        "event": event_record(letter.event),
    }
    return _given(record)


def _given(record: Record) -> Record:
    return {name: value for name, value in record.items() if value is not None}
