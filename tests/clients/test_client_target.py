"""Where `connect` looks for the engine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from armin import ProtocolError, TargetError, connect, connect_async
from armin.results import Hello
from armin.target import DirectoryTarget, TcpTarget, find_target

IPC = {"commands": "/elsewhere/c.sock", "live": "/elsewhere/l.sock", "effects": "/elsewhere/e.sock"}
TCP = {"commands": 7000, "live": 7101, "effects": 7202}


def hello(endpoints: dict[str, object]) -> Hello:
    return Hello("armin/1", "0", (), "d", "e", "n", endpoints, {}, {}, 0)


@pytest.mark.parametrize("target", ["/data/x", "ipc:///data/x", Path("/data/x"), "/data/x/", "/data/y/../x"])
def test_a_directory_means_its_commands_socket(target: str | Path) -> None:
    assert find_target(target, {}).commands == "ipc:///data/x/commands.sock"


def test_a_relative_directory_is_taken_from_here_once_and_for_all(
    monkeypatch: pytest.MonkeyPatch, short_dir: Path
) -> None:
    monkeypatch.chdir(short_dir)
    target = find_target("x", {})
    monkeypatch.chdir("/")
    assert target.commands == f"ipc://{os.path.realpath(short_dir)}/x/commands.sock"


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        ("tcp://localhost:7000", "tcp://localhost:7000"),
        ("tcp://10.0.0.1:1/", "tcp://10.0.0.1:1"),
        ("tcp://[::1]:65535", "tcp://[::1]:65535"),
    ],
)
def test_a_tcp_address_is_the_commands_socket(target: str, endpoint: str) -> None:
    assert find_target(target, {}).commands == endpoint


@pytest.mark.parametrize(
    "target",
    [
        "tcp://localhost",
        "tcp://:7000",
        "tcp://x:0",
        "tcp://x:65536",
        "tcp://::1:7",
        "tcp:x:7",
        "http://x:7",
        "ipc://",
        "",
    ],
)
def test_what_names_no_place_is_refused_and_quoted(target: str) -> None:
    with pytest.raises(TargetError) as caught:
        find_target(target, {})
    assert target in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_without_a_target_the_environment_decides_and_the_url_wins() -> None:
    assert find_target(None, {"ARMIN_DIR": "/data/x"}) == DirectoryTarget("/data/x")
    assert find_target(None, {"ARMIN_URL": "tcp://h:7"}) == TcpTarget("h", 7)
    assert find_target(None, {"ARMIN_DIR": "/data/x", "ARMIN_URL": "tcp://h:7"}) == TcpTarget("h", 7)
    assert find_target("/data/y", {"ARMIN_URL": "tcp://h:7"}) == DirectoryTarget("/data/y")


@pytest.mark.parametrize("make", [connect, connect_async])
def test_the_environment_is_read_at_the_call(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(make)
    monkeypatch.delenv("ARMIN_URL", raising=False)
    monkeypatch.setenv("ARMIN_DIR", "/" + "x" * 200)
    with pytest.raises(TargetError, match="107"):
        make()
    monkeypatch.delenv("ARMIN_DIR")
    with pytest.raises(TargetError, match=r"pass a directory .* or set ARMIN_DIR or ARMIN_URL"):
        make()


def test_a_path_too_long_for_a_socket_is_refused_with_the_limit() -> None:
    longest = "/" + "x" * (107 - len("/" + "/commands.sock"))
    assert len(find_target(longest, {}).commands) == len("ipc://") + 107
    with pytest.raises(TargetError, match="108 bytes long and the system allows 107") as caught:
        find_target(longest + "x", {})
    assert caught.value.limit == 107


def test_a_path_is_measured_in_bytes() -> None:
    with pytest.raises(TargetError, match="107"):
        find_target("/" + "ü" * 60, {})


def test_other_sockets_are_files_of_the_directory_that_the_client_connected_with() -> None:
    target = DirectoryTarget("/mnt/here")
    assert target.live(hello({"ipc": IPC})) == "ipc:///mnt/here/l.sock"
    assert target.effects(hello({"ipc": IPC})) == "ipc:///mnt/here/e.sock"


def test_other_sockets_are_ports_of_the_host_that_the_client_connected_with() -> None:
    target = TcpTarget("far.example", 7000)
    assert target.live(hello({"ipc": IPC, "tcp": TCP})) == "tcp://far.example:7101"
    assert target.effects(hello({"ipc": IPC, "tcp": TCP})) == "tcp://far.example:7202"


@pytest.mark.parametrize(
    "endpoints", [{}, {"ipc": {}}, {"ipc": {"live": 7}}, {"ipc": {"live": "/x/"}}, {"ipc": []}]
)
def test_a_hello_without_the_endpoint_is_a_protocol_error(endpoints: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="live socket"):
        DirectoryTarget("/d").live(hello(endpoints))


def test_a_timeout_that_waits_for_nothing_is_refused(short_dir: Path) -> None:
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            connect(short_dir, timeout=timeout)
