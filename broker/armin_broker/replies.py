"""Replies, packed. Every one carries `ok` and `position`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgpack

from armin_broker.groups.leasing import Grant
from armin_engine.errors import EngineError
from armin_engine.plan import Outcome
from armin_engine.records import Appended, Closed, Created

_packer: Final = msgpack.Packer(autoreset=True)
_pack: Final = _packer.pack
_OK: Final = _pack("ok") + _pack(True) + _pack("position")
_SESSION: Final = _pack("session")
_DUPLICATE: Final = _pack("duplicate") + _pack(True)
_APPENDED_6: Final = _packer.pack_map_header(6) + _OK
_APPENDED_7: Final = _packer.pack_map_header(7) + _OK
_ID: Final = _pack("id")
_SEQ: Final = _pack("seq")
_AT: Final = _pack("at")
_CREATED_AT: Final = _pack("created_at")

ERROR_TEXT_MAX: Final = 500  # characters of an error's message


def ok(position: int, fields: Mapping[str, Any]) -> bytes:
    """A reply of plain fields."""
    packed: bytes = _pack({"ok": True, "position": position, **fields})
    return packed


_INTEGER_BYTES: Final = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}  # by the first one; others are one byte


def at_position(reply: bytes, position: int) -> bytes:
    """A reply as it would be at another position; for those that show nothing of what there is."""
    start = (3 if reply[0] == 0xDE else 1) + len(_OK)
    end = start + _INTEGER_BYTES.get(reply[start], 1)
    packed: bytes = _pack(position)
    return reply if packed == reply[start:end] else reply[:start] + packed + reply[end:]


def page(position: int, name: str, items: Iterable[bytes], count: int, fields: Mapping[str, Any]) -> bytes:
    """A reply whose array `name` is made of `count` items that are packed already."""
    parts = [
        _packer.pack_map_header(3 + len(fields)),
        _OK,
        _pack(position),
        _pack(name),
        _packer.pack_array_header(count),
        *items,
    ]
    for key, value in fields.items():
        parts += (_pack(key), _pack(value))
    return b"".join(parts)


def pipeline(position: int, each: Sequence[bytes]) -> bytes:
    """The reply to `pipeline`: what each of its commands would have been answered."""
    return page(position, "replies", each, len(each), {})


def session(position: int, packed_session: bytes, *, duplicate: bool = False) -> bytes:
    """A reply of one session."""
    head = _packer.pack_map_header(4 if duplicate else 3)
    parts = (head, _OK, _pack(position), _SESSION, packed_session, _DUPLICATE if duplicate else b"")
    return b"".join(parts)


def error(position: int, fault: EngineError) -> bytes:
    """A failed reply; names the code, and the field, limit and reason where there are any."""
    fields: dict[str, Any] = {"code": fault.code, "message": fault.message[:ERROR_TEXT_MAX]}
    for name in ("field", "limit", "reason"):
        value = getattr(fault, name)
        if value is not None:
            fields[name] = value
    fields["retry"] = fault.retry
    packed: bytes = _pack({"ok": False, "position": position, "error": fields})
    return packed


def created(position: int, outcome: Outcome) -> bytes:
    """The reply to `create_session`."""
    assert isinstance(outcome, Created)
    return session(position, outcome.session.pack(), duplicate=outcome.duplicate)


def appended(position: int, outcome: Outcome) -> bytes:
    """The reply to `append`."""
    assert isinstance(outcome, Appended)
    first_id, seq, at, _, created_at, duplicate = outcome
    parts = (
        _APPENDED_7 if duplicate else _APPENDED_6,
        _pack(position),
        _ID,
        _pack(first_id),
        _SEQ,
        _pack(seq),
        _AT,
        _pack(at),
        _CREATED_AT,
        _pack(created_at),
        _DUPLICATE if duplicate else b"",
    )
    return b"".join(parts)


def appended_many(position: int, outcome: Outcome) -> bytes:
    """The reply to `append_many`."""
    assert isinstance(outcome, Appended)
    fields = {
        "first_id": outcome.first_id,
        "first_seq": outcome.first_seq,
        "first_at": outcome.first_at,
        "count": outcome.count,
        "created_at": outcome.created_at,
    }
    return ok(position, {**fields, "duplicate": True} if outcome.duplicate else fields)


def closed(position: int, outcome: Outcome) -> bytes:
    """The reply to `close_session`."""
    assert isinstance(outcome, Closed)
    fields: dict[str, Any] = {"at": outcome.at}
    if outcome.duplicate:
        fields["duplicate"] = True
    return ok(position, fields)


_LEASE: Final = _packer.pack_map_header(5) + _pack("lease")
_POSITION: Final = _pack("position")
_ATTEMPT: Final = _pack("attempt")
_UNTIL: Final = _pack("until")
_EVENT: Final = _pack("event")


def leases(position: int, grants: Sequence[Grant]) -> bytes:
    """The reply to `lease`."""
    items: list[bytes] = []
    for effect, event in grants:
        items += (_LEASE, _pack(effect.lease), _POSITION, _pack(effect.position), _ATTEMPT)
        items += (_pack(effect.attempts), _UNTIL, _pack(effect.due), _EVENT, event)
    return page(position, "leases", items, len(grants), {})


def dead_letters(position: int, letters: Sequence[Grant], more: bool) -> bytes:
    """The reply to `dead_letters`."""
    items: list[bytes] = []
    for effect, event in letters:
        head: dict[str, Any] = {
            "position": effect.position,
            "attempts": effect.attempts,
            "died_at": effect.due,
        }
        if effect.reason is not None:
            head["reason"] = effect.reason
        packed = b"".join(_pack(part) for pair in head.items() for part in pair)
        items.append(_packer.pack_map_header(len(head) + 1) + packed + _EVENT + event)
    return page(position, "dead_letters", items, len(items), {"more": more})
