"""The blocking side: sockets that several threads may use and any of them may close."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

import zmq

from armin import absence, sockets
from armin.calls import Call
from armin.errors import ClientClosed
from armin.target import Target

T = TypeVar("T")

Socket = zmq.Socket[bytes]
Clock = Callable[[], float]

CORRELATION_BYTES: Final = 8

# libzmq sockets must not be closed under a thread that waits on them, so waits are cut into slices
# and look in between whether somebody wants to close.
_SLICE: Final = 0.1  # seconds


class Plug:
    """A socket, the lock that hands it from thread to thread, and a safe way to close it."""

    def __init__(self, socket: Socket, forget: Callable[[Plug], None], clock: Clock) -> None:
        self.socket = socket
        self.lock = threading.Lock()
        self.clock = clock
        self._forget = forget
        self._closing = False

    def wait(self, event: int, deadline: float) -> bool:
        """Whether the socket can send or receive before `deadline`. The caller holds the lock.

        Raises:
            ClientClosed: somebody closed it meanwhile.
        """
        while True:
            self.check_open()
            left = deadline - self.clock()
            milliseconds = math.ceil(1000 * max(0.0, min(left, _SLICE)))
            if self.socket.poll(milliseconds, event):
                return True
            if left <= 0:
                return False

    def check_open(self) -> None:
        """Raise ClientClosed if it is closed or about to be."""
        if self._closing:
            raise ClientClosed("this client is closed")

    def close(self) -> None:
        """Close the socket as soon as whoever waits on it has let go. Closing twice is fine."""
        self._closing = True
        with self.lock:
            self.socket.close(0)
        self._forget(self)


class Channel:
    """A DEALER to the commands socket: one request at a time, each answered or given up in time."""

    def __init__(self, plug: Plug, target: Target, timeout: float) -> None:
        self._plug = plug
        self._target = target
        self._timeout = timeout
        self._requests = 0

    def request(self, call: Call[T]) -> T:
        """Send one command and wait for its reply.

        Raises:
            ArminError: the engine refused, nobody answered (NoReply), or this was closed (ClientClosed).
        """
        payload = call.encode()
        with self._plug.lock:
            reply = self._exchange(payload, call.writes)
        return call.decode(reply)

    def _exchange(self, payload: bytes, writes: bool) -> bytes:
        plug = self._plug
        deadline = plug.clock() + self._timeout
        self._requests += 1
        correlation = self._requests.to_bytes(CORRELATION_BYTES)
        if not plug.wait(zmq.POLLOUT, deadline):
            raise absence.no_reply(self._target, self._timeout, sent=False, writes=writes)
        plug.socket.send_multipart((correlation, payload), zmq.NOBLOCK)
        while plug.wait(zmq.POLLIN, deadline):
            frames = plug.socket.recv_multipart(zmq.NOBLOCK)
            if len(frames) == 2 and frames[0] == correlation:
                return frames[1]
            # an answer to a request that was given up before
        raise absence.no_reply(self._target, self._timeout, sent=True, writes=writes)

    def close(self) -> None:
        """Close its socket."""
        self._plug.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Inlet:
    """A SUB or PULL socket, read frame list by frame list."""

    def __init__(self, plug: Plug) -> None:
        self._plug = plug

    def receive(self, deadline: float) -> list[bytes] | None:
        """The next message, or None if there is none before `deadline`.

        Raises:
            ClientClosed: this was closed.
        """
        with self._plug.lock:
            self._plug.check_open()
            try:
                return self._plug.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                pass  # nothing there yet
            if self._plug.wait(zmq.POLLIN, deadline):
                return self._plug.socket.recv_multipart(zmq.NOBLOCK)
            return None

    def subscribe(self, topic: bytes) -> None:
        """Take messages whose first frame begins with `topic`."""
        self._set(zmq.SUBSCRIBE, topic)

    def unsubscribe(self, topic: bytes) -> None:
        """Undo one `subscribe`."""
        self._set(zmq.UNSUBSCRIBE, topic)

    def _set(self, option: int, topic: bytes) -> None:
        with self._plug.lock:
            self._plug.check_open()
            self._plug.socket.setsockopt(option, topic)

    def close(self) -> None:
        """Close its socket."""
        self._plug.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Sockets:
    """Every socket of one client, so that none is open when the context ends: libzmq would hang."""

    def __init__(
        self,
        target: Target,
        timeout: float,
        context: zmq.Context[Socket] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.target = target
        self.timeout = timeout
        self.clock = clock
        self._owns_context = context is None
        self._context = zmq.Context() if context is None else context
        self._plugs: set[Plug] = set()
        self._lock = threading.Lock()
        self._closed = False

    def channel(self) -> Channel:
        """A new connection to the commands socket."""
        return Channel(self._plug(sockets.open_commands, self.target.commands), self.target, self.timeout)

    def live(self, endpoint: str) -> Inlet:
        """A new connection to the live socket."""
        return Inlet(self._plug(sockets.open_live, endpoint))

    def effects(self, endpoint: str) -> Inlet:
        """A new connection to the effects socket."""
        return Inlet(self._plug(sockets.open_effects, endpoint))

    def _plug(self, opener: Callable[[zmq.Context[Socket], str], Socket], endpoint: str) -> Plug:
        with self._lock:
            if self._closed:
                raise ClientClosed("this client is closed")
            plug = Plug(opener(self._context, endpoint), self._plugs.discard, self.clock)
            self._plugs.add(plug)
        return plug

    def close(self) -> None:
        """Close every socket, and the context if it is our own. Closing twice is fine."""
        with self._lock:
            self._closed = True
            plugs = list(self._plugs)
        for plug in plugs:
            plug.close()
        if self._owns_context:
            self._context.term()
