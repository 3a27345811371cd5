"""Whatever bytes arrive, each command gets one reply that unpacks, tells of no bug and grants no more than
its sender may do, in time and memory bounded by the command's size; and the log verifies equal.

The real loop on a real file, in this process; only the command socket is another: it deals out frames.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import msgpack
import zmq

from armin_broker import protocol
from armin_broker.command_socket import Arrival, CommandSocket, Lost, Reply, Unrendered
from armin_broker.commands import parse
from armin_broker.config import Config
from armin_broker.effects_socket import EffectsSocket
from armin_broker.live_socket import LiveSocket
from armin_broker.loop import Loop
from armin_broker.sender import TRUSTED, UNKNOWN, Sender
from armin_engine import Armin
from armin_engine.errors import CommandError
from tests.fuzz.commands import Commands

LIFE_INPUTS: Final = 20_000  # then a new engine, so that what was stored does not pass for a leak
BATCH_MAX: Final = 64  # commands of one turn
TURN_MS: Final = 50  # by the loop's clock
PARSE_MEMORY: Final = (1 << 18, 200)  # bytes, and for each byte of the command: an empty map takes 64 + 72
SECONDS: Final = (1.0, 2e-6)  # of processor time for a turn, and for each byte that came in it
MEASURED_EVERY: Final = 500  # commands of which one is parsed with its memory measured

SENDERS: Final = (*[TRUSTED] * 20, UNKNOWN, *(Sender(role, "key") for role in protocol.KEY_ROLES))
_RANK: Final = {role: rank for rank, role in enumerate(("", *protocol.KEY_ROLES))}
_CODES: Final = {*protocol.ErrorCode} - {protocol.ErrorCode.INTERNAL, protocol.ErrorCode.STORAGE_FAILED}

_NAMES: Final = {name for fields in protocol.OPS.values() for name in (*fields.required, *fields.optional)}
_FIELDS: Final = {
    *("-", "op", "envelope", *_NAMES, *protocol.LIMITS),
    *(f"{name}[0]{part}" for name in _NAMES for part in ("", ".role", ".content", ".meta")),
}

Frames = Iterator[tuple[bytes, Sender]]
Learn = Callable[[str, bytes], object]  # an outcome, and the frame that came to it


class Broken(Exception):
    """The invariant does not hold for one of these frames."""

    def __init__(self, what: str, frames: list[bytes]) -> None:
        super().__init__(f"{what}: {' '.join(frame[:200].hex() for frame in frames)[:2000]}")
        self.frames = frames


class Dealer(CommandSocket):
    """Deals out frames in place of the socket, and looks at each reply."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], frames: Frames, learn: Learn) -> None:
        super().__init__(context)
        self.stop: Callable[[], None] = lambda: None
        self.now = 0.0
        self._frames = frames
        self._learn = learn
        self._sizes = itertools.cycle((1, 3, 17, BATCH_MAX))
        self._open: dict[bytes, tuple[bytes, Sender]] = {}  # what still waits for its reply
        self._number = 0
        self._turn: list[bytes] = []
        self._began = time.process_time()
        self.position = 0

    def drain(self, count_max: int, bytes_max: int) -> list[Arrival]:
        """The next batch; without one, the end."""
        self._check_time()
        self.now += TURN_MS
        batch = list(itertools.islice(self._frames, next(self._sizes)))
        if not batch:
            self.stop()
        self._turn = [frame for frame, _ in batch]
        self.received += len(batch)
        return [self._arrival(frame, sender) for frame, sender in batch]

    def _arrival(self, frame: bytes, sender: Sender) -> Arrival:
        self._number += 1
        name = b"%d" % self._number
        self._open[name] = (frame, sender)
        return Arrival([name], frame, None, sender)

    def _check_time(self) -> None:
        took, self._began = time.process_time() - self._began, time.process_time()
        base, each = SECONDS
        if took > base + each * sum(map(len, self._turn)):
            raise Broken(f"a turn took {took:.2f} s", self._turn)

    def send(self, envelope: list[bytes], reply: Reply, lost: Lost | None = None) -> None:
        """Check one reply."""
        (name,) = envelope
        asked = self._open.pop(name, None)
        if asked is None:
            raise Broken("a command was answered twice", self._turn)
        frame, sender = asked
        try:
            self._learn(
                self._outcome(reply.render() if isinstance(reply, Unrendered) else reply, sender, frame),
                frame,
            )
        except (AssertionError, ValueError, KeyError, TypeError) as error:
            raise Broken(f"{error!r}", [frame]) from error

    def _outcome(self, packed: bytes, sender: Sender, frame: bytes) -> str:
        reply = msgpack.unpackb(packed)
        assert type(reply["position"]) is int
        assert reply["position"] >= self.position, "positions never go back"
        self.position = reply["position"]
        if reply["ok"] is True:
            if sender.role is not None:
                needed = protocol.OPS[msgpack.unpackb(frame)["op"]].role
                assert _RANK[needed] <= _RANK[sender.role], "done without the role for it"
            return "ok " + " ".join(sorted(reply.keys() - {"ok", "position"}))[:60]
        return _error_outcome(reply)

    def all_answered(self) -> None:
        """Every command has had its reply."""
        if self._open:
            raise Broken("no reply", [frame for frame, _ in self._open.values()])

    def flush(self) -> bool:
        """Nobody is ever behind."""
        return False


def _error_outcome(reply: dict[str, Any]) -> str:
    assert reply["ok"] is False
    error = reply["error"]
    assert error["code"] in _CODES, error
    assert type(error["retry"]) is bool
    assert 0 < len(error["message"]) <= 500
    assert type(error.get("field", "")) is str
    assert len(error.get("field", "")) <= 200
    assert set(error) <= {"code", "message", "field", "limit", "reason", "retry"}
    place, reason = _plain(error.get("field", "-")), error.get("reason", "-")
    return f"{error['code']} {place} {reason} {_said(error['message'])}"


def _said(message: str) -> str:
    """The message without what the caller called things."""
    said = re.sub(r"'.*'|\".*\"", "'...'", message, flags=re.DOTALL)
    said = re.sub(r"-?\d[\d.e+]*", "0", said).partition("; ")[0]
    said = re.sub(r"^\w+ (?=has no field|needs a key)", "", said)
    return re.sub(r"^messages\[0\]\..* is not a known", "messages[0] is not a known", said)[:60]


def _plain(field: str) -> str:
    """Without numbers and without what the caller called it."""
    field = re.sub(r"\d+", "0", field)
    return field if field in _FIELDS else "?"


def serve(frames: Frames, learn: Learn) -> int:
    """One life of an engine that is asked all of this; the position that its log comes to. Raises Broken."""
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        stack.callback(context.destroy, linger=0)
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="armin-fuzz-", dir=_fast_directory()))
        )
        dealer = Dealer(context, frames, learn)
        live, effects = LiveSocket(context), EffectsSocket(context, 100, 1 << 20)
        armin = stack.enter_context(Armin(directory / "armin.db", sink=effects))
        furnish(armin)
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        os.write(writer, b"x")  # so that the loop never waits
        loop = Loop(armin, Config(directory), dealer, live, effects, reader, {}, lambda: dealer.now)
        dealer.stop = loop.stop
        loop.run()
        dealer.all_answered()
        report = armin.verify()
        if not report.equal:
            raise Broken(f"verify found {report.differences}", [])
        return armin.position


def furnish(armin: Armin) -> None:
    """Sessions for commands to meet: open, closed, named, long."""
    for number in range(1, 5):
        armin.create_session(name=f"n{number}", meta={"n": number})
        armin.append_many(number, [{"role": "user", "content": "hello"}] * number)
    armin.close_session(4)


def _fast_directory() -> str | None:
    """Where syncing costs nothing: here bytes are at stake, not disks."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def check_memory(frame: bytes) -> None:
    """Parse alone, with what it takes at its peak. Raises Broken."""
    base, each = PARSE_MEMORY
    tracemalloc.start()
    try:
        with suppress(CommandError):
            parse(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if peak > base + each * len(frame):
        raise Broken(f"parsing {len(frame)} bytes took {peak} bytes of memory", [frame])


def from_chance(commands: Commands, count: int) -> Frames:
    """So many frames, each from somebody."""
    for number in range(count):
        frame = commands.frame()
        if number % MEASURED_EVERY == 0:
            check_memory(frame)
        yield frame, commands.chance.choice(SENDERS)
