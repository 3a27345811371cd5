"""The trace of an engine's files: every write, sync, truncation and deletion, in order.

One record is one `writev`, so that a SIGKILL leaves whole records and at most one piece of another. A
write's record comes before the write, a sync's after it: what the trace calls synced is synced.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple


class Which(IntEnum):
    """One of the two files that hold the data."""

    DATABASE = 0
    WAL = 1


class Kind(IntEnum):
    """What was done to a file."""

    WRITE = 0
    TRUNCATE = 1  # to `offset` bytes
    SYNC = 2
    SYNC_FAILED = 3
    DELETE = 4
    REWRITTEN = 5  # all of it was written over itself and synced
    UNDONE = 6  # the file's last write or truncation failed, and did nothing


class Record(NamedTuple):
    """One entry."""

    kind: Kind
    which: Which
    offset: int
    data: bytes


_HEADER: Final = struct.Struct("<BBQI")  # kind, which, offset, bytes of data behind it


class TraceWriter:
    """Appends to a trace. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def add(self, kind: Kind, which: Which, offset: int = 0, data: bytes = b"") -> None:
        """Append a record."""
        size = os.writev(self._descriptor, (_HEADER.pack(kind, which, offset, len(data)), data))
        if size != _HEADER.size + len(data):
            raise OSError("the trace of the engine's files could not be written: is the disk full?")


def read(path: Path) -> Iterator[Record]:
    """Every whole record."""
    with path.open("rb") as trace:
        while len(header := trace.read(_HEADER.size)) == _HEADER.size:
            kind, which, offset, size = _HEADER.unpack(header)
            data = trace.read(size)
            if len(data) < size:
                return
            yield Record(Kind(kind), Which(which), offset, data)
