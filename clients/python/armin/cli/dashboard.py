"""What `armin top` shows: one screen, made anew from the last readings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.text import Text

from armin.cli import figures, shown
from armin.cli.figures import Stats, amount, milliseconds, rate, size
from armin.cli.watching import COUNTED, History, Reading

MINUTE: Final = 60  # bars of a sparkline at most
LABEL: Final = 10  # columns of a row's name
COLUMN: Final = 9  # of a number in the table of worker groups
MEMORY_WARN: Final = 0.8  # share of the budget from which on it is a warning
STATE_STYLES: Final = {"serving": "bold green", "recovering": "bold yellow", "away": "bold red"}
GROUP_STYLES: Final = {"halted": "bold red", "busy": "green", "idle": "dim"}


class Dashboard:
    """A rich renderable of a history; as large as the console is."""

    def __init__(self, history: History, interval: float, *, keys: bool = True) -> None:
        self._history = history
        self._interval = interval
        self._keys = keys  # whether somebody may press one

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rows that fit; what does not is cut off where it matters least, among the worker groups."""
        width = options.max_width
        height = options.height or console.height
        lines = [*self._head(width), *self._body(width, _blocks(console))]
        served = self._history.served
        foot = [self._foot(width)] if self._keys else []
        if served is not None and served.groups:
            room = max(height - len(lines) - len(foot) - 2, 0) if self._keys else len(served.groups) + 1
            lines += [Text(""), *_worker_groups(served, room)]
        if self._keys:
            lines = [_cut(line, width) for line in lines[: height - 1]]
            lines += [Text("")] * (height - len(lines) - 1) + foot
        yield Group(*lines)

    # --- its parts ---

    def _head(self, width: int) -> Iterator[Text]:
        last, served = self._history.last, self._history.served
        if last is None:
            yield Text("looking for the engine ...", "dim")
            return
        left = Text.assemble(("armin ", "bold"), (last.state, STATE_STYLES[last.state]))
        if last.hello is not None:
            stats = last.stats
            left.append(f"  {last.hello.version}, pid {stats['pid']}, up ", "dim")
            left.append(figures.duration(stats["uptime_ms"]))
        elif served is not None:
            left.append(
                f"  since {figures.duration((time.time() - served.at) * 1000)}; figures are the last ones",
                "dim",
            )
        clock = time.strftime("%H:%M:%S", time.localtime(last.at))
        yield _both_ends(left, Text(clock, "dim"), width)
        trouble = self._alarm(last)
        yield Text(trouble, "bold red")

    def _alarm(self, last: Reading) -> str:
        if last.problem is not None:
            return shown.line(last.problem.message)
        if last.reasons or last.stats["writes_refused"] is not None:
            return figures.state(last.stats, last.reasons)
        return ""

    def _body(self, width: int, blocks: str) -> Iterator[Text]:
        served = self._history.served
        if served is None:
            return
        stats = served.stats
        for name in COUNTED:
            yield self._rate(name, width, blocks)
        yield Text("")
        yield from _timings(stats)
        yield Text("")
        yield _row(
            "log",
            f"{amount(stats['messages'])} messages",
            f"{amount(stats['sessions'])} sessions ({amount(stats['sessions_closed'])} closed)",
            f"position {amount(stats['position'])}",
        )
        yield _memory(stats, width, blocks)
        yield _row("file", f"WAL {size(stats['wal_bytes'])}", _delta(stats), _refreshed(stats, served.at))
        yield _row(
            "peers",
            f"{amount(stats['followers'])} followers",
            f"connections: {amount(stats['connections_ipc'])} by ipc,"
            f" {amount(stats['connections_tcp'])} by tcp",
        )
        yield _row(
            "effects",
            f"{amount(stats['effects_sent'])} sent",
            f"{amount(stats['effects_backlog'])} wait, {amount(stats['effects_dropped'])} dropped",
        )
        yield _row(
            "workers",
            f"{amount(stats['worker_groups'])} groups",
            f"{amount(stats['waiting'])} wait, {amount(stats['leased'])} leased,"
            f" {amount(stats['dead'])} dead",
        )
        found = figures.trouble(stats)
        line = _row("trouble", ", ".join(found) or "none")
        line.stylize("yellow" if found else "green", LABEL)
        yield line

    def _rate(self, name: str, width: int, blocks: str) -> Text:
        rates = self._history.rates[name]
        line = Text.assemble((f"{name}/s".ljust(LABEL + 2), "dim"), (f"{rate(rates[-1]):>9}", "bold"))
        most = f"  max {rate(max(rates))}"
        bars = min(MINUTE, width - len(line) - 2 - 15)
        line.append("  " + figures.sparkline(list(rates), bars, blocks), "cyan")
        return line.append(most, "dim")

    def _foot(self, width: int) -> Text:
        return _cut(Text(f"q quits; every {self._interval:g} s", "dim"), width)


def _blocks(console: Console) -> str:
    return figures.BLOCKS if console.encoding.startswith("utf") else figures.ASCII_BLOCKS


def _row(name: str, *parts: str) -> Text:
    return Text().append(name.ljust(LABEL), "dim").append("   ".join(parts))


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line


def _both_ends(left: Text, right: Text, width: int) -> Text:
    left.truncate(max(width - len(right) - 1, 0), overflow="ellipsis")
    return left.append(" " * (width - len(left) - len(right))).append_text(right)


def _timings(stats: Stats) -> Iterator[Text]:
    for name, prefix, show in (
        ("commit", "commit_ms", milliseconds),
        ("group", "group_size", amount),
    ):
        line = Text().append(name.ljust(LABEL), "dim")
        if stats[f"{prefix}_max"] is None:
            yield line.append("none in the last minute")
            continue
        for end in ("p50", "p99", "max"):
            line.append(f"{end} ", "dim").append(f"{show(stats[f'{prefix}_{end}']):<9} ", "bold")
        unit = "until on disk" if name == "commit" else "writes"
        yield line.append(f"{unit}, last minute", "dim")


def _memory(stats: Stats, width: int, blocks: str) -> Text:
    used, budget = stats["history_bytes"], stats["memory_budget_bytes"]
    part = figures.share(used, budget)
    style = "red" if part > 1 else "yellow" if part > MEMORY_WARN else "green"
    figure = f"{part:.1%}  {size(used)} of {size(budget)}"
    cells = max(min(30, width - LABEL - len(figure) - 3), 0)
    full = min(round(part * cells), cells)
    bar, rest = ("━", "╌") if blocks == figures.BLOCKS else ("#", "-")
    return Text.assemble(
        ("memory".ljust(LABEL), "dim"), (bar * full, style), (rest * (cells - full), "dim"), "  ", figure
    )


def _delta(stats: Stats) -> str:
    return f"delta {amount(stats['delta_messages'])} messages, {size(stats['delta_bytes'])}"


def _refreshed(stats: Stats, at: float) -> str:
    if stats["refreshed_at"] is None:
        return "no refresh yet"
    ago = max(at * 1000 - stats["refreshed_at"], 0)
    return f"refreshed {figures.duration(ago)} ago"


def _worker_groups(reading: Reading, room: int) -> Iterator[Text]:
    """A table in so many lines, its head included; the groups with the most trouble first."""
    if room < 2:
        return
    groups = sorted(
        reading.groups, key=lambda group: (not group.halted, -group.dead, -group.behind, group.group)
    )
    fitting = groups[: room - 1] if len(groups) <= room - 1 else groups[: room - 2]
    head = "".join(f"{title:>{COLUMN}}" for title in ("behind", "waiting", "leased", "dead"))
    yield Text(f"{head}  {'state':<6}  worker group", "dim")
    for group in fitting:
        state = figures.group_state(group)
        numbers = (f"{amount(number):>{COLUMN}}" for number in (group.behind, group.waiting, group.leased))
        line = Text("".join(numbers)).append(
            f"{amount(group.dead):>{COLUMN}}", "bold red" if group.dead else ""
        )
        line.append("  ").append(f"{state:<6}", GROUP_STYLES[state]).append(f"  {shown.line(group.group)}")
        yield line
    if len(fitting) < len(groups):
        yield Text(f"and {len(groups) - len(fitting)} more: armin groups", "dim")
