"""`armin top`: live on a terminal, lines and objects in a pipe."""

from __future__ import annotations

import fcntl
import io
import json
import re
import signal
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from armin import Group, Hello, NoReply
from armin.cli import figures
from armin.cli.dashboard import Dashboard
from armin.cli.figures import Stats
from armin.cli.watching import History, Reading
from command_line import CommandLine, Terminal, parsed
from harness import Engine, failing_writes

SCREEN, NO_SCREEN = "\x1b[?1049h", "\x1b[?1049l"  # the terminal's other screen, and back
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"  # the cursor


# --- in a pipe ------------------------------------------------------------------------------------


def test_once_prints_one_screen(engine: Engine) -> None:
    with engine.peer() as peer:
        peer.ask("create_session")
        peer.ask("create_group", group="mail", start="begin")
    line = CommandLine(engine.directory)
    text = line.ok("top", "--once")
    assert "\x1b" not in text
    assert "armin serving" in text
    assert "1 sessions (0 closed)" in text
    assert re.search(r"^ +1 +0 +0 +0  idle +mail$", text, re.MULTILINE)
    assert "q quits" not in text


def test_once_without_an_engine_fails_as_status_does(engine: Engine) -> None:
    engine.kill()
    line = CommandLine(engine.directory)
    assert line.run("top", "--once").code == line.run("status").code == 3
    result = line.run("top", "--once", "--json")
    assert result.code == 3
    assert json.loads(result.out) | {"time": 0} == {"time": 0, "state": "absent", "reason": "not_running"}


def test_in_a_pipe_it_prints_a_line_each_time_and_goes_on_when_the_engine_is_back(engine: Engine) -> None:
    with CommandLine(engine.directory).start("top", "--interval", "0.1") as running:
        assert re.fullmatch(r"\d\d:\d\d:\d\d  serving +commands/s .*  followers 0  waiting 0", running.line())
        engine.kill()
        while "serving" in (line := running.line()):
            pass
        assert line.split()[1:] == ["away"]
        engine.start()
        while "serving" not in running.line():
            pass
        assert running.signal(signal.SIGINT) == 130


def test_objects_have_rates_between_the_looks_and_the_groups(engine: Engine) -> None:
    with CommandLine(engine.directory).start("top", "--json", "--interval", "0.5") as running:
        [first] = parsed(running.line() + "\n")
        with engine.peer() as peer:
            peer.ask("create_group", group="mail", start="begin")
            for _ in range(10):
                peer.ask("create_session")
            seen = [first]
            while seen[-1]["facts"] < 10:
                seen += parsed(running.line() + "\n")
        passed = (seen[-1]["uptime_ms"] - seen[-2]["uptime_ms"]) / 1000
        made = seen[-1]["facts"] - seen[-2]["facts"]
        assert seen[-1]["facts_per_s"] == pytest.approx(made / passed, abs=0.1)
        assert [group["group"] for group in seen[-1]["worker_group_list"]] == ["mail"]
        assert seen[-1]["state"] == "serving"
        assert abs(seen[-1]["time"] / 1000 - time.time()) < 60
        assert running.hang_up() in (141, -signal.SIGPIPE)


# --- on a terminal --------------------------------------------------------------------------------


@contextmanager
def live(engine: Engine, *options: str, columns: int = 80) -> Iterator[Terminal]:
    with CommandLine(engine.directory).terminal(
        "top", "--interval", "0.2", *options, columns=columns
    ) as shown:
        shown.until(SCREEN)
        shown.until("position")
        yield shown


def assert_left_clean(terminal: Terminal) -> None:
    """The other screen, the cursor and the keyboard are as they were."""
    assert terminal.screen.rindex(NO_SCREEN) > terminal.screen.rindex(SCREEN)
    assert terminal.screen.rindex(SHOWN) > terminal.screen.rindex(HIDDEN)


@pytest.mark.parametrize("keys", ["q", "Q", "\x03"])
def test_a_key_ends_it_and_leaves_the_terminal_as_it_was(engine: Engine, keys: str) -> None:
    with live(engine) as terminal:
        before = mode(terminal)
        terminal.type(keys)
        assert terminal.end().code == 0
        assert_left_clean(terminal)
        assert before & termios.ICANON == 0, "keys come one by one"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(engine: Engine, number: int) -> None:
    with live(engine) as terminal:
        terminal.process.send_signal(number)
        assert terminal.end().code == 0
        assert_left_clean(terminal)


def mode(terminal: Terminal) -> int:
    flags: int = termios.tcgetattr(terminal.descriptor)[3]
    return flags


def resize(terminal: Terminal, columns: int, lines: int) -> None:
    fcntl.ioctl(terminal.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def test_it_says_that_the_engine_is_away_and_goes_on_when_it_is_back(engine: Engine) -> None:
    with engine.peer() as peer:
        peer.ask("create_session")
    with live(engine) as terminal:
        engine.kill()
        terminal.until("away")
        terminal.until("no engine is running")
        terminal.screen = terminal.screen.replace("serving", "")
        engine.start()
        terminal.until("serving")
        terminal.type("q")
        assert terminal.end().code == 0


def test_it_waits_for_an_engine_that_was_never_there(engine: Engine) -> None:
    engine.kill()
    with CommandLine(engine.directory).terminal("top", "--interval", "0.2") as terminal:
        terminal.until("away")
        engine.start()
        terminal.until("serving")
        terminal.type("q")
        assert terminal.end().code == 0


def test_a_terminal_that_is_resized_is_filled_anew(engine: Engine) -> None:
    with live(engine, "--interval", "3600") as terminal:
        assert "…" not in terminal.screen
        resize(terminal, 40, 24)
        anew = terminal.until("…").rpartition("\x1b[H")[2]
        assert max(map(len, plain(anew))) <= 40
        terminal.type("q")
        assert terminal.end().code == 0


def test_an_engine_that_hangs_does_not_keep_it_from_ending(engine: Engine) -> None:
    with live(engine) as terminal:
        assert engine.process is not None
        engine.process.send_signal(signal.SIGSTOP)
        try:
            terminal.until("away")
            terminal.type("q")
            assert terminal.end().code == 0
        finally:
            engine.process.send_signal(signal.SIGCONT)


def test_what_is_no_absence_ends_it_with_its_own_exit_code(short_dir: Path) -> None:
    line = CommandLine(ARMIN_URL="tcp://127.0.0.1:1")
    with line.terminal("--key", str(short_dir / "none.key"), "top") as terminal:
        result = terminal.end()
        assert_left_clean(terminal)
    assert result.code == line.run("--key", str(short_dir / "none.key"), "status").code
    assert "none.key" in result.out.rpartition(NO_SCREEN)[2]


def test_trouble_is_named(engine: Engine) -> None:
    with engine.peer() as peer, failing_writes(engine):
        assert not peer.ask("create_session")["ok"]
        with live(engine) as terminal:
            terminal.until("COMMITS FAIL")
            terminal.until("1 commits failed")


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()


# --- what is drawn --------------------------------------------------------------------------------

STATS: dict[str, Any] = {
    **dict.fromkeys(("commands", "facts", "commits", "uptime_ms", "pid", "position", "messages"), 10_000),
    **dict.fromkeys(("sessions", "sessions_closed", "history_bytes", "delta_messages", "delta_bytes"), 10),
    **dict.fromkeys(
        ("followers", "connections_ipc", "connections_tcp", "effects_sent", "effects_backlog"), 3
    ),
    **dict.fromkeys(("waiting", "leased", "dead", "effects_dropped", "wal_bytes"), 0),
    "memory_budget_bytes": 1 << 30,
    "writes_refused": None,
}
HELLO = Hello("armin/1", "0.1.0", (), "d", "e", "engine-1", {}, {}, {}, 0)


def group(name: str, **changed: Any) -> Group:
    fields = {"behind": 0, "waiting": 0, "leased": 0, "dead": 0, "halted": False, **changed}
    return Group(name, "begin", (), False, 5, 1000, "skip", 0, 0, **fields, pollers=0)


def drawn(*readings: Reading, width: int = 80, height: int = 24, encoding: str = "utf-8") -> list[str]:
    history = History()
    for reading in readings:
        history.add(reading)
    raw = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=raw, width=width, height=height, force_terminal=True, color_system=None)
    console.print(Dashboard(history, 1), end="")
    raw.flush()
    assert isinstance(raw.buffer, io.BytesIO)
    return [line.rstrip() for line in raw.buffer.getvalue().decode(encoding).splitlines()]


def reading(at: float = 0.0, groups: tuple[Group, ...] = (), **changed: Any) -> Reading:
    return Reading(at, HELLO, Stats({**STATS, **changed}), groups)


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
@pytest.mark.parametrize("height", [5, 24, 50])
def test_it_fits_every_terminal(width: int, height: int) -> None:
    groups = tuple(group(f"group-{number}" * 9, dead=number) for number in range(40))
    large = reading(messages=10**12, sessions=10**12, history_bytes=1 << 39, dead=10**9, groups=groups)
    lines = drawn(large, width=width, height=height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_all_of_it_fits_80_by_24() -> None:
    lines = drawn(reading(groups=(group("mail"), group("index", halted=True, dead=3))))
    assert lines[-1].startswith("q quits")
    halted, idle = (next(line for line in lines if line.endswith(name)) for name in ("index", "mail"))
    assert lines.index(halted) < lines.index(idle), "the one with trouble comes first"
    assert halted.split() == ["0", "0", "0", "3", "halted", "index"]


def test_groups_that_do_not_fit_are_counted() -> None:
    lines = drawn(reading(groups=tuple(group(f"g{number}") for number in range(30))))
    shown = [line for line in lines if re.search(r" g\d+$", line)]
    assert f"and {30 - len(shown)} more: armin groups" in lines


def test_rates_are_those_between_two_looks_and_begin_anew_with_an_engine() -> None:
    history = History()
    history.add(reading(facts_per_s=5.0))
    history.add(reading(uptime_ms=12_000, facts=10_400))
    other = Reading(3, Hello("armin/1", "0.1.0", (), "d", "e", "engine-2", {}, {}, {}, 0), Stats(STATS))
    history.add(other)
    history.add(Reading(4, problem=NoReply("nobody", reason="not_running", sent=False)))
    assert list(history.rates["facts"]) == [5.0, 200.0, 0.0, 0.0]
    assert history.served is other


def test_an_engine_that_is_away_leaves_its_last_figures() -> None:
    away = Reading(9.0, problem=NoReply("no engine is running on x", reason="not_running", sent=False))
    lines = drawn(reading(), away)
    assert lines[0].startswith("armin away  since ")
    assert lines[1] == "no engine is running on x"
    assert any("10,000 messages" in line for line in lines)
    recovering = Reading(9.0, problem=NoReply("it is recovering", reason="recovering", sent=False))
    assert drawn(recovering)[0].startswith("armin recovering")


def test_a_name_cannot_steer_the_terminal() -> None:
    lines = drawn(reading(groups=(group("x\x1b[2J\nq quits"),)))
    assert "\x1b" not in "".join(lines)
    assert any(line.endswith("x\\x1b[2J\\nq quits") for line in lines)


def test_an_older_engine_is_shown_without_what_it_does_not_know() -> None:
    old = Stats({name: value for name, value in STATS.items() if name not in ("wal_bytes", "followers")})
    lines = drawn(Reading(0.0, HELLO, old))
    assert any(line.startswith("file      WAL -") for line in lines)


def test_a_terminal_without_unicode_gets_plain_bars() -> None:
    lines = drawn(reading(facts_per_s=3.0), encoding="ascii")
    assert "#" in next(line for line in lines if line.startswith("facts/s"))
    assert "".join(lines).isascii()


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figures.sparkline([0, 1, 4, 8], 6), "   ▂▅█"),
        (figures.sparkline([1, 2, 3], 2), "▆█"),
        (figures.sparkline([], 3), "   "),
        (figures.sparkline([1], 0), ""),
        (figures.size(None), "-"),
        (figures.size(1023), "1023 B"),
        (figures.size(3 << 29), "1.5 GiB"),
        (figures.rate(0.25), "0.2"),
        (figures.rate(12_345.6), "12,346"),
        (figures.milliseconds(0.3456), "0.35 ms"),
        (figures.milliseconds(45.67), "45.7 ms"),
        (figures.milliseconds(456.7), "457 ms"),
        (figures.milliseconds(4567), "4.6 s"),
        (figures.duration(59_999), "59 s"),
        (figures.duration(3_661_000), "1 h 1 min"),
    ],
)
def test_figures_are_short(shown: str, expected: str) -> None:
    assert shown == expected
