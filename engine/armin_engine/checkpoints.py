"""Bringing the WAL home into the database file, between commits.

The writer's connection does it, and no other: SQLite's WAL-reset bug (3.7.0 to 3.51.2,
https://www.sqlite.org/wal.html#walresetbug) needs two that write or checkpoint.

SQLite would do it by itself, but says nothing of what fails, and can lose data then. It does not sync what a
checkpoint of part of the WAL wrote (somebody reads, and holds the rest back), but counts it as home: a later
checkpoint, of the whole, syncs the file for both. If that sync fails, the kernel may have dropped what the
first one wrote, and nobody would write it again. So nothing is brought home any more then, not even when the
file is closed: all of it stays in the WAL, from where the next start has it. How much counts as home is in
the -shm file, and the first one to open the database makes that anew: so readers must be gone by then, too.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

from armin_engine.probe import beside, connect_read_only

logger = logging.getLogger(__name__)

PAGE_BYTES: Final = 4096
FRAME_BYTES: Final = PAGE_BYTES + 24  # a page and its header
HELD_FRAMES: Final = 500  # that stay in the WAL: with so many, somebody reads for longer than a commit takes
PAUSE_S: Final = 0.1  # until it is tried again then, or where it failed


class Checkpoints:
    """The WAL of `path`, kept to some `pages`; for the thread that commits through `writer`.

    clock: seconds, never going back.

    Raises sqlite3.Error.
    """

    def __init__(
        self,
        path: Path,
        writer: sqlite3.Connection,
        pages: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wal = os.fspath(beside(path, "-wal"))
        self._limit = pages * FRAME_BYTES
        self._writer = writer
        self._clock = clock
        self._not_before = 0.0
        self._failed = False
        self._partly = True  # frames may count as home that no sync has covered, a former owner's too
        self._given_up = False
        # A WAL that is begun anew is cut to this: longer, something of it is to be brought home.
        writer.execute(f"PRAGMA journal_size_limit = {self._limit}")
        with ExitStack() as opened:
            self._last = opened.enter_context(closing(connect_read_only(path)))
            self._last.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opened in earnest
            opened.pop_all()

    def committed(self) -> None:
        """After each commit: bring home what is too much. What fails is in the log, and tried again."""
        try:
            size = os.stat(self._wal).st_size
        except OSError:
            return  # the next commit sees to it
        if size > self._limit and not self._given_up and self._clock() >= self._not_before:
            self._bring_home()

    def _bring_home(self) -> None:
        """All that needs no waiting for others."""
        try:
            busy, frames, home = self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            self._fail(error)
            return
        left = frames - home
        if not busy:
            self._partly = left > 0
        if busy or left > HELD_FRAMES:  # with fewer, whoever reads may be gone by the next commit
            self._pause()
        if self._failed:
            self._failed = False
            logger.warning("checkpoints succeed again")

    def _fail(self, error: sqlite3.Error) -> None:
        self._pause()
        if not self._failed:
            self._failed = True
            logger.error("a checkpoint failed: %s; %s grows until one succeeds", error, self._wal)
        if self._partly and is_of_a_sync(error):
            self._given_up = True
            logger.error(
                "%s could not be brought home and synced; it keeps all that was committed and grows until the"
                " engine is restarted. Look after the disk, stop the engine, end all others that have the"
                " file open, then start it",
                self._wal,
            )

    def _pause(self) -> None:
        self._not_before = self._clock() + PAUSE_S

    def close(self) -> None:
        """Close all connections, the writer's too."""
        # The last one to be closed brings the WAL home and deletes it, unless it only reads.
        both = (self._writer, self._last) if self._given_up else (self._last, self._writer)
        for connection in both:
            connection.close()


def is_of_a_sync(error: sqlite3.Error) -> bool:
    """Whether a sync failed. A write that fails, for want of quota say, loses nothing that counts as home."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_FSYNC
