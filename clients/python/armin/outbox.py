"""Requests on their way: sent, sent again, answered or given up, and per session in their order.

Without sockets and without a clock: `next_to_send` says what to send, `received` takes what came, time is
passed in. The blocking and the asyncio client both drive it.

A write carries a key, so sending it again doubles nothing. Writes of one session stand in a line: each is
sent with `after_key`, the key of the unanswered write before it, so that the engine refuses it
(`out_of_order`) where that one was lost; then the whole line is sent again. A closure waits until it is
first in its line. What was sent carries the number of its transmission: a refusal of an earlier one is no
news, a success always is.

Writes that are sent for the first time may go together, as one `pipeline`: an engine does several times as
many of them. What is sent again goes alone, and so does everything to an engine that knows no pipelines.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

import msgpack

from armin import absence, replies
from armin.calls import Call, Received
from armin.errors import ArminError, Conflict, ProtocolError, ShuttingDown, UnknownOp
from armin.target import Target

T = TypeVar("T")
U = TypeVar("U")

RESEND_FIRST: Final = 0.5  # seconds until a request is sent again
RESEND_MAX: Final = 2.0  # what that doubles up to
PAUSE: Final = 0.25  # seconds before a write is sent again to an engine that was shutting down
WINDOW: Final = 256  # requests on the wire at a time
WINDOW_BYTES: Final = 16 << 20  # of them, at least one

TOGETHER: Final = 128  # writes of one pipeline
# Their bytes: large ones gain nothing, and so few hold no more values than a command may.
TOGETHER_BYTES: Final = 128 << 10
SHARE: Final = 2  # what waits is worth sending when it is half of what is unanswered on the wire

_NUMBER_BYTES: Final = 8
_TRANSMISSION_BYTES: Final = 4
_COUNT_BYTES: Final = 2
_ALONE_BYTES: Final = _NUMBER_BYTES + _TRANSMISSION_BYTES
_FIXMAP: Final = 0x80

_packer: Final = msgpack.Packer(autoreset=True)
_pack: Final = _packer.pack
_AFTER_KEY: Final[bytes] = _pack("after_key")
_PIPELINE: Final[bytes] = bytes([_FIXMAP + 2]) + _pack("op") + _pack("pipeline") + _pack("commands")


@dataclass(eq=False, slots=True)
class Request:
    """One call; `done` gets what came of it. Times are seconds.

    line: the session whose writes stand in line with it. before, after: its neighbours among the unanswered
    writes of its session. closing: the closure that it has to wait for.
    """

    call: Call[Any]
    number: int
    payload: bytes
    deadline: float
    done: Callable[[Received[Any] | ArminError], None]
    line: int | None
    before: Request | None = None
    after: Request | None = None
    closing: Request | None = None
    transmission: int = 0
    waits: bool = True  # for its turn to be sent
    was_sent: bool = False
    was_heard: bool = False  # its last transmission was refused for now, so it was not lost
    due: float = 0.0  # when it is sent again
    is_answered: bool = False

    @property
    def is_held(self) -> bool:
        """A closure waits for all before it, and all behind a closure wait for it."""
        if self.closing is not None and not self.closing.is_answered:
            return True
        return self.before is not None and self.call.closes


class Answer(Generic[T]):
    """What becomes of a call."""

    __slots__ = ("_call", "_result", "is_seen")

    def __init__(self, call: Call[T]) -> None:
        self._call = call
        self._result: Received[T] | ArminError | None = None
        self.is_seen = False

    @property
    def is_there(self) -> bool:
        """Whether it was answered or given up."""
        return self._result is not None

    @property
    def error(self) -> ArminError | None:
        """What went wrong, if anything did."""
        return self._result if isinstance(self._result, ArminError) else None

    @property
    def is_fine(self) -> bool:
        """Whether there is nothing to be looked at any more."""
        return self._result is not None and (self.is_seen or self.error is None)

    def set(self, result: Received[T] | ArminError) -> None:
        """For the outbox: this is what came."""
        self._result = result

    def get(self) -> T:
        """The result. Raises the ArminError that it came to."""
        assert self._result is not None, "waited for before"
        self.is_seen = True
        if isinstance(self._result, ArminError):
            raise self._result
        return self._call.result(self._result)


def given_up(target: Target, timeout: float, request: Request) -> ArminError:
    """The error for a request that nobody answered in time."""
    call = request.call
    return absence.no_reply(target, timeout, sent=request.was_sent, writes=call.writes, key=call.key)


class Outbox:
    """The unanswered requests of one connection.

    given_up: makes the error for a request that nobody answered in time.
    """

    def __init__(self, timeout: float, given_up: Callable[[Request], ArminError]) -> None:
        self._timeout = timeout
        self._given_up = given_up
        self._last_number = 0
        self._knows_pipelines = True  # the engine does, as far as is known
        self._requests: dict[int, Request] = {}  # in the order they were made, so by deadline
        self._bytes = 0
        self._wire: dict[int, Request] = {}  # those that were sent, in the order of their last transmission
        self._wire_bytes = 0
        self._fresh: deque[Request] = deque()  # to be sent
        self._again: deque[Request] = deque()  # to be sent again
        self._tails: dict[int, Request] = {}  # the last unanswered write of each session
        self._careful: set[int] = set()  # sessions whose writes are refused: one at a time, until one is made
        self._next_due = math.inf  # when something is due, at the earliest: it may be answered by then

    def __len__(self) -> int:
        """How many are unanswered."""
        return len(self._requests)

    @property
    def is_full(self) -> bool:
        """Whether as much is unanswered as may be on the wire."""
        return len(self._requests) >= WINDOW or self._bytes >= WINDOW_BYTES

    @property
    def is_ripe(self) -> bool:
        """Whether what waits is worth sending: at once while little is on the wire, then more together."""
        return SHARE * len(self._fresh) >= len(self._wire) or bool(self._again)

    def add(self, call: Call[Any], now: float, done: Callable[[Received[Any] | ArminError], None]) -> Request:
        """Take a request.

        Raises:
            BadRequest, TooLarge: it cannot be sent.
        """
        payload = call.encode()
        self._last_number += 1
        line, deadline = call.line, now + self._timeout
        request = Request(call, self._last_number, payload, deadline, done, line)
        self._requests[request.number] = request
        self._bytes += len(payload)
        if line is not None:
            self._stand_in_line(request, line)
        self._fresh.append(request)
        self._next_due = min(self._next_due, deadline)
        return request

    def _stand_in_line(self, request: Request, line: int) -> None:
        before = self._tails.get(line)
        if before is not None:
            before.after, request.before = request, before
            request.closing = before if before.call.closes else before.closing
        self._tails[line] = request

    # --- out ----------------------------------------------------------------------------------------

    def next_to_send(self) -> tuple[Sequence[Request], list[bytes]] | None:
        """The next requests and the frames of them; None where nothing may be sent now."""
        while self._again:
            request = self._again.popleft()
            if not request.is_answered:
                return (request,), _frames(request)
        if self._knows_pipelines and len(self._fresh) > 1:
            several = self._several()
            if len(several) > 1:
                return several, _frames_together(several)
        for _ in range(len(self._fresh)):
            request = self._fresh[0]
            if request.is_answered:
                self._fresh.popleft()
            elif not self._has_room(request):
                return None
            elif request.is_held:
                self._fresh.rotate(-1)  # it is looked at again when its line has moved on
            else:
                self._fresh.popleft()
                return (request,), _frames(request)
        return None

    def _has_room(self, request: Request) -> bool:
        if not self._wire:
            return True
        return len(self._wire) < WINDOW and self._wire_bytes + len(request.payload) <= WINDOW_BYTES

    def _several(self) -> list[Request]:
        """Writes that may go together, numbered one after the other; one at most is left where it was."""
        count = min(TOGETHER, WINDOW - len(self._wire))
        room = min(TOGETHER_BYTES, WINDOW_BYTES - self._wire_bytes)
        several: list[Request] = []
        for request in self._fresh:
            room -= len(request.payload)
            if len(several) == count or room < 0 or request.is_answered:
                break
            if request.line is None or request.is_held:
                break
            if several and request.number != several[-1].number + 1:
                break
            several.append(request)
        if len(several) > 1:
            for _ in several:
                self._fresh.popleft()
        return several

    def sent(self, requests: Sequence[Request], now: float) -> None:
        """Their frames were handed over."""
        for request in requests:
            request.waits = request.was_heard = False
            request.was_sent = True
            number = request.number
            if self._wire.pop(number, None) is None:
                self._wire_bytes += len(request.payload)
            self._wire[number] = request
            pause = min(RESEND_FIRST * 2 ** min(request.transmission, 8), RESEND_MAX)
            request.due = now + pause if request.call.repeatable else request.deadline
            self._next_due = min(self._next_due, request.due)

    def unsent(self, requests: Sequence[Request]) -> None:
        """Nobody takes anything for now: they are the next ones again."""
        for request in reversed(requests):
            (self._again if request.was_sent else self._fresh).appendleft(request)

    def interrupted(self, now: float) -> None:
        """Sending ended anywhere: what was under way may have been sent, and is sent again when it is due."""
        accounted = {*self._fresh, *self._again, *(each for each in self._wire.values() if not each.waits)}
        self.sent([each for each in self._requests.values() if each not in accounted], now)

    # --- in -----------------------------------------------------------------------------------------

    def received(self, frames: Sequence[bytes], now: float) -> None:
        """A message came; whatever answers no request is ignored."""
        if len(frames) != 2:
            return
        correlation, reply = frames
        number = int.from_bytes(correlation[:_NUMBER_BYTES])
        transmission = int.from_bytes(correlation[_NUMBER_BYTES:_ALONE_BYTES])
        if len(correlation) == _ALONE_BYTES + _COUNT_BYTES:
            count = int.from_bytes(correlation[_ALONE_BYTES:])
            self._received_together(number, count, reply, now)
        elif len(correlation) == _ALONE_BYTES and number in self._requests:
            request = self._requests[number]
            self._take(request, transmission, _outcome(request.call.receive, reply), now)

    def _received_together(self, first: int, count: int, reply: bytes, now: float) -> None:
        answered = _outcome(partial(_each, count=count), reply)
        for offset in range(count):
            request = self._requests.get(first + offset)
            if request is None:
                continue
            if isinstance(answered, UnknownOp):
                self._knows_pipelines = False
                if request.transmission == 0:
                    self._send_again(request)
            elif isinstance(answered, ArminError):
                self._take(request, 0, copy.copy(answered), now)  # each write has a key of its own
            else:
                self._take(request, 0, _outcome(replies.checked, answered[offset]), now)

    def _take(
        self, request: Request, transmission: int, outcome: Received[Any] | ArminError, now: float
    ) -> None:
        is_current = transmission == request.transmission and not request.waits
        if is_current and request.call.outlasts:
            self._send_skipped_again(request)
        if not isinstance(outcome, ArminError):
            self._made(request, outcome)
        elif is_current:
            self._refused(request, outcome, now)

    def _send_skipped_again(self, request: Request) -> None:
        """Writes are answered in the order they came, so one that was sent earlier was lost, or its reply."""
        for earlier in self._wire.values():
            if earlier is request:
                return
            if (
                earlier.call.outlasts and not earlier.was_heard
            ):  # a poll for leases is answered when it can be
                self._send_again(earlier)

    def _made(self, request: Request, received: Received[Any]) -> None:
        line, was_first, after = request.line, request.before is None, request.after
        self._finish(request, received)
        if line is not None and line in self._careful and was_first:
            self._careful.discard(line)
            if after is not None:
                self._send_line_again(after)

    def _refused(self, request: Request, error: ArminError, now: float) -> None:
        line = request.line
        request.was_heard = True
        if isinstance(error, Conflict) and error.reason == "out_of_order" and line is not None:
            if line not in self._careful:
                self._send_line_again(request)
            elif request.before is None:
                self._send_again(request)
        elif isinstance(error, ShuttingDown) and request.call.outlasts:
            request.due = min(now + PAUSE, request.deadline)
            self._next_due = min(self._next_due, request.due)
        else:
            mate = request.before or request.after
            self._finish(request, error)
            if line is not None and mate is not None:
                self._go_on_carefully(line, _first(mate))

    def _go_on_carefully(self, line: int, first: Request) -> None:
        """Those behind a refused write follow one that is not there, and may be refused as it was.

        To send them all again for each of them would take the square of their number.
        """
        if first.was_sent:
            self._careful.add(line)
            self._send_again(first)

    def _send_line_again(self, request: Request) -> None:
        """From the oldest unanswered write of its session on."""
        late: Request | None = _first(request)
        while late is not None and late.was_sent:
            self._send_again(late)
            late = late.after

    def _send_again(self, request: Request) -> None:
        if not request.waits:
            request.transmission += 1
            request.waits = True
            self._again.append(request)

    def _finish(self, request: Request, result: Received[Any] | ArminError) -> None:
        self._leave(request)
        if isinstance(result, ArminError):
            result.key = request.call.key
        request.done(result)

    def _leave(self, request: Request) -> None:
        request.is_answered = True
        del self._requests[request.number]
        self._bytes -= len(request.payload)
        if self._wire.pop(request.number, None) is not None:
            self._wire_bytes -= len(request.payload)
        before, after, line = request.before, request.after, request.line
        if before is not None:
            before.after = after
        if after is not None:
            after.before = before
        elif line is not None and before is not None:
            self._tails[line] = before
        elif line is not None:
            del self._tails[line]
            self._careful.discard(line)
        request.before = request.after = request.closing = None  # nothing keeps the whole past alive

    # --- time -----------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Give up, and send again, what is due."""
        if now < self._next_due:
            return
        while self._requests and (oldest := next(iter(self._requests.values()))).deadline <= now:
            self._finish(oldest, self._given_up(oldest))
        for request in self._wire.values():
            if request.due <= now:
                self._send_again(request)
        deadline = next(iter(self._requests.values())).deadline if self._requests else math.inf
        dues = (request.due for request in self._wire.values() if not request.waits)
        self._next_due = min(deadline, min(dues, default=math.inf))

    def was_left(self, seconds: float) -> None:
        """Nobody sent or received for so long: nothing is given up for that."""
        for request in self._requests.values():
            request.deadline += seconds

    def next_due(self) -> float | None:
        """When `tick` has something to do, at the earliest; None where nothing is unanswered."""
        return self._next_due if self._requests else None

    def forget(self, request: Request) -> None:
        """Nobody waits for it any more. A write that was sent stays, so that its line keeps its order."""
        if not request.is_answered and not (request.was_sent and request.call.writes):
            self._leave(request)

    def fail(self, error: Callable[[], ArminError]) -> None:
        """End all requests so."""
        for request in list(self._requests.values()):
            self._finish(request, error())


def _first(request: Request) -> Request:
    """The oldest unanswered write of its session."""
    while request.before is not None:
        request = request.before
    return request


def _outcome(parse: Callable[[T], U], reply: T) -> U | ArminError:
    """What a reply says, or what it says went wrong."""
    try:
        return parse(reply)
    except ArminError as error:
        return error


def _each(reply: bytes, count: int) -> list[Any]:
    """The replies in the reply to a pipeline of so many commands."""
    each = replies.array(replies.decode(reply), "replies")
    if len(each) != count:
        raise ProtocolError(f"{len(each)} replies came to {count} commands")
    return each


def _correlation(request: Request) -> bytes:
    return request.number.to_bytes(_NUMBER_BYTES) + request.transmission.to_bytes(_TRANSMISSION_BYTES)


def _frames(request: Request) -> list[bytes]:
    return [_correlation(request), b"".join(_parts(request))]


def _frames_together(requests: Sequence[Request]) -> list[bytes]:
    count = len(requests)
    parts = [_PIPELINE, _packer.pack_array_header(count)]
    for request in requests:
        parts += _parts(request)
    return [_correlation(requests[0]) + count.to_bytes(_COUNT_BYTES), b"".join(parts)]


def _parts(request: Request) -> tuple[bytes, ...]:
    """The payload, with `after_key` where an unanswered write comes before it."""
    before, payload = request.before, request.payload
    key = None if before is None else before.call.key
    if key is None:
        return (payload,)
    # A command has fewer than 15 fields, so its map begins with one byte that counts them.
    return bytes([payload[0] + 1]), payload[1:], _AFTER_KEY, _pack(key)
