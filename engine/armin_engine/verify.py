"""Verify: the file at one position against memory, fact by fact, and against its own digests.

Reading (SQLite, hashing, packing) may run in another thread; comparing touches memory and runs in the
engine's thread, slice by slice.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple, Protocol

from armin_engine import digest
from armin_engine.errors import CorruptDatabase
from armin_engine.facts import Fact, Kind, new_fact, pack_message
from armin_engine.log import Log
from armin_engine.plan import Session
from armin_engine.probe import is_damage
from armin_engine.references import broken_references
from armin_engine.stored import (
    Identity,
    Replay,
    RowName,
    Sequences,
    identity,
    last_position,
    row_at,
    sequences,
    stored_facts,
)

SLICE_FACTS: Final = 500
SLICE_BYTES: Final = 1 << 20
DIFFERENCES_MAX: Final = 100  # more are counted, not listed


class Memory(Protocol):
    """What the comparison looks at."""

    @property
    def log(self) -> Log:
        """The log in memory."""

    def find(self, session_id: int) -> Session | None:
        """A session as it stands."""

    def named(self, name: str) -> int | None:
        """The session of this name, or None."""

    def packed_message(self, session_id: int, seq: int) -> bytes | None:
        """A message as it is held, or None."""


class Read(NamedTuple):
    """A fact read from the file, with its message as memory should hold it."""

    fact: Fact
    packed: bytes


class Finding(NamedTuple):
    """Something that is wrong, and the row of the log that it is about, if it is about one."""

    text: str
    row: RowName | None = None

    def __str__(self) -> str:
        return self.text if self.row is None else f"{self.row}: {self.text}"


@dataclass(slots=True)
class Slice:
    """Some facts to compare, and what was found wrong in the file itself."""

    position: int
    reads: list[Read] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Report:
    """What a comparison of `checked` facts, up to `position`, came to.

    `head` is the digest of the log up to `position`, None if it could not be read so far. `first_bad` is the
    first row of the log that is not as it should be.
    """

    position: int
    checked: int
    differences: tuple[str, ...]
    differences_count: int
    head: bytes | None = None
    first_bad: RowName | None = None

    @property
    def equal(self) -> bool:
        """Whether the file, memory and the digests agree."""
        return self.differences_count == 0


class FileReader:
    """Reads the file at the position where it began, and checks all that needs no memory."""

    def __init__(self, connection: sqlite3.Connection, opened_with: Sequences, opened_as: Identity) -> None:
        self._connection = connection
        self._opened_with = opened_with
        self._opened_as = opened_as
        self._head = digest.GENESIS
        self._position = 0  # of the last fact read
        self._whole = False  # all facts were read
        self._replay = Replay()
        self._named = self._with_meta = self._messages_with_meta = self._messages = 0
        self._piece = Slice(0)  # what is being filled
        self.total = 0

    def slices(self) -> Iterator[Slice]:
        """The facts in order, then what the counts show. Pins the WAL while it lasts.

        Raises sqlite3.Error where the file cannot be read for want of anything but its contents.
        """
        connection = self._connection
        own_transaction = not connection.in_transaction
        if own_transaction:
            connection.execute("BEGIN")
        try:
            self.total = last_position(connection)
            yield from self._facts()
            self._whole = True
            for text in self._check_tables():
                self._piece.findings.append(Finding(text))  # told even if the next check breaks off
            for texts in broken_references(connection, self.total):
                self._piece.findings += map(Finding, texts)
                yield self._take_piece()
            yield self._piece
        except (CorruptDatabase, sqlite3.Error) as error:
            if isinstance(error, sqlite3.Error) and not is_damage(error):
                raise
            yield Slice(self.total, self._piece.reads, [*self._piece.findings, self._broken_off(error)])
        finally:
            if own_transaction and connection.in_transaction:
                connection.execute("ROLLBACK")

    @property
    def head(self) -> bytes | None:
        """The digest that stands beside the last fact, None while not all facts were read."""
        return self._head if self._whole else None

    def _take_piece(self) -> Slice:
        piece, self._piece = self._piece, Slice(self.total)
        return piece

    def _broken_off(self, error: CorruptDatabase | sqlite3.Error) -> Finding:
        """Why no more could be read, and at which row."""
        if self._whole:
            return Finding(str(error))
        row = RowName(self._position + 1)
        with contextlib.suppress(sqlite3.Error):  # if that page is damaged, the position must do
            row = row_at(self._connection, row.position, self._replay)
        text = str(error).removeprefix(f"{row}: ")
        return Finding(f"{text}; what comes after it was not checked", row)

    def _facts(self) -> Iterator[Slice]:
        size = 0
        rows = stored_facts(self._connection, self._replay)
        for fields, stored in chain.from_iterable(zip(*each, strict=True) for each in rows):
            fact, piece = new_fact(fields), self._piece
            self._head = digest.chain(self._head, fact)
            if self._head != stored:
                piece.findings.append(Finding("the digest does not match what is stored", name(fact)))
                self._head = stored  # name each break once
            packed = pack_message(fact) if fact.kind is Kind.MESSAGE_APPENDED else b""
            self._count(fact)
            piece.reads.append(Read(fact, packed))
            piece.position = self._position = fact.position
            size += len(packed)
            if len(piece.reads) == SLICE_FACTS or size >= SLICE_BYTES:
                self._piece, size = Slice(fact.position), 0
                yield piece
        yield self._take_piece()

    def _count(self, fact: Fact) -> None:
        if fact.kind is Kind.MESSAGE_APPENDED:
            self._messages += 1
            self._messages_with_meta += fact.meta is not None
        elif fact.kind is Kind.SESSION_CREATED:
            self._named += bool(fact.content)
            self._with_meta += fact.meta is not None

    def _check_tables(self) -> Iterator[str]:
        for table, expected in (
            ("sessions", len(self._replay.seqs)),
            ("messages", self._messages),
            ("message_meta", self._messages_with_meta),
            ("session_meta", self._with_meta),
            ("session_names", self._named),
        ):
            (count,) = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            if count != expected:
                yield f"{table} has {count} rows where the log says {expected}"
        yield from self._check_closed_flags()
        if identity(self._connection) != self._opened_as:
            yield "the database id or epoch has changed"
        given_out = sequences(self._connection)
        expected_ids = Sequences(
            max(self._opened_with.sessions, self._replay.last_session),
            max(self._opened_with.messages, self._replay.last_message),
        )
        if given_out != expected_ids:
            yield f"sqlite_sequence has {given_out} where the log says {expected_ids}"

    def _check_closed_flags(self) -> Iterator[str]:
        closed = self._replay.closed()
        for session_id, flag in self._connection.execute(
            "SELECT id, closed FROM sessions WHERE closed IS NOT 0"
        ):
            if flag != 1 or session_id not in closed:
                yield f"session {session_id} is flagged as closed ({flag}), but the log does not close it"
            closed.discard(session_id)
        for session_id in sorted(closed):
            yield f"session {session_id} is not flagged as closed, but the log closes it"


def name(fact: Fact) -> RowName:
    """A fact's row, for people."""
    return RowName(fact.position, fact.session_id, fact.message_id, fact.seq)


class Findings:
    """Gathers what is wrong."""

    def __init__(self) -> None:
        self.count = 0
        self.texts: list[str] = []
        self.first_bad: RowName | None = None

    def add(self, finding: Finding) -> None:
        """One more."""
        self.count += 1
        row, first = finding.row, self.first_bad
        if row is not None and (first is None or row.position < first.position):
            self.first_bad = row
        if len(self.texts) < DIFFERENCES_MAX:
            self.texts.append(str(finding))

    def take(self, findings: Iterable[Finding]) -> None:
        """Several more."""
        for finding in findings:
            self.add(finding)

    def report(self, reader: FileReader, checked: int) -> Report:
        """The result, after the reader's last slice."""
        return Report(reader.total, checked, tuple(self.texts), self.count, reader.head, self.first_bad)


class Comparison:
    """Compares slices with memory and gathers the differences."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._begun_at = memory.log.position
        self._findings = Findings()
        self.checked = 0

    def compare(self, piece: Slice) -> None:
        """Take the next slice; runs in the engine's thread."""
        self._findings.take(piece.findings)
        for fact, packed in piece.reads:
            self.checked += 1
            if not self._same(fact, packed):
                self._findings.add(Finding("memory differs from the file", name(fact)))

    def _same(self, fact: Fact, packed: bytes) -> bool:
        memory = self._memory
        if fact.position > memory.log.position:
            return False
        if memory.log.entry(fact.position) != (fact.kind, fact.session_id, fact.seq):
            return False
        if fact.kind is Kind.MESSAGE_APPENDED:
            return memory.packed_message(fact.session_id, fact.seq) == packed
        session = memory.find(fact.session_id)
        if session is None:
            return False
        if fact.kind is Kind.SESSION_CLOSED:
            return session.closed_at == fact.position
        info = session.info()
        meta = fact.meta.packed if fact.meta else None
        if info.name is not None and memory.named(info.name) != info.id:
            return False
        return (info.name or "", info.created_at, info.packed_meta) == (fact.content, fact.created_at, meta)

    def report(self, reader: FileReader) -> Report:
        """The result, after the reader's last slice."""
        if reader.total < self._begun_at:
            text = f"the file ends at position {reader.total}, memory had {self._begun_at} before that"
            self._findings.add(Finding(text))
        return self._findings.report(reader, self.checked)
