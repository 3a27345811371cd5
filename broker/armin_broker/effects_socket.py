"""The PUSH socket: one side effect for each fact, at most once, load-balanced over the workers."""

from __future__ import annotations

from collections import deque
from typing import Final

import zmq

from armin_engine.records import Event

SEND_HWM: Final = 100  # effects in libzmq's queue to one worker; what a dead one had there is not known
INPUT_BYTES_MAX: Final = 1 << 10  # workers send nothing


class EffectsSocket:
    """Owns the PUSH; the engine's side effect sink. Never waits: a bounded backlog, then counted drops."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], backlog_max: int, backlog_bytes_max: int
    ) -> None:
        socket = context.socket(zmq.PUSH)
        socket.sndhwm = SEND_HWM
        socket.maxmsgsize = INPUT_BYTES_MAX
        self.socket = socket
        self.sent = 0
        self.dropped = 0
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._backlog_max = backlog_max
        self._backlog_bytes_max = backlog_bytes_max

    @property
    def backlog(self) -> int:
        """Effects that wait for a worker."""
        return len(self._backlog)

    def emit(self, event: Event) -> None:
        """Hand one effect to a worker, or keep it, or drop it."""
        if not self._backlog and self._send(event.packed):
            return
        if (
            len(self._backlog) >= self._backlog_max
            or self._backlog_bytes + len(event.packed) > self._backlog_bytes_max
        ):
            self.dropped += 1
            return
        self._backlog.append(event.packed)
        self._backlog_bytes += len(event.packed)

    def flush(self) -> None:
        """Hand over what waits, as far as workers take it."""
        while self._backlog and self._send(self._backlog[0]):
            self._backlog_bytes -= len(self._backlog.popleft())

    def _send(self, packed: bytes) -> bool:
        try:
            self.socket.send(packed, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self.sent += 1
        return True
