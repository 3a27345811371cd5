"""What can go wrong, by cause.

EngineError
├── CommandError              the caller's mistake: nothing changed, nobody else is disturbed
│   ├── BadRequest            a value of the wrong shape
│   ├── TooLarge              a value over its limit
│   ├── SessionNotFound
│   ├── SessionClosed
│   ├── Conflict              the caller expected another state
│   └── CursorInvalid         a cursor ahead of what exists
├── StorageFailed             the world's failure: not visible now, outcome unknown after a crash
└── OpenError                 the file cannot be opened; it was left untouched
    ├── AlreadyOwned          another engine owns it
    ├── NotAnArminDatabase
    ├── NewerSchema
    ├── CorruptDatabase
    └── MemoryExceeded        the history does not fit the memory budget
"""

from __future__ import annotations

from typing import ClassVar


class EngineError(Exception):
    """Base of everything that the engine raises on purpose.

    ``code`` is the name on the wire; ``retry`` tells whether the same call may succeed later.
    """

    code: ClassVar[str] = "internal"
    retry: bool = False

    def __init__(
        self, message: str, *, field: str | None = None, limit: int | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.limit = limit
        self.reason = reason


class CommandError(EngineError):
    """The caller's mistake; nothing changed."""


class BadRequest(CommandError):
    """A value of the wrong shape; ``field`` names it."""

    code = "bad_request"


class TooLarge(CommandError):
    """A value over its limit; ``field`` and ``limit`` name them."""

    code = "too_large"


class SessionNotFound(CommandError):
    """No session has this id or name."""

    code = "session_not_found"


class SessionClosed(CommandError):
    """The session takes no more messages, ever."""

    code = "session_closed"


class Conflict(CommandError):
    """The caller expected another state; ``reason`` says which.

    `expect_seq`, `snapshot_moved`, `key_reused` (the key stands for another request), `out_of_order` (the
    write that this one follows is not there: send that one first, then this one again) or `settings`.
    """

    code = "conflict"

    def __init__(self, message: str, *, field: str, reason: str, retry: bool = False) -> None:
        super().__init__(message, field=field, reason=reason)
        self.retry = retry


class CursorInvalid(CommandError):
    """A cursor ahead of what exists: it belongs to another database, or to one that was restored."""

    code = "cursor_invalid"


class StorageFailed(EngineError):
    """SQLite could not commit. Not visible now, outcome unknown after a crash."""

    code = "storage_failed"

    def __init__(self, message: str, *, reason: str, retry: bool = True) -> None:
        super().__init__(message, reason=reason)
        self.retry = retry


class OpenError(EngineError):
    """The file cannot be opened; it was left untouched."""


class AlreadyOwned(OpenError):
    """Another engine owns the file; ``pid`` is its process id, where known."""

    def __init__(self, message: str, pid: int | None) -> None:
        super().__init__(message)
        self.pid = pid


class NotAnArminDatabase(OpenError):
    """The file is something else."""


class NewerSchema(OpenError):
    """The file was written by a later version of Armin."""


class CorruptDatabase(OpenError):
    """The file contradicts itself, or SQLite cannot read it."""


class MemoryExceeded(OpenError):
    """The history does not fit the memory budget."""
