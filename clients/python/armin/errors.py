"""What can go wrong for a client, by cause.

ArminError
├── BadRequest          a value of the wrong shape; `field` names it
├── UnknownOp           the engine does not know this command: it is older than the client
├── SessionNotFound     no session has this id or name
├── SessionClosed       the session takes no more messages, ever
├── Conflict            the caller expected another state; `reason` says which
├── TooLarge            a value over its limit; `field` and `limit` name them
├── CursorInvalid       a cursor of another database, of another epoch, or ahead of what exists
├── StorageFailed       the engine could not commit: not visible now, outcome unknown after a crash
├── ShuttingDown        the engine is going away; nothing was done
├── NotAuthorized       the engine refuses this caller
├── LeaseLost           the effect went to another worker meanwhile
├── GroupNotFound       no worker group has this name, or it was dropped
├── InternalError       a bug in the engine
├── NoReply             nobody answered in time; `reason` says why, `sent` whether a write may have happened
├── ProtocolError       something answered, but not in Armin's language
├── ClientClosed        this client was closed before
└── TargetError         `connect` cannot tell, or cannot reach, where the engine should be (a ValueError too)

Everything from BadRequest to InternalError is one code of the wire; a code that this client does not
know yet arrives as a plain ArminError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from armin_broker.protocol import ErrorCode


class ArminError(Exception):
    """Base of everything that the client raises on purpose.

    `code` is the name on the wire; `retry` tells whether the same call may succeed later; `position`
    is the engine's last committed position when it refused, where it said so. `key` is the idempotency key
    of the write that failed: sent again with it, it cannot be done twice.
    """

    default_code: ClassVar[str] = "unknown"
    default_retry: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        limit: int | None = None,
        reason: str | None = None,
        retry: bool | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.field = field
        self.limit = limit
        self.reason = reason
        self.retry = self.default_retry if retry is None else retry
        self.position = position
        self.key: str | None = None


class BadRequest(ArminError):
    """A value of the wrong shape; `field` names it. Nothing changed."""

    default_code = ErrorCode.BAD_REQUEST


class UnknownOp(ArminError):
    """The engine does not know this command: it is older than the client."""

    default_code = ErrorCode.UNKNOWN_OP


class SessionNotFound(ArminError):
    """No session has this id or name."""

    default_code = ErrorCode.SESSION_NOT_FOUND


class SessionClosed(ArminError):
    """The session takes no more messages, ever."""

    default_code = ErrorCode.SESSION_CLOSED


class Conflict(ArminError):
    """The caller expected another state; nothing changed. `reason`: `expect_seq`, `snapshot_moved`, ..."""

    default_code = ErrorCode.CONFLICT


class TooLarge(ArminError):
    """A value over its limit; `field` and `limit` name them. Nothing changed."""

    default_code = ErrorCode.TOO_LARGE


class CursorInvalid(ArminError):
    """A cursor of another database, of another epoch of it, or ahead of what exists."""

    default_code = ErrorCode.CURSOR_INVALID


class StorageFailed(ArminError):
    """The engine could not commit. Not visible now; the outcome is unknown if the engine crashes."""

    default_code = ErrorCode.STORAGE_FAILED
    default_retry = True


class ShuttingDown(ArminError):
    """The engine is going away; nothing was done."""

    default_code = ErrorCode.SHUTTING_DOWN
    default_retry = True


class NotAuthorized(ArminError):
    """The engine refuses this caller."""

    default_code = ErrorCode.NOT_AUTHORIZED


class LeaseLost(ArminError):
    """The effect went to another worker meanwhile."""

    default_code = ErrorCode.LEASE_LOST


class GroupNotFound(ArminError):
    """No worker group has this name, or it was dropped meanwhile."""

    default_code = ErrorCode.GROUP_NOT_FOUND


class InternalError(ArminError):
    """A bug in the engine; its log says more."""

    default_code = ErrorCode.INTERNAL


class NoReply(ArminError):
    """Nobody answered in time.

    `reason` is `no_directory`, `not_running`, `recovering`, `unreachable` or `silent`. `sent` is False
    where the command never left this process, so nothing can have come of it; where it is True, the
    outcome of a write is unknown.
    """

    default_code = "no_reply"
    default_retry = True

    def __init__(self, message: str, *, reason: str, sent: bool) -> None:
        super().__init__(message, reason=reason)
        self.sent = sent


class ProtocolError(ArminError):
    """Something answered, but not in Armin's language: another program, or a bug."""

    default_code = "protocol_error"


class ClientClosed(ArminError):
    """This client was closed before, or while it waited."""

    default_code = "client_closed"


class TargetError(ArminError, ValueError):
    """`connect` cannot tell, or cannot reach, where the engine should be."""

    default_code = "bad_target"


_BY_CODE: Final[dict[str, type[ArminError]]] = {
    ErrorCode.BAD_REQUEST: BadRequest,
    ErrorCode.UNKNOWN_OP: UnknownOp,
    ErrorCode.SESSION_NOT_FOUND: SessionNotFound,
    ErrorCode.SESSION_CLOSED: SessionClosed,
    ErrorCode.CONFLICT: Conflict,
    ErrorCode.TOO_LARGE: TooLarge,
    ErrorCode.CURSOR_INVALID: CursorInvalid,
    ErrorCode.STORAGE_FAILED: StorageFailed,
    ErrorCode.SHUTTING_DOWN: ShuttingDown,
    ErrorCode.NOT_AUTHORIZED: NotAuthorized,
    ErrorCode.LEASE_LOST: LeaseLost,
    ErrorCode.GROUP_NOT_FOUND: GroupNotFound,
    ErrorCode.INTERNAL: InternalError,
}


def from_wire(error: Mapping[str, Any], position: int | None) -> ArminError:
    """The exception that says what an error reply says. An unknown code gives the base class.

    Raises:
        ProtocolError: the error has no code or no message.
    """
    code, message = error.get("code"), error.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        raise ProtocolError("the reply holds an error without code or message")
    retry = error.get("retry")
    return _BY_CODE.get(code, ArminError)(
        message,
        code=code,
        field=error.get("field"),
        limit=error.get("limit"),
        reason=error.get("reason"),
        retry=retry if isinstance(retry, bool) else None,
        position=position,
    )
