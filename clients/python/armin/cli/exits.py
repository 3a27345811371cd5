"""Exit codes: one for each kind of failure, so that a script can tell them apart."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from armin.errors import (
    ArminError,
    BadRequest,
    Conflict,
    CursorInvalid,
    GroupNotFound,
    NoReply,
    NotAuthorized,
    SessionClosed,
    SessionNotFound,
    ShuttingDown,
    StorageFailed,
    TargetError,
    TooLarge,
)


class Exit(IntEnum):
    """What the `armin` command came to."""

    OK = 0
    NO = 1
    USAGE = 2
    NO_ENGINE = 3
    NOT_FOUND = 4
    CONFLICT = 5
    BAD_INPUT = 6
    STORAGE = 7
    CUT_OFF = 8
    INCOMPLETE = 9
    # 10 to 16 are armin serve's, and verify's, backup's, restore's on a file: armin_broker.daemon.EXIT_CODES
    RECOVERING = 17
    FILE = 18
    # 19 and 22 to 24 are armin serve's too
    VIOLATION = 20
    TORTURE_FAILED = 21
    RESTORE_REFUSED = 25
    NOT_AUTHORIZED = 26
    BUG = 70
    NOT_STARTED = 127  # as a shell says it
    INTERRUPTED = 130
    PIPE_CLOSED = 141


MEANINGS: Final[tuple[tuple[str, str], ...]] = (
    ("0", "done"),
    ("1", "the answer is no: verify, backup, restore found differences; it does not conform"),
    ("2", "the command line is wrong, or names no engine"),
    ("3", "no engine answers"),
    ("4", "no such session or worker group"),
    ("5", "the session is closed, or not as expected; the group has other settings"),
    ("6", "a value is wrong or too large"),
    ("7", "not committed, or a write's outcome is unknown; health: alive, but not ready"),
    ("8", "import: the file is cut off; what stands whole is in"),
    ("9", "import: some conversations were left out"),
    ("10-16", "serve, verify, backup, restore cannot open: see armin serve --help"),
    ("17", "the engine is recovering and takes no commands yet"),
    ("18", "a file cannot be read or written"),
    ("19, 22-24", "serve cannot open to others, or not safely: see armin serve --help"),
    ("20", "torture: something that was promised did not hold"),
    ("21", "torture: the campaign could not run"),
    ("25", "restore: an engine runs there, or a database is there"),
    ("26", "the engine does not let this key in, or not do that"),
    ("70", "a bug, or something that is not Armin answers"),
    ("127", "worker: the command cannot be started"),
    ("130", "Ctrl-C"),
    ("141", "whoever read the output went away"),
)


class _Kind(NamedTuple):
    """A kind of error: its exit code, and what to do next where the message does not say."""

    error: type[ArminError]
    code: Exit
    hint: str = ""


_KINDS: Final = (
    _Kind(TargetError, Exit.USAGE),
    _Kind(NoReply, Exit.NO_ENGINE),
    _Kind(ShuttingDown, Exit.NO_ENGINE, "try again when it is back; armin --wait 60 waits for it"),
    _Kind(NotAuthorized, Exit.NOT_AUTHORIZED),
    _Kind(SessionNotFound, Exit.NOT_FOUND, "armin sessions lists all"),
    _Kind(GroupNotFound, Exit.NOT_FOUND, "armin groups lists all"),
    _Kind(SessionClosed, Exit.CONFLICT, "armin new begins another one"),
    _Kind(Conflict, Exit.CONFLICT, "armin read shows how it stands"),
    _Kind(BadRequest, Exit.BAD_INPUT),
    _Kind(TooLarge, Exit.BAD_INPUT),
    _Kind(CursorInvalid, Exit.BAD_INPUT),
    _Kind(StorageFailed, Exit.STORAGE, "the engine's log says more"),
    _Kind(ArminError, Exit.BUG, "the engine's log may say more"),
)
# Why nobody answered, where the client's message leaves it there.
_ABSENT_HINTS: Final = {
    "no_directory": "armin serve makes it and starts an engine there",
    "unreachable": "armin --wait 60 waits for it",
    "silent": "armin --timeout 60 waits longer",
}


def of(error: ArminError, *, writes: bool) -> Exit:
    """The exit code for an error of the client; `writes` tells whether it happened to a write."""
    if isinstance(error, NoReply):
        if error.reason == "recovering":
            return Exit.RECOVERING
        if error.sent and writes:
            return Exit.STORAGE
    return _kind(error).code


def explained(error: ArminError) -> str:
    """The error's message and what to do next."""
    if isinstance(error, NoReply):
        hint = _ABSENT_HINTS.get(error.reason or "", "")
    elif error.reason == "settings":
        hint = "armin groups --json shows them"
    else:
        hint = _kind(error).hint
    return f"{error.message} ({hint})" if hint and not error.message.endswith(")") else error.message


def _kind(error: ArminError) -> _Kind:
    return next(kind for kind in _KINDS if isinstance(error, kind.error))


def table() -> str:
    """The codes for `armin --help`."""
    return "\n".join(f"  {code:>9}  {meaning}" for code, meaning in MEANINGS)
