"""The ROUTER socket: what arrives, and replies that wait for nobody.

A reply is sent at once where the peer takes it. Where the peer's queue is full, where large replies to
it are still on their way, or where this turn's time for rendering reads is used up, its further replies
wait here in order, reads as the commands that they came as. Waiting replies are sent peer by peer in
turn, so nobody's reads hold up anybody else. One peer costs at most (see docs/operations.md): SEND_HWM
replies under LARGE_REPLY_BYTES, IN_FLIGHT_BYTES_MAX and one reply of larger ones, and WAITING_BYTES_MAX
of waiting ones; what goes over that is lost and counted.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import zmq

from armin_broker import protocol
from armin_broker.authority import Authority
from armin_broker.sender import TRUSTED, UNKNOWN, Sender
from armin_broker.turns import RENDER_MS

logger = logging.getLogger(__name__)

SEND_HWM: Final = 1_000  # replies in libzmq's queue to one peer
RECEIVE_HWM: Final = 256  # commands in libzmq's queue from one peer
LARGE_REPLY_BYTES: Final = 64 << 10  # from here on replies are sent without a copy and tracked
IN_FLIGHT_BYTES_MAX: Final = 16 << 20  # large replies on their way to one peer
WAITING_BYTES_MAX: Final = (
    32 << 20
)  # replies and commands waiting here for one peer, what holds them included
WAITING_OVERHEAD_BYTES: Final = 400  # what holds one of them

_EVENTS: Final = int(zmq.EVENTS)
_READABLE: Final = int(zmq.POLLIN)
_NOW: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_KEPT_FRAMES: Final = 1 + protocol.ENVELOPE_FRAMES_MAX + 1  # routing id, envelope, command


def monotonic_ms() -> float:
    """A clock for durations and deadlines."""
    return time.monotonic() * 1000


class Unrendered(NamedTuple):
    """A read that is answered when its reply is sent; if that is later, from its command."""

    render: Callable[[], bytes]
    payload: bytes
    sender: Sender


Reply = bytes | Unrendered


Lost = Callable[[], None]


class _Waiting(NamedTuple):
    """A reply, or the command of a read that is still to be rendered."""

    envelope: list[bytes]
    data: bytes
    asked_by: Sender | None = None  # it is that one's command
    lost: Lost | None = None
    is_view: bool = False  # it shows what there was at its position

    def weight(self) -> int:
        """Bytes that it holds."""
        return WAITING_OVERHEAD_BYTES + len(self.data) + sum(map(len, self.envelope))


class Arrival(NamedTuple):
    """One message: the frames to return in front of the reply, and the command, or what is wrong."""

    envelope: list[bytes]
    payload: bytes
    problem: str | None
    sender: Sender = TRUSTED


@dataclass(slots=True)
class _Peer:
    """A peer that is behind."""

    waiting: deque[_Waiting] = field(default_factory=deque)
    waiting_bytes: int = 0
    in_flight: deque[tuple[zmq.MessageTracker, int]] = field(default_factory=deque)

    def in_flight_bytes(self) -> int:
        """Bytes of large replies that libzmq still holds."""
        while self.in_flight and self.in_flight[0][0].done:
            self.in_flight.popleft()
        return sum(size for _, size in self.in_flight)


class CommandSocket:
    """Owns the ROUTER. `answer` renders the reply to the command of a read that had to wait."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        clock: Callable[[], float] = monotonic_ms,
    ) -> None:
        socket = context.socket(zmq.ROUTER)
        socket.router_mandatory = True
        socket.sndhwm = SEND_HWM
        socket.rcvhwm = RECEIVE_HWM
        socket.maxmsgsize = protocol.COMMAND_BYTES_MAX
        self.socket = socket
        # Without the layer above them, which takes longer than they do.
        self._receive: Callable[..., Any] = super(zmq.Socket, socket).recv
        self._get: Callable[..., Any] = super(zmq.Socket, socket).get
        self._hand_over: Callable[[bytes, int], object] = super(zmq.Socket, socket).send
        self.received = 0
        self.replies_lost = 0
        self.answer: Callable[[bytes, Sender], bytes] = _no_answer
        # A read before it may have been rendered since, at a later position; theirs must not go back.
        self.restate: Callable[[bytes], bytes] = bytes
        self.authority: Authority | None = None  # who knows the senders on tcp, where keys are demanded
        self._clock = clock
        self.render_ms = RENDER_MS  # of a turn
        self._render_ms_left = RENDER_MS
        self._peers: dict[bytes, _Peer] = {}  # the one that was served longest ago first

    # --- in ---

    def drain(self, count_max: int, bytes_max: int) -> list[Arrival]:
        """What has arrived, in order, bounded by count and bytes."""
        arrivals: list[Arrival] = []
        size = 0
        while len(arrivals) < count_max and size < bytes_max:
            if len(arrivals) == 1 and not self._get(_EVENTS) & _READABLE:
                break  # as for most who come alone; to be refused takes twice as long, or ten times when cold
            try:
                first, sender = self._receive_first()
            except zmq.Again:
                break
            frames, dropped = self._receive_rest(first)
            size += len(frames[-1])
            arrivals.append(_arrival(frames, dropped, sender))
        self.received += len(arrivals)
        return arrivals

    def _receive_first(self) -> tuple[zmq.Frame, Sender]:
        """A message's routing id, and who sent it. Raises zmq.Again where none is there."""
        frame: zmq.Frame = self._receive(_NOW, copy=False)
        if self.authority is None:
            return frame, TRUSTED
        try:
            # Never remembered by routing id: the next connection may get the same.
            sender = self.authority.sender(frame.get("User-Id"))  # type: ignore[arg-type]
        except zmq.ZMQError:  # no key was asked for
            sender = TRUSTED if _is_by_ipc(frame) else UNKNOWN
        return frame, sender

    def _receive_rest(self, frame: zmq.Frame) -> tuple[list[bytes], bool]:
        """One message's first frames, and whether there were more than a command may have."""
        frames = [frame.bytes]
        dropped = False
        while frame.more:
            frame = self._receive(_NOW, copy=False)
            if len(frames) < _KEPT_FRAMES:
                frames.append(frame.bytes)
            else:
                dropped = True
        return frames, dropped

    # --- out ---

    def send(self, envelope: list[bytes], reply: Reply, lost: Lost | None = None) -> None:
        """Answer; `envelope` begins with the routing id. Replies to one peer keep their order.

        `lost` is called if the reply is known not to reach its peer, now or later.
        """
        peer = self._peers.get(envelope[0])
        blocked = peer is not None and (peer.waiting or peer.in_flight_bytes() > IN_FLIGHT_BYTES_MAX)
        if isinstance(reply, Unrendered):
            if blocked or self._render_ms_left <= 0:
                self._wait(_Waiting(envelope, reply.payload, reply.sender))
                return
            rendered = self._timed(reply.render)
        elif blocked:
            self._wait(_Waiting(envelope, reply, None, lost))
            return
        else:
            rendered = reply
        try:
            if not self._send_now(envelope, rendered) and lost is not None:
                lost()
        except zmq.Again:
            self._wait(_Waiting(envelope, rendered, None, lost, isinstance(reply, Unrendered)))

    def _timed(self, render: Callable[[], bytes]) -> bytes:
        began = self._clock()
        rendered = render()
        self._render_ms_left -= self._clock() - began
        return rendered

    def _send_now(self, envelope: list[bytes], rendered: bytes) -> bool:
        """Hand a reply to libzmq; False, counted, where the peer is gone. Raises zmq.Again if it is full."""
        try:
            # Only the first frame can be refused; the rest of the message follows it.
            for frame in envelope:
                self._hand_over(frame, _MORE)
            if len(rendered) < LARGE_REPLY_BYTES:
                self._hand_over(rendered, _NOW)
                return True
            tracker = self.socket.send(rendered, zmq.NOBLOCK, copy=False, track=True)
        except zmq.Again:
            raise
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self.replies_lost += 1
            return False
        assert tracker is not None, "asked for with track=True"
        self._peers.setdefault(envelope[0], _Peer()).in_flight.append((tracker, len(rendered)))
        return True

    def _wait(self, waiting: _Waiting) -> None:
        peer = self._peers.setdefault(waiting.envelope[0], _Peer())
        weight = waiting.weight()
        if peer.waiting_bytes + weight > WAITING_BYTES_MAX:
            self.replies_lost += 1
            if waiting.lost is not None:
                waiting.lost()
            return
        peer.waiting_bytes += weight
        peer.waiting.append(waiting)

    @property
    def behind(self) -> bool:
        """Whether any peer has to be looked after by `flush`."""
        return bool(self._peers)

    def flush(self) -> bool:
        """Begin a turn: send on to peers that were behind, one reply each in turn.

        Ends when nobody takes more (False), or when the time for rendering is used up (True).
        """
        self._render_ms_left = self.render_ms
        ready = list(self._peers)
        while ready:
            still_ready = []
            for routing_id in ready:
                if self._render_ms_left <= 0:
                    return True
                if self._flush_one(routing_id):
                    still_ready.append(routing_id)
            ready = still_ready
        return False

    def _flush_one(self, routing_id: bytes) -> bool:
        """Send a peer's next reply; whether it may take another one."""
        peer = self._peers.pop(routing_id)
        if not peer.waiting:
            if peer.in_flight_bytes():
                self._peers[routing_id] = peer
            return False
        self._peers[routing_id] = peer  # behind all others
        if peer.in_flight_bytes() > IN_FLIGHT_BYTES_MAX:
            return False
        waiting = peer.waiting.popleft()
        peer.waiting_bytes -= waiting.weight()
        sender = waiting.asked_by
        if sender is not None:
            rendered = self._timed(lambda: self.answer(waiting.data, sender))
            waiting = _Waiting(waiting.envelope, rendered, is_view=True)
        elif not waiting.is_view:
            waiting = waiting._replace(data=self.restate(waiting.data))
        try:
            taken = self._send_now(waiting.envelope, waiting.data)
        except zmq.Again:
            peer.waiting.appendleft(waiting)  # as rendered: a read is answered once
            peer.waiting_bytes += waiting.weight()
            return False
        if not taken:
            self.replies_lost += len(peer.waiting)
            del self._peers[routing_id]
            for each in (waiting, *peer.waiting):
                if each.lost is not None:
                    each.lost()
        return taken


def _no_answer(payload: bytes, sender: Sender) -> bytes:
    raise NotImplementedError("set by whoever sends unrendered replies")


def _is_by_ipc(frame: zmq.Frame) -> bool:
    """Whether a message came by ipc, whose peers have user ids for an address, or none."""
    try:
        return str(frame.get("Peer-Address")).startswith("localhost:")
    except zmq.ZMQError:
        return True


def _arrival(frames: list[bytes], dropped: bool, sender: Sender) -> Arrival:
    envelope, payload = frames[:-1], frames[-1]
    for index in range(1, len(envelope)):
        if len(envelope[index]) > protocol.ENVELOPE_FRAME_BYTES_MAX:
            problem = f"an envelope frame is larger than {protocol.ENVELOPE_FRAME_BYTES_MAX} bytes"
            return Arrival(envelope[:index], b"", problem, sender)
    if dropped:
        problem = f"the envelope has more than {protocol.ENVELOPE_FRAMES_MAX} frames"
        return Arrival(envelope, b"", problem, sender)
    return Arrival(envelope, payload, None, sender)
