"""Malformed input on every socket that takes any: an error or silence, and the engine serves on."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import zmq

from harness import Engine, Peer, wait_until

MIB = 1 << 20
MESSAGES = 10_000
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)  # ZMTP 3.0


def _wrong_types(chance: random.Random) -> list[bytes]:
    values: list[Any] = [None, True, -1, 0, 1 << 63, 1.5, "x", b"x", [], {}, [[]], {"a": {}}, "\0", "é" * 100]
    ops: list[Any] = ["append", "append_many", "read", "session", "sessions", "tails", "log", "sync", "delta"]
    names = ["session_id", "role", "content", "meta", "messages", "after", "before", "limit", "token", "name"]
    command = {name: chance.choice(values) for name in chance.sample(names, chance.randrange(6))}
    return [msgpack.packb({"op": chance.choice(ops + values), **command})]


def _garbage(chance: random.Random) -> list[bytes]:
    return [chance.randbytes(chance.randrange(300))]


def _nested(chance: random.Random) -> list[bytes]:
    depth = chance.choice([20, 500, 1100, 30_000])
    opening = chance.choice([b"\x91", b"\x81\xa1a", b"\xdc\x00\x01"])
    return [b"\x82\xa2op\xa6append\xa4meta" + opening * depth + b"\xc0"]


def _huge_lengths(chance: random.Random) -> list[bytes]:
    lead = chance.choice([b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"])
    return [
        b"\x81\xa1a" + lead + struct.pack(">I", chance.choice([1 << 31, (1 << 32) - 1, 1 << 20])) + b"x" * 20
    ]


def _many_values(chance: random.Random) -> list[bytes]:
    count = chance.choice([70_000, 300_000])
    return [b"\x81\xa1a\xdd" + struct.pack(">I", count) + chance.choice([b"\x90", b"\xc0", b"\x80"]) * count]


def _bad_maps(chance: random.Random) -> list[bytes]:
    return [
        chance.choice(
            [
                b"\x82\xa2op\xa4ping\xa2op\xa4ping",
                b"\x81\x91\x01\x02",
                b"\x82\xa2op\xa4ping\x80\x01",
                b"\x82\xa2op\xa4ping\xc4\x01a\x01",
                b"\x81\xa2op\xa3\xed\xa0\x80",
                b"\x81\xa2op\xc7\x03\x05abc",
                msgpack.packb({"op": "ping"}) * 2,
            ]
        )
    ]


def _many_frames(chance: random.Random) -> list[bytes]:
    count = chance.choice([5, 6, 50, 2000])
    return [chance.randbytes(chance.choice([0, 1, 300])) for _ in range(count)]


def _empty(chance: random.Random) -> list[bytes]:
    return [b""] * chance.randrange(1, 4)


KINDS: list[tuple[Callable[[random.Random], list[bytes]], int]] = [
    (_wrong_types, 40),
    (_garbage, 30),
    (_nested, 8),
    (_huge_lengths, 8),
    (_bad_maps, 8),
    (_many_frames, 3),
    (_empty, 3),
]


def test_ten_thousand_malformed_messages_get_errors_and_the_engine_serves_on(
    engine: Engine, peer: Peer
) -> None:
    seed = 20
    print(f"seed {seed}")
    chance = random.Random(seed)
    peer.ask("create_session", name="good")
    kinds, weights = zip(*KINDS, strict=True)
    with Peer(engine.endpoint("commands")) as bad:
        abuse(bad, chance, kinds, weights, MESSAGES // 4)
        before = engine.rss()
        abuse(bad, chance, kinds, weights, MESSAGES - MESSAGES // 4)
        for _ in range(20):  # 17 MB each: the largest that the socket lets in
            bad.socket.send_multipart([b"id", b"\x81\xa1a\xdd\x01\x00\x00\x00" + b"\x90" * (17 * MIB - 16)])
            assert msgpack.unpackb(bad.socket.recv_multipart()[-1])["ok"] is False
        for _ in range(20):
            assert msgpack.unpackb(bad.raw(_many_values(chance))[-1])["ok"] is False
    assert peer.ask("append", session_id=1, role="user", content="still here")["seq"] == 1
    stats = peer.ask("stats")
    assert stats["position"] == 2
    assert engine.rss() - before < 64 * MIB
    assert "Traceback" not in engine.errors()


def abuse(
    bad: Peer,
    chance: random.Random,
    kinds: tuple[Callable[[random.Random], list[bytes]], ...],
    weights: tuple[int, ...],
    count: int,
) -> None:
    """Send malformed messages; each gets a structured error, under the envelope that fits."""
    for kind in chance.choices(kinds, weights, k=count):
        reply = msgpack.unpackb(bad.raw(kind(chance))[-1])
        if reply["ok"]:  # chance may have made a valid read
            assert set(reply) - {"ok", "position"}
        else:
            assert set(reply["error"]) >= {"code", "message", "retry"}
            assert reply["error"]["code"] in (
                "bad_request",
                "too_large",
                "unknown_op",
                "session_not_found",
                "conflict",
                "cursor_invalid",
            )


def test_a_frame_of_64_mib_is_shut_out_and_nobody_else_notices(engine: Engine, peer: Peer) -> None:
    peer.ask("ping")
    before = engine.rss()
    for _ in range(5):
        with Peer(engine.endpoint("commands")) as bad:
            bad.socket.rcvtimeo = 300
            bad.send("append", session_id=1, role="user", content="x" * (64 * MIB))
            with pytest.raises(zmq.Again):
                bad.receive()
        assert peer.ask("ping")["ok"]
    assert engine.rss() - before < 64 * MIB


@pytest.fixture
def tcp_engine(engine: Engine) -> Engine:
    engine.stop()
    engine.options = ("--tcp", "127.0.0.1:0")
    return engine.start()


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_raw_garbage_on_every_socket_harms_nobody(tcp_engine: Engine, transport: str) -> None:
    chance = random.Random(5)
    with tcp_engine.peer() as peer:
        endpoints = peer.ask("hello")["endpoints"][transport]
        subscriber = peer.open(zmq.SUB, tcp_engine.endpoint("live"), b"heartbeat/")
        worker = peer.open(zmq.PULL, tcp_engine.endpoint("effects"))
        before = tcp_engine.rss()
        for number in range(600):
            place = endpoints[("commands", "live", "effects")[number % 3]]
            throw(place, chance)

        def served() -> bool:
            # Garbage may pass for a worker that speaks ZMTP 1.0 and dies: effects are at most once.
            assert peer.ask("create_session")["ok"]
            return bool(worker.poll(20))

        wait_until(served)
        assert subscriber.poll(60_000)
        assert tcp_engine.rss() - before < 64 * MIB


def throw(place: str | int, chance: random.Random) -> None:
    """Connect, speak no or half of ZMTP, vanish."""
    data = chance.choice(
        [
            chance.randbytes(chance.randrange(1, 2000)),
            GREETING,
            GREETING + chance.randbytes(500),
            GREETING + b"\x06\xff" + struct.pack(">Q", 1 << 62),
            GREETING[:30],
            b"GET / HTTP/1.1\r\n\r\n",
            b"",
        ]
    )
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as raw:
        raw.connect(place if isinstance(place, str) else ("127.0.0.1", place))
        raw.settimeout(5)
        with contextlib.suppress(OSError):  # it may hang up on us
            raw.sendall(data)


def frame(body: bytes, flags: int = 0) -> bytes:
    """One ZMTP frame."""
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body


def shake_hands(path: str, socket_type: bytes) -> socket.socket:
    """A raw connection that has spoken ZMTP 3.0 up to the point where messages may flow."""
    ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", len(socket_type)) + socket_type
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    raw.settimeout(60)
    raw.connect(path)
    raw.sendall(GREETING + frame(ready, 4))
    answer = b""
    while len(answer) < 64 + 2:
        piece = raw.recv(64 + 2 - len(answer))
        assert piece, "hung up in the handshake"
        answer += piece
    assert (answer[10], answer[64]) == (3, 4), "its greeting, then its READY"
    return raw


def test_odd_subscriptions_and_peers_of_the_wrong_type_harm_nobody(engine: Engine, peer: Peer) -> None:
    chance = random.Random(6)
    before = engine.rss()
    with shake_hands(str(engine.directory / "live.sock"), b"SUB") as odd:
        for _ in range(3000):
            odd.sendall(frame(chance.randbytes(chance.randrange(300)), flags=chance.choice([0, 0, 1])))
        odd.sendall(frame(b"end of it"))
    with shake_hands(str(engine.directory / "live.sock"), b"SUB") as odd, contextlib.suppress(OSError):
        odd.sendall(frame(b"\x01" + b"t" * MIB))  # over what a subscription may be
        while odd.recv(4096):
            pass
    with shake_hands(str(engine.directory / "effects.sock"), b"PULL") as odd, contextlib.suppress(OSError):
        for _ in range(1000):
            odd.sendall(frame(chance.randbytes(100)))
    for place in ("commands", "live", "effects"):
        for kind in (zmq.PUSH, zmq.PUB, zmq.DEALER, zmq.REP):
            peer.open(kind, engine.endpoint(place))
    follower = peer.open(zmq.SUB, engine.endpoint("live"), b"created/")

    def heard() -> bool:
        assert peer.ask("create_session")["ok"]
        return bool(follower.poll(20))

    wait_until(heard)
    assert engine.rss() - before < 32 * MIB
    assert "Traceback" not in engine.errors()
