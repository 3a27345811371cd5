"""The examples of docs/protocol.md, byte by byte: by themselves, and against a running engine."""

from __future__ import annotations

import os
import re
from typing import Any

import msgpack
import zmq

import protocol_document as document
from armin_broker import protocol
from harness import Engine, Peer
from protocol_document import CAME, LIVE, SENT, Example

EXAMPLES = document.examples()


def varying() -> set[str]:
    """Names of values that are others in every engine, as the document lists them."""
    found = re.search(r"these differ:(.*?)\.", document.section("Examples in bytes"), re.DOTALL)
    assert found is not None
    return set(re.findall(r"`(\w+)`", found[1]))


def test_the_bytes_of_every_example_say_what_its_json_says() -> None:
    assert len(EXAMPLES) > 25
    for example in EXAMPLES:
        if example.frames:
            assert msgpack.unpackb(example.frames[-1]) == example.shown
            # Both ways, so that every byte counts: the order of keys and the width of numbers, too.
            assert example.frames[-1] == msgpack.packb(example.shown)


def test_the_examples_show_what_a_client_has_to_know() -> None:
    sent = [example for example in EXAMPLES if example.way == SENT]
    ops = {example.shown["op"] for example in sent}
    assert ops >= {"hello", "sync", "create_session", "append", "append_many", "pipeline", "read"}
    assert ops >= {"lease", "ack", "nack"}
    assert any(len(example.frames) > 1 for example in sent)
    came = [example.shown for example in EXAMPLES if example.way == CAME]
    assert any(reply.get("duplicate") for reply in came)
    assert any(not reply["ok"] for reply in came)
    live = {example.shown["type"] for example in EXAMPLES if example.way == LIVE}
    assert live >= {"sync", "session_created", "message_appended", "session_closed", "heartbeat"}


def replaced(value: Any, shown: Any, names: set[str]) -> Any:
    """What came, with the document's values in place of those that vary, where they are of one form."""
    if isinstance(value, dict) and isinstance(shown, dict):
        return {
            name: shown[name]
            if name in names and name in shown and _form(item) == _form(shown[name])
            else replaced(item, shown.get(name), names)
            for name, item in value.items()
        }
    if isinstance(value, list) and isinstance(shown, list) and len(value) == len(shown):
        return [replaced(*pair, names) for pair in zip(value, shown, strict=True)]
    return value


def _form(value: Any) -> tuple[type, int]:
    return type(value), len(msgpack.packb(value))


def check(example: Example, frames: list[bytes]) -> None:
    came = replaced(msgpack.unpackb(frames[-1]), example.shown, varying())
    expected = document.shown_message([""] * len(frames), [*frames[:-1], msgpack.packb(came)], came)
    assert frames[:-1] == list(example.frames[:-1]), f"the document should have\n{expected}"
    assert msgpack.packb(came) == example.frames[-1], f"the document should have\n{expected}"


def check_excerpt(shown: Any, came: Any) -> None:
    """Everything that is shown is there."""
    if isinstance(shown, dict):
        assert shown.keys() <= came.keys()
        for name, value in shown.items():
            check_excerpt(value, came[name])
    elif isinstance(shown, str) and shown.startswith("/"):
        assert os.path.basename(shown) == os.path.basename(came)
    else:
        assert shown == came


class Listener:
    """A SUB that hears everything from now on."""

    def __init__(self, engine: Engine, peer: Peer) -> None:
        self._socket = peer.open(zmq.SUB, engine.endpoint("live"), b"")
        for _ in range(400):
            peer.ask("sync", token="ready")
            while self._socket.poll(50):
                if self._socket.recv_multipart()[0] == protocol.sync_topic("ready"):
                    return
        raise AssertionError("the live socket is silent")

    def hear(self, example: Example) -> list[bytes]:
        """The next message of the example's topic; of heartbeats, the first that has come so far."""
        while True:
            frames: list[bytes] = self._socket.recv_multipart()
            if frames[0] != example.frames[0]:
                continue
            shown = example.shown
            if shown["type"] != "heartbeat" or msgpack.unpackb(frames[1])["position"] >= shown["position"]:
                return frames


def test_a_running_engine_says_what_the_examples_say(engine: Engine, peer: Peer) -> None:
    live = Listener(engine, peer)
    effects = peer.open(zmq.PULL, engine.endpoint("effects"))
    facts: list[bytes] = []
    command: tuple[bytes, ...] = ()
    for example in EXAMPLES:
        if example.way == SENT:
            command = example.frames
        elif example.way == LIVE:
            frames = live.hear(example)
            check(example, frames)
            facts += [frames[1]] if example.shown["type"] == "message_appended" else []
        elif example.is_excerpt:
            came = msgpack.unpackb(peer.raw(command)[-1])
            check_excerpt(example.shown, replaced(came, example.shown, varying()))
        else:
            check(example, peer.raw(command))
    carried: list[bytes] = []
    while len(carried) < 8:  # as many facts as the examples commit
        (frame,) = effects.recv_multipart()
        carried.append(frame)
    assert facts
    assert set(facts) <= set(carried)
