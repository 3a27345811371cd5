"""The engine: commits reality, then announces it."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from armin_engine import memory, recovery
from armin_engine.derived import Derived
from armin_engine.effects import NullSink, SideEffectSink
from armin_engine.errors import EngineError, StorageFailed
from armin_engine.facts import Event, pack_events_of, pack_message_event
from armin_engine.keys import Key, Stored
from armin_engine.live import LiveHub
from armin_engine.plan import Outcome, Plan
from armin_engine.records import (
    Append,
    Appended,
    Closed,
    CloseSession,
    Command,
    Created,
    CreateSession,
    check_id,
    check_key,
    check_messages,
    check_meta,
    check_name,
    new_message,
)
from armin_engine.store import Committed, SQLiteStore
from armin_engine.stored import Identity
from armin_engine.verify import Comparison, FileReader, Report

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT", Created, Appended, Closed)


def wall_clock() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Counters:
    """What the engine has done since it was opened; durations in nanoseconds."""

    commits: int = 0
    commits_failed: int = 0
    commit_ns: int = 0  # of the last one: the transaction until it is on disk
    facts: int = 0
    effects_failed: int = 0
    refreshes: int = 0
    refresh_ns: int | None = None  # of the last one
    refreshed_at: int | None = None  # when it ended, milliseconds since the epoch
    recovery_ns: int = 0  # opening the file, all of it
    recovered_facts: int = 0


class Armin(Derived):
    """One engine on one file. Synchronous, for one thread; views may be handed to others.

    Opening recovers silently: nothing is published, nothing is emitted. Raises OpenError, naming the
    cause, with the file untouched. Reads are those of `Derived`.

    path: the SQLite file, made if absent; or ":memory:" for tests.
    sink: takes the side effects.
    clock: milliseconds since the epoch.
    memory_budget: bytes of history to be held at most; default three quarters of the machine's memory.
    progress: called as (facts recovered, facts in all) now and then while opening.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sink: SideEffectSink | None = None,
        clock: Callable[[], int] = wall_clock,
        memory_budget: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        self.live = LiveHub()
        self.counters = Counters()
        self.memory_budget = memory.default_budget() if memory_budget is None else memory_budget
        self._sink = NullSink() if sink is None else sink
        self._clock = clock
        self._warned = False
        self._writing = threading.Lock()
        self._unannounced: deque[list[Event]] = deque()
        self._announcing = False
        began = time.perf_counter_ns()
        self._store = SQLiteStore(path)
        try:
            recovery.recover(self._store, self, self.check_memory, progress)
            self._store.start_writing()
        except BaseException:
            self._store.close()
            raise
        self._opened_with = self._store.sequences
        self.counters.recovery_ns = time.perf_counter_ns() - began
        self.counters.recovered_facts = self.position

    def close(self) -> None:
        """Close the file cleanly, and the subscriptions. Views already handed out stay readable."""
        self._store.close()
        self.live.close()

    def __enter__(self) -> Armin:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def identity(self) -> Identity:
        """The database's id and its epoch."""
        return self._store.identity

    @property
    def path(self) -> os.PathLike[str]:
        """The file, links resolved."""
        return self._store.path

    @property
    def writes_refused(self) -> str | None:
        """Why no writes are taken until the file is opened again, None while they are.

        `file_changed`, `interrupted` or `closed`, as `StorageFailed.reason` has it.
        """
        return self._store.writes_refused

    def select(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the layer above, for its start; a read while serving never touches SQLite.

        Raises OpenError.
        """
        return self._store.select(query)

    def note(self, state: str) -> None:
        """Say in the lock file what the owner is doing."""
        self._store.note(state)

    # --- writing: commit, then derive, then announce ---

    def apply(self, commands: Sequence[Command]) -> list[Outcome]:
        """Commit a group in one transaction; one outcome for each command, in order.

        A bad command fails alone. A failed commit fails every write of the group, changes nothing in
        memory, emits nothing and uses up no id. Errors are returned, not raised.

        A listener or sink may call this while it is told of an earlier commit: the new one is announced
        when that one has been announced to all.
        """
        if not self._writing.acquire(blocking=False):
            raise RuntimeError("two threads write through one engine at once; it is made for one")
        try:
            outcomes = self._apply(commands)
        finally:
            self._writing.release()
        self._announce()
        return outcomes

    def _apply(self, commands: Sequence[Command]) -> list[Outcome]:
        try:
            stored = self._store.stored_keys(commands)
        except StorageFailed as error:
            return [error] * len(commands)
        plan = self._plan(stored)
        outcomes = [plan.add(command) for command in commands]
        if not plan.size:
            return outcomes
        began = time.perf_counter_ns()
        try:
            committed = self._store.commit(plan.facts, plan.keys, plan.rows)
        except StorageFailed as error:
            self.counters.commits_failed += 1
            return self._outcomes_without(commands, stored, error)
        self.counters.commit_ns = time.perf_counter_ns() - began
        events = self._derive(committed)
        self._unannounced.append(events)
        self._store.settled()
        return outcomes

    def _plan(self, stored: Mapping[Key, Stored]) -> Plan:
        return Plan(self, stored, self._store.sequences, self._clock())

    def _outcomes_without(
        self, commands: Sequence[Command], stored: Mapping[Key, Stored], error: StorageFailed
    ) -> list[Outcome]:
        """What a group comes to whose commit failed."""
        plan, outcomes = self._plan(stored), list[Outcome]()
        for command in commands:
            before = plan.size
            plan.add(command)
            outcomes.append(error if plan.size > before else self._outcome_without(command, stored, error))
        return outcomes

    def _outcome_without(
        self, command: Command, stored: Mapping[Key, Stored], error: StorageFailed
    ) -> Outcome:
        """What a command that wrote nothing comes to, its group having failed."""
        plan = self._plan(stored)
        outcome = plan.add(command)
        return error if plan.size else outcome

    def _derive(self, committed: Committed) -> list[Event]:
        events, last_session, of_session = list[Event](), 0, b""
        for fact, packed in zip(committed.facts, self.take(committed.facts), strict=True):
            position, session_id = fact.position, fact.session_id
            if not packed:
                events.append(self.event(position))
                continue
            if session_id != last_session:
                last_session, of_session = session_id, pack_events_of(session_id)
            events.append(pack_message_event(position, session_id, of_session, packed))
        self.counters.commits += 1
        self.counters.facts += len(events)
        self._warn_of_memory()
        return events

    def _announce(self) -> None:
        if self._announcing:  # called from a listener or a sink: whoever announces now goes on with it
            return
        self._announcing = True
        try:
            while self._unannounced:
                events = self._unannounced.popleft()
                self.live.publish(events)
                for event in events:
                    self._emit(event)
        finally:
            self._announcing = False

    def _emit(self, event: Event) -> None:
        try:
            self._sink.emit(event)
        except Exception:  # whatever a sink does wrong must not harm the commit or the next effect
            self.counters.effects_failed += 1
            logger.exception("the sink failed on the effect at position %d", event.position)

    def create_session(
        self, name: str | None = None, meta: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> Created:
        """Create a session, or find the one of this name or key (`duplicate`, its meta unchanged)."""
        command = CreateSession(
            None if name is None else check_name(name),
            None if meta is None else check_meta(meta),
            None if key is None else check_key(key, "key"),
        )
        return self._apply_one(command, Created)

    def append(
        self,
        session_id: int,
        role: str,
        content: str,
        meta: Mapping[str, Any] | None = None,
        *,
        expect_seq: int | None = None,
        key: str | None = None,
        after_key: str | None = None,
    ) -> Appended:
        """Append one message; a `key` that was committed before gives the outcome of that time.

        `expect_seq` is the seq that it must get, `after_key` the key of a write that must be there, else
        Conflict.
        """
        message = new_message(role, content, meta)
        return self._apply_one(append_command(session_id, (message,), expect_seq, key, after_key), Appended)

    def append_many(
        self,
        session_id: int,
        messages: Sequence[Mapping[str, object]],
        *,
        expect_seq: int | None = None,
        key: str | None = None,
        after_key: str | None = None,
    ) -> Appended:
        """Append maps `{role, content, meta?}`: all or nothing, consecutive. As `append` otherwise."""
        command = append_command(session_id, check_messages(messages), expect_seq, key, after_key)
        return self._apply_one(command, Appended)

    def close_session(self, session_id: int) -> Closed:
        """Close a session for good; closing it again answers as the first time."""
        return self._apply_one(CloseSession(check_id(session_id, "session_id")), Closed)

    def _apply_one(self, command: Command, result: type[ResultT]) -> ResultT:
        (outcome,) = self.apply([command])
        if isinstance(outcome, EngineError):
            raise outcome
        assert isinstance(outcome, result)
        return outcome

    # --- upkeep ---

    def refresh_snapshot(self) -> int:
        """Fold the delta into the next snapshot; returns its position. Costs what the delta holds."""
        counters, began = self.counters, time.perf_counter_ns()
        if self._snapshot.position == self.position:
            return self.position
        position = self.fold()
        counters.refreshes += 1
        counters.refresh_ns, counters.refreshed_at = time.perf_counter_ns() - began, self._clock()
        return position

    def verify(self) -> Report:
        """Compare memory with the file, all of it, before anything else happens.

        Raises StorageFailed where the file cannot be read.
        """
        comparison = self.comparison()
        connection = None
        try:
            reader, connection = self.file_reader()
            for piece in reader.slices():
                comparison.compare(piece)
        except sqlite3.Error as error:
            raise StorageFailed(f"the file cannot be read: {error}", reason="read") from error
        finally:
            if connection is not None:
                connection.close()
        return comparison.report(reader)

    def file_reader(self) -> tuple[FileReader, sqlite3.Connection | None]:
        """What reads the file for a comparison, and the connection to be closed after it."""
        if self._store.is_memory:
            return FileReader(self._store.reader, self._opened_with, self.identity), None
        connection = self._store.connect_reader()
        return FileReader(connection, self._opened_with, self.identity), connection

    def digest_at(self, position: int) -> bytes | None:
        """The digest of the log up to `position` as the file has it, None where it ends before.

        Raises sqlite3.Error.
        """
        return self._store.digest_at(position)

    def comparison(self) -> Comparison:
        """A comparison of slices with this engine's memory; made before its reader begins."""
        return Comparison(self)

    def gauges(self) -> dict[str, int]:
        """Sizes as they stand."""
        closed = self._index.closed_count()
        return {
            "sessions": len(self._index),
            "sessions_closed": closed,
            "messages": self.position - len(self._index) - closed,
            "position": self.position,
            "snapshot_position": self._snapshot.position,
            "delta_sessions": len(self._delta),
            "delta_messages": self._delta.messages,
            "delta_bytes": self._delta.bytes,
            "history_bytes": self.history_bytes,
            "memory_budget_bytes": self.memory_budget,
            "subscribers": len(self.live),
        }

    def check_memory(self, file_bytes: int = 0) -> None:
        """Raise MemoryExceeded where the history does not fit the budget."""
        recovery.check_fits(max(self.history_bytes, file_bytes), self.memory_budget, self._store.path)

    def _warn_of_memory(self) -> None:
        if not self._warned and self.history_bytes > memory.WARN_SHARE * self.memory_budget:
            self._warned = True
            logger.warning(
                "history takes %d of the %d MiB of its memory budget; over it, the next start is refused",
                self.history_bytes // memory.MIB,
                self.memory_budget // memory.MIB,
            )


def append_command(
    session_id: object,
    messages: Sequence[Any],
    expect_seq: object,
    key: object = None,
    after_key: object = None,
) -> Append:
    """An Append of checked messages."""
    return Append(
        check_id(session_id, "session_id"),
        tuple(messages),
        None if expect_seq is None else check_id(expect_seq, "expect_seq"),
        None if key is None else check_key(key, "key"),
        None if after_key is None else check_key(after_key, "after_key"),
    )
