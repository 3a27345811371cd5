"""The blocking side: sockets that several threads may use and any of them may close."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from socket import socketpair
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import zmq

from armin import sockets
from armin.calls import Call
from armin.credentials import Credentials
from armin.errors import ClientClosed
from armin.outbox import Answer, Outbox, given_up
from armin.target import Target

T = TypeVar("T")

Socket = zmq.Socket[bytes]
Clock = Callable[[], float]
Opener = Callable[[zmq.Context[Socket], str, Credentials | None], sockets.Opened[Socket]]

# Seconds until a clock is looked at again; the handler of a signal that another thread took waits as long.
_WAIT_MAX: Final = 1.0
AWAY: Final = 0.05  # seconds without a call, from which on a pipeline was left alone
_LOOKS: Final = 16  # looks for a message until one is tried for in any case, see `sockets.look_for_cuts`


class Plug:
    """A socket, the lock that hands it from thread to thread, and a safe way to close it.

    libzmq sockets must not be closed under a thread that waits on them, so whoever closes wakes it first.
    """

    def __init__(self, opened: sockets.Opened[Socket], forget: Callable[[Plug], None], clock: Clock) -> None:
        self.socket = opened.socket
        self._opened = opened
        self.lock = threading.Lock()
        self.clock = clock
        self._forget = forget
        self._closing = False
        self._closes = threading.Lock()
        self._process = os.getpid()  # a fork has the same wakers, and its closing is none of ours
        try:
            self._woken, self._waker = socketpair()
        except BaseException:
            opened.close()
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._woken.fileno(), zmq.POLLIN)
        if opened.refusal is not None:
            self._poller.register(opened.refusal.socket, zmq.POLLIN)
        self._event = 0  # what is waited for on the socket

    def wait(self, event: int, deadline: float) -> bool:
        """Whether the socket can send or receive before `deadline`. The caller holds the lock.

        Raises:
            ClientClosed: somebody closed it meanwhile.
            NotAuthorized: the engine refused our key.
        """
        if event != self._event:
            self._poller.register(self.socket, event)
            self._event = event
        while True:
            self.check_open()
            left = deadline - self.clock()
            ready = self._poller.poll(math.ceil(1000 * max(0.0, min(left, _WAIT_MAX))))
            if any(each is self.socket for each, _ in ready):
                return True
            self._opened.check()
            if left <= 0:
                return False

    def check_open(self) -> None:
        """Raise ClientClosed if it is closed or about to be."""
        if self._closing:
            raise ClientClosed("this client is closed")

    def close(self) -> None:
        """Close the socket as soon as whoever waits on it has let go. Closing twice is fine."""
        with self._closes:
            if not self._closing:
                self._closing = True
                if os.getpid() == self._process:
                    self._waker.send(b"x")
        with self.lock:
            self._opened.close()
            self._woken.close()
            self._waker.close()
        self._forget(self)


class Channel:
    """A DEALER to the commands socket; one thread at a time waits for its answer, each in time."""

    def __init__(self, plug: Plug, target: Target, timeout: float) -> None:
        self._plug = plug
        self._outbox = Outbox(timeout, partial(given_up, target, timeout))
        self._looks = 0
        self._last_seen = plug.clock()  # when a pipelined call or a wait for one ended

    def request(self, call: Call[T]) -> T:
        """Send one command, again if need be, and wait for its reply.

        Raises:
            ArminError: the engine refused, nobody answered (NoReply), or this was closed (ClientClosed).
        """
        answer = Answer(call)
        with self._plug.lock:
            request = self._outbox.add(call, self._plug.clock(), answer.set)
            try:
                while not answer.is_there:
                    self._turn()
            finally:
                if not answer.is_there:  # closed, or interrupted
                    self._outbox.forget(request)
        return answer.get()

    def pipelined(self, call: Call[T]) -> Answer[T]:
        """Send a command as soon as the window has room for it; its answer comes while others are sent.

        Raises:
            ArminError: it cannot be sent, or this was closed (ClientClosed).
        """
        answer = Answer(call)
        with self._plug.lock:
            self._plug.check_open()
            self._come_back()
            while self._outbox.is_full:
                self._turn()
            self._last_seen = now = self._plug.clock()
            self._outbox.add(call, now, answer.set)
            if self._outbox.is_ripe:
                self._send()
                self._receive()
                self._outbox.tick(self._plug.clock())
        return answer

    def _come_back(self) -> None:
        away = self._plug.clock() - self._last_seen
        if away > AWAY:
            self._outbox.was_left(away)

    def wait(self, answers: Sequence[Answer[Any]]) -> None:
        """Until all of them are there."""
        with self._plug.lock:
            self._come_back()
            for answer in answers:
                while not answer.is_there:
                    self._turn()
            self._last_seen = self._plug.clock()

    def _turn(self) -> None:
        """Send what may be sent, wait for something to happen, take it in."""
        plug = self._plug
        blocked = self._send()
        due = self._outbox.next_due()
        plug.wait(zmq.POLLIN | (zmq.POLLOUT if blocked else 0), plug.clock() if due is None else due)
        self._receive()
        self._outbox.tick(plug.clock())

    def _send(self) -> bool:
        """Whether something is left that nobody takes for now."""
        plug = self._plug
        plug.check_open()
        try:
            while (following := self._outbox.next_to_send()) is not None:
                requests, frames = following
                try:
                    plug.socket.send_multipart(frames, zmq.NOBLOCK)
                except zmq.Again:
                    self._outbox.unsent(requests)
                    return True
                self._outbox.sent(requests, plug.clock())
        except BaseException:  # Ctrl-C above all, which comes anywhere
            self._outbox.interrupted(plug.clock())
            raise
        return False

    def _receive(self) -> None:
        socket, clock = self._plug.socket, self._plug.clock
        with suppress(zmq.Again):
            while self._has_message():
                self._outbox.received(sockets.receive(socket), clock())

    def _has_message(self) -> bool:
        self._looks += 1
        return sockets.look_for_cuts(self._plug.socket) or not self._looks % _LOOKS

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
            frames = self._there()
            if frames is None and self._plug.wait(zmq.POLLIN, deadline):
                frames = sockets.receive(self._plug.socket)
            return frames

    def take(self) -> list[bytes] | None:
        """The next message if it is there already.

        Raises:
            ClientClosed: this was closed.
        """
        with self._plug.lock:
            return self._there()

    def _there(self) -> list[bytes] | None:
        self._plug.check_open()
        try:
            return sockets.receive(self._plug.socket)
        except zmq.Again:
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
        if context is None:
            self._context.max_sockets = sockets.SOCKETS_MAX
        self._plugs: set[Plug] = set()
        self._lock = threading.Lock()
        self._closed = False

    def channel(self, timeout: float | None = None) -> Channel:
        """A new connection to the commands socket; `timeout` is seconds, None for the client's."""
        plug = self._plug(sockets.open_commands, self.target.commands)
        return Channel(plug, self.target, self.timeout if timeout is None else timeout)

    def live(self, endpoint: str) -> Inlet:
        """A new connection to the live socket."""
        return Inlet(self._plug(sockets.open_live, endpoint))

    def effects(self, endpoint: str) -> Inlet:
        """A new connection to the effects socket."""
        return Inlet(self._plug(sockets.open_effects, endpoint))

    def _plug(self, opener: Opener, endpoint: str) -> Plug:
        with self._lock:
            if self._closed:
                raise ClientClosed("this client is closed")
            plug = Plug(
                opener(self._context, endpoint, self.target.credentials), self._plugs.discard, self.clock
            )
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
