"""`armin worker`, and the commands about groups."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

import armin as client
from command_line import DEADLINE_S, CommandLine
from harness import Engine, wait_until


@pytest.fixture
def armin(engine: Engine) -> CommandLine:
    return CommandLine(engine.directory)


def group(engine: Engine, name: str = "g") -> client.Group | None:
    with client.connect(engine.directory) as connected:
        return next((group for group in connected.groups() if group.group == name), None)


def settled(engine: Engine) -> bool:
    found = group(engine)
    return found is not None and found.behind + found.waiting + found.leased == 0


def written(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


def test_a_command_gets_the_event_and_its_exit_code_decides(
    armin: CommandLine, engine: Engine, short_dir: Path
) -> None:
    armin.ok("new", "--name", "talk")
    armin.ok("append", "talk", "user", "grüß\ndich")
    script = (
        'cat; echo "$ARMIN_POSITION $ARMIN_ATTEMPT $ARMIN_SESSION_ID $ARMIN_EVENT_TYPE"; '
        'echo first >&2; echo "  last  words" >&2; test "$ARMIN_POSITION" != 2'
    )
    options = ("--group", "g", "--max-attempts", "2", "--backoff-ms", "1")
    with armin.start("worker", *options, "--", "sh", "-c", script) as worker:
        event, variables = json.loads(worker.line()), worker.line()
        assert (event["position"], event["type"], event["name"]) == (1, "session_created", "talk")
        assert variables == "1 1 1 session_created"
        event = json.loads(worker.line())
        assert event["message"]["content"] == "grüß\ndich"
        assert worker.line() == "2 1 1 message_appended"
        assert json.loads(worker.line()) == event
        assert worker.line() == "2 2 1 message_appended"
        wait_until(lambda: settled(engine))
        assert worker.signal(signal.SIGTERM) == 0
        said = worker.errors()
        assert said.count("first\n  last  words\n") == 3
        assert "armin: the effect at position 2 failed (attempt 2): exit code 1: last  words\n" in said
    [letter] = armin.json("dead-letters", "g")
    assert (letter["position"], letter["attempts"]) == (2, 2)
    assert letter["reason"] == "exit code 1: last  words"
    assert letter["event"] == event


def test_a_command_that_is_not_there_takes_nothing(
    armin: CommandLine, engine: Engine, short_dir: Path
) -> None:
    armin.ok("new")
    result = armin.run("worker", "--group", "g", "--", "no-such-command", "--help")
    assert (result.code, result.err) == (127, "armin: no-such-command: command not found\n")
    plain = short_dir / "plain"
    plain.write_text("no program", "ascii")
    assert armin.run("worker", "--group", "g", str(plain)).code == 127
    assert group(engine) is None


def test_a_command_that_goes_away_ends_the_worker_and_its_effect_goes_to_another(
    armin: CommandLine, engine: Engine, short_dir: Path
) -> None:
    command = short_dir / "command"
    command.write_text("#!/bin/sh\necho handled $ARMIN_POSITION\n", "ascii")
    command.chmod(0o755)
    armin.ok("new")
    with armin.start("worker", "--group", "g", "--", str(command)) as worker:
        assert worker.line() == "handled 1"
        wait_until(lambda: settled(engine))
        command.unlink()
        armin.ok("new")
        armin.ok("new")
        assert worker.process.wait(DEADLINE_S) == 127
        assert f"armin: {command}: No such file or directory\n" in worker.errors()
    with armin.start("worker", "--group", "g", "--", "printenv", "ARMIN_POSITION", "ARMIN_ATTEMPT") as other:
        assert sorted([other.lines(2), other.lines(2)]) == [["2", "2"], ["3", "1"]]


def test_what_a_command_does_with_its_streams_harms_nobody(
    armin: CommandLine, engine: Engine, short_dir: Path
) -> None:
    armin.ok("new")
    armin.ok("append", "1", "user", "-", stdin=b"x" * 300_000)
    log = short_dir / "sizes"
    # Reads nothing, or all; leaves a process behind that holds every stream open.
    script = f'test "$ARMIN_POSITION" = 1 && exit 0; wc -c >> {log}; sleep 300 & echo $! >> {log}.pid'
    with armin.start("worker", "--group", "g", "--", "sh", "-c", script) as worker:
        wait_until(lambda: settled(engine))
        assert int(written(log)) > 300_000
        assert worker.signal(signal.SIGTERM) == 0
    os.kill(int(written(Path(f"{log}.pid"))), signal.SIGKILL)


def test_a_command_inherits_its_streams_and_the_engine_s_name_alone(
    armin: CommandLine, engine: Engine
) -> None:
    armin.ok("new")
    armin.environ["ARMIN_URL"] = f"ipc://{engine.directory}"
    armin.environ["ARMIN_DIR"] = "/nowhere"
    script = (
        "import os; "
        "print(sorted(os.listdir('/proc/self/fd')), os.environ['ARMIN_DIR'], 'ARMIN_URL' in os.environ)"
    )
    with armin.start("worker", "--group", "g", "--", "python3", "-c", script) as worker:
        line = worker.line()
    assert line == f"['0', '1', '2', '3'] {engine.directory} False"  # 3 is the listing itself


def test_sigterm_finishes_what_runs_and_takes_no_more(
    armin: CommandLine, engine: Engine, short_dir: Path
) -> None:
    for _ in range(5):
        armin.ok("new")
    go = short_dir / "go"
    script = f"echo begun $ARMIN_POSITION; until [ -e {go} ]; do sleep 0.02; done; echo ended"
    command = ("worker", "--group", "g", "--concurrency", "2", "--", "sh", "-c", script)
    with armin.terminal(*command) as worker:
        worker.until("begun 1")
        worker.until("begun 2")
        worker.process.send_signal(signal.SIGTERM)
        worker.until("finishing what runs")
        go.touch()
        result = worker.end()
    assert result.code == 0
    assert result.out.count("ended") == 2
    assert "begun 3" not in result.out
    found = group(engine)
    assert found is not None
    assert (found.leased, found.behind + found.waiting) == (0, 3)


def test_the_second_signal_kills_what_runs(armin: CommandLine, engine: Engine) -> None:
    armin.ok("new")
    script = "trap '' TERM; echo begun $$; sleep 300; sleep 300"
    options = ("--group", "g", "--max-attempts", "1")
    with armin.terminal("worker", *options, "--", "sh", "-c", script) as worker:
        pid = int(worker.until("\n").split()[1])
        worker.process.send_signal(signal.SIGTERM)
        worker.until("finishing what runs")
        worker.process.send_signal(signal.SIGTERM)
        result = worker.end()
    assert result.code == 0
    assert "killed by SIGKILL" in result.out
    assert not Path(f"/proc/{pid}").exists()
    found = group(engine)
    assert found is not None
    assert found.dead == 1


def test_ctrl_c_is_for_the_worker_not_for_its_commands(
    armin: CommandLine, engine: Engine, short_dir: Path
) -> None:
    armin.ok("new")
    go = short_dir / "go"
    script = f"echo begun; until [ -e {go} ]; do sleep 0.02; done; echo ended"
    with armin.terminal("worker", "--group", "g", "--", "sh", "-c", script) as terminal:
        terminal.until("begun")
        terminal.type("\x03")
        terminal.until("finishing what runs")
        go.touch()
        result = terminal.end()
    assert result.code == 130
    assert "ended" in result.out
    assert "handled 1, failed 0" in result.out
    assert settled(engine)


def test_a_command_that_takes_too_long_is_killed_and_comes_again(armin: CommandLine, engine: Engine) -> None:
    armin.ok("new")
    options = ("--group", "g", "--timeout-s", "2", "--max-attempts", "1")
    with armin.start("worker", *options, "--", "sh", "-c", "echo begun; sleep 300") as worker:
        assert worker.line() == "begun"
        wait_until(lambda: settled(engine))
        assert worker.signal(signal.SIGTERM) == 0
    [letter] = armin.json("dead-letters", "g")
    assert letter["reason"] == "killed after 2 s"


def test_dead_letters_are_listed_requeued_and_discarded(armin: CommandLine, engine: Engine) -> None:
    for _ in range(3):
        armin.ok("new")
    options = ("--group", "g", "--max-attempts", "1", "--type", "session_created")
    with armin.start("worker", *options, "--", "false") as worker:
        wait_until(lambda: settled(engine))
        assert worker.signal(signal.SIGTERM) == 0
    [found] = armin.json("groups")
    assert (found["group"], found["dead"], found["types"]) == ("g", 3, ["session_created"])
    assert armin.ok("groups", "g").split()[-4:] == ["3", "0", "idle", "g"]
    rows = armin.ok("dead-letters", "g").splitlines()
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert rows[0].split()[-4:] == ["session_created", "exit", "code", "1"]
    assert len(armin.json("dead-letters", "g", "--limit", "2")) == 2
    assert armin.ok("requeue", "g", "2") == "1\n"
    assert armin.json("discard", "g", "1") == [{"discarded": 1}]
    assert armin.run("discard", "g").code == 2
    assert armin.ok("discard", "g", "--all") == "1\n"
    assert armin.json("requeue", "g") == [{"requeued": 0}]


def test_a_group_is_dropped_when_that_is_meant(armin: CommandLine, engine: Engine) -> None:
    with client.connect(engine.directory) as connected:
        connected.create_group("g")
        connected.create_group("h")
    with armin.terminal("drop-group", "g") as terminal:
        terminal.until("remove g")
        terminal.type("n\r")
        terminal.end()
    assert group(engine) is not None
    assert armin.ok("drop-group", "g", "--yes") == ""
    assert group(engine) is None
    gone = armin.run("drop-group", "g")
    assert gone.code == 4
    assert "armin groups lists all" in gone.err
    for command in ("dead-letters", "requeue", "groups"):
        assert armin.run(command, "g").code == 4
    other = armin.run("worker", "--group", "h", "--ordered", "true")
    assert other.code == 5
    assert "ordered" in other.err
    assert "armin groups --json shows them" in other.err
