"""One owner, enforced; and the failures of a start, each clear and with its own exit code."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from harness import READY_S, Engine, Peer, wait_until


def serve(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail."""
    command = [sys.executable, "-m", "armin.cli.main", "serve", str(directory), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_second_engine_is_refused_with_the_owners_pid_and_the_first_serves_on(
    engine: Engine, peer: Peer
) -> None:
    before = peer.ask("hello")
    for _ in range(2):
        second = serve(engine.directory)
        assert second.returncode == 10
        assert f"pid {engine.pid}" in second.stderr
        assert "Traceback" not in second.stderr
    assert peer.ask("hello")["engine"] == before["engine"]
    with engine.peer() as newcomer:  # the paths were not stolen either
        assert newcomer.ask("hello")["engine"] == before["engine"]


def test_a_link_to_the_directory_is_the_same_engine(engine: Engine, short_dir: Path) -> None:
    link = short_dir / "link"
    link.symlink_to(engine.directory)
    assert f"pid {engine.pid}" in serve(link).stderr


def test_after_sigkill_the_next_engine_takes_over(engine: Engine) -> None:
    engine.kill()
    assert (engine.directory / "commands.sock").exists()
    engine.start()
    with engine.peer() as peer:
        assert peer.ask("ping")["ok"]
    assert engine.stop() == 0


def test_300_clients_connect_under_a_soft_limit_of_256_descriptors(short_dir: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    engine = Engine(
        short_dir / "e", preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    ).start()
    peers = [Peer(engine.endpoint("commands")) for _ in range(300)]
    try:
        for peer in peers:
            assert peer.ask("ping")["ok"]
        for peer in reversed(peers):
            assert peer.ask("create_session")["ok"]
    finally:
        for peer in peers:
            peer.close()
    assert engine.stop() == 0


def test_a_clean_stop_leaves_the_database_alone(engine: Engine, peer: Peer) -> None:
    peer.ask("create_session")
    assert engine.stop() == 0
    assert [path.name for path in engine.directory.iterdir()] == ["armin.db"]
    assert "Traceback" not in engine.errors()


def test_sigint_is_a_clean_stop_too(engine: Engine, peer: Peer) -> None:
    peer.ask("ping")
    assert engine.process is not None
    engine.process.send_signal(signal.SIGINT)
    assert engine.process.wait(READY_S) == 0
    engine.stop()


def test_everything_in_the_directory_is_the_owners_alone(engine: Engine) -> None:
    assert engine.directory.stat().st_mode & 0o077 == 0
    paths = list(engine.directory.iterdir())
    assert len(paths) >= 5
    assert all(path.stat().st_mode & 0o077 == 0 for path in paths)


def comes(peer: Peer, engine: Engine) -> bool:
    """Whether another reply comes: an engine that ends says no more once it has ended."""
    assert engine.process is not None
    while engine.process.poll() is None:
        if peer.socket.poll(50):
            return True
    return bool(peer.socket.poll(3000))


def test_what_was_taken_is_answered_before_the_end(engine: Engine) -> None:
    with engine.peer() as peer:
        peer.ask("create_session")
        for number in range(5000):
            peer.send("append", session_id=1, role="user", content=str(number))
        peer.receive()
        os.kill(engine.pid, signal.SIGTERM)
        acknowledged, refused = 1, 0
        while acknowledged + refused < 5000 and comes(peer, engine):
            _, reply = peer.receive()
            if reply["ok"]:
                assert not refused, "nothing is taken once the end has begun"
                acknowledged += 1
            else:
                assert reply["error"]["code"] == "shutting_down"
                assert reply["error"]["retry"] is True
                refused += 1
        assert engine.stop() == 0
    engine.start()
    with engine.peer() as peer:
        assert peer.ask("session", session_id=1)["session"]["seq"] == acknowledged


def test_everything_committed_is_answered_to_a_peer_with_thousands_of_commands_under_way(
    engine: Engine,
) -> None:
    with engine.peer() as peer:
        peer.ask("create_session")
        with Peer(engine.endpoint("commands")) as late:
            # No mark of its own: libzmq drops what a peer at its mark has not read when the connection ends.
            for number in range(4000):
                late.send("append", session_id=1, role="user", content=str(number))
            wait_until(lambda: peer.ask("stats")["commands"] > 2000)
            os.kill(engine.pid, signal.SIGTERM)
            acknowledged = 0
            while comes(late, engine):
                acknowledged += late.receive()[1]["ok"]
        assert engine.stop() == 0
    engine.start()
    with engine.peer() as peer:
        assert peer.ask("session", session_id=1)["session"]["seq"] == acknowledged


def test_a_dying_engine_leaves_its_successors_sockets_alone(engine: Engine) -> None:
    (engine.directory / "armin.db.lock").unlink()  # by careless hands
    second = Engine(engine.directory).start()
    assert engine.stop() == 0
    with second.peer() as peer:
        assert peer.ask("create_session")["ok"]
    assert (second.directory / "armin.db.lock").exists()
    assert second.stop() == 0


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"this is no database, only text that is long enough to have a header\n" * 20, 11, "no SQLite"),
        (None, 11, "none of Armin's"),
    ],
)
def test_a_file_that_is_not_armins_is_refused_untouched(
    short_dir: Path, content: bytes | None, code: int, words: str
) -> None:
    directory = short_dir / "e"
    directory.mkdir(mode=0o700)
    path = directory / "armin.db"
    if content is None:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE somebody_elses (x)")
        connection.commit()
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    refused = serve(directory)
    assert refused.returncode == code
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    assert path.read_bytes() == before


def test_a_newer_schema_and_a_torn_file_have_their_own_exit_codes(engine: Engine, peer: Peer) -> None:
    peer.ask("create_session")
    peer.ask("append_many", session_id=1, messages=[{"role": "user", "content": "x" * 1000}] * 200)
    assert engine.stop() == 0
    path = engine.directory / "armin.db"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    torn = serve(engine.directory)
    assert torn.returncode == 13
    assert path.read_bytes() == whole[: len(whole) // 2]
    path.write_bytes(whole)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    newer = serve(engine.directory)
    assert (newer.returncode, "99" in newer.stderr) == (12, True)


def test_a_history_over_the_memory_budget_is_refused_with_the_figures(engine: Engine, peer: Peer) -> None:
    peer.ask("create_session")
    for _ in range(4):
        peer.ask("append", session_id=1, role="user", content="x" * (1 << 20))
    assert engine.stop() == 0
    refused = serve(engine.directory, "--memory", "2")
    assert refused.returncode == 14
    assert "the budget is 2 MiB" in refused.stderr


def test_a_socket_path_that_is_too_long_is_named_with_the_limit(short_dir: Path) -> None:
    directory = short_dir / ("d" * 100)
    refused = serve(directory)
    assert refused.returncode == 16
    assert "107" in refused.stderr
    assert "--ipc-dir" in refused.stderr
    assert not directory.exists()
    engine = Engine(directory, "--ipc-dir", str(short_dir / "s"))
    engine.start()
    with Peer(f"ipc://{short_dir}/s/commands.sock") as peer:
        assert peer.ask("ping")["ok"]
    assert engine.stop() == 0


def test_a_tcp_port_in_use_is_named(short_dir: Path) -> None:
    first = Engine(short_dir / "a", "--tcp", "127.0.0.1:0").start()
    with first.peer() as peer:
        port = peer.ask("hello")["endpoints"]["tcp"]["commands"]
    refused = serve(short_dir / "b", "--tcp", f"127.0.0.1:{port}")
    assert refused.returncode == 16
    assert str(port) in refused.stderr
    with Peer(f"tcp://127.0.0.1:{port}") as peer:
        assert peer.ask("ping")["ok"]
    assert first.stop() == 0


def test_while_it_recovers_the_lock_says_so_and_no_socket_exists(short_dir: Path) -> None:
    engine = Engine(short_dir / "e").start()
    with engine.peer() as peer:
        peer.ask("create_session")
        for _ in range(30):
            peer.ask("append_many", session_id=1, messages=[{"role": "user", "content": "x"}] * 10_000)
    assert engine.stop() == 0
    engine.launch()
    lock = engine.directory / "armin.db.lock"
    wait_until(lambda: lock.exists() and lock.read_text("ascii").endswith("recovering\n"))
    os.kill(engine.pid, signal.SIGSTOP)  # so that both are seen of one moment
    try:
        assert lock.read_text("ascii") == f"{engine.pid}\nrecovering\n"
        assert not (engine.directory / "commands.sock").exists()
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    assert "serving" in engine.line_within(READY_S)
    assert lock.read_text("ascii") == f"{engine.pid}\nserving\n"
    assert engine.stop() == 0
