"""Telling the service manager how the engine stands: sd_notify(3), without libsystemd.

One datagram a message, to the Unix socket that NOTIFY_SOCKET names. Without that variable nothing is sent.
A manager that is gone, slow or refuses never disturbs the engine: the log says so once.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Final

from armin_broker import protocol

logger = logging.getLogger(__name__)

STATUS_PAUSE_S: Final = 0.5  # between two messages on how far recovery is
RECOVERY_SLACK_S: Final = 300  # a start that says nothing for so long has hung; slow disks need less


class Notifier:
    """The way to the service manager of this process."""

    def __init__(
        self, address: str | None, *, watched: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = address
        self._watched = watched
        self._clock = clock
        self._next_status = 0.0
        self._owes_ready = False  # READY=1 could not be delivered: without it the manager ends us
        self._complained = False

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Notifier:
        """As the service manager set it up; takes the variables away, so that no child speaks in our name."""
        address = environ.pop("NOTIFY_SOCKET", None)
        interval = environ.pop("WATCHDOG_USEC", "0")
        pid = environ.pop("WATCHDOG_PID", str(os.getpid()))
        watched = (
            pid == str(os.getpid()) and interval.isascii() and interval.isdecimal() and int(interval) > 0
        )
        if watched and int(interval) < 2000 * protocol.HEARTBEAT_MS:
            logger.warning("WatchdogSec should be %d ms or more", 2 * protocol.HEARTBEAT_MS)
        return cls(address or None, watched=watched)

    def recovering(self, done: int, total: int) -> None:
        """How many facts are recovered, of how many; and that the start may take longer than it was given."""
        now = self._clock()
        if self._address is not None and now >= self._next_status:
            self._next_status = now + STATUS_PAUSE_S
            self._send(f"STATUS=recovering, {done} of {total} facts", _extension())

    def opening(self) -> None:
        """The file is being opened, which may copy and upgrade it."""
        self._send("STATUS=opening", _extension())

    def ready(self) -> None:
        """All sockets are bound."""
        self._owes_ready = not self._send("READY=1", "STATUS=serving")

    def alive(self) -> None:
        """The loop turns; to be called more often than twice in the watchdog's interval."""
        if self._owes_ready:
            self.ready()
        if self._watched:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The end has begun. Safe in a signal handler: it does not wait."""
        self._owes_ready = False
        self._send("STOPPING=1", "STATUS=stopping")

    def _send(self, *assignments: str) -> bool:
        """Send one message without waiting; whether it went, or there is nobody to send it to."""
        if self._address is None:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
                datagrams.setblocking(False)
                datagrams.sendto("\n".join(assignments).encode(), _path(self._address))
        except OSError as error:
            if not self._complained:
                self._complained = True
                logger.warning("cannot notify the service manager at %s: %s", self._address, error)
            return False
        return True


def _extension() -> str:
    return f"EXTEND_TIMEOUT_USEC={RECOVERY_SLACK_S * 1_000_000}"


def _path(address: str) -> str:
    """The socket's name for the kernel: an abstract one is written with an @ for its NUL."""
    return "\0" + address[1:] if address.startswith("@") else address
