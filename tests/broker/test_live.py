"""The live socket: what was committed, in order, from now on; heartbeats, sync and goodbye."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
import zmq

from armin_broker import protocol
from harness import Engine, Peer


class Follower:
    """A SUB, after its handshake."""

    def __init__(self, engine: Engine, peer: Peer, *topics: bytes) -> None:
        self.socket = peer.listen(engine.endpoint("live"), *topics)

    def receive(self) -> tuple[bytes, dict[str, Any]]:
        topic, event = self.socket.recv_multipart()
        return topic, msgpack.unpackb(event)

    def facts(self, count: int) -> list[tuple[bytes, dict[str, Any]]]:
        """The next facts; heartbeats, too, where they were asked for."""
        return [self.receive() for _ in range(count)]


@contextmanager
def following(engine: Engine, *topics: bytes) -> Iterator[tuple[Peer, Follower]]:
    with engine.peer() as peer:
        yield peer, Follower(engine, peer, *topics)


def test_every_fact_is_published_in_commit_order_as_the_log_has_it(engine: Engine) -> None:
    with following(engine, *protocol.FACT_TOPICS) as (peer, follower):
        for number in range(1, 4):
            peer.send("create_session", name=f"n{number}", meta={"n": number})
        for number in range(600):
            peer.send("append", session_id=number % 3 + 1, role="user", content=str(number))
        peer.send("close_session", session_id=2)
        peer.send("close_session", session_id=2)
        for _ in range(605):
            assert peer.receive()[1]["ok"]
        facts = follower.facts(604)
        assert [event["position"] for _, event in facts] == list(range(1, 605))
        assert [event for _, event in facts] == peer.ask("log", limit=10_000)["events"]
        assert [topic for topic, _ in facts[:4]] == [
            b"created/1/",
            b"created/2/",
            b"created/3/",
            b"message/1/",
        ]
        assert facts[-1][0] == b"closed/2/"


def test_topics_select_sessions(engine: Engine) -> None:
    with following(engine, protocol.message_topic(1), protocol.closed_topic(1)) as (peer, follower):
        for _ in range(12):  # session 1 is no prefix of session 11 or 12
            peer.ask("create_session")
        for session_id in (1, 11, 12, 1):
            assert peer.ask("append", session_id=session_id, role="user", content="x")["ok"]
        peer.ask("close_session", session_id=11)
        peer.ask("close_session", session_id=1)
        facts = follower.facts(3)
        assert [(event["type"], event["session_id"]) for _, event in facts] == [
            ("message_appended", 1),
            ("message_appended", 1),
            ("session_closed", 1),
        ]


def test_live_has_no_history(engine: Engine, peer: Peer) -> None:
    peer.ask("create_session")
    peer.ask("append", session_id=1, role="user", content="before")
    with following(engine, *protocol.FACT_TOPICS) as (other, follower):
        other.ask("append", session_id=1, role="user", content="after")
        ((_, event),) = follower.facts(1)
        assert event["message"]["content"] == "after"


def test_failed_commands_and_reads_publish_nothing(engine: Engine) -> None:
    with following(engine, b"") as (peer, follower):
        peer.ask("create_session")
        peer.ask("append", session_id=9, role="user", content="x")
        peer.ask("append", session_id=1, role="robot", content="x")
        for op in ("read", "snapshot", "delta"):
            assert peer.ask(op, session_id=1)["ok"]
        for op in ("log", "sessions", "stats", "hello", "verify", "refresh_snapshot"):
            assert peer.ask(op)["ok"]
        peer.ask("append", session_id=1, role="user", content="end")
        seen = [event for _, event in follower.facts(2) if event["type"] != "heartbeat"]
        while len(seen) < 2:
            seen += [event for _, event in follower.facts(1) if event["type"] != "heartbeat"]
        assert [event["position"] for event in seen] == [1, 2]


def test_every_connection_begins_with_the_epoch(engine: Engine, peer: Peer) -> None:
    welcome = [protocol.WELCOME_TOPIC + peer.ask("hello")["epoch"].encode()]
    for topic in (b"", protocol.WELCOME_TOPIC):
        live = peer.open(zmq.SUB, engine.endpoint("live"), topic)
        assert live.recv_multipart() == welcome
    engine.kill()
    engine.start()
    assert live.recv_multipart() == welcome  # on the next connection, as the socket makes it by itself
    facts = peer.open(zmq.SUB, engine.endpoint("live"), b"heartbeat/")
    assert facts.recv_multipart()[0] == protocol.HEARTBEAT_TOPIC


def test_heartbeats_carry_the_position_and_who_speaks(engine: Engine) -> None:
    with following(engine, protocol.HEARTBEAT_TOPIC) as (peer, follower):
        hello = peer.ask("hello")
        peer.ask("create_session")
        while (beat := follower.receive())[1]["position"] != 1:
            assert beat[0] == protocol.HEARTBEAT_TOPIC
        _, later = follower.receive()
        assert beat[1]["type"] == "heartbeat"
        assert {beat[1][name] == hello[name] for name in ("database", "epoch", "engine")} == {True}
        assert 500 < later["time"] - beat[1]["time"] < 10_000


def test_a_large_message_is_elided_live(engine: Engine) -> None:
    with following(engine, b"message/") as (peer, follower):
        peer.ask("create_session")
        peer.ask("append", session_id=1, role="user", content="x" * protocol.EVENT_BYTES_MAX)
        large = peer.ask("append", session_id=1, role="user", content="x" * (protocol.EVENT_BYTES_MAX + 1))
        (_, whole), (_, elided) = follower.facts(2)
        assert len(whole["message"]["content"]) == protocol.EVENT_BYTES_MAX
        assert elided["message"] == {
            "id": 2,
            "session_id": 1,
            "seq": 2,
            "role": "user",
            "created_at": large["created_at"],
            "elided": True,
        }


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_goodbye_is_said_at_a_clean_end_only(engine: Engine, end: str) -> None:
    with following(engine, protocol.GOODBYE_TOPIC) as (_, follower):
        if end == "stop":
            assert engine.stop() == 0
            assert follower.receive()[1]["type"] == "goodbye"
        else:
            engine.kill()
            assert not follower.socket.poll(200)
