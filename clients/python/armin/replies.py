"""Bytes from the engine, made into results: everything is checked here, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgpack

from armin import errors, pages
from armin.errors import ProtocolError
from armin.results import (
    Appended,
    AppendedMany,
    Closed,
    Event,
    EventPage,
    Health,
    Hello,
    Message,
    MessagePage,
    Refreshed,
    Session,
    SessionPage,
    SnapshotPage,
    Tail,
    Tails,
)
from armin_broker.protocol import PROTOCOL

T = TypeVar("T")

Fields = Mapping[str, Any]


def decode(reply: bytes) -> dict[str, Any]:
    """The fields of a reply that says ok.

    Raises:
        ArminError: the reply says what went wrong, or it is none (ProtocolError).
    """
    return checked(_unpack_map(reply, "reply"))


def checked(fields: object) -> dict[str, Any]:
    """A reply that is unpacked already, if it says ok.

    Raises:
        ArminError: it says what went wrong, or it is no reply (ProtocolError).
    """
    if not isinstance(fields, dict):
        raise ProtocolError(f"a reply is a {type(fields).__name__}, not a map")
    if fields.get("ok") is True:
        return fields
    error = fields.get("error")
    if fields.get("ok") is not False or not isinstance(error, dict):
        raise ProtocolError("the reply says neither ok nor what went wrong")
    position = fields.get("position")
    raise errors.from_wire(error, position if type(position) is int else None)


def decode_event(packed: bytes) -> Event:
    """An event as the live socket carries it behind its topic."""
    return pages.event(packed) or event(_unpack_map(packed, "event"))


def decode_effect(frames: Sequence[bytes]) -> Event:
    """An event as the effects socket carries it."""
    if len(frames) != 1:
        raise ProtocolError(f"an effect has {len(frames)} frames, not 1")
    return decode_event(frames[0])


def decode_beat(packed: bytes) -> Fields:
    """The fields of a heartbeat."""
    return _unpack_map(packed, "heartbeat")


def _unpack_map(packed: bytes, what: str) -> Fields:
    try:
        fields = msgpack.unpackb(packed)
    except (ValueError, msgpack.UnpackException) as error:  # ValueError: bad UTF-8, trailing bytes
        raise ProtocolError(f"the {what} is not msgpack: {error}") from None
    if not isinstance(fields, dict):
        raise ProtocolError(f"the {what} is a {type(fields).__name__}, not a map")
    return fields


# --- fields ---------------------------------------------------------------------------------------


def integer(fields: Fields, name: str) -> int:
    """A field that must be an integer."""
    value = fields.get(name)
    if type(value) is not int:
        raise ProtocolError(f"the reply has no integer `{name}`")
    return value


def text(fields: Fields, name: str) -> str:
    """A field that must be a string."""
    value = fields.get(name)
    if type(value) is not str:
        raise ProtocolError(f"the reply has no string `{name}`")
    return value


def truth(fields: Fields, name: str) -> bool:
    """A field that must be true or false."""
    value = fields.get(name)
    if type(value) is not bool:
        raise ProtocolError(f"the reply has no truth value `{name}`")
    return value


def table(fields: Fields, name: str) -> dict[str, Any]:
    """A field that must be a map."""
    value = fields.get(name)
    if type(value) is not dict:
        raise ProtocolError(f"the reply has no map `{name}`")
    return value


def table_or_none(fields: Fields, name: str) -> dict[str, Any] | None:
    """A field that must be a map, if it is there."""
    return None if fields.get(name) is None else table(fields, name)


def text_or_none(fields: Fields, name: str) -> str | None:
    """A field that must be a string, if it is there."""
    return None if fields.get(name) is None else text(fields, name)


def integer_or_none(fields: Fields, name: str) -> int | None:
    """A field that may be absent, else an integer."""
    return None if fields.get(name) is None else integer(fields, name)


def array(fields: Fields, name: str) -> list[Any]:
    """A field that must be an array."""
    value = fields.get(name)
    if type(value) is not list:
        raise ProtocolError(f"the reply has no array `{name}`")
    return value


def each(fields: Fields, name: str, parse: Callable[[Fields], T]) -> tuple[T, ...]:
    """A field that must be an array of maps, each parsed."""
    items = array(fields, name)
    if not set(map(type, items)) <= {dict}:
        raise ProtocolError(f"`{name}` holds something that is not a map")
    return tuple(map(parse, items))


# --- results --------------------------------------------------------------------------------------


def message(fields: Fields) -> Message:
    """One message; one that was elided has no content and no meta."""
    elided = fields.get("elided") is True
    return Message(
        integer(fields, "id"),
        integer(fields, "session_id"),
        integer(fields, "seq"),
        text(fields, "role"),
        "" if elided else text(fields, "content"),
        integer(fields, "created_at"),
        table_or_none(fields, "meta"),
        elided,
    )


def event(fields: Fields) -> Event:
    """One committed fact, of a type known or not."""
    inner = table_or_none(fields, "message")
    appended = None if inner is None else message(inner)
    return Event(
        integer(fields, "position"),
        text(fields, "type"),
        integer(fields, "session_id"),
        appended,
        integer_or_none(fields, "created_at") if appended is None else appended.created_at,
        text_or_none(fields, "name"),
        table_or_none(fields, "meta"),
    )


def _session(fields: Fields, position: int, duplicate: bool = False) -> Session:
    return Session(
        integer(fields, "id"),
        text_or_none(fields, "name"),
        truth(fields, "closed"),
        integer(fields, "created_at"),
        integer(fields, "seq"),
        table_or_none(fields, "meta"),
        position,
        duplicate,
    )


def duplicate(fields: Fields) -> bool:
    """Whether it was done before."""
    return fields.get("duplicate") is True


def position(fields: Fields) -> int:
    """Reply of `ping` and `sync`."""
    return integer(fields, "position")


def hello(fields: Fields) -> Hello:
    """Reply of `hello`.

    Raises:
        ProtocolError: the engine speaks another version of the protocol.
    """
    spoken = text(fields, "protocol")
    if spoken != PROTOCOL:
        raise ProtocolError(f"the engine speaks {spoken[:40]!r}, this client {PROTOCOL!r}")
    return Hello(
        spoken,
        text(fields, "version"),
        tuple(array(fields, "features")),
        text(fields, "database"),
        text(fields, "epoch"),
        text(fields, "engine"),
        table(fields, "endpoints"),
        table(fields, "limits"),
        table(fields, "durability"),
        position(fields),
        text_or_none(fields, "role"),
    )


def session(fields: Fields) -> Session:
    """Reply of `session` and `create_session`."""
    return _session(table(fields, "session"), position(fields), duplicate(fields))


def appended(fields: Fields) -> Appended:
    """Reply of `append`."""
    return Appended(
        integer(fields, "id"),
        integer(fields, "seq"),
        integer(fields, "at"),
        integer(fields, "created_at"),
        position(fields),
        duplicate(fields),
    )


def appended_many(fields: Fields) -> AppendedMany:
    """Reply of `append_many`."""
    return AppendedMany(
        integer(fields, "first_id"),
        integer(fields, "first_seq"),
        integer(fields, "first_at"),
        integer(fields, "count"),
        integer(fields, "created_at"),
        position(fields),
        duplicate(fields),
    )


def closed(fields: Fields) -> Closed:
    """Reply of `close_session`."""
    return Closed(integer(fields, "at"), position(fields), duplicate(fields))


def session_page(fields: Fields) -> SessionPage:
    """Reply of `sessions`."""
    at = position(fields)
    found = each(fields, "sessions", lambda item: _session(item, at))
    return SessionPage(found, truth(fields, "more"), at)


def message_page(fields: Fields) -> MessagePage:
    """Reply of `read`."""
    return MessagePage(
        each(fields, "messages", message),
        truth(fields, "more"),
        integer(fields, "seq"),
        truth(fields, "closed"),
        position(fields),
    )


def snapshot_page(fields: Fields) -> SnapshotPage:
    """Reply of `snapshot` and `delta`."""
    return SnapshotPage(
        each(fields, "messages", message),
        truth(fields, "more"),
        integer(fields, "snapshot_position"),
        integer(fields, "snapshot_seq"),
        position(fields),
    )


def refreshed(fields: Fields) -> Refreshed:
    """Reply of `refresh_snapshot`."""
    return Refreshed(integer(fields, "snapshot_position"), position(fields))


def event_page(fields: Fields) -> EventPage:
    """Reply of `log`."""
    return EventPage(each(fields, "events", event), truth(fields, "more"), position(fields))


def tails(fields: Fields) -> Tails:
    """Reply of `tails`."""
    found = []
    for item in array(fields, "tails"):
        match item:
            case [int(session_id), int(seq), bool(closed)]:
                found.append(Tail(session_id, seq, closed))
            case _:
                raise ProtocolError("`tails` holds something that is not [session_id, seq, closed]")
    return Tails(tuple(found), position(fields))


def health(fields: Fields) -> Health:
    """Reply of `health`."""
    return Health(
        truth(fields, "live"),
        truth(fields, "ready"),
        text(fields, "state"),
        tuple(array(fields, "reasons")),
        position(fields),
    )


def statistics(fields: Fields) -> dict[str, Any]:
    """Reply of `stats`: counters and gauges by name."""
    return {name: value for name, value in fields.items() if name != "ok"}
