"""What a caller asks for, and what comes of it.

A command is checked when it is made; `checks` makes its parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from armin_engine import limits
from armin_engine.checks import (
    ROLE_NUMBERS,
    NewMessage,
    check_batch,
    check_count,
    check_cursor,
    check_id,
    check_key,
    check_limit,
    check_messages,
    check_meta,
    check_name,
    check_role,
    check_text,
    is_plain_key,
    new_message,
    plain_message,
)
from armin_engine.facts import (
    EVENT_TYPES,
    ROLES,
    Event,
    Fact,
    Kind,
    Message,
    Meta,
    SessionInfo,
    message_from,
    unpack,
)

# --- commands -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateSession:
    """Create a session, or find the one of this name."""

    name: str | None
    meta: Meta | None
    key: str | None = None


class Append(NamedTuple):
    """Append messages to one session: all or nothing, consecutive.

    `key` makes a resend harmless; `after_key` is the key of the write that this one must follow.
    """

    session_id: int
    messages: tuple[NewMessage, ...]
    expect_seq: int | None
    key: str | None = None
    after_key: str | None = None


_new_append: Final = partial(tuple.__new__, Append)  # of all fields in order, at half the cost


def plain_append(fields: Mapping[str, Any]) -> Append | None:
    """The Append that most `append` commands are, at half the cost; None for whatever needs a closer look.

    fields: `op` and those of the command.
    """
    session_id, key, after_key = fields.get("session_id"), fields.get("key"), fields.get("after_key")
    if len(fields) != 4 + (key is not None) + (after_key is not None):
        return None
    message = plain_message(fields.get("role"), fields.get("content"))
    if message is None or type(session_id) is not int or not 1 <= session_id <= limits.ID_MAX:
        return None
    if not (is_plain_key(key) and is_plain_key(after_key)):
        return None
    return _new_append((session_id, (message,), None, key, after_key))


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Close a session for good."""

    session_id: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the layer above the engine, in tables of its own, written with the group's facts.

    Each statement goes with the parameters of every time that it is run.
    """

    statements: tuple[tuple[str, Sequence[tuple[Any, ...]]], ...]


Command = CreateSession | Append | CloseSession | Rows


# --- results --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Created:
    """Outcome of CreateSession; `duplicate` where the name or the key already had its session."""

    session: SessionInfo
    duplicate: bool


class Appended(NamedTuple):
    """Outcome of Append: ids, seqs and positions of the `count` messages run up from the first ones.

    `duplicate` where its key was committed before: then it is the outcome of that time.
    """

    first_id: int
    first_seq: int
    first_at: int
    count: int  # type: ignore[assignment]  # tuples have a method of this name
    created_at: int
    duplicate: bool = False


new_appended: Final = partial(tuple.__new__, Appended)  # of all fields in order, at half the cost


@dataclass(frozen=True, slots=True)
class Closed:
    """Outcome of CloseSession: the position of the closure; `duplicate` where it was closed before."""

    at: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Recorded:
    """Outcome of Rows."""


__all__ = [
    "EVENT_TYPES",
    "ROLES",
    "ROLE_NUMBERS",
    "Append",
    "Appended",
    "CloseSession",
    "Closed",
    "Command",
    "CreateSession",
    "Created",
    "Event",
    "Fact",
    "Kind",
    "Message",
    "Meta",
    "NewMessage",
    "Recorded",
    "Rows",
    "SessionInfo",
    "check_batch",
    "check_count",
    "check_cursor",
    "check_id",
    "check_key",
    "check_limit",
    "check_messages",
    "check_meta",
    "check_name",
    "check_role",
    "check_text",
    "message_from",
    "new_appended",
    "new_message",
    "plain_append",
    "unpack",
]
