"""Every limit of the protocol, at it and one past it: tests elsewhere are named, the others are here."""

from __future__ import annotations

import ast
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
import zmq

from armin_broker import protocol
from conformance.bench_of import ENGINE_CASES
from harness import Engine, Peer, wait_until

TESTS: Final = Path(__file__).parents[1]
HERE: Final = "system/test_limits.py"


class Pair:
    """The tests that hold a limit, at it and past it: a conformance vector or `file::name`."""

    def __init__(self, at: str, past: str | None = None) -> None:
        self.names = (at, at if past is None else past)  # many a test does both


HELD: Final = {
    "content_bytes": Pair("limits/content_bytes_at_the_limit", "limits/content_bytes"),
    "meta_bytes": Pair("limits/meta_bytes"),
    "meta_depth": Pair("limits/meta_depth"),
    "name_bytes": Pair("limits/name_bytes"),
    "key_bytes": Pair("limits/key_bytes"),
    "batch_messages": Pair("limits/batch_messages"),
    "batch_bytes": Pair("limits/batch_bytes_at_the_limit", "limits/batch_bytes"),
    "pipeline_commands": Pair("limits/pipeline_commands"),
    "page_bytes": Pair("limits/page_bytes", "limits/page_bytes_of_the_log"),
    "page_items": Pair("limits/page_items"),
    "tails": Pair("limits/tails"),
    "envelope_frames": Pair("limits/envelope_frames"),
    "envelope_frame_bytes": Pair("limits/envelope_frame_bytes"),
    "command_bytes": Pair("limits/command_bytes"),
    "command_nodes": Pair("limits/command_nodes"),
    "event_bytes": Pair("limits/event_bytes"),
    "sync_token": Pair("limits/sync_token"),
    "waiting_bytes": Pair("limits/waiting_bytes", "limits/waiting_bytes_exceeded"),
    "group_name_bytes": Pair("limits/group_name_bytes"),
    "groups": Pair("limits/groups"),
    "leases": Pair("limits/leases"),
    "taken": Pair("limits/taken"),
    "polls": Pair("limits/polls"),
    "wait_ms": Pair("limits/wait_ms"),
    "lease_ms": Pair("limits/lease_ms"),
    "lease_bytes": Pair("limits/lease_bytes"),
    "attempts": Pair("limits/attempts"),
    "request_bytes": Pair("limits/request_bytes"),
    "nack_reason_bytes": Pair("limits/nack_reason_bytes"),
    "backup_name_bytes": Pair("limits/backup_name_bytes"),
    "effects_backlog": Pair(f"{HERE}::test_effects_wait_up_to_the_backlog_and_drop_beyond_it"),
    "effects_backlog_bytes": Pair(f"{HERE}::test_large_effects_wait_up_to_the_backlogs_bytes"),
    "live_backlog": Pair(
        f"{HERE}::test_a_follower_may_be_as_far_behind_as_the_live_backlog",
        f"{HERE}::test_a_follower_further_behind_loses_events_and_nobody_else_does",
    ),
    "subscription_bytes": Pair(
        f"{HERE}::test_a_subscription_at_its_limit_is_taken",
        f"{HERE}::test_a_larger_subscription_closes_its_own_connection",
    ),
    "connections": Pair(f"{HERE}::test_connections_up_to_the_limit_are_served_and_more_are_cut"),
}


def test_every_limit_is_held_at_it_and_past_it() -> None:
    assert HELD.keys() == protocol.LIMITS.keys()
    for name, pair in HELD.items():
        for each in pair.names:
            assert exists(each), f"{name} is said to be held by {each}"


def exists(name: str) -> bool:
    file, colons, function = name.partition("::")
    if not colons:
        return name in ENGINE_CASES
    parsed = ast.parse((TESTS / file).read_text("utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in parsed.body)


def test_hello_names_them_all(peer: Peer) -> None:
    limits = peer.ask("hello")["limits"]
    assert limits["connections"] <= protocol.CONNECTIONS_MAX, "fewer where descriptors are short"
    assert limits == {**protocol.LIMITS, "connections": limits["connections"]}


# --- effects --------------------------------------------------------------------------------------


def append(peer: Peer, count: int, content: str = "x") -> None:
    messages = [{"role": "user", "content": content}] * count
    assert peer.ask("append_many", session_id=1, messages=messages)["ok"]


def figures(peer: Peer) -> tuple[int, int]:
    stats = peer.ask("stats")
    return stats["effects_backlog"], stats["effects_dropped"]


def test_effects_wait_up_to_the_backlog_and_drop_beyond_it(engine: Engine, peer: Peer) -> None:
    most = protocol.EFFECTS_BACKLOG_MAX
    peer.ask("create_session")
    append(peer, most - 1)
    assert figures(peer) == (most, 0)
    append(peer, 2)
    assert figures(peer) == (most, 2)
    worker = peer.open(zmq.PULL, engine.endpoint("effects"))
    positions = [msgpack.unpackb(worker.recv())["position"] for _ in range(most)]
    assert positions == list(range(1, most + 1)), "the newest were dropped"
    append(peer, 1)
    assert msgpack.unpackb(worker.recv())["position"] == most + 3, "it goes on"
    assert figures(peer) == (0, 2)


def test_large_effects_wait_up_to_the_backlogs_bytes(engine: Engine, peer: Peer) -> None:
    most = protocol.EFFECTS_BACKLOG_BYTES_MAX
    peer.ask("create_session")
    for _ in range(5):
        append(peer, 250, "x" * protocol.EVENT_BYTES_MAX)
    kept, dropped = figures(peer)
    assert kept + dropped == 1251
    worker = peer.open(zmq.PULL, engine.endpoint("effects"))
    sizes = [len(worker.recv()) for _ in range(kept)]
    assert sum(sizes) <= most < sum(sizes) + sizes[-1]


# --- live -----------------------------------------------------------------------------------------

# libzmq learns of what was taken in halves of the backlog, so a handshake's messages still count as waiting.
HANDSHAKE: Final = 64


def frame(body: bytes, flags: int = 0) -> bytes:
    """One ZMTP frame."""
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body


class Follower:
    """A raw subscriber that reads when it is told to, so that nothing is buffered for it on its side."""

    def __init__(self, engine: Engine) -> None:
        self._raw = socket.socket(socket.AF_UNIX)
        self._raw.settimeout(60)
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._raw.connect(str(engine.directory / "live.sock"))
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
        ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 3) + b"SUB"
        self._raw.sendall(greeting + frame(ready, 4))
        self._bytes = self._raw.makefile("rb")
        assert self._bytes.read(64)[10] == 3
        assert self.message()[0].startswith(b"\x05READY")

    def subscribe(self, topic: bytes) -> None:
        self._raw.sendall(frame(b"\x01" + topic))

    def message(self) -> list[bytes]:
        """The frames of the next one; none when the engine has hung up."""
        frames: list[bytes] = []
        while head := self._bytes.read(2):
            size = head[1:] + self._bytes.read(7) if head[0] & 2 else head[1:]
            frames.append(self._bytes.read(int.from_bytes(size, "big")))
            if not head[0] & 1:
                break
        return frames

    def has_more(self) -> bool:
        """Whether something has come, or comes within a moment."""
        return bool(select.select([self._raw], [], [], protocol.SYNC_RESEND_MS / 1000)[0])

    def heartbeat(self) -> dict[str, Any]:
        """The next one of a kind that comes by itself."""
        while (event := self.event())["type"] != "heartbeat":
            pass
        return event

    def event(self) -> dict[str, Any]:
        """The next event, without its topic."""
        _, packed = self.message()
        event: dict[str, Any] = msgpack.unpackb(packed)
        return event

    def close(self) -> None:
        self._bytes.close()
        self._raw.close()


@contextmanager
def following(engine: Engine, peer: Peer, *topics: bytes) -> Iterator[Follower]:
    """A raw subscriber whose subscriptions have arrived."""
    follower = Follower(engine)
    try:
        for topic in (*topics, protocol.sync_topic("t")):
            follower.subscribe(topic)
        frames: list[bytes] = []
        while len(frames) != 2:  # a welcome is one frame
            peer.ask("sync", token="t")
            frames = follower.message() if follower.has_more() else []
        yield follower
    finally:
        follower.close()


def seqs(follower: Follower, until: int) -> list[int]:
    """The seqs of all messages up to that one."""
    found: list[int] = []
    while not found or found[-1] < until:
        event = follower.event()
        if event["type"] == "message_appended":
            found.append(event["message"]["seq"])
    return found


def test_a_follower_may_be_as_far_behind_as_the_live_backlog(engine: Engine, peer: Peer) -> None:
    most = protocol.LIVE_BACKLOG_MAX - HANDSHAKE
    peer.ask("create_session")
    with following(engine, peer, b"message/1/") as follower:
        append(peer, most)
        assert seqs(follower, most) == list(range(1, most + 1))


def test_a_follower_further_behind_loses_events_and_nobody_else_does(engine: Engine, peer: Peer) -> None:
    most, beyond = protocol.LIVE_BACKLOG_MAX - HANDSHAKE, 4000  # what the system's own buffers hold is less
    peer.ask("create_session")
    with following(engine, peer, b"message/1/") as stuck, following(engine, peer, b"message/1/") as other:
        heard: list[int] = []
        for first in range(0, most + beyond, 500):
            append(peer, 500, "x" * 1000)
            heard += seqs(other, first + 500)
        assert heard == list(range(1, heard[-1] + 1))
        kept: list[int] = []
        while (event := stuck.event())["type"] != "sync" or not kept:
            kept += [event["message"]["seq"]] if event["type"] == "message_appended" else []
            peer.ask("sync", token="t")  # in time there is room for it, behind all that was kept
        assert kept[:most] == list(range(1, most + 1)), "the oldest are kept"
        assert len(kept) < heard[-1], "the others are lost"
        page = peer.ask("read", session_id=1, after=kept[-1], limit=1, reason="heal")
        assert page["messages"][0]["seq"] == kept[-1] + 1


def test_a_subscription_at_its_limit_is_taken(engine: Engine, peer: Peer) -> None:
    with following(engine, peer) as follower:
        follower.subscribe(b"t" * (protocol.SUBSCRIPTION_BYTES_MAX - 1))
        follower.subscribe(b"heartbeat/")
        assert follower.heartbeat(), "the connection stands"


def test_a_larger_subscription_closes_its_own_connection(engine: Engine, peer: Peer) -> None:
    with following(engine, peer, b"heartbeat/") as other, following(engine, peer) as follower:
        follower.subscribe(b"t" * protocol.SUBSCRIPTION_BYTES_MAX)
        while follower.message():
            pass
        assert other.heartbeat()


# --- connections ----------------------------------------------------------------------------------

CONNECTIONS = 6


@pytest.fixture
def narrow(short_dir: Path) -> Iterator[Engine]:
    """An engine that takes few connections."""
    engine = Engine(short_dir / "e", "--tcp", "127.0.0.1:0", "--connections", str(CONNECTIONS)).start()
    yield engine
    if engine.process is not None and engine.process.returncode is None:
        engine.stop()


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_connections_up_to_the_limit_are_served_and_more_are_cut(narrow: Engine, transport: str) -> None:
    with narrow.peer() as first, ExitStack() as others:
        hello = first.ask("hello")
        assert hello["limits"]["connections"] == CONNECTIONS
        place = hello["endpoints"][transport]["commands"]
        endpoint = f"ipc://{place}" if transport == "ipc" else f"tcp://127.0.0.1:{place}"
        peers = [others.enter_context(Peer(endpoint)) for _ in range(CONNECTIONS - (transport == "ipc"))]
        for each in peers:
            assert each.ask("ping")["ok"]
        assert first.ask("stats")["connections_refused"] == 0
        raw = socket.socket(socket.AF_UNIX if transport == "ipc" else socket.AF_INET)
        with raw:
            raw.settimeout(60)
            raw.connect(place if transport == "ipc" else ("127.0.0.1", place))
            while raw.recv(4096):
                pass
        assert first.ask("stats")["connections_refused"] == 1
        for each in (*peers, first):
            assert each.ask("ping")["ok"], "nobody else is cut"
        peers[0].close()
        wait_until(lambda: first.ask("stats")[f"connections_{transport}"] < CONNECTIONS)
        with Peer(endpoint) as late:
            assert late.ask("ping")["ok"], "there is room again"
