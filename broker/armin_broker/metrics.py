"""The metrics endpoint: figures for Prometheus over HTTP, in threads of its own.

Once a second the loop hands over what it can say; a scrape gets the last of that. So a scrape never asks
the loop anything, and one that stops half-way stops nobody.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any, Final, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from armin_broker.binding import is_loopback
from armin_broker.groups.coordinator import Coordinator
from armin_broker.logs import fields
from armin_broker.protocol import ADMIN
from armin_broker.statistics import Statistics

logger = logging.getLogger(__name__)

SCRAPES_MAX: Final = 8  # at a time; each has a thread and a descriptor
SCRAPE_S: Final = 10.0  # how long one may take, from the connection to the last byte
RETRY_S: Final = 0.1  # after a connection that could not be taken, for want of descriptors, say


class MetricsUnavailable(Exception):
    """The metrics endpoint cannot be bound, or what makes the figures is not installed."""


class Observed(Protocol):
    """What is asked once a second: the loop."""

    statistics: Statistics

    @property
    def groups(self) -> Coordinator:
        """The worker groups."""

    def hello(self, role: str) -> dict[str, Any]:
        """Who the engine is."""

    def stats(self) -> dict[str, Any]:
        """Counters and gauges."""

    def health(self) -> dict[str, Any]:
        """Whether it can do its work."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the loop said, at `at` (seconds, monotonic). The distributions: how many, by upper ends."""

    at: float
    hello: Mapping[str, Any]
    stats: Mapping[str, Any]
    health: Mapping[str, Any]
    groups: tuple[Mapping[str, Any], ...]
    commit_times: tuple[dict[int, int], int]  # and their sum, in microseconds
    group_sizes: tuple[dict[int, int], int]


class Metrics:
    """The endpoint; serves from its making until `close`.

    Raises MetricsUnavailable. `host` and `port`: where; port 0 takes a free one.
    """

    def __init__(self, host: str, port: int) -> None:
        self.latest: Figures | None = None
        self._server = _bound(host, port, lambda: self.latest)
        bound = self._server.server_address[1]
        logger.info("metrics", extra=fields(url=f"http://{host}:{bound}/metrics"))
        if not is_loopback(host):
            logger.warning("INSECURE: whoever reaches %s can read the metrics: they have no password", host)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def observe(self, loop: Observed) -> None:
        """Take over what the loop says now; called by the loop."""
        try:
            self.latest = _taken(loop)
        except Exception:  # figures must not stop the engine; their age shows it
            logger.exception("taking the figures for the metrics failed")

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


def _taken(loop: Observed) -> Figures:
    statistics = loop.statistics
    return Figures(
        time.monotonic(),
        loop.hello(ADMIN),
        loop.stats(),
        loop.health(),
        tuple(loop.groups.described(None)),
        (statistics.commit_times.counts(), statistics.commit_times.sum),
        (statistics.group_sizes.counts(), statistics.group_sizes.sum),
    )


def _bound(host: str, port: int, latest: Callable[[], Figures | None]) -> _Server:
    try:
        from armin_broker.exposition import application  # noqa: PLC0415 - of an extra that may be missing
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise MetricsUnavailable("--metrics needs an extra: pip install 'armin[metrics]'") from None
    try:
        server = _Server((host.strip("[]"), port), _Handler)
    except OSError as error:
        reason = error.strerror or error
        raise MetricsUnavailable(f"cannot bind the metrics endpoint {host}:{port}: {reason}") from None
    server.set_app(application(latest))
    return server


class _Handler(WSGIRequestHandler):
    def get_stderr(self) -> io.StringIO:
        """Where the library writes what goes wrong with a request: not into our log, line by line."""
        return io.StringIO()

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape a second is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._free = threading.BoundedSemaphore(SCRAPES_MAX)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # As of HTTPServer, which would ask the name service for our name and may wait long for it.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more; else it is hung up on."""
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One scrape, in its thread, cut off when its time is over."""
        end = threading.Timer(SCRAPE_S, _hang_up, (request,))
        end.daemon = True
        try:
            end.start()
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._free.release()

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(RETRY_S)  # it still waits, and would be tried again at once
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that hangs up or is too slow is no trouble of ours."""
        logger.debug("a scrape failed", exc_info=True)


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        request.shutdown(socket.SHUT_RDWR)
