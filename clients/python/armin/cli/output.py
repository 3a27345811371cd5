"""Where results go: a table on a terminal, plain lines in a pipe, or JSON lines.

Each command names its columns and its cells once. Rows are printed as they come, so the last column
takes what is left of the line, and the others have fixed widths.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, Literal, TypeVar

from armin.cli import shown
from armin.cli.records import Record

T = TypeVar("T")

ROLE_STYLES: Final = {"user": "cyan", "assistant": "green", "system": "yellow", "tool": "magenta"}


@dataclass(frozen=True, slots=True)
class Column:
    """`width` in terminal cells; the last column's is not used."""

    title: str
    width: int = 0
    align: Literal["left", "right"] = "left"
    style: str = ""


@dataclass(frozen=True, slots=True)
class View(Generic[T]):
    """How one kind of item is shown: `cells` for eyes, one for each column, `record` for programs."""

    columns: Sequence[Column]
    cells: Callable[[T], Sequence[str]]
    record: Callable[[T], Record]
    style: Callable[[T], str] = lambda item: ""  # of a row's second last cell, on a terminal
    one_line: bool = False  # on a terminal too: the last cell is cut off instead of wrapped


def on_terminal() -> bool:
    """Whether a person looks at standard output."""
    return sys.stdout.isatty()


def moment(milliseconds: int | None) -> str:
    """A time for human eyes, in the local zone."""
    if milliseconds is None:
        return ""
    try:
        return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(milliseconds)  # beyond the calendar


def write_json(record: Record | dict[str, Any]) -> None:
    """One object on a line of its own."""
    sys.stdout.write(shown.json_safe(json.dumps(record, ensure_ascii=False)) + "\n")


def note(text: str) -> None:
    """Something for the person at the terminal that is no part of the result."""
    sys.stderr.write(shown.line(text) + "\n")


class Listing(Generic[T]):
    """Prints items of one kind as they come."""

    def __init__(self, view: View[T], *, as_json: bool) -> None:
        self._view = view
        self._write: Callable[[Sequence[T]], None]
        if as_json:
            self._write = self._write_json
        elif on_terminal():
            self._write = self._terminal()
        else:
            self._write = self._write_plain

    def show(self, items: Iterable[T]) -> None:
        """Print these now."""
        page = tuple(items)
        if page:
            self._write(page)
            sys.stdout.flush()

    def _write_json(self, items: Sequence[T]) -> None:
        for item in items:
            write_json(self._view.record(item))

    def _write_plain(self, items: Sequence[T]) -> None:
        *fixed, _ = self._view.columns
        for item in items:
            *cells, last = map(shown.line, self._view.cells(item))
            padded = (
                cell.rjust(column.width) if column.align == "right" else cell.ljust(column.width)
                for column, cell in zip(fixed, cells, strict=True)
            )
            sys.stdout.write("  ".join((*padded, last)).rstrip() + "\n")

    def _terminal(self) -> Callable[[Sequence[T]], None]:
        from armin.cli.terminal import TableWriter  # noqa: PLC0415 - rich costs time that pipes need not pay

        return TableWriter(self._view).write
