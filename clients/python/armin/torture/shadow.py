"""What a disk would hold if the power failed now: a shadow of each file, made from the trace.

The shadow has what the file held at its last sync. What was written since is pending: at a power cut each
page's part of a write survives whole, in some of its sectors, or not at all. After a sync that failed,
pending writes are doubtful, as on Linux: the kernel calls those pages clean, so that a later sync makes
one of them durable only if it was written again.

What was pending when the engine was killed stays so: the page cache outlives a process, the power does not.
Memory holds what is not synced, and no more.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from armin.torture.trace import Kind, Record, Which, read

PAGE: Final = 4096  # bytes that the page cache writes at a time
SECTOR: Final = 512  # bytes that a disk writes whole or not at all
KEPT_SHARES: Final = (0.0, 0.5, 0.95, 1.0)  # of a file's unsynced pieces that survive a cut
TORN_SHARE: Final = 0.1  # of them that survive in part


@dataclass(slots=True)
class CutReport:
    """What one power cut did. Pieces are parts of a write within one page."""

    writes: int = 0  # seen since the last cut
    unsynced: int = 0  # pieces that no sync covered
    kept: int = 0  # of these, survived whole
    torn: int = 0  # of these, survived in some sectors

    def __str__(self) -> str:
        return f"{self.writes} writes, {self.unsynced} unsynced: {self.kept} kept, {self.torn} torn"


class _Piece(NamedTuple):
    """Part of a write within one page, or a truncation to `offset` (data is None)."""

    operation: int
    offset: int
    data: bytes | None

    @property
    def page(self) -> int:
        return self.offset // PAGE


class Shadow:
    """The shadows of one engine's files, kept as files in `directory`."""

    def __init__(self, directory: Path, database: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._database = database
        paths = {which: database.with_name(database.name + suffix) for which, suffix in SUFFIXES.items()}
        self._files = {which: _ShadowFile(directory / path.name, path) for which, path in paths.items()}
        self._writes = 0

    def absorb(self, trace: Path) -> None:
        """Take in what one incarnation of the engine did."""
        for record in read(trace):
            self._writes += record.kind is Kind.WRITE
            self._files[record.which].take(record)

    def cut(self, chance: random.Random) -> CutReport:
        """Decide what survives, and put these files in the place of the real ones."""
        report = CutReport(writes=self._writes)
        self._writes = 0
        for file in self._files.values():
            file.cut(chance, report)
        self._database.with_name(self._database.name + "-shm").unlink(missing_ok=True)
        return report


SUFFIXES: Final = {Which.DATABASE: "", Which.WAL: "-wal"}


class _ShadowFile:
    """One file as it is on the disk, and what is on its way there."""

    def __init__(self, image: Path, real: Path) -> None:
        self._image = image
        self._real = real
        self._operation = 0
        self._pending: list[_Piece] = []
        self._doubtful: dict[tuple[int, int], _Piece] = {}  # the last of each place, oldest first
        image.unlink(missing_ok=True)
        if real.exists():
            shutil.copyfile(real, image)

    def take(self, record: Record) -> None:
        """One operation on the real file."""
        self._operation += 1
        match record.kind:
            case Kind.WRITE:
                self._pending += _pieces(self._operation, record.offset, record.data)
            case Kind.TRUNCATE:
                self._pending.append(_Piece(self._operation, record.offset, None))
            case Kind.UNDONE:
                undone = self._operation - 1
                self._pending = [piece for piece in self._pending if piece.operation != undone]
            case Kind.SYNC:
                self._synced()
            case Kind.REWRITTEN:
                self._write([*self._doubtful.values(), *self._pending])
                self._forget()
            case Kind.SYNC_FAILED:
                self._sync_failed()
            case Kind.DELETE:
                self._forget()
                self._image.unlink(missing_ok=True)

    def _synced(self) -> None:
        pages = {piece.page for piece in self._pending}
        durable = [piece for piece in self._doubtful.values() if piece.data is None or piece.page in pages]
        for piece in durable:
            del self._doubtful[_place(piece)]
        self._write([*durable, *self._pending])
        self._pending.clear()

    def _sync_failed(self) -> None:
        for piece in self._pending:
            if piece.data is None:  # what it cuts off can come to nothing any more
                self._doubtful = {
                    place: old for place, old in self._doubtful.items() if old.offset < piece.offset
                }
            self._doubtful.pop(_place(piece), None)
            self._doubtful[_place(piece)] = piece
        self._pending.clear()

    def _forget(self) -> None:
        self._pending.clear()
        self._doubtful.clear()

    def cut(self, chance: random.Random, report: CutReport) -> None:
        """Let some of what is not durable survive; the real file becomes what is left."""
        unsynced = [*self._doubtful.values(), *self._pending]
        self._write(_survivors(unsynced, chance, report))
        self._forget()
        if self._image.exists():
            shutil.copyfile(self._image, self._real)
        else:
            self._real.unlink(missing_ok=True)

    def _write(self, pieces: Iterable[_Piece]) -> None:
        pieces = list(pieces)
        if not pieces:
            return
        with self._image.open("r+b" if self._image.exists() else "w+b") as image:
            for piece in pieces:
                if piece.data is None:
                    image.truncate(piece.offset)
                else:
                    image.seek(piece.offset)
                    image.write(piece.data)


def _place(piece: _Piece) -> tuple[int, int]:
    return piece.offset, -1 if piece.data is None else len(piece.data)


def _pieces(operation: int, offset: int, data: bytes, unit: int = PAGE) -> Iterator[_Piece]:
    """A write cut at the bounds of pages, or of another unit."""
    start = 0
    while start < len(data):
        end = min(len(data), start + unit - (offset + start) % unit)
        yield _Piece(operation, offset + start, data[start:end])
        start = end


def _survivors(pieces: Iterable[_Piece], chance: random.Random, report: CutReport) -> Iterator[_Piece]:
    share = chance.choice(KEPT_SHARES)
    for piece in pieces:
        report.unsynced += 1
        if piece.data is not None and chance.random() < TORN_SHARE:
            report.torn += 1
            sectors = _pieces(piece.operation, piece.offset, piece.data, SECTOR)
            yield from (sector for sector in sectors if chance.random() < 0.5)
        elif chance.random() < share:
            report.kept += 1
            yield piece
