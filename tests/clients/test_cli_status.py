"""`armin status`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from command_line import CommandLine
from harness import Engine, failing_writes


def test_status_shows_one_screen_of_figures(engine: Engine) -> None:
    armin = CommandLine(engine.directory)
    with engine.peer() as peer:
        for _ in range(3):
            peer.ask("create_session")
        peer.ask("append", session_id=1, role="user", content="hi")
        peer.ask("close_session", session_id=2)
    text = armin.ok("status")
    fields = {line.split()[0]: line.split(None, 1)[1] for line in text.splitlines()}
    assert fields["state"] == "serving"
    assert f"pid {engine.pid}" in fields["engine"]
    assert fields["position"] == "5"
    assert fields["sessions"] == "3, 1 of them closed"
    assert fields["messages"] == "1"
    assert "synchronous full" in text
    assert str(engine.directory) in fields["endpoints"]
    assert fields["effects"] == "0 sent, 5 wait, 0 dropped"
    assert fields["trouble"] == "none"
    assert fields["commit"].startswith("p50 ")
    assert len(text.splitlines()) <= 24
    [record] = armin.json("status")
    assert record["state"] == "serving"
    assert record["sessions_closed"] == 1
    assert record["effects_backlog"] == 5
    assert record["durability"]["synchronous"] == "full"


def test_status_fits_a_terminal(engine: Engine) -> None:
    for columns in (80, 120):
        with CommandLine(engine.directory).terminal("status", columns=columns) as terminal:
            shown = terminal.end()
        assert shown.code == 0
        lines = [re.sub("\x1b\\[[0-9;]*m", "", line).rstrip() for line in shown.out.splitlines()]
        assert len(lines) <= 24
        assert max(map(len, lines)) <= columns
        assert "" in lines, "sections stand apart"


def test_status_names_trouble_and_why_it_is_not_ready(engine: Engine) -> None:
    armin = CommandLine(engine.directory)
    with engine.peer() as peer:
        peer.ask("create_session")
        peer.ask("read", session_id=1, reason="heal")
        with failing_writes(engine):
            assert not peer.ask("create_session")["ok"]
            text = armin.ok("status")
    assert "state       serving; COMMITS FAIL\n" in text
    assert "trouble     1 commits failed, 1 reads that healed a follower\n" in text


def test_status_over_tcp_needs_no_directory(short_dir: Path) -> None:
    engine = Engine(short_dir / "e", "--tcp", "127.0.0.1:0").start()
    try:
        [record] = CommandLine(engine.directory).json("status")
        port = record["endpoints"]["tcp"]["commands"]
        armin = CommandLine()
        assert f"tcp ports {port}" in armin.ok("--url", f"tcp://127.0.0.1:{port}", "status")
        assert CommandLine(ARMIN_URL=f"tcp://127.0.0.1:{port}").ok("new") == "1\n"
    finally:
        engine.stop()


def test_status_without_an_engine_says_so_and_fails(short_dir: Path) -> None:
    engine = Engine(short_dir / "e").start()
    engine.kill()
    armin = CommandLine(engine.directory)
    result = armin.run("status", "--json")
    assert (result.code, json.loads(result.out)) == (3, {"state": "absent", "reason": "not_running"})
    directory = engine.directory
    assert result.err == (
        f"armin: no engine is running on {directory} (start one with: armin serve {directory})\n"
    )
