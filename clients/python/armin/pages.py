"""Replies and events that come many at a time, read at once, in a fraction of the time that `replies` takes.

Each function gives None for what is not exactly as known here: an error, an elided message, a field of a
later engine, whatever is wrong. `replies` reads that, ignores what it does not know, and names what is wrong;
where both can read, both come to the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgpack
from msgspec import Raw, Struct
from msgspec.msgpack import Decoder

from armin.results import (
    Event,
    EventPage,
    Lease,
    Leases,
    Message,
    MessagePage,
    Outcome,
    Outcomes,
    SnapshotPage,
)

T = TypeVar("T")


# --- the wire -------------------------------------------------------------------------------------


class _Map(Struct, forbid_unknown_fields=True, gc=False):
    """What is skipped is not checked, so nothing is. There are no cycles, so no need to look for them."""


class _Message(_Map):
    id: int
    session_id: int
    seq: int
    role: str
    content: str
    created_at: int
    meta: Raw = Raw()


class _Event(_Map):
    position: int
    type: str
    session_id: int
    message: _Message | None = None
    created_at: int | None = None
    name: str | None = None
    meta: Raw = Raw()


class _Lease(_Map):
    lease: str
    position: int
    attempt: int
    until: int
    event: _Event


class _Fine(_Map):
    """What says ok."""

    ok: bool

    def __post_init__(self) -> None:
        if not self.ok:
            raise ValueError("it says what went wrong")


class _Outcome(_Fine):
    lease: str
    duplicate: bool = False
    dead: bool = False
    until: int | None = None


class _Reply(_Fine):
    position: int


class _MessagePage(_Reply):
    messages: list[_Message]
    more: bool
    seq: int
    closed: bool


class _SnapshotPage(_Reply):
    messages: list[_Message]
    more: bool
    snapshot_position: int
    snapshot_seq: int


class _EventPage(_Reply):
    events: list[_Event]
    more: bool


class _Leases(_Reply):
    leases: list[_Lease]


class _Outcomes(_Reply):
    outcomes: list[_Outcome]


_decode_event: Final = Decoder(_Event).decode
_decode_message_page: Final = Decoder(_MessagePage).decode
_decode_snapshot_page: Final = Decoder(_SnapshotPage).decode
_decode_event_page: Final = Decoder(_EventPage).decode
_decode_leases: Final = Decoder(_Leases).decode
_decode_outcomes: Final = Decoder(_Outcomes).decode


def _meta(packed: Raw) -> dict[str, Any]:
    """As `replies` would have it: msgspec takes keys of any kind, and makes times of some extensions."""
    meta = msgpack.unpackb(packed)
    if type(meta) is not dict:
        raise ValueError("it is not a map")
    return meta


# --- results --------------------------------------------------------------------------------------


def _unfrozen(kind: type) -> Callable[[], Any]:
    """A class of the same slots as a frozen dataclass; an instance, filled, is given `kind` as its class.

    A frozen class can set its own fields only through `object.__setattr__`, one call each, which takes longer
    than all else that is done for a message.
    """
    return type(f"Unfrozen{kind.__name__}", (), {"__slots__": vars(kind)["__slots__"]})


_UnfrozenMessage: Final = _unfrozen(Message)
_UnfrozenEvent: Final = _unfrozen(Event)
_UnfrozenLease: Final = _unfrozen(Lease)
_UnfrozenOutcome: Final = _unfrozen(Outcome)


def _message(given: _Message) -> Message:
    made = _UnfrozenMessage()
    made.id = given.id
    made.session_id = given.session_id
    made.seq = given.seq
    made.role = given.role
    made.content = given.content
    made.created_at = given.created_at
    made.meta = _meta(given.meta) if given.meta else None
    made.elided = False
    made.__class__ = Message
    message: Message = made
    return message


def _event(given: _Event) -> Event:
    inner = given.message
    made = _UnfrozenEvent()
    made.position = given.position
    made.type = given.type
    made.session_id = given.session_id
    made.message = None if inner is None else _message(inner)
    made.created_at = given.created_at if inner is None else inner.created_at
    made.name = given.name
    made.meta = _meta(given.meta) if given.meta else None
    made.__class__ = Event
    event: Event = made
    return event


def _lease(given: _Lease) -> Lease:
    made = _UnfrozenLease()
    made.lease = given.lease
    made.position = given.position
    made.attempt = given.attempt
    made.until = given.until
    made.event = _event(given.event)
    made.__class__ = Lease
    lease: Lease = made
    return lease


def _outcome(given: _Outcome) -> Outcome:
    made = _UnfrozenOutcome()
    made.lease = given.lease
    made.ok = True
    made.duplicate = given.duplicate
    made.dead = given.dead
    made.until = given.until
    made.error = None
    made.__class__ = Outcome
    outcome: Outcome = made
    return outcome


# --- what is read ---------------------------------------------------------------------------------


def _if_known(read: Callable[[bytes], T]) -> Callable[[bytes], T | None]:
    """All errors of msgspec and of msgpack are ValueErrors, but for what is nested too deep.

    A TypeError is Python's, where it lays out a class and its unfrozen twin differently.
    """

    def tried(packed: bytes) -> T | None:
        try:
            return read(packed)
        except (ValueError, RecursionError, TypeError):
            return None

    return tried


@_if_known
def event(packed: bytes) -> Event:
    """An event as the live socket carries it."""
    return _event(_decode_event(packed))


@_if_known
def message_page(reply: bytes) -> MessagePage:
    """Reply of `read`."""
    page = _decode_message_page(reply)
    return MessagePage(tuple(map(_message, page.messages)), page.more, page.seq, page.closed, page.position)


@_if_known
def snapshot_page(reply: bytes) -> SnapshotPage:
    """Reply of `snapshot` and `delta`."""
    page = _decode_snapshot_page(reply)
    return SnapshotPage(
        tuple(map(_message, page.messages)),
        page.more,
        page.snapshot_position,
        page.snapshot_seq,
        page.position,
    )


@_if_known
def event_page(reply: bytes) -> EventPage:
    """Reply of `log`."""
    page = _decode_event_page(reply)
    return EventPage(tuple(map(_event, page.events)), page.more, page.position)


@_if_known
def leases(reply: bytes) -> Leases:
    """Reply of `lease`."""
    given = _decode_leases(reply)
    return Leases(tuple(map(_lease, given.leases)), given.position)


@_if_known
def outcomes(reply: bytes) -> Outcomes:
    """Reply of `ack`, `nack` and `extend`."""
    given = _decode_outcomes(reply)
    return Outcomes(tuple(map(_outcome, given.outcomes)), given.position)
