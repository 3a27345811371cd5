"""A group commit that SQLite fails: `storage_failed` to each of its writes, no trace anywhere."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import zmq

from armin_broker import protocol
from harness import Engine, Peer, failing_writes, wait_until


def test_a_failed_commit_fails_every_write_of_its_group_and_nothing_shows(engine: Engine, peer: Peer) -> None:
    assert peer.ask("create_session", name="a")["ok"]
    assert peer.ask("append", session_id=1, role="user", content="before")["ok"]
    live = peer.listen(engine.endpoint("live"), *protocol.FACT_TOPICS)
    worker = peer.open(zmq.PULL, engine.endpoint("effects"))
    assert [worker.recv() and True for _ in range(2)] == [True, True]
    before = state(peer)
    with failing_writes(engine):
        for number in range(50):
            peer.send("append", session_id=1, role="user", content=f"lost {number}" * 500)
            peer.send("append", session_id=77, role="user", content="bad")
            peer.send("create_session", name="b")
            peer.send("close_session", session_id=1)
            peer.send("read", session_id=1)
        for number in range(250):
            _, reply = peer.receive()
            if number % 5 in (0, 2, 3):
                assert reply["error"]["code"] == "storage_failed", reply
                assert reply["error"]["retry"] is True
            elif number % 5 == 1:
                assert reply["error"]["code"] == "session_not_found"
            else:
                assert [message["content"] for message in reply["messages"]] == ["before"]
    assert state(peer) == before
    stats = peer.ask("stats")
    assert stats["commits_failed"] >= 1
    after = peer.ask("append", session_id=1, role="user", content="after")
    assert (after["id"], after["seq"], after["at"]) == (2, 2, 3), "no id, seq or position was used up"
    assert worker.recv()
    assert live.recv_multipart()[0] == b"message/1/"
    assert not live.poll(50)
    assert not worker.poll(50)
    engine.kill()
    engine.start()
    with engine.peer() as again:
        contents = [message["content"] for message in again.ask("read", session_id=1)["messages"]]
        assert contents == ["before", "after"]
        assert again.ask("session", name="b")["ok"] is False
        job = again.ask("verify")["job"]
        result: dict[str, Any] = {}
        wait_until(lambda: result.update(again.ask("verify", job=job)) or result["done"])
        assert result["equal"] is True


def state(peer: Peer) -> list[dict[str, Any]]:
    """Everything that a client can see of the data."""
    return [
        peer.ask("read", session_id=1),
        peer.ask("log"),
        peer.ask("sessions"),
        peer.ask("snapshot", session_id=1),
        peer.ask("delta", session_id=1),
    ]


def test_a_database_removed_under_the_engine_is_noticed_before_anything_is_acknowledged(
    engine: Engine, peer: Peer
) -> None:
    assert peer.ask("create_session")["ok"]
    assert peer.ask("stats")["writes_refused"] is None
    (engine.directory / "armin.db").rename(engine.directory / "elsewhere.db")
    refused = peer.ask("append", session_id=1, role="user", content="into the void")
    assert refused["error"]["code"] == "storage_failed"
    assert (refused["error"]["reason"], refused["error"]["retry"]) == ("file_changed", False)
    assert peer.ask("read", session_id=1)["messages"] == []
    assert peer.ask("stats")["writes_refused"] == "file_changed"
    status = subprocess.run(
        [sys.executable, "-m", "armin.cli.main", "--dir", str(engine.directory), "status"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert status.returncode == 7
    assert "REFUSING ALL WRITES (file_changed)" in status.stdout
    assert "ERROR" in engine.errors()
