"""An engine that does not let us in: libzmq tells of it once, and does not try again."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import zmq

from armin.credentials import Credentials
from armin.errors import NotAuthorized


class Refusal:
    """Watches one socket, from before it connects, for an engine that refuses its key."""

    def __init__(self, socket: zmq.Socket[Any], endpoint: str, credentials: Credentials) -> None:
        self._message = (
            f"the engine does not let the key {credentials.name} in at {endpoint}: it is unknown there, was"
            f" revoked, or its role ({credentials.role}) is not enough"
        )
        events = f"inproc://armin.refusal.{id(socket)}"
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(socket.context)
        self.socket = context.socket(zmq.PAIR)
        self._is_refused = False
        try:
            socket.monitor(events, zmq.EVENT_HANDSHAKE_FAILED_AUTH)
            self.socket.connect(events)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raise NotAuthorized if the engine has refused the key."""
        if not self._is_refused:
            with suppress(zmq.Again):
                self.socket.recv_multipart(zmq.NOBLOCK)
                self._is_refused = True
        if self._is_refused:
            raise self.error()

    def error(self) -> NotAuthorized:
        """What to tell whoever asked."""
        return NotAuthorized(self._message, field="key")

    def close(self) -> None:
        """Stop watching."""
        self.socket.close(0)
