"""`armin top`: the engine, live."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from armin.cli.connection import Where
from armin.cli.exits import Exit
from armin.cli.figures import Stats, amount, milliseconds, rate, trouble
from armin.cli.options import json_option
from armin.cli.output import on_terminal, write_json
from armin.cli.records import group_record
from armin.cli.status import absent
from armin.cli.watching import COUNTED, History, Reading, Source, Watch
from armin.errors import NoReply

if TYPE_CHECKING:
    from rich.live import Live

LOOK_AT_SIZE: Final = 0.25  # seconds between two looks at the terminal's size
QUIT: Final = frozenset(b"qQ\x03\x04")


@click.command(short_help="Watch the engine, live.")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    help="Look this often.",
)
@click.option("--once", is_flag=True, help="Look once, print and end.")
@json_option
@click.pass_obj
def top(where: Where, interval: float, once: bool, as_json: bool) -> int:
    """Watch the engine: rates, commits, memory, followers, worker groups. On a terminal, q or Ctrl-C ends it.

    It waits for an engine that is away, and goes on when it is back. In a pipe it prints a line each time,
    with --json an object. Exit codes of --once: as of armin status.

    \b
      armin top
      armin top --interval 10 --json >> figures.jsonl
    """
    source = Source(where)
    try:
        if once:
            return _once(source, as_json)
        if on_terminal() and not as_json:
            return _live(source, interval)
        return _lines(source, interval, _write_record if as_json else _write_line)
    finally:
        source.close()


# --- without a terminal ---------------------------------------------------------------------------


def _once(source: Source, as_json: bool) -> int:
    reading = source.look()
    if as_json:
        _write_record(_history_of(reading))
    if reading.problem is not None:
        raise reading.problem
    if not as_json:
        from armin.cli import terminal  # noqa: PLC0415 - rich costs time that pipes need not pay
        from armin.cli.dashboard import Dashboard  # noqa: PLC0415

        terminal.console().print(Dashboard(_history_of(reading), 0, keys=False))
    return Exit.OK if reading.stats["writes_refused"] is None else Exit.STORAGE


def _history_of(reading: Reading) -> History:
    history = History()
    history.add(reading)
    return history


def _lines(source: Source, interval: float, write: Callable[[History], None]) -> int:
    history = History()
    due = time.monotonic()
    while True:
        history.add(source.look())
        write(history)
        sys.stdout.flush()
        due = max(due + interval, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0))


def _write_record(history: History) -> None:
    reading = history.last
    assert reading is not None
    record: dict[str, Any] = {"time": int(reading.at * 1000)}
    if reading.hello is None:
        error = reading.problem
        reason = absent(error) if isinstance(error, NoReply) else {"state": "absent", "reason": None}
        write_json({**record, **reason})
        return
    rates = {f"{name}_per_s": round(history.rates[name][-1], 1) for name in COUNTED}
    groups = [group_record(group) for group in reading.groups]
    state = {"state": "serving", "reasons": list(reading.reasons), "engine": reading.hello.engine}
    write_json({**record, **state, **reading.stats, **rates, "worker_group_list": groups})


def _write_line(history: History) -> None:
    reading = history.last
    assert reading is not None
    clock = time.strftime("%H:%M:%S", time.localtime(reading.at))
    sys.stdout.write(f"{clock}  {reading.state:<10}  {_figures(history, reading.stats)}".rstrip() + "\n")


def _figures(history: History, stats: Stats) -> str:
    if not stats:
        return ""
    parts = [
        *(f"{name}/s {rate(history.rates[name][-1])}" for name in COUNTED),
        f"commit p99 {milliseconds(stats['commit_ms_p99'])}",
        f"messages {amount(stats['messages'])}",
        f"followers {amount(stats['followers'])}",
        f"waiting {amount(stats['waiting'])}",
        *trouble(stats),
    ]
    return "  ".join(parts)


# --- on a terminal --------------------------------------------------------------------------------


def _live(source: Source, interval: float) -> int:
    from rich.live import Live  # noqa: PLC0415 - rich costs time that pipes need not pay

    from armin.cli import terminal  # noqa: PLC0415
    from armin.cli.dashboard import Dashboard  # noqa: PLC0415

    history = History()
    screen = Live(Dashboard(history, interval), console=terminal.console(), screen=True, auto_refresh=False)
    readings: deque[Reading | Exception] = deque()
    woken, waker = os.pipe()

    def tell(reading: Reading | Exception) -> None:
        readings.append(reading)
        os.write(waker, b".")

    with (
        contextlib.suppress(KeyboardInterrupt),
        _ended_by_signals(),
        _single_keys() as keys,
        screen,
        Watch(source, interval, tell),
    ):
        _show(screen, history, readings, woken, keys)
    return Exit.OK


def _show(
    screen: Live, history: History, readings: deque[Reading | Exception], woken: int, keys: int | None
) -> None:
    """Draw what comes, until a key ends it."""
    descriptors = [woken] if keys is None else [woken, keys]
    size = screen.console.size
    screen.refresh()
    while True:
        ready, _, _ = select.select(descriptors, [], [], LOOK_AT_SIZE)
        if woken in ready:
            os.read(woken, 1024)
        if keys in ready and keys is not None and not QUIT.isdisjoint(os.read(keys, 64) or b"q"):
            return
        changed = size != screen.console.size
        if changed:
            size = screen.console.size
            screen.console.clear()  # what the terminal made of the old screen
        while readings:
            reading = readings.popleft()
            if isinstance(reading, Exception):
                raise reading
            history.add(reading)
            changed = True
        if changed:
            screen.refresh()


@contextlib.contextmanager
def _single_keys() -> Iterator[int | None]:
    """Keys without waiting for a whole line; None where there is no keyboard."""
    if not sys.stdin.isatty():
        yield None
        return
    import termios  # noqa: PLC0415 - not on every system
    import tty  # noqa: PLC0415

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield keyboard
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP leave the terminal as it was, too."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
