"""Peers that do not take their replies: bounded in bytes, counted, and harming nobody else."""

from __future__ import annotations

import msgpack
import pytest
import zmq

from armin_broker import command_socket
from armin_broker.command_socket import CommandSocket
from armin_broker.sender import TRUSTED
from harness import Engine, Peer, Sockets, wait_until

MIB = 1 << 20


def test_replies_wait_for_a_peer_that_is_behind_and_keep_their_order(engine: Engine, peer: Peer) -> None:
    peer.ask("create_session")
    peer.ask("append", session_id=1, role="user", content="x" * (900 << 10))
    with Peer(engine.endpoint("commands")) as slow:
        slow.socket.rcvhwm = 1
        count = 300  # 264 MiB of replies that nobody takes yet
        for _ in range(count):
            slow.send("read", session_id=1)
            slow.send("ping")
        wait_until(lambda: peer.ask("stats")["commands"] > 2 * count)
        assert engine.rss() < 220 * MIB
        assert peer.ask("append", session_id=1, role="user", content="nobody else waits")["ok"]
        for number in range(2 * count):
            correlation, reply = slow.receive()
            assert correlation == b"%d" % (number + 1)
            assert ("messages" in reply) == (number % 2 == 0)
    assert peer.ask("stats")["replies_lost"] == 0


def test_a_peer_that_vanishes_with_replies_waiting_is_forgotten(engine: Engine, peer: Peer) -> None:
    peer.ask("create_session")
    peer.ask("append", session_id=1, role="user", content="x" * (900 << 10))
    slow = Peer(engine.endpoint("commands"))
    slow.socket.rcvhwm = 1
    for _ in range(200):
        slow.send("read", session_id=1)
    wait_until(lambda: peer.ask("stats")["commands"] > 200)
    slow.close()
    wait_until(lambda: peer.ask("stats")["replies_lost"] > 0)
    assert peer.ask("read", session_id=1)["ok"]


def test_replies_over_the_bound_are_lost_and_counted(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_socket, "WAITING_BYTES_MAX", 5 * 450)
    server = CommandSocket(sockets.context)
    sockets.keep(server.socket)
    server.socket.sndhwm = 3
    server.socket.bind("inproc://commands")
    client = sockets.open(zmq.DEALER)
    client.rcvhwm = 1
    client.connect("inproc://commands")
    client.send(b"command")
    wait_until(lambda: bool(server.socket.poll(0)))
    (arrival,) = server.drain(10, MIB)
    for number in range(50):
        server.send(arrival.envelope, b"%d" % number)
    assert server.behind
    received = []

    def all_there() -> bool:
        server.flush()
        while client.poll(0):
            received.append(int(client.recv()))
        return not server.behind

    wait_until(all_there)
    assert received == list(range(50 - server.replies_lost))
    assert server.replies_lost > 0


def test_reads_that_wait_are_bounded_in_bytes(engine: Engine, peer: Peer) -> None:
    ids = [peer.ask("create_session")["session"]["id"]] * 10_000
    before = engine.rss()
    with Peer(engine.endpoint("commands")) as slow:
        slow.socket.rcvhwm = 1
        for _ in range(3000):
            slow.send("tails", session_ids=ids)
        wait_until(lambda: peer.ask("stats")["commands"] > 3000)
        assert engine.rss() - before < 160 * MIB


def test_a_read_that_a_stuck_peer_does_not_take_is_rendered_once(engine: Engine, peer: Peer) -> None:
    peer.ask("create_session")
    peer.ask("append", session_id=1, role="user", content="x" * (20 << 10))
    with Peer(engine.endpoint("commands")) as stuck:
        stuck.socket.rcvhwm = 1
        for _ in range(5000):
            stuck.send("read", session_id=1, reason="heal")
        wait_until(lambda: peer.ask("stats")["commands"] > 5000)
        # In the end none is rendered any more, though the engine goes on turning: it is stuck.
        rendered = [0]

        def is_at_rest() -> bool:
            rendered.append(peer.ask("stats")["heals"])
            for _ in range(20):
                peer.ask("sync", token="t")
                zmq.Poller().poll(10)
            return peer.ask("stats")["heals"] - rendered[-1] <= 1

        wait_until(is_at_rest)
        assert 0 < rendered[-1] < 5000, "the peer is stuck"


def test_reads_of_one_peer_hold_up_nobody_else(sockets: Sockets) -> None:
    now = [0.0]
    server = CommandSocket(sockets.context, lambda: now[0])
    sockets.keep(server.socket).bind("inproc://commands")
    clients = [sockets.open(zmq.DEALER, "inproc://commands") for _ in range(2)]
    for client in clients:
        client.send(b"hello")
    greedy, modest = [], []
    wait_until(lambda: len(greedy.extend(server.drain(10, MIB)) or greedy) == 2)
    greedy, modest = greedy[0].envelope, greedy[1].envelope

    def slow() -> bytes:
        now[0] += command_socket.RENDER_MS
        return b"page"

    server.answer = lambda payload, sender: slow() if payload == b"slow" else payload
    server.flush()
    for _ in range(100):
        server.send(greedy, command_socket.Unrendered(slow, b"slow", TRUSTED))
    server.send(modest, command_socket.Unrendered(lambda: b"quick", b"quick", TRUSTED))
    assert now[0] == command_socket.RENDER_MS, "one page a turn"
    turns = 0
    while not clients[1].poll(20):
        assert server.flush() or turns
        turns += 1
    assert turns <= 3
    assert clients[1].recv() == b"quick"
    while server.flush():
        pass
    assert [clients[0].recv() for _ in range(100)] == [b"page"] * 100
    assert server.replies_lost == 0


def test_a_reply_to_a_peer_that_is_gone_is_counted(sockets: Sockets) -> None:
    server = CommandSocket(sockets.context)
    sockets.keep(server.socket)
    server.send([b"\0nobody"], b"small")
    server.send([b"\0nobody"], b"x" * command_socket.LARGE_REPLY_BYTES)
    assert server.replies_lost == 2
    assert not server.behind


def test_draining_is_bounded_by_count_and_by_bytes(sockets: Sockets) -> None:
    server = CommandSocket(sockets.context)
    sockets.keep(server.socket)
    server.socket.bind("inproc://commands")
    client = sockets.open(zmq.DEALER, "inproc://commands")
    for number in range(20):
        client.send(msgpack.packb(number) * 100)
    wait_until(lambda: bool(server.socket.poll(0)))
    assert len(server.drain(7, MIB)) == 7
    assert len(server.drain(100, 450)) == 5
    assert len(server.drain(100, MIB)) == 8
    assert server.drain(100, MIB) == []
    assert server.received == 20
