"""Idempotency keys: kept for ever in SQLite, looked up on the write path only.

Only the greatest key is held in memory. A key above it cannot be stored, so a client whose keys grow with
time (UUIDv7) seldom costs a look into the file, however many keys there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from armin_engine.digest import DIGEST_BYTES, text_digest
from armin_engine.facts import ROLES
from armin_engine.records import Append, Command, CreateSession, NewMessage

NO_SESSION: Final = 0  # the session of a key that creates one
LOOKUP: Final = "SELECT position, count, request FROM append_keys WHERE key = ? AND session_id = ?"

# What stands before a digest in a request, so that none can be taken for another.
_ROLE_PLAIN: Final = tuple(bytes([role]) for role in range(len(ROLES)))
_META: Final = b"m"
_NAME: Final = b"n"

Key = tuple[str, int]  # a key and the session that it counts in


class Stored(NamedTuple):
    """What a key stands for: `length` facts from `position` on, and what tells its request from others."""

    position: int
    length: int
    request: bytes


KeyRow = tuple[str, int, int, int, bytes]  # as in the table


def append_request(messages: Sequence[NewMessage], digests: Sequence[bytes]) -> bytes:
    """Tells one append from another, `digests` being those of the contents.

    What the append expects to be so beforehand is no part of it.
    """
    if len(messages) == 1:
        return _message_request(messages[0], digests[0])
    request = b"".join(map(_message_request, messages, digests))
    return blake2b(request, digest_size=DIGEST_BYTES).digest()


def _message_request(message: NewMessage, digest: bytes) -> bytes:
    role, _, meta, _ = message
    plain = _ROLE_PLAIN[role] + digest
    return plain if meta is None else plain + _META + text_digest(meta.json)


def create_request(command: CreateSession) -> bytes:
    """Tells one creation from another."""
    name = b"" if command.name is None else _NAME + text_digest(command.name)
    return name + (b"" if command.meta is None else _META + text_digest(command.meta.json))


class Keys:
    """The stored keys of one file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        (highest,) = connection.execute("SELECT max(key) FROM append_keys").fetchone()
        self._highest: str = highest or ""
        self._last: KeyRow = ("", -1, 0, 0, b"")  # that was committed: what a pipeline's next write follows

    def candidates(self, commands: Sequence[Command]) -> set[Key]:
        """The keys of a group that may be stored."""
        highest = self._highest  # SQLite compares UTF-8 bytes, which sort as code points do
        found: set[Key] = set()
        for command in commands:
            if type(command) is Append:
                session_id, _, _, key, after_key = command
                if key is not None and key <= highest:
                    found.add((key, session_id))
                if after_key is not None and after_key <= highest:
                    found.add((after_key, session_id))
            elif type(command) is CreateSession and command.key is not None and command.key <= highest:
                found.add((command.key, NO_SESSION))
        return found

    def lookup(self, keys: Collection[Key]) -> Mapping[Key, Stored]:
        """Those of the keys that are stored. Raises sqlite3.Error."""
        found: dict[Key, Stored] = {}
        for key in keys:  # one by one: a list of pairs makes SQLite scan the table
            if key == self._last[:2]:
                found[key] = Stored(*self._last[2:])
                continue
            row = self._connection.execute(LOOKUP, key).fetchone()
            if row is not None:
                found[key] = Stored(*row)
        return found

    def committed(self, rows: Sequence[KeyRow]) -> None:
        """These are in the file now."""
        self._highest = max(self._highest, max(rows)[0])
        self._last = rows[-1]
