"""Checks at the edge: what a caller gave becomes a value that nobody behind has to check again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from armin_engine import limits
from armin_engine.errors import BadRequest, TooLarge
from armin_engine.facts import ROLES, Meta, pack_meta

ROLE_NUMBERS: Final = {name: number for number, name in enumerate(ROLES)}


class NewMessage(NamedTuple):
    """A message to be appended: role number, content, meta, and what they weigh in bytes."""

    role: int
    content: str
    meta: Meta | None
    size: int


_new_message: Final = partial(tuple.__new__, NewMessage)  # of all fields in order, at half the cost


def check_id(value: object, field: str) -> int:
    """An id or seq, 1 to 2^63-1."""
    if type(value) is not int or not 1 <= value <= limits.ID_MAX:
        raise BadRequest(f"{field} must be an integer from 1 to 2^63-1", field=field, limit=limits.ID_MAX)
    return value


def check_cursor(value: object, field: str) -> int:
    """An exclusive cursor: an id, seq or position, or 0 for the beginning."""
    if type(value) is not int or not 0 <= value <= limits.ID_MAX:
        raise BadRequest(f"{field} must be an integer from 0 to 2^63-1", field=field, limit=limits.ID_MAX)
    return value


def check_limit(value: object, field: str = "limit") -> int:
    """A page's item count; more than the maximum is clamped to it."""
    if type(value) is not int or value < 1:
        raise BadRequest(
            f"{field} must be an integer of at least 1", field=field, limit=limits.PAGE_ITEMS_MAX
        )
    return min(value, limits.PAGE_ITEMS_MAX)


def check_text(value: object, field: str, bytes_max: int) -> int:
    """Length in UTF-8 bytes of a str that is valid Unicode and within its limit."""
    if type(value) is not str:
        raise BadRequest(f"{field} must be a string", field=field)
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError as error:
        raise BadRequest(f"{field} holds a lone surrogate at index {error.start}", field=field) from None
    if size > bytes_max:
        raise TooLarge(
            f"{field} is {size} bytes, over the limit of {bytes_max}", field=field, limit=bytes_max
        )
    return size


def check_name(value: object) -> str:
    """A session name: not empty, at most NAME_BYTES_MAX."""
    if check_text(value, "name", limits.NAME_BYTES_MAX) == 0:
        raise BadRequest("name must not be empty", field="name")
    assert isinstance(value, str)  # check_text has seen to it
    return value


def check_key(value: object, field: str) -> str:
    """An idempotency key: not empty, at most KEY_BYTES_MAX."""
    if check_text(value, field, limits.KEY_BYTES_MAX) == 0:
        raise BadRequest(f"{field} must not be empty", field=field)
    assert isinstance(value, str)  # check_text has seen to it
    return value


def check_role(value: object, field: str = "role") -> int:
    """The number of a role given by its name."""
    number = ROLE_NUMBERS.get(value) if type(value) is str else None
    if number is None:
        raise BadRequest(f"{field} must be one of {', '.join(ROLES)}", field=field)
    return number


def check_meta(value: object, field: str = "meta") -> Meta:
    """A map of JSON values with string keys, finite numbers and 64-bit integers; order is kept."""
    if type(value) is not dict:
        raise BadRequest(f"{field} must be a map", field=field)
    _check_values(value, field)
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadRequest(f"{field} holds a lone surrogate", field=field) from None
    if size > limits.META_BYTES_MAX:
        raise _over_meta_bytes(f"{size}", field)
    return pack_meta(value, text)


def _check_values(meta: dict[Any, Any], field: str) -> None:
    """Look at every value, one depth after the other, and at no more than could fit."""
    level: list[Any] = [meta]
    depth = values = 0
    while level:
        depth += 1
        if depth > limits.META_DEPTH_MAX:
            raise TooLarge(
                f"{field} is nested deeper than {limits.META_DEPTH_MAX}",
                field=field,
                limit=limits.META_DEPTH_MAX,
            )
        below: list[Any] = []
        for container in level:
            values += len(container)
            if values > limits.META_BYTES_MAX:  # each takes a byte at the very least
                raise _over_meta_bytes(f"more than {values}", field)
            if type(container) is dict and not all(type(key) is str for key in container):
                raise BadRequest(f"{field} holds a key that is not a string", field=field)
            for item in container.values() if type(container) is dict else container:
                if type(item) is dict or type(item) is list:
                    below.append(item)
                else:
                    _check_scalar(item, field)
        level = below


def _check_scalar(value: object, field: str) -> None:
    if type(value) is int:
        if not -limits.ID_MAX - 1 <= value <= limits.ID_MAX:
            raise BadRequest(f"{field} holds an integer beyond 64 bits", field=field)
    elif type(value) is float:
        if not math.isfinite(value):
            raise BadRequest(f"{field} holds a number that is not finite", field=field)
    elif value is not None and type(value) is not str and type(value) is not bool:
        raise BadRequest(f"{field} holds a {type(value).__name__}, which JSON cannot say", field=field)


def _over_meta_bytes(size: str, field: str) -> TooLarge:
    return TooLarge(
        f"{field} is {size} bytes as JSON, over the limit of {limits.META_BYTES_MAX}",
        field=field,
        limit=limits.META_BYTES_MAX,
    )


def new_message(role: object, content: object, meta: object = None, within: str = "") -> NewMessage:
    """Check one message; `within` prefixes the field that an error names."""
    number = check_role(role, within + "role")
    size = check_text(content, within + "content", limits.CONTENT_BYTES_MAX)
    assert isinstance(content, str)  # check_text has seen to it
    if meta is None:
        return NewMessage(number, content, None, size)
    checked = check_meta(meta, within + "meta")
    return NewMessage(number, content, checked, size + len(checked.packed))


def check_batch(messages: Sequence[NewMessage]) -> tuple[NewMessage, ...]:
    """The messages of one append_many, within its limits."""
    if not messages:
        raise BadRequest("messages must hold at least one message", field="messages")
    check_count(len(messages), "messages", "messages", limits.BATCH_MESSAGES_MAX)
    size = sum(message.size for message in messages)
    if size > limits.BATCH_BYTES_MAX:
        raise TooLarge(
            f"messages hold {size} bytes, over the limit of {limits.BATCH_BYTES_MAX}",
            field="messages",
            limit=limits.BATCH_BYTES_MAX,
        )
    return tuple(messages)


def check_count(count: int, field: str, noun: str, most: int) -> None:
    """Refuse an array of too many items before each of them is looked at."""
    if count > most:
        raise TooLarge(f"{field} holds {count} {noun}, over the limit of {most}", field=field, limit=most)


def check_messages(messages: Sequence[Mapping[str, object]]) -> tuple[NewMessage, ...]:
    """Messages given as maps `{role, content, meta?}`; an error names the one at fault."""
    if not isinstance(messages, list | tuple):
        raise BadRequest("messages must be a list", field="messages")
    check_count(len(messages), "messages", "messages", limits.BATCH_MESSAGES_MAX)
    return check_batch([_plain(each) or _message_from_map(each, i) for i, each in enumerate(messages)])


def _plain(message: object) -> NewMessage | None:
    """What most messages are, at a third of the cost; None for whatever needs a closer look."""
    if type(message) is not dict or len(message) != 2:
        return None
    return plain_message(message.get("role"), message.get("content"))


def plain_message(role: object, content: object) -> NewMessage | None:
    """A message without meta in ASCII, None for whatever needs a closer look."""
    if type(content) is not str or type(role) is not str or role not in ROLE_NUMBERS:
        return None
    size = len(content)
    if not content.isascii() or size > limits.CONTENT_BYTES_MAX:
        return None
    return _new_message((ROLE_NUMBERS[role], content, None, size))


def is_plain_key(key: object) -> bool:
    """Whether it is None or a key in ASCII, within its limits."""
    return key is None or (type(key) is str and key.isascii() and 0 < len(key) <= limits.KEY_BYTES_MAX)


def _message_from_map(message: object, index: int) -> NewMessage:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise BadRequest(f"{where} must be a map", field=where)
    for name in message:
        if name not in ("role", "content", "meta"):
            # It is whatever the caller sent: shown as ASCII and cut short.
            shown = where + "." + ascii(name).strip("'")[:100]
            raise BadRequest(f"{shown} is not a known field", field=shown)
    for name in ("role", "content"):
        if name not in message:
            raise BadRequest(f"{where}.{name} is missing", field=f"{where}.{name}")
    return new_message(message["role"], message["content"], message.get("meta"), where + ".")
