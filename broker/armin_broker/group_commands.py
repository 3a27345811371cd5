"""The verbs of worker groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from armin_broker import protocol, replies
from armin_broker.groups.commands import Ack, CreateGroup, Discard, DropGroup, Extend, Nack, Requeue
from armin_broker.groups.settings import ON_DEAD, STARTS, TYPES, Settings
from armin_broker.parsed import Barrier, Change, Lease, Parsed, Read, Service
from armin_engine import limits, records
from armin_engine.errors import BadRequest, TooLarge

_Fields = dict[str, Any]
_DEFAULTS: Final = protocol.GROUP_DEFAULTS


def _create_group(fields: _Fields) -> Barrier:
    """A barrier: `now` is behind what came before it, and before what comes after."""
    name = _name(fields)
    settings = Settings(
        start=_one_of(fields["start"], "start", STARTS),
        types=_types(fields.get("types")),
        ordered=_flag(_given(fields, "ordered", _DEFAULTS["ordered"]), "ordered"),
        max_attempts=_number(fields, "max_attempts", 1, protocol.ATTEMPTS_MAX, _DEFAULTS["max_attempts"]),
        backoff_ms=_number(fields, "backoff_ms", 0, protocol.LEASE_MS_MAX, _DEFAULTS["backoff_ms"]),
        on_dead=_one_of(_given(fields, "on_dead", _DEFAULTS["on_dead"]), "on_dead", ON_DEAD),
    )
    command = CreateGroup(name, settings)

    def act(service: Service) -> bytes:
        created = service.create_group(command)
        return replies.ok(service.armin.position, created)

    return Barrier(act)


def _lease(fields: _Fields) -> Lease:
    wanted = _given(fields, "max", 1)
    if type(wanted) is not int or wanted < 1:
        raise BadRequest("max must be an integer of at least 1", field="max", limit=protocol.LEASES_MAX)
    return Lease(
        _name(fields),
        min(wanted, protocol.LEASES_MAX),
        _lease_ms(fields),
        _number(fields, "wait_ms", 0, protocol.WAIT_MS_MAX, 0),
        _text(fields, "request", protocol.REQUEST_BYTES_MAX, least=1),
    )


def _ack(fields: _Fields) -> Change:
    return Change(Ack(_name(fields), _leases(fields)))


def _nack(fields: _Fields) -> Change:
    reason = _text(fields, "reason", protocol.NACK_REASON_BYTES_MAX)
    delay_ms = fields.get("delay_ms")
    if delay_ms is not None:
        delay_ms = _number(fields, "delay_ms", 0, protocol.LEASE_MS_MAX, 0)
    return Change(Nack(_name(fields), _leases(fields), reason, delay_ms))


def _extend(fields: _Fields) -> Change:
    return Change(Extend(_name(fields), _leases(fields), _lease_ms(fields)))


def _groups(fields: _Fields) -> Read:
    name = None if fields.get("group") is None else _name(fields)
    return Read(
        lambda service: replies.ok(service.armin.position, {"groups": service.groups.described(name)})
    )


def _dead_letters(fields: _Fields) -> Read:
    name, after, limit = _name(fields), fields.get("after"), fields.get("limit")
    cursor = 0 if after is None else records.check_cursor(after, "after")
    count = limits.PAGE_ITEMS_DEFAULT if limit is None else records.check_limit(limit)

    def answer(service: Service) -> bytes:
        letters, more = service.groups.dead_letters(name, cursor, count)
        return replies.dead_letters(service.armin.position, letters, more)

    return Read(answer)


def _requeue(fields: _Fields) -> Change:
    return Change(Requeue(_name(fields), _positions(fields)))


def _discard(fields: _Fields) -> Change:
    return Change(Discard(_name(fields), _positions(fields)))


def _drop_group(fields: _Fields) -> Change:
    return Change(DropGroup(_name(fields)))


VERBS: Final[dict[str, Callable[[_Fields], Parsed]]] = {
    "create_group": _create_group,
    "lease": _lease,
    "ack": _ack,
    "nack": _nack,
    "extend": _extend,
    "groups": _groups,
    "dead_letters": _dead_letters,
    "requeue": _requeue,
    "discard": _discard,
    "drop_group": _drop_group,
}


# --- their fields ---------------------------------------------------------------------------------


def _given(fields: _Fields, field: str, default: Any) -> Any:
    value = fields.get(field)
    return default if value is None else value


def _name(fields: _Fields) -> str:
    name = _text(fields, "group", protocol.GROUP_NAME_BYTES_MAX, least=1)
    if name is None:
        raise BadRequest("group must be a string", field="group")
    return name


def _text(fields: _Fields, field: str, bytes_max: int, least: int = 0) -> str | None:
    value = fields.get(field)
    if value is None:
        return None
    if records.check_text(value, field, bytes_max) < least:
        raise BadRequest(f"{field} must not be empty", field=field)
    return str(value)


def _number(fields: _Fields, field: str, low: int, high: int, default: Any) -> int:
    value = _given(fields, field, default)
    if type(value) is not int or not low <= value <= high:
        raise BadRequest(f"{field} must be an integer from {low} to {high}", field=field, limit=high)
    return value


def _lease_ms(fields: _Fields) -> int:
    low, high = protocol.LEASE_MS_MIN, protocol.LEASE_MS_MAX
    return _number(fields, "lease_ms", low, high, protocol.LEASE_MS_DEFAULT)


def _flag(value: Any, field: str) -> bool:
    if type(value) is not bool:
        raise BadRequest(f"{field} must be true or false", field=field)
    return value


def _one_of(value: Any, field: str, choices: tuple[str, ...]) -> str:
    if type(value) is not str or value not in choices:
        raise BadRequest(f"{field} must be one of {', '.join(choices)}", field=field)
    return value


def _types(value: Any) -> frozenset[str] | None:
    if value is None:
        return None
    if type(value) is not list or not value:
        raise BadRequest("types must be an array of event types", field="types")
    types = frozenset(_one_of(item, f"types[{index}]", TYPES) for index, item in enumerate(value))
    return None if len(types) == len(TYPES) else types


def _leases(fields: _Fields) -> tuple[str, ...]:
    leases = _array(fields["leases"], "leases")
    for index, lease in enumerate(leases):
        if type(lease) is not str:
            raise BadRequest(f"leases[{index}] must be a string", field=f"leases[{index}]")
        if len(lease) > protocol.LEASE_BYTES_MAX:
            raise TooLarge(
                f"leases[{index}] is no lease: it is {len(lease)} characters long",
                field=f"leases[{index}]",
                limit=protocol.LEASE_BYTES_MAX,
            )
    return tuple(leases)


def _positions(fields: _Fields) -> tuple[int, ...] | None:
    positions = fields.get("positions")
    if positions is None:
        return None
    items = _array(positions, "positions")
    return tuple(records.check_id(item, f"positions[{index}]") for index, item in enumerate(items))


def _array(value: Any, field: str) -> list[Any]:
    if type(value) is not list:
        raise BadRequest(f"{field} must be an array", field=field)
    records.check_count(len(value), field, "items", protocol.LEASES_MAX)
    return value
