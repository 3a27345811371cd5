"""The effects socket: one effect for each fact, in commit order; bounded backlog, counted drops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from armin_broker.effects_socket import SEND_HWM, EffectsSocket
from armin_engine import Armin
from harness import Engine, Peer, Sockets, wait_until


def effect(socket: zmq.Socket[bytes]) -> dict[str, Any]:
    event: dict[str, Any] = msgpack.unpackb(socket.recv())
    return event


def test_one_effect_for_each_fact_in_commit_order_and_none_from_reads(engine: Engine, peer: Peer) -> None:
    worker = peer.open(zmq.PULL, engine.endpoint("effects"))
    peer.ask("create_session")
    for number in range(500):
        peer.send("append", session_id=1, role="user", content=str(number))
        peer.send("read", session_id=1)
        peer.send("append", session_id=1, role="robot", content="bad")
    peer.send("refresh_snapshot")
    peer.send("close_session", session_id=1)
    peer.send("close_session", session_id=1)
    for _ in range(1503):
        peer.receive()
    effects = [effect(worker) for _ in range(502)]
    assert [event["position"] for event in effects] == list(range(1, 503))
    assert effects == peer.ask("log", limit=1000)["events"]
    assert not worker.poll(100)
    assert peer.ask("stats")["effects_sent"] == 502


def test_effects_are_balanced_over_workers_none_twice(engine: Engine, peer: Peer) -> None:
    workers = [peer.open(zmq.PULL, engine.endpoint("effects")) for _ in range(3)]
    peer.ask("create_session")
    wait_until(lambda: peer.ask("ping")["ok"])
    for number in range(300):
        peer.send("append", session_id=1, role="user", content=str(number))
    for _ in range(300):
        peer.receive()
    positions: list[int] = []
    shares = [0, 0, 0]

    def all_there() -> bool:
        for index, worker in enumerate(workers):
            while worker.poll(0):
                positions.append(effect(worker)["position"])
                shares[index] += 1
        return len(positions) >= 301

    wait_until(all_there)
    assert sorted(positions) == list(range(1, 302))


def test_effects_wait_for_the_first_worker(engine: Engine, peer: Peer) -> None:
    peer.ask("create_session")
    peer.ask("append", session_id=1, role="user", content="early")
    assert peer.ask("stats")["effects_backlog"] == 2
    worker = peer.open(zmq.PULL, engine.endpoint("effects"))
    assert [effect(worker)["position"] for _ in range(2)] == [1, 2]
    assert peer.ask("stats")["effects_backlog"] == 0


def test_a_restart_emits_nothing(engine: Engine) -> None:
    with engine.peer() as peer:
        peer.ask("create_session")
        peer.ask("append", session_id=1, role="user", content="x")
    engine.kill()
    engine.start()
    with engine.peer() as peer:
        worker = peer.open(zmq.PULL, engine.endpoint("effects"))
        peer.ask("append", session_id=1, role="user", content="y")
        assert effect(worker)["position"] == 3
        assert not worker.poll(100)


@pytest.mark.parametrize(("count_max", "bytes_max"), [(10, 1 << 20), (1000, 600)])
def test_the_backlog_is_bounded_and_drops_are_counted(
    sockets: Sockets, count_max: int, bytes_max: int
) -> None:
    sink = EffectsSocket(sockets.context, count_max, bytes_max)
    sockets.keep(sink.socket).bind("inproc://effects")
    with Armin(":memory:", sink=sink) as armin:
        armin.create_session()
        for _ in range(50):
            armin.append(1, "user", "x")
        kept = sink.backlog
        assert kept == 10 if count_max == 10 else 1 <= kept <= 600 // 40
        assert sink.dropped == 51 - kept
        worker = sockets.open(zmq.PULL, "inproc://effects")
        wait_until(lambda: sink.flush() is None and sink.backlog == 0)
        assert [effect(worker)["position"] for _ in range(kept)] == list(range(1, kept + 1))
        armin.append(1, "user", "later")
        assert effect(worker)["position"] == 52


def test_a_stalled_worker_never_blocks_a_commit(sockets: Sockets, tmp_path: Path) -> None:
    sink = EffectsSocket(sockets.context, 100, 1 << 20)
    sockets.keep(sink.socket).bind("inproc://effects")
    worker = sockets.open(zmq.PULL)
    worker.rcvhwm = 1
    worker.connect("inproc://effects")
    with Armin(tmp_path / "a.db", sink=sink) as armin:
        armin.create_session()
        armin.append_many(1, [{"role": "user", "content": "x"}] * 9000)
        assert armin.position == 9001
        assert sink.sent + sink.backlog + sink.dropped == 9001
        assert sink.backlog == 100
        assert sink.sent >= SEND_HWM
