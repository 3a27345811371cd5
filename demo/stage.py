"""What the audience sees: colours, a live panel and a little time to read on a terminal, else plain text."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

WIDTH_MAX: Final = 100
PLAIN_WIDTH: Final = 80
PLAIN_INTERVAL_S: Final = 0.1  # between two lines about what goes by, without a terminal
FRAMES: Final = 12  # a second, on a terminal
ROLE_STYLES: Final = {"user": "cyan", "assistant": "green", "system": "yellow", "tool": "magenta"}


class Stage:
    """Standard output, for people."""

    def __init__(self) -> None:
        on_terminal = sys.stdout.isatty()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character shows ?
        self.console = Console(
            highlight=False,
            markup=False,
            emoji=False,
            force_terminal=on_terminal,
            color_system="auto" if on_terminal else None,
            width=None if on_terminal else PLAIN_WIDTH,
        )
        self.console.width = min(self.console.width, WIDTH_MAX)
        self.lively = on_terminal and not self.console.is_dumb_terminal
        self._scenes = 0

    def scene(self, title: str) -> None:
        """Begin the next part."""
        self._scenes += 1
        self.console.print()
        self.console.print(Text(f"{self._scenes}. {title}", style="bold"))

    def say(self, text: str, style: str = "") -> None:
        """One or more lines of prose."""
        self.console.print(Text(text, style=style))

    def command(self, *arguments: str) -> None:
        """The `armin` command that is about to run."""
        words = " ".join(f'"{word}"' if " " in word else word for word in arguments)
        self.console.print(Text.assemble(("$ ", "dim"), ("armin " + words, "bold blue")))

    def pause(self, seconds: float) -> None:
        """Time to read, for people."""
        if self.lively:
            time.sleep(seconds)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], verdicts: Sequence[bool]) -> None:
        """Figures side by side, the last column saying whether they agree."""
        table = Table(box=box.SIMPLE_HEAD if self.lively else box.ASCII2, header_style="bold")
        for number, title in enumerate(columns):
            table.add_column(title, justify="left" if number == 0 else "right")
        table.add_column("")
        for row, agree in zip(rows, verdicts, strict=True):
            verdict = Text("agree", "green") if agree else Text("DIFFER", "bold red")
            table.add_row(*(Text(cell) for cell in row), verdict)
        self.console.print(table)

    def watch(
        self, done: Callable[[], bool], counters: Callable[[], str], last: Callable[[], list[Any]]
    ) -> None:
        """Show what goes by until it is done."""
        if not self.lively:
            self._watch_plainly(done, counters, last)
            return
        with Live(
            console=self.console,
            get_renderable=lambda: self._panel(counters(), last()),
            refresh_per_second=FRAMES,
        ):
            while not done():
                time.sleep(1 / FRAMES)

    def _panel(self, counters: str, events: list[Any]) -> Panel:
        rows = Group(*(message_line(event) for event in events))
        return Panel(rows, title=Text("live"), subtitle=Text(counters), border_style="dim", height=10)

    def _watch_plainly(
        self, done: Callable[[], bool], counters: Callable[[], str], last: Callable[[], list[Any]]
    ) -> None:
        due = 0.0
        while not done():
            now = time.monotonic()
            events = last()
            if now >= due and events:
                due = now + PLAIN_INTERVAL_S
                self.show(events[-1])
            time.sleep(0.02)
        self.say(f"  {counters()}")

    def show(self, event: Any) -> None:
        """One message, as it went by."""
        self.console.print(message_line(event), no_wrap=True, overflow="ellipsis", crop=True)


def message_line(event: Any) -> Text:
    """A message on one line, cut off where the line ends."""
    message = event["message"]
    content = "".join(char if char.isprintable() else " " for char in message.get("content", "..."))
    line = Text.assemble(
        (f"{event['position']:>7}", "dim"),
        (f" {'#' + str(event['session_id']):>5} ", "dim"),
        (f"{message['role']:<9} ", ROLE_STYLES.get(message["role"], "")),
        content,
    )
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
