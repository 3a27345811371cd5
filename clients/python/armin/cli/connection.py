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
from armin.credentials import KEY_VARIABLE
from armin.errors import NoReply, NotAuthorized, SessionNotFound, TargetError
from armin.results import Session
from armin.target import DIR_VARIABLE, URL_VARIABLE, DirectoryTarget, Target, TcpTarget, find_target

LOOK_AGAIN: Final = 0.1  # seconds between two looks for an engine that is awaited
PROBE_TIMEOUT: Final = 1.0  # seconds for a TCP connection to be taken
GREETING_BYTES: Final = 64  # of ZMTP 3
ID_DIGITS_MAX: Final = 19  # longer numbers are no ids, so they are names


@dataclass(frozen=True, slots=True)
class Where:
    """What the command line says about the engine; `wait` and `timeout` are seconds."""

    directory: Path | None = None
    url: str | None = None
    key: Path | None = None
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
        return find_target(named, os.environ, self.key)

    def connect(self) -> Client:
        """A client of an engine that takes connections.

        Raises:
            NoReply: there is none, or it is recovering, and it was not waited for long enough.
            NotAuthorized: it asks for a key, or knows none.
        """
        target = self.target()
        deadline = time.monotonic() + self.wait
        while (absent := absence_at(target)) is not None:
            if isinstance(absent, NotAuthorized) or time.monotonic() >= deadline:
                raise absent
            time.sleep(LOOK_AGAIN)
        return armin.connect(self.directory or self.url, timeout=self.timeout, key=self.key)


def absence_at(target: Target) -> NoReply | NotAuthorized | None:
    """Why no engine is there for us, found out at once; None if one takes connections, or is about to.

    The client alone would wait its whole timeout: for it, an engine may start at any time.
    """
    if _takes_connections(target):
        return None if isinstance(target, DirectoryTarget) else _locked_out(target)
    error = absence.no_reply(target, PROBE_TIMEOUT, sent=False, writes=False, nobody=True)
    between = isinstance(target, DirectoryTarget) and error.reason == "unreachable"  # starting or stopping
    return None if between else error


def _locked_out(target: TcpTarget) -> NotAuthorized | None:
    """What a look at the engine's greeting says about keys: ZeroMQ's names its security mechanism."""
    mechanism = _mechanism(target)
    place = f"{target.host}:{target.port}"
    if mechanism == b"CURVE" and target.credentials is None:
        return NotAuthorized(
            f"the engine at {place} asks for a key: armin --key FILE, or {KEY_VARIABLE}=FILE"
        )
    if mechanism == b"NULL" and target.credentials is not None:
        return NotAuthorized(
            f"what listens at {place} knows no keys, so it cannot be the engine that yours is for;"
            " leave the key out if you trust it"
        )
    return None


def _mechanism(target: TcpTarget) -> bytes:
    """The mechanism that a ZeroMQ peer names in its greeting, empty where none does so in time."""
    greeting = b""
    try:
        with socket.create_connection(_address(target), timeout=PROBE_TIMEOUT) as probe:
            probe.sendall(
                b"\xff" + bytes(8) + b"\x7f\x03"
            )  # up to the version: it tells its own before it looks on
            while len(greeting) < GREETING_BYTES and (more := probe.recv(GREETING_BYTES)):
                greeting += more
    except OSError:
        return b""
    return greeting[12:32].rstrip(b"\0")


def _address(target: TcpTarget) -> tuple[str, int]:
    return target.host.strip("[]"), target.port


def _takes_connections(target: Target) -> bool:
    try:
        if isinstance(target, DirectoryTarget):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(target.commands.removeprefix("ipc://"))
        else:
            socket.create_connection(_address(target), timeout=PROBE_TIMEOUT).close()
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
