"""Where the values of a row lie in a SQLite file, byte by byte (sqlite.org/fileformat2.html)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

_INTEGER_BYTES: Final = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)  # by serial type
_INTERIOR: Final = {2: True, 5: False}  # page type: whether its cells hold rows
_LEAVES: Final = (10, 13)
_TABLE_TYPES: Final = (5, 13)


class Cell(NamedTuple):
    """A row: its rowid (0 if it has none) and, for each column, the offsets of the bytes that say its value.

    These are the serial type, which is the whole value of a 0 and a 1, and the payload on the row's own page.
    """

    rowid: int
    columns: tuple[tuple[int, ...], ...]


def cells(path: Path, table: str) -> list[Cell]:
    """Every row of a table, in the order of its b-tree."""
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    return list(_Tree(path.read_bytes(), page_size).walk(root))


class _Tree:
    def __init__(self, data: bytes, page_size: int) -> None:
        self.data = data
        self.page_size = page_size

    def walk(self, number: int) -> Iterator[Cell]:
        page = (number - 1) * self.page_size
        head = page + (100 if number == 1 else 0)
        kind = self.data[head]
        interior = kind in _INTERIOR
        for index in range(self.number(head + 3, 2)):
            at = page + self.number(head + (12 if interior else 8) + 2 * index, 2)
            if interior:
                yield from self.walk(self.number(at, 4))
                at += 4
            if kind in _LEAVES or _INTERIOR[kind]:
                yield self.cell(at, has_rowid=kind in _TABLE_TYPES)
        if interior:
            yield from self.walk(self.number(head + 8, 4))

    def cell(self, at: int, *, has_rowid: bool) -> Cell:
        size, at = self.varint(at)
        rowid, at = self.varint(at) if has_rowid else (0, at)
        end = at + self.local(size, has_rowid)
        header_size, types_at = self.varint(at)
        payload, columns = at + header_size, []
        while types_at < at + header_size:
            serial, after = self.varint(types_at)
            width = _INTEGER_BYTES[serial] if serial < 12 else (serial - 12) // 2
            value = range(payload, min(payload + width, end))
            columns.append((*range(types_at, after), *value))
            types_at, payload = after, payload + width
        return Cell(rowid, tuple(columns))

    def local(self, size: int, is_table: bool) -> int:
        """Bytes of a payload that lie on the page itself."""
        usable = self.page_size
        most = usable - 35 if is_table else (usable - 12) * 64 // 255 - 23
        least = (usable - 12) * 32 // 255 - 23
        if size <= most:
            return size
        rest = least + (size - least) % (usable - 4)
        return rest if rest <= most else least

    def varint(self, at: int) -> tuple[int, int]:
        value = 0
        for count in range(8):
            byte = self.data[at + count]
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value, at + count + 1
        return value << 8 | self.data[at + 8], at + 9

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self.data[at : at + size])
