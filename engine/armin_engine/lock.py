"""The owner's lock: one engine for one file."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import Final

from armin_engine.errors import AlreadyOwned, OpenError
from armin_engine.standing import inode

logger = logging.getLogger(__name__)

SUFFIX: Final = ".lock"


class OwnerLock:
    """An flock on a file beside the database, held as long as the engine lives.

    The file's first line is the owner's pid, its second what the owner is doing. The kernel drops the
    lock when the process dies, however it dies.
    """

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(database.name + SUFFIX)
        self._process = os.getpid()
        self._descriptor = self._acquire(database)
        self._inode = inode(self._descriptor)  # not given to another file while this one is open
        self.note("opening")

    def _acquire(self, database: Path) -> int:
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise OpenError(f"cannot create the lock file {self.path}: {error.strerror}") from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = _pid_in(descriptor)
                os.close(descriptor)
                raise AlreadyOwned(f"{database} is owned by another engine (pid {pid or '?'})", pid) from None
            except OSError as error:  # a file system without locks
                os.close(descriptor)
                raise OpenError(f"cannot lock {self.path}: {error.strerror}") from None
            if self._names(descriptor):
                return descriptor
            os.close(descriptor)  # its last owner removed it between our open and our flock

    def _names(self, descriptor: int) -> bool:
        return inode(self.path) == inode(descriptor)

    def still_held(self) -> bool:
        """Whether the file is the one that was locked: if not, another engine may have locked its successor.

        Raises OSError where that cannot be told.
        """
        return inode(self.path) == self._inode

    def note(self, state: str) -> None:
        """Say what the owner is doing, for whoever finds no socket. The lock holds without it."""
        text = f"{os.getpid()}\n{state}\n".encode()
        try:
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))
        except OSError as error:
            logger.warning("cannot write to the lock file %s: %s", self.path, error.strerror)

    def release(self) -> None:
        """Let go. Removing the file first keeps the directory clean; acquirers check for that."""
        if self._descriptor < 0:
            return
        # A fork holds the same lock, but is not the owner; nor is who holds a file that was deleted.
        if os.getpid() == self._process and self.still_held():
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


def _pid_in(descriptor: int) -> int | None:
    first_line = os.pread(descriptor, 64, 0).partition(b"\n")[0]
    return int(first_line) if first_line.isdigit() else None
