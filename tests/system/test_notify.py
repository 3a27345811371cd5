"""What a real engine tells a service manager; a socket of the test's stands in for systemd's."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import READY_S, Engine, wait_until


class Manager:
    """The notify socket of a service manager, and what came to it."""

    def __init__(self, address: str) -> None:
        self.messages: list[str] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(READY_S)
        self.socket.bind(address.replace("@", "\0"))

    def hears(self, message: str) -> str:
        """Read on until a message has this in it."""
        while True:
            self.messages.append(self.socket.recv(4096).decode())
            if message in self.messages[-1]:
                return self.messages[-1]

    def heard(self) -> list[str]:
        """All messages that have come."""
        self.socket.setblocking(False)
        try:
            while True:
                self.messages.append(self.socket.recv(4096).decode())
        except BlockingIOError:
            return self.messages


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Manager]:
    address = str(short_dir / "n") if request.param == "path" else f"@{uuid.uuid4().hex}"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    manager = Manager(address)
    yield manager
    manager.socket.close()


one_kind = pytest.mark.parametrize("manager", ["path"], indirect=True)


@pytest.fixture
def stopped(short_dir: Path) -> Iterator[Engine]:
    """An engine that the test starts."""
    engine = Engine(short_dir / "e")
    yield engine
    if engine.process is not None and engine.process.returncode is None:
        engine.kill()


def fill(engine: Engine) -> None:
    """So many facts that their recovery takes a moment."""
    engine.start()
    with engine.peer() as peer:
        peer.ask("create_session")
        for _ in range(20):
            peer.ask("append_many", session_id=1, messages=[{"role": "user", "content": "x"}] * 10_000)
    assert engine.stop() == 0


def test_ready_once_the_sockets_answer_then_stopping_and_a_clean_end(
    manager: Manager, stopped: Engine
) -> None:
    stopped.launch()
    manager.hears("READY=1")
    for name in ("commands", "live", "effects"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(stopped.directory / f"{name}.sock"))
    with stopped.peer() as peer:
        assert peer.ask("ping")["ok"]
    assert stopped.stop() == 0
    said = [message.splitlines()[0] for message in manager.heard()]
    assert said == ["STATUS=opening", "READY=1", "STOPPING=1"]
    assert "EXTEND_TIMEOUT_USEC=300000000" in manager.messages[0]


@one_kind
def test_an_engine_that_cannot_bind_is_never_ready(manager: Manager, short_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        engine = Engine(short_dir / "e", "--tcp", f"127.0.0.1:{taken.getsockname()[1]}")
        assert engine.launch().wait(READY_S) == 16
        engine.stop()
    assert not [message for message in manager.heard() if "READY" in message]


@one_kind
def test_recovery_tells_how_far_it_is_and_asks_for_time(
    manager: Manager, stopped: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("NOTIFY_SOCKET")
        fill(stopped)
    stopped.launch()
    manager.hears("READY=1")
    before = manager.messages[1:-1]
    steps = [re.fullmatch(r"STATUS=recovering, (\d+) of 200001 facts\n(.*)", text) for text in before]
    done = [int(step[1]) for step in steps if step]
    assert done
    assert len(done) == len(before)
    assert done == sorted(done)
    assert 0 < done[0] < 200_001
    assert {step[2] for step in steps if step} == {"EXTEND_TIMEOUT_USEC=300000000"}
    assert stopped.stop() == 0


@one_kind
def test_a_stop_during_recovery_is_told_too(
    manager: Manager, stopped: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("NOTIFY_SOCKET")
        fill(stopped)
    process = stopped.launch()
    manager.hears("recovering")
    process.send_signal(signal.SIGTERM)
    manager.hears("STOPPING=1")
    assert stopped.stop() == 128 + signal.SIGTERM
    assert not [message for message in manager.heard() if "READY" in message]


@one_kind
def test_the_watchdog_is_fed_as_long_as_the_loop_turns(
    manager: Manager, stopped: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    stopped.start()
    manager.socket.settimeout(30)  # half of the interval
    manager.hears("READY=1")
    for _ in range(4):
        assert manager.hears("WATCHDOG") == "WATCHDOG=1"
    assert stopped.stop() == 0


@one_kind
def test_a_manager_that_vanishes_does_not_disturb(
    manager: Manager, short_dir: Path, stopped: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    stopped.start()
    manager.hears("WATCHDOG=1")
    manager.socket.close()
    (short_dir / "n").unlink()
    wait_until(lambda: "cannot notify the service manager" in stopped.errors())
    with stopped.peer() as peer:
        assert peer.ask("ping")["ok"]
    assert stopped.stop() == 0


@one_kind
def test_a_manager_that_reads_nothing_holds_up_nothing_and_hears_of_it_later(
    manager: Manager, short_dir: Path, stopped: Engine
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        waiting = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"X=1", str(short_dir / "n"))
                waiting += 1
    stopped.start()
    with stopped.peer() as peer:
        assert peer.ask("ping")["ok"]
    assert [manager.socket.recv(4096) for _ in range(waiting)] == [b"X=1"] * waiting
    manager.hears("READY=1")
    assert stopped.stop() == 0
