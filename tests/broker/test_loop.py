"""The loop under faults of our own and a steered clock; real sockets, in this process."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armin_broker.command_socket import Arrival, CommandSocket
from armin_broker.config import Config
from armin_broker.effects_socket import EffectsSocket
from armin_broker.live_socket import LiveSocket
from armin_broker.loop import Loop
from armin_engine import Armin
from armin_engine.errors import EngineError
from armin_engine.plan import Outcome
from armin_engine.records import Command
from harness import Peer, Sockets, wait_until


class Served:
    """A loop that runs in a thread, and the engine under it."""

    def __init__(
        self,
        sockets: Sockets,
        directory: Path,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        effects = EffectsSocket(sockets.context, 10, 1 << 20)
        commands, live = CommandSocket(sockets.context), LiveSocket(sockets.context)
        for socket, name in (
            (commands.socket, "commands"),
            (live.socket, "live"),
            (effects.socket, "effects"),
        ):
            sockets.keep(socket).bind(f"ipc://{directory}/{name}.sock")
        self.armin = Armin(":memory:", sink=effects)
        self._reader, self._writer = os.pipe()
        self.loop = Loop(
            self.armin, Config(directory), commands, live, effects, self._reader, {}, clock, wall_clock
        )
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def stop(self) -> None:
        self.loop.stop()
        os.write(self._writer, b"x")
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.armin.close()
        os.close(self._reader)
        os.close(self._writer)


@pytest.fixture
def now() -> list[float]:
    """Milliseconds, as the loop sees them."""
    return [0.0]


@pytest.fixture
def served(sockets: Sockets, short_dir: Path, now: list[float]) -> Iterator[Served]:
    served = Served(sockets, short_dir, lambda: now[0])
    yield served
    served.stop()


@pytest.fixture
def client(short_dir: Path, served: Served) -> Iterator[Peer]:
    with Peer(f"ipc://{short_dir}/commands.sock") as peer:
        yield peer


def broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("a bug")


def test_a_bug_in_a_read_is_an_internal_error_and_the_loop_goes_on(
    served: Served, client: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.ask("create_session")["ok"]
    monkeypatch.setattr(served.armin, "read", broken)
    client.send("read", session_id=1)
    client.send("append", session_id=1, role="user", content="x")
    assert client.receive()[1]["error"]["code"] == "internal"
    assert client.receive()[1]["seq"] == 1


def test_a_bug_in_a_group_fails_its_writes_and_the_loop_goes_on(
    served: Served, client: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.ask("create_session")["ok"]
    with monkeypatch.context() as patch:
        patch.setattr(served.armin, "apply", broken)
        reply = client.ask("append", session_id=1, role="user", content="x")
        assert reply["error"]["code"] == "internal"
        assert "unknown" in reply["error"]["message"]
    assert client.ask("append", session_id=1, role="user", content="x")["seq"] == 1


def test_heartbeats_come_once_a_second_by_the_loops_clock(
    served: Served, client: Peer, short_dir: Path, now: list[float]
) -> None:
    client.ask("ping")  # so the heartbeat of the start has gone out before anybody listens
    live = client.listen(f"ipc://{short_dir}/live.sock", b"heartbeat/")
    for beat in range(1, 4):
        now[0] = beat * 1000 - 1
        client.ask("ping")
        assert not live.poll(20)
        now[0] = beat * 1000
        client.ask("ping")
        client.ask("ping")
        assert live.recv_multipart()[0] == b"heartbeat/"
        assert not live.poll(20)


def test_a_bug_in_the_worker_groups_fails_what_was_asked_of_them_and_the_loop_goes_on(
    served: Served, client: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = served.loop.groups
    assert client.ask("create_group", group="g", start="begin")["ok"]
    client.ask("create_session")
    with monkeypatch.context() as patch:
        patch.setattr(coordinator, "plan", broken)
        client.send("append", session_id=1, role="user", content="x")
        client.send("ack", group="g", leases=["1.1.1"])
        assert client.receive()[1]["seq"] == 1
        assert client.receive()[1]["error"]["code"] == "internal"
    with monkeypatch.context() as patch:
        patch.setattr(coordinator, "_serve", broken)
        assert client.ask("lease", group="g", wait_ms=1000)["error"]["code"] == "internal"
        assert len(coordinator.polls) == 0
    (lease,) = client.ask("lease", group="g")["leases"]
    assert lease["position"] == 1


def test_a_wall_clock_that_is_set_neither_ends_nor_prolongs_a_lease(
    sockets: Sockets, short_dir: Path
) -> None:
    now, wall = [0.0], [1_700_000_000.0]
    served = Served(sockets, short_dir, lambda: now[0], lambda: wall[0])
    try:
        with Peer(f"ipc://{short_dir}/commands.sock") as client:
            client.ask("create_group", group="g", start="begin")
            client.ask("create_session")
            (first,) = client.ask("lease", group="g", lease_ms=10_000)["leases"]
            assert first["until"] == 1_700_000_010_000
            wall[0] += 3600
            now[0] += 9_999
            assert client.ask("lease", group="g")["leases"] == []
            wall[0] -= 7200
            now[0] += 1
            (second,) = client.ask("lease", group="g", lease_ms=10_000)["leases"]
            assert (second["attempt"], second["until"]) == (2, 1_700_000_020_000)
    finally:
        served.stop()


def test_errors_leave_nothing_behind_for_the_garbage_collector(served: Served, client: Peer) -> None:
    gc.collect()
    gc.disable()
    before = {id(each) for each in gc.get_objects() if isinstance(each, EngineError)}

    def none_is_left() -> bool:
        return not [
            each for each in gc.get_objects() if isinstance(each, EngineError) and id(each) not in before
        ]

    try:
        for _ in range(3):
            client.ask("append", session_id=1, role="robot", content="x")
            client.ask("append", session_id=1, role="user", content="x")
            client.ask("read", session_id=1)
            client.ask("ack", group="g", leases=[])
            client.ask("pipeline", commands=[{"op": "ping"}, {"op": "close_session", "session_id": 1}])
        client.ask("ping")
        wait_until(none_is_left)
    finally:
        gc.enable()


# --- pipelines ------------------------------------------------------------------------------------


def test_a_bug_in_a_group_fails_each_write_of_a_pipeline(
    served: Served, client: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.ask("create_session")["ok"]
    good, bad = {"op": "append", "session_id": 1, "role": "user", "content": "x"}, {"op": "ping"}
    with monkeypatch.context() as patch:
        patch.setattr(served.armin, "apply", broken)
        reply = client.ask("pipeline", commands=[good, bad, good])
    assert reply["ok"]
    assert [each["error"]["code"] for each in reply["replies"]] == ["internal", "bad_request", "internal"]
    assert [each["seq"] for each in client.ask("pipeline", commands=[good, good])["replies"]] == [1, 2]


SEVERAL, FLOOD = 400, 8  # commands of a pipeline, and pipelines; a turn ends behind three of them


def flooded(
    served: Served, client: Peer, patch: pytest.MonkeyPatch, committing: Callable[[int], None]
) -> list[dict[str, Any]]:
    """The replies to pipelines that the loop finds together; `committing` is told each group's writes."""
    drain, apply = CommandSocket.drain, served.armin.apply

    def all_of_them(socket: CommandSocket, count_max: int, bytes_max: int) -> list[Arrival]:
        arrivals = drain(socket, count_max, bytes_max)
        while 0 < len(arrivals) < FLOOD:
            assert socket.socket.poll(60_000), "they did not all come"
            arrivals += drain(socket, count_max, bytes_max)
        return arrivals

    def applying(commands: Sequence[Command]) -> Sequence[Outcome]:
        if commands:
            committing(len(commands))
        return apply(commands)

    assert client.ask("create_session")["ok"]
    patch.setattr(CommandSocket, "drain", all_of_them)
    patch.setattr(served.armin, "apply", applying)
    write = {"op": "append", "session_id": 1, "role": "user", "content": "x"}
    sent = [client.send("pipeline", commands=[write] * SEVERAL) for _ in range(FLOOD)]
    received = [client.receive() for _ in sent]
    assert [correlation for correlation, _ in received] == sent
    return [reply for _, reply in received]


def test_pipelines_that_come_together_are_committed_turn_by_turn(
    served: Served, client: Peer, short_dir: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.ask("ping")  # so the heartbeat of the start has gone out before anybody listens
    live = client.listen(f"ipc://{short_dir}/live.sock", b"heartbeat/")
    groups: list[int] = []

    def committing(writes: int) -> None:
        groups.append(writes)
        now[0] += 1000  # a heartbeat is due whenever a group was committed

    replies = flooded(served, client, monkeypatch, committing)
    assert groups == [3 * SEVERAL, 3 * SEVERAL, 2 * SEVERAL]
    seqs = [part["seq"] for reply in replies for part in reply["replies"]]
    assert seqs == list(range(1, FLOOD * SEVERAL + 1))
    beats = []
    while len(beats) < len(groups):
        beats.append(msgpack.unpackb(live.recv_multipart()[1])["position"])
    assert beats == [1 + 3 * SEVERAL, 1 + 6 * SEVERAL, 1 + 8 * SEVERAL]


def test_pipelines_that_are_left_to_the_next_turn_are_refused_at_the_end(
    served: Served, client: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = flooded(served, client, monkeypatch, lambda writes: served.loop.stop())
    assert [reply["ok"] for reply in replies] == [True] * 3 + [False] * 5
    assert {reply["error"]["code"] for reply in replies[3:]} == {"shutting_down"}
    assert {reply["position"] for reply in replies} == {1 + 3 * SEVERAL}


@contextmanager
def fresh() -> Iterator[Peer]:
    """A peer of an engine of its own, which has two open sessions."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="armin-"))
        served = Served(stack.enter_context(Sockets()), Path(directory), lambda: 0.0)
        stack.callback(served.stop)
        peer = stack.enter_context(Peer(f"ipc://{directory}/commands.sock"))
        for _ in range(2):
            assert peer.ask("create_session")["ok"]
        yield peer


NO_PARTS = [
    {"op": "ping"},
    {"op": "read", "session_id": 1},
    {"op": "create_group", "group": "g", "start": "now"},
    {"op": "create_session"},
    {"op": "create_session", "name": "n", "meta": {}},
    {"op": "pipeline", "commands": [{"op": "close_session", "session_id": 1}]},
]


REFUSED = {"code": "bad_request", "field": "op", "retry": False}


def made_of(op: str, required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A command; no values are many, so that they meet each other."""
    fields = {name: st.sampled_from(values) for name, values in required.items()}
    others = {name: st.sampled_from(values) for name, values in optional.items()}
    return st.fixed_dictionaries({"op": st.just(op), **fields}, optional=others)


MESSAGES = [{"role": "user", "content": "x"}, {"role": "tool", "content": "y", "meta": {"a": 1}}]
SESSIONS, KEYS, METAS = [1, 2, 3, 99], ["a", "b", "c"], [{}, {"a": 1}]
APPENDED = {"key": KEYS, "after_key": KEYS, "expect_seq": [1, 2, 3, 4]}
COMMANDS = st.one_of(
    made_of(
        "append",
        {"session_id": SESSIONS, "role": ["user", "tool", "robot"], "content": ["x", "y"]},
        {**APPENDED, "meta": METAS},
    ),
    made_of("append_many", {"session_id": SESSIONS, "messages": [MESSAGES[:1], MESSAGES, [], 5]}, APPENDED),
    made_of("close_session", {"session_id": SESSIONS}, {}),
    st.sampled_from([*NO_PARTS, {"op": "nonsense"}, {"op": 1}, {}]),
)


def timeless(value: Any) -> Any:
    """Without what tells when it was: two engines never agree in that."""
    if isinstance(value, dict):
        return {
            name: timeless(item) for name, item in value.items() if name not in ("created_at", "position")
        }
    return [timeless(item) for item in value] if isinstance(value, list) else value


def by_itself(peer: Peer, command: dict[str, Any]) -> dict[str, Any]:
    """What it is answered; what may not be part of a pipeline is not sent."""
    if command in NO_PARTS:
        message = f"{command['op']} cannot be part of a pipeline"
        return {"ok": False, "error": {**REFUSED, "message": message}}
    peer.socket.send_multipart([b"", msgpack.packb(command)])
    reply: dict[str, Any] = msgpack.unpackb(peer.socket.recv_multipart()[-1])
    return reply


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(COMMANDS, min_size=1, max_size=12), min_size=1, max_size=4))
def test_a_pipeline_does_what_its_commands_do_one_by_one(pipelines: list[list[dict[str, Any]]]) -> None:
    with fresh() as together, fresh() as alone:
        for commands in pipelines:
            reply = together.ask("pipeline", commands=commands)
            assert reply["ok"]
            expected = [by_itself(alone, command) for command in commands]
            assert timeless(reply["replies"]) == timeless(expected)
            assert {each["position"] for each in reply["replies"]} == {reply["position"]}
        for op in ("log", "sessions", "ping"):
            one, other = together.ask(op), alone.ask(op)
            assert one["position"] == other["position"]
            assert timeless(one) == timeless(other)
        assert together.ask("stats")["commits"] <= 2 + len(pipelines)
