"""What the clients make of keys: follows and workers that lose theirs, sockets that a role does not allow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

import armin
from armin_broker.keyring import Keyring
from harness import Engine, wait_until

QUICK = 20.0  # seconds; a revoked key is felt in less


class Door(NamedTuple):
    engine: Engine
    keyring: Keyring
    url: str

    def key(self, name: str) -> Path:
        return self.keyring.directory / f"{name}.key"


@pytest.fixture
def door(short_dir: Path) -> Iterator[Door]:
    """An engine with a session, and a key of each role."""
    keyring = Keyring(short_dir / "e" / "keys")
    for role in ("reader", "writer", "worker"):
        keyring.new(role, role, short_dir / "e" / "keys" / f"{role}.key")
    engine = Engine(short_dir / "e", "--tcp", "127.0.0.1:0").start()
    with engine.peer() as peer:
        peer.ask("create_session")
        peer.ask("append", session_id=1, role="user", content="x")
        port = peer.ask("hello")["endpoints"]["tcp"]["commands"]
    yield Door(engine, keyring, f"tcp://127.0.0.1:{port}")
    engine.stop()


def test_hello_says_the_role(door: Door) -> None:
    for role in ("reader", "writer", "worker"):
        with armin.connect(door.url, key=door.key(role)) as client:
            assert client.hello().role == role


def test_a_follow_whose_key_is_revoked_ends_with_not_authorized(door: Door) -> None:
    with armin.connect(door.url, key=door.key("reader"), timeout=QUICK) as client:
        follow = client.follow(1)
        assert next(follow).seq == 1
        door.keyring.revoke("reader")
        with pytest.raises(armin.NotAuthorized, match="revoked"):
            next(follow)


def test_an_asyncio_follow_whose_key_is_revoked_ends_with_not_authorized(door: Door) -> None:
    async def follow() -> None:
        async with armin.connect_async(door.url, key=door.key("reader"), timeout=QUICK) as client:
            following = client.follow(1)
            assert (await anext(following)).seq == 1
            door.keyring.revoke("reader")
            with pytest.raises(armin.NotAuthorized, match="revoked"):
                await anext(following)

    asyncio.run(follow())


def test_an_asyncio_request_with_a_key_that_is_not_known_ends_soon(door: Door, short_dir: Path) -> None:
    async def ask() -> None:
        async with armin.connect_async(door.url, key=key, timeout=60) as client:
            with pytest.raises(armin.NotAuthorized):
                await client.ping()
            with pytest.raises(armin.NotAuthorized):
                await client.ping()

    key = door.key("writer").rename(short_dir / "writer.key")
    door.keyring.revoke("writer")
    wait_until(lambda: "1 revoked" in door.engine.errors())
    asyncio.run(asyncio.wait_for(ask(), 90))


@pytest.mark.parametrize("locked", [True, False])
def test_an_engine_that_asks_for_keys_and_one_that_does_not_are_told_apart(
    door: Door, short_dir: Path, locked: bool
) -> None:
    """The caller is told at once, blocking or not: libzmq would not try again."""

    async def ask(url: str, key: Path | None) -> None:
        async with armin.connect_async(url, key=key, timeout=60) as client:
            with pytest.raises(armin.NotAuthorized, match=said):
                await client.ping()

    open_engine = Engine(short_dir / "open", "--tcp", "127.0.0.1:0").start()
    with open_engine.peer() as peer:
        port = peer.ask("hello")["endpoints"]["tcp"]["commands"]
    url, key = (door.url, None) if locked else (f"tcp://127.0.0.1:{port}", door.key("reader"))
    said = "asks for a key" if locked else "asks for no keys"
    with armin.connect(url, key=key, timeout=60) as client, pytest.raises(armin.NotAuthorized, match=said):
        client.ping()
    asyncio.run(asyncio.wait_for(ask(url, key), 90))
    open_engine.stop()


def test_effects_are_not_for_readers(door: Door) -> None:
    async def effects() -> None:
        async with armin.connect_async(door.url, key=door.key("writer")) as client:
            with pytest.raises(armin.NotAuthorized):
                await anext(client.effects())

    asyncio.run(asyncio.wait_for(effects(), 90))
    with armin.connect(door.url, key=door.key("reader")) as client, pytest.raises(armin.NotAuthorized):
        next(client.effects())


def test_a_worker_works_with_a_workers_key_and_ends_when_it_is_revoked(door: Door) -> None:
    handled: list[int] = []
    ended: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except armin.ArminError as error:
            ended.append(error)

    with armin.connect(door.url, key=door.key("worker"), timeout=QUICK) as client:
        worker = client.worker("g", lambda effect: handled.append(effect.position))
        thread = Thread(target=run, daemon=True)
        thread.start()
        wait_until(lambda: len(handled) == 2)
        door.keyring.revoke("worker")
        wait_until(lambda: bool(ended), what="the worker ends")
        thread.join(60)
    [error] = ended
    assert isinstance(error, armin.NotAuthorized)


def test_a_writer_cannot_work(door: Door) -> None:
    with armin.connect(door.url, key=door.key("writer")) as client:
        worker = client.worker("g", lambda effect: None)
        with pytest.raises(armin.NotAuthorized, match="create_group"):
            worker.run()


def test_many_clients_of_one_context_are_told_apart(door: Door, short_dir: Path) -> None:
    import zmq

    key = short_dir / "reader.key"
    key.write_bytes(door.key("reader").read_bytes())
    key.chmod(0o600)
    door.keyring.revoke("reader")
    wait_until(lambda: "1 revoked" in door.engine.errors())
    with (
        zmq.Context() as context,
        armin.connect(door.url, key=key, context=context) as lost,
        armin.connect(door.url, key=door.key("writer"), context=context) as fine,
    ):
        for _ in range(3):
            with suppress(armin.NotAuthorized):
                lost.ping()
                pytest.fail("it was let in")
            assert fine.append(1, "user", "still here").seq
