"""Whatever any peer sends to any socket, another client's next append is acknowledged, the log verifies
equal, and when the peers have gone the engine has its descriptors back, and its memory but for history.

A real engine, its three sockets on ipc and on tcp; peers that speak no ZMTP, half of it, or all of it and
then nonsense.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
import zmq

from armin.credentials import load
from armin_broker import protocol
from armin_broker.keyring import Keyring
from tests.fuzz.commands import ODD, Commands
from tests.fuzz.corpus import Corpus
from tests.fuzz.measure import descriptors
from tests.harness import Engine, Peer, wait_until

ROUND: Final = 1000  # inputs between two looks at the engine
HELD_MAX: Final = 24  # connections that are left open and silent
GROWTH_MAX: Final = 48 << 20  # bytes from the first half of a run to its end, history apart
SOCKETS: Final = ("commands", "live", "effects")
MECHANISMS: Final = (
    b"NULL",
    b"PLAIN",
    b"CURVE",
    b"GSSAPI",
    b"null",
    b"",
    b"\xff" * 20,
    b"NULLNULLNULLNULLNULL",
)
TYPES: Final = (
    b"DEALER",
    b"REQ",
    b"ROUTER",
    b"SUB",
    b"XSUB",
    b"PULL",
    b"PUSH",
    b"PUB",
    b"PAIR",
    b"STREAM",
    b"",
)
COMMANDS: Final = (
    b"READY",
    b"ERROR",
    b"PING",
    b"PONG",
    b"SUBSCRIBE",
    b"CANCEL",
    b"HELLO",
    b"INITIATE",
    b"\0",
    b"",
)

CURVE: Final = ((b"\x05HELLO", 200), (b"\x08INITIATE", 257), (b"\x08INITIATE", 400), (b"\x07MESSAGE", 33))

Key = Mapping[int, bytes]  # options of CURVE
Place = str | int  # a socket's path, or its port on loopback


class Broken(Exception):
    """The invariant does not hold."""


class Attack:
    """All that is done to one engine."""

    def __init__(self, engine: Engine, seed: int, keys: Sequence[Key] = ()) -> None:
        self.chance = random.Random(seed)
        self.engine = engine
        self.sent = 0
        self._commands = Commands(self.chance, Corpus().frames)
        self._held: list[socket.socket] = []
        self._witness = Peer(engine.endpoint("commands"))
        self.hello = self._witness.ask("hello")
        self._keys = keys
        by_tcp = f"tcp://127.0.0.1:{self.hello['endpoints']['tcp']['commands']}"
        self._abusers = [
            Peer(engine.endpoint("commands")),
            *(Peer(by_tcp, key=key) for key in keys or (None,)),
        ]
        self._warm_up()
        self._places: list[tuple[str, Place]] = [
            (name, place) for places in self.hello["endpoints"].values() for name, place in places.items()
        ]
        self._kinds: dict[Callable[[], int], int] = {
            self._multipart: 3,  # a hundred inputs
            self._no_zmtp: 30,
            self._half_shaken: 30,
            self._shaken: 15,  # some twenty inputs
            self._subscriptions: 1,
        }

    def _warm_up(self) -> None:
        """A large reply: with the first one pyzmq opens descriptors that it then keeps."""
        session_id = self._witness.ask("create_session")["session"]["id"]
        self._witness.ask("append", session_id=session_id, role="user", content="x" * (100 << 10))
        self._witness.ask("read", session_id=session_id)

    def run(self, inputs: int) -> None:
        """Send so many. Raises Broken."""
        due = ROUND
        while self.sent < inputs:
            (kind,) = self.chance.choices(list(self._kinds), list(self._kinds.values()))
            self.sent += kind()
            if self.sent >= due:
                due += ROUND
                self.look()

    def look(self) -> dict[str, Any]:
        """Another client's next append is acknowledged; the engine's counters."""
        created = self._witness.ask("create_session")
        if not created["ok"]:
            raise Broken(f"no session: {created}")
        session_id = created["session"]["id"]
        for number in (1, 2):
            reply = self._witness.ask("append", session_id=session_id, role="user", content="still here")
            if reply.get("seq") != number:
                raise Broken(f"no append: {reply}")
        if "Traceback" in self.engine.errors():
            raise Broken(self.engine.errors())
        return self._witness.ask("stats")

    def verify(self) -> None:
        """Memory, file and digests agree."""
        job = self._witness.ask("verify")["job"]
        report: dict[str, Any] = {}

        def done() -> bool:
            report.update(self._witness.ask("verify", job=job))
            return bool(report["done"])

        wait_until(done)
        if not report["equal"]:
            raise Broken(f"verify found {report['differences']}")

    def leave(self) -> None:
        """Everybody goes but the witness."""
        for abuser in self._abusers:
            abuser.close()
        while self._held:
            self._held.pop().close()

    def close(self) -> None:
        """The witness too."""
        self.leave()
        self._witness.close()

    # --- peers that speak ZeroMQ ---

    def _multipart(self) -> int:
        """Commands of all sorts under envelopes of all sorts: each is answered."""
        count, peer = 100, self.chance.choice(self._abusers)
        for _ in range(count):
            envelope = [
                self.chance.randbytes(self.chance.choice((0, 1, 8))) for _ in range(self.chance.randrange(3))
            ]
            if self.chance.random() < 0.02:
                envelope += [
                    self.chance.randbytes(self.chance.choice((256, 257, 5000)))
                ] * self.chance.randrange(1, 40)
            peer.socket.send_multipart([*envelope, self._commands.frame()])
        for _ in range(count):
            try:
                reply = msgpack.unpackb(peer.socket.recv_multipart()[-1])
            except zmq.Again:
                raise Broken("a command had no reply") from None
            if not reply["ok"] and reply["error"]["code"] in ("internal", "storage_failed"):
                raise Broken(str(reply))
        return count

    def _subscriptions(self) -> int:
        """A subscriber that changes its mind, with messages of an XSUB in between."""
        count = 100
        _, place = self.chance.choice([each for each in self._places if each[0] == "live"])
        endpoint = f"ipc://{place}" if isinstance(place, str) else f"tcp://127.0.0.1:{place}"
        subscriber = self._abusers[0].context.socket(zmq.XSUB)
        with subscriber:
            subscriber.linger = 0
            for option, value in (self.chance.choice(self._keys) if self._keys else {}).items():
                subscriber.setsockopt(option, value)
            subscriber.connect(endpoint)
            for _ in range(count):
                lead = self.chance.choice((b"\x01", b"\x01", b"\x00", b"\x02", b""))
                topic = self.chance.choice(
                    (b"", b"message/", b"~sync/", self.chance.randbytes(8), b"t" * 600)
                )
                with contextlib.suppress(zmq.Again):
                    subscriber.send(lead + topic, zmq.NOBLOCK)
        return count

    # --- peers that speak it badly ---

    def _no_zmtp(self) -> int:
        data = self.chance.choice(
            (
                self.chance.randbytes(self.chance.randrange(1, 2000)),
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01" + self.chance.randbytes(200),
                b"*1\r\n$4\r\nPING\r\n",
                b"\x01\x00" + self.chance.randbytes(50),  # ZMTP 1.0
                b"",
            )
        )
        self._throw(data)
        return 1

    def _half_shaken(self) -> int:
        """A greeting, as it should be or not, cut off somewhere, or followed by what does not follow."""
        data = bytearray(self._greeting())
        kind = self.chance.randrange(5)
        if kind == 0:
            del data[self.chance.randrange(len(data)) :]
        elif kind == 1:
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
        elif kind == 2:
            data += self.chance.randbytes(self.chance.randrange(300))
        elif kind == 3:
            data += bytes([self.chance.choice((2, 3, 6, 7))]) + struct.pack(
                ">Q", 1 << self.chance.randrange(10, 64)
            )
        else:
            data += self._strange_command()
        self._throw(bytes(data))
        return 1

    def _shaken(self) -> int:
        """The whole handshake, and then frames that nobody asked for."""
        count = self.chance.randrange(1, 40)
        name, place = self.chance.choice(self._places)
        fits = {"commands": b"DEALER", "live": b"SUB", "effects": b"PULL"}[name]
        kind = fits if self.chance.random() < 0.8 else self.chance.choice(TYPES)
        data = _greeting(b"NULL") + _ready(kind) + b"".join(self._message(name) for _ in range(count))
        if self.chance.random() < 0.3:
            del_from = self.chance.randrange(len(data))
            data = data[:del_from]
        self._throw(data, place)
        return count

    def _message(self, name: str) -> bytes:
        """Frames for a socket of that name."""
        chance = self.chance
        if chance.random() < 0.1:
            return self._strange_command()
        flags = chance.choice((0, 0, 0, 1, 1, 2, 8, 0xF0)) if chance.random() < 0.5 else 0
        if name == "live":
            lead = chance.choice((b"\x01", b"\x00", b"\x02", b""))
            return frame(lead + chance.choice((b"", b"message/", chance.randbytes(20), b"t" * 500)), flags)
        if name == "effects" or chance.random() < 0.3:
            return frame(chance.randbytes(chance.choice((0, 10, 300, 1500))), flags)
        return frame(b"", 1) + frame(self._commands.frame(), flags)

    def _greeting(self) -> bytes:
        return _greeting(self.chance.choice(MECHANISMS), self.chance.choice((3, 3, 3, 2, 1, 0, 4, 255)))

    def _strange_command(self) -> bytes:
        chance = self.chance
        if chance.random() < 0.2:  # of the sizes that CURVE's have, so that their boxes are opened
            name, size = chance.choice(CURVE)
            return frame(name + b"\x01\x00" + chance.randbytes(size - len(name) - 2), 4)
        word = chance.choice(COMMANDS)
        name = bytes([chance.choice((len(word), len(word), 0, 255))]) + word
        rest = chance.choice(
            (b"", chance.randbytes(30), b"\x0bSocket-Type" + b"\xff" * 4 + b"SUB", chance.choice(ODD))
        )
        return frame(name + rest, chance.choice((4, 4, 4, 5, 6)))

    def _throw(self, data: bytes, place: Place | None = None) -> None:
        """Connect, send it whole or in pieces, and vanish, hang on in silence, or reset."""
        if place is None:
            _, place = self.chance.choice(self._places)
        raw = _connected(place)
        with contextlib.suppress(OSError):  # it may hang up on us
            while data:
                size = len(data) if self.chance.random() < 0.8 else self.chance.randrange(1, len(data) + 1)
                raw.sendall(data[:size])
                data = data[size:]
        how = self.chance.random()
        if how < 0.1:
            self._held.append(raw)
            if len(self._held) > HELD_MAX:
                self._held.pop(self.chance.randrange(HELD_MAX)).close()
            return
        if how < 0.4 and isinstance(place, int):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()


def frame(body: bytes, flags: int = 0) -> bytes:
    """One ZMTP frame; its size is as the body's unless `flags` say that it is short and it is not."""
    if len(body) < 256 and not flags & 2:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body


def _greeting(mechanism: bytes, version: int = 3) -> bytes:
    return b"\xff" + bytes(8) + b"\x7f" + bytes([version, 0]) + mechanism.ljust(20, b"\0") + bytes(32)


def _ready(kind: bytes) -> bytes:
    return frame(b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind, 4)


def _connected(place: Place) -> socket.socket:
    raw = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
    raw.settimeout(60)
    raw.connect(place if isinstance(place, str) else ("127.0.0.1", place))
    return raw


def _memory(attack: Attack) -> int:
    """What the engine holds besides history."""
    return attack.engine.rss() - int(attack.look()["history_bytes"])


def make_keys(directory: Path) -> list[Key]:
    """A key of every role for the engine of that directory."""
    keyring = Keyring(directory / protocol.KEYS_DIRECTORY)
    return [load(keyring.new(role, role)[1]).options() for role in protocol.KEY_ROLES]


def attack_engine(engine: Engine, seed: int, inputs: int, keys: Sequence[Key] = ()) -> dict[str, int]:
    """Half of the inputs, then the other half, and what the engine held in between. Raises Broken.

    keys: for the peers by tcp that come in, where the engine demands them.
    """
    attack = Attack(engine, seed, keys)
    try:
        start, open_before = _memory(attack), descriptors(engine.pid)
        attack.run(inputs // 2)
        half = _memory(attack)
        attack.run(inputs)
        attack.look()
        attack.verify()
        attack.leave()
        wait_until(lambda: descriptors(engine.pid) < open_before, what="the descriptors come back")
        end = _memory(attack)
    finally:
        attack.close()
    if end - half > GROWTH_MAX:
        raise Broken(f"memory grew from {half} to {end} bytes")
    return {"start": start, "half": half, "end": end, "inputs": attack.sent}


def run(seed: int, inputs: int, *, with_keys: bool) -> None:
    """Against an engine of its own, which demands keys on tcp or does not; says what came of it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="armin-fuzz-") as directory:
        path = Path(directory) / "e"
        keys = make_keys(path) if with_keys else []
        engine = Engine(path, "--tcp", "127.0.0.1:0").start()
        try:
            held = attack_engine(engine, seed, inputs, keys)
        finally:
            code = engine.stop()
    took = time.monotonic() - began
    print(f"{held['inputs']} inputs in {took:.0f} s; the engine ended with {code}")
    print(
        "its memory besides history: "
        + ", ".join(f"{held[at] >> 20} MiB {at}" for at in ("start", "half", "end"))
    )


__all__ = ["Attack", "Broken", "attack_engine", "run"]
