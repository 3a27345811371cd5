"""How each socket is set up; one table for the sync and the asyncio client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

import zmq

from armin.credentials import Credentials
from armin.refusal import Refusal

S = TypeVar("S", bound=zmq.Socket[Any])

LIVE_BUFFER_MAX: Final = 1000  # events that wait in this process; each is at most 64 KiB and a little
SOCKETS_MAX: Final = 8192  # of a context of our own; watching for a refusal takes two more for each
EFFECTS_BUFFER_MAX: Final = 64  # events taken from the engine in advance; lost if this process dies

_COMMON: Final[Mapping[int, int]] = {
    zmq.LINGER: 0,  # closing never waits for an engine that is gone
}

# IMMEDIATE: nothing is queued while no engine is connected, so a command that was given up is not
# executed by the next engine, and the client knows whether it was sent at all.
_COMMANDS: Final[Mapping[int, int]] = {zmq.IMMEDIATE: 1, zmq.RCVHWM: 0}

# SNDHWM 0: a subscription is sent like a message, and beyond the mark it would be lost. Events that a
# slow caller leaves lying are bounded: what the engine then drops is read again.
LIVE: Final[Mapping[int, int]] = {zmq.SNDHWM: 0, zmq.RCVHWM: LIVE_BUFFER_MAX}

_EFFECTS: Final[Mapping[int, int]] = {zmq.RCVHWM: EFFECTS_BUFFER_MAX}

# A peer that vanished without a word (cable, suspended machine) is noticed and connected to anew.
_TCP: Final[Mapping[int, int]] = {zmq.HEARTBEAT_IVL: 5000, zmq.HEARTBEAT_TIMEOUT: 15000}  # milliseconds


class Opened(NamedTuple, Generic[S]):
    """A socket, and what tells whether it is let in; None where no key is asked for, as on ipc."""

    socket: S
    refusal: Refusal | None

    def close(self) -> None:
        """Close both."""
        self.socket.close(0)
        if self.refusal is not None:
            self.refusal.close()

    def check(self) -> None:
        """Raise NotAuthorized if its key was refused."""
        if self.refusal is not None:
            self.refusal.check()


def open_commands(
    context: zmq.Context[S], endpoint: str, credentials: Credentials | None = None
) -> Opened[S]:
    """A DEALER to the commands socket. No ROUTING_ID: a second client of the same name would be deaf."""
    return _connect(context, zmq.DEALER, endpoint, _COMMANDS, credentials)


def open_live(
    context: zmq.Context[S],
    endpoint: str,
    credentials: Credentials | None = None,
    options: Mapping[int, int] = LIVE,
) -> Opened[S]:
    """A SUB to the live socket, subscribed to nothing yet."""
    return _connect(context, zmq.SUB, endpoint, options, credentials)


def open_effects(context: zmq.Context[S], endpoint: str, credentials: Credentials | None = None) -> Opened[S]:
    """A PULL to the effects socket."""
    return _connect(context, zmq.PULL, endpoint, _EFFECTS, credentials)


def receive(socket: zmq.Socket[bytes]) -> list[bytes]:
    """The frames of the next message. Raises zmq.Again where none is there.

    Costs half of what `recv_multipart` does, which asks the socket after each frame whether there are more.
    """
    frame = socket.recv(zmq.NOBLOCK, copy=False)
    frames = [frame.bytes]
    while frame.more:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        frames.append(frame.bytes)
    return frames


def look_for_cuts(socket: zmq.Socket[Any]) -> bool:
    """Let libzmq notice lost connections now; to be called before each message from a commands socket.

    Returns whether a message is there.

    By itself it looks at every 100th frame that it hands out in a row, even between two frames of one
    message. With IMMEDIATE it then drops the rest of that message and aborts the whole process
    (`!_more (fq.cpp)`). Looking between messages leaves it next to nothing to find there; a receive
    that finds nothing, as at the end of each row, begins the count anew.
    """
    return bool(int(socket.get(zmq.EVENTS)) & zmq.POLLIN)


def _connect(
    context: zmq.Context[S],
    kind: int,
    endpoint: str,
    given: Mapping[int, int],
    credentials: Credentials | None,
) -> Opened[S]:
    options: dict[int, int | bytes] = {**_COMMON, **given}
    if credentials is not None:
        options |= credentials.options()
    if endpoint.startswith("tcp://"):
        options |= _TCP
    if endpoint.startswith("tcp://["):
        options |= {zmq.IPV6: 1}
    socket = context.socket(kind)
    refusal = None
    try:
        for option, value in options.items():
            socket.setsockopt(option, value)
        if endpoint.startswith("tcp://"):
            refusal = Refusal(socket, endpoint, credentials)
        socket.connect(endpoint)
    except BaseException:
        socket.close(0)
        if refusal is not None:
            refusal.close()
        raise
    return Opened(socket, refusal)
