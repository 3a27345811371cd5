"""Following through whatever may happen: losses, deaths, restarts, slow callers; each from a seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from armin import NoReply
from armin.feeds import Feed, LogFeed, SessionFeed
from armin.following import Action, Ask, AskTail, Deliver, Follower, Subscribe, Tell, Unsubscribe, Wait
from armin.results import FollowState, Hello, Tail, Tails

SESSION = 5
HELLO = Hello("armin/1", "0", (), "database", "epoch", "engine-1", {}, {}, {}, 0)
SILENCE = NoReply("nobody", reason="not_running", sent=False)
LIVELY_STEPS = 600  # in which anything may happen
STEPS_MAX = 20_000  # a follower that needs more is stuck


class World:
    """An engine that loses live messages, dies and comes back, simulated with a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.last_beat = 0.0
        self.engine = 1
        self.up = True
        self.mortal = False  # a death before the first handshake is an error for the caller
        self.facts: list[tuple[str, int]] = []  # (type, seq) of this session; ("other", 0) of another one
        self.seq = 0
        self.closed = False
        self.queue: list[list[bytes]] = []
        self.topics: set[bytes] = set()
        self.loss = self.random.choice([0.0, 0.05, 0.5, 1.0])
        self.quiet = False  # from here on, nothing is lost and nothing new happens but heartbeats

    def event(self, position: int) -> dict[str, Any]:
        kind, seq = self.facts[position - 1]
        if kind == "other":
            return {"position": position, "type": "session_created", "session_id": 99, "created_at": 1}
        event: dict[str, Any] = {"position": position, "type": kind, "session_id": SESSION}
        if kind == "message_appended":
            event["message"] = self.message(seq)
            if seq % 7 == 0:
                del event["message"]["content"]
                event["message"]["elided"] = True
        return event

    def message(self, seq: int) -> dict[str, Any]:
        return {
            "id": seq,
            "session_id": SESSION,
            "seq": seq,
            "role": "user",
            "content": f"text {seq}",
            "created_at": 1,
        }

    def publish(self, topic: bytes, fields: dict[str, Any]) -> None:
        if any(topic.startswith(wanted) for wanted in self.topics) and (
            self.quiet or self.random.random() >= self.loss
        ):
            self.queue.append([topic, msgpack.packb(fields)])

    def commit(self, kind: str) -> None:
        self.seq += kind == "message_appended"
        self.closed |= kind == "session_closed"
        self.facts.append((kind, self.seq))
        event = self.event(len(self.facts))
        topics = {"other": b"created/99/", "message_appended": b"message/5/", "session_closed": b"closed/5/"}
        self.publish(topics[kind], event)

    def sign(self, topic: bytes) -> None:
        sign = {"position": len(self.facts), "database": "database", "epoch": "epoch"}
        self.publish(topic, {**sign, "engine": f"engine-{self.engine}"})

    def happen(self, seconds: float) -> None:
        """Let time pass, and things happen in it."""
        self.now += seconds
        if not self.quiet:
            chance = self.random.random()
            if self.up and not self.closed:
                for _ in range(self.random.choice([0, 0, 1, 3])):
                    self.commit(self.random.choice(["message_appended", "message_appended", "other"]))
            if chance < 0.02 and self.mortal:
                self.up = False
                self.queue.clear()
            elif chance > 0.7 and not self.up:
                self.up, self.engine = True, self.engine + 1
        if self.up and self.now - self.last_beat >= 1.0:
            self.last_beat = self.now
            self.sign(b"heartbeat/")

    def reply(self, call: Any) -> Any:
        fields = {name: value for name, value in call.fields.items() if value is not None}
        position = len(self.facts)
        body: dict[str, Any] = {"ok": True, "position": position}
        after, limit = fields.get("after", 0), self.random.randint(1, 5)
        self.mortal |= call.op in ("read", "log")
        if call.op == "hello":
            return replace(HELLO, engine=f"engine-{self.engine}", position=position)
        if call.op == "sync":
            self.sign(f"~sync/{fields['token']}/".encode())
        elif call.op == "read":
            found = [self.message(seq) for seq in range(after + 1, self.seq + 1)]
            body |= {"messages": found[:limit], "more": len(found) > limit}
            body |= {"seq": self.seq, "closed": self.closed}
        elif call.op == "log":
            events = [self.event(at) for at in range(after + 1, position + 1)]
            body |= {"events": events[:limit], "more": len(events) > limit}
        return call.decode(msgpack.packb(body))


class Run:
    """Drives a follower through a world: a lively part, then quiet, in which it must catch up."""

    def __init__(self, seed: int, feed: Feed[Any]) -> None:
        self.world = World(seed)
        tokens = (f"t{number}" for number in itertools.count(1))
        self.follower: Follower[Any] = Follower(
            feed,
            HELLO,
            now=0.0,
            timeout=float("inf"),
            endpoint="",
            tokens=lambda: next(tokens),
        )
        self.got: list[Any] = []
        self.states: list[FollowState] = []

    def until(self, enough: Callable[[], bool]) -> None:
        """Go on until the follower ends, or has enough in the quiet part."""
        for step in range(STEPS_MAX):
            if step == LIVELY_STEPS:
                self.settle()
            action = self.follower.next(self.world.now)
            if action is None or (step > LIVELY_STEPS and enough()):
                return
            self.act(action)
        raise AssertionError(f"stuck after {len(self.got)} of {self.world.seq} messages")

    def settle(self) -> None:
        self.world.up = True
        if not self.world.closed:
            self.world.commit("session_closed")
        self.world.quiet = True

    def act(self, action: Action[Any]) -> None:
        world = self.world
        match action:
            case Subscribe(topic):
                world.topics.add(topic)
            case Unsubscribe(topic):
                world.topics.remove(topic)
            case Deliver(items):
                self.got += items
                world.happen(world.random.choice([0, 0, 0, 2.0]))  # a slow caller, sometimes
            case Ask():
                self.ask(action, lambda: world.reply(action.call))
            case AskTail():
                self.ask(action, lambda: Tails((Tail(SESSION, world.seq, world.closed),), len(world.facts)))
            case Tell(state):
                self.states.append(state)
            case Wait(until):
                self.wait(until)

    def ask(self, action: Ask[Any] | AskTail, reply: Callable[[], Any]) -> None:
        self.world.happen(0.001)
        if self.world.up:
            action.then(reply(), self.world.now)
        else:
            self.world.happen(1.0)
            self.follower.unanswered(SILENCE, self.world.now)

    def wait(self, until: float) -> None:
        world = self.world
        if not world.queue:
            longest = world.random.choice([0.01, 0.3, 9.0])
            world.happen(min(max(until - world.now, 0.0), longest))
        if world.queue:
            self.follower.received(world.queue.pop(0), world.now)
        else:
            world.now = max(world.now, until)
            self.follower.idle(world.now)


@pytest.mark.parametrize("seed", range(150))
def test_whatever_is_lost_each_message_is_delivered_once_and_in_order(seed: int) -> None:
    run = Run(seed, SessionFeed(SESSION, 0))
    run.until(lambda: False)
    assert [message.seq for message in run.got] == list(range(1, run.world.seq + 1))
    assert all(message.content == f"text {message.seq}" for message in run.got)


@pytest.mark.parametrize("seed", range(150))
def test_whatever_is_lost_each_fact_is_delivered_once_and_in_order(seed: int) -> None:
    run = Run(seed, LogFeed(0))
    run.until(lambda: len(run.got) == len(run.world.facts))
    assert [event.position for event in run.got] == list(range(1, len(run.world.facts) + 1))
    assert run.states[0] is FollowState.CATCHING_UP
    assert all(before is not after for before, after in itertools.pairwise(run.states))
