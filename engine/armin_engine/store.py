"""The only source of truth: one SQLite file, one writer.

Only `SQLiteStore.commit` makes a `Committed`, and only a `Committed` can be derived from or announced:
what is not on disk cannot be published by mistake. What is recovered is announced to nobody.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from armin_engine import digest, durable, upgrade
from armin_engine.checkpoints import Checkpoints
from armin_engine.errors import CorruptDatabase, OpenError, StorageFailed
from armin_engine.facts import MESSAGE_APPENDED, SESSION_CREATED, Fact, FactFields
from armin_engine.failures import FailureLog
from armin_engine.keys import Key, KeyRow, Keys, Stored
from armin_engine.lock import OwnerLock
from armin_engine.probe import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    beside,
    connect_read_only,
    damaged,
    reading_failed,
    schema_version,
)
from armin_engine.records import Command, Rows
from armin_engine.rows import insert
from armin_engine.standing import Standing
from armin_engine.stored import (
    Identity,
    Replay,
    Sequences,
    digest_at,
    identity,
    last_position,
    sequences,
    stored_facts,
)

logger = logging.getLogger(__name__)

MEMORY: Final = ":memory:"
BUSY_TIMEOUT_S: Final = 1.0  # how long a foreign writer may hold up a commit before it fails
# SQLite's 1,000 are too few where many sessions take turns: each dirties a page of the index, and most of
# these were written to the file and synced again every few groups. The WAL takes 16 MiB, as the cache does.
CHECKPOINT_PAGES: Final = 4000
CACHE_KIB: Final = 16 << 10
RECOVERY_CACHE_KIB: Final = 2 << 10  # it reads in the order of the file
NEW_SUFFIX: Final = ".new"  # the file while it is being made


class Committed:
    """Facts that are on disk, in log order. Made by the store alone."""

    __slots__ = ("facts",)

    def __init__(self, facts: Sequence[Fact], seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only the store commits")
        self.facts = facts


_SEAL: Final = object()


class SQLiteStore:
    """Owns the file: opens, recovers and commits. Raises OpenError."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.is_memory = os.fspath(path) == MEMORY
        self.path = Path(os.path.realpath(path)) if not self.is_memory else Path(MEMORY)
        if self.path.is_dir():
            raise OpenError(f"{self.path} is a directory")
        self._process = os.getpid()
        self._interrupted = (
            f"a commit to {self.path} was interrupted before memory had taken it in; no more writes are"
            " taken. Restart the engine: it recovers what is on disk",
            "interrupted",
        )
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._checkpoints: Checkpoints | None = None
        self._refused: tuple[str, str] | None = None  # why no writes are taken: message and reason
        self._refusal_logged = False
        self._failures = FailureLog()
        self._standing = Standing(())
        self._head = digest.GENESIS
        self._position = 0
        self._sequences = Sequences(0, 0)
        self._lock = None if self.is_memory else OwnerLock(self.path)
        try:
            self._open()
        except sqlite3.Error as error:
            self.close()
            raise reading_failed(self.path, error) from error
        except OSError as error:
            self.close()
            raise OpenError(f"cannot open {self.path}: {error}") from error
        except BaseException:
            self.close()
            raise

    # --- opening ---

    def _open(self) -> None:
        if self.is_memory:
            self._reader = self._writer = _connect(MEMORY)
            _create(self._writer)
        else:
            if not self.path.exists() or self.path.stat().st_size == 0:
                self._create_file()
            elif schema_version(self.path) is None:
                self._upgrade()
            self._reader = self.connect_reader()
            self._reader.execute(f"PRAGMA cache_size = -{RECOVERY_CACHE_KIB}")
        try:
            self.identity: Identity = identity(self._reader)
        except CorruptDatabase as error:
            raise damaged(self.path, error.message) from error

    def _create_file(self) -> None:
        """Make the file under another name first: under its own it is empty or whole, however we die."""
        for leftover in (beside(self.path, "-wal"), beside(self.path, "-journal")):
            if leftover.exists() and leftover.stat().st_size:
                raise OpenError(
                    f"{self.path} is missing or empty, but {leftover.name} is there and may hold its data:"
                    " put the database back, or move that file away"
                )
        new = beside(self.path, NEW_SUFFIX)
        try:
            for suffix in ("", "-journal", "-wal", "-shm"):
                beside(new, suffix).unlink(missing_ok=True)
            connection = _connect(new)
            try:
                _create(connection)
                _use_wal(connection, new)
            finally:
                connection.close()
            if self.path.exists():
                new.chmod(stat.S_IMODE(self.path.stat().st_mode))
            upgrade.sync(new)
            new.rename(self.path)
            upgrade.sync(self.path.parent)
        except (sqlite3.Error, OSError) as error:
            raise OpenError(f"cannot create {self.path}: {error}") from error

    def _upgrade(self) -> None:
        reader = self.connect_reader()
        try:
            upgrade.check_original(reader, self.path)
            copy = upgrade.copy_before_upgrade(reader, self.path)
        finally:
            reader.close()
        logger.warning("upgrading %s; its copy is %s", self.path, copy)
        writer = _connect(self.path)
        try:
            # In a WAL, a transaction that is cut off leaves the main file as it was.
            _use_wal(writer, self.path)
            _create(writer, with_log=True)
        except sqlite3.Error as error:
            raise OpenError(f"cannot upgrade {self.path}: {error}") from error
        finally:
            writer.close()

    def connect_reader(self) -> sqlite3.Connection:
        """A read-only connection of its own, usable in any one thread at a time."""
        self._check_not_closed()
        return connect_read_only(self.path)

    def _check_not_closed(self) -> None:
        if self._refused is not None and self._refused[1] == "closed":
            self._check_not_refused()

    @property
    def reader(self) -> sqlite3.Connection:
        """The connection that recovery reads through; for ":memory:", the only one."""
        assert self._reader is not None, "recovery comes before writing"
        return self._reader

    def live_bytes(self) -> int:
        """Bytes of the file's pages that are in use."""
        pages, free, size = (
            self.reader.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def recovered(self) -> Iterator[tuple[list[FactFields], int]]:
        """Every stored fact in slices, with the last position. Raises OpenError.

        Dense positions and the rules of the log are checked; its digests are `verify`'s business.
        """
        try:
            total, last_ids = last_position(self.reader), sequences(self.reader)
            replay = Replay()
            for facts, digests in stored_facts(self.reader, replay):
                if facts:
                    self._position, self._head = facts[-1][0], digests[-1]
                    yield facts, total
            if replay.last_session > last_ids.sessions or replay.last_message > last_ids.messages:
                raise CorruptDatabase(f"sqlite_sequence has {last_ids}, but the log holds later ids")
        except sqlite3.Error as error:
            raise reading_failed(self.path, error) from error
        except CorruptDatabase as error:
            raise damaged(self.path, error.message) from error

    def start_writing(self) -> None:
        """Take the file for writing, once all of it has been recovered. Raises OpenError."""
        try:
            self._start_writing()
        except (sqlite3.Error, OSError, StorageFailed) as error:
            raise OpenError(f"cannot open {self.path} for writing: {error}") from error

    def _start_writing(self) -> None:
        if self._writer is None:
            self._writer = _connect(self.path)
            _use_wal(self._writer, self.path)
            # A file that used none, as a backup, has its WAL only once it is read.
            self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
            self._standing = Standing([self.path, beside(self.path, "-wal"), beside(self.path, "-shm")])
            self.reader.close()
            self._reader = None
            upgrade.sync(self.path.parent)
        for pragma in (
            "synchronous = FULL",  # acknowledged means on disk
            "fullfsync = ON",
            "checkpoint_fullfsync = ON",
            "foreign_keys = ON",
            f"cache_size = -{CACHE_KIB}",
            "wal_autocheckpoint = 0",  # see checkpoints.py
        ):
            self._writer.execute(f"PRAGMA {pragma}")
        self._writer.execute("BEGIN IMMEDIATE")
        if not self.is_memory:
            # An engine that was killed before its sync leaves rows that only the page cache may hold. Now
            # they are shown, and resends are told that they are in: so they must be on disk. SQLite does
            # not see to that; the transaction keeps others from the WAL.
            durable.rewrite(beside(self.path, "-wal"))
        upgrade.add_version_2(self._writer, _schema())
        self._writer.execute("COMMIT")
        self._schema_version = _pragma(self._writer, "schema_version")
        self._data_version = _pragma(self._writer, "data_version")
        # SQLite opens a file that it may not write, and begins, without a word: only a statement tells.
        self._writer.execute("BEGIN IMMEDIATE")
        self._writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._sequences = sequences(self._writer)
        self._check_unchanged(self._writer)
        self._writer.execute("ROLLBACK")
        self._keys = Keys(self._writer)
        if not self.is_memory:
            self._checkpoints = Checkpoints(self.path, self._writer, CHECKPOINT_PAGES)

    @property
    def sequences(self) -> Sequences:
        """The last ids that were committed."""
        return self._sequences

    def note(self, state: str) -> None:
        """Say in the lock file what the owner is doing."""
        if self._lock is not None:
            self._lock.note(state)

    # --- committing ---

    def commit(
        self, facts: Sequence[Fact], keys: Sequence[KeyRow] = (), rows: Sequence[Rows] = ()
    ) -> Committed:
        """Write it all in one durable transaction; no other one until `settled` is called.

        Raises StorageFailed with nothing changed, as far as SQLite can tell.
        """
        self._check_not_refused()
        writer = self._writer
        assert writer is not None, "start_writing comes first"
        if os.getpid() != self._process:
            raise RuntimeError("the engine belongs to the process that opened it, not to its forks")
        try:
            self._check_standing()
        except OSError as error:
            raise self._failed(facts, error) from error
        try:
            writer.execute("BEGIN IMMEDIATE")
            data_version = self._check_foreign_commits(writer)
            head = insert(writer, facts, keys, rows, self._head)
            self._refused = self._interrupted
            writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._refused = None
            _roll_back(writer)
            raise self._failed(facts, error) from error
        except BaseException:
            _roll_back(writer)
            raise
        self._failures.succeeded()
        self._head, self._data_version = head, data_version
        if facts:
            self._position = facts[-1].position
            self._sequences = _sequences_after(self._sequences, facts)
        if keys:
            self._keys.committed(keys)
        return Committed(facts, _SEAL)

    def stored_keys(self, commands: Sequence[Command]) -> Mapping[Key, Stored]:
        """Those keys of a group that are in the file. Raises StorageFailed."""
        keys = self._keys.candidates(commands)
        if not keys:
            return {}
        self._check_not_refused()
        try:
            return self._keys.lookup(keys)
        except sqlite3.Error as error:
            raise StorageFailed(f"SQLite could not look up a key: {error}", reason="read") from error

    def select(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the layer above, for its start. Raises OpenError."""
        assert self._writer is not None, "start_writing comes first"
        try:
            return self._writer.execute(query).fetchall()
        except sqlite3.Error as error:
            raise reading_failed(self.path, error) from error

    def digest_at(self, position: int) -> bytes | None:
        """The digest of the log up to `position`, None where it ends before. Raises sqlite3.Error."""
        self._check_not_closed()
        assert self._writer is not None, "start_writing comes first"
        return digest_at(self._writer, position)

    def _failed(self, facts: Sequence[Fact], error: Exception) -> StorageFailed:
        self._failures.failed(len(facts), error)
        return StorageFailed(f"SQLite could not commit: {error}", reason="commit")

    def settled(self) -> None:
        """Memory has taken in the last commit: the next one may come.

        Whatever cuts in between (Ctrl-C, want of memory) leaves memory behind the file, and a plan made
        from it would be wrong: no more writes then until the file is opened again.
        """
        self._refused = None
        if self._checkpoints is not None:
            self._checkpoints.committed()

    def _check_standing(self) -> None:
        """Will what is committed now be found again? Costs a few microseconds."""
        fallen = self._standing.fallen()
        if fallen is not None:
            self._refuse_for_good(
                f"{fallen} was deleted or replaced under the engine; no more writes are taken. What was"
                " acknowledged before can still be read: save it with 'armin export', stop the engine, put"
                f" {self.path.name} back with no -wal but its own, check it with 'armin verify', then restart"
                " the engine"
            )
        if self._lock is not None and not self._lock.still_held():
            self._refuse_for_good(
                f"the lock file {self._lock.path} was deleted or replaced, so another engine may own"
                f" {self.path}; no more writes are taken. Stop all engines on it, check the file with"
                " 'armin verify', then restart one"
            )

    def _check_foreign_commits(self, writer: sqlite3.Connection) -> int:
        """Within the transaction: has anybody else committed to the file? Then it must still be ours."""
        data_version = _pragma(writer, "data_version")
        if data_version != self._data_version:
            self._check_unchanged(writer)
            logger.warning("another process wrote to %s; what Armin stored in it is unchanged", self.path)
        return data_version

    def _check_unchanged(self, writer: sqlite3.Connection) -> None:
        row = writer.execute("SELECT position, digest FROM log ORDER BY position DESC LIMIT 1").fetchone()
        same = {
            "the log": (row or (0, digest.GENESIS)) == (self._position, self._head),
            "sqlite_sequence": self._has_our_sequences(writer),
            "the schema": _pragma(writer, "schema_version") == self._schema_version,
        }
        if not all(same.values()):
            changed = " and ".join(what for what, kept in same.items() if not kept)
            self._refuse_for_good(
                f"another process changed {changed} of {self.path}; no more writes are taken. Stop that"
                " process, check the file with 'armin verify', then restart the engine"
            )

    def _has_our_sequences(self, writer: sqlite3.Connection) -> bool:
        try:
            return sequences(writer) == self._sequences
        except CorruptDatabase:
            return False

    def _refuse_for_good(self, message: str) -> None:
        self._refused = (message, "file_changed")
        self._check_not_refused()

    def _check_not_refused(self) -> None:
        if self._refused is None:
            return
        message, reason = self._refused
        if not self._refusal_logged and reason != "closed":
            self._refusal_logged = True
            logger.error("%s", message)
        raise StorageFailed(message, reason=reason, retry=False)

    @property
    def writes_refused(self) -> str | None:
        """The reason why no writes are taken until the file is opened again, None while they are."""
        return None if self._refused is None else self._refused[1]

    def close(self) -> None:
        """Close the file cleanly, then let go of the lock. Closing again does nothing."""
        for each in (self._checkpoints, self._writer, self._reader):
            try:
                if each is not None:
                    each.close()
            except sqlite3.Error:
                logger.exception("closing %s failed; its WAL is read at the next start", self.path)
        self._checkpoints = None
        self._writer = self._reader = None
        self._refused = ("the engine is closed", "closed")
        if self._lock is not None:
            self._lock.release()


def _sequences_after(sequences: Sequences, facts: Sequence[Fact]) -> Sequences:
    """Ids ascend, so the last one of each kind is the greatest."""
    sessions = (fact.session_id for fact in reversed(facts) if fact.kind is SESSION_CREATED)
    messages = (fact.message_id for fact in reversed(facts) if fact.kind is MESSAGE_APPENDED)
    return Sequences(next(sessions, sequences.sessions), next(messages, sequences.messages))


def _connect(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    connection.execute("PRAGMA synchronous = EXTRA")
    return connection


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise OpenError(f"{path} cannot use a write-ahead log (journal_mode is {mode})")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _schema() -> str:
    return resources.files("armin_engine").joinpath("schema.sql").read_text("utf-8")


def _create(connection: sqlite3.Connection, *, with_log: bool = False) -> None:
    """Create Armin's tables beside what is there, all or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in _schema().split(";\n"):
        connection.execute(statement)
    if with_log:
        upgrade.synthesise_log(connection)
    connection.executemany(
        "INSERT INTO armin VALUES (?, ?)", [("database", uuid.uuid4().hex), ("epoch", uuid.uuid4().hex)]
    )
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _roll_back(writer: sqlite3.Connection) -> None:
    try:
        if writer.in_transaction:  # SQLite has already rolled back after some errors
            writer.execute("ROLLBACK")
    except sqlite3.Error:
        logger.exception("rolling back failed")
