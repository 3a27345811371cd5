"""Bringing the WAL home into the database file, beside the commits.

SQLite would do it within the commit that makes the WAL too long: 16 MiB stop everybody for some 20 ms, and
what a long reader has held back for longer. Here a thread with a connection of its own copies the pages
while commits go on; what they have added meanwhile, little, is brought home between two of them, and the next
one begins the WAL anew.

SQLite's WAL-reset bug (3.7.0 to 3.51.2, https://www.sqlite.org/wal.html#walresetbug) needs a WAL that is
begun anew just as another connection begins a checkpoint. That cannot be here: before its checkpoint, and
until that is over, the thread reads in the WAL through a second connection, and SQLite begins no WAL anew
that somebody reads in. Checkpoints of the writer's come when the thread has ended.

SQLite does not sync what a checkpoint of part of the WAL wrote, but counts it as home: a later checkpoint, of
the whole, syncs the file for both. If that sync fails, the kernel may have dropped what the first one wrote,
and nobody would write it again. So nothing is brought home any more then, not even when the file is closed:
all of it stays in the WAL, from where the next start has it: how much counts as home is in the -shm file, and
the first one to open the database makes that anew. So readers that have it open must be gone, too.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Final

from armin_engine.probe import beside, connect_read_only

logger = logging.getLogger(__name__)

PAGE_BYTES: Final = 4096
FRAME_BYTES: Final = PAGE_BYTES + 24  # a page and its header
AT_ONCE: Final = 500  # frames that are brought home between two commits: some 2 ms
ROUNDS_MAX: Final = 3  # of the thread's; then the rest is brought home between two commits, however much
PAUSE_S: Final = 0.1  # until it is tried again, where a reader holds the WAL or the disk is full


class Checkpoints:
    """The WAL of `path`, kept to some `pages`; for the thread that commits through `writer`.

    connect: makes a connection that may write; it is used for nothing but checkpoints.
    clock: seconds, never going back.

    Raises sqlite3.Error.
    """

    def __init__(
        self,
        path: Path,
        writer: sqlite3.Connection,
        connect: Callable[[Path], sqlite3.Connection],
        pages: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wal = os.fspath(beside(path, "-wal"))
        self._limit = pages * FRAME_BYTES
        self._writer = writer
        self._clock = clock
        self._rounds = 0
        self._size = 0  # of the WAL when the thread began
        self._not_before = 0.0
        self._left: int | None = None  # frames that the thread could not bring home, None where it failed
        self._failed = False
        self._partly = True  # frames may count as home that no sync has covered, a former owner's too
        self._given_up = False
        self._thread: threading.Thread | None = None
        with ExitStack() as opened:
            # Opened here and now: by the time of a checkpoint another file may have the name.
            self._runner = opened.enter_context(closing(connect(path)))
            self._guard = opened.enter_context(closing(connect_read_only(path)))
            for connection in (self._runner, self._guard):  # it knows of the WAL once it has read
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            # A WAL that is begun anew is cut to this: longer, something of it is to be brought home.
            writer.execute(f"PRAGMA journal_size_limit = {self._limit}")
            for pragma in ("synchronous = FULL", "fullfsync = ON", "checkpoint_fullfsync = ON"):
                self._runner.execute(f"PRAGMA {pragma}")
            opened.pop_all()

    def committed(self) -> None:
        """After each commit: begin, go on or end. What fails is in the log, and tried again."""
        try:
            size = os.stat(self._wal).st_size
        except OSError:
            return  # the next commit sees to it
        if self.is_running or self._given_up:
            return
        thread, self._thread = self._thread, None
        if size <= self._limit:
            self._rounds = 0
            if thread is not None:  # it was begun anew, which it is only once all is home and synced
                self._partly = False
        elif thread is not None:
            self._go_on(size)
        elif self._clock() >= self._not_before:
            self._begin(size)

    def _go_on(self, size: int) -> None:
        """The thread has ended, and the WAL was not begun anew since."""
        left = self._left
        if left is None or left > AT_ONCE:
            self._pause()
        elif left + (size - self._size) // FRAME_BYTES > AT_ONCE and self._rounds < ROUNDS_MAX:
            self._begin(size)
        else:
            self._bring_home()

    @property
    def is_running(self) -> bool:
        """Whether the thread is at it."""
        return self._thread is not None and self._thread.is_alive()

    def _begin(self, size: int) -> None:
        self._rounds += 1
        self._size = size
        self._left = None
        self._thread = threading.Thread(target=self._run, name="armin-checkpoint")
        try:
            self._thread.start()
        except RuntimeError:  # no more threads for this user
            self._thread = None
            self._bring_home()

    def _pause(self) -> None:
        self._rounds = 0
        self._not_before = self._clock() + PAUSE_S

    def _bring_home(self) -> None:
        """The rest, between two commits."""
        self._rounds = 0
        left = self._checkpoint(self._writer)
        if left is not None:
            self._partly = left > 0
        if left is None or left > AT_ONCE:  # else whoever reads may be gone by the next commit
            self._pause()

    def _run(self) -> None:
        try:
            self._guard.execute("BEGIN")
            # The WAL has frames that are not home, so this reads in the WAL and not in the file alone.
            self._guard.execute("SELECT count(*) FROM sqlite_master").fetchone()
            self._left = self._checkpoint(self._runner)
            if self._left is not None:
                self._partly = True  # for commits may have come meanwhile
        except sqlite3.Error as error:
            self._tell(error)
        finally:
            if self._guard.in_transaction:
                self._guard.execute("COMMIT")

    def _checkpoint(self, connection: sqlite3.Connection) -> int | None:
        """Bring home what takes no waiting for others: frames that stay in the WAL, None where it failed."""
        try:
            busy, frames, home = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            self._tell(error)
            if self._partly and is_of_a_sync(error):
                self._give_up()
            return None
        if self._failed:
            self._failed = False
            logger.warning("checkpoints succeed again")
        return int(frames - home) if not busy else None

    def _tell(self, error: sqlite3.Error) -> None:
        if not self._failed:
            self._failed = True
            logger.error("a checkpoint failed: %s; %s grows until one succeeds", error, self._wal)

    def _give_up(self) -> None:
        self._given_up = True
        logger.error(
            "%s could not be brought home and synced; it keeps all that was committed and grows until the"
            " engine is restarted. Look after the disk, stop the engine, end all others that have the file"
            " open, then start it",
            self._wal,
        )

    def close(self) -> None:
        """Wait for the thread, which takes as long as the copying, and close all connections."""
        if self._thread is not None:
            with suppress(RuntimeError):  # something cut in before it was started
                self._thread.join()
        self._runner.close()
        # The last one to be closed brings the WAL home and deletes it, unless it only reads.
        last = (self._writer, self._guard) if self._given_up else (self._guard, self._writer)
        for connection in last:
            connection.close()


def is_of_a_sync(error: sqlite3.Error) -> bool:
    """Whether a sync failed. A write that fails, for want of quota say, loses nothing that counts as home."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_FSYNC
