"""The PUB socket: what was committed, in order, plus heartbeats. It drops, silently, for slow readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack
import zmq

from armin_broker import protocol
from armin_engine.records import Event, Kind

SEND_HWM: Final = protocol.LIVE_BACKLOG_MAX  # shared between subscribers; 64 KiB and a meta at most each

_LAST: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)

_TOPICS: Final[dict[Kind, Callable[[int], bytes]]] = {
    Kind.SESSION_CREATED: protocol.created_topic,
    Kind.MESSAGE_APPENDED: protocol.message_topic,
    Kind.SESSION_CLOSED: protocol.closed_topic,
}


class LiveSocket:
    """Owns the PUB; a listener of the engine's hub."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        socket = context.socket(zmq.PUB)
        socket.sndhwm = SEND_HWM
        socket.maxmsgsize = protocol.SUBSCRIPTION_BYTES_MAX  # topics, at most 71 bytes, and handshakes
        self.socket = socket
        self.published = 0
        self._send = super(zmq.Socket, socket).send  # without the options that cost more than sending

    def welcome(self, epoch: str) -> None:
        """Say to each who connects from now on, before anything else, whose facts these are.

        libzmq puts it in front of all that is published, on a reconnect too: so a follower of the database
        as it was before a restore takes no fact of the restored one for its own.
        """
        self.socket.setsockopt(zmq.XPUB_WELCOME_MSG, protocol.WELCOME_TOPIC + epoch.encode("ascii"))

    def deliver(self, events: Sequence[Event]) -> None:
        """Announce the facts of one commit."""
        send, last, topic = self._send, None, b""
        for _, kind, session_id, packed in events:
            if (kind, session_id) != last:
                last = kind, session_id
                topic = _TOPICS[kind](session_id)
            send(topic, _MORE)
            send(packed, _LAST)
        self.published += len(events)

    def announce(self, topic: bytes, fields: dict[str, Any]) -> None:
        """Publish something that is no fact: a heartbeat, a goodbye, a follower's sync."""
        self.socket.send_multipart([topic, msgpack.packb(fields)], zmq.NOBLOCK)
