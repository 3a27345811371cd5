"""An engine that does not let us in: libzmq tells of it once, and does not try again."""

from __future__ import annotations

import itertools
import struct
from contextlib import suppress
from typing import Any, Final

import zmq

from armin.credentials import KEY_VARIABLE, Credentials
from armin.errors import NotAuthorized

_EVENTS: Final = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_EVENT: Final = struct.Struct("=HI")  # kind, value
_MISMATCH: Final = 0x11000002  # the other side does not ask for a key, or does: its mechanism is another one
_numbers: Final = itertools.count()


class Refusal:
    """Watches one socket by TCP, from before it connects, for an engine that does not let it in."""

    def __init__(self, socket: zmq.Socket[Any], endpoint: str, credentials: Credentials | None) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._message: str | None = None  # once it is refused
        events = f"inproc://armin.refusal.{next(_numbers)}"
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(socket.context)
        self.socket = context.socket(zmq.PAIR)
        try:
            socket.monitor(events, _EVENTS)
            self.socket.connect(events)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raise NotAuthorized if the engine does not let us in."""
        with suppress(zmq.Again):
            while self._message is None:
                self._take(*_EVENT.unpack(self.socket.recv_multipart(zmq.NOBLOCK)[0]))
        if self._message is not None:
            raise NotAuthorized(self._message, field="key", reason="key")

    def _take(self, kind: int, value: int) -> None:
        key = self._credentials
        if kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH and key is not None:
            self._message = (
                f"the engine does not let the key {key.name} in at {self._endpoint}: it is unknown there, was"
                f" revoked, or its role ({key.role}) is not enough"
            )
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == _MISMATCH:
            self._message = (
                f"the engine at {self._endpoint} asks for a key: give it, or set {KEY_VARIABLE}"
                if key is None
                else f"the engine at {self._endpoint} asks for no keys: it is not the one of {key.name}'s key"
            )

    def close(self) -> None:
        """Stop watching."""
        self.socket.close(0)
