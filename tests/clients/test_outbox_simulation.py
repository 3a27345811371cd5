"""The outbox against a model engine over lossy links: each write once, in order, whatever is lost."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import msgpack
import pytest

from armin import NoReply, calls
from armin.calls import Call
from armin.outbox import Answer, Outbox
from armin.results import Appended

Written = tuple[Call[Appended], Answer[Appended]]

SESSIONS = (1, 2, 3)
WRITES = 400


class ModelEngine:
    """Keys and after_key as the engine has them; what it committed survives its deaths."""

    def __init__(self) -> None:
        self.logs: dict[int, list[str]] = defaultdict(list)
        self.seqs: dict[tuple[int, str], int] = {}
        self.refuses = False

    def answer(self, command: bytes) -> bytes:
        fields = msgpack.unpackb(command)
        if self.refuses:
            return self.error("shutting_down")
        if fields["op"] == "pipeline":
            each = [msgpack.unpackb(self.write(part)) for part in fields["commands"]]
            return self.pack({"ok": True, "position": 1, "replies": each})
        return self.write(fields)

    def write(self, fields: dict[str, Any]) -> bytes:
        place, after = (fields["session_id"], fields["key"]), fields.get("after_key")
        log = self.logs[fields["session_id"]]
        if place not in self.seqs:
            if after is not None and (fields["session_id"], after) not in self.seqs:
                return self.error("conflict", "out_of_order")
            if fields["content"].startswith("bad"):
                return self.error("bad_request")
            log.append(fields["content"])
            self.seqs[place] = len(log)
        seq = self.seqs[place]
        return self.pack({"ok": True, "position": 1, "id": seq, "seq": seq, "at": seq, "created_at": 0})

    @staticmethod
    def pack(reply: dict[str, Any]) -> bytes:
        packed: bytes = msgpack.packb(reply)
        return packed

    def error(self, code: str, reason: str | None = None) -> bytes:
        error = {"code": code, "message": code, "reason": reason, "retry": True}
        return self.pack({"ok": False, "position": 1, "error": error})


class Simulation:
    """A clock, two queues that lose things, and the engine behind them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.loss = self.random.choice((0.0, 0.01, 0.1, 0.3))
        self.engine = ModelEngine()
        self.outbox = Outbox(1e6, lambda _: NoReply("gave up", reason="silent", sent=True))
        self.now = 0.0
        self.commands: list[list[bytes]] = []
        self.replies: list[list[bytes]] = []

    def run(self) -> list[Written]:
        writes: list[Written] = []
        for _ in range(2_000_000):
            if len(writes) == WRITES and not self.outbox:
                return writes
            if len(writes) < WRITES and self.random.random() < 0.5:
                text = ("bad " if self.random.random() < 0.02 else "") + str(len(writes))
                call = calls.append(self.random.choice(SESSIONS), "user", text, None, None)
                answer = Answer(call)
                self.outbox.add(call, self.now, answer.set)
                writes.append((call, answer))
            self.step()
        raise AssertionError("it does not end")

    def step(self) -> None:
        self.now += self.random.choice((0.0, 0.001, 0.05))
        self.outbox.tick(self.now)
        while (following := self.outbox.next_to_send()) is not None:
            requests, frames = following
            self.commands.append(frames)
            self.outbox.sent(requests, self.now)
        for _ in range(self.random.randrange(8)):
            if self.commands:
                correlation, command = self.commands.pop(0)
                if self.random.random() >= self.loss:
                    self.replies.append([correlation, self.engine.answer(command)])
            if self.replies and self.random.random() < 0.7:
                correlation, reply = self.replies.pop(0)
                if self.random.random() >= self.loss:
                    self.outbox.received([correlation, reply], self.now)
        if self.random.random() < 0.002:  # it dies, and what was under way with it
            self.commands.clear()
            self.replies.clear()
        if self.random.random() < 0.01:
            self.engine.refuses = not self.engine.refuses


@pytest.mark.parametrize("seed", range(12))
def test_every_write_is_done_once_and_in_order_over_lossy_links(seed: int) -> None:
    simulation = Simulation(seed)
    writes = simulation.run()
    for session_id in SESSIONS:
        mine = [write for write in writes if write[0].fields["session_id"] == session_id]
        good = [write for write in mine if not write[0].fields["content"].startswith("bad")]
        assert simulation.engine.logs[session_id] == [call.fields["content"] for call, _ in good]
        assert [answer.get().seq for _, answer in good] == list(range(1, len(good) + 1))
        assert all(answer.error is not None for call, answer in mine if (call, answer) not in good)
