"""What happens between the engine and its disk: each operation is traced, and fails or kills when told."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from typing import Final

from armin.torture.fate import Fate
from armin.torture.orders import Fault, KillPoint, Switchboard
from armin.torture.trace import Kind, TraceWriter, Which

_FULL: Final = {Fault.FULL_WAL: Which.WAL, Fault.FULL_DB: Which.DATABASE}
_SYNC: Final = {Fault.SYNC_WAL: Which.WAL, Fault.SYNC_DB: Which.DATABASE}
_DIE_WRITING: Final = {Which.WAL: KillPoint.WRITING, Which.DATABASE: KillPoint.MID_CHECKPOINT}


class TorturedDisk:
    """A Watcher for the shim."""

    def __init__(self, trace: TraceWriter, switchboard: Switchboard, fate: Fate) -> None:
        self._trace = trace
        self._switchboard = switchboard
        self._fate = fate

    def write(self, which: Which, offset: int, data: bytes, do: Callable[[int], int]) -> int:
        """Whole; or half, and then the disk is full or the process dead."""
        dies = self._fate.has_come(_DIE_WRITING[which])
        fault = self._switchboard.fault
        is_full = fault is not None and _FULL.get(fault) is which
        size = len(data) // 2 if dies or is_full else len(data)
        code = self._undoable(Kind.WRITE, which, offset, data[:size], lambda: do(size))
        if dies:
            self._fate.die()
        return sqlite3.SQLITE_FULL if is_full else code

    def truncate(self, which: Which, size: int, do: Callable[[], int]) -> int:
        """As it is."""
        return self._undoable(Kind.TRUNCATE, which, size, b"", do)

    def _undoable(self, kind: Kind, which: Which, offset: int, data: bytes, do: Callable[[], int]) -> int:
        self._trace.add(kind, which, offset, data)
        code = do()
        if code != sqlite3.SQLITE_OK:
            self._trace.add(Kind.UNDONE, which)
        return code

    def sync(self, which: Which, do: Callable[[], int]) -> int:
        """The real one, or a failure."""
        if which is Which.WAL:
            self._fate.at(KillPoint.UNSYNCED)
        code = sqlite3.SQLITE_IOERR_FSYNC if self._sync_fails(which) else do()
        self._trace.add(Kind.SYNC if code == sqlite3.SQLITE_OK else Kind.SYNC_FAILED, which)
        return code

    def delete(self, which: Which, do: Callable[[], int]) -> int:
        """As it is."""
        code = do()
        if code == sqlite3.SQLITE_OK:
            self._trace.add(Kind.DELETE, which)
        return code

    def rewrite(self, which: Which, do: Callable[[], None]) -> None:
        """The engine's own doing, past SQLite: a file written over itself and synced. Raises OSError."""
        if self._sync_fails(which):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        do()
        self._trace.add(Kind.REWRITTEN, which)

    def _sync_fails(self, which: Which) -> bool:
        fault = self._switchboard.fault
        return fault is not None and _SYNC.get(fault) is which
