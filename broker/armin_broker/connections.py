"""Every connection to the three sockets: counted, bounded, and cut when a key is revoked.

In a thread of its own, so that a flood of connections stops no turn of the loop. libzmq tells of each
connection by the number of its descriptor, for each socket in order, but not of one socket before another:
a number may be known of two sockets for a moment. A connection is cut by shutting its descriptor down, as if
its peer had gone: libzmq then clears it away. Numbers are given anew quickly, so now and then an innocent
connection may be cut in place of one that has ended by itself; its client connects again.
"""

from __future__ import annotations

import itertools
import logging
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Self

import zmq

from armin_broker.authority import Authority

logger = logging.getLogger(__name__)

LOOK_S: Final = 0.2  # between two looks at the files of keys
SWEEP_AGAIN_S: Final = 0.3  # after a revocation: for handshakes that were under way
EVENTS_IN_A_ROW: Final = 16  # taken until the loop may go on
AFTER_FAULT_S: Final = 1.0  # nothing else is done for so long after a bug of ours
REST_S: Final = 0.01  # between two looks at what has come, in a flood of connections
REFUSALS_LOGGED_S: Final = 10.0  # between two lines about peers that were not let in

_REFUSALS: Final = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_EVENTS: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | _REFUSALS
_EVENT: Final = struct.Struct("=HI")  # kind, value


class _Place(NamedTuple):
    """Where a connection was accepted."""

    socket: str
    transport: str


class Connections:
    """Watches the connections of `sockets` (by name). Not more than `limit` by ipc, and as many by tcp."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        sockets: Mapping[str, zmq.Socket[bytes]],
        limit: int,
        authority: Authority | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self._authority = authority
        self._clock = clock
        self._monitors = {_monitor(context, name, each): name for name, each in sockets.items()}
        self._reader, self._waker = socket.socketpair()
        self._open: dict[tuple[str, int], _Place] = {}  # by socket and descriptor
        self._counts: Counter[_Place | str] = Counter()
        self._refused = 0
        self._failed = 0
        self._failed_logged = 0
        self._next_line = clock()
        self._sweeps: list[float] = []
        self._next_look = clock()
        self._thread = threading.Thread(target=self._watch, name="connections", daemon=True)

    def __enter__(self) -> Self:
        """Watch from now on; to be entered before anything is bound, and left before it is closed."""
        try:
            if self._authority is not None:
                self._authority.start()
            self._thread.start()
        except BaseException:  # a signal, say
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._waker.close()
        if self._thread.ident is not None:
            self._thread.join()
        if self._authority is not None:
            self._authority.stop()
        self._reader.close()
        for monitor in self._monitors:
            monitor.close(0)

    def gauges(self) -> dict[str, int]:
        """Connections as they stand, and what was refused since the start."""
        counts = self._counts
        return {
            "followers": counts[_Place("live", "ipc")] + counts[_Place("live", "tcp")],
            "connections_ipc": counts["ipc"],
            "connections_tcp": counts["tcp"],
            "connections_refused": self._refused,
            "handshakes_failed": self._failed,
        }

    # --- the thread ---

    def _watch(self) -> None:
        poller = zmq.Poller()
        poller.register(self._reader.fileno(), zmq.POLLIN)
        for monitor in self._monitors:
            poller.register(monitor, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(self._timeout()))
            if self._reader.fileno() in ready:
                return
            try:
                for monitor, name in self._monitors.items():
                    if monitor in ready:
                        self._take(monitor, name)
                self._look_at_keys()
                self._tell()
            except Exception:  # without this thread nothing would bound or cut connections any more
                logger.exception("watching connections failed; going on")
                time.sleep(AFTER_FAULT_S)
            self._rest()

    def _rest(self) -> None:
        """Leave Python to the loop for a moment, unless the next connections may be too many."""
        if max(self._counts["ipc"], self._counts["tcp"]) < self.limit // 2:
            time.sleep(REST_S)

    def _timeout(self) -> int | None:
        """Milliseconds until something is due; without keys nothing ever is."""
        return None if self._authority is None else int(1000 * LOOK_S)

    def _take(self, monitor: zmq.Socket[bytes], name: str) -> None:
        try:
            for number in itertools.count(1):
                kind, value = _EVENT.unpack(monitor.recv(zmq.NOBLOCK))
                endpoint = monitor.recv()
                if not number % EVENTS_IN_A_ROW:
                    time.sleep(0)  # who waits for Python gets it now, not after a switch interval
                if kind == zmq.EVENT_ACCEPTED:
                    self._accepted(value, _Place(name, endpoint[:3].decode("ascii", "replace")))
                elif kind == zmq.EVENT_DISCONNECTED:
                    self._gone(name, value)
                elif kind & _REFUSALS:
                    self._failed += 1
        except zmq.Again:
            return

    def _accepted(self, descriptor: int, new: _Place) -> None:
        self._open[new.socket, descriptor] = new
        self._counts[new] += 1
        self._counts[new.transport] += 1
        if self._counts[new.transport] > self.limit:
            self._refused += 1
            _cut(descriptor)

    def _gone(self, name: str, descriptor: int) -> None:
        old = self._open.pop((name, descriptor), None)
        if old is not None:
            self._counts[old] -= 1
            self._counts[old.transport] -= 1

    def _look_at_keys(self) -> None:
        authority = self._authority
        if authority is None:
            return
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            authority.refresh()
        if authority.take_lost():
            self._sweeps = [now, now + SWEEP_AGAIN_S]
        while self._sweeps and self._sweeps[0] <= now:
            self._sweeps.pop(0)
            for (_, descriptor), each in self._open.items():
                if each.transport == "tcp":
                    _cut(descriptor)

    def _tell(self) -> None:
        failed = self._failed - self._failed_logged
        if failed and self._clock() >= self._next_line:
            self._next_line = self._clock() + REFUSALS_LOGGED_S
            self._failed_logged = self._failed
            logger.warning("%d connections were not let in: no key, or one that is not known here", failed)


def _monitor(
    context: zmq.Context[zmq.Socket[bytes]], name: str, watched: zmq.Socket[bytes]
) -> zmq.Socket[bytes]:
    endpoint = f"inproc://connections.{name}"
    watched.monitor(endpoint, _EVENTS)
    monitor = context.socket(zmq.PAIR)
    monitor.rcvhwm = 0  # a full queue here would stop libzmq's own thread
    monitor.connect(endpoint)
    return monitor


def _cut(descriptor: int) -> None:
    """Shut a connection down, whichever has this number now; what is none is left alone.

    Without a duplicate of the descriptor: there may be none left.
    """
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:
        return
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    finally:
        connection.detach()  # it is libzmq's


def limit_for(descriptors: int, used: int, wanted: int) -> int:
    """Connections by each transport that so many descriptors allow, at most `wanted`.

    A quarter is kept back for files, and for those that are accepted before they can be cut: libzmq aborts
    the process where it finds no descriptor for a connection by ipc.
    """
    return max(1, min(wanted, (descriptors - max(32, descriptors // 4) - used) // 2))
