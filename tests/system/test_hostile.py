"""Peers that mean harm, or are broken: another client's appends go on, and what they cost the engine ends."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from armin_broker.keyring import Keyring
from benchmarks.hostile_peers import ATTACKS, Place
from harness import Engine, Peer, wait_until

MIB = 1 << 20
MEMORY_MAX = 192 * MIB  # docs/operations.md states it
APPENDS = 300
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Place]]:
    directory = tmp_path_factory.mktemp("h") / "e"
    _, key = Keyring(directory / "keys").new("reader", "reader")
    engine = Engine(directory, "--tcp", "127.0.0.1:0").start()
    with engine.peer() as peer:
        peer.ask("create_session")
        peer.ask("create_session")
        for _ in range(1000):
            peer.ask("append", session_id=1, role="user", content="x" * 1024)
        ports = peer.ask("hello")["endpoints"]["tcp"]
    yield engine, Place(directory, ports, key)
    assert engine.stop() == 0
    assert "Traceback" not in engine.errors()


def attack(name: str, place: Place, begun: Event, over: Event) -> None:
    begun.set()
    ATTACKS[name](place, over.is_set)


@contextmanager
def under_attack(name: str, place: Place) -> Iterator[None]:
    begun, over = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=attack, args=(name, place, begun, over))
    process.start()
    try:
        assert begun.wait(90)
        yield
        assert process.is_alive(), f"the attack ended by itself, exit code {process.exitcode}"
        over.set()
        process.join(90)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


def connections(peer: Peer) -> tuple[int, int]:
    stats = peer.ask("stats")
    return stats["connections_ipc"], stats["connections_tcp"]


@pytest.mark.parametrize("name", ATTACKS)
def test_others_go_on_and_the_cost_is_bounded_and_ends(place: tuple[Engine, Place], name: str) -> None:
    engine, where = place
    with engine.peer() as peer:
        seq = peer.ask("read", session_id=2, limit=1)["seq"]
        memory = engine.rss()
        with under_attack(name, where):
            until = time.monotonic() + 2
            appended = 0
            while appended < APPENDS or time.monotonic() < until:
                seq += 1
                assert peer.ask("append", session_id=2, role="user", content="go on")["seq"] == seq
                appended += 1
            assert engine.rss() - memory < MEMORY_MAX
        wait_until(lambda: connections(peer) == (1, 0), what="theirs are gone")
        with Peer(engine.endpoint("commands")) as late:
            assert late.ask("read", session_id=2, limit=1)["seq"] == seq


def test_a_crowd_over_the_limit_is_cut_and_the_others_stay(short_dir: Path) -> None:
    engine = Engine(short_dir / "e", "--tcp", "127.0.0.1:0", "--connections", "20").start()
    with engine.peer() as peer:
        assert peer.ask("hello")["limits"]["connections"] == 20
        ports = peer.ask("hello")["endpoints"]["tcp"]
        crowd = [raw for _ in range(10) for raw in Place(short_dir / "e", ports, None).raw()]
        wait_until(lambda: peer.ask("stats")["connections_refused"] >= 10)
        wait_until(lambda: peer.ask("stats")["connections_tcp"] <= 20)
        for raw in crowd:
            raw.close()
        wait_until(lambda: peer.ask("stats")["connections_tcp"] == 0)
        with Peer(f"tcp://127.0.0.1:{ports['commands']}") as late:
            assert late.ask("ping")["ok"]
    engine.stop()
