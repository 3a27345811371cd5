"""Bare sockets: what a peer of an engine sends and gets, frame by frame."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import zmq
from zmq.utils.monitor import recv_monitor_message

from armin.conformance.values import encode

Context = zmq.Context[zmq.Socket[bytes]]
RECONNECT_MS: Final = 20  # until a connection that was cut is tried again


class Silence(Exception):
    """Nothing came within the time for it."""


class Nonsense(Exception):
    """What came is no reply."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: the number of its command, the frames in front of it, its fields, its size in bytes."""

    number: int
    envelope: list[bytes]
    fields: dict[str, Any]
    size: int


def unpack_map(packed: bytes, what: str) -> dict[str, Any]:
    """The one msgpack map in these bytes.

    Raises:
        Nonsense: there is none.
    """
    try:
        fields = msgpack.unpackb(packed)
    except (ValueError, msgpack.UnpackException) as error:
        raise Nonsense(f"{what} is not msgpack: {error}") from None
    if type(fields) is not dict:
        raise Nonsense(f"{what} is a {type(fields).__name__}, not a map")
    return fields


class Peer:
    """One connection to the commands socket, a DEALER or a REQ; commands are numbered from 1.

    rcvhwm: replies that it lets wait on its side, 0 for any number.
    """

    def __init__(self, context: Context, endpoint: str, *, kind: str = "DEALER", rcvhwm: int = 0) -> None:
        self._is_dealer = kind == "DEALER"
        self._socket = context.socket(zmq.DEALER if self._is_dealer else zmq.REQ)
        self._socket.linger = 0
        self._socket.sndhwm = 0
        self._socket.rcvhwm = rcvhwm
        self._socket.reconnect_ivl = RECONNECT_MS
        self._events = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._last = 0
        self._abandoned: set[int | None] = set()
        self.waiting: dict[int, str] = {}  # ops of commands that are not answered yet, in the order sent
        self._socket.connect(endpoint)

    def send(self, command: Any) -> int:
        """Send a command; returns its number."""
        self._last += 1
        op = command.get("op") if isinstance(command, dict) else None
        self.waiting[self._last] = str(op)
        self._socket.send_multipart([*self._correlation(self._last), encode(command)])
        return self._last

    def _correlation(self, number: int) -> list[bytes]:
        return [b"%d" % number] if self._is_dealer else []

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Send these frames as they are."""
        self._socket.send_multipart(frames)

    def receive(self, deadline: float) -> Reply:
        """The next reply to a numbered command.

        Raises:
            Silence: none came by `deadline`, a reading of `time.monotonic`.
            Nonsense: what came is none.
        """
        while True:
            *envelope, reply = self.receive_frames(deadline)
            number = self._number(envelope)
            if number not in self._abandoned:
                break
        if number is None or number not in self.waiting:
            raise Nonsense(f"a reply came in the envelope {envelope}, in which no command waits for one")
        overtaken = next((each for each, op in self.waiting.items() if op != "lease"), number)
        op = self.waiting.pop(number)
        if op != "lease" and overtaken < number:
            raise Nonsense(f"command {number} of this peer was answered before command {overtaken}")
        return Reply(number, envelope, unpack_map(reply, "the reply"), len(reply))

    def _number(self, envelope: list[bytes]) -> int | None:
        """Which command a reply in this envelope answers."""
        if not self._is_dealer:
            return None if envelope else self._last
        digits = envelope[0] if len(envelope) == 1 else b""
        return int(digits) if digits.isdigit() else None

    def abandon(self) -> None:
        """Wait no more for what was sent: its answers, if any are still on their way, are ignored."""
        self._abandoned.update(self.waiting)
        self.waiting.clear()

    def receive_frames(self, deadline: float) -> list[bytes]:
        """The next frames, whatever they are. Raises Silence."""
        if not self._socket.poll(max(0, int(1000 * (deadline - time.monotonic())))):
            raise Silence
        return self._socket.recv_multipart()

    def is_silent(self) -> bool:
        """Whether nothing more has come, but for what is waited for no more."""
        return bool(self._abandoned) or not self._socket.poll(0)

    def was_cut_off(self, deadline: float) -> bool:
        """Whether the engine closes the connection by `deadline`."""
        if not self._events.poll(max(0, int(1000 * (deadline - time.monotonic())))):
            return False
        recv_monitor_message(self._events)
        self.abandon()
        return True

    def close(self) -> None:
        """Vanish."""
        self._socket.disable_monitor()
        self._events.close(linger=0)
        self._socket.close(linger=0)
