"""`make demo`, as somebody sees it who has just cloned the repository."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import CommandLine, Terminal
from harness import wait_until

DEMO = Path(__file__).resolve().parents[2] / "demo" / "demo.py"
LIMIT_S = 60.0  # what is promised
PATIENCE_S = 110.0
STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def environ(short_dir: Path) -> dict[str, str]:
    """An environment in which all that is temporary lies in `short_dir`."""
    return {**CommandLine().environ, "TMPDIR": str(short_dir)}


def left_over(directory: Path) -> list[str]:
    """Files in a directory, and processes that have to do with it."""
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue  # gone, or not ours
        if os.fsencode(directory) in words:
            processes.append(process.name)
    return [*(path.name for path in directory.iterdir()), *processes]


def processor_seconds() -> float:
    """What the children that have ended took, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table_rows(text: str, row: str) -> list[list[str]]:
    return [re.findall(r"[\w,]+", line) for line in text.splitlines() if re.match(rf"\W+{row}\W", line)]


def test_the_demo_without_a_terminal_is_plain_text_and_every_count_agrees(
    environ: dict[str, str], short_dir: Path
) -> None:
    before = processor_seconds()
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    text = done.stdout
    assert done.returncode == 0, text + done.stderr
    assert processor_seconds() - before < LIMIT_S  # whatever else the machine has to do
    assert done.stderr == ""
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 1000
    messages = table_rows(text, "messages")
    assert len(messages) == 2, "before and after the crash"
    for figures in (*messages, *table_rows(text, "sessions"), *table_rows(text, "facts")):
        *counts, verdict = figures[1:]
        assert verdict == "agree"
        assert len(set(counts)) == 1
        assert len(counts) in (3, 4)
    assert int(messages[0][1].replace(",", "")) >= 5000
    assert len(re.findall(r"writer \d: \d+ acknowledged, all there, in order, once", text)) == 2
    assert "memory, file and digests agree" in text
    assert text.splitlines()[-1].startswith("Everything agreed")
    assert left_over(short_dir) == []


def test_the_demo_on_a_terminal_shows_messages_going_by_and_ends_by_itself(
    environ: dict[str, str], short_dir: Path
) -> None:
    with Terminal([sys.executable, str(DEMO)], environ, 80) as terminal:
        result = terminal.end()
    text = STYLES.sub("", result.out)
    assert result.code == 0, text
    assert "Traceback" not in text
    assert "live" in text
    assert "seq  role" in text, "the table of armin read"
    assert text.rstrip().splitlines()[-1].startswith("Everything agreed")
    assert left_over(short_dir) == []


def test_ctrl_c_ends_the_demo_and_leaves_nothing_behind(environ: dict[str, str], short_dir: Path) -> None:
    with Terminal([sys.executable, str(DEMO)], environ, 80) as terminal:
        terminal.until("live")
        assert left_over(short_dir) != []
        terminal.type("\x03")
        result = terminal.end()
    assert result.code == 130
    assert "Traceback" not in result.out
    wait_until(lambda: left_over(short_dir) == [], what="everything is cleaned up")


def test_a_demo_that_fails_says_so_and_cleans_up(environ: dict[str, str], short_dir: Path) -> None:
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import demo;"
        "demo.DATA = pathlib.Path('/nonexistent'); sys.exit(demo.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(DEMO.parent)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "the demo failed: there are no conversations in /nonexistent" in done.stdout
    assert left_over(short_dir) == []
