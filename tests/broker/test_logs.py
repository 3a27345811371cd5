"""The daemon's log: one event, one line, whatever is in it."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import armin
from armin_broker.logs import JsonLines, Lines, fields
from command_line import CommandLine
from harness import READY_S, Engine, wait_until


def record(message: str, *args: Any, error: BaseException | None = None, **values: Any) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("armin_broker.loop", logging.WARNING, __file__, 1, message, args, exc_info)
    made.__dict__.update(fields(**values))
    made.created = 1_700_000_000.1234
    return made


@given(st.text(), st.text())
def test_an_event_is_one_line_that_steers_no_terminal(message: str, value: str) -> None:
    for formatter in (Lines(), JsonLines()):
        line = formatter.format(record("%s", message, value=value, error=ValueError(message)))
        assert len(line.splitlines()) == 1
        assert not any(ord(each) < 0x20 or 0x7F <= ord(each) < 0xA0 for each in line)
        line.encode("utf-8")


def test_a_line_for_people() -> None:
    line = Lines().format(record("refused %d", 3, path="/srv/my chat", position=7, ends=["a"], none=None))
    assert line == (
        "2023-11-14T22:13:20.123Z WARNING armin_broker.loop: refused 3"
        ' path="/srv/my chat" position=7 ends=["a"] none=null'
    )


def test_an_object_for_programs() -> None:
    event = json.loads(JsonLines().format(record("a\n%s", "b", position=7, logger="not mine", level=1)))
    assert event == {
        "time": "2023-11-14T22:13:20.123Z",
        "level": "warning",
        "logger": "armin_broker.loop",
        "message": "a\nb",
        "position": 7,
    }


def test_an_exception_is_in_its_event() -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        raised = error
    event = json.loads(JsonLines().format(record("it failed", error=raised)))
    assert event["exception"].startswith("Traceback (most recent call last):\n")
    assert event["exception"].endswith("KeyError: 'x'")
    line = Lines().format(record("it failed", error=raised))
    assert line.endswith("\\nKeyError: 'x'")
    assert "it failed | Traceback (most recent call last):\\n" in line


def test_a_message_that_does_not_fit_its_arguments_is_logged_all_the_same() -> None:
    assert "%d facts ('x',)" in Lines().format(record("%d facts", "x"))


# --- armin serve ----------------------------------------------------------------------------------


def events(engine: Engine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in engine.errors().splitlines()]


FULL = """
import logging, sys
from armin_broker import logs

class Full:  # the disk behind standard error, with room again at once
    full = True
    said = ""
    def write(self, text):
        if self.full:
            self.full = False
            raise OSError(28, "No space left on device")
        self.said += text
    def flush(self):
        pass

usual, sys.stderr = sys.stderr, Full()
logs.configure("info", as_json=False)
logging.info("lost")
logging.info("kept")
sys.stdout.write(sys.stderr.said)
sys.stderr = usual
"""


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else_is_said() -> None:
    command = [sys.executable, "-c", FULL]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    (line,) = said.splitlines()
    assert line.endswith("kept")


def test_start_and_stop_are_events(short_dir: Path) -> None:
    engine = Engine(short_dir / "e", "--log-json").start()
    with engine.peer() as peer:
        peer.ask("create_session")
        hello = peer.ask("hello")
    assert engine.stop() == 0
    engine.start()
    assert engine.stop() == 0
    first, *_ = serving = [event for event in events(engine) if event["message"] == "serving"]
    assert [each["recovered_facts"] for each in serving] == [0, 1]
    assert [each["position"] for each in serving] == [0, 1]
    assert first["recovery_ms"] >= 0
    assert first["path"] == str(engine.directory / "armin.db")
    assert (first["version"], first["database"]) == (hello["version"], hello["database"])
    assert first["endpoints"] == hello["endpoints"]
    stopped = [event for event in events(engine) if event["message"] == "stopped"]
    assert [(each["signal"], each["position"]) for each in stopped] == [("SIGTERM", 1)] * 2
    for event in events(engine):
        assert datetime.fromisoformat(event["time"]).utcoffset() is not None
        assert event["level"] in ("info", "warning")
        assert event["logger"].startswith("armin")


def test_a_start_that_fails_is_an_event_with_its_exit_code(engine: Engine) -> None:
    command = [sys.executable, "-m", "armin.cli.main", "serve", str(engine.directory), "--log-json"]
    second = subprocess.run(command, capture_output=True, timeout=READY_S, check=False)
    assert second.returncode == 10
    [event] = map(json.loads, second.stderr.splitlines())
    assert (event["level"], event["exit_code"]) == ("error", 10)
    assert str(engine.pid) in event["message"]


@pytest.mark.parametrize(("level", "said"), [("info", True), ("warning", False)])
def test_the_level_decides_what_is_said(short_dir: Path, level: str, said: bool) -> None:
    engine = Engine(short_dir / "e", "--log-level", level).start()
    assert engine.stop() == 0
    assert ("armin_broker.daemon: serving version=" in engine.errors()) is said
    assert ("stopped signal=SIGTERM" in engine.errors()) is said


def test_ctrl_c_is_named_as_the_reason(short_dir: Path) -> None:
    engine = Engine(short_dir / "e").start()
    assert engine.process is not None
    engine.process.send_signal(signal.SIGINT)
    assert engine.process.wait(READY_S) == 0
    engine.stop()
    assert "stopped signal=SIGINT" in engine.errors()


def test_what_a_role_may_not_do_is_counted_and_logged(short_dir: Path) -> None:
    engine = Engine(short_dir / "e", "--log-json", "--tcp", "127.0.0.1:0")
    key = short_dir / "reader.key"
    CommandLine(engine.directory).ok("keys", "new", "rita", "--role", "reader", "--out", str(key), "--json")
    try:
        with engine.start().peer() as peer:
            port = peer.ask("hello")["endpoints"]["tcp"]["commands"]
            with armin.connect(f"tcp://127.0.0.1:{port}", key=key, timeout=READY_S) as client:
                for _ in range(3):
                    with pytest.raises(armin.NotAuthorized):
                        client.create_session()
            assert peer.ask("stats")["not_authorized"] == 3
        wait_until(lambda: sum(map(denied, events(engine))) == 3)
        told = [event["message"] for event in events(engine) if denied(event)]
        assert "create_session needs a key with the role writer" in told[-1]
        assert "rita" in told[-1]
    finally:
        engine.stop()


def denied(event: dict[str, Any]) -> int:
    return int(event["message"].split()[1]) if "as not authorized" in event["message"] else 0
