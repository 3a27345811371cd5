"""Recovery: memory rebuilt from the file, silently, within the memory budget."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from armin_engine import memory
from armin_engine.chunks import ChunkWriter
from armin_engine.derived import Derived
from armin_engine.errors import MemoryExceeded
from armin_engine.facts import (
    SESSION_CLOSED,
    SESSION_CREATED,
    Fact,
    FactFields,
    new_fact,
    pack_created_at,
    pack_message,
    pack_plain,
    pack_session_of,
)
from armin_engine.snapshot import SessionSnapshot
from armin_engine.store import SQLiteStore


class _Recovered(ChunkWriter):
    """One session as far as it has been read."""

    __slots__ = ("closed_at", "created")

    def __init__(self, created: Fact) -> None:
        super().__init__()
        self.created = created
        self.closed_at = 0

    def session(self) -> SessionSnapshot:
        """The session, all of it having been read."""
        created, chunks = self.created, self.sealed()
        return SessionSnapshot(
            created.session_id,
            created.created_at,
            created.content or None,
            created.meta.packed if created.meta else None,
            chunks,
            chunks[-1].last if chunks else 0,
            self.closed_at,
        )


def recover(
    store: SQLiteStore,
    derived: Derived,
    check_memory: Callable[[int], None],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Take every stored fact as if it had just been committed and folded; nothing is announced."""
    store.note("recovering")
    check_memory(int(store.live_bytes() * memory.FILE_SHARE_MIN))
    sessions: dict[int, _Recovered] = {}
    with _no_garbage_collection():
        for facts, total in store.recovered():
            size = _take(facts, sessions)
            derived.recovering(facts, size)
            check_memory(0)
            if progress is not None:
                progress(derived.position, total)
        derived.recovered(sessions.pop(number).session() for number in list(sessions))


def _take(facts: Sequence[FactFields], sessions: dict[int, _Recovered]) -> int:
    """Put facts to their sessions; returns what the messages weigh, packed.

    What a message shares with the one before it is packed once: a start has millions of them to do.
    """
    size = last_session = 0
    last_time: int | None = None
    of_session = at = b""
    for fact in facts:
        position, kind, session_id, message_id, seq, role, content, created_at, meta, _ = fact
        if kind is SESSION_CREATED:
            sessions[session_id] = _Recovered(new_fact(fact))
            continue
        session = sessions[session_id]
        if kind is SESSION_CLOSED:
            session.closed_at = position
            continue
        if session_id != last_session:
            last_session, of_session = session_id, pack_session_of(session_id)
        if created_at != last_time:
            last_time, at = created_at, pack_created_at(created_at)
        if meta is None:
            packed = pack_plain(message_id, of_session, seq, role, content, at)
        else:
            packed = pack_message(fact)
        session.append(packed)
        size += len(packed)
    return size


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of small objects come to stay, none in cycles: to look for some took a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def check_fits(history_bytes: int, budget: int, path: Path) -> None:
    """Raise MemoryExceeded with the figures."""
    if history_bytes > budget:
        raise MemoryExceeded(
            f"the history in {path} takes more than {history_bytes // memory.MIB} MiB of memory;"
            f" the budget is {budget // memory.MIB} MiB. Give the engine more with --memory"
        )
