"""The asyncio side: one reader task hands each reply to whoever asked, so requests may overlap."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar, cast

import zmq
import zmq.asyncio

from armin import sockets
from armin.calls import Call, Received
from armin.channel import Clock
from armin.credentials import Credentials
from armin.errors import ArminError, ClientClosed, NotAuthorized
from armin.outbox import Answer, Outbox, given_up
from armin.target import Target

T = TypeVar("T")

Socket = zmq.asyncio.Socket
Opener = Callable[[zmq.Context[Socket], str, Credentials | None], sockets.Opened[Socket]]

_BLOCKED: Final = 0.02  # seconds until a socket that takes nothing is tried again
_FLOOD_MAX: Final = 64  # messages taken in a row before other tasks get a turn


class Plug:
    """A socket and what it takes to tell its closing from the cancellation of a task that waits on it."""

    def __init__(self, opened: sockets.Opened[Socket], forget: Callable[[Plug], None]) -> None:
        self.socket = opened.socket
        self._opened = opened
        self._forget = forget

    def check_open(self) -> None:
        """Raise ClientClosed if it is closed."""
        if self.socket.closed:
            raise ClientClosed("this client is closed")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a wait: closing the socket cancels it, which is not a cancellation of the task."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.socket.closed and (task is None or not task.cancelling()):
                raise ClientClosed("this client is closed") from None
            raise

    def check_allowed(self) -> None:
        """Raise NotAuthorized if the engine has refused our key."""
        self._opened.check()

    async def poll(self, milliseconds: int | None) -> bool:
        """Whether a message is there in time. Raises NotAuthorized as soon as our key is refused."""
        refusal = self._opened.refusal
        with self.waiting():
            if refusal is None:
                return bool(await self.socket.poll(milliseconds))
            poller = zmq.asyncio.Poller()
            poller.register(self.socket, zmq.POLLIN)
            poller.register(refusal.socket, zmq.POLLIN)
            time = asyncio.get_running_loop().time
            end = math.inf if milliseconds is None else time() + milliseconds / 1000
            while True:  # until a message is there, we are refused, or it is time
                left = math.ceil(1000 * max(0.0, end - time())) if end < math.inf else -1
                ready = await poller.poll(left)
                if not ready or any(each is self.socket for each, _ in ready):
                    return bool(ready)
                self.check_allowed()

    def close(self) -> None:
        """Close the socket. Closing twice is fine."""
        self._opened.close()
        self._forget(self)


class AsyncChannel:
    """A DEALER to the commands socket; requests overlap, each is answered or given up in time.

    Writes of one session are made in the order in which they were asked for, however many tasks ask.
    """

    def __init__(self, plug: Plug, target: Target, timeout: float, clock: Clock) -> None:
        self._plug = plug
        self._clock = clock
        self._outbox = Outbox(timeout, partial(given_up, target, timeout))
        self._reader: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_called = False  # `_called` will run in the next turn of the loop

    async def request(self, call: Call[T]) -> T:
        """Send one command, again if need be, and wait for its reply.

        Raises:
            ArminError: the engine refused, nobody answered (NoReply), or this was closed (ClientClosed).
        """
        self._plug.check_open()
        there: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer = Answer(call)

        def done(result: Received[T] | ArminError) -> None:
            answer.set(result)
            if not there.done():
                there.set_result(None)

        request = self._outbox.add(call, self._clock(), done)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="armin replies")
        if not self._is_called:  # what other tasks ask for in this turn of the loop goes together with it
            self._is_called = True
            asyncio.get_running_loop().call_soon(self._called)
        try:
            await there
        finally:
            self._outbox.forget(request)
        return answer.get()

    def _called(self) -> None:
        self._is_called = False
        if not self._plug.socket.closed:
            self._pump()

    def _pump(self) -> None:
        """Send what may be sent, and come again when something is due."""
        blocked = False
        while not blocked and (following := self._outbox.next_to_send()) is not None:
            requests, frames = following
            sending = cast("asyncio.Future[object]", self._plug.socket.send_multipart(frames, zmq.NOBLOCK))
            blocked = sending.exception() is not None
            if blocked:
                self._outbox.unsent(requests)
            else:
                self._outbox.sent(requests, self._clock())
        self._set_timer(blocked)

    def _set_timer(self, blocked: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._outbox.next_due()
        if due is not None:
            pause = max(0.0, due - self._clock())
            pause = min(pause, _BLOCKED) if blocked else pause
            self._timer = asyncio.get_running_loop().call_later(pause, self._tick)

    def _tick(self) -> None:
        self._outbox.tick(self._clock())
        try:
            self._plug.check_allowed()
        except NotAuthorized as error:
            message = error.message
            self._outbox.fail(lambda: NotAuthorized(message, field="key", reason="key"))
        if not self._plug.socket.closed:
            self._pump()

    async def _read(self) -> None:
        while True:
            frames = await self._plug.socket.recv_multipart()
            for _ in range(_FLOOD_MAX):
                self._outbox.received(frames, self._clock())
                sockets.look_for_cuts(self._plug.socket)
                coming = self._plug.socket.recv_multipart(zmq.NOBLOCK)
                more = cast("asyncio.Future[list[bytes]]", coming)
                if more.exception() is not None:
                    break
                frames = more.result()
            else:
                self._outbox.received(frames, self._clock())
                await asyncio.sleep(0)
            self._pump()

    async def close(self) -> None:
        """Close its socket; requests under way raise ClientClosed."""
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.cancel()
            await asyncio.wait([reader])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._outbox.fail(lambda: ClientClosed("this client was closed before the reply came"))
        self._plug.close()


class AsyncInlet:
    """A SUB or PULL socket, read frame list by frame list."""

    def __init__(self, plug: Plug, clock: Clock) -> None:
        self._plug = plug
        self._clock = clock
        self._in_a_row = 0

    async def receive(self, deadline: float) -> list[bytes] | None:
        """The next message, or None if there is none before `deadline`.

        Raises:
            ClientClosed: this was closed.
        """
        self._in_a_row += 1
        if self._in_a_row >= _FLOOD_MAX:
            self._in_a_row = 0
            await asyncio.sleep(0)
        self._plug.check_open()
        try:
            return await self._plug.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            self._in_a_row = 0
        left = max(0.0, deadline - self._clock())
        # Polling first: a receive that is cancelled after its message came would lose it.
        ready = await self._plug.poll(None if left == math.inf else math.ceil(1000 * left))
        return await self._plug.socket.recv_multipart(zmq.NOBLOCK) if ready else None

    def subscribe(self, topic: bytes) -> None:
        """Take messages whose first frame begins with `topic`."""
        self._plug.check_open()
        self._plug.socket.setsockopt(zmq.SUBSCRIBE, topic)

    def unsubscribe(self, topic: bytes) -> None:
        """Undo one `subscribe`."""
        self._plug.check_open()
        self._plug.socket.setsockopt(zmq.UNSUBSCRIBE, topic)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._plug.close()


class AsyncSockets:
    """Every socket of one client, so that none is open when the context ends: libzmq would hang."""

    def __init__(
        self,
        target: Target,
        timeout: float,
        context: zmq.asyncio.Context | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.target = target
        self.timeout = timeout
        self.clock = clock
        self._owns_context = context is None
        self._context = zmq.asyncio.Context() if context is None else context
        if context is None:
            self._context.max_sockets = sockets.SOCKETS_MAX
        self._plugs: set[Plug] = set()
        self._closed = False

    def channel(self, timeout: float | None = None) -> AsyncChannel:
        """A new connection to the commands socket; `timeout` is seconds, None for the client's."""
        plug = self._plug(sockets.open_commands, self.target.commands)
        return AsyncChannel(plug, self.target, self.timeout if timeout is None else timeout, self.clock)

    def live(self, endpoint: str) -> AsyncInlet:
        """A new connection to the live socket."""
        return AsyncInlet(self._plug(sockets.open_live, endpoint), self.clock)

    def effects(self, endpoint: str) -> AsyncInlet:
        """A new connection to the effects socket."""
        return AsyncInlet(self._plug(sockets.open_effects, endpoint), self.clock)

    def _plug(self, opener: Opener, endpoint: str) -> Plug:
        if self._closed:
            raise ClientClosed("this client is closed")
        plug = Plug(opener(self._context, endpoint, self.target.credentials), self._plugs.discard)
        self._plugs.add(plug)
        return plug

    def close(self) -> None:
        """Close every socket, and the context if it is our own. Closing twice is fine."""
        self._closed = True
        for plug in list(self._plugs):
            plug.close()
        if self._owns_context:
            self._context.term()
