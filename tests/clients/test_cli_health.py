"""`armin health`: exit codes for containers and timers."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from pathlib import Path

import pytest

import armin
from armin import Health
from command_line import CommandLine
from harness import Engine, failing_writes, wait_until


def told(line: CommandLine, *options: str) -> tuple[int, str]:
    result = line.run("health", *options)
    return result.code, result.out


def test_a_sound_engine_is_ready(engine: Engine) -> None:
    line = CommandLine(engine.directory)
    assert told(line) == told(line, "--live") == (0, "ready\n")
    assert line.json("health") == [{"live": True, "ready": True, "state": "serving", "reasons": []}]


def test_an_engine_whose_commits_fail_is_alive_and_not_ready(engine: Engine) -> None:
    line = CommandLine(engine.directory)
    with engine.peer() as peer, failing_writes(engine):
        assert not peer.ask("create_session")["ok"]
        assert told(line) == (7, "not ready: COMMITS FAIL\n")
        assert not peer.ask("create_session")["ok"]  # the one before may be long ago by now
        assert told(line, "--live") == (0, "not ready: COMMITS FAIL\n")
        assert not peer.ask("create_session")["ok"]
        code, out = told(line, "--json")
    assert (code, json.loads(out)["reasons"]) == (7, ["commits_failing"])


def test_an_engine_that_refuses_writes_is_alive_and_not_ready(engine: Engine) -> None:
    line = CommandLine(engine.directory)
    with engine.peer() as peer:
        peer.ask("create_session")
        (engine.directory / "armin.db-wal").unlink()
        peer.ask("create_session")
    code, out = told(line, "--json")
    found = json.loads(out)
    assert (code, found["state"], found["reasons"]) == (7, "refusing_writes", ["file_changed"])
    assert told(line, "--live")[0] == 0


@pytest.mark.parametrize("options", [(), ("--live",)])
def test_without_an_engine_nobody_is_alive(engine: Engine, options: tuple[str, ...]) -> None:
    engine.kill()
    result = CommandLine(engine.directory).run("health", *options, "--json")
    assert result.code == 3
    assert json.loads(result.out) == {
        "live": False,
        "ready": False,
        "state": "absent",
        "reasons": ["not_running"],
    }
    assert "no engine is running" in result.err


def test_a_recovering_engine_is_alive_and_not_ready(short_dir: Path) -> None:
    lock = short_dir / "armin.db.lock"
    lock.write_text(f"{os.getpid()}\nrecovering\n", "ascii")
    line = CommandLine(short_dir)
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert told(line, "--live") == (0, "recovering\n")
        assert told(line)[0] == 17
        code, out = told(line, "--json")
    found = json.loads(out)
    assert (code, found["state"], found["live"], found["ready"]) == (17, "recovering", True, False)


def test_an_engine_that_hangs_is_not_alive_and_that_is_known_soon(engine: Engine) -> None:
    assert engine.process is not None
    engine.process.send_signal(signal.SIGSTOP)
    try:
        result = CommandLine(engine.directory).run("--timeout", "1", "health", "--live", "--json")
    finally:
        engine.process.send_signal(signal.SIGCONT)
    assert (result.code, json.loads(result.out)["state"]) == (3, "absent")
    assert " within 1 s " in result.err


def test_the_clients_have_it(engine: Engine) -> None:
    with armin.connect(engine.directory) as client:
        assert client.health() == Health(True, True, "serving", (), 0)
        client.create_session()
        wait_until(lambda: client.health().position == 1)
