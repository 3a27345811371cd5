"""Why nobody answered: what a client can find out, and what the user should do about it."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from armin.credentials import KEY_VARIABLE
from armin.errors import NoReply
from armin.target import DirectoryTarget, Target, TcpTarget
from armin_broker.protocol import DATABASE_FILE, LOCK_SUFFIX

_UNKNOWN_OUTCOME: Final = "; the outcome of this write is unknown"
_RESEND: Final = ", sending it again with the key {} cannot double it"
_STARTING: Final = ("opening", "recovering")  # states of an owner that has bound no socket yet


class _Owner(NamedTuple):
    """The first two lines of the lock file: who owns the database, and what it is doing."""

    pid: int
    state: str


def no_reply(
    target: Target,
    timeout: float,
    *,
    sent: bool,
    writes: bool,
    key: str | None = None,
    nobody: bool = False,
) -> NoReply:
    """The error for a command that `target` left unanswered for `timeout` seconds.

    `sent` tells whether the command left this process, `writes` whether it would have changed anything,
    `nobody` that not even a connection was taken.
    """
    if isinstance(target, TcpTarget):
        reason, message = _at_address(target, timeout, sent)
        if not sent and not nobody:
            message += _about_keys(target)
    else:
        reason, message = _at_directory(target, timeout, sent)
    if sent and writes:
        message += _UNKNOWN_OUTCOME + ("" if key is None else _RESEND.format(key))
    return NoReply(message, reason=reason, sent=sent)


def _at_address(target: TcpTarget, timeout: float, sent: bool) -> tuple[str, str]:
    place = f"{target.host}:{target.port}"
    if sent:
        return "silent", f"something listens at {place} but did not answer within {timeout:g} s"
    return "unreachable", f"nothing answered at {place} within {timeout:g} s"


def _about_keys(target: TcpTarget) -> str:
    """What may be wrong where a connection is taken, and cut before a word is said."""
    key = target.credentials
    if key is None:
        return f"; if an engine is there, it may ask for a key ({KEY_VARIABLE})"
    return f"; if an engine is there, the key {key.name} was made for another one"


def _at_directory(target: DirectoryTarget, timeout: float, sent: bool) -> tuple[str, str]:
    directory = target.directory
    if os.path.exists(directory) and not os.path.isdir(directory):
        return "no_directory", f"not a directory: {directory} (name the one that holds the database)"
    if not os.path.isdir(directory):
        return "no_directory", f"no such directory: {directory}"
    owner = _owner(directory)
    if owner is None:
        return "not_running", f"no engine is running on {directory} (start one with: armin serve {directory})"
    if owner.state in _STARTING:
        return (
            "recovering",
            f"the engine (pid {owner.pid}) is recovering {directory}; try again when it is done",
        )
    if sent:
        return "silent", f"an engine is there (pid {owner.pid}) but did not answer within {timeout:g} s"
    socket = target.commands.removeprefix("ipc://")
    if not os.path.exists(socket):
        return (
            "unreachable",
            f"an engine is there (pid {owner.pid}) but its socket file {socket} is missing "
            "(restart the engine, which makes it anew)",
        )
    return (
        "unreachable",
        f"an engine is there (pid {owner.pid}) but took no connection at {target.commands} "
        f"within {timeout:g} s",
    )


def _owner(directory: str) -> _Owner | None:
    """Who owns the database, if that process is alive."""
    path = os.path.join(directory, DATABASE_FILE + LOCK_SUFFIX)
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            lines = file.read(256).splitlines()
    except OSError:
        return None
    if not lines or not lines[0].strip().isdecimal():
        return None
    owner = _Owner(int(lines[0]), lines[1].strip() if len(lines) > 1 else "")
    return owner if _alive(owner.pid) else None


def _alive(pid: int) -> bool:
    if pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # it is somebody else's, and alive
    except (ProcessLookupError, OverflowError):
        return False
    return True


def no_live(endpoint: str, timeout: float) -> NoReply:
    """The error for a live socket that carries nothing while the commands socket answers."""
    return NoReply(
        f"the engine answers, but nothing came over its live socket {endpoint} within {timeout:g} s",
        reason="unreachable",
        sent=True,
    )
