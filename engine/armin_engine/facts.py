"""What is committed, and the one packed form of each thing that is read.

A fact is what one row of the log says. A message is packed once, when its fact is committed or
recovered, and sliced and joined ever after.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, Final, NamedTuple

import msgpack

from armin_engine import limits

ROLES: Final = ("user", "assistant", "system", "tool")

_packer: Final = msgpack.Packer(autoreset=True)
_pack: Final = _packer.pack


class Kind(IntEnum):
    """What a row of the log says; the numbers are stored."""

    SESSION_CREATED = 1
    MESSAGE_APPENDED = 2
    SESSION_CLOSED = 3


# A member looked up in its enum takes longer than a message's hash; these are for where every fact passes.
SESSION_CREATED: Final = Kind.SESSION_CREATED
MESSAGE_APPENDED: Final = Kind.MESSAGE_APPENDED
SESSION_CLOSED: Final = Kind.SESSION_CLOSED

EVENT_TYPES: Final = {
    Kind.SESSION_CREATED: "session_created",
    Kind.MESSAGE_APPENDED: "message_appended",
    Kind.SESSION_CLOSED: "session_closed",
}


class Meta(NamedTuple):
    """A caller's map, checked: its JSON text as stored, and its packed form as returned."""

    json: str
    packed: bytes


def pack_meta(value: dict[str, Any], text: str) -> Meta:
    """A checked map and its JSON text."""
    return Meta(text, _pack(value))


def meta_from_json(text: str) -> Meta:
    """A stored meta, as it was when it was checked. Raises ValueError for what Armin never stored."""
    try:
        value = json.loads(text)
        if type(value) is not dict:
            raise ValueError("a meta is not a map")
        return Meta(text, _pack(value))
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"a meta cannot be read: {error}") from error


class Fact(NamedTuple):
    """One row of the log with what it speaks of. Ids are 0 and `role` -1 where they do not apply."""

    position: int
    kind: Kind
    session_id: int
    message_id: int
    seq: int
    role: int
    content: str  # the message's content, or the session's name
    created_at: int  # milliseconds since the epoch; 0 for a closure
    meta: Meta | None
    content_digest: bytes | None = None  # of the content, where it was hashed before


# A Fact's fields in order, for where millions pass: recovery takes 8 % less without the class.
FactFields = tuple[int, Kind, int, int, int, int, str, int, Meta | None, bytes | None]

# A Fact of all its fields in order, at half the cost of naming the class.
new_fact: Final = partial(tuple.__new__, Fact)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as it stands. `seq` is its last message's, 0 if it has none."""

    id: int
    name: str | None
    closed: bool
    created_at: int
    seq: int
    packed_meta: bytes | None

    @property
    def meta(self) -> dict[str, Any] | None:
        """The caller's map, decoded."""
        return None if self.packed_meta is None else dict(unpack(self.packed_meta))

    def pack(self) -> bytes:
        """The map `{id, name?, closed, created_at, seq, meta?}`."""
        size = 4 + (self.name is not None) + (self.packed_meta is not None)
        parts = [_packer.pack_map_header(size), _ID, _pack(self.id)]
        if self.name is not None:
            parts += (_NAME, _pack(self.name))
        parts += (_CLOSED, _pack(self.closed), _CREATED_AT, _pack(self.created_at), _SEQ, _pack(self.seq))
        if self.packed_meta is not None:
            parts += (_META, self.packed_meta)
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as the caller sees it. Times are milliseconds since the epoch."""

    id: int
    session_id: int
    seq: int
    role: str
    content: str
    created_at: int
    meta: dict[str, Any] | None = None


class Event(NamedTuple):
    """A committed fact as it is announced: `packed` is the map that goes over the wire."""

    position: int
    kind: Kind
    session_id: int
    packed: bytes

    @property
    def type(self) -> str:
        """Its name on the wire."""
        return EVENT_TYPES[self.kind]

    def unpack(self) -> dict[str, Any]:
        """The event as a map."""
        return dict(unpack(self.packed))


_new_event: Final = partial(tuple.__new__, Event)

# --- packed forms ------------------------------------------------------------------------------------

_ID: Final = _pack("id")
_SESSION_ID: Final = _pack("session_id")
_SEQ: Final = _pack("seq")
_ROLE: Final = _pack("role")
_CONTENT: Final = _pack("content")
_CREATED_AT: Final = _pack("created_at")
_META: Final = _pack("meta")
_NAME: Final = _pack("name")
_CLOSED: Final = _pack("closed")

_MESSAGE_6: Final = _packer.pack_map_header(6) + _ID
_MESSAGE_7: Final = _packer.pack_map_header(7) + _ID
_ROLE_CONTENT: Final = tuple(_ROLE + _pack(name) + _CONTENT for name in ROLES)
_EVENT_TYPE: Final = {kind: _pack("type") + _pack(name) + _SESSION_ID for kind, name in EVENT_TYPES.items()}
_MESSAGE_TYPE: Final = _EVENT_TYPE[Kind.MESSAGE_APPENDED]
_MESSAGE: Final = _pack("message")
_POSITION: Final = {size: _packer.pack_map_header(size) + _pack("position") for size in range(3, 7)}

_POSITION_4: Final = _POSITION[4]

# The most that a packed message can weigh beside its content and meta; beyond it, measure.
_MESSAGE_OVERHEAD_MAX: Final = 128


def unpack(packed: bytes) -> Any:
    """Decode bytes that Armin packed itself."""
    return msgpack.unpackb(packed)


def pack_message(fact: FactFields) -> bytes:
    """The map `{id, session_id, seq, role, content, created_at, meta?}` of a message fact."""
    _, _, session_id, message_id, seq, role, content, created_at, meta, _ = fact
    parts = (
        _MESSAGE_6 if meta is None else _MESSAGE_7,
        _pack(message_id),
        _SESSION_ID,
        _pack(session_id),
        _SEQ,
        _pack(seq),
        _ROLE_CONTENT[role],
        _pack(content),
        _CREATED_AT,
        _pack(created_at),
    )
    return b"".join(parts if meta is None else (*parts, _META, meta.packed))


def pack_session_of(session_id: int) -> bytes:
    """What every message of one session has in it."""
    packed: bytes = _SESSION_ID + _pack(session_id) + _SEQ
    return packed


def pack_created_at(created_at: int) -> bytes:
    """What every message of one group commit has in it."""
    packed: bytes = _CREATED_AT + _pack(created_at)
    return packed


def pack_plain(message_id: int, of_session: bytes, seq: int, role: int, content: str, at: bytes) -> bytes:
    """As `pack_message`, of a message without meta, whose shared parts are packed already."""
    return b"".join(
        (_MESSAGE_6, _pack(message_id), of_session, _pack(seq), _ROLE_CONTENT[role], _pack(content), at)
    )


def message_from(packed: Mapping[str, Any]) -> Message:
    """A Message from its decoded map."""
    return Message(**packed)


def pack_events_of(session_id: int) -> bytes:
    """What every event of one session's messages has in it."""
    packed: bytes = _MESSAGE_TYPE + _pack(session_id) + _MESSAGE
    return packed


def pack_message_event(position: int, session_id: int, of_session: bytes, message: bytes) -> Event:
    """The event of a packed message; one too large for a stream goes without content and meta."""
    if len(message) > limits.EVENT_BYTES_MAX:
        message = _elide(message)
    packed = b"".join((_POSITION_4, _pack(position), of_session, message))
    return _new_event((position, MESSAGE_APPENDED, session_id, packed))


def _elide(message: bytes) -> bytes:
    fields = unpack(message)
    if len(message) <= limits.EVENT_BYTES_MAX + _MESSAGE_OVERHEAD_MAX:
        meta = fields.get("meta")
        weight = len(fields["content"].encode()) + (0 if meta is None else len(_pack(meta)))
        if weight <= limits.EVENT_BYTES_MAX:
            return message
    head = {name: value for name, value in fields.items() if name not in ("content", "meta")}
    packed: bytes = _pack({**head, "elided": True})
    return packed


def pack_created_event(position: int, session: SessionInfo) -> Event:
    """The event of a session's creation."""
    size = 4 + (session.name is not None) + (session.packed_meta is not None)
    parts = [
        _POSITION[size],
        _pack(position),
        _EVENT_TYPE[Kind.SESSION_CREATED],
        _pack(session.id),
        _CREATED_AT,
        _pack(session.created_at),
    ]
    if session.name is not None:
        parts += (_NAME, _pack(session.name))
    if session.packed_meta is not None:
        parts += (_META, session.packed_meta)
    return Event(position, Kind.SESSION_CREATED, session.id, b"".join(parts))


def pack_closed_event(position: int, session_id: int) -> Event:
    """The event of a session's closure."""
    packed = _POSITION[3] + _pack(position) + _EVENT_TYPE[Kind.SESSION_CLOSED] + _pack(session_id)
    return Event(position, Kind.SESSION_CLOSED, session_id, packed)
