"""The daemon: lock and recover, bind, serve, leave cleanly."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, Final

import zmq

from armin_broker.binding import (
    IO_THREADS,
    TCP_THREAD_NAME,
    BindFailed,
    InsecureRefused,
    NotPrivate,
    authority_for,
    bind,
    bound_files,
    make_directories,
    unlink,
)
from armin_broker.command_socket import CommandSocket
from armin_broker.config import Config
from armin_broker.connections import Connections, limit_for
from armin_broker.effects_socket import EffectsSocket
from armin_broker.keyring import KeysInvalid
from armin_broker.live_socket import LiveSocket
from armin_broker.logs import fields
from armin_broker.loop import Loop
from armin_broker.metrics import Metrics, MetricsUnavailable
from armin_broker.notify import Notifier
from armin_engine import (
    AlreadyOwned,
    Armin,
    CorruptDatabase,
    MemoryExceeded,
    NewerSchema,
    NotAnArminDatabase,
    OpenError,
)

logger = logging.getLogger(__name__)

LINGER_MS: Final = 1000  # how long the last replies and the goodbye may take to leave
CLOSE_MS: Final = 2000  # how long libzmq may take to clear away what has left
SWITCH_INTERVAL_S: Final = 0.0005  # a verification's thread gives way to the loop this soon
TCP_NICENESS: Final = 10
YOUNG_OBJECTS: Final = 50_000  # more than a group commit makes, so most are gone before any is looked at
FULL_COLLECTIONS: Final = 1_000_000  # collections of younger objects between two of all: next to never


# Each kind of start-up failure has its own exit code.
EXIT_CODES: Final[dict[type[Exception], int]] = {
    AlreadyOwned: 10,
    NotAnArminDatabase: 11,
    NewerSchema: 12,
    CorruptDatabase: 13,
    MemoryExceeded: 14,
    OpenError: 15,
    BindFailed: 16,
    KeysInvalid: 19,
    InsecureRefused: 22,
    NotPrivate: 23,
    MetricsUnavailable: 24,
}


def serve(
    config: Config,
    *,
    ready: Callable[[dict[str, dict[str, Any]]], None],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises OpenError or BindFailed if it cannot start.

    `ready` gets the endpoints once all sockets are bound; `progress` the facts recovered and in all.
    """
    notifier = Notifier.from_environment()
    notifier.opening()
    os.umask(0o077)  # the file, its lock and the sockets are the owner's alone
    make_directories(config)
    _raise_descriptor_limit()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(IO_THREADS)
    effects = EffectsSocket(context, config.effects_backlog, config.effects_backlog_bytes)
    commands, live = CommandSocket(context), LiveSocket(context)
    sockets = {"commands": commands.socket, "live": live.socket, "effects": effects.socket}
    _prefer_ipc()
    try:
        authority = commands.authority = authority_for(config, context)
        with (
            _signals(notifier.stopping) as wake,
            Armin(
                config.database,
                sink=effects,
                memory_budget=config.memory_budget,
                progress=_told(notifier, progress),
            ) as armin,
            _metrics(config) as observe,
        ):
            _spare_history_from_collection()
            limit = _connections_limit(config)
            with Connections(context, sockets, limit, authority) as connections:
                live.welcome(armin.identity.epoch)
                endpoints = bind(config, sockets, authority)
                bound = bound_files(endpoints)
                loop = Loop(
                    armin,
                    config,
                    commands,
                    live,
                    effects,
                    wake.descriptor,
                    endpoints,
                    alive=notifier.alive,
                    connections=connections,
                    observe=observe,
                )
                wake.stop = loop.stop
                armin.note("serving")
                _log_start(armin, endpoints)
                ready(endpoints)
                notifier.ready()
                if not wake.asked:
                    loop.run()
                logger.info("stopped", extra=fields(signal=wake.signal, position=armin.position))
            # Sockets before the lock: whoever takes the lock next must find the paths free.
            _close(context, LINGER_MS)
            unlink(bound)
    finally:
        _close(context, 0)


def _close(context: zmq.Context[zmq.Socket[bytes]], linger_ms: int) -> None:
    """Close every socket, and wait until all is sent or `linger_ms` are over.

    Now and then libzmq waits for ever here; the database must be closed and the process end all the same.
    """
    closer = threading.Thread(target=context.destroy, args=(linger_ms,), name="close", daemon=True)
    closer.start()
    closer.join((linger_ms + CLOSE_MS) / 1000)
    if closer.is_alive():
        logger.warning("the sockets did not close in time; going on without them")


def _told(notifier: Notifier, progress: Callable[[int, int], None] | None) -> Callable[[int, int], None]:
    def told(done: int, total: int) -> None:
        notifier.recovering(done, total)
        if progress is not None:
            progress(done, total)

    return told


# --- signals --------------------------------------------------------------------------------------


class _Wake:
    """What a signal does: remember it, stop the loop, make its poll return."""

    def __init__(self, descriptor: int, told: Callable[[], None]) -> None:
        self.descriptor = descriptor
        self._told = told
        self.asked = False
        self.signal: str | None = None
        self.stop: Callable[[], None] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.signal = signal.Signals(number).name
        self._told()
        if self.stop is not None:
            self.stop()
        else:
            raise SystemExit(128 + number)  # still recovering: there is nothing to finish


@contextlib.contextmanager
def _signals(told: Callable[[], None]) -> Iterator[_Wake]:
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    wake = _Wake(reader.fileno(), told)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, wake)
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        # The process is about to end: a second signal must not turn a clean end into a kill.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(previous)
        reader.close()
        writer.close()


# --- what is said of it ---------------------------------------------------------------------------


@contextlib.contextmanager
def _metrics(config: Config) -> Iterator[Callable[[Loop], None]]:
    """The metrics endpoint, if there is to be one; gives what the loop calls. Raises MetricsUnavailable."""
    if config.metrics_host is None:
        yield lambda loop: None
        return
    metrics = Metrics(config.metrics_host, config.metrics_port)
    try:
        yield metrics.observe
    finally:
        metrics.close()


def _log_start(armin: Armin, endpoints: dict[str, dict[str, Any]]) -> None:
    counters = armin.counters
    logger.info(
        "serving",
        extra=fields(
            version=metadata.version("armin"),
            pid=os.getpid(),
            path=str(armin.path),
            database=armin.identity.database,
            epoch=armin.identity.epoch,
            position=armin.position,
            recovered_facts=counters.recovered_facts,
            recovery_ms=counters.recovery_ns // 1_000_000,
            endpoints=endpoints,
        ),
    )


# --- the process ---------------------------------------------------------------------------------


def _spare_history_from_collection() -> None:
    """Let Python's garbage collector look at young objects alone.

    What history is made of has no cycles and stays; to look through all of it stopped the loop for 0.2 s at
    200,000 sessions, again and again. What errors leave behind in cycles is young.
    """
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, FULL_COLLECTIONS)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems say "infinite" and mean less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _prefer_ipc() -> None:
    """Let the loop and ipc go before what libzmq does for tcp where processors are short.

    There strangers may keep its thread busy for nothing. Only Linux has threads with a priority of their own.
    """
    for task in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().strip() == TCP_THREAD_NAME:
                os.setpriority(os.PRIO_PROCESS, int(task.name), TCP_NICENESS)


def _connections_limit(config: Config) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/dev/fd"))
    return limit_for(soft, used, config.connections_max)
