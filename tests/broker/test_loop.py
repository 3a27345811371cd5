"""The loop under faults of our own and a steered clock; real sockets, in this process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from armin_broker.command_socket import CommandSocket
from armin_broker.config import Config
from armin_broker.effects_socket import EffectsSocket
from armin_broker.live_socket import LiveSocket
from armin_broker.loop import Loop
from armin_engine import Armin
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
        self._thread.join(10)
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
    live = client.open(zmq.SUB, f"ipc://{short_dir}/live.sock", b"heartbeat/", b"~sync/t/")

    def heard() -> bool:
        client.ask("sync", token="t")
        return bool(live.poll(50))

    wait_until(heard)
    assert live.recv_multipart()[0] == b"~sync/t/"
    while live.poll(50):
        assert live.recv_multipart()[0] == b"~sync/t/"
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
