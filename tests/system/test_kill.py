"""SIGKILL in the middle of load: every acknowledged append is there, in order, once."""

from __future__ import annotations

import random
import sqlite3
import threading
from pathlib import Path

import msgpack
import pytest
import zmq

from harness import READY_S, Engine, Peer

WRITERS = 3
WINDOW = 200


class Writer(threading.Thread):
    """Pipelines numbered appends to a session of its own until the engine is gone."""

    def __init__(self, engine: Engine, session_id: int, first: int) -> None:
        super().__init__(daemon=True)
        self.session_id = session_id
        self.acknowledged: list[tuple[int, int]] = []  # seq, number
        self.enough = threading.Event()
        self._first = first
        self._peer = Peer(engine.endpoint("commands"))
        self._killed = threading.Event()

    def end(self) -> None:
        """The engine is gone: end when nothing more comes of it."""
        self._killed.set()
        self.join(90)
        assert not self.is_alive()

    def run(self) -> None:
        peer = self._peer
        number, waiting = self._first, 0
        try:
            while True:
                while waiting < WINDOW:
                    fields = {"op": "append", "session_id": self.session_id, "role": "user"}
                    command = msgpack.packb({**fields, "content": str(number)})
                    peer.socket.send_multipart([b"%d" % number, command], zmq.NOBLOCK)
                    number += 1
                    waiting += 1
                if not peer.socket.poll(100):
                    if self._killed.is_set():
                        break
                    continue
                correlation, reply = peer.receive()
                assert reply["ok"], reply
                self.acknowledged.append((reply["seq"], int(correlation)))
                waiting -= 1
                if len(self.acknowledged) >= 500:
                    self.enough.set()
        finally:
            peer.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_acknowledged_appends_survive_sigkill_in_order_and_once(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    with engine.peer() as peer:
        ids = [peer.ask("create_session")["session"]["id"] for _ in range(WRITERS)]
    history: dict[int, list[str]] = {session_id: [] for session_id in ids}
    for _ in range(2):
        writers = [Writer(engine, session_id, first=len(history[session_id])) for session_id in ids]
        for writer in writers:
            writer.start()
        for writer in writers:
            assert writer.enough.wait(READY_S)
        writers[0].join(chance.random() * 0.1)  # somewhere in the load
        engine.kill()
        for writer in writers:
            writer.end()
        engine.start()
        with engine.peer() as peer:
            for writer in writers:
                past = len(history[writer.session_id])
                contents = read_all(peer, writer.session_id)
                assert contents[:past] == history[writer.session_id]
                # In order and once; behind the acknowledged ones perhaps some that nobody heard of.
                assert contents[past:] == [str(past + index) for index in range(len(contents) - past)]
                assert len(writer.acknowledged) >= 500
                for seq, number in writer.acknowledged:
                    assert contents[seq - 1] == str(number)
                history[writer.session_id] = contents
    assert engine.stop() == 0
    check_file(engine.directory / "armin.db", history)


def read_all(peer: Peer, session_id: int) -> list[str]:
    contents: list[str] = []
    while True:
        page = peer.ask("read", session_id=session_id, after=len(contents), limit=10_000)
        contents += [message["content"] for message in page["messages"]]
        assert [message["seq"] for message in page["messages"]] == list(
            range(len(contents) - len(page["messages"]) + 1, len(contents) + 1)
        )
        if not page["more"]:
            return contents


def check_file(path: Path, history: dict[int, list[str]]) -> None:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for session_id, contents in history.items():
            rows = connection.execute(
                "SELECT content FROM messages WHERE session_id = ? ORDER BY id", (session_id,)
            )
            assert [content for (content,) in rows] == contents
        positions = [position for (position,) in connection.execute("SELECT position FROM log ORDER BY 1")]
        assert positions == list(range(1, len(positions) + 1))
    finally:
        connection.close()


def test_the_file_survives_a_kill_during_recovery_and_at_the_first_start(short_dir: Path) -> None:
    engine = Engine(short_dir / "e")
    for delay in (0.05, 0.15, 0.25, 0.3):
        engine.launch()
        assert engine.process is not None
        threading.Event().wait(delay)  # somewhere in the start
        engine.kill()
    engine.start()
    with engine.peer() as peer:
        assert peer.ask("create_session")["ok"]
    assert engine.stop() == 0
