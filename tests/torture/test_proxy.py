"""What lies between: it forwards all, or loses exactly what it is told to lose."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

import armin
from armin.torture.frames import GREETING_BYTES, Splitter
from armin.torture.proxy import CLEAR, Proxy, Weather
from harness import Engine, Sockets, wait_until

READY = b"\x04\x06\x05READY"
SHORT = b"\x01\x02id\x00\x05hello"
LONG_BODY = b"x" * 300
LONG = b"\x01\x02id\x02" + len(LONG_BODY).to_bytes(8) + LONG_BODY


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_messages_are_told_apart_however_the_bytes_arrive(size: int) -> None:
    stream = bytes(GREETING_BYTES) + READY + SHORT + LONG + SHORT
    splitter = Splitter()
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    units = [unit for chunk in chunks for unit in splitter.feed(chunk)]
    assert b"".join(unit.data for unit in units) == stream
    assert [unit.data for unit in units if unit.message] == [SHORT, LONG, SHORT]


def test_a_message_that_is_not_whole_waits() -> None:
    splitter = Splitter()
    assert [unit.message for unit in splitter.feed(bytes(GREETING_BYTES) + LONG[:-1])] == [False]
    assert [unit.data for unit in splitter.feed(LONG[-1:])] == [LONG]


@pytest.fixture
def proxy(engine: Engine, short_dir: Path) -> Iterator[Proxy]:
    front = short_dir / "p"
    front.mkdir()
    proxy = Proxy(front, engine.directory, random.Random(1))
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def client(proxy: Proxy, short_dir: Path) -> Iterator[armin.Client]:
    with armin.connect(short_dir / "p", timeout=10) as client:
        yield client


def hasty(short_dir: Path) -> armin.Client:
    return armin.connect(short_dir / "p", timeout=0.2)


def answers(client: armin.Client) -> bool:
    try:
        client.ping()
    except armin.NoReply:
        return False
    return True


def test_all_that_is_said_comes_through(client: armin.Client) -> None:
    session = client.create_session("through the proxy")
    texts = ["", "short", "漢" * 100_000]
    for text in texts:
        client.append(session.id, "user", text)
    assert [message.content for message in client.messages(session.id)] == texts


def test_lost_replies_leave_the_write_done(proxy: Proxy, client: armin.Client, short_dir: Path) -> None:
    session = client.create_session()
    with hasty(short_dir) as unlucky:
        wait_until(lambda: answers(unlucky))
        proxy.weather = Weather(lost_replies=1.0)
        with pytest.raises(armin.NoReply):
            unlucky.append(session.id, "user", "kept")
        wait_until(lambda: proxy.counts["lost reply"] >= 1)
    proxy.weather = CLEAR
    assert {message.content for message in client.messages(session.id)} == {"kept"}


def test_lost_commands_leave_nothing_done(proxy: Proxy, client: armin.Client, short_dir: Path) -> None:
    session = client.create_session()
    with hasty(short_dir) as unlucky:
        wait_until(lambda: answers(unlucky))
        proxy.weather = Weather(lost_commands=1.0)
        with pytest.raises(armin.NoReply):
            unlucky.append(session.id, "user", "lost")
        wait_until(lambda: proxy.counts["lost command"] >= 1)
    proxy.weather = CLEAR
    assert list(client.messages(session.id)) == []


def test_lost_events_are_lost_to_subscribers_alone(
    proxy: Proxy, client: armin.Client, engine: Engine, sockets: Sockets, short_dir: Path
) -> None:
    behind = sockets.open(zmq.SUB, f"ipc://{short_dir / 'p' / 'live.sock'}", b"")
    direct = sockets.open(zmq.SUB, engine.endpoint("live"), b"")
    for live in (behind, direct):
        while live.recv_multipart()[0] != b"heartbeat/":  # until it is connected
            pass
    proxy.weather = Weather(lost_events=1.0)
    session = client.create_session()
    while (topic := direct.recv_multipart()[0]) == b"heartbeat/":
        pass
    assert topic == b"created/%d/" % session.id
    lost = proxy.counts["lost event"]  # heartbeats among them, and perhaps not yet what was created
    wait_until(lambda: proxy.counts["lost event"] >= lost + 2)
    proxy.weather = CLEAR
    client.close_session(session.id)
    while (topic := behind.recv_multipart()[0]) == b"heartbeat/":
        pass
    assert topic == b"closed/%d/" % session.id


def test_clients_outlive_a_cut_connection(proxy: Proxy, client: armin.Client) -> None:
    session = client.create_session()
    assert proxy.cut() >= 1
    assert client.append(session.id, "user", "over the next connection").seq == 1


def test_a_message_cut_in_the_middle_is_never_seen(
    proxy: Proxy, client: armin.Client, short_dir: Path
) -> None:
    session = client.create_session()
    with hasty(short_dir) as unlucky:
        wait_until(lambda: answers(unlucky))
        proxy.weather = Weather(cut=1.0)
        with pytest.raises(armin.NoReply):
            unlucky.append(session.id, "user", "half of this")
        wait_until(lambda: proxy.counts["cut"] >= 1)
    proxy.weather = CLEAR
    assert list(client.messages(session.id)) == []


def test_delays_reorder_nothing(proxy: Proxy, client: armin.Client) -> None:
    proxy.weather = Weather(delayed=0.5, delay=0.01)
    session = client.create_session()
    assert [client.append(session.id, "user", str(n)).seq for n in range(20)] == list(range(1, 21))


def test_without_an_engine_nobody_is_there(proxy: Proxy, engine: Engine, short_dir: Path) -> None:
    engine.stop()
    with hasty(short_dir) as client, pytest.raises(armin.NoReply) as absent:
        client.create_session()
    assert not absent.value.sent
