"""Data directories that are full already: each is made once a run, and copied for whoever writes to it."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from armin.keys import new_key
from armin_broker import daemon
from armin_broker.protocol import DATABASE_FILE
from armin_engine import Append, Armin, CreateSession
from armin_engine.errors import EngineError
from armin_engine.records import Command, new_message
from benchmarks.bench import TEXT, Bench
from benchmarks.servers import in_process

GROUP: Final = 10_000  # commands in one commit
FOLD_MESSAGES: Final = 100_000  # in the delta before it is folded

MESSAGE: Final = new_message("user", TEXT)


@dataclass(frozen=True)
class Filling:
    """What a directory holds: sessions of `each` messages.

    open_at_once: sessions that take turns; when they are full the next ones begin.
    turn: messages of a session until it is the next one's turn.
    keys: "messages", a key for each, as appends by themselves leave them, or "turns", as append_many does.
    """

    sessions: int
    each: int
    open_at_once: int
    turn: int = 1
    keys: str = "messages"

    @property
    def messages(self) -> int:
        """In all."""
        return self.sessions * self.each

    @property
    def name(self) -> str:
        """Of its directory; short, for the path of a socket."""
        return f"f{self.sessions}x{self.each}{self.keys[0]}"

    def __str__(self) -> str:
        taken = "in one go" if self.sessions == 1 else f"{self.open_at_once:,} open at once"
        keys = "a key each" if self.keys == "messages" else f"a key for each {self.turn}"
        return (
            f"{self.messages:,} messages, {self.sessions:,} sessions of {self.each:,},"
            f" {taken}, turns of {self.turn}, {keys}"
        )

    def commands(self) -> Iterator[Command]:
        """All that makes it."""
        for first in range(1, self.sessions + 1, self.open_at_once):
            ids = range(first, min(first + self.open_at_once, self.sessions + 1))
            yield from (CreateSession(None, None) for _ in ids)
            for _ in range(self.each // self.turn):
                for session_id in ids:
                    yield from self._turn(session_id)

    def _turn(self, session_id: int) -> Iterator[Append]:
        appends, messages = (self.turn, 1) if self.keys == "messages" else (1, self.turn)
        for _ in range(appends):
            yield Append(session_id, (MESSAGE,) * messages, None, new_key())


def ordinary(bench: Bench) -> Filling:
    """Conversations of ordinary length, all going on at once."""
    sessions = bench.size(2_000, 200)
    return Filling(sessions, each=1_000, open_at_once=sessions, turn=5)


def many_short(bench: Bench) -> Filling:
    """As many messages in a hundred times as many sessions, a thousand of which are open at a time."""
    return Filling(bench.size(200_000, 20_000), each=10, open_at_once=1_000)


def filled(bench: Bench, filling: Filling) -> Path:
    """The directory of a filling, shared by the rows of a run: start an engine on it, but write nothing."""
    directory = bench.root / filling.name
    if not directory.exists():
        new = bench.root / f"{filling.name}.new"
        shutil.rmtree(new, ignore_errors=True)  # of a row that failed
        new.mkdir(mode=0o700)
        with in_process(_fill, new / DATABASE_FILE, filling) as process:
            process.join()
            if process.exitcode:
                raise RuntimeError(f"filling {filling.name} ended with exit code {process.exitcode}")
        new.rename(directory)
    return directory


@contextlib.contextmanager
def copied(bench: Bench, filling: Filling) -> Iterator[Path]:
    """A copy of it to write to, removed afterwards."""
    source = filled(bench, filling)
    with bench.directory() as root:
        yield shutil.copytree(source, root / "e")


def _fill(path: Path, filling: Filling) -> None:
    with Armin(path) as engine:
        spare_history_from_collection()
        commands = filling.commands()
        while group := list(itertools.islice(commands, GROUP)):
            commit(engine, group)
            if engine.delta_messages >= FOLD_MESSAGES:
                engine.refresh_snapshot()


def spare_history_from_collection() -> None:
    """Set Python's garbage collector as the daemon does, for an embedded engine that stands for one."""
    daemon._spare_history_from_collection()


def commit(engine: Armin, group: Sequence[Command]) -> None:
    """One commit; raises what failed."""
    for outcome in engine.apply(group):
        if isinstance(outcome, EngineError):
            raise outcome
