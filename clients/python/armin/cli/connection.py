"""Which engine is meant, whether it is there, and which session."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import armin
from armin import absence
from armin.client import Client
from armin.errors import NoReply, SessionNotFound, TargetError
from armin.results import Session
from armin.target import DIR_VARIABLE, URL_VARIABLE, DirectoryTarget, Target, find_target

LOOK_AGAIN: Final = 0.1  # seconds between two looks for an engine that is awaited
PROBE_TIMEOUT: Final = 1.0  # seconds for a TCP connection to be taken
ID_DIGITS_MAX: Final = 19  # longer numbers are no ids, so they are names


@dataclass(frozen=True, slots=True)
class Where:
    """What the command line says about the engine; `wait` and `timeout` are seconds."""

    directory: Path | None = None
    url: str | None = None
    wait: float = 0.0
    timeout: float = 5.0

    def target(self) -> Target:
        """The engine that is meant.

        Raises:
            TargetError: nothing says which.
        """
        named: str | Path | None = self.url if self.directory is None else self.directory
        if named is None and not any(os.environ.get(name) for name in (URL_VARIABLE, DIR_VARIABLE)):
            raise TargetError(
                "no engine is named; say armin --dir DIR or --url tcp://HOST:PORT before the command, "
                f"or set {DIR_VARIABLE} or {URL_VARIABLE}"
            )
        return find_target(named, os.environ)

    def connect(self) -> Client:
        """A client of an engine that takes connections.

        Raises:
            NoReply: there is none, or it is recovering, and it was not waited for long enough.
        """
        target = self.target()
        deadline = time.monotonic() + self.wait
        while (absent := absence_at(target)) is not None:
            if time.monotonic() >= deadline:
                raise absent
            time.sleep(LOOK_AGAIN)
        return armin.connect(self.directory or self.url, timeout=self.timeout)


def absence_at(target: Target) -> NoReply | None:
    """Why no engine is there, found out at once; None if one takes connections, or is about to.

    The client alone would wait its whole timeout: for it, an engine may start at any time.
    """
    if _takes_connections(target):
        return None
    error = absence.no_reply(target, PROBE_TIMEOUT, sent=False, writes=False)
    between = isinstance(target, DirectoryTarget) and error.reason == "unreachable"  # starting or stopping
    return None if between else error


def _takes_connections(target: Target) -> bool:
    try:
        if isinstance(target, DirectoryTarget):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(target.commands.removeprefix("ipc://"))
        else:
            address = target.host.strip("[]"), target.port
            socket.create_connection(address, timeout=PROBE_TIMEOUT).close()
    except OSError:
        return False
    return True


def find_id(client: Client, session: str, by_name: bool) -> int:
    """The id that SESSION means; only a name costs a question.

    Raises:
        SessionNotFound: no session has this name.
    """
    if _is_id(session) and not by_name:
        return int(session)
    return _named(client, session).id


def find_session(client: Client, session: str, by_name: bool) -> Session:
    """The session that SESSION means.

    Raises:
        SessionNotFound: there is none.
    """
    if not _is_id(session) or by_name:
        return _named(client, session)
    try:
        return client.session(int(session))
    except SessionNotFound as error:
        hint = f"{error.message} (if {session} is its name, add --name; armin sessions lists all)"
        raise SessionNotFound(hint) from None


def _is_id(session: str) -> bool:
    return session.isascii() and session.isdecimal() and len(session) <= ID_DIGITS_MAX


def _named(client: Client, name: str) -> Session:
    try:
        return client.session(name=name)
    except SessionNotFound:
        raise SessionNotFound(f"no session has the name {name} (armin sessions lists all)") from None
