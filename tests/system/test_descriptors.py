"""An engine that is short of file descriptors serves on, and says what it could not do rather than guess."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import Engine, Peer, wait_until

FEW = 128
CROWD = 400  # connections, more than three times as many


@contextmanager
def no_more_descriptors(engine: Engine) -> Iterator[None]:
    """Opening anything fails in the kernel (EMFILE)."""
    soft, hard = resource.prlimit(engine.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(engine.pid, resource.RLIMIT_NOFILE, (8, hard))  # poll() takes no more than that
    try:
        yield
    finally:
        resource.prlimit(engine.pid, resource.RLIMIT_NOFILE, (soft, hard))


def verified(peer: Peer) -> dict[str, Any]:
    """What `verify` comes to, or the error that it ends with."""
    return ended(peer, "verify")


def ended(peer: Peer, op: str, **fields: Any) -> dict[str, Any]:
    """The last reply of a job."""
    replies = [peer.ask(op, **fields)]

    def done() -> bool:
        if replies[-1]["ok"]:
            replies.append(peer.ask(op, job=replies[0]["job"]))
        return not replies[-1]["ok"] or bool(replies[-1]["done"])

    wait_until(done)
    return replies[-1]


def test_verify_that_cannot_open_the_file_finds_no_differences(engine: Engine, peer: Peer) -> None:
    peer.ask("create_session")
    with no_more_descriptors(engine):
        error = verified(peer)["error"]
        assert (error["code"], error["reason"]) == ("storage_failed", "read")
        assert peer.ask("append", session_id=1, role="user", content="served on")["seq"] == 1
    report = verified(peer)
    assert (report["equal"], report["checked"]) == (True, 2)


def test_a_backup_that_cannot_begin_says_so(engine: Engine, peer: Peer) -> None:
    peer.ask("create_session")
    with no_more_descriptors(engine):
        assert ended(peer, "backup")["error"]["code"] == "storage_failed"
    assert ended(peer, "backup")["backup_position"] == 1


@pytest.fixture
def cramped(short_dir: Path) -> Iterator[Engine]:
    """An engine with few descriptors, on tcp too."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))

    engine = Engine(short_dir / "e", "--tcp", "127.0.0.1:0", preexec=limit).start()
    yield engine
    if engine.process is not None and engine.process.returncode is None:
        engine.stop()


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
@pytest.mark.parametrize("name", ["commands", "live", "effects"])
def test_more_connections_than_descriptors_harm_nobody(cramped: Engine, transport: str, name: str) -> None:
    with cramped.peer() as peer, ExitStack() as crowd:
        hello = peer.ask("hello")
        place, limit = hello["endpoints"][transport][name], hello["limits"]["connections"]
        assert 1 <= limit < FEW // 2
        assert peer.ask("create_session")["ok"]
        for number in range(1, CROWD + 1):
            crowd.enter_context(connected(place))
            if number % 100 == 0:
                assert peer.ask("append", session_id=1, role="user", content="x")["seq"] == number // 100
            elif transport == "ipc":
                # libzmq aborts where it finds no descriptor for one by ipc, so these do not come all at once.
                assert peer.ask("ping")["ok"]
        wait_until(lambda: peer.ask("stats")["connections_refused"] >= CROWD - limit)
        wait_until(lambda: peer.ask("stats")[f"connections_{transport}"] <= limit)
        report = verified(peer)
        assert report["ok"], "descriptors are kept back for files"
        assert report["equal"]
        assert ended(peer, "backup")["ok"]
        crowd.close()
        endpoint = f"ipc://{place}" if transport == "ipc" else f"tcp://127.0.0.1:{place}"
        if name == "commands":
            with Peer(endpoint) as late:  # it is let in again
                assert late.ask("read", session_id=1)["seq"] == 4
    assert cramped.stop() == 0


def connected(place: str | int) -> socket.socket:
    """A connection that says nothing."""
    raw = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
    raw.settimeout(60)
    raw.connect(place if isinstance(place, str) else ("127.0.0.1", place))
    return raw
