"""The one place for rich: tables, panels of facts and progress bars for people."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from armin.cli import shown
from armin.cli.output import View

T = TypeVar("T")


def console() -> Console:
    """Standard output. Nothing in a text is markup, and nothing is coloured for its looks."""
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


class TableWriter(Generic[T]):
    """A table that grows: its head once, then rows as they come."""

    def __init__(self, view: View[T]) -> None:
        self._view = view
        self._console = console()
        self._headed = False

    def write(self, items: Sequence[T]) -> None:
        """Print these rows."""
        table = Table(box=None, show_header=not self._headed, padding=(0, 2, 0, 0), header_style="bold dim")
        *fixed, last = self._view.columns
        for column in fixed:
            table.add_column(
                column.title, min_width=column.width, justify=column.align, style=column.style, no_wrap=True
            )
        table.add_column(
            last.title,
            style=last.style,
            overflow="ellipsis" if self._view.one_line else "fold",
            no_wrap=self._view.one_line,
            ratio=1,
        )
        table.expand = True
        for item in items:
            visible = shown.line if self._view.one_line else shown.text
            cells = [Text(visible(cell)) for cell in self._view.cells(item)]
            cells[-2].stylize(self._view.style(item))
            table.add_row(*cells)
        self._console.print(table)
        self._headed = True


def sections(found: Iterable[Iterable[tuple[str, str]]], alarming: Container[str] = ()) -> Table:
    """Names and values, one pair a line, an empty line between sections; some names in alarming colour."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for number, rows in enumerate(found):
        if number:
            table.add_row()
        for name, value in rows:
            table.add_row(name, Text(shown.line(value), "bold red" if name in alarming else ""))
    return table


class Rate(ProgressColumn):
    """Units done a second, since the beginning."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """The average so far: steadier than the moment's."""
        done = task.fields.get("counted", task.completed)
        if not task.elapsed:
            return Text("")
        return Text(f"{done / task.elapsed:,.0f} {self._unit}/s", style="dim")


@contextmanager
def bar(what: str, unit: str) -> Iterator[Progress]:
    """A progress bar on standard error, gone when done. Its one task is 0."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        Rate(unit),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        expand=True,
    )
    with progress:
        progress.add_task(what, total=None)
        yield progress
