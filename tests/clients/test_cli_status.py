"""`armin status`."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import CommandLine
from harness import Engine


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
    assert "synchronous full" in fields["durability"]
    assert str(engine.directory) in fields["endpoints"]
    assert fields["effects"] == "0 sent, 5 wait for a worker, 0 dropped"
    assert "0 replies lost" in fields["trouble"]
    assert len(text.splitlines()) <= 24
    [record] = armin.json("status")
    assert record["state"] == "serving"
    assert record["sessions_closed"] == 1
    assert record["effects_backlog"] == 5
    assert record["durability"]["synchronous"] == "full"


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
