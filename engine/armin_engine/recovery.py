"""Recovery: memory rebuilt from the file, silently, within the memory budget."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from armin_engine import memory
from armin_engine.derived import Derived
from armin_engine.errors import MemoryExceeded
from armin_engine.store import SQLiteStore

# How much is taken in between two folds into the snapshot: a fold costs what it touches, and what
# waits for it is held twice for a moment.
FOLD_MESSAGES: Final = 100_000
FOLD_BYTES: Final = 32 << 20


def recover(
    store: SQLiteStore,
    derived: Derived,
    check_memory: Callable[[int], None],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Take every stored fact as if it had just been committed; nothing is announced."""
    store.note("recovering")
    check_memory(int(store.live_bytes() * memory.FILE_SHARE_MIN))
    with _no_garbage_collection():
        for committed, total in store.recovered():
            derived.take(committed.facts)
            check_memory(0)
            if derived.delta_messages >= FOLD_MESSAGES or derived.delta_bytes >= FOLD_BYTES:
                derived.fold()
            if progress is not None:
                progress(derived.position, total)
        derived.fold()


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
