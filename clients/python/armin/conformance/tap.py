"""The live socket and the effects socket, as a peer hears them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import zmq

from armin.conformance.peers import RECONNECT_MS, Context, Nonsense, Silence, unpack_map
from armin_broker.protocol import SYNC_RESEND_MS, WELCOME_TOPIC

FACT_TOPICS: Final = {
    "session_created": "created/{}/",
    "message_appended": "message/{}/",
    "session_closed": "closed/{}/",
}


@dataclass(frozen=True, slots=True)
class Heard:
    """What the live socket carried: a topic and the map behind it."""

    topic: str
    event: dict[str, Any]

    @property
    def is_fact(self) -> bool:
        """Whether it is a committed fact."""
        return self.topic.startswith(("created/", "message/", "closed/"))


@dataclass(slots=True)
class Batch:
    """What was heard from one point to the next."""

    heard: list[Heard] = field(default_factory=list)

    @property
    def facts(self) -> list[Heard]:
        """The committed facts among it."""
        return [each for each in self.heard if each.is_fact]

    @property
    def others(self) -> list[Heard]:
        """Heartbeats, syncs, goodbyes, and what later versions may add."""
        return [each for each in self.heard if not each.is_fact]


class Tap:
    """A SUB of everything. `sync` sends the engine a token, whatever comes of that."""

    def __init__(self, context: Context, endpoint: str, sync: Callable[[str], None]) -> None:
        self._socket = context.socket(zmq.SUB)
        self._socket.linger = 0
        self._socket.rcvhwm = self._socket.sndhwm = 0
        self._socket.reconnect_ivl = RECONNECT_MS
        self._socket.subscribe(b"")
        self._socket.connect(endpoint)
        self._sync = sync

    def until_sync(self, token: str, deadline: float) -> tuple[Batch, int]:
        """All that is published before this token, which is sent until it is heard, and the log's end then.

        Raises Silence, Nonsense.
        """
        batch, topic = Batch(), f"~sync/{token}/"
        while time.monotonic() < deadline:
            self._sync(token)
            while (heard := self._next(SYNC_RESEND_MS)) is not None:
                batch.heard.append(heard)
                if heard.topic == topic:
                    return batch, _position(heard)
        raise Silence

    def until(self, wanted: Callable[[Heard], bool], batch: Batch, deadline: float) -> bool:
        """Add to the batch until something wanted is heard; whether it was, by `deadline`."""
        while (left := deadline - time.monotonic()) > 0:
            heard = self._next(int(1000 * left) + 1)
            if heard is not None:
                batch.heard.append(heard)
                if wanted(heard):
                    return True
        return False

    def _next(self, milliseconds: int) -> Heard | None:
        if not self._socket.poll(milliseconds):
            return None
        frames = self._socket.recv_multipart()
        while len(frames) == 1 and frames[0].startswith(WELCOME_TOPIC):
            if not self._socket.poll(milliseconds):
                return None
            frames = self._socket.recv_multipart()
        if len(frames) != 2:
            raise Nonsense(f"the live socket carried {len(frames)} frames, not a topic and an event")
        return Heard(frames[0].decode("utf-8", "replace"), unpack_map(frames[1], "an event"))

    def close(self) -> None:
        """Hear no more."""
        self._socket.close(linger=0)


def _position(heard: Heard) -> int:
    position = heard.event.get("position")
    if type(position) is not int:
        raise Nonsense(f"a sync says {heard.event}")
    return position


class Outlet:
    """A PULL: takes effects, one frame each."""

    def __init__(self, context: Context, endpoint: str) -> None:
        self._socket = context.socket(zmq.PULL)
        self._socket.linger = 0
        self._socket.rcvhwm = 0
        self._socket.connect(endpoint)

    def next(self, deadline: float) -> dict[str, Any]:
        """The next effect. Raises Silence, Nonsense."""
        if not self._socket.poll(max(0, int(1000 * (deadline - time.monotonic())))):
            raise Silence
        frames = self._socket.recv_multipart()
        if len(frames) != 1:
            raise Nonsense(f"an effect has {len(frames)} frames, not 1")
        return unpack_map(frames[0], "an effect")

    def close(self) -> None:
        """Take no more."""
        self._socket.close(linger=0)
