"""An engine does not start where strangers could come in, unless it is told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from armin_broker.binding import is_loopback
from armin_broker.keyring import Keyring
from command_line import CommandLine
from harness import Engine, Peer


def hears_a_stranger(port: int) -> bool:
    """Whether an engine answers who has no key."""
    with Peer(f"tcp://127.0.0.1:{port}") as stranger:
        stranger.send("hello")
        return bool(stranger.socket.poll(500))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "[::1]", "::1"])
def test_loopback_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "*", "[::]", "192.168.0.1", "eth0", "example.org", "localhost.x"]
)
def test_all_else_is_not(host: str) -> None:
    assert not is_loopback(host)


def test_tcp_beyond_loopback_without_keys_is_refused(short_dir: Path) -> None:
    result = CommandLine().run("serve", str(short_dir / "e"), "--tcp", "0.0.0.0:0")
    assert result.code == 22
    assert "0.0.0.0" in result.err
    assert "--insecure" in result.err
    assert "armin --dir" in result.err
    assert not (short_dir / "e" / "armin.db").exists()


def test_told_to_it_serves_and_warns_at_every_start(short_dir: Path) -> None:
    engine = Engine(short_dir / "e", "--tcp", "0.0.0.0:0", "--insecure")
    for start in (1, 2):
        engine.start()
        with engine.peer() as peer:
            port = peer.ask("hello")["endpoints"]["tcp"]["commands"]
        with Peer(f"tcp://127.0.0.1:{port}") as stranger:
            assert stranger.ask("hello")["role"] == "admin"
        engine.stop()
        assert engine.errors().count("INSECURE") == start


def test_with_keys_it_serves_beyond_loopback_and_insecure_opens_nothing(short_dir: Path) -> None:
    Keyring(short_dir / "e" / "keys").new("a", "reader")
    engine = Engine(short_dir / "e", "--tcp", "0.0.0.0:0", "--insecure").start()
    with engine.peer() as peer:
        port = peer.ask("hello")["endpoints"]["tcp"]["commands"]
    assert not hears_a_stranger(port)
    assert engine.stop() == 0
    assert "INSECURE" not in engine.errors()


def test_when_every_key_is_revoked_the_door_stays_shut(short_dir: Path) -> None:
    keyring = Keyring(short_dir / "e" / "keys")
    keyring.new("a", "reader")
    keyring.revoke("a")
    engine = Engine(short_dir / "e", "--tcp", "127.0.0.1:0").start()
    with engine.peer() as peer:
        port = peer.ask("hello")["endpoints"]["tcp"]["commands"]
    assert not hears_a_stranger(port)
    engine.stop()


@pytest.mark.parametrize("damaged", ["server.key", "a.json"])
def test_keys_that_cannot_be_used_are_refused_at_the_start(short_dir: Path, damaged: str) -> None:
    keyring = Keyring(short_dir / "e" / "keys")
    keyring.new("a", "reader")
    (keyring.directory / damaged).write_text("{")
    result = CommandLine().run("serve", str(short_dir / "e"), "--tcp", "127.0.0.1:0")
    assert result.code == 19
    assert damaged in result.err
    engine = Engine(short_dir / "e").start()  # without tcp nobody needs them
    assert engine.stop() == 0


def test_a_server_key_that_is_gone_does_not_open_the_door(short_dir: Path) -> None:
    keyring = Keyring(short_dir / "e" / "keys")
    keyring.new("a", "reader")
    (keyring.directory / "server.key").unlink()
    for host in ("127.0.0.1", "0.0.0.0"):
        assert CommandLine().run("serve", str(short_dir / "e"), "--tcp", f"{host}:0").code == 19


def test_keys_that_are_no_directory_are_refused(short_dir: Path) -> None:
    (short_dir / "e").mkdir(mode=0o700)
    (short_dir / "e" / "keys").touch()
    assert CommandLine().run("serve", str(short_dir / "e"), "--tcp", "127.0.0.1:0").code == 19


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o770])
def test_a_directory_that_is_open_to_others_is_refused(short_dir: Path, mode: int) -> None:
    directory = short_dir / "e"
    directory.mkdir()
    directory.chmod(mode)
    result = CommandLine().run("serve", str(directory))
    assert result.code == 23
    assert f"chmod go= {directory}" in result.err
    assert not (directory / "armin.db").exists()
    directory.chmod(0o700)
    engine = Engine(directory).start()
    assert engine.stop() == 0


def test_an_open_directory_of_sockets_is_refused_too(short_dir: Path) -> None:
    sockets = short_dir / "s"
    sockets.mkdir()
    sockets.chmod(0o755)
    result = CommandLine().run("serve", str(short_dir / "e"), "--ipc-dir", str(sockets))
    assert (result.code, str(sockets) in result.err) == (23, True)


def test_told_to_it_serves_in_an_open_directory_and_warns(short_dir: Path) -> None:
    directory = short_dir / "e"
    directory.mkdir()
    directory.chmod(0o755)
    engine = Engine(directory, "--insecure").start()
    assert engine.stop() == 0
    assert "INSECURE" in engine.errors()
    assert "mode 0755" in engine.errors()


def test_a_half_open_peer_is_cut_off(short_dir: Path) -> None:
    """It connects by tcp, says nothing, and is gone when its time to say who it is has run out."""
    import socket

    engine = Engine(short_dir / "e", "--tcp", "127.0.0.1:0").start()
    with engine.peer() as peer:
        port = peer.ask("hello")["endpoints"]["tcp"]["commands"]
        with socket.create_connection(("127.0.0.1", port), timeout=90) as silent:
            while silent.recv(64):
                pass
            assert peer.ask("ping")["ok"]
    engine.stop()
