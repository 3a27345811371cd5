"""What a caller asks for, and what comes of it.

A command is checked when it is made; `checks` makes its parts.
"""

from __future__ import annotations

from dataclasses import dataclass

from armin_engine.checks import (
    ROLE_NUMBERS,
    NewMessage,
    check_batch,
    check_batch_count,
    check_cursor,
    check_id,
    check_limit,
    check_messages,
    check_meta,
    check_name,
    check_role,
    check_text,
    new_message,
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


@dataclass(frozen=True, slots=True)
class Append:
    """Append messages to one session: all or nothing, consecutive."""

    session_id: int
    messages: tuple[NewMessage, ...]
    expect_seq: int | None


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Close a session for good."""

    session_id: int


Command = CreateSession | Append | CloseSession


# --- results --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Created:
    """Outcome of CreateSession; `duplicate` where the name already had its session."""

    session: SessionInfo
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Appended:
    """Outcome of Append: ids, seqs and positions of the `count` messages run up from the first ones."""

    first_id: int
    first_seq: int
    first_at: int
    count: int
    created_at: int


@dataclass(frozen=True, slots=True)
class Closed:
    """Outcome of CloseSession: the position of the closure; `duplicate` where it was closed before."""

    at: int
    duplicate: bool


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
    "SessionInfo",
    "check_batch",
    "check_batch_count",
    "check_cursor",
    "check_id",
    "check_limit",
    "check_messages",
    "check_meta",
    "check_name",
    "check_role",
    "check_text",
    "message_from",
    "new_message",
    "unpack",
]
